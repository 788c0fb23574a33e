//! What the errors of stores teach the region cache.

use flotilla_proto::errorpb;
use flotilla_region::{PeerId, Region, RegionEpoch, RegionId, StoreId};

use crate::region_cache::{RegionCache, Route};
use crate::retry::FailureKind;
use crate::wire::{peer_from_proto, region_from_proto};

/// Whom a failed request was sent to, as its context said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The region.
    pub region: RegionId,
    /// The epoch that the client knew.
    pub epoch: RegionEpoch,
    /// The peer.
    pub peer: PeerId,
    /// The peer's store.
    pub store: StoreId,
}

impl Asked {
    /// The addressee of a request on `route`; `None` if the region has no peers.
    pub fn on(route: &Route) -> Option<Self> {
        let peer = route.target()?;
        Some(Self { region: route.region.id, epoch: route.region.epoch, peer: peer.id, store: peer.store })
    }
}

/// What the caller has to know of an error beyond what the cache now holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lesson {
    /// For the retry plan.
    pub kind: FailureKind,
    /// The store wants to be left alone this long; 0 = it did not say.
    pub pause_ms_min: u64,
    /// The address known for the asked store is not that store's.
    pub forget_store: bool,
}

impl Lesson {
    fn of(kind: FailureKind) -> Self {
        Self { kind, pause_ms_min: 0, forget_store: false }
    }
}

/// Takes a store's error into the cache. The kinds are those of PROTOCOL: a kind that is not known forgets the
/// route, which is always safe.
pub fn learn(cache: &mut RegionCache, asked: Asked, error: &errorpb::Error) -> Lesson {
    let lesson = Lesson::of;
    if let Some(not_leader) = &error.not_leader {
        return lesson(on_not_leader(cache, asked, not_leader));
    }
    if let Some(mismatch) = &error.epoch_not_match {
        return lesson(on_epoch_not_match(cache, asked, mismatch));
    }
    if error.store_not_match.is_some() {
        cache.invalidate(asked.region, asked.epoch);
        return Lesson { forget_store: true, ..lesson(FailureKind::StoreNotMatch) };
    }
    if let Some(busy) = &error.server_is_busy {
        let pause_ms_min = busy.backoff_ms.max(u64::from(busy.estimated_wait_ms));
        return Lesson { pause_ms_min, ..lesson(FailureKind::ServerIsBusy) };
    }
    if error.undetermined_result.is_some() {
        return lesson(FailureKind::UndeterminedResult);
    }
    if error.raft_entry_too_large.is_some() {
        return lesson(FailureKind::EntryTooLarge);
    }
    if error.disk_full.is_some() {
        cache.peer_failed(asked.region, asked.peer);
        return lesson(FailureKind::DiskFull);
    }
    if error.stale_command.is_some() {
        return lesson(FailureKind::StaleCommand);
    }
    if error.is_witness.is_some() {
        cache.peer_failed(asked.region, asked.peer);
        return lesson(FailureKind::NoLeader);
    }
    if is_not_ready(error) {
        return lesson(FailureKind::NotReady);
    }
    // RegionNotFound, KeyNotInRegion, MismatchPeerId, and whatever a newer store may say.
    cache.invalidate(asked.region, asked.epoch);
    lesson(FailureKind::RouteUnknown)
}

fn is_not_ready(error: &errorpb::Error) -> bool {
    error.read_index_not_ready.is_some()
        || error.proposal_in_merging_mode.is_some()
        || error.data_is_not_ready.is_some()
        || error.region_not_initialized.is_some()
        || error.recovery_in_progress.is_some()
        || error.max_timestamp_not_synced.is_some()
}

fn on_not_leader(cache: &mut RegionCache, asked: Asked, error: &errorpb::NotLeader) -> FailureKind {
    let hint = error.leader.as_ref().and_then(peer_from_proto).filter(|leader| leader.id != asked.peer);
    match hint {
        Some(leader) if cache.set_leader(asked.region, leader.id) => FailureKind::NotLeader,
        // The hint names a peer that we do not know: the region was forgotten.
        Some(_) => FailureKind::RouteUnknown,
        None => {
            cache.peer_failed(asked.region, asked.peer);
            FailureKind::NoLeader
        }
    }
}

fn on_epoch_not_match(cache: &mut RegionCache, asked: Asked, error: &errorpb::EpochNotMatch) -> FailureKind {
    let current: Vec<Region> = error.current_regions.iter().filter_map(region_from_proto).collect();
    let is_behind = current.iter().any(|r| r.id == asked.region && r.epoch.is_stale_against(&asked.epoch));
    if is_behind {
        // A peer that has not applied the latest change yet: what we know stands.
        return FailureKind::StoreBehind;
    }
    if current.is_empty() {
        cache.invalidate(asked.region, asked.epoch);
        return FailureKind::RouteUnknown;
    }
    for region in current {
        // Who led the old region most likely leads the new ones.
        let leader = region.peer_on(asked.store).map(|peer| peer.id);
        cache.insert(region, leader);
    }
    cache.invalidate(asked.region, asked.epoch);
    FailureKind::EpochNotMatch
}

#[cfg(test)]
#[path = "learn_tests.rs"]
mod tests;
