//! Bytes under way to one destination, counted over many groups.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Payload bytes of the appends under way to one destination, of all nodes that were given this meter for a peer there
/// ([`crate::RawNode::set_meter`]), with a limit.
///
/// It tells when there is no room; who comes next when there is some again is the owner's to decide.
///
/// Invariant: the count is the sum over the windows that hold the meter.
#[derive(Debug)]
pub struct Meter {
    bytes: AtomicU64,
    bytes_max: u64,
    is_reserved: AtomicBool,
}

impl Meter {
    /// A meter at nothing, with room for `bytes_max` bytes; one append may overshoot.
    pub fn new(bytes_max: u64) -> Self {
        Self { bytes: AtomicU64::new(0), bytes_max, is_reserved: AtomicBool::new(false) }
    }

    /// Bytes under way.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Whether the limit is reached.
    pub fn is_full(&self) -> bool {
        self.bytes() >= self.bytes_max
    }

    /// While reserved, room is for those that wait for it: to nodes that send of their own accord the meter counts as full.
    /// To be lifted for the time of a [`crate::RawNode::resume`].
    pub fn reserve(&self, is_reserved: bool) {
        self.is_reserved.store(is_reserved, Relaxed);
    }

    /// Whether no append with entries may be sent.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_full() || self.is_reserved.load(Relaxed)
    }

    pub(super) fn charge(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    pub(super) fn give_back(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Relaxed);
        assert!(before >= bytes, "more bytes came back to a meter than were under way");
    }
}
