//! Whether a node was touched since it was last seen to have nothing to do.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A value that remembers whether it may have changed. Whoever borrows it mutably touches it.
#[derive(Debug)]
pub(super) struct Watched<T> {
    /// Since it was last at rest. Told by those who only look, hence atomic; no order with anything else matters.
    is_touched: AtomicBool,
    /// Since the last [`Self::take_used`].
    is_used: bool,
    value: T,
}

impl<T> Watched<T> {
    /// A value that counts as touched.
    pub fn new(value: T) -> Self {
        Self { is_touched: AtomicBool::new(true), is_used: true, value }
    }

    /// The value alone.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// Whether it was borrowed mutably since [`Self::rest`].
    pub fn is_touched(&self) -> bool {
        self.is_touched.load(Relaxed)
    }

    /// Nothing is to be done about what it is now.
    pub fn rest(&self) {
        self.is_touched.store(false, Relaxed);
    }

    /// Whether it was borrowed mutably since this was last asked.
    pub fn take_used(&mut self) -> bool {
        std::mem::take(&mut self.is_used)
    }

    /// Calls `change`, which tells whether it touched the value.
    pub fn maybe_touch(&mut self, change: impl FnOnce(&mut T) -> bool) {
        if change(&mut self.value) {
            self.touch();
        }
    }

    fn touch(&mut self) {
        *self.is_touched.get_mut() = true;
        self.is_used = true;
    }
}

impl<T> Deref for Watched<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Watched<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.touch();
        &mut self.value
    }
}
