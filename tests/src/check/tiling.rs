//! Ranges (PITFALLS.md I1): the regions that live on a store's disk are disjoint at every moment, and at rest the
//! leaders' regions tile the key space.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::EngineSnapshot;
use flotilla_raftstore::RegionState;
use flotilla_region::{Region, Space, StoreId, keys};

/// Records of regions, as they are on a disk.
type Records = Vec<Bytes>;

/// The regions that live on a disk.
///
/// # Errors
/// A record cannot be read.
pub fn regions_on(view: &dyn EngineSnapshot) -> Result<Vec<Region>, String> {
    let mut records = Records::new();
    read_records(view, &mut records)?;
    decode(&records)
}

/// Reads all records; keeps those that `records` has already, so that one which did not change is not copied. Returns
/// whether nothing has changed.
fn read_records(view: &dyn EngineSnapshot, records: &mut Records) -> Result<bool, String> {
    let (start, end) = keys::region_bounds();
    let (mut count, mut same) = (0, true);
    let scanned = view.scan(&start, &end, &mut |key, value| {
        if keys::parse_region_state(key).is_none() {
            return true;
        }
        match records.get_mut(count) {
            Some(record) if record == value => {}
            Some(record) => (*record, same) = (Bytes::copy_from_slice(value), false),
            None => {
                records.push(Bytes::copy_from_slice(value));
                same = false;
            }
        }
        count += 1;
        true
    });
    same &= records.len() == count;
    records.truncate(count);
    scanned.map(|()| same).map_err(|_| UNREADABLE.into())
}

fn decode(records: &Records) -> Result<Vec<Region>, String> {
    let mut regions = Vec::new();
    for record in records {
        match RegionState::decode(record.clone()) {
            Some(RegionState::Normal(region)) => regions.push(region),
            Some(_) => {}
            None => return Err(UNREADABLE.into()),
        }
    }
    Ok(regions)
}

const UNREADABLE: &str = "a region's record cannot be read";

/// Regions of disks, as they were at the last look.
#[derive(Default)]
pub struct Disks {
    /// A disk that was found to be sound: its records, and the regions in them.
    sound: BTreeMap<StoreId, (Records, Vec<Region>)>,
}

impl Disks {
    /// Checks that no two regions of a disk overlap; returns them. Records that are the same as at the last look hold
    /// the same regions.
    ///
    /// # Errors
    /// A sentence that names two that do.
    pub fn check(&mut self, store: StoreId, view: &dyn EngineSnapshot) -> Result<&[Region], String> {
        let (mut records, mut regions) = self.sound.remove(&store).unwrap_or_default();
        if !read_records(view, &mut records)? {
            regions = decode(&records)?;
            check_disjoint(store, &regions)?;
        }
        Ok(&self.sound.entry(store).or_insert((records, regions)).1)
    }
}

fn check_disjoint(store: StoreId, regions: &[Region]) -> Result<(), String> {
    match first_overlap(regions, |region| region) {
        None => Ok(()),
        Some((a, b)) => Err(format!(
            "regions {} {:?} version {} and {} {:?} version {} overlap on store {store}",
            a.id, a.range, a.epoch.version, b.id, b.range, b.epoch.version
        )),
    }
}

/// Two whose regions overlap, if any do: in the order of their starts, two neighbours then do.
pub fn first_overlap<T>(all: &[T], region: impl Fn(&T) -> &Region) -> Option<(&T, &T)> {
    let mut sorted: Vec<&T> = all.iter().collect();
    sorted.sort_by(|a, b| {
        let (a, b) = (region(a), region(b));
        (a.space, &a.range.start).cmp(&(b.space, &b.range.start))
    });
    let overlap = |a: &Region, b: &Region| a.space == b.space && a.range.overlaps(&b.range);
    sorted.windows(2).find(|pair| overlap(region(pair[0]), region(pair[1]))).map(|pair| (pair[0], pair[1]))
}

/// Checks that regions cover the user space without gap or overlap.
///
/// # Errors
/// A sentence that names the place.
pub fn check_tiling<'a>(regions: impl Iterator<Item = &'a Region>) -> Result<(), String> {
    let mut sorted: Vec<&Region> = regions.filter(|r| r.space == Space::User).collect();
    sorted.sort_by(|a, b| a.range.start.cmp(&b.range.start));
    let mut expected = Some(Bytes::new());
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
