//! No needless snapshot after a split (PITFALLS.md T3): a store that is slow to apply a split is not sent the child that
//! the split will bring to it.

use flotilla_region::{Region, StoreId};

/// The region on a store's disk whose split will create `child` there.
pub fn parent_of<'a>(child: &Region, to: StoreId, disk: &'a [Region]) -> Option<&'a Region> {
    disk.iter().find(|parent| {
        parent.id != child.id
            && parent.space == child.space
            && parent.range.overlaps(&child.range)
            && parent.epoch.version < child.epoch.version
            && parent.peer_on(to).is_some()
    })
}

/// Checks a snapshot that is on its way in a cluster where nothing fails and no log is cut short.
///
/// # Errors
/// A sentence that names the snapshot.
pub fn check_needed(child: &Region, to: StoreId, disk: &[Region]) -> Result<(), String> {
    match parent_of(child, to, disk) {
        None => Ok(()),
        Some(parent) => Err(format!(
            "store {to} is sent a snapshot of region {}, which a split of region {} is about to bring there",
            child.id, parent.id
        )),
    }
}
