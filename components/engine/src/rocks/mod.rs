//! The engine over two RocksDB instances.
//!
//! Missing: sizes and rates of RocksDB's own statistics; only its properties are reported.

mod config;
mod flush;
mod open;
mod power_cut;
mod reads;
mod sizes;
mod sst;

pub use config::RocksConfig;
pub use open::WalHealth;
pub use power_cut::power_cut_copy;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{CStrLike, DB, IngestExternalFileOptions, ReadOptions, WriteOptions, properties};

use crate::{Backlog, Engine, EngineSnapshot, Error, Result, Size, SstFile, SstWriter, WriteBatch};

use flush::Failures;
use power_cut::SyncedLength;
use reads::RocksSnapshot;
use sizes::Sizes;
use sst::{RocksSst, RocksSstWriter};

/// A store's disk in RocksDB: `dir/log`, `dir/data`, and `dir/tmp` for files under construction.
///
/// Invariant: after the first error of a log write, sync or flush, every later log call fails. RocksDB would retry on
/// its own and could report success for what the disk never took.
pub struct RocksEngine {
    dir: PathBuf,
    log: DB,
    data: Arc<DB>,
    log_write_options: WriteOptions,
    data_write_options: WriteOptions,
    read_options: ReadOptions,
    log_failure: OnceLock<String>,
    /// WAL bytes written since the last `log_flush`.
    log_bytes: AtomicU64,
    log_syncs: AtomicU64,
    next_sst: AtomicU64,
    sizes: Sizes,
    /// Set when `record_synced_length` is.
    synced_length: Option<SyncedLength>,
    /// What went wrong in the background of `data` since the last look.
    failures: Mutex<Failures>,
    skip_log_sync: bool,
    log_sync_delay: Duration,
}

impl RocksEngine {
    /// Opens the store in `dir`, creating it if `dir` is missing or empty.
    ///
    /// Before RocksDB reads `log`'s WAL the engine does: a torn tail is cut off, rot is refused.
    ///
    /// # Errors
    /// [`Error::Open`] if another process has the store open or half of it is missing; [`Error::Corruption`] if the WAL
    /// lost something that had been synced; [`Error::Io`] and [`Error::NoSpace`] as they come.
    pub fn open(dir: impl AsRef<Path>, config: RocksConfig) -> Result<Arc<Self>> {
        let dir = dir.as_ref().to_path_buf();
        let instances = open::open(&dir, &config)?;
        Self::with(dir, instances, &config)
    }

    /// Opens a stopped store to look at it: its log is read as far as it can be, and takes no writes.
    ///
    /// # Errors
    /// [`Error::Open`] if there is no store or a process has it open; the others as they come.
    pub fn look(dir: impl AsRef<Path>, config: RocksConfig) -> Result<(Arc<Self>, WalHealth)> {
        let dir = dir.as_ref().to_path_buf();
        let (instances, health) = open::look(&dir, &config)?;
        Ok((Self::with(dir, instances, &config)?, health))
    }

    fn with(dir: PathBuf, instances: open::Instances, config: &RocksConfig) -> Result<Arc<Self>> {
        let open::Instances { log, data } = instances;
        let mut data_write_options = WriteOptions::default();
        data_write_options.disable_wal(true);
        let synced_length = if config.record_synced_length { Some(SyncedLength::start(&dir)?) } else { None };
        let failures = Mutex::new(Failures::since_now(&data, &dir.join(open::DATA)));
        Ok(Arc::new(Self {
            log,
            data: Arc::new(data),
            failures,
            log_write_options: WriteOptions::default(),
            data_write_options,
            read_options: ReadOptions::default(),
            log_failure: OnceLock::new(),
            log_bytes: AtomicU64::new(0),
            log_syncs: AtomicU64::new(0),
            next_sst: AtomicU64::new(0),
            sizes: Sizes::default(),
            synced_length,
            skip_log_sync: config.skips_log_sync(),
            log_sync_delay: config.log_sync_delay(),
            dir,
        }))
    }

