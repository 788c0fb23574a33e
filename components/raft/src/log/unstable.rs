//! The tail of the log that is not known to be durable.

use crate::types::{Entry, Index, Snapshot, SnapshotMeta, Term};

/// Entries and a snapshot that storage has not confirmed yet.
///
/// A part of it may be *in progress*: handed out for writing, not confirmed. Entries that replace others are handed
/// out again.
///
/// Invariants: `entries[i].index == offset + i`; `offset <= in_progress <= offset + entries.len()`; a snapshot, if
/// any, lies just before `offset`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unstable {
    snapshot: Option<Box<Snapshot>>,
    entries: Vec<Entry>,
    offset: Index,
    in_progress: Index,
    snapshot_in_progress: bool,
}

impl Unstable {
    /// Nothing unstable; the next entry is `offset`.
    pub fn new(offset: Index) -> Self {
        Self { offset, in_progress: offset, ..Self::default() }
    }

    /// Index of the first unstable entry, or of the next one to come.
    pub fn offset(&self) -> Index {
        self.offset
    }

    /// First index, if a snapshot defines it.
    pub fn first_index(&self) -> Option<Index> {
        self.snapshot.as_ref().map(|snapshot| snapshot.meta.index.next())
    }

    /// Last index, if there is an unstable entry or snapshot.
    pub fn last_index(&self) -> Option<Index> {
        match self.entries.last() {
            Some(last) => Some(last.index),
            None => self.snapshot.as_ref().map(|snapshot| snapshot.meta.index),
        }
    }

    /// Term at `index`, if it is in here.
    pub fn term(&self, index: Index) -> Option<Term> {
        if index < self.offset {
            let meta = &self.snapshot.as_ref()?.meta;
            return (meta.index == index).then_some(meta.term);
        }
        self.entries.get((index.0 - self.offset.0) as usize).map(|entry| entry.term)
    }

    /// Whether any entry is not known to be durable, in progress or not.
    pub fn has_entries(&self) -> bool {
        !self.entries.is_empty()
    }

    /// Entries that were not handed out for writing.
    pub fn next_entries(&self) -> &[Entry] {
        &self.entries[(self.in_progress.0 - self.offset.0) as usize..]
    }

    /// The snapshot, if it was not handed out for writing.
    pub fn next_snapshot(&self) -> Option<&Snapshot> {
        if self.snapshot_in_progress { None } else { self.snapshot.as_deref() }
    }

