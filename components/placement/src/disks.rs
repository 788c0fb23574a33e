//! Slow disks. A commit needs the disks of a quorum only, so that a slow one holds nobody up, but for those whose leader
//! sits on it: such a store gives its leaderships away and gets none, until its disk has been as fast as others for some
//! time. (TiKV: `evict-slow-store-scheduler`, by a score of its own; here stores are compared with each other.)

use crate::{PlacementConfig, StoreHealth, StoreInfo, StoreState};

/// A disk is slow that takes so many times as long as the middle one of the others.
const SLOW_TIMES: u64 = 4;
/// And as fast as others again when it takes no more than so many times as long.
const WELL_TIMES: u64 = 2;
/// How long it must have been slow.
const SLOW_WAIT_MS: u64 = 15_000;
/// How long it must have been well, or have had nothing to do.
const WELL_WAIT_MS: u64 = 60_000;

/// What is thought of a store's disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Whether the store shall lead nothing.
    pub is_slow: bool,
    /// Since when measurements speak for the opposite, ms.
    doubted_since_ms: Option<u64>,
}

impl Disk {
    /// Takes a measurement into account. Returns whether the judgement has changed.
    fn judge(&mut self, speaks_against: bool, now_ms: u64) -> bool {
        if !speaks_against {
            self.doubted_since_ms = None;
            return false;
        }
        let since_ms = *self.doubted_since_ms.get_or_insert(now_ms);
        let wait_ms = if self.is_slow { WELL_WAIT_MS } else { SLOW_WAIT_MS };
        let is_over = now_ms.saturating_sub(since_ms) >= wait_ms;
        if is_over {
            *self = Self { is_slow: !self.is_slow, doubted_since_ms: None };
        }
        is_over
    }
}

/// Judges the disks of all stores by their last heartbeats. Returns whether a judgement has changed.
pub(crate) fn judge<'a>(
    stores: impl Iterator<Item = (&'a mut StoreInfo, StoreHealth)>,
    config: &PlacementConfig,
    now_ms: u64,
) -> bool {
    let mut serving: Vec<&mut StoreInfo> = stores
        .filter(|(info, health)| *health == StoreHealth::Live && info.record.state == StoreState::Up)
        .map(|(info, _)| info)
        .collect();
    let measured: Vec<u64> = serving.iter().map(|info| info.stats.log_sync_us).collect();
    let mut has_changed = false;
    for (n, info) in serving.iter_mut().enumerate() {
        let own = measured[n];
        let mut others: Vec<u64> =
            measured.iter().enumerate().filter(|(m, us)| *m != n && **us > 0).map(|(_, us)| *us).collect();
        others.sort_unstable();
        // The slower one of two in the middle: where half of all are slow, none is.
        let middle = others.get(others.len() / 2).copied().unwrap_or(u64::MAX);
        let exceeds = |times: u64| {
            config.slow_disk_us > 0 && own >= config.slow_disk_us && own / times >= middle.max(1)
        };
        let speaks_against = if info.disk.is_slow { !exceeds(WELL_TIMES) } else { exceeds(SLOW_TIMES) };
        has_changed |= info.disk.judge(speaks_against, now_ms);
    }
    has_changed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreStats;

    struct World {
        stores: Vec<StoreInfo>,
        config: PlacementConfig,
        now_ms: u64,
    }

    impl World {
        fn new(count: usize) -> Self {
            Self { stores: vec![StoreInfo::default(); count], config: PlacementConfig::default(), now_ms: 0 }
        }

        /// Stores whose disks are slow after so many seconds with these measurements, in ms.
        fn slow_after(&mut self, seconds: u64, log_sync_ms: &[u64]) -> Vec<usize> {
            for (info, ms) in self.stores.iter_mut().zip(log_sync_ms) {
                info.stats = StoreStats { log_sync_us: ms * 1_000, ..StoreStats::default() };
            }
            for _ in 0..seconds {
                self.now_ms += 1_000;
                judge(
                    self.stores.iter_mut().map(|info| (info, StoreHealth::Live)),
                    &self.config,
                    self.now_ms,
                );
            }
            (0..self.stores.len()).filter(|n| self.stores[*n].disk.is_slow).collect()
        }
    }

    #[test]
    fn a_disk_is_slow_if_it_is_much_slower_than_the_others_for_some_time() {
        let mut world = World::new(3);
        assert!(world.slow_after(300, &[3, 1, 1]).is_empty(), "too fast to be slow");
        assert!(world.slow_after(300, &[20, 9, 8]).is_empty(), "they are all slow");
        assert!(world.slow_after(300, &[20, 20, 1]).is_empty(), "two of three");
        assert!(world.slow_after(10, &[20, 1, 1]).is_empty(), "not for long");
        assert!(world.slow_after(1, &[1, 1, 1]).is_empty());
        assert!(world.slow_after(14, &[20, 1, 1]).is_empty());
        assert_eq!(world.slow_after(5, &[20, 1, 1]), [0]);
    }

    #[test]
    fn it_is_well_when_it_has_been_as_fast_as_others_for_longer() {
        let mut world = World::new(3);
        assert_eq!(world.slow_after(20, &[40, 2, 2]), [0]);
        assert_eq!(world.slow_after(300, &[7, 2, 2]), [0], "three times as slow");
        assert_eq!(world.slow_after(50, &[2, 2, 2]), [0]);
        assert_eq!(world.slow_after(1, &[40, 2, 2]), [0]);
        assert_eq!(world.slow_after(50, &[0, 2, 2]), [0], "nothing to do");
        assert!(world.slow_after(20, &[0, 2, 2]).is_empty());
    }

    #[test]
    fn one_of_two_is_told_from_the_other_and_a_single_one_is_never_slow() {
        assert_eq!(World::new(2).slow_after(60, &[40, 1]), [0]);
        assert!(World::new(1).slow_after(60, &[40]).is_empty());
        assert!(World::new(2).slow_after(60, &[40, 0]).is_empty(), "nothing to compare with");
        let mut off = World::new(3);
        off.config.slow_disk_us = 0;
        assert!(off.slow_after(60, &[40, 1, 1]).is_empty());
    }
}
