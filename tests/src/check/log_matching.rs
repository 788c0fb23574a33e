//! Log matching (Raft thesis, figure 3.2; PITFALLS.md I3): two entries of a region with the same index and term are the
//! same on all disks, and so are the entries before them. The second half is looked at where nothing is under way: a
//! crash may leave entries behind a gap until the restarted store has deleted them.

use std::collections::BTreeMap;

use flotilla_engine::Engine;
use flotilla_region::{RegionId, StoreId, keys};

#[derive(Clone, Copy, Debug)]
struct Seen {
    store: StoreId,
    hash: u32,
    /// Term of the entry before, where some log at rest has it.
    before: Option<[u8; 8]>,
}

/// Entries by region, index and term.
#[derive(Default)]
pub struct LogMatching {
    seen: BTreeMap<(RegionId, u64, [u8; 8]), Seen>,
}

impl LogMatching {
    /// Checks everything in a store's `log`.
    ///
    /// # Errors
    /// A sentence that names two logs that differ.
    pub fn check(&mut self, store: StoreId, disk: &dyn Engine, at_rest: bool) -> Result<(), String> {
        let (start, end) = keys::log_bounds();
        let (mut before, mut found) = (None, Ok(()));
        let scanned = disk.log_scan(&start, &end, &mut |key, value| {
            let Some(keys::LogKey::Entry(region, peer, index)) = keys::parse_log_key(key) else {
                return true;
            };
            let Some(term) = value.first_chunk::<8>().copied() else {
                found = Err(format!("entry {} of region {region} on store {store} is malformed", index.0));
                return false;
            };
            let follows = |(owner, last, _): &(_, u64, _)| *owner == (region, peer) && last + 1 == index.0;
            let previous = before.filter(|entry| at_rest && follows(entry)).map(|(.., term)| term);
            let entry = Seen { store, hash: crc32fast::hash(value), before: previous };
            found = self.compare((region, index.0, term), entry);
            before = Some(((region, peer), index.0, term));
            found.is_ok()
        });
        // A disk that cannot be read is not this checker's business.
        scanned.map_or(Ok(()), |()| found)
    }

    fn compare(&mut self, entry: (RegionId, u64, [u8; 8]), now: Seen) -> Result<(), String> {
        let first = self.seen.entry(entry).or_insert(now);
        first.before = first.before.or(now.before);
        if first.hash == now.hash && (now.before.is_none() || first.before == now.before) {
            return Ok(());
        }
        let (region, index, term) = (entry.0, entry.1, u64::from_be_bytes(entry.2));
        Err(format!(
            "logs of region {region} differ at index {index} term {term}: stores {} and {}",
            first.store, now.store
        ))
    }
}
