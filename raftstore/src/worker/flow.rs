//! What is under way to each other store, over all regions of a raft worker, and whose turn it is when there is room.
//!
//! The core holds a region's entries back while the meter of the destination is full. The region then waits here, and is
//! resumed in turn, an append at a time, as acknowledgements make room; until nobody waits any more, nobody sends
//! entries there out of turn. (CockroachDB's flow tokens per destination store; a meter for each worker, so that who waits
//! and what makes room have one owner.)
//!
//! Invariant: a leader whose entries to a store are held back waits there when the turn ends.
//! Invariant: a meter is reserved while somebody waits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use flotilla_raft::Meter;
use flotilla_region::{RegionId, StoreId};

use super::RaftWorker;
use crate::config::StoreConfig;

/// Appends to one store that are sent in one turn of the worker, at most, by regions that waited.
const RESUME_MAX: usize = 256;

/// The meters of a raft worker, and who waits for them.
pub(crate) struct Flow {
    /// Bytes under way to one store; 0 = no limit, and no meters.
    bytes_max: u64,
    lanes: BTreeMap<StoreId, Lane>,
}

/// The way to one store.
struct Lane {
    meter: Arc<Meter>,
    /// In the order in which they were held back.
    waiting: VecDeque<RegionId>,
    /// The same regions.
    queued: BTreeSet<RegionId>,
}

impl Flow {
    /// Without meters. Each of the store's workers has the same share of the limit.
    pub(crate) fn new(config: &StoreConfig) -> Self {
        let bytes_max = match config.store_inflight_bytes_max {
            0 => 0,
            bytes => (bytes / config.raft_workers as u64).max(1),
        };
        Self { bytes_max, lanes: BTreeMap::new() }
    }

    /// The meter of a store, if there is a limit; `made` hears of a new one.
    pub(crate) fn meter(&mut self, store: StoreId, made: impl FnOnce(&Arc<Meter>)) -> Option<Arc<Meter>> {
        if self.bytes_max == 0 {
            return None;
        }
        let lane = self.lanes.entry(store).or_insert_with(|| {
            let meter = Arc::new(Meter::new(self.bytes_max));
            made(&meter);
            Lane { meter, waiting: VecDeque::new(), queued: BTreeSet::new() }
        });
        Some(lane.meter.clone())
    }

    /// A region's entries to a store were held back: it waits for its turn. False if it does already.
    pub(crate) fn wait(&mut self, store: StoreId, region: RegionId) -> bool {
        let Some(lane) = self.lanes.get_mut(&store).filter(|lane| !lane.queued.contains(&region)) else {
            return false;
        };
        lane.queued.insert(region);
        lane.waiting.push_back(region);
        lane.meter.reserve(true);
        true
    }

    /// The next region that may send to a store, if there is room. The meter is open to it until [`Self::close`].
    fn open(&mut self, store: StoreId) -> Option<RegionId> {
        let lane = self.lanes.get_mut(&store).filter(|lane| !lane.meter.is_full())?;
        let region = lane.waiting.pop_front()?;
        lane.queued.remove(&region);
        lane.meter.reserve(false);
        Some(region)
    }

    /// A turn is over; who must wait again was told before.
    fn close(&mut self, store: StoreId) {
        if let Some(lane) = self.lanes.get(&store) {
            lane.meter.reserve(!lane.waiting.is_empty());
        }
    }

    /// Whether somebody waits for a store to which there is room.
    pub(super) fn has_turns(&self) -> bool {
        self.lanes.values().any(|lane| !lane.waiting.is_empty() && !lane.meter.is_full())
    }

    /// Number of regions that wait, counted for each store.
    pub(super) fn waiting(&self) -> usize {
        self.lanes.values().map(|lane| lane.waiting.len()).sum()
    }
}

impl RaftWorker {
    /// Resumes those that wait for room to a store and now have it.
    pub(super) fn resume_in_turn(&mut self) {
        if !self.env.flow.has_turns() {
            return;
        }
        let stores: Vec<StoreId> = self.env.flow.lanes.keys().copied().collect();
        for store in stores {
            for _ in 0..RESUME_MAX {
                let Some(region) = self.env.flow.open(store) else { break };
                if let Some(peer) = self.peers.get(&region) {
                    if peer.resume(store) {
                        self.env.flow.wait(store, region);
                    }
                    peer.touch(&mut self.touched);
                }
                self.env.flow.close(store);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: StoreId = StoreId(7);
    const OTHER: StoreId = StoreId(8);

    fn flow(bytes_max: u64, workers: usize) -> Flow {
        let config = StoreConfig {
            store_inflight_bytes_max: bytes_max,
            raft_workers: workers,
            ..StoreConfig::default()
        };
        Flow::new(&config)
    }

    #[test]
    fn workers_share_the_limit_and_without_one_there_are_no_meters() {
        let made = std::cell::Cell::new(0);
        let count = |_: &Arc<Meter>| made.set(made.get() + 1);
        assert!(flow(0, 2).meter(SLOW, count).is_none());
        let mut flow = flow(1, 3);
        let meter = flow.meter(SLOW, count).expect("limited");
        assert!(Arc::ptr_eq(&meter, &flow.meter(SLOW, count).expect("limited")));
        assert!(!Arc::ptr_eq(&meter, &flow.meter(OTHER, count).expect("limited")));
        assert_eq!(made.get(), 2);
        assert!(!meter.is_full(), "a byte for each worker at least");
    }

    #[test]
    fn regions_wait_in_turn_each_once_and_for_one_store() {
        let mut flow = flow(100, 1);
        for store in [SLOW, OTHER] {
            flow.meter(store, |_| {});
        }
        assert!(flow.wait(SLOW, RegionId(5)));
        assert!(flow.wait(SLOW, RegionId(3)));
        assert!(!flow.wait(SLOW, RegionId(5)));
        assert_eq!((flow.open(OTHER), flow.waiting(), flow.has_turns()), (None, 2, true));
        assert_eq!(flow.open(SLOW), Some(RegionId(5)));
        assert!(flow.wait(SLOW, RegionId(5)), "it has more to send");
        flow.close(SLOW);
        assert_eq!(flow.open(SLOW), Some(RegionId(3)));
        assert_eq!(flow.open(SLOW), Some(RegionId(5)));
        assert_eq!((flow.open(SLOW), flow.has_turns()), (None, false));
    }
}