    /// The snapshot, in progress or not.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_deref()
    }

    /// Marks everything as handed out for writing.
    pub fn accept_in_progress(&mut self) {
        self.in_progress = Index(self.offset.0 + self.entries.len() as u64);
        self.snapshot_in_progress = self.snapshot.is_some();
    }

    /// Entries up to `index` of `term` are durable. Ignored if that entry is not here, or was replaced.
    pub fn stable_to(&mut self, index: Index, term: Term) {
        if index < self.offset || self.term(index) != Some(term) {
            return;
        }
        let count = (index.0 + 1 - self.offset.0) as usize;
        self.entries.drain(..count);
        self.offset = index.next();
        self.in_progress = self.in_progress.max(self.offset);
    }

    /// The snapshot at `index` is durable. Ignored if it is another one.
    pub fn stable_snapshot_to(&mut self, index: Index) {
        if self.snapshot.as_ref().is_some_and(|snapshot| snapshot.meta.index == index) {
            self.snapshot = None;
            self.snapshot_in_progress = false;
        }
    }

    /// Replaces everything by a snapshot.
    pub fn restore(&mut self, snapshot: Box<Snapshot>) {
        self.offset = snapshot.meta.index.next();
        self.in_progress = self.offset;
        self.entries = Vec::new();
        self.snapshot = Some(snapshot);
        self.snapshot_in_progress = false;
    }

    /// Appends entries, replacing what is at or after the first one's index. Their buffer is taken over if
    /// it holds more than the own one.
    ///
    /// # Panics
    /// If they would leave a gap.
    pub fn truncate_and_append(&mut self, mut entries: Vec<Entry>) {
        let Some(first) = entries.first() else { return };
        self.truncate_from(first.index);
        // Small appends fill the buffer that there is; it would grow anew with each batch of them.
        if self.entries.is_empty() && self.entries.capacity() <= entries.len() {
            self.entries = entries;
        } else {
            self.entries.append(&mut entries);
        }
    }

    /// Appends one entry, replacing what is at or after its index.
    ///
    /// # Panics
    /// If it would leave a gap.
    pub fn push(&mut self, entry: Entry) {
        self.truncate_from(entry.index);
        self.entries.push(entry);
    }

    fn truncate_from(&mut self, from: Index) {
        let end = self.offset.0 + self.entries.len() as u64;
        assert!(from.0 <= end, "appending at {from} would leave a gap after {end}");
        if from <= self.offset {
            self.entries.clear();
            self.offset = from;
            self.in_progress = from;
        } else if from.0 < end {
            self.entries.truncate((from.0 - self.offset.0) as usize);
            self.in_progress = self.in_progress.min(from);
        }
    }

    /// Entries of `[low, high)`, which must be in here.
    pub fn slice(&self, low: Index, high: Index) -> &[Entry] {
        &self.entries[(low.0 - self.offset.0) as usize..(high.0 - self.offset.0) as usize]
    }

    /// Gives spare memory back if nothing is unstable.
    pub fn release_if_empty(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > 0 {
            self.entries = Vec::new();
        }
    }

    /// Position of the snapshot, if any.
    pub fn snapshot_meta(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref().map(|snapshot| &snapshot.meta)
    }

    /// Asserts the invariants of the type.
    pub fn check_invariants(&self) {
        let end = self.offset.0 + self.entries.len() as u64;
        assert!(
            self.offset <= self.in_progress && self.in_progress.0 <= end,
            "in-progress mark out of range"
        );
        for (position, entry) in self.entries.iter().enumerate() {
            assert_eq!(entry.index.0, self.offset.0 + position as u64, "unstable entries are not contiguous");
        }
        if let Some(meta) = self.snapshot_meta() {
            assert_eq!(meta.index.next(), self.offset, "the snapshot does not precede the entries");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries(from: u64, to: u64, term: u64) -> Vec<Entry> {
        (from..to).map(|index| Entry { index: Index(index), term: Term(term), ..Entry::default() }).collect()
    }

    fn with_entries(from: u64, to: u64, term: u64) -> Unstable {
        let mut unstable = Unstable::new(Index(from));
        unstable.truncate_and_append(entries(from, to, term));
        unstable
    }

    fn with_snapshot(index: u64, term: u64) -> Unstable {
        let mut unstable = Unstable::new(Index(1));
        unstable.restore(snapshot(index, term));
        unstable
    }

    fn snapshot(index: u64, term: u64) -> Box<Snapshot> {
        let meta = SnapshotMeta { index: Index(index), term: Term(term), ..SnapshotMeta::default() };
        Box::new(Snapshot { meta, ..Snapshot::default() })
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.index.0).collect()
    }

    #[test]
    fn bounds_come_from_entries_and_snapshot() {
        let empty = Unstable::new(Index(5));
        assert_eq!((empty.first_index(), empty.last_index()), (None, None));
        let only_entries = with_entries(5, 7, 1);
        assert_eq!((only_entries.first_index(), only_entries.last_index()), (None, Some(Index(6))));
        let only_snapshot = with_snapshot(4, 1);
        assert_eq!(
            (only_snapshot.first_index(), only_snapshot.last_index()),
            (Some(Index(5)), Some(Index(4)))
        );
        let mut both = with_snapshot(4, 1);
        both.truncate_and_append(entries(5, 6, 1));
        assert_eq!((both.first_index(), both.last_index()), (Some(Index(5)), Some(Index(5))));
    }

    #[test]
    fn terms_are_known_for_entries_and_the_snapshot_position() {
        let mut unstable = with_snapshot(4, 1);
        unstable.truncate_and_append(entries(5, 6, 2));
        let terms: Vec<_> = (3..=6).map(|index| unstable.term(Index(index)).map(Term::get)).collect();
        assert_eq!(terms, [None, Some(1), Some(2), None]);
    }

    #[test]
    fn handed_out_parts_are_not_handed_out_again() {
        let mut unstable = with_snapshot(4, 1);
        unstable.truncate_and_append(entries(5, 7, 1));
        assert!(unstable.next_snapshot().is_some());
        assert_eq!(indexes(unstable.next_entries()), [5, 6]);
        unstable.accept_in_progress();
        assert!(unstable.next_snapshot().is_none() && unstable.snapshot().is_some());
        assert!(unstable.next_entries().is_empty() && unstable.has_entries());
        unstable.truncate_and_append(entries(7, 8, 1));
        assert_eq!(indexes(unstable.next_entries()), [7]);
    }

    #[test]
    fn stable_to_drops_a_prefix_only_when_the_term_agrees() {
        for (index, term, left) in [
            (5, 1, vec![6, 7]),
            (7, 1, vec![]),
            (5, 2, vec![5, 6, 7]),
            (4, 1, vec![5, 6, 7]),
            (8, 1, vec![5, 6, 7]),
        ] {
            let mut unstable = with_entries(5, 8, 1);
            unstable.accept_in_progress();
            unstable.stable_to(Index(index), Term(term));
            assert_eq!(indexes(&unstable.entries), left, "stable to {index} of term {term}");
            unstable.check_invariants();
        }
    }

    #[test]
    fn stable_to_the_snapshot_position_keeps_the_entries() {
        let mut unstable = with_snapshot(4, 1);
        unstable.truncate_and_append(entries(5, 6, 1));
        unstable.stable_to(Index(4), Term(1));
        assert_eq!(indexes(&unstable.entries), [5]);
        assert!(unstable.snapshot().is_some());
        unstable.stable_snapshot_to(Index(3));
        assert!(unstable.snapshot().is_some(), "another snapshot");
        unstable.stable_snapshot_to(Index(4));
        assert!(unstable.snapshot().is_none());
    }

    #[test]
    fn replaced_entries_are_handed_out_again() {
        for (from, to, offset, next) in [
            (8, 9, 5, vec![8]),
            (7, 9, 5, vec![7, 8]),
            (6, 7, 5, vec![6]),
            (5, 7, 5, vec![5, 6]),
            (4, 6, 4, vec![4, 5]),
        ] {
            let mut unstable = with_entries(5, 8, 1);
            unstable.accept_in_progress();
            unstable.truncate_and_append(entries(from, to, 2));
            assert_eq!(unstable.offset(), Index(offset), "replacing from {from}");
            assert_eq!(indexes(unstable.next_entries()), next, "replacing from {from}");
            unstable.check_invariants();
        }
    }

    #[test]
    #[should_panic(expected = "would leave a gap")]
    fn a_gap_is_a_bug() {
        with_entries(5, 8, 1).truncate_and_append(entries(9, 10, 1));
    }

    #[test]
    fn a_restored_snapshot_replaces_everything() {
        let mut unstable = with_entries(5, 8, 1);
        unstable.accept_in_progress();
        unstable.restore(snapshot(20, 3));
        assert!(!unstable.has_entries());
        assert_eq!(unstable.offset(), Index(21));
        assert!(unstable.next_snapshot().is_some());
        unstable.check_invariants();
    }

    #[test]
    fn spare_memory_is_given_back_only_when_empty() {
        let mut unstable = with_entries(5, 8, 1);
        unstable.release_if_empty();
        assert!(unstable.has_entries());
        unstable.stable_to(Index(7), Term(1));
        unstable.release_if_empty();
        assert_eq!(unstable.entries.capacity(), 0);
    }

    proptest! {
        /// Against a plain list of (index, term, handed out).
        #[test]
        fn behaves_like_a_plain_list(ops in prop::collection::vec((0u8..3, 0u64..8, 1u64..5), 0..60)) {
            let mut unstable = Unstable::new(Index(1));
            let mut model: Vec<(u64, u64, bool)> = Vec::new();
            let (mut start, mut term) = (1u64, 1u64);
            for (op, at, count) in ops {
                let end = start + model.len() as u64;
                match op {
                    0 => {
                        let from = end.saturating_sub(at).max(start);
                        term += 1;
                        unstable.truncate_and_append(entries(from, from + count, term));
                        model.truncate((from - start) as usize);
                        model.extend((from..from + count).map(|index| (index, term, false)));
                    }
                    1 => {
                        unstable.accept_in_progress();
                        for entry in &mut model {
                            entry.2 = true;
                        }
                    }
                    _ => {
                        let index = start + at;
                        let known = model.iter().find(|entry| entry.0 == index && entry.2).map(|entry| entry.1);
                        if let Some(known) = known {
                            unstable.stable_to(Index(index), Term(known));
                            model.retain(|entry| entry.0 > index);
                            start = index + 1;
                        } else {
                            unstable.stable_to(Index(index), Term(99));
                        }
                    }
                }
                unstable.check_invariants();
                let all: Vec<_> = unstable.entries.iter().map(|entry| (entry.index.0, entry.term.0)).collect();
                let expected: Vec<_> = model.iter().map(|&(index, term, _)| (index, term)).collect();
                prop_assert_eq!(all, expected);
                let next: Vec<_> = model.iter().filter(|entry| !entry.2).map(|entry| entry.0).collect();
                prop_assert_eq!(indexes(unstable.next_entries()), next);
            }
        }
    }
}
