//! Bugs made on purpose, for the simulator to find: never in a product build, where `planted!` is `false`.

#[cfg(feature = "planted")]
pub use on_purpose::{Bug, plant};

/// Whether the simulator planted this bug in the placement that the thread runs.
#[cfg(feature = "planted")]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::has($crate::planted::Bug::$bug)
    };
}

/// No bug is ever planted in a product build.
#[cfg(not(feature = "planted"))]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}

/// Whether a bug is planted.
#[cfg(feature = "planted")]
pub(crate) fn has(bug: Bug) -> bool {
    on_purpose::is_planted(bug)
}

#[cfg(feature = "planted")]
mod on_purpose {
    use std::cell::Cell;

    /// What may be wrong.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Bug {
        /// Now and then an id is handed out a second time.
        IdTwice,
    }

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug in everything that this thread runs, or pulls it out again.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(super) fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}
