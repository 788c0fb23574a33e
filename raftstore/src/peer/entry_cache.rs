//! Entries kept in memory, for followers that lack them: the tail of one log, within a budget of the whole store.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_raft::Entry;
use flotilla_region::Index;

/// Bytes that an entry takes beside its data.
const ENTRY_BYTES: u64 = size_of::<Entry>() as u64;

/// The tail of a log. Invariant: contiguous; its bytes are counted in what all caches of a store use, which the methods
/// are given. The owner clears it before it ends.
#[derive(Default)]
pub(crate) struct EntryCache {
    entries: VecDeque<Entry>,
    bytes: u64,
}

fn bytes_of(entry: &Entry) -> u64 {
    ENTRY_BYTES + entry.data.len() as u64
}

impl EntryCache {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Index of the first entry.
    pub(crate) fn first(&self) -> Option<Index> {
        self.entries.front().map(|entry| entry.index)
    }

    pub(crate) fn get(&self, index: Index) -> Option<&Entry> {
        self.entries.get(index.0.checked_sub(self.first()?.0)? as usize)
    }

    /// Entries of `[low, high)`, all of them in the cache.
    pub(crate) fn range(&self, low: Index, high: Index) -> impl Iterator<Item = &Entry> {
        let first = self.first().unwrap_or(low);
        self.entries.range((low.0 - first.0) as usize..(high.0 - first.0) as usize)
    }

    /// Entries that follow, or that replace what is there from the first of them on.
    pub(crate) fn append(&mut self, entries: impl IntoIterator<Item = Entry>, used: &AtomicU64) {
        let (mut gone, mut come) = (0, 0);
        for entry in entries {
            while let Some(old) = self.entries.back().filter(|old| old.index >= entry.index) {
                gone += bytes_of(old);
                self.entries.pop_back();
            }
            come += bytes_of(&entry);
            self.entries.push_back(entry);
        }
        self.count(come, gone, used);
    }

    /// Entries that end where the cache begins.
    pub(crate) fn prepend(&mut self, entries: Vec<Entry>, used: &AtomicU64) {
        self.count(entries.iter().map(bytes_of).sum(), 0, used);
        entries.into_iter().rev().for_each(|entry| self.entries.push_front(entry));
    }

    /// Drops entries up to `to`.
    pub(crate) fn evict(&mut self, to: Index, used: &AtomicU64) {
        let mut gone = 0;
        while let Some(entry) = self.entries.front().filter(|entry| entry.index <= to) {
            gone += bytes_of(entry);
            self.entries.pop_front();
        }
        self.count(0, gone, used);
    }

    /// Drops all, and their memory.
    pub(crate) fn clear(&mut self, used: &AtomicU64) {
        self.entries = VecDeque::new();
        self.count(0, self.bytes, used);
    }

    fn count(&mut self, come: u64, gone: u64, used: &AtomicU64) {
        self.bytes = self.bytes + come - gone;
        used.fetch_add(come.wrapping_sub(gone), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn entries(indexes: std::ops::Range<u64>) -> Vec<Entry> {
        let data = Bytes::from_static(b"ten bytes.");
        indexes.map(|index| Entry { index: Index(index), data: data.clone(), ..Entry::default() }).collect()
    }

    fn indexes(cache: &EntryCache) -> Vec<u64> {
        cache.entries.iter().map(|entry| entry.index.0).collect()
    }

    #[test]
    fn every_byte_that_comes_goes() {
        let used = AtomicU64::new(0);
        let count = || used.load(Ordering::Relaxed) / (ENTRY_BYTES + 10);
        let (mut cache, mut other) = (EntryCache::default(), EntryCache::default());
        cache.append(entries(5..8), &used);
        assert_eq!(count(), 3);
        cache.append(entries(7..10), &used);
        assert_eq!((indexes(&cache), count()), (vec![5, 6, 7, 8, 9], 5));
        cache.evict(Index(6), &used);
        assert_eq!((indexes(&cache), count()), (vec![7, 8, 9], 3));
        cache.prepend(entries(4..7), &used);
        let at = |index| cache.get(Index(index)).map(|entry| entry.index.0);
        assert_eq!([3, 4, 9, 10].map(at), [None, Some(4), Some(9), None]);
        assert_eq!(cache.range(Index(5), Index(7)).map(|entry| entry.index.0).collect::<Vec<_>>(), [5, 6]);
        other.append(entries(1..3), &used);
        assert_eq!(count(), 8);
        cache.clear(&used);
        assert_eq!((cache.is_empty(), count()), (true, 2));
        other.evict(Index(2), &used);
        assert_eq!(used.load(Ordering::Relaxed), 0);
    }
}