    /// For tests: copies the store as a power cut at this moment would leave it to the empty or missing directory `to`.
    /// Needs [`RocksConfig::record_synced_length`]. Log calls must not run meanwhile; everything else may.
    pub fn power_cut(&self, to: impl AsRef<Path>) -> Result<()> {
        self.log.disable_file_deletions().map_err(convert)?;
        self.data.disable_file_deletions().map_err(convert)?;
        let copied = power_cut_copy(&self.dir, to);
        self.log.enable_file_deletions().map_err(convert)?;
        self.data.enable_file_deletions().map_err(convert)?;
        copied
    }

    fn check_log(&self) -> Result<()> {
        match self.log_failure.get() {
            None => Ok(()),
            Some(why) => Err(Error::Io(format!("the log is closed since it failed: {why}"))),
        }
    }

    /// What a slow disk would take; nothing in the product.
    #[allow(clippy::disallowed_methods, reason = "a planted slow disk blocks as a real one does")]
    fn delay_sync(&self) {
        if !self.log_sync_delay.is_zero() {
            std::thread::sleep(self.log_sync_delay);
        }
    }

    fn log_changed<T>(&self, outcome: std::result::Result<T, rocksdb::Error>) -> Result<T> {
        outcome.map_err(|error| {
            // Only the first failure is kept.
            let _ = self.log_failure.set(error.to_string());
            convert(error)
        })
    }
}

impl Engine for RocksEngine {
    fn log_write(&self, batch: &WriteBatch) -> Result<()> {
        self.check_log()?;
        let raw = rocksdb::WriteBatch::from_data(batch.as_bytes());
        self.log_changed(self.log.write_opt(raw, &self.log_write_options))?;
        self.log_bytes.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn log_sync(&self) -> Result<()> {
        self.check_log()?;
        if self.skip_log_sync {
            return Ok(());
        }
        let reached = self.synced_length.as_ref().map(SyncedLength::measure).transpose()?;
        self.delay_sync();
        self.log_changed(self.log.flush_wal(true))?;
        self.log_syncs.fetch_add(1, Ordering::Relaxed);
        match (&self.synced_length, reached) {
            (Some(synced_length), Some(reached)) => synced_length.record(reached),
            _ => Ok(()),
        }
    }

    fn log_flush(&self) -> Result<()> {
        self.check_log()?;
        let before = self.log_bytes.load(Ordering::Relaxed);
        self.log_changed(self.log.flush())?;
        self.log_bytes.fetch_sub(before, Ordering::Relaxed);
        Ok(())
    }

    fn log_get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.check_log()?;
        reads::get(&self.log, key, &self.read_options)
    }

