//! One view of the log: the stable part in [`Storage`], the unstable tail in memory.

#[cfg(test)]
mod tests;
mod unstable;

pub(crate) use unstable::Unstable;

use crate::{
    entry::{entries_size, limit_count},
    error::StepError,
    storage::{FetchContext, Storage, StorageError, StorageResult},
    types::{Entry, Index, Snapshot, Term},
};

/// The log as the consensus core sees it.
///
/// Invariant: `applied <= applying <= committed <= last_index`.
#[derive(Debug)]
pub(crate) struct RaftLog<S> {
    /// Stable part.
    pub storage: S,
    /// Unstable tail.
    pub unstable: Unstable,
    /// Highest index known to be on a quorum.
    pub committed: Index,
    /// Highest index handed out for application.
    pub applying: Index,
    /// Highest index whose application was acknowledged.
    pub applied: Index,
    applying_bytes: u64,
    applying_bytes_max: u64,
    is_applying_paused: bool,
}

impl<S: Storage> RaftLog<S> {
    /// The log in `storage`, nothing known to be committed beyond its start.
    ///
    /// # Errors
    /// The storage cannot tell its bounds.
    pub fn new(storage: S, applying_bytes_max: u64) -> StorageResult<Self> {
        let start = storage.first_index()?.prev();
        let next = storage.last_index()?.next();
        Ok(Self {
            storage,
            unstable: Unstable::new(next),
            committed: start,
            applying: start,
            applied: start,
            applying_bytes: 0,
            applying_bytes_max: applying_bytes_max.max(1),
            is_applying_paused: false,
        })
    }

    /// Position of the first entry that can be read.
    pub fn first_index(&self) -> Index {
        let stable = || self.storage.first_index().expect("storage knew its bounds when the node was built");
        self.unstable.first_index().unwrap_or_else(stable)
    }

    /// Position of the last entry.
    pub fn last_index(&self) -> Index {
        let stable = || self.storage.last_index().expect("storage knew its bounds when the node was built");
        self.unstable.last_index().unwrap_or_else(stable)
    }

    /// Term of the last entry.
    pub fn last_term(&self) -> Term {
        self.term(self.last_index()).unwrap_or_default()
    }

    /// Term at `index`, known for `[first_index - 1, last_index]`.
    ///
    /// # Errors
    /// `Compacted`, `Unavailable`.
    pub fn term(&self, index: Index) -> StorageResult<Term> {
        if let Some(term) = self.unstable.term(index) {
            return Ok(term);
        }
        if index.0 + 1 < self.first_index().0 {
            return Err(StorageError::Compacted);
        }
        if index > self.last_index() {
            return Err(StorageError::Unavailable);
        }
        self.storage.term(index)
    }

    /// Whether the log has an entry of `term` at `index`.
    pub fn matches(&self, index: Index, term: Term) -> bool {
        self.term(index) == Ok(term)
    }

    /// Whether a log that ends at (`index`, `term`) is at least as good as this one (Raft, section 5.4.1).
    pub fn is_up_to_date(&self, index: Index, term: Term) -> bool {
        (term, index) >= (self.last_term(), self.last_index())
    }

    /// Appends what a leader sent after (`prev`, `prev_term`) and takes over its commit index. Returns the last
    /// index that now agrees with the leader, or `None` if the logs differ at `prev`.
    ///
    /// Only entries from the first missing or different one on are written: a delayed message must not cut off
    /// entries that a later one appended.
    ///
    /// # Errors
    /// `ConflictsWithCommitted`; nothing was changed.
    pub fn maybe_append(
        &mut self,
        prev: Index,
        prev_term: Term,
        commit: Index,
        mut entries: Vec<Entry>,
    ) -> Result<Option<Index>, StepError> {
        if !self.matches(prev, prev_term) {
            return Ok(None);
        }
        let last_new = Index(prev.0 + entries.len() as u64);
        if let Some(skip) = self.first_difference(&entries) {
            let index = entries[skip].index;
            if index <= self.committed {
                return Err(StepError::ConflictsWithCommitted { index });
            }
            entries.drain(..skip);
            self.unstable.truncate_and_append(entries);
        }
        self.commit_to(commit.min(last_new));
        Ok(Some(last_new))
    }

