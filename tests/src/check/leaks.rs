//! Nothing is left over at rest (PITFALLS.md I7): no request holds memory, no snapshot a range, a stream or a view of the
//! disk, and no store has a replica that its region does not name.

use flotilla_raftstore::Held;
use flotilla_region::{Region, StoreId};

/// Checks what a store at rest still holds.
///
/// # Errors
/// A sentence that names what was not given back.
pub fn check_held(store: StoreId, held: &Held, snapshots: usize) -> Result<(), String> {
    if *held != Held::default() || snapshots > 0 {
        return Err(format!("store {store} at rest holds {held:?} and {snapshots} views of its disk"));
    }
    Ok(())
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
