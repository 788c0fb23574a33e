//! The stable log of one peer: its view of `log`, with the tail cached in memory.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::Engine;
use flotilla_raft::{
    ConfState, Entry, FetchContext, HardState, Snapshot, SnapshotMeta, Storage, StorageError, StorageResult,
    entry_size,
};
use flotilla_region::{Index, PeerId, Region, RegionId, Term, keys};

use crate::admin::split::INIT_LOG;
use crate::error::StoreError;
use crate::msg::LogTask;
use crate::peer::entry_cache::EntryCache;
use crate::peer::fortify::Promise;
use crate::peer::log_size::LogSize;
use crate::shared::Shared;
use crate::state::{LogId, decode_entry, decode_hard_state};

/// Log positions, each at most the next: base <= applied <= last. Owned by the peer's raft worker.
///
/// Invariant: the cache is the contiguous tail of the log, up to `last`.
pub(crate) struct PeerLog {
    region: RegionId,
    peer: PeerId,
    shared: Arc<Shared>,
    base: LogId,
    last: LogId,
    cache: EntryCache,
    size: Box<LogSize>,
    hard_state: HardState,
    conf_state: ConfState,
    /// What a snapshot taken now would contain at least.
    applied: LogId,
    /// A read met damage.
    damaged: Cell<bool>,
    /// The worker knows that there is something in the cache.
    is_listed: bool,
}

/// What a log that is applied to its end, and of which nothing is in memory, must remember.
pub(crate) struct PackedLog {
    base: LogId,
    size: Box<LogSize>,
    is_listed: bool,
}

impl PackedLog {
    /// Position before the first entry.
    pub(crate) fn base(&self) -> LogId {
        self.base
    }

    /// The worker does not know it any more.
    pub(crate) fn unlist_cache(&mut self) {
        self.is_listed = false;
    }
}

/// A log as it was found on disk, and what must be written to mend it (rule W8).
pub(crate) struct LoadedLog {
    pub log: PeerLog,
    pub mend: Option<LogTask>,
    /// To whom the peer gave its word.
    pub promise: Option<Promise>,
}

impl LoadedLog {
    /// Takes over term and vote of an earlier life of the same peer in this process. They may be on their way to the
    /// log, or not even that: what mends the log is written after them, and must not bring an older state back.
    pub(crate) fn adopt(&mut self, early: HardState) {
        let log = &mut self.log;
        if early.term >= log.hard_state.term {
            log.hard_state.term = early.term;
            log.hard_state.vote = early.vote;
        }
        let (region, peer) = (log.region, log.peer);
        let mend = LogTask { region, peer, must_sync: true, ..LogTask::default() };
        self.mend.get_or_insert(mend).hard_state = Some(log.hard_state);
    }
}

impl PeerLog {
    /// Loads what `log` holds for the peer (rule W3). `applied` is what `data` says; `None` for a peer that has no
    /// descriptor yet.
    ///
    /// # Errors
    /// I/O, or a record that cannot be read.
    pub(crate) fn load(
        shared: Arc<Shared>,
        region: RegionId,
        peer: PeerId,
        applied: Option<LogId>,
        conf_state: ConfState,
    ) -> Result<LoadedLog, StoreError> {
        let engine = &*shared.engine;
        let initialised = applied.is_some();
        let applied = applied.unwrap_or_default();
        let hard_state = match engine.log_get(&keys::log_hard_state(region, peer))? {
            Some(value) => decode_hard_state(value).ok_or(StoreError::Damaged("hard state"))?,
            None => HardState::default(),
        };
        let promise = match engine.log_get(&keys::log_promise(region, peer))? {
            Some(value) => Some(Promise::decode(value).ok_or(StoreError::Damaged("promise"))?),
            None => None,
        };
        let stored_base = match engine.log_get(&keys::log_base(region, peer))? {
            Some(value) => LogId::decode(value).ok_or(StoreError::Damaged("log base"))?,
            // Bootstrap and split write nothing to `log`: what they make begins here (rule W5).
            None if initialised => INIT_LOG,
            None => LogId::default(),
        };
        let base = if applied.index > stored_base.index { applied } else { stored_base };
        let mut found = scan_entries(engine, region, peer, base, stored_base)?;
        let last = found.entries.back().map_or(base, |e| LogId { index: e.index, term: e.term });
        let mut state = hard_state;
        state.commit = state.commit.max(applied.index).min(last.index);
        let term_seen = applied.term.max(last.term);
        if state.term < term_seen {
            state.term = term_seen;
            state.vote = PeerId::ZERO;
        }
        // A child of a split that never wrote a hard state is (term 5, no vote, commit 5) by rule W5: nothing to mend.
        let never_written = hard_state.is_empty() && found.entries.is_empty();
        let mut mend = None;
        if found.stale.is_some() || (state != hard_state && !never_written) || base != stored_base {
            mend = Some(LogTask {
                region,
                peer,
                hard_state: Some(state),
                base: Some(base),
                delete_from: stored_base.index.next(),
                stale_tail: found.stale,
                must_sync: true,
                ..LogTask::default()
            });
        }
        let mut log = Self {
            region,
            peer,
            shared,
            base,
            last: base,
            cache: EntryCache::default(),
            size: Box::default(),
            hard_state: state,
            conf_state,
            applied,
            damaged: Cell::new(false),
            is_listed: false,
        };
        log.append(found.entries.make_contiguous());
        Ok(LoadedLog { log, mend, promise })
    }

