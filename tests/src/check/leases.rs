//! Lease exclusion (PITFALLS.md I6): at no moment of global time do two peers hold valid leases over one key.

use std::sync::Arc;

use flotilla_region::{Region, StoreId};

use super::tiling::first_overlap;

/// A lease that is valid now.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Where.
    pub store: StoreId,
    /// Over what.
    pub region: Arc<Region>,
}

/// Checks leases that are valid at the same moment.
///
/// # Errors
/// A sentence that names two that overlap.
pub fn check_leases(held: &[Lease]) -> Result<(), String> {
    match first_overlap(held, |lease| &lease.region) {
        None => Ok(()),
        Some((a, b)) => Err(format!(
            "two valid leases over one range: store {} on region {} {:?} version {}, store {} on region {} {:?} \
             version {}",
            a.store,
            a.region.id,
            a.region.range,
            a.region.epoch.version,
            b.store,
            b.region.id,
            b.region.range,
            b.region.epoch.version
        )),
    }
}
