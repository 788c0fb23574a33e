//! A storage in memory, for tests and examples.

use crate::{
    storage::{FetchContext, Storage, StorageError, StorageResult},
    types::{ConfState, Entry, HardState, Index, PeerId, Snapshot, SnapshotMeta, Term},
};

/// Log, hard state and snapshot in memory. It is as durable as its owner makes it.
///
/// Invariant: `entries[i].index == base + 1 + i`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemStorage {
    hard_state: HardState,
    snapshot: Snapshot,
    /// Position just before the first entry.
    base: Index,
    base_term: Term,
    entries: Vec<Entry>,
}

impl MemStorage {
    /// An empty storage: no members, first index 1.
    pub fn new() -> Self {
        Self::default()
    }

    /// A storage that starts from a snapshot.
    pub fn with_snapshot(snapshot: Snapshot) -> Self {
        let SnapshotMeta { index: base, term: base_term, .. } = snapshot.meta;
        Self { snapshot, base, base_term, ..Self::default() }
    }

    /// A group of `voters` that starts with an empty log. Peers added later could not learn of these voters; groups
    /// that change start from [`Self::with_snapshot`] or [`crate::RawNode::bootstrap`].
    pub fn with_voters(voters: impl IntoIterator<Item = PeerId>) -> Self {
        Self::with_conf_state(ConfState { voters: voters.into_iter().collect(), ..ConfState::default() })
    }

    /// Like [`Self::with_voters`], with any membership.
    pub fn with_conf_state(conf_state: ConfState) -> Self {
        let mut storage = Self::default();
        storage.snapshot.meta.conf_state = conf_state;
        storage
    }

    /// Stored hard state.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Stores the hard state.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Stored entries.
    pub fn entries_slice(&self) -> &[Entry] {
        &self.entries
    }

    /// Stored snapshot.
    pub fn snapshot_ref(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Replaces everything by a snapshot.
    ///
    /// # Errors
    /// `SnapshotOutOfDate`: the stored one is at least as new.
    pub fn apply_snapshot(&mut self, snapshot: Snapshot) -> StorageResult<()> {
        let own = self.snapshot.meta.index;
        if !own.is_zero() && own >= snapshot.meta.index {
            return Err(StorageError::SnapshotOutOfDate);
        }
        *self = Self { hard_state: self.hard_state, ..Self::with_snapshot(snapshot) };
        Ok(())
    }

    /// Makes the snapshot that is handed to others, at an index that the log has.
    ///
    /// # Errors
    /// `SnapshotOutOfDate` below the stored snapshot, `Unavailable` beyond the log.
    pub fn create_snapshot(
        &mut self,
        index: Index,
        conf_state: ConfState,
        data: bytes::Bytes,
    ) -> StorageResult<()> {
        if index <= self.snapshot.meta.index {
            return Err(StorageError::SnapshotOutOfDate);
        }
        let term = self.term(index)?;
        self.snapshot = Snapshot { meta: SnapshotMeta { index, term, conf_state }, data };
        Ok(())
    }

    /// Drops entries up to and including `index`; its term stays known.
    ///
    /// # Errors
    /// `Compacted` if that was done already.
    ///
    /// # Panics
    /// If `index` lies beyond the log.
    pub fn compact(&mut self, index: Index) -> StorageResult<()> {
        if index <= self.base {
            return Err(StorageError::Compacted);
        }
        let count = (index.0 - self.base.0) as usize;
        assert!(count <= self.entries.len(), "compacting to {index} beyond the last entry");
        self.base_term = self.entries[count - 1].term;
        self.base = index;
        self.entries.drain(..count);
        Ok(())
    }

    /// Moves entries over, replacing what is at or after the first one's index; compacted ones are skipped.
    /// The list is empty afterwards: write it to a log of your own before.
    ///
    /// # Panics
    /// If they leave a gap.
    pub fn append(&mut self, entries: &mut Vec<Entry>) {
        let fresh = entries.iter().position(|entry| entry.index > self.base).unwrap_or(entries.len());
        let Some(first) = entries.get(fresh) else { return entries.clear() };
        let keep = (first.index.0 - self.base.0 - 1) as usize;
        assert!(keep <= self.entries.len(), "appending at {} would leave a gap", first.index);
        self.entries.truncate(keep);
        entries.drain(..fresh);
        self.entries.append(entries);
    }
}

impl Storage for MemStorage {
    fn initial_state(&self) -> StorageResult<(HardState, ConfState)> {
        Ok((self.hard_state, self.snapshot.meta.conf_state.clone()))
    }

    fn entries_into(
        &self,
        low: Index,
        high: Index,
        bytes_max: u64,
        _context: FetchContext,
        out: &mut Vec<Entry>,
    ) -> StorageResult<()> {
        if low <= self.base {
            return Err(StorageError::Compacted);
        }
        if high.0 > self.base.0 + self.entries.len() as u64 + 1 {
            return Err(StorageError::Unavailable);
        }
        let slice = &self.entries[(low.0 - self.base.0 - 1) as usize..(high.0 - self.base.0 - 1) as usize];
        out.extend_from_slice(&slice[..crate::entry::limit_count(slice, bytes_max)]);
        Ok(())
    }