    /// Whether [`PackedLog`] and the applied position are all that there is to know.
    pub(crate) fn is_packable(&self, applied: LogId) -> bool {
        self.cache.is_empty() && self.last == applied && self.applied == applied && !self.damaged.get()
    }

    /// The log as it is kept while its peer sleeps.
    pub(crate) fn pack(mut self) -> PackedLog {
        PackedLog { base: self.base, size: std::mem::take(&mut self.size), is_listed: self.is_listed }
    }

    /// The log of a peer that has applied all of it, in the region's present membership.
    pub(crate) fn unpack(
        packed: PackedLog,
        shared: &Arc<Shared>,
        region: &Region,
        peer: PeerId,
        applied: LogId,
        (term, vote): (Term, PeerId),
    ) -> Self {
        let PackedLog { base, size, is_listed } = packed;
        Self {
            region: region.id,
            peer,
            shared: shared.clone(),
            base,
            last: applied,
            cache: EntryCache::default(),
            size,
            hard_state: HardState { term, vote, commit: applied.index },
            conf_state: region.conf_state(),
            applied,
            damaged: Cell::new(false),
            is_listed,
        }
    }

    /// Whether `log` holds entries of the peer.
    pub(crate) fn has_entries(
        engine: &dyn Engine,
        region: RegionId,
        peer: PeerId,
    ) -> Result<bool, StoreError> {
        let start = keys::log_entry(region, peer, Index::ZERO);
        let end = keys::log_entry(region, peer, Index(u64::MAX));
        Ok(holds_any(engine, &start, &end)?)
    }

    /// Whether `log` holds anything of any peer of a region.
    pub(crate) fn has_any(engine: &dyn Engine, region: RegionId) -> flotilla_engine::Result<bool> {
        let start = keys::log_peer_bounds(region, PeerId::ZERO).0;
        let end = keys::log_peer_bounds(region, PeerId(u64::MAX)).1;
        holds_any(engine, &start, &end)
    }