    fn first_difference(&self, entries: &[Entry]) -> Option<usize> {
        if entries.first()?.index > self.last_index() {
            return Some(0);
        }
        entries.iter().position(|entry| !self.matches(entry.index, entry.term))
    }

    /// Appends entries of the own leadership. Returns the last index.
    pub fn append(&mut self, entries: Vec<Entry>) -> Index {
        if let Some(first) = entries.first() {
            assert!(
                first.index > self.committed,
                "appending at {} would replace committed entries",
                first.index
            );
            self.unstable.truncate_and_append(entries);
        }
        self.last_index()
    }

    /// Appends the next entry of the own leadership.
    pub fn append_one(&mut self, entry: Entry) {
        self.unstable.push(entry);
    }

    /// Largest index up to `index` whose term is at most `term`, with that term: where a log that has `term` at
    /// `index` may still agree with this one. A position of unknown term counts as agreeing, with term 0.
    pub fn find_agreement(&self, index: Index, term: Term) -> (Index, Term) {
        let mut candidate = index;
        while !candidate.is_zero() {
            match self.term(candidate) {
                Ok(own) if own > term => candidate = candidate.prev(),
                Ok(own) => return (candidate, own),
                Err(_) => return (candidate, Term::ZERO),
            }
        }
        (Index::ZERO, Term::ZERO)
    }

    /// Raises the commit index; never lowers it. The caller checked that the log reaches that far.
    pub fn commit_to(&mut self, index: Index) {
        if index > self.committed {
            assert!(index <= self.last_index(), "commit index {index} lies beyond the log");
            self.committed = index;
        }
    }

    /// Commits up to `index` if the entry there has `term`. True if the commit index advanced.
    pub fn maybe_commit(&mut self, index: Index, term: Term) -> bool {
        let advances = !term.is_zero() && index > self.committed && self.matches(index, term);
        if advances {
            self.commit_to(index);
        }
        advances
    }

    /// Entries from `low` on, within `bytes_max` but at least one; empty if there are none.
    ///
    /// # Errors
    /// See [`Storage::entries`].
    pub fn entries(&self, low: Index, bytes_max: u64, context: FetchContext) -> StorageResult<Vec<Entry>> {
        let high = self.last_index().next();
        if low >= high { Ok(Vec::new()) } else { self.slice(low, high, bytes_max, context) }
    }

    /// Entries of `[low, high)` within `bytes_max` but at least one.
    ///
    /// # Errors
    /// See [`Storage::entries`].
    pub fn slice(
        &self,
        low: Index,
        high: Index,
        bytes_max: u64,
        context: FetchContext,
    ) -> StorageResult<Vec<Entry>> {
        let mut entries = Vec::new();
        self.slice_into(low, high, bytes_max, context, &mut entries)?;
        Ok(entries)
    }

    /// Like [`Self::slice`], into an empty list.
    fn slice_into(
        &self,
        low: Index,
        high: Index,
        bytes_max: u64,
        context: FetchContext,
        out: &mut Vec<Entry>,
    ) -> StorageResult<()> {
        if high > self.last_index().next() {
            return Err(StorageError::Unavailable);
        }
        if low >= high {
            return Ok(());
        }
        let offset = self.unstable.offset();
        if low >= offset {
            let tail = self.unstable.slice(low, high);
            out.extend_from_slice(&tail[..limit_count(tail, bytes_max)]);
            return Ok(());
        }
        if low < self.first_index() {
            return Err(StorageError::Compacted);
        }
        let cut = high.min(offset);
        self.storage.entries_into(low, cut, bytes_max, context, out)?;
        let is_cut_short = (out.len() as u64) < cut.0 - low.0;
        if high <= offset || is_cut_short {
            return Ok(());
        }
        let bytes = entries_size(out);
        if bytes >= bytes_max {
            return Ok(());
        }
        let tail = self.unstable.slice(offset, high);
        let count = limit_count(tail, bytes_max - bytes);
        if count > 1 || bytes + entries_size(&tail[..1]) <= bytes_max {
            out.extend_from_slice(&tail[..count]);
        }
        Ok(())
    }

