//! Nothing is left over at rest (PITFALLS.md I7): no request holds memory, nothing counts as under way to a store, no snapshot a range, a stream, a file or a view
//! of the disk, no worker keeps a message, a caller or a task, no log has records of a peer that is not there, no store has a replica that its region does not name or a peer that waits for data, and every store's
//! route table says what is.

use std::collections::BTreeMap;

use flotilla_engine::Engine;
use flotilla_placement::RouteTable;
use flotilla_raftstore::{Held, RegionState};
use flotilla_region::keys::{self, LogKey};
use flotilla_region::{PeerId, Region, RegionId, StoreId};

/// Checks what a store at rest still holds.
///
/// # Errors
/// A sentence that names what was not given back.
pub fn check_held(store: StoreId, held: &Held, views: usize, files: usize) -> Result<(), String> {
    if *held != Held::default() || views > 0 || files > 0 {
        return Err(format!(
            "store {store} at rest holds {held:?}, {views} views of its disk and {files} files"
        ));
    }
    Ok(())
}

/// Checks that every record of a store's log belongs to a peer that lives there, of which `peers` names one a region.
///
/// One gap is known: a peer that never had data leaves its term, vote and promise behind if its store starts anew and the
/// region removes it meanwhile. A split that is to be replayed may need them, so that the start cannot drop them, and
/// nobody asks for them again. Such a peer has no base, no entry and no tombstone.
///
/// # Errors
/// A sentence that names a record that was left behind.
pub fn check_log(
    store: StoreId,
    disk: &dyn Engine,
    peers: &BTreeMap<RegionId, PeerId>,
) -> Result<(), String> {
    let (start, end) = keys::log_bounds();
    let mut left = None;
    let scanned = disk.log_scan(&start, &end, &mut |key, _| {
        let Some(record) = keys::parse_log_key(key) else { return true };
        let of = match record {
            LogKey::HardState(region, peer)
            | LogKey::Base(region, peer)
            | LogKey::Entry(region, peer, _)
            | LogKey::Promise(region, peer) => (region, peer),
            LogKey::Round | LogKey::OwnEpoch | LogKey::Proof | LogKey::Supported(_) => return true,
        };
        let had_no_data = || {
            let state = disk.get(&keys::region_state(of.0)).ok().flatten().and_then(RegionState::decode);
            let is_buried = matches!(state, Some(RegionState::Tombstone { peer, .. }) if peer == of.1);
            matches!(record, LogKey::HardState(..) | LogKey::Promise(..)) && !is_buried
        };
        if peers.get(&of.0) != Some(&of.1) && !had_no_data() {
            left = Some(record);
        }
        left.is_none()
    });
    match left {
        Some(record) => Err(format!("the log of store {store} at rest still has {record:?}")),
        None => scanned.map_err(|error| format!("the log of store {store} cannot be read: {error}")),
    }
}

/// Checks that a region found on a disk is there by its newest descriptor.
///
/// # Errors
/// A sentence that names the replica that was left behind.
pub fn check_member(store: StoreId, found: &Region, newest: &Region) -> Result<(), String> {
    if newest.peer_on(store).is_some_and(|peer| found.peer(peer.id).is_some()) {
        return Ok(());
    }
    Err(format!(
        "store {store} still has region {} as {:?}; now it has {:?}",
        found.id, found.peers, newest.peers
    ))
}

/// Checks a store's route table against the regions that there are.
///
/// # Errors
/// A sentence that names a region that the table has not, has too old, or has although it is gone.
pub fn check_table(
    store: StoreId,
    table: &RouteTable,
    regions: &BTreeMap<RegionId, Region>,
) -> Result<(), String> {
    for region in regions.values() {
        let known = table.by_id(region.id).map(|info| info.region.epoch);
        if known != Some(region.epoch) {
            return Err(format!(
                "store {store} knows region {} at epoch {known:?}, and it is at {:?}",
                region.id, region.epoch
            ));
        }
    }
    match table.iter().find(|info| !regions.contains_key(&info.region.id)) {
        None => Ok(()),
        Some(info) => Err(format!("store {store} knows region {}, which is gone", info.region.id)),
    }
}