    /// Whether an entry could not be read.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.get()
    }

    /// Position before the first entry.
    pub(crate) fn base(&self) -> LogId {
        self.base
    }

    /// Takes over entries that go to the log writer now. Returns the stale tail `[from, to]` that a conflict leaves
    /// behind the new end.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Option<(Index, Index)> {
        let new_last = entries.last()?;
        let old_last = self.last.index;
        let step = self.shared.config.log_force_bytes / 16;
        for entry in entries {
            self.size.push(entry.index, entry_size(entry), step);
        }
        self.cache.append(entries.iter().cloned(), &self.shared.cached_bytes);
        self.last = LogId { index: new_last.index, term: new_last.term };
        (old_last > self.last.index).then(|| (self.last.index.next(), old_last))
    }

    /// The state machine advanced.
    pub(crate) fn set_applied(&mut self, applied: LogId, conf_state: Option<ConfState>) {
        self.applied = applied;
        if let Some(conf_state) = conf_state {
            self.conf_state = conf_state;
        }
    }

    /// The log now starts after a snapshot.
    pub(crate) fn reset_to_snapshot(&mut self, at: LogId, conf_state: ConfState) {
        self.base = at;
        self.last = at;
        self.applied = at;
        self.conf_state = conf_state;
        self.cache.clear(&self.shared.cached_bytes);
        *self.size = LogSize::default();
    }

    /// The index after which the log holds no more than so many bytes, about.
    pub(crate) fn index_before_last(&self, bytes_max: u64) -> Index {
        self.size.index_before_last(self.base.index, bytes_max)
    }

    /// Bytes of an entry of late.
    pub(crate) fn mean_entry_bytes(&self) -> u64 {
        self.size.mean()
    }

    /// Drops the prefix up to `to`. Returns the new base, and the first index to delete.
    pub(crate) fn truncate(&mut self, to: Index) -> Option<(LogId, Index)> {
        let term = self.term(to).ok()?;
        let delete_from = self.base.index.next();
        self.base = LogId { index: to, term };
        self.cache.evict(to, &self.shared.cached_bytes);
        self.size.truncate(to);
        Some((self.base, delete_from))
    }

    /// Drops cached entries up to `to`, which can be read from `log`, as far as they are applied. Returns whether anything is left that may be dropped some time.
    pub(crate) fn evict(&mut self, to: Index) -> bool {
        self.cache.evict(to.min(self.applied.index), &self.shared.cached_bytes);
        self.is_listed = !self.cache.is_empty();
        self.is_listed
    }

    /// Whether the cache has something that the worker does not know of yet; it does from now on.
    pub(crate) fn list_cache(&mut self) -> bool {
        !self.cache.is_empty() && !std::mem::replace(&mut self.is_listed, true)
    }

    /// Keeps nothing in memory: all of the log is applied, and nobody is about to read it.
    pub(crate) fn forget_entries(&mut self) {
        if self.applied == self.last {
            self.cache.clear(&self.shared.cached_bytes);
        }
    }

    /// Reads entries after `from` into the cache, the last `bytes_max` of them at most.
    pub(crate) fn warm(&mut self, from: Index, bytes_max: u64) {
        let low = from.max(self.index_before_last(bytes_max)).max(self.base.index).next();
        let high = self.cache.first().unwrap_or(self.last.index.next());
        if low < high
            && let Ok(entries) = self.read(low, high, u64::MAX)
            && entries.last().is_some_and(|entry| entry.index.next() == high)
        {
            self.cache.prepend(entries, &self.shared.cached_bytes);
        }
    }

    fn read(&self, low: Index, high: Index, bytes_max: u64) -> StorageResult<Vec<Entry>> {
        let (start, end) =
            (keys::log_entry(self.region, self.peer, low), keys::log_entry(self.region, self.peer, high));
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut damaged = false;
        let scanned = self.shared.engine.log_scan(&start, &end, &mut |key, value| {
            let expected = Index(low.0 + entries.len() as u64);
            let index = match keys::parse_log_key(key) {
                Some(keys::LogKey::Entry(_, _, index)) => index,
                _ => Index::ZERO,
            };
            let Some(entry) =
                decode_entry(index, Bytes::copy_from_slice(value)).filter(|_| index == expected)
            else {
                damaged = true;
                return false;
            };
            bytes += entry_size(&entry);
            if bytes > bytes_max && !entries.is_empty() {
                return false;
            }
            entries.push(entry);
            true
        });
        damaged |= entries.is_empty() && scanned.is_ok();
        if damaged || matches!(scanned, Err(flotilla_engine::Error::Corruption(_))) {
            self.damaged.set(true);
        }
        if scanned.is_err() || damaged {
            return Err(StorageError::Unavailable);
        }
        Ok(entries)
    }
}

impl Drop for PeerLog {
    fn drop(&mut self) {
        self.cache.clear(&self.shared.cached_bytes);
    }
}