    fn term(&self, index: Index) -> StorageResult<Term> {
        if index < self.base {
            return Err(StorageError::Compacted);
        }
        if index == self.base {
            return Ok(self.base_term);
        }
        let entry = self.entries.get((index.0 - self.base.0 - 1) as usize);
        entry.map(|entry| entry.term).ok_or(StorageError::Unavailable)
    }

    fn first_index(&self) -> StorageResult<Index> {
        Ok(self.base.next())
    }

    fn last_index(&self) -> StorageResult<Index> {
        Ok(Index(self.base.0 + self.entries.len() as u64))
    }

    fn snapshot(&self, at_least: Index, _to: PeerId) -> StorageResult<Snapshot> {
        if self.snapshot.is_empty() || self.snapshot.meta.index < at_least {
            return Err(StorageError::SnapshotTemporarilyUnavailable);
        }
        Ok(self.snapshot.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index: Index(index), term: Term(term), ..Entry::default() }
    }

    /// Entries 4..=6 of terms 4..=6 after a base of (3, 3).
    fn storage() -> MemStorage {
        let meta = SnapshotMeta { index: Index(3), term: Term(3), ..SnapshotMeta::default() };
        let mut storage = MemStorage::with_snapshot(Snapshot { meta, ..Snapshot::default() });
        storage.append(&mut vec![entry(4, 4), entry(5, 5), entry(6, 6)]);
        storage
    }

    fn indexes(storage: &MemStorage) -> Vec<(u64, u64)> {
        storage.entries.iter().map(|entry| (entry.index.0, entry.term.0)).collect()
    }

    #[test]
    fn terms_are_known_from_the_base_to_the_end() {
        let storage = storage();
        assert_eq!(storage.term(Index(2)), Err(StorageError::Compacted));
        assert_eq!(storage.term(Index(3)), Ok(Term(3)));
        assert_eq!(storage.term(Index(6)), Ok(Term(6)));
        assert_eq!(storage.term(Index(7)), Err(StorageError::Unavailable));
        assert_eq!((storage.first_index(), storage.last_index()), (Ok(Index(4)), Ok(Index(6))));
    }

    #[test]
    fn entries_are_limited_by_size_but_never_to_nothing() {
        let storage = storage();
        let read = |low, high, max| storage.entries(Index(low), Index(high), max, FetchContext::Immediate);
        assert_eq!(read(3, 5, 100), Err(StorageError::Compacted));
        assert_eq!(read(4, 8, 100), Err(StorageError::Unavailable));
        assert_eq!(read(4, 7, 0).map(|entries| entries.len()), Ok(1));
        assert_eq!(read(4, 7, 12).map(|entries| entries.len()), Ok(2));
        assert_eq!(read(4, 7, u64::MAX).map(|entries| entries.len()), Ok(3));
    }

    #[test]
    fn compaction_keeps_the_term_of_its_index() {
        let mut storage = storage();
        assert_eq!(storage.compact(Index(3)), Err(StorageError::Compacted));
        assert_eq!(storage.compact(Index(5)), Ok(()));
        assert_eq!((storage.first_index(), storage.term(Index(5))), (Ok(Index(6)), Ok(Term(5))));
        assert_eq!(storage.compact(Index(6)), Ok(()));
        assert_eq!((storage.first_index(), storage.last_index()), (Ok(Index(7)), Ok(Index(6))));
    }

    #[test]
    fn appends_replace_the_tail_and_skip_what_is_compacted() {
        for (entries, expected) in [
            (vec![entry(1, 1), entry(2, 2)], vec![(4, 4), (5, 5), (6, 6)]),
            (vec![entry(3, 3), entry(4, 7)], vec![(4, 7)]),
            (vec![entry(5, 7)], vec![(4, 4), (5, 7)]),
            (vec![entry(7, 7)], vec![(4, 4), (5, 5), (6, 6), (7, 7)]),
        ] {
            let mut storage = storage();
            storage.append(&mut entries.clone());
            assert_eq!(indexes(&storage), expected);
        }
    }

    #[test]
    fn snapshots_are_created_and_applied_only_forward() {
        let mut storage = storage();
        let created =
            storage.create_snapshot(Index(5), ConfState::default(), bytes::Bytes::from_static(b"x"));
        assert_eq!(created, Ok(()));
        assert_eq!(storage.snapshot(Index(5), PeerId(2)).map(|snapshot| snapshot.meta.term), Ok(Term(5)));
        let newer = storage.snapshot(Index(6), PeerId(2));
        assert_eq!(newer, Err(StorageError::SnapshotTemporarilyUnavailable));
        let old = storage.create_snapshot(Index(5), ConfState::default(), bytes::Bytes::new());
        assert_eq!(old, Err(StorageError::SnapshotOutOfDate));
        let same = storage.snapshot_ref().clone();
        assert_eq!(storage.apply_snapshot(same), Err(StorageError::SnapshotOutOfDate));
        let meta = SnapshotMeta { index: Index(9), term: Term(8), ..SnapshotMeta::default() };
        assert_eq!(storage.apply_snapshot(Snapshot { meta, ..Snapshot::default() }), Ok(()));
        assert_eq!((storage.first_index(), storage.last_index()), (Ok(Index(10)), Ok(Index(9))));
    }
}
