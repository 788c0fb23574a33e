//! A client never takes older knowledge of a region over newer (PITFALLS.md T17, T26): epochs decide, not key bounds.

use flotilla_router::RegionCache;

/// Checks a route table against what it was before one change.
///
/// # Errors
/// A sentence that names a region that went back.
pub fn check_routes(before: &RegionCache, after: &RegionCache) -> Result<(), String> {
    for new in after.iter().map(|route| &route.region) {
        for old in before.iter().map(|route| &route.region) {
            let same = old.id == new.id && new.epoch.is_stale_against(&old.epoch);
            let other =
                old.id != new.id && old.range.overlaps(&new.range) && old.epoch.version > new.epoch.version;
            if same || other {
                return Err(format!(
                    "a client took region {} {:?} {:?} over region {} {:?} {:?}",
                    new.id, new.range, new.epoch, old.id, old.range, old.epoch
                ));
            }
        }
    }
    Ok(())
}
