//! What the placement leader knows about the cluster, built from heartbeats since its leadership began.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_region::{PeerId, RegionId, StoreId, Term};

use crate::disks;
use crate::store::StoreLoad;
use crate::{
    Learned, PlacementConfig, RegionInfo, RouteTable, StoreHealth, StoreInfo, StoreRecord, StoreState,
    StoreStats,
};

/// Stores and regions as one placement leadership sees them. Nothing of it is durable but the stores' records.
///
/// Invariant: `loads` is what counting over `regions` gives.
#[derive(Clone, Debug)]
pub struct ClusterView {
    meta_term: Term,
    since_ms: u64,
    stores: BTreeMap<StoreId, StoreInfo>,
    regions: RouteTable,
    loads: BTreeMap<StoreId, StoreLoad>,
    revision: u64,
}

impl ClusterView {
    /// An empty view of the leadership of `meta_term` that began at `now_ms`.
    pub fn new(meta_term: Term, now_ms: u64) -> Self {
        Self {
            meta_term,
            since_ms: now_ms,
            stores: BTreeMap::new(),
            regions: RouteTable::new(),
            loads: BTreeMap::new(),
            revision: 0,
        }
    }

    /// Term of the meta region in which this view is valid.
    pub fn meta_term(&self) -> Term {
        self.meta_term
    }

    /// When this leadership began, ms.
    pub fn since_ms(&self) -> u64 {
        self.since_ms
    }

    /// Moves whenever a pass over the view could decide differently, passing time aside.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All stores of the registry, tombstones included.
    pub fn stores(&self) -> impl Iterator<Item = &StoreInfo> {
        self.stores.values()
    }

    /// One store.
    pub fn store(&self, id: StoreId) -> Option<&StoreInfo> {
        self.stores.get(&id)
    }

    /// All regions heard of.
    pub fn regions(&self) -> &RouteTable {
        &self.regions
    }

    /// What a store carries.
    pub fn load(&self, store: StoreId) -> StoreLoad {
        self.loads.get(&store).copied().unwrap_or_default()
    }

    /// Stores with peers that are being filled.
    pub fn filled_stores(&self) -> impl Iterator<Item = StoreId> {
        self.loads.iter().filter(|(_, load)| load.filling > 0).map(|(store, _)| *store)
    }

    /// Takes a store's durable facts over from the registry.
    pub fn put_store(&mut self, record: StoreRecord) {
        let info = self.stores.entry(record.id).or_default();
        if info.record != record {
            info.record = record;
            self.revision += 1;
        }
    }

    /// A heartbeat of a store arrived. Returns false for a store that is not in the registry or was removed: it must
    /// not be believed.
    pub fn heartbeat(
        &mut self,
        store: StoreId,
        boot_id: u64,
        stats: StoreStats,
        now_ms: u64,
        config: &PlacementConfig,
    ) -> bool {
        let Some(info) = self.stores.get_mut(&store) else { return false };
        if info.record.state == StoreState::Tombstone {
            return false;
        }
        let is_restarted = info.boot_id != boot_id;
        let has_gap = info.last_heard_ms.is_none_or(|last| now_ms >= last + config.store_silent_ms);
        if is_restarted || has_gap {
            info.settled_since_ms = now_ms;
            self.revision += 1;
        }
        info.last_heard_ms = Some(info.last_heard_ms.unwrap_or(0).max(now_ms));
        info.stats = stats;
        if is_restarted {
            info.boot_id = boot_id;
            info.has_reported = false;
            self.forget_leaders_on(store);
        }
        true
    }

    /// Tells slow disks from others, as of now.
    pub fn judge_disks(&mut self, config: &PlacementConfig, now_ms: u64) {
        let health: Vec<StoreHealth> =
            self.stores.keys().map(|store| self.health(*store, config, now_ms)).collect();
        if disks::judge(self.stores.values_mut().zip(health), config, now_ms) {
            self.revision += 1;
        }
    }

