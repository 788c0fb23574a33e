//! From what is on disk to running regions.

use std::collections::BTreeSet;
use std::sync::Arc;

use flotilla_engine::{Engine, EngineSnapshot, Error, WriteBatch};
use flotilla_region::{PeerId, Region, RegionId, StoreId, keys};

use crate::admin::merge::MergeState;
use crate::error::{StoreError, readable};
use crate::log_writer::round_record;
use crate::peer::log::PeerLog;
use crate::positions::Positions;
use crate::quarantine::{Bad, decode_note};
use crate::shared::{Shared, worker_of};
use crate::state::{LogId, RegionState};
use crate::worker::RaftWorker;

/// Gives every region that `data` describes to its raft worker. A region whose records are damaged or contradict each
/// other goes into quarantine, and the store serves the rest.
pub(crate) fn restore_regions(shared: &Arc<Shared>, workers: &mut [RaftWorker]) -> Result<(), StoreError> {
    let now = shared.clock.now();
    let (found, bad) = load_regions(&*shared.engine, shared.origin.store)?;
    let (regions, removed): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|stored| stored.region.peer_on(shared.origin.store).is_some());
    bury_removed(&*shared.engine, &removed)?;
    for bad in bad {
        let number = worker_of(bad.id, workers.len());
        workers[number].quarantine(bad);
    }
    for StoredRegion { region, applied, merge } in regions {
        let worker = &mut workers[worker_of(region.id, shared.links.raft.len())];
        if let Err(error) = worker.restore(region.clone(), applied, merge, now) {
            let damage = error.into_damage()?;
            let peers = region.peer_on(shared.origin.store).map(|me| me.id).into_iter().collect();
            worker.quarantine(Bad { id: region.id, region: Some(Arc::new(region)), peers, damage });
        }
    }
    forget_lists(&*shared.engine)
}

