//! Log matching (Raft thesis, figure 3.2; PITFALLS.md I3): two entries of a region with the same index and term are the
//! same on all disks, and so are the entries before them. The second half is looked at where nothing is under way: a
//! crash may leave entries behind a gap until the restarted store has deleted them.

use std::collections::BTreeMap;

use flotilla_engine::{Engine, MemEngine};
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
    /// Checks everything in a store's `log`, which is at rest.
    ///
    /// # Errors
    /// A sentence that names two logs that differ.
    pub fn check_at_rest(&mut self, store: StoreId, disk: &dyn Engine) -> Result<(), String> {
        let (start, end) = keys::log_bounds();
        self.check(store, true, |visit| disk.log_scan(&start, &end, visit))
    }

    /// Checks what a store's `log` has and did not have when it was last looked at: what was found to match then still
    /// does, since what is known of an entry never changes.
    ///
    /// # Errors
    /// A sentence that names two logs that differ.
    pub fn check_news(&mut self, store: StoreId, disk: &MemEngine) -> Result<(), String> {
        let (start, end) = keys::log_bounds();
        self.check(store, false, |visit| disk.log_scan_news((&start, &end), visit))
    }

    fn check(
        &mut self,
        store: StoreId,
        at_rest: bool,
        scan: impl FnOnce(&mut dyn FnMut(&[u8], &[u8]) -> bool) -> flotilla_engine::Result<()>,
    ) -> Result<(), String> {
        let (mut before, mut found) = (None, Ok(()));
        let scanned = scan(&mut |key, value| {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flotilla_engine::WriteBatch;
    use flotilla_region::{Index, PeerId};

    use super::*;

    /// Writes an entry of region 7.
    fn write(disk: &MemEngine, peer: u64, (index, term): (u64, u64), command: &[u8]) {
        let value = [&term.to_be_bytes()[..], command].concat();
        let mut batch = WriteBatch::new();
        batch.put(&keys::log_entry(RegionId(7), PeerId(peer), Index(index)), &value);
        disk.log_write(&batch).unwrap();
    }

    fn disks() -> [Arc<MemEngine>; 2] {
        let disks = [MemEngine::new(1), MemEngine::new(2)];
        for (peer, disk) in (1..).zip(&disks) {
            [(5, 1), (6, 1), (7, 2)].into_iter().for_each(|at| write(disk, peer, at, b"same"));
        }
        disks
    }

    fn news(logs: &mut LogMatching, disks: &[Arc<MemEngine>; 2]) -> Result<(), String> {
        logs.check_news(StoreId(1), &disks[0]).and_then(|()| logs.check_news(StoreId(2), &disks[1]))
    }

    #[test]
    fn an_entry_that_differs_is_found_when_it_is_new_and_when_it_is_changed() {
        let (mut logs, disks) = (LogMatching::default(), disks());
        assert_eq!(news(&mut logs, &disks), Ok(()));
        write(&disks[0], 1, (8, 2), b"one");
        assert_eq!(news(&mut logs, &disks), Ok(()));
        write(&disks[1], 2, (8, 3), b"another term");
        assert_eq!(news(&mut logs, &disks), Ok(()));
        write(&disks[1], 2, (8, 2), b"two");
        let found = news(&mut logs, &disks).unwrap_err();
        assert_eq!(found, "logs of region 7 differ at index 8 term 2: stores 1 and 2");

        let (mut logs, disks) = (LogMatching::default(), self::disks());
        assert_eq!(news(&mut logs, &disks), Ok(()));
        write(&disks[0], 1, (6, 1), b"changed later");
        let found = news(&mut logs, &disks).unwrap_err();
        assert_eq!(found, "logs of region 7 differ at index 6 term 1: stores 1 and 1");
        assert_eq!(news(&mut logs, &disks), Err(found), "and found again");
    }

    #[test]
    fn an_entry_that_a_crash_brings_back_is_compared() {
        let (mut logs, disks) = (LogMatching::default(), disks());
        write(&disks[0], 1, (6, 1), b"differs");
        disks[0].log_sync().unwrap();
        write(&disks[0], 1, (6, 1), b"same");
        assert_eq!(news(&mut logs, &disks), Ok(()));
        disks[0].crash_with(&flotilla_engine::CrashPlan { log_kept: vec![], data_kept: 0 });
        assert!(news(&mut logs, &disks).is_err());
    }

    #[test]
    fn entries_before_one_that_is_the_same_are_the_same_at_rest() {
        let (mut logs, disks) = (LogMatching::default(), disks());
        write(&disks[1], 2, (6, 2), b"other term");
        assert_eq!(news(&mut logs, &disks), Ok(()));
        assert_eq!(logs.check_at_rest(StoreId(1), &*disks[0]), Ok(()));
        let found = logs.check_at_rest(StoreId(2), &*disks[1]).unwrap_err();
        assert_eq!(found, "logs of region 7 differ at index 7 term 2: stores 1 and 2");
    }
}
