//! The storage seam of a store: two key-value instances behind one trait.
//!
//! `log` holds Raft entries and hard states and has the store's only write-ahead log; `data` holds user keys,
//! descriptors and apply states and has none: the Raft log is its WAL. Why they are apart, and rules W1 to W9 that
//! callers keep, is in ARCHITECTURE.md "On disk".
//!
//! [`RocksEngine`] is the real thing; [`MemEngine`] is its model with a `crash()`, for the simulator.

mod batch;
mod crc32c;
mod mem;
mod prng;
mod rocks;
mod wal;

pub use batch::{Op, WriteBatch};
pub use mem::{Call, CrashPlan, CrashReport, Fault, FaultKind, Faults, MemEngine};
pub use prng::Prng;
pub use rocks::{RocksConfig, RocksEngine, WalHealth, power_cut_copy};
pub use wal::Round;

use std::sync::Arc;

use bytes::Bytes;

/// Result of an engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an engine call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk or RocksDB refused. For a log write or sync this ends the process before another acknowledgement.
    #[error("engine I/O failed: {0}")]
    Io(String),
    /// Stored bytes are not what was written. Confined to the regions that it touches, unless it is the log.
    #[error("corruption: {0}")]
    Corruption(String),
    /// The directory belongs to another process, format or engine.
    #[error("cannot open {path}: {why}")]
    Open {
        /// Directory.
        path: String,
        /// Reason, for people.
        why: String,
    },
    /// No space left on the device.
    #[error("no space left on the device: {0}")]
    NoSpace(String),
}

/// A store's disk. Shared by all workers; calls may block.
///
/// Invariant: a `data` state that survives a crash is a prefix of the sequence of [`Engine::write`] and
/// [`Engine::ingest`] calls (in the order in which they returned), at least up to the last [`Engine::flush`] or ingestion.
/// Invariant: a `log` state that survives a crash holds every [`Engine::log_write`] that returned before the last
/// successful [`Engine::log_sync`] began; of later ones any subset in which each batch is whole.
pub trait Engine: Send + Sync {
    /// Writes a batch to `log` without waiting for the disk. Log writer only.
    fn log_write(&self, batch: &WriteBatch) -> Result<()>;
    /// Makes every returned `log_write` durable. Log writer only.
    fn log_sync(&self) -> Result<()>;
    /// Moves `log`'s memtable into a file, so that its WAL can be deleted. Checkpointer only.
    fn log_flush(&self) -> Result<()>;
    /// One value of `log`.
    fn log_get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// Visits `[start, end)` of `log` in key order until the visitor returns `false`.
    fn log_scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()>;
    /// Bytes of `log`'s WAL files that are alive, for the checkpointer's trigger and for metrics.
    fn log_bytes(&self) -> u64;

    /// Writes a batch to `data`, atomically, without WAL. Apply workers, and anyone before workers run.
    fn write(&self, batch: &WriteBatch) -> Result<()>;
    /// Makes every returned `write` durable.
    fn flush(&self) -> Result<()>;
    /// One value of `data`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// A consistent view of `data` now.
    fn snapshot(&self) -> Arc<dyn EngineSnapshot>;
    /// Starts a file for [`Engine::ingest`].
    fn sst_writer(&self) -> Result<Box<dyn SstWriter>>;
    /// Adds finished files to `data`, atomically and durably, in the order given: a later file hides an earlier one,
    /// and all of them hide what was there. Everything written before must have been flushed (rule W2).
    fn ingest(&self, files: Vec<SstFile>) -> Result<()>;
    /// Estimate of what `[start, end)` of `data` holds on disk and in memory. Deterministic in the model engine.
    fn approximate_size(&self, start: &[u8], end: &[u8]) -> Size;
    /// Compacts `[start, end)` of `data`.
    fn compact(&self, start: &[u8], end: &[u8]) -> Result<()>;
    /// What `data` has taken and not yet brought into shape. Writes are never made to wait for it; whoever lets them in
    /// must.
    fn backlog(&self) -> Backlog;
    /// Damage that compactions of `data` have met since the last call. They try again for ever, and never succeed.
    fn compaction_damage(&self) -> Option<String>;
    /// Numbers for metrics: (name, value).
    fn metrics(&self) -> Vec<(&'static str, u64)>;
}

/// What `data` has taken and not yet brought into shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Memory tables that wait to become files.
    pub memtables: u64,
    /// Files of level 0. Each may hold any key, so that reads look into all of them.
    pub level0_files: u64,
    /// Bytes that compactions would have to rewrite for all levels to have their sizes.
    pub compaction_bytes: u64,
}

/// How much a range holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes.
    pub bytes: u64,
    /// Pairs.
    pub keys: u64,
}

/// A consistent read-only view of `data`.
pub trait EngineSnapshot: Send + Sync {
    /// One value.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;
    /// Visits `[start, end)` in key order until the visitor returns `false`.
    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()>;
    /// The same for who reads a whole region once: what it reads does not push out of caches what others read.
    fn scan_once(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        self.scan(start, end, visit)
    }
    /// Visits `[start, end)` in reverse key order until the visitor returns `false`.
    fn scan_reverse(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()>;
}

/// A sorted file under construction. Within one file, `clear` hides only what other files and earlier writes hold,
/// never the file's own keys.
pub trait SstWriter: Send {
    /// Adds a key; keys ascend strictly.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;
    /// Deletes what `[start, end)` of `data` holds when the file is ingested.
    fn clear(&mut self, start: &[u8], end: &[u8]) -> Result<()>;
    /// Bytes so far.
    fn bytes(&self) -> u64;
    /// Completes the file.
    fn finish(self: Box<Self>) -> Result<SstFile>;
}

/// A finished file, private to the engine that made it. Dropping it without ingestion deletes it.
pub struct SstFile(pub(crate) Box<dyn SstContent>);

/// What an [`SstFile`] owns.
pub(crate) trait SstContent: Send + Sync + std::any::Any {
    /// For the engine to take its own content back.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any>;
}

impl std::fmt::Debug for SstFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SstFile")
    }
}
