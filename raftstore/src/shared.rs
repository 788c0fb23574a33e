//! What the workers of one store share. Everything here is small, locked briefly, and never iterated where the order
//! could differ between runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use flotilla_engine::Engine;
use flotilla_placement::IdPool;
use flotilla_raft::Meter;
use flotilla_region::{DenseMap, KeyRange, PeerId, Region, RegionId, Space, StoreId};
use parking_lot::{Mutex, RwLock};

use crate::background::BackgroundMsg;
use crate::config::StoreConfig;
use crate::error::{Quarantined, StoreError};
use crate::liveness::{LivenessMsg, Supports};
use crate::load::Loads;
use crate::local_reader::Delegates;
use crate::machine::StateMachine;
use crate::mailbox::Address;
use crate::msg::{ApplyMsg, LogMsg, RaftMsg};
use crate::outbox::FrameOrigin;
use crate::placement::{Directory, PlacementMsg};
use crate::snapshot::SnapshotMsg;
use crate::state::LogId;
use crate::time::Clock;

/// Told the first error that ends the store. The wiring ends the process; a simulator marks the store dead.
pub type FatalHook = Arc<dyn Fn(&StoreError) + Send + Sync>;

/// Addresses of all workers.
#[derive(Clone)]
pub(crate) struct Links {
    pub raft: Vec<Address<RaftMsg>>,
    pub apply: Vec<Address<Vec<ApplyMsg>>>,
    pub log: Address<LogMsg>,
    pub snapshot: Address<SnapshotMsg>,
    pub placement: Address<PlacementMsg>,
    pub background: Address<BackgroundMsg>,
    pub liveness: Address<LivenessMsg>,
}

impl Links {
    /// The raft worker that owns a region.
    pub(crate) fn raft_of(&self, region: RegionId) -> &Address<RaftMsg> {
        &self.raft[worker_of(region, self.raft.len())]
    }
}

/// Spreads regions over `workers` workers. Ids come in steps (a region and its peers), so they are mixed first
/// (Fibonacci hashing: Knuth, "The Art of Computer Programming", 6.4).
pub(crate) fn worker_of(region: RegionId, workers: usize) -> usize {
    let mixed = region.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    ((mixed * workers as u64) >> 32) as usize
}

/// Shared state of a store.
pub(crate) struct Shared {
    pub config: StoreConfig,
    pub origin: FrameOrigin,
    pub engine: Arc<dyn Engine>,
    pub clock: Arc<dyn Clock>,
    pub user: Arc<dyn StateMachine>,
    pub meta: Arc<dyn StateMachine>,
    pub links: Links,
    pub delegates: Delegates,
    /// Regions that clients ask for something.
    pub loads: Arc<Loads>,
    /// Which other stores support this one.
    pub supports: Supports,
    /// Who owns which keys, as far as this store has heard. Written by the placement worker.
    pub directory: Arc<RwLock<Directory>>,
    pub ranges: Mutex<StoreRanges>,
    /// Ids that this store holds in advance, so that splits go on without the placement leader.
    pub ids: Mutex<IdPool>,
    /// Bytes of requests in the store.
    pub pending_bytes: Arc<AtomicU64>,
    /// Bytes of log entries in memory.
    pub cached_bytes: Arc<AtomicU64>,
    /// What counts the entries under way to each store, one for each raft worker.
    pub meters: Mutex<Vec<(StoreId, Arc<Meter>)>>,
    /// Applied positions that changed since the last checkpoint, published after the write returned.
    pub dirty: Mutex<BTreeMap<(RegionId, PeerId), LogId>>,
    /// Held while a split is written, and while a peer without data is removed: it may be a child of that split.
    pub births: Mutex<()>,
    /// Regions that are out of service here, as reports tell.
    pub quarantine: Mutex<BTreeMap<RegionId, Vec<Quarantined>>>,
    /// Peers that sleep and are packed.
    pub packed_peers: AtomicU64,
    /// The last round in which the liveness worker asked the others whether they live.
    pub proof_round: AtomicU64,
    pub counters: Counters,
    fatal: FatalHook,
    failed: AtomicBool,
}

