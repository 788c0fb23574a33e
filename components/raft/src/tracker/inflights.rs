//! The window of appends that a peer has not acknowledged yet.

use std::collections::VecDeque;
use std::sync::Arc;

use super::meter::Meter;
use crate::types::Index;

/// Appends under way to one peer, oldest first, bounded by number and by bytes.
///
/// The buffer is allocated by the first append and given back by [`Self::reset`] and [`Self::release_if_empty`],
/// so that idle peers cost nothing.
///
/// A copy is without the meter: what is under way is counted once.
///
/// Invariant: indexes ascend; the bytes are the sum over the window; the meter, if there is one, counts them.
#[derive(Debug)]
pub struct Inflights {
    window: Option<Box<Window>>,
    meter: Option<Arc<Meter>>,
    /// Four bytes, for there is one in every peer's record of every peer.
    bytes_max: u32,
    count_max: u32,
}

/// Last index and payload bytes of each append.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Window {
    appends: VecDeque<(Index, u64)>,
    bytes: u64,
}

impl Inflights {
    /// An empty window of at most `count_max` appends (0 = none at all) and `bytes_max` bytes (0 = no limit; 4 GiB and more
    /// count as just below).
    pub fn new(count_max: usize, bytes_max: u64) -> Self {
        Self {
            window: None,
            meter: None,
            bytes_max: u32::try_from(bytes_max).unwrap_or(u32::MAX),
            count_max: u32::try_from(count_max).unwrap_or(u32::MAX),
        }
    }

    /// Has `meter` count what is under way, in place of the one before.
    pub fn set_meter(&mut self, meter: Option<Arc<Meter>>) {
        let bytes = self.bytes();
        if let Some(meter) = &meter {
            meter.charge(bytes);
        }
        if let Some(before) = std::mem::replace(&mut self.meter, meter) {
            before.give_back(bytes);
        }
    }

    /// Takes over the meter of the window that this one was copied from.
    pub(crate) fn take_meter(&mut self, from: &mut Self) {
        let meter = from.meter.clone();
        from.set_meter(None);
        self.set_meter(meter);
    }

    /// The meter that counts what is under way.
    pub fn meter(&self) -> Option<&Arc<Meter>> {
        self.meter.as_ref()
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
        self.len() >= self.count_max as usize
            || (self.bytes_max != 0 && self.bytes() >= u64::from(self.bytes_max))
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
        if let Some(meter) = &self.meter {
            meter.charge(bytes);
        }
    }

    /// Forgets all appends up to and including `index`.
    pub fn free_to(&mut self, index: Index) {
        let Some(window) = &mut self.window else { return };
        let before = window.bytes;
        while let Some(&(last, bytes)) = window.appends.front() {
            if last > index {
                break;
            }
            window.appends.pop_front();
            window.bytes -= bytes;
        }
        let freed = before - window.bytes;
        if let Some(meter) = self.meter.as_ref().filter(|_| freed > 0) {
            meter.give_back(freed);
        }
    }

    /// Forgets everything and gives the buffer back. The meter stays.
    pub fn reset(&mut self) {
        if let Some(window) = self.window.take()
            && let Some(meter) = &self.meter
        {
            meter.give_back(window.bytes);
        }
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

impl Drop for Inflights {
    fn drop(&mut self) {
        self.reset();
    }
}

impl Clone for Inflights {
    fn clone(&self) -> Self {
        Self {
            window: self.window.clone(),
            meter: None,
            bytes_max: self.bytes_max,
            count_max: self.count_max,
        }
    }
}

/// By what is under way and the window's limits.
impl PartialEq for Inflights {
    fn eq(&self, other: &Self) -> bool {
        let limits = |it: &Self| (it.bytes_max, it.count_max);
        self.window == other.window && limits(self) == limits(other)
    }
}

impl Eq for Inflights {}

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

    #[test]
    fn a_meter_counts_windows_and_not_their_copies() {
        let meter = Arc::new(Meter::new(100));
        let [mut one, mut two] = [filled(10, 0, &[(1, 10), (2, 20)]), filled(10, 0, &[(7, 5)])];
        one.set_meter(Some(meter.clone()));
        two.set_meter(Some(meter.clone()));
        assert_eq!(meter.bytes(), 35, "what was under way before counts");
        let mut copy = one.clone();
        assert!(copy == one && copy.meter().is_none());
        assert_eq!(meter.bytes(), 35);
        copy.take_meter(&mut one);
        assert_eq!((meter.bytes(), one.meter().is_none()), (35, true));
        drop(one);
        assert_eq!(meter.bytes(), 35);
        copy.free_to(Index(1));
        two.add(Index(8), 70);
        assert_eq!(meter.bytes(), 95);
        assert!(!meter.is_full());
        copy.add(Index(9), 50);
        assert!(meter.is_full());
        two.reset();
        assert_eq!((meter.bytes(), two.meter().is_some()), (70, true));
        two.set_meter(None);
        drop(copy);
        assert_eq!((meter.bytes(), Arc::strong_count(&meter)), (0, 1));
    }

    proptest! {
        #[test]
        fn behaves_like_a_plain_list(
            count_max in 1usize..6,
            bytes_max in 0u64..40,
            ops in prop::collection::vec((any::<bool>(), 0u64..12), 0..60),
        ) {
            let meter = Arc::new(Meter::new(1));
            let mut window = Inflights::new(count_max, bytes_max);
            window.set_meter(Some(meter.clone()));
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
                prop_assert_eq!(meter.bytes(), bytes);
                let full = model.len() >= count_max || (bytes_max != 0 && bytes >= bytes_max);
                prop_assert_eq!(window.is_full(), full);
            }
        }
    }
}
