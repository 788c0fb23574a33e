//! How much a range of `data` holds, from what files say of themselves.

use std::sync::Arc;

use parking_lot::Mutex;
use rocksdb::{DB, Range, properties};

use super::reads;
use crate::Size;

/// A file of `data`.
struct File {
    start: Vec<u8>,
    end: Vec<u8>,
    bytes: u64,
    /// Pairs that it adds, less those that it deletes.
    keys: u64,
}

/// The files of one version of the tree.
#[derive(Default)]
struct Files {
    version: Option<u64>,
    files: Vec<File>,
}

/// Estimates sizes; remembers the list of files as long as it is valid.
#[derive(Default)]
pub(super) struct Sizes {
    files: Mutex<Arc<Files>>,
}

impl Sizes {
    /// What `[start, end)` holds: bytes of files as RocksDB estimates them, and as many keys as files that meet the range
    /// have to so many bytes; what is in memory is counted.
    pub(super) fn of(&self, db: &DB, start: &[u8], end: &[u8]) -> Size {
        let in_files = db.get_approximate_sizes(&[Range::new(start, end)]).first().copied().unwrap_or(0);
        // An estimate: a range that cannot be read counts as what its files say.
        let in_memory = reads::memtable_size(db, start, end).unwrap_or_default();
        let keys = if in_files == 0 { 0 } else { self.keys_of(db, (start, end), in_files) };
        Size { bytes: in_files + in_memory.bytes, keys: keys + in_memory.keys }
    }

    fn keys_of(&self, db: &DB, (start, end): (&[u8], &[u8]), bytes: u64) -> u64 {
        let files = self.files(db);
        let (mut keys, mut whole) = (0, 0);
        for file in files.files.iter().filter(|file| &file.start[..] < end && &file.end[..] >= start) {
            keys += file.keys;
            whole += file.bytes;
        }
        (u128::from(keys) * u128::from(bytes)).checked_div(u128::from(whole)).unwrap_or(0) as u64
    }

    fn files(&self, db: &DB) -> Arc<Files> {
        let mut known = self.files.lock();
        let version = db.property_int_value(properties::CURRENT_SUPER_VERSION_NUMBER).ok().flatten();
        if version.is_none() || known.version != version {
            let live = db.live_files().unwrap_or_default().into_iter();
            let files = live.map(|file| File {
                start: file.start_key.unwrap_or_default(),
                end: file.end_key.unwrap_or_default(),
                bytes: file.size as u64,
                keys: file.num_entries.saturating_sub(2 * file.num_deletions),
            });
            *known = Arc::new(Files { version, files: files.collect() });
        }
        known.clone()
    }
}