impl Shared {
    #[allow(clippy::too_many_arguments, reason = "called once, by Store::open")]
    pub(crate) fn new(
        config: StoreConfig,
        origin: FrameOrigin,
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
        user: Arc<dyn StateMachine>,
        meta: Arc<dyn StateMachine>,
        links: Links,
        fatal: FatalHook,
    ) -> Self {
        Self {
            config,
            origin,
            engine,
            clock,
            user,
            meta,
            links,
            delegates: Delegates::default(),
            loads: Arc::default(),
            supports: Supports::default(),
            directory: Arc::default(),
            ranges: Mutex::default(),
            ids: Mutex::default(),
            pending_bytes: Arc::default(),
            cached_bytes: Arc::default(),
            meters: Mutex::default(),
            dirty: Mutex::default(),
            births: Mutex::default(),
            quarantine: Mutex::default(),
            packed_peers: AtomicU64::new(0),
            proof_round: AtomicU64::new(0),
            counters: Counters::default(),
            fatal,
            failed: AtomicBool::new(false),
        }
    }

    /// The store cannot go on. Workers do nothing afterwards: no acknowledgement may follow a failed write.
    pub(crate) fn fail(&self, error: &StoreError) {
        if !self.failed.swap(true, Ordering::SeqCst) {
            tracing::error!(%error, "store stops");
            (self.fatal)(error);
        }
    }

    /// Whether the store has stopped.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// A worker comes to the end of a turn: it lives, however much waits for it. `answered` is the last round in which it
    /// said so.
    pub(crate) fn prove(&self, answered: &mut u64) {
        let round = self.proof_round.load(Ordering::Acquire);
        if std::mem::replace(answered, round) != round {
            self.links.liveness.send(LivenessMsg::Proof(round));
        }
    }

    /// The state machine of a key space.
    pub(crate) fn machine(&self, space: Space) -> &dyn StateMachine {
        match space {
            Space::User => &*self.user,
            Space::Meta => &*self.meta,
        }
    }
}

/// Event counts of a store since it started.
#[derive(Debug, Default)]
pub struct Counters {
    /// WAL syncs.
    pub log_syncs: AtomicU64,
    /// Batches written to `log`.
    pub log_batches: AtomicU64,
    /// Entries written to `log`.
    pub log_entries: AtomicU64,
    /// Bytes of entries written to `log`.
    pub log_entry_bytes: AtomicU64,
    /// Entries applied.
    pub applied_entries: AtomicU64,
    /// Commands applied.
    pub applied_commands: AtomicU64,
    /// Entries given to apply before this store's log had them (`apply_ahead_entries`).
    pub applied_ahead: AtomicU64,
    /// Batches written to `data`.
    pub apply_batches: AtomicU64,
    /// Entries proposed by leaders here.
    pub proposals: AtomicU64,
    /// Commands in those entries.
    pub proposed_commands: AtomicU64,
    /// Read requests granted by a read index round.
    pub read_index_grants: AtomicU64,
    /// Elections won here.
    pub elections_won: AtomicU64,
    /// Regions split here as leader.
    pub splits: AtomicU64,
    /// Regions led here that were to be split because of their load.
    pub load_splits: AtomicU64,
    /// Writes refused because their region was far too large and about to be split.
    pub crowded_writes: AtomicU64,
    /// Neighbours merged into regions led here.
    pub merges: AtomicU64,
    /// Snapshots installed here.
    pub snapshots_installed: AtomicU64,
    /// Checkpoints completed.
    pub checkpoints: AtomicU64,
    /// Comparisons of replicas completed by leaders here.
    pub consistency_checks: AtomicU64,
    /// Comparisons that found replicas to differ.
    pub inconsistencies: AtomicU64,
    /// Regions taken out of service here because they were damaged.
    pub regions_quarantined: AtomicU64,
    /// Looks that found compaction stopped by damage.
    pub compactions_damaged: AtomicU64,
    /// Frames of store liveness sent.
    pub liveness_frames: AtomicU64,
    /// Regions that went to sleep here.
    pub sleeps: AtomicU64,
    /// Regions that were woken here.
    pub wakes: AtomicU64,
    /// Regions that were led elsewhere and read what their followers lack, to lead next.
    pub warm_transfers: AtomicU64,
    /// Times that entries had to wait because too many bytes were under way to their store (`store_inflight_bytes_max`).
    pub appends_held_back: AtomicU64,
}

