//! Writing applied positions; [`crate::positions`] says how they are read.

use flotilla_region::{DenseMap, RegionId, keys};

use super::Round;
use super::applier::Applier;
use crate::positions::Position;

/// Up to so many regions in a round get their own records: a list, which goes to two places, is no fewer insertions.
const OWN_MAX: usize = 2;
/// The ring begins anew when its lists name each region so often on average, so that own records are a small part of
/// what is written; and not before they name `NAMED_MIN`.
const NAMED_PER_REGION: usize = 8;
const NAMED_MIN: usize = 1_024;

/// The lists of one worker.
pub(super) struct Ring {
    worker: u16,
    slots: u16,
    /// Slot of the next list.
    next: u16,
    /// Positions in the lists since the ring began.
    named: usize,
    /// Regions in the lists since the ring began, some of them gone since.
    regions: Vec<RegionId>,
}

impl Ring {
    pub(super) fn new(worker: usize, slots: u16) -> Self {
        Self { worker: worker as u16, slots, next: 0, named: 0, regions: Vec::new() }
    }

    /// Adds the round's positions to its batch. Regions that are gone, or going, have none any more.
    pub(super) fn stage(&mut self, round: &mut Round, appliers: &mut DenseMap<RegionId, Applier>) {
        let Round { positions, batch, .. } = round;
        positions.retain(|Position { region, peer, at }| {
            let Some(applier) = appliers.get(region).filter(|a| a.peer == *peer && !a.is_retired) else {
                return false;
            };
            if applier.is_removed {
                batch.put(&keys::apply_state(*region), &at.encode());
            }
            !applier.is_removed
        });
        if positions.len() <= OWN_MAX {
            for Position { region, at, .. } in positions.drain(..) {
                batch.put(&keys::apply_state(region), &at.encode());
            }
            return;
        }
        for Position { region, .. } in &*positions {
            if let Some(applier) = appliers.get_mut(region).filter(|a| !a.is_in_ring) {
                applier.is_in_ring = true;
                self.regions.push(*region);
            }
        }
        let list = Position::encode(positions);
        for place in keys::positions(self.worker, self.next) {
            batch.put(&place, &list);
        }
        self.next += 1;
        self.named += positions.len();
        positions.clear();
        let is_worn = self.named >= NAMED_MIN.max(NAMED_PER_REGION * self.regions.len());
        if is_worn || self.next >= self.slots {
            self.begin_anew(round, appliers);
        }
    }

    /// Gives each region its own record, in the batch of the last list: nothing of the lists is needed then.
    fn begin_anew(&mut self, round: &mut Round, appliers: &mut DenseMap<RegionId, Applier>) {
        (self.next, self.named) = (0, 0);
        for region in self.regions.drain(..) {
            if let Some(applier) = appliers.get_mut(&region)
                && !planted!(PositionsForgotten)
            {
                settle(round, applier);
            }
        }
    }
}

