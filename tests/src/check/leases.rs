//! Lease exclusion (PITFALLS.md I6): at no moment of global time do two peers hold valid leases over one key.

use std::sync::Arc;

use flotilla_region::{Region, StoreId};

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
    for (i, a) in held.iter().enumerate() {
        for b in &held[i + 1..] {
            let overlap = a.region.space == b.region.space && a.region.range.overlaps(&b.region.range);
            if overlap {
                return Err(format!(
                    "two valid leases over one range: store {} on region {} {:?} version {}, store {} on region {} \
                     {:?} version {}",
                    a.store,
                    a.region.id,
                    a.region.range,
                    a.region.epoch.version,
                    b.store,
                    b.region.id,
                    b.region.range,
                    b.region.epoch.version
                ));
            }
        }
    }
    Ok(())
}