    fn log_scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        self.check_log()?;
        reads::scan(&self.log, ReadOptions::default(), (start, end), false, visit)
    }

    fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::Relaxed)
    }

    fn write(&self, batch: &WriteBatch) -> Result<()> {
        let raw = rocksdb::WriteBatch::from_data(batch.as_bytes());
        self.data.write_opt(raw, &self.data_write_options).map_err(convert)
    }

    fn flush(&self) -> Result<()> {
        flush::flush(&self.data, &self.dir.join(open::DATA))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        reads::get(&self.data, key, &self.read_options)
    }

    fn snapshot(&self) -> Arc<dyn EngineSnapshot> {
        Arc::new(RocksSnapshot::new(&self.data))
    }

    fn sst_writer(&self) -> Result<Box<dyn SstWriter>> {
        let number = self.next_sst.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(open::TMP).join(format!("{number:06}.sst"));
        Ok(Box::new(RocksSstWriter::create(path)?))
    }

    fn ingest(&self, files: Vec<SstFile>) -> Result<()> {
        let files: Vec<Box<RocksSst>> = files
            .into_iter()
            .map(|file| file.0.into_any().downcast().expect("a file goes to the engine that made it"))
            .collect();
        let paths: Vec<&PathBuf> = files.iter().filter_map(|file| file.path()).collect();
        if paths.is_empty() {
            return Ok(());
        }
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.data.ingest_external_file_opts(&options, paths).map_err(convert)
    }

    fn approximate_size(&self, start: &[u8], end: &[u8]) -> Size {
        if start < end { self.sizes.of(&self.data, start, end) } else { Size::default() }
    }

    fn compact(&self, start: &[u8], end: &[u8]) -> Result<()> {
        if start < end {
            self.data.compact_range(Some(start), Some(end));
        }
        Ok(())
    }

    fn compaction_damage(&self) -> Option<String> {
        self.failures.lock().damage(&self.data, &self.dir.join(open::DATA))
    }

    fn backlog(&self) -> Backlog {
        let level0 = self.data.property_value(properties::num_files_at_level(0)).ok().flatten();
        Backlog {
            memtables: property(&self.data, properties::NUM_IMMUTABLE_MEM_TABLE),
            level0_files: level0.and_then(|count| count.parse().ok()).unwrap_or_default(),
            compaction_bytes: property(&self.data, properties::ESTIMATE_PENDING_COMPACTION_BYTES),
        }
    }

    fn metrics(&self) -> Vec<(&'static str, u64)> {
        let log = |name| property(&self.log, name);
        let data = |name| property(&self.data, name);
        vec![
            ("log_bytes", self.log_bytes()),
            ("log_syncs", self.log_syncs.load(Ordering::Relaxed)),
            ("log_memtable_bytes", log(properties::CUR_SIZE_ALL_MEM_TABLES)),
            ("log_file_bytes", log(properties::TOTAL_SST_FILES_SIZE)),
            ("log_background_errors", log(properties::BACKGROUND_ERRORS)),
            ("data_memtable_bytes", data(properties::CUR_SIZE_ALL_MEM_TABLES)),
            ("data_file_bytes", data(properties::TOTAL_SST_FILES_SIZE)),
            ("data_live_bytes", data(properties::ESTIMATE_LIVE_DATA_SIZE)),
            ("data_keys", data(properties::ESTIMATE_NUM_KEYS)),
            ("data_snapshots", data(properties::NUM_SNAPSHOTS)),
            ("data_pending_compaction_bytes", data(properties::ESTIMATE_PENDING_COMPACTION_BYTES)),
            ("data_running_compactions", data(properties::NUM_RUNNING_COMPACTIONS)),
            ("data_running_flushes", data(properties::NUM_RUNNING_FLUSHES)),
            ("data_write_stopped", data(properties::IS_WRITE_STOPPED)),
            ("data_delayed_write_rate", data(properties::ACTUAL_DELAYED_WRITE_RATE)),
            ("data_background_errors", data(properties::BACKGROUND_ERRORS)),
            ("block_cache_bytes", data(properties::BLOCK_CACHE_USAGE)),
        ]
    }
}

fn property(db: &DB, name: impl CStrLike) -> u64 {
    db.property_int_value(name).ok().flatten().unwrap_or(0)
}

/// Class of a RocksDB error.
fn convert(error: rocksdb::Error) -> Error {
    classify(error.into_string())
}

/// Class of the text of a RocksDB error; a full disk shows in the text of `strerror` only.
fn classify(text: String) -> Error {
    if text.contains("No space left on device") {
        Error::NoSpace(text)
    } else if text.starts_with("Corruption") {
        Error::Corruption(text)
    } else {
        Error::Io(text)
    }
}

/// Error of a file operation of our own.
fn io_error(path: &Path, error: std::io::Error) -> Error {
    let text = format!("{}: {error}", path.display());
    if error.kind() == std::io::ErrorKind::StorageFull { Error::NoSpace(text) } else { Error::Io(text) }
}
