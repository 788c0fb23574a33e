//! The window of appends that a peer has not acknowledged yet.

use std::collections::VecDeque;

use crate::types::Index;

/// Appends under way to one peer, oldest first, bounded by number and by bytes.
///
/// The buffer is allocated by the first append and given back by [`Self::reset`] and [`Self::release_if_empty`],
/// so that idle peers cost nothing.
///
/// Invariant: indexes ascend; the bytes are the sum over the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inflights {
    window: Option<Box<Window>>,
    bytes_max: u64,
    count_max: u32,
}

/// Last index and payload bytes of each append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Window {
    appends: VecDeque<(Index, u64)>,
    bytes: u64,
}

impl Inflights {
    /// An empty window of at most `count_max` appends (0 = none at all) and `bytes_max` bytes (0 = no limit).
    pub fn new(count_max: usize, bytes_max: u64) -> Self {
        Self { window: None, bytes_max, count_max: u32::try_from(count_max).unwrap_or(u32::MAX) }
    }

    /// Number of unacknowledged appends.
    pub fn len(&self) -> usize {
        self.window.as_ref().map_or(0, |window| window.appends.len())
    }

    /// Whether everything is acknowledged.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Payload bytes under way.
    pub fn bytes(&self) -> u64 {
        self.window.as_ref().map_or(0, |window| window.bytes)
    }

    /// Whether no further append may be sent. One append may overshoot the byte limit.
    pub fn is_full(&self) -> bool {
        self.len() >= self.count_max as usize || (self.bytes_max != 0 && self.bytes() >= self.bytes_max)
    }

    /// Records an append whose last entry is `last` and whose payload is `bytes` bytes.
    ///
    /// # Panics
    /// If the window is full: the caller must check first.
    pub fn add(&mut self, last: Index, bytes: u64) {
        assert!(!self.is_full(), "an append was sent beyond the inflight window");
        let window = self.window.get_or_insert_default();
        let ascends = window.appends.back().is_none_or(|&(back, _)| back <= last);
        debug_assert!(ascends, "inflight indexes must ascend");
        window.appends.push_back((last, bytes));
        window.bytes += bytes;
    }

    /// Forgets all appends up to and including `index`.
    pub fn free_to(&mut self, index: Index) {
        let Some(window) = &mut self.window else { return };
        while let Some(&(last, bytes)) = window.appends.front() {
            if last > index {
                break;
            }
            window.appends.pop_front();
            window.bytes -= bytes;
        }
    }

    /// Forgets everything and gives the buffer back.
    pub fn reset(&mut self) {
        self.window = None;
    }

    /// Gives the buffer back if nothing is under way.
    pub fn release_if_empty(&mut self) {
        if self.is_empty() {
            self.window = None;
        }
    }

    /// Changes the number of appends allowed; 0 stops replication to the peer. Appends under way stay counted.
    pub fn set_count_max(&mut self, count_max: usize) {
        self.count_max = u32::try_from(count_max).unwrap_or(u32::MAX);
    }

    /// Whether a buffer is held.
    pub fn has_buffer(&self) -> bool {
        self.window.is_some()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(count_max: usize, bytes_max: u64, appends: &[(u64, u64)]) -> Inflights {
        let mut window = Inflights::new(count_max, bytes_max);
        for &(index, bytes) in appends {
            window.add(Index(index), bytes);
        }
        window
    }

    #[test]
    fn the_window_fills_by_count() {
        let window = filled(2, 0, &[(1, 10), (2, 10)]);
        assert!(window.is_full());
        assert_eq!((window.len(), window.bytes()), (2, 20));
    }

    #[test]
    fn the_window_fills_by_bytes_and_the_last_append_may_overshoot() {
        let mut window = filled(10, 100, &[(1, 99)]);
        assert!(!window.is_full());
        window.add(Index(2), 500);
        assert!(window.is_full());
        window.free_to(Index(1));
        assert!(window.is_full(), "the large append is still under way");
        window.free_to(Index(2));
        assert!(!window.is_full());
    }

    #[test]
    #[should_panic(expected = "beyond the inflight window")]
    fn adding_to_a_full_window_is_a_bug() {
        filled(1, 0, &[(1, 1), (2, 1)]);
    }

    #[test]
    fn an_acknowledgement_frees_everything_before_it() {
        let mut window = filled(10, 0, &[(1, 1), (2, 2), (5, 3), (9, 4)]);
        window.free_to(Index(0));
        assert_eq!(window.len(), 4);
        window.free_to(Index(5));
        assert_eq!((window.len(), window.bytes()), (1, 4));
        window.free_to(Index(100));
        assert!(window.is_empty());
        assert!(window.has_buffer(), "kept for the next append");
        window.release_if_empty();
        assert!(!window.has_buffer());
    }

    #[test]
    fn the_buffer_is_allocated_by_the_first_append_and_freed_by_reset() {
        let mut window = Inflights::new(256, 0);
        assert!(!window.has_buffer());
        window.add(Index(1), 1);
        assert!(window.has_buffer());
        window.release_if_empty();
        assert!(window.has_buffer(), "still in use");
        window.reset();
        assert!(!window.has_buffer());
        assert_eq!(window.bytes(), 0);
    }

    #[test]
    fn capacity_changes_take_effect_at_once_and_zero_stops() {
        let mut window = filled(4, 0, &[(1, 1), (2, 1), (3, 1)]);
        assert!(!window.is_full());
        window.set_count_max(2);
        assert!(window.is_full());
        window.free_to(Index(2));
        assert!(!window.is_full());
        window.set_count_max(0);
        assert!(window.is_full());
        window.reset();
        assert!(window.is_full(), "even when empty");
        window.set_count_max(1);
        assert!(!window.is_full());
    }

    proptest! {
        #[test]
        fn behaves_like_a_plain_list(
            count_max in 1usize..6,
            bytes_max in 0u64..40,
            ops in prop::collection::vec((any::<bool>(), 0u64..12), 0..60),
        ) {
            let mut window = Inflights::new(count_max, bytes_max);
            let mut model: Vec<(u64, u64)> = Vec::new();
            let mut next = 1;
            for (is_add, value) in ops {
                if is_add && !window.is_full() {
                    window.add(Index(next), value);
                    model.push((next, value));
                    next += 1;
                } else {
                    let upto = next.saturating_sub(value);
                    window.free_to(Index(upto));
                    model.retain(|&(index, _)| index > upto);
                }
                let bytes: u64 = model.iter().map(|&(_, bytes)| bytes).sum();
                prop_assert_eq!(window.len(), model.len());
                prop_assert_eq!(window.bytes(), bytes);
                let full = model.len() >= count_max || (bytes_max != 0 && bytes >= bytes_max);
                prop_assert_eq!(window.is_full(), full);
            }
        }
    }
}
