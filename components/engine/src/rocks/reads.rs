//! Point reads, scans and snapshots.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{DB, DBRawIterator, ReadOptions, ReadTier, SnapshotWithThreadMode};

use crate::{EngineSnapshot, Result, Size};

use super::convert;

pub(super) fn get(db: &DB, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>> {
    let value = db.get_pinned_opt(key, options).map_err(convert)?;
    Ok(value.map(|value| Bytes::copy_from_slice(&value)))
}

/// Visits `[start, end)` in the given direction; nothing if the range is empty or inverted.
pub(super) fn scan(
    db: &DB,
    mut options: ReadOptions,
    (start, end): (&[u8], &[u8]),
    reverse: bool,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<()> {
    if start >= end {
        return Ok(());
    }
    options.set_iterate_range(start.to_vec()..end.to_vec());
    let mut iterator: DBRawIterator<'_> = db.raw_iterator_opt(options);
    if reverse {
        iterator.seek_to_last();
    } else {
        iterator.seek_to_first();
    }
    while let Some((key, value)) = iterator.item() {
        if !visit(key, value) {
            return Ok(());
        }
        if reverse {
            iterator.prev();
        } else {
            iterator.next();
        }
    }
    iterator.status().map_err(convert)
}

/// Keys and values of `[start, end)` that are in memtables only.
pub(super) fn memtable_size(db: &DB, start: &[u8], end: &[u8]) -> Result<Size> {
    let mut options = ReadOptions::default();
    options.set_read_tier(ReadTier::Memtable);
    let mut size = Size::default();
    scan(db, options, (start, end), false, &mut |key, value| {
        size.bytes += (key.len() + value.len()) as u64;
        size.keys += 1;
        true
    })?;
    Ok(size)
}

/// A RocksDB snapshot that keeps its instance open.
pub(super) struct RocksSnapshot {
    /// Borrows from `db`; declared first, so dropped first.
    snapshot: SnapshotWithThreadMode<'static, DB>,
    db: Arc<DB>,
}

impl RocksSnapshot {
    pub(super) fn new(db: &Arc<DB>) -> Self {
        let snapshot = db.snapshot();
        // SAFETY: only the lifetime changes. The snapshot borrows the `DB` inside the `Arc`, which does not move and
        // which `self.db` keeps alive until after `self.snapshot` is dropped (fields drop in order of declaration).
        // Nothing hands out the snapshot with the longer lifetime.
        #[allow(unsafe_code)]
        let snapshot = unsafe {
            std::mem::transmute::<SnapshotWithThreadMode<'_, DB>, SnapshotWithThreadMode<'static, DB>>(
                snapshot,
            )
        };
        Self { snapshot, db: Arc::clone(db) }
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options
    }
}

impl EngineSnapshot for RocksSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        get(&self.db, key, &self.options())
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        scan(&self.db, self.options(), (start, end), false, visit)
    }

    fn scan_once(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        let mut options = self.options();
        options.fill_cache(false);
        scan(&self.db, options, (start, end), false, visit)
    }

    fn scan_reverse(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        scan(&self.db, self.options(), (start, end), true, visit)
    }
}