    /// Highest index that is durable here.
    pub fn stable_index(&self) -> Index {
        self.unstable.offset().prev()
    }

    /// Highest index that may be applied; of entries that are not durable here, the first `ahead_max` only.
    fn appliable_index(&self, ahead_max: u64) -> Index {
        self.committed.min(Index(self.stable_index().0.saturating_add(ahead_max)))
    }

    /// Whether [`Self::take_committed_entries`] would find any.
    pub fn has_next_committed_entries(&self, ahead_max: u64) -> bool {
        !self.is_applying_paused
            && self.unstable.snapshot().is_none()
            && self.applying < self.appliable_index(ahead_max)
    }

    /// Adds to `out` the committed entries that were not handed out for application, within the limit of outstanding
    /// bytes.
    ///
    /// # Panics
    /// If the storage has lost committed entries.
    pub fn take_committed_entries(&self, ahead_max: u64, out: &mut Vec<Entry>) {
        if !self.has_next_committed_entries(ahead_max) {
            return;
        }
        let bytes_max = self.applying_bytes_max - self.applying_bytes;
        let high = self.appliable_index(ahead_max).next();
        self.slice_into(self.applying.next(), high, bytes_max, FetchContext::Immediate, out)
            .expect("storage keeps committed entries until they are applied");
    }

    /// Records that entries up to `index`, `bytes` in size, were handed out for application.
    pub fn accept_applying(&mut self, index: Index, bytes: u64, ahead_max: u64) {
        assert!(index <= self.committed, "applying {index} beyond the commit index {}", self.committed);
        self.applying = index;
        self.applying_bytes += bytes;
        self.is_applying_paused =
            self.applying_bytes >= self.applying_bytes_max || index < self.appliable_index(ahead_max);
    }

    /// Records that entries up to `index`, `bytes` in size, were applied.
    pub fn applied_to(&mut self, index: Index, bytes: u64) {
        assert!(
            self.applied <= index && index <= self.committed,
            "applied index {index} is not in [{}, {}]",
            self.applied,
            self.committed
        );
        self.applied = index;
        self.applying = self.applying.max(index);
        self.applying_bytes = self.applying_bytes.saturating_sub(bytes);
        self.is_applying_paused = self.applying_bytes >= self.applying_bytes_max;
    }

    /// Replaces the log by a snapshot; everything in it is committed.
    pub fn restore(&mut self, snapshot: Box<Snapshot>) {
        self.committed = snapshot.meta.index;
        self.unstable.restore(snapshot);
    }

    /// A snapshot for peer `to`, at least as new as `at_least`.
    ///
    /// # Errors
    /// See [`Storage::snapshot`].
    pub fn snapshot(&self, at_least: Index, to: crate::PeerId) -> StorageResult<Snapshot> {
        match self.unstable.snapshot() {
            Some(snapshot) if snapshot.meta.index >= at_least => Ok(snapshot.clone()),
            _ => self.storage.snapshot(at_least, to),
        }
    }

    /// Whether everything up to `last` is stored, committed and applied, and nothing is under way.
    pub fn is_done_at(&self, last: Index) -> bool {
        let is_stored = self.stable_index() == last && self.unstable.snapshot().is_none();
        let is_applied = self.applied == last && self.applying_bytes == 0 && !self.is_applying_paused;
        is_stored && is_applied && self.committed == last
    }

    /// Asserts the invariants of the type.
    pub fn check_invariants(&self) {
        self.unstable.check_invariants();
        assert!(self.applied <= self.applying, "applied {} beyond applying {}", self.applied, self.applying);
        assert!(self.applying <= self.committed, "applying beyond the commit index {}", self.committed);
        assert!(self.committed <= self.last_index(), "commit index {} beyond the log", self.committed);
    }
}