    /// Takes over which replicas a store says are out of service for good.
    pub fn damaged(&mut self, store: StoreId, damaged: BTreeSet<(RegionId, PeerId)>) {
        if let Some(info) = self.stores.get_mut(&store)
            && info.damaged != damaged
        {
            info.damaged = damaged;
            self.revision += 1;
        }
    }

    /// A store's current incarnation has reported all regions it leads.
    pub fn reported(&mut self, store: StoreId, boot_id: u64) {
        if let Some(info) = self.stores.get_mut(&store)
            && info.boot_id == boot_id
            && !info.has_reported
        {
            info.has_reported = true;
            self.revision += 1;
        }
    }

    /// Takes a region leader's report.
    pub fn report(&mut self, info: RegionInfo) -> Learned {
        let id = info.region.id;
        if let Some(known) = self.regions.by_id(id) {
            subtract(&mut self.loads, known);
        }
        let learned = self.regions.report(info);
        if let Learned::Changed { replaced } = &learned {
            self.revision += 1;
            replaced.iter().for_each(|old| subtract(&mut self.loads, old));
        }
        if let Some(known) = self.regions.by_id(id) {
            add(&mut self.loads, known);
        }
        learned
    }

    /// A store no longer leads or holds a region.
    pub fn dropped(&mut self, region: RegionId, store: StoreId) {
        let Some(known) = self.regions.by_id(region) else { return };
        subtract(&mut self.loads, known);
        if self.regions.forget_leader(region, store) {
            self.revision += 1;
        }
        if let Some(known) = self.regions.by_id(region) {
            add(&mut self.loads, known);
        }
    }

    /// How long a store has been silent, in words. Silence counts from the start of this leadership at the earliest,
    /// so that a new leader never takes its own ignorance for a dead cluster.
    pub fn health(&self, store: StoreId, config: &PlacementConfig, now_ms: u64) -> StoreHealth {
        let Some(info) = self.stores.get(&store) else { return StoreHealth::Gone };
        let last = info.last_heard_ms.unwrap_or(0).max(self.since_ms);
        let silence_ms = now_ms.saturating_sub(last);
        if silence_ms >= config.store_gone_ms {
            StoreHealth::Gone
        } else if info.last_heard_ms.is_none() || silence_ms >= config.store_silent_ms {
            StoreHealth::Silent
        } else {
            StoreHealth::Live
        }
    }

    fn forget_leaders_on(&mut self, store: StoreId) {
        let led: Vec<RegionId> =
            self.regions.iter().filter(|r| r.leader_store() == Some(store)).map(|r| r.region.id).collect();
        led.into_iter().for_each(|region| self.dropped(region, store));
    }

    /// Asserts the type's invariants.
    pub fn check_invariants(&self) {
        self.regions.check_invariants();
        let mut counted = BTreeMap::new();
        self.regions.iter().for_each(|info| add(&mut counted, info));
        for store in self.loads.keys().chain(counted.keys()) {
            let counted = counted.get(store).copied().unwrap_or_default();
            assert_eq!(self.load(*store), counted, "load of store {store} is not what its regions add up to");
        }
    }
}

fn add(loads: &mut BTreeMap<StoreId, StoreLoad>, info: &RegionInfo) {
    account(loads, info, |count| *count += 1);
}

fn subtract(loads: &mut BTreeMap<StoreId, StoreLoad>, info: &RegionInfo) {
    account(loads, info, |count| *count -= 1);
}

fn account(loads: &mut BTreeMap<StoreId, StoreLoad>, info: &RegionInfo, apply: impl Fn(&mut u64)) {
    let leader = info.leader_store();
    for peer in &info.region.peers {
        let load = loads.entry(peer.store).or_default();
        apply(&mut load.all_peers);
        if info.is_counted() {
            apply(&mut load.peers);
            if leader == Some(peer.store) {
                apply(&mut load.leaders);
            }
        }
        if info.is_filling(peer) {
            apply(&mut load.filling);
            if let Some(leader) = leader {
                apply(&mut loads.entry(leader).or_default().sending);
            }
        }
    }
}
