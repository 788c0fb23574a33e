//! From what is on disk to running regions.

use std::sync::Arc;

use flotilla_engine::{Engine, WriteBatch};
use flotilla_region::{PeerId, Region, RegionId, StoreId, keys};

use crate::admin::merge::MergeState;
use crate::error::StoreError;
use crate::log_writer::round_record;
use crate::peer::log::PeerLog;
use crate::shared::{Shared, worker_of};
use crate::state::{LogId, RegionState};
use crate::worker::RaftWorker;

/// Gives every region that `data` describes to its raft worker. A region whose records contradict each other is left
/// out, its range stays taken, and the store serves the rest.
pub(crate) fn restore_regions(shared: &Arc<Shared>, workers: &mut [RaftWorker]) -> Result<(), StoreError> {
    let now = shared.clock.now();
    let (regions, removed): (Vec<_>, Vec<_>) = load_regions(&*shared.engine)?
        .into_iter()
        .partition(|stored| stored.region.peer_on(shared.origin.store).is_some());
    bury_removed(&*shared.engine, &removed)?;
    for StoredRegion { region, applied, merge } in regions {
        let number = worker_of(region.id, workers.len());
        match workers[number].restore(region.clone(), applied, merge, now) {
            Ok(()) => {}
            Err(error @ StoreError::Engine(flotilla_engine::Error::Io(_))) => return Err(error),
            Err(error) => {
                tracing::error!(region = region.id.0, %error, "region is damaged and stays out of service");
                shared.ranges.lock().take(region.id, region.space, &region.range);
            }
        }
    }
    Ok(())
}

/// Completes the removal of peers that had applied it when the process ended, but were not buried yet.
fn bury_removed(engine: &dyn Engine, removed: &[StoredRegion]) -> Result<(), StoreError> {
    if removed.is_empty() {
        return Ok(());
    }
    let mut batch = WriteBatch::new();
    for StoredRegion { region, .. } in removed {
        let (start, end) = keys::data_bounds(region.space, &region.range);
        batch.delete_range(&start, &end);
        batch.delete(&keys::apply_state(region.id));
        batch.delete(&keys::merge_state(region.id));
        // The descriptor does not name the removed peer any more; its epoch keeps it away.
        let tombstone = RegionState::Tombstone { peer: PeerId::ZERO, epoch: region.epoch, merged: None };
        batch.put(&keys::region_state(region.id), &tombstone.encode());
    }
    engine.write(&batch)?;
    engine.flush()?;
    Ok(())
}

/// A region as it lives on this disk.
pub(crate) struct StoredRegion {
    pub region: Region,
    pub applied: LogId,
    pub merge: Option<MergeState>,
}

/// All regions that live on this disk.
pub(crate) fn load_regions(engine: &dyn Engine) -> Result<Vec<StoredRegion>, StoreError> {
    let mut regions = Vec::new();
    let mut damaged = false;
    let (start, end) = keys::region_bounds();
    let view = engine.snapshot();
    view.scan(&start, &end, &mut |key, value| {
        if keys::parse_region_state(key).is_some() {
            match RegionState::decode(bytes::Bytes::copy_from_slice(value)) {
                Some(RegionState::Normal(region)) => regions.push(region),
                Some(RegionState::Tombstone { .. }) => {}
                None => damaged = true,
            }
        }
        true
    })?;
    if damaged {
        return Err(StoreError::Damaged("region descriptor"));
    }
    let with_applied = regions.into_iter().map(|region| {
        let value = view.get(&keys::apply_state(region.id))?.ok_or(StoreError::Damaged("apply state"))?;
        let applied = LogId::decode(value).ok_or(StoreError::Damaged("apply state"))?;
        let merge = view.get(&keys::merge_state(region.id))?;
        let merge = merge.map(|value| MergeState::decode(value).ok_or(StoreError::Damaged("merge state")));
        Ok(StoredRegion { region, applied, merge: merge.transpose()? })
    });
    with_applied.collect()
}

/// Deletes logs of peers that are known to be removed (their deletion waited for the tombstone to be durable, rule
/// W4). Returns the last round that `log` knows.
pub(crate) fn clean_log(engine: &dyn Engine, mine: StoreId) -> Result<u64, StoreError> {
    let mut batch = WriteBatch::new();
    let (mut start, end) = keys::log_bounds();
    while let Some((region, peer)) = first_peer(engine, &start, &end)? {
        let (peer_start, peer_end) = keys::log_peer_bounds(region, peer);
        let state = engine.get(&keys::region_state(region))?.and_then(RegionState::decode);
        // Of peers that are not the last known one, those that ever had a log were removed before it came: a later
        // one gets a log only with a snapshot, which makes its descriptor durable first. One that has only voted may
        // be younger, and its vote must hold.
        let removed = match state {
            Some(RegionState::Tombstone { peer: last, .. }) => peer == last || has_log(engine, region, peer)?,
            Some(RegionState::Normal(here)) => {
                here.peer_on(mine).is_some_and(|me| me.id != peer) && has_log(engine, region, peer)?
            }
            None => false,
        };
        if removed {
            batch.delete_range(&peer_start, &peer_end);
        }
        start = peer_end.to_vec();
    }
    let stored = engine.log_get(keys::LOG_ROUND)?;
    let round = match stored.as_deref().and_then(|v| v.get(..8)).and_then(|v| v.try_into().ok()) {
        Some(bytes) => u64::from_be_bytes(bytes),
        None => 0,
    };
    if batch.is_empty() {
        return Ok(round);
    }
    batch.put(keys::LOG_ROUND, &round_record(round + 1, round));
    engine.log_write(&batch)?;
    engine.log_sync()?;
    Ok(round + 1)
}

/// Whether `log` holds more of a peer than a hard state.
fn has_log(engine: &dyn Engine, region: RegionId, peer: PeerId) -> Result<bool, StoreError> {
    let has_base = engine.log_get(&keys::log_base(region, peer))?.is_some();
    Ok(has_base || PeerLog::has_entries(engine, region, peer)?)
}

fn first_peer(
    engine: &dyn Engine,
    start: &[u8],
    end: &[u8],
) -> Result<Option<(RegionId, PeerId)>, StoreError> {
    let mut found = None;
    engine.log_scan(start, end, &mut |key, _| {
        found = match keys::parse_log_key(key) {
            Some(
                keys::LogKey::HardState(region, peer)
                | keys::LogKey::Base(region, peer)
                | keys::LogKey::Entry(region, peer, _),
            ) => Some((region, peer)),
            _ => None,
        };
        found.is_none()
    })?;
    Ok(found)
}
