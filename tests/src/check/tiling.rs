//! Ranges (PITFALLS.md I1): the regions that live on a store's disk are disjoint at every moment, and at rest the
//! leaders' regions tile the key space.

use flotilla_engine::EngineSnapshot;
use flotilla_raftstore::RegionState;
use flotilla_region::{Region, Space, StoreId, keys};

/// The regions that live on a disk.
///
/// # Errors
/// A record cannot be read.
pub fn regions_on(view: &dyn EngineSnapshot) -> Result<Vec<Region>, String> {
    let (start, end) = keys::region_bounds();
    let (mut regions, mut damaged) = (Vec::new(), false);
    let scanned = view.scan(&start, &end, &mut |key, value| {
        if keys::parse_region_state(key).is_some() {
            match RegionState::decode(value.to_vec().into()) {
                Some(RegionState::Normal(region)) => regions.push(region),
                Some(_) => {}
                None => damaged = true,
            }
        }
        true
    });
    if damaged || scanned.is_err() {
        return Err("a region's record cannot be read".into());
    }
    Ok(regions)
}

/// Checks that no two regions of a disk overlap; returns them.
///
/// # Errors
/// A sentence that names two that do.
pub fn check_disjoint(store: StoreId, view: &dyn EngineSnapshot) -> Result<Vec<Region>, String> {
    let regions = regions_on(view)?;
    for (i, a) in regions.iter().enumerate() {
        for b in &regions[i + 1..] {
            if a.space == b.space && a.range.overlaps(&b.range) {
                return Err(format!(
                    "regions {} {:?} version {} and {} {:?} version {} overlap on store {store}",
                    a.id, a.range, a.epoch.version, b.id, b.range, b.epoch.version
                ));
            }
        }
    }
    Ok(regions)
}

/// Checks that regions cover the user space without gap or overlap.
///
/// # Errors
/// A sentence that names the place.
pub fn check_tiling<'a>(regions: impl Iterator<Item = &'a Region>) -> Result<(), String> {
    let mut sorted: Vec<&Region> = regions.filter(|r| r.space == Space::User).collect();
    sorted.sort_by(|a, b| a.range.start.cmp(&b.range.start));
    let mut expected = Some(bytes::Bytes::new());
    for region in sorted {
        if expected.as_ref() != Some(&region.range.start) {
            return Err(format!(
                "region {} {:?} does not begin where the one before ends",
                region.id, region.range
            ));
        }
        expected = Some(region.range.end.clone()).filter(|end| !end.is_empty());
    }
    match expected {
        None => Ok(()),
        Some(end) => Err(format!("no region holds keys from {} on", end.escape_ascii())),
    }
}
