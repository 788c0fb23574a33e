//! What may be tuned in RocksDB, and the options that may not.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options};

const MIB: usize = 1 << 20;
/// The memtable of `log` remembers, for each peer and kind of record, where it inserted last: each is written in
/// ascending order, so an entry costs no search among those of all regions. The prefix is that of a log key before the
/// index.
const LOG_INSERT_HINT: &str = "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.18";
/// A trigger that is never reached: writes must not stall, whatever the shape of an instance.
const OUT_OF_REACH: i32 = 1 << 30;
/// Memory tables of `data`, one that fills and those that are full. RocksDB slows writes down one before the last, and
/// stops them at the last.
const DATA_MEMTABLES_MAX: i32 = 8;

/// Sizes of a [`crate::RocksEngine`]. Nothing in here can corrupt data.
#[derive(Clone, Debug)]
pub struct RocksConfig {
    /// Size at which `log` moves its memtable into a file by itself, in bytes. Raised to twice `data`'s, so that the
    /// checkpointer comes first (rule W9).
    pub log_write_buffer_bytes: usize,
    /// Size at which `data` moves its memtable into a file by itself, in bytes.
    pub data_write_buffer_bytes: usize,
    /// Block cache that both instances share, in bytes.
    pub block_cache_bytes: usize,
    /// Threads for flushes and compactions of each instance.
    pub background_jobs: i32,
    /// Files that each instance keeps open; -1 = all.
    pub open_files_max: i32,
    /// For power-cut tests of processes: after each sync, writes down how much of the WAL the disk has for certain, for
    /// [`crate::power_cut_copy`]. Costs a system call or two per sync.
    pub record_synced_length: bool,
    /// Test only: `log_sync` reports success without syncing, which a power-cut test must notice.
    #[cfg(feature = "planted")]
    pub planted_skip_log_sync: bool,
    /// Test only: so many milliseconds go by in every `log_sync`, as on a slow disk.
    #[cfg(feature = "planted")]
    pub planted_log_sync_delay_ms: u64,
}

impl Default for RocksConfig {
    fn default() -> Self {
        Self {
            log_write_buffer_bytes: 160 * MIB,
            data_write_buffer_bytes: 32 * MIB,
            block_cache_bytes: 128 * MIB,
            background_jobs: 2,
            open_files_max: 4_096,
            record_synced_length: false,
            #[cfg(feature = "planted")]
            planted_skip_log_sync: false,
            #[cfg(feature = "planted")]
            planted_log_sync_delay_ms: 0,
        }
    }
}

impl RocksConfig {
    /// Sizes for tests and for machines with little memory.
    pub fn small() -> Self {
        Self {
            log_write_buffer_bytes: 8 * MIB,
            data_write_buffer_bytes: 4 * MIB,
            block_cache_bytes: 8 * MIB,
            open_files_max: 256,
            ..Self::default()
        }
    }

    /// Whether `log_sync` is to break its promise.
    pub(super) fn skips_log_sync(&self) -> bool {
        #[cfg(feature = "planted")]
        return self.planted_skip_log_sync;
        #[cfg(not(feature = "planted"))]
        false
    }

    /// How long `log_sync` is to take on top of what the disk needs.
    pub(super) fn log_sync_delay(&self) -> Duration {
        #[cfg(feature = "planted")]
        return Duration::from_millis(self.planted_log_sync_delay_ms);
        #[cfg(not(feature = "planted"))]
        Duration::ZERO
    }

    pub(super) fn cache(&self) -> Cache {
        Cache::new_lru_cache(self.block_cache_bytes)
    }

    /// Options of `log`: paranoid checks, because without them RocksDB forgets WAL errors and goes on; no stalls,
    /// because a stalled log stops every region; a WAL that must be whole, because [`crate::wal`] has cut off what is
    /// not.
    pub(super) fn log_options(&self, cache: &Cache) -> Options {
        let mut options = self.common_options(cache);
        options.set_paranoid_checks(true);
        options.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_write_buffer_size(self.log_write_buffer_bytes.max(2 * self.data_write_buffer_bytes));
        options.set_max_write_buffer_number(64);
        options.set_max_total_wal_size(1 << 40);
        options.set_allow_concurrent_memtable_write(false);
        options.set_level_zero_slowdown_writes_trigger(OUT_OF_REACH);
        options.set_level_zero_stop_writes_trigger(OUT_OF_REACH);
        options.set_soft_pending_compaction_bytes_limit(0);
        options.set_hard_pending_compaction_bytes_limit(0);
        options.set_compression_type(DBCompressionType::None);
        options.get_options_from_string(LOG_INSERT_HINT).expect("an option that RocksDB knows")
    }

    /// Options for reading `log`, however much of it can be read.
    pub(super) fn look_options(&self, cache: &Cache) -> Options {
        let mut options = self.common_options(cache);
        options.create_if_missing(false);
        options.set_paranoid_checks(false);
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_write_buffer_size(1 << 40);
        options
    }

    /// Options of `data`: no paranoid checks, because with them one corrupt file stops the whole instance, and damage
    /// must stay with the regions that it touches. Reads verify checksums all the same. A scan may also meet damage in a
    /// block just outside its bounds, while that block's file has not been compacted yet. No stalls, because an apply
    /// worker that stands still serves none of its regions: see [`crate::Engine::backlog`]. Only memory that runs out
    /// stops writes.
    pub(super) fn data_options(&self, cache: &Cache) -> Options {
        let mut options = self.common_options(cache);
        options.set_paranoid_checks(false);
        options.set_write_buffer_size(self.data_write_buffer_bytes);
        options.set_max_write_buffer_number(DATA_MEMTABLES_MAX);
        options.set_level_zero_slowdown_writes_trigger(OUT_OF_REACH);
        options.set_level_zero_stop_writes_trigger(OUT_OF_REACH);
        options.set_soft_pending_compaction_bytes_limit(0);
        options.set_hard_pending_compaction_bytes_limit(0);
        options.set_target_file_size_base((self.data_write_buffer_bytes as u64).max(MIB as u64));
        options.set_bytes_per_sync(MIB as u64);
        options.set_compression_type(DBCompressionType::Lz4);
        options
    }

    fn common_options(&self, cache: &Cache) -> Options {
        let mut options = table_options(Some(cache));
        options.create_if_missing(true);
        options.set_max_background_jobs(self.background_jobs);
        options.set_max_open_files(self.open_files_max);
        options.set_unordered_write(false);
        options.set_enable_pipelined_write(false);
        options.set_recycle_log_file_num(0);
        options.set_manual_wal_flush(false);
        options.set_avoid_unnecessary_blocking_io(true);
        quiet(&mut options);
        options
    }
}

/// Options for looking at an instance without changing it: its info log goes to `log_dir`, its WALs are not read.
pub(super) fn peek_options(empty_dir: &Path) -> Options {
    let mut options = table_options(None);
    options.set_max_open_files(-1);
    options.set_wal_dir(empty_dir);
    quiet(&mut options);
    options
}

/// Options of files for ingestion; they have the form of `data`'s own files.
pub(super) static SST_OPTIONS: LazyLock<Options> = LazyLock::new(|| {
    let mut options = table_options(None);
    options.set_compression_type(DBCompressionType::Lz4);
    options
});

fn table_options(cache: Option<&Cache>) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_bloom_filter(10.0, false);
    if let Some(cache) = cache {
        table.set_block_cache(cache);
    }
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options
}

/// No timers that write statistics, and few old info logs.
fn quiet(options: &mut Options) {
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_max_log_file_size(4 * MIB);
    options.set_keep_log_file_num(4);
}