/// Deletes the apply workers' lists, if there are any: regions have their own positions now, or a note that they are out
/// of service.
fn forget_lists(engine: &dyn Engine) -> Result<(), StoreError> {
    if Positions::are_none(&*engine.snapshot())? {
        return Ok(());
    }
    let mut batch = WriteBatch::new();
    for (start, end) in keys::positions_bounds() {
        batch.delete_range(&start, &end);
    }
    Ok(engine.write(&batch)?)
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
        batch.delete(&keys::quarantine(region.id));
        // The descriptor does not name the removed peer any more; its epoch keeps it away.
        let tombstone = RegionState::tombstone(PeerId::ZERO, region, None);
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

/// All regions that live on this disk, with their applied positions, and those that cannot be used. As far as they can be
/// read, both get their own records of their positions, since the apply workers' lists begin anew.
///
/// # Errors
/// I/O.
pub(crate) fn load_regions(
    engine: &dyn Engine,
    mine: StoreId,
) -> Result<(Vec<StoredRegion>, Vec<Bad>), StoreError> {
    let mut ids = BTreeSet::new();
    let (start, end) = keys::region_bounds();
    let view = engine.snapshot();
    let scanned = view.scan(&start, &end, &mut |key, _| {
        ids.extend(keys::parse_data_region(key));
        true
    });
    let logged = match scanned {
        Ok(()) => Vec::new(),
        Err(Error::Corruption(error)) => {
            // Behind the damage there may be more; `log` knows of nearly all regions.
            tracing::error!(%error, "descriptors of regions are damaged");
            log_peers(engine)?
        }
        Err(error) => return Err(error.into()),
    };
    ids.extend(logged.iter().map(|(region, _)| *region));
    let (mut regions, mut bad) = (Vec::new(), Vec::new());
    // Without them, no region's position is known.
    let positions = match Positions::load(&*view) {
        Ok(positions) => Some(positions),
        Err(Error::Corruption(error)) => {
            tracing::error!(%error, "applied positions are damaged");
            None
        }
        Err(error) => return Err(error.into()),
    };
    let mut settled = WriteBatch::new();
    for id in ids {
        match load_region(&*view, id, mine, positions.as_ref(), &mut settled) {
            Ok(Some(found)) => regions.push(found),
            Ok(None) => {}
            Err((region, error)) => {
                let damage = error.into_damage()?;
                let me = region.as_ref().and_then(|region| region.peer_on(mine)).map(|me| vec![me.id]);
                let in_log = || log_peers(engine).unwrap_or_default().into_iter().filter(|(r, _)| *r == id);
                let peers = me.unwrap_or_else(|| in_log().map(|(_, peer)| peer).collect());
                bad.push(Bad { id, region: region.map(Arc::new), peers, damage });
            }
        }
    }
    if !settled.is_empty() {
        engine.write(&settled)?;
    }
    Ok((regions, bad))
}

/// What `data` says of one region, if it lives here; what can be read of it even if not all can. A position that only
/// lists have goes to `settled`.
#[allow(clippy::result_large_err, reason = "once a region at a start")]
fn load_region(
    view: &dyn EngineSnapshot,
    id: RegionId,
    mine: StoreId,
    positions: Option<&Positions>,
    settled: &mut WriteBatch,
) -> Result<Option<StoredRegion>, (Option<Region>, StoreError)> {
    let Some(value) = view.get(&keys::region_state(id)).map_err(|error| (None, error.into()))? else {
        // A log without data, found before the restart.
        let note = view.get(&keys::quarantine(id)).ok().flatten().and_then(decode_note);
        return note.map_or(Ok(None), |(_, why)| Err((None, Error::Corruption(why).into())));
    };
    let region = match RegionState::decode(value) {
        Some(RegionState::Normal(region)) if region.id == id => region,
        Some(RegionState::Tombstone { .. }) => return Ok(None),
        _ => return Err((None, StoreError::Damaged("region descriptor"))),
    };
    let known = |error: StoreError| (Some(region.clone()), error);
    let applied = view.get(&keys::apply_state(id)).map_err(|error| known(error.into()))?;
    let damaged = || known(StoreError::Damaged("apply state"));
    let own = applied.and_then(LogId::decode).ok_or_else(damaged)?;
    let applied = match region.peer_on(mine) {
        Some(me) => positions.ok_or_else(damaged)?.applied(id, me.id, own),
        None => own,
    };
    if applied != own {
        settled.put(&keys::apply_state(id), &applied.encode());
    }
    let merge = view.get(&keys::merge_state(id)).map_err(|error| known(error.into()))?;
    let merge = merge.map(|value| MergeState::decode(value).ok_or(StoreError::Damaged("merge state")));
    let merge = merge.transpose().map_err(known)?;
    let note = view.get(&keys::quarantine(id)).map_err(|error| known(error.into()))?;
    match (note.and_then(decode_note), region.peer_on(mine)) {
        // The engine's word for it, so that it is taken for what it is.
        (Some((peer, why)), Some(me)) if me.id == peer || peer.is_zero() => {
            Err(known(Error::Corruption(why).into()))
        }
        _ => Ok(Some(StoredRegion { region, applied, merge })),
    }
}

/// Deletes logs of peers that are known to be removed (their deletion waited for the tombstone to be durable, rule
/// W4). Returns the last round that `log` knows.
pub(crate) fn clean_log(engine: &dyn Engine, mine: StoreId) -> Result<u64, StoreError> {
    let mut batch = WriteBatch::new();
    for (region, peer) in log_peers(engine)? {
        let (peer_start, peer_end) = keys::log_peer_bounds(region, peer);
        let state = readable(engine.get(&keys::region_state(region)))?.and_then(RegionState::decode);
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
    let looked = engine
        .log_get(&keys::log_base(region, peer))
        .map_err(StoreError::from)
        .and_then(|base| Ok(base.is_some() || PeerLog::has_entries(engine, region, peer)?));
    match looked {
        // Nothing is deleted that cannot be read.
        Err(StoreError::Engine(Error::Corruption(_))) => Ok(false),
        looked => looked,
    }
}

/// All peers that `log` knows of, as far as it can be read.
pub(crate) fn log_peers(engine: &dyn Engine) -> Result<Vec<(RegionId, PeerId)>, Error> {
    let (mut start, end) = keys::log_bounds();
    let mut peers = Vec::new();
    loop {
        match first_peer(engine, &start, &end) {
            Ok(Some((region, peer))) => {
                start = keys::log_peer_bounds(region, peer).1.to_vec();
                peers.push((region, peer));
            }
            Ok(None) => return Ok(peers),
            Err(Error::Corruption(error)) => {
                tracing::error!(%error, "the log is damaged");
                return Ok(peers);
            }
            Err(error) => return Err(error),
        }
    }
}

fn first_peer(engine: &dyn Engine, start: &[u8], end: &[u8]) -> Result<Option<(RegionId, PeerId)>, Error> {
    let mut found = None;
    engine.log_scan(start, end, &mut |key, _| {
        found = match keys::parse_log_key(key) {
            Some(
                keys::LogKey::HardState(region, peer)
                | keys::LogKey::Base(region, peer)
                | keys::LogKey::Promise(region, peer)
                | keys::LogKey::Entry(region, peer, _),
            ) => Some((region, peer)),
            _ => None,
        };
        found.is_none()
    })?;
    Ok(found)
}