/// Gives a region its own record, if the worker's lists are ahead of that. Everything that it has applied is in the
/// round's batch or was written before.
pub(super) fn settle(round: &mut Round, applier: &mut Applier) {
    let region = applier.region.id;
    let staged = round.positions.len();
    round.positions.retain(|position| position.region != region);
    if std::mem::take(&mut applier.is_in_ring) || round.positions.len() < staged {
        round.batch.put(&keys::apply_state(region), &applier.applied.encode());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flotilla_engine::{Engine, MemEngine, WriteBatch};
    use flotilla_region::{Index, PeerId, Region, Term};

    use super::*;
    use crate::msg::Incarnation;
    use crate::positions;
    use crate::state::LogId;

    const REGIONS: u64 = 5;

    fn at(index: u64) -> LogId {
        LogId { index: Index(index), term: Term(1) }
    }

    fn peer(region: u64) -> PeerId {
        PeerId(region + 100)
    }

    /// A worker's regions, with the engine that its rounds go to.
    struct Bench {
        engine: Arc<MemEngine>,
        ring: Ring,
        appliers: DenseMap<RegionId, Applier>,
    }

    impl Bench {
        fn new(slots: u16) -> Self {
            let (engine, mut batch) = (MemEngine::new(1), WriteBatch::new());
            let mut appliers = DenseMap::new();
            for id in 1..=REGIONS {
                let region = Arc::new(Region { id: RegionId(id), ..Region::default() });
                batch.put(&keys::apply_state(region.id), &at(5).encode());
                let applier = Applier::new(region.clone(), peer(id), Incarnation::default(), at(5), None);
                appliers.insert(region.id, applier);
            }
            engine.write(&batch).expect("written");
            Self { engine, ring: Ring::new(3, slots), appliers }
        }

        /// A round in which each of these regions gets one position further.
        fn round(&mut self, regions: impl IntoIterator<Item = u64>) {
            let mut round = Round::default();
            for id in regions {
                let applier = self.appliers.get_mut(&RegionId(id)).expect("a region");
                applier.applied = at(applier.applied.index.0 + 1);
                round.positions.push(Position { region: RegionId(id), peer: peer(id), at: applier.applied });
            }
            self.ring.stage(&mut round, &mut self.appliers);
            self.engine.write(&round.batch).expect("written");
        }

        fn stored(&self, id: u64) -> LogId {
            let read = positions::applied(&*self.engine.snapshot(), RegionId(id), peer(id));
            read.expect("readable").expect("has one")
        }

        fn own(&self, id: u64) -> LogId {
            let stored = self.engine.get(&keys::apply_state(RegionId(id))).expect("readable");
            stored.and_then(LogId::decode).expect("has one")
        }
    }

    #[test]
    fn what_is_read_is_what_was_applied_however_often_the_ring_begins_anew() {
        for slots in [1, 2, 7, 4_096] {
            let mut bench = Bench::new(slots);
            for step in 0..2_000_u64 {
                let regions = (1..=REGIONS).filter(|id| (step * 7 + id * id) % 5 < 3 || step % 11 == *id);
                bench.round(regions);
                if step % 97 == 0 || step > 1_950 {
                    for id in 1..=REGIONS {
                        assert_eq!(bench.stored(id), bench.appliers[&RegionId(id)].applied, "{slots} {step}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_large_round_writes_a_list_and_a_small_one_the_regions_own_records() {
        let mut bench = Bench::new(100);
        bench.round(1..=REGIONS);
        assert_eq!((bench.own(1), bench.stored(1)), (at(5), at(6)));
        bench.round([1, 2]);
        assert_eq!((bench.own(1), bench.stored(1)), (at(7), at(7)));
        assert_eq!((bench.own(3), bench.stored(3)), (at(5), at(6)));
    }

    #[test]
    fn another_peer_of_the_region_is_not_meant() {
        let mut bench = Bench::new(100);
        bench.round(1..=REGIONS);
        let read = positions::applied(&*bench.engine.snapshot(), RegionId(1), PeerId(7));
        assert_eq!(read.expect("readable"), Some(at(5)));
    }

    #[test]
    fn regions_that_go_leave_with_their_own_record_and_are_not_written_again() {
        let mut bench = Bench::new(3);
        bench.round(1..=REGIONS);
        let mut round = Round::default();
        let leaving = bench.appliers.get_mut(&RegionId(2)).expect("a region");
        settle(&mut round, leaving);
        leaving.is_retired = true;
        bench.engine.write(&round.batch).expect("written");
        assert_eq!(bench.own(2), at(6));
        // Its target took it over; its worker's ring begins anew later.
        let mut merge = WriteBatch::new();
        merge.delete(&keys::apply_state(RegionId(2)));
        bench.engine.write(&merge).expect("written");
        bench.appliers.remove(&RegionId(5));
        merge.delete(&keys::apply_state(RegionId(5)));
        bench.engine.write(&merge).expect("written");
        for _ in 0..10 {
            bench.round([1, 3, 4]);
        }
        for gone in [2, 5] {
            assert_eq!(bench.engine.get(&keys::apply_state(RegionId(gone))).expect("readable"), None);
        }
        assert_eq!(bench.stored(4), at(16));
    }

    #[test]
    fn a_list_in_one_place_is_enough_and_without_both_nothing_is_known() {
        let mut bench = Bench::new(100);
        (0..2).for_each(|_| bench.round(1..=REGIONS));
        let places = [0, 1].map(|slot| keys::positions(3, slot));
        bench.engine.rot(&places[0][0]);
        assert_eq!(bench.stored(1), at(7), "all of it is in the second place");
        bench.engine.rot(&places[1][1]);
        assert_eq!(bench.stored(1), at(7), "each list is in one place");
        bench.engine.rot(&places[0][1]);
        let read = positions::applied(&*bench.engine.snapshot(), RegionId(1), peer(1));
        assert!(matches!(read, Err(flotilla_engine::Error::Corruption(_))), "{read:?}");
    }
}