impl Counters {
    /// Adds to a counter.
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// All counters with their names.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        vec![
            ("log_syncs", get(&self.log_syncs)),
            ("log_batches", get(&self.log_batches)),
            ("log_entries", get(&self.log_entries)),
            ("log_entry_bytes", get(&self.log_entry_bytes)),
            ("applied_entries", get(&self.applied_entries)),
            ("applied_commands", get(&self.applied_commands)),
            ("applied_ahead", get(&self.applied_ahead)),
            ("apply_batches", get(&self.apply_batches)),
            ("proposals", get(&self.proposals)),
            ("proposed_commands", get(&self.proposed_commands)),
            ("read_index_grants", get(&self.read_index_grants)),
            ("elections_won", get(&self.elections_won)),
            ("splits", get(&self.splits)),
            ("load_splits", get(&self.load_splits)),
            ("crowded_writes", get(&self.crowded_writes)),
            ("merges", get(&self.merges)),
            ("snapshots_installed", get(&self.snapshots_installed)),
            ("checkpoints", get(&self.checkpoints)),
            ("consistency_checks", get(&self.consistency_checks)),
            ("inconsistencies", get(&self.inconsistencies)),
            ("regions_quarantined", get(&self.regions_quarantined)),
            ("compactions_damaged", get(&self.compactions_damaged)),
            ("liveness_frames", get(&self.liveness_frames)),
            ("sleeps", get(&self.sleeps)),
            ("wakes", get(&self.wakes)),
            ("warm_transfers", get(&self.warm_transfers)),
            ("appends_held_back", get(&self.appends_held_back)),
        ]
    }
}

/// Which key ranges are taken on this store.
///
/// Invariant: the ranges of initialised regions and the reservations of snapshots are disjoint (trap T9).
#[derive(Default)]
pub(crate) struct StoreRanges {
    /// By space and start key. The descriptors are the peers' own; what they say of members may be old.
    taken: DenseMap<(Space, Bytes), Arc<Region>>,
    /// The same by id.
    places: DenseMap<RegionId, Arc<Region>>,
    reserved: BTreeMap<RegionId, (Space, KeyRange)>,
    /// Live regions that are surely, or will surely be, part of another one. Its snapshot may take their place.
    doomed: BTreeMap<RegionId, RegionId>,
}

impl StoreRanges {
    /// Regions other than `except` whose range overlaps.
    pub(crate) fn overlapping(&self, space: Space, range: &KeyRange, except: RegionId) -> Vec<RegionId> {
        let below =
            self.taken.range(..=(space, range.start.clone())).next_back().filter(|((s, _), _)| *s == space);
        let inside = self
            .taken
            .range((space, range.start.clone())..)
            .take_while(|((s, start), _)| *s == space && range.is_before_end(start));
        let mut found: Vec<RegionId> = below
            .into_iter()
            .chain(inside)
            .filter(|(_, taken)| taken.id != except && taken.range.overlaps(range))
            .map(|(_, taken)| taken.id)
            .collect();
        found.dedup();
        if planted!(SnapshotOverlap) {
            found.clear();
        }
        found
    }

    /// Regions that keep `region` from having `range`: all others there but those that became part of it.
    pub(crate) fn obstacles(&self, space: Space, range: &KeyRange, region: RegionId) -> Vec<RegionId> {
        let mut found = self.overlapping(space, range, region);
        found.retain(|id| !self.is_doomed(*id, region));
        found
    }

    /// Notes that `source` is, or will surely be, part of `target`.
    pub(crate) fn doom(&mut self, source: RegionId, target: RegionId) {
        self.doomed.insert(source, target);
    }

    /// Whether `source` is known to become part of `target`, directly or by way of others.
    pub(crate) fn is_doomed(&self, source: RegionId, target: RegionId) -> bool {
        let mut next = self.doomed.get(&source);
        // No region outlives its own end, so the way has no circle; the bound is for a damaged message.
        for _ in 0..=self.doomed.len() {
            match next {
                Some(id) if *id == target => return true,
                Some(id) => next = self.doomed.get(id),
                None => return false,
            }
        }
        false
    }

