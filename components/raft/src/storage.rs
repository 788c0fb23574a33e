//! Where the core reads the stable part of its log.

use crate::types::{ConfState, Entry, HardState, Index, Snapshot, Term};

/// Why a [`Storage`] cannot answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The position was compacted away; the core falls back to a snapshot.
    #[error("requested index is unavailable due to compaction")]
    Compacted,
    /// The position is beyond the last entry.
    #[error("requested entry at index is unavailable")]
    Unavailable,
    /// Entries must be fetched first; the core retries after [`crate::RawNode::on_entries_fetched`].
    #[error("log is temporarily unavailable")]
    LogTemporarilyUnavailable,
    /// No snapshot is at hand yet; the core asks again later.
    #[error("snapshot is temporarily unavailable")]
    SnapshotTemporarilyUnavailable,
    /// A snapshot older than the stored one was offered.
    #[error("requested index is older than the existing snapshot")]
    SnapshotOutOfDate,
}

/// Result of a storage call.
pub type StorageResult<T> = Result<T, StorageError>;

/// Stable log and state, as of the last acknowledged append. Called by the owner of the [`crate::RawNode`] only.
///
/// The core has no way to go on from a failed disk: end the process there. Entries above the applied index must stay
/// readable; those asked for with [`FetchContext::Immediate`] may not be deferred.
///
/// Invariant: `first_index() <= last_index() + 1`, and terms are known for `[first_index() - 1, last_index()]`.
pub trait Storage {
    /// Hard state, and membership as of the applied index ([`crate::Config::applied`]).
    fn initial_state(&self) -> StorageResult<(HardState, ConfState)>;
    /// Reads entries of `[low, high)` into an empty list, whose buffer is used again: at least one, then as many as keep
    /// [`crate::entry_size`] summed at most `bytes_max`.
    ///
    /// # Errors
    /// `Compacted`, `Unavailable`, or `LogTemporarilyUnavailable` after starting a fetch for `context`.
    fn entries_into(
        &self,
        low: Index,
        high: Index,
        bytes_max: u64,
        context: FetchContext,
        out: &mut Vec<Entry>,
    ) -> StorageResult<()>;
    /// Like [`Self::entries_into`], in a list of their own.
    ///
    /// # Errors
    /// As there.
    fn entries(
        &self,
        low: Index,
        high: Index,
        bytes_max: u64,
        context: FetchContext,
    ) -> StorageResult<Vec<Entry>> {
        let mut entries = Vec::new();
        self.entries_into(low, high, bytes_max, context, &mut entries)?;
        Ok(entries)
    }
    /// Term of the entry at `index`, valid for `[first_index() - 1, last_index()]`.
    fn term(&self, index: Index) -> StorageResult<Term>;
    /// Position of the first entry that can be read.
    fn first_index(&self) -> StorageResult<Index>;
    /// Position of the last entry.
    fn last_index(&self) -> StorageResult<Index>;
    /// A snapshot to send to `to`, at least as new as `at_least`.
    ///
    /// # Errors
    /// `SnapshotTemporarilyUnavailable` makes the core try again at the next occasion.
    fn snapshot(&self, at_least: Index, to: crate::PeerId) -> StorageResult<Snapshot>;
}

/// For whom entries are read, so that a storage that answers `LogTemporarilyUnavailable` can report back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchContext {
    /// Entries to send to this peer in this term; the storage may defer.
    Send {
        /// Receiver.
        to: crate::PeerId,
        /// Leader's term when asked.
        term: Term,
        /// Whether an empty append is to be sent if nothing is to be read.
        allow_empty: bool,
    },
    /// Anything else (apply, conf change scan): the storage must answer at once.
    Immediate,
}