/// Whether `log` holds anything in `[start, end)`.
fn holds_any(engine: &dyn Engine, start: &[u8], end: &[u8]) -> flotilla_engine::Result<bool> {
    let mut any = false;
    engine.log_scan(start, end, &mut |_, _| {
        any = true;
        false
    })?;
    Ok(any)
}

struct FoundEntries {
    entries: VecDeque<Entry>,
    /// First and last index of entries that do not continue the log.
    stale: Option<(Index, Index)>,
}

/// Entries after `base`, as far as they continue it.
fn scan_entries(
    engine: &dyn Engine,
    region: RegionId,
    peer: PeerId,
    base: LogId,
    stored_base: LogId,
) -> Result<FoundEntries, StoreError> {
    let start = keys::log_entry(region, peer, base.index);
    let end = keys::log_entry(region, peer, Index(u64::MAX));
    let mut entries: VecDeque<Entry> = VecDeque::new();
    let mut continues = base == stored_base;
    let mut stale: Option<(Index, Index)> = None;
    let mut damaged = false;
    engine.log_scan(&start, &end, &mut |key, value| {
        let Some(keys::LogKey::Entry(_, _, index)) = keys::parse_log_key(key) else {
            damaged = true;
            return false;
        };
        let Some(entry) = decode_entry(index, Bytes::copy_from_slice(value)) else {
            damaged = true;
            return false;
        };
        if index == base.index {
            continues = entry.term == base.term;
            return true;
        }
        let expected = entries.back().map_or(base.index.next(), |e| e.index.next());
        let term_before = entries.back().map_or(base.term, |e| e.term);
        if continues && stale.is_none() && index == expected && entry.term >= term_before {
            entries.push_back(entry);
        } else {
            stale = Some((stale.map_or(index, |(from, _)| from), index));
        }
        true
    })?;
    if damaged {
        return Err(StoreError::Damaged("log entry"));
    }
    Ok(FoundEntries { entries, stale })
}

impl Storage for PeerLog {
    fn initial_state(&self) -> StorageResult<(HardState, ConfState)> {
        Ok((self.hard_state, self.conf_state.clone()))
    }

    fn entries_into(
        &self,
        low: Index,
        high: Index,
        bytes_max: u64,
        _: FetchContext,
        out: &mut Vec<Entry>,
    ) -> StorageResult<()> {
        if low <= self.base.index {
            return Err(StorageError::Compacted);
        }
        if high.0 > self.last.index.0 + 1 {
            return Err(StorageError::Unavailable);
        }
        let cached_from = self.cache.first().unwrap_or(self.last.index.next());
        if low < cached_from {
            *out = self.read(low, high.min(cached_from), bytes_max)?;
            return Ok(());
        }
        let mut bytes = 0;
        for entry in self.cache.range(low, high) {
            bytes += entry_size(entry);
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(())
    }

    fn term(&self, index: Index) -> StorageResult<Term> {
        if index == self.base.index {
            return Ok(self.base.term);
        }
        if index == self.last.index {
            return Ok(self.last.term);
        }
        if index < self.base.index {
            return Err(StorageError::Compacted);
        }
        if index > self.last.index {
            return Err(StorageError::Unavailable);
        }
        match self.cache.get(index) {
            Some(entry) => Ok(entry.term),
            None => Ok(self.read(index, index.next(), u64::MAX)?[0].term),
        }
    }

    fn first_index(&self) -> StorageResult<Index> {
        Ok(self.base.index.next())
    }

    fn last_index(&self) -> StorageResult<Index> {
        Ok(self.last.index)
    }

    /// Only position and membership: the data is generated when the receiver has reserved a slot, and may then be
    /// newer than this.
    fn snapshot(&self, at_least: Index, _: PeerId) -> StorageResult<Snapshot> {
        if self.applied.index < at_least || self.applied.index.is_zero() {
            return Err(StorageError::SnapshotTemporarilyUnavailable);
        }
        let meta = SnapshotMeta {
            index: self.applied.index,
            term: self.applied.term,
            conf_state: self.conf_state.clone(),
        };
        Ok(Snapshot { meta, data: Bytes::new() })
    }
}