    /// Takes a range for an initialised region, in place of what it had.
    pub(crate) fn take(&mut self, region: &Arc<Region>) {
        self.release(region.id);
        self.places.insert(region.id, region.clone());
        self.taken.insert(place(region), region.clone());
    }

    /// Puts this store's descriptor of a region in the place of an equal one.
    pub(crate) fn share(&self, region: &mut Arc<Region>) {
        if let Some(known) = self.places.get(&region.id).filter(|known| *known == region) {
            region.clone_from(known);
        }
    }

    /// A region has another descriptor for the same range: the older one need not be kept for this.
    pub(crate) fn refresh(&mut self, region: &Arc<Region>) {
        if self.places.get(&region.id).is_some_and(|known| known.range == region.range) {
            self.take(region);
        }
    }

    /// A region is gone.
    pub(crate) fn forget(&mut self, region: RegionId) {
        self.release(region);
        self.doomed.remove(&region);
    }

    /// Gives up the range of a region.
    pub(crate) fn release(&mut self, region: RegionId) {
        if let Some(known) = self.places.remove(&region) {
            let place = place(&known);
            if self.taken.get(&place).is_some_and(|taken| taken.id == region) {
                self.taken.remove(&place);
            }
        }
    }

    /// Replaces the parent of a split by its parts.
    pub(crate) fn split(&mut self, parts: &[Arc<Region>]) {
        parts.iter().for_each(|part| self.release(part.id));
        parts.iter().for_each(|part| self.take(part));
    }

    /// Reserves a range for a snapshot of `region`, unless another region or reservation is in the way.
    pub(crate) fn reserve(&mut self, region: RegionId, space: Space, range: &KeyRange) -> bool {
        if self.is_anothers(space, range, region) {
            return false;
        }
        self.reserved.insert(region, (space, range.clone()));
        true
    }

    /// Whether another region has the range, or part of it, or its snapshot is on its way there.
    pub(crate) fn is_anothers(&self, space: Space, range: &KeyRange, region: RegionId) -> bool {
        let clashes =
            |(id, (s, r)): (&RegionId, &(Space, KeyRange))| *id != region && *s == space && r.overlaps(range);
        self.reserved.iter().any(clashes) || !self.obstacles(space, range, region).is_empty()
    }

    /// Number of regions that have a range here.
    pub(crate) fn count(&self) -> usize {
        self.places.len()
    }

    /// Whether a snapshot of the region is on its way in.
    pub(crate) fn is_reserved(&self, region: RegionId) -> bool {
        self.reserved.contains_key(&region)
    }

    /// Number of reservations.
    pub(crate) fn reserved(&self) -> usize {
        self.reserved.len()
    }

    /// Gives a reservation up.
    pub(crate) fn unreserve(&mut self, region: RegionId) {
        self.reserved.remove(&region);
    }
}

fn place(region: &Region) -> (Space, Bytes) {
    (region.space, region.range.start.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_are_found_at_both_edges() {
        let mut ranges = StoreRanges::default();
        for (id, start, end) in [(2, "b", "d"), (3, "d", "")] {
            let range = KeyRange::new(start, end);
            ranges.take(&Arc::new(Region { id: RegionId(id), range, ..Region::default() }));
        }
        let overlapping = |r: &StoreRanges, start: &'static str, end: &'static str| {
            r.overlapping(Space::User, &KeyRange::new(start, end), RegionId(9))
        };
        assert_eq!(overlapping(&ranges, "a", "b"), []);
        assert_eq!(overlapping(&ranges, "a", "c"), [RegionId(2)]);
        assert_eq!(overlapping(&ranges, "c", "e"), [RegionId(2), RegionId(3)]);
        assert_eq!(overlapping(&ranges, "", ""), [RegionId(2), RegionId(3)]);
        assert!(ranges.reserve(RegionId(4), Space::User, &KeyRange::new("", "b")));
        assert!(
            !ranges.reserve(RegionId(5), Space::User, &KeyRange::new("a", "b")),
            "reservations exclude each other"
        );
        assert!(
            !ranges.reserve(RegionId(5), Space::User, &KeyRange::new("c", "d")),
            "a live region is in the way"
        );
        assert!(ranges.reserve(RegionId(5), Space::Meta, &KeyRange::new("c", "d")), "spaces are apart");
    }
}
