//! Opening a store: which halves exist, who else has it, whether the WAL is what was written.

use std::fs;
use std::path::Path;

use flotilla_region::keys;
use rocksdb::{DB, IteratorMode, properties};

use crate::wal::{self, WalStart};
use crate::{Error, Result};

use super::config::peek_options;
use super::{RocksConfig, convert, io_error, property};

pub(super) const LOG: &str = "log";
pub(super) const DATA: &str = "data";
pub(super) const TMP: &str = "tmp";
/// Subdirectory of [`TMP`] for looking at `log` before it is opened.
const PEEK: &str = "peek";

pub(super) struct Instances {
    pub(super) log: DB,
    pub(super) data: DB,
}

/// Opens `data` first: its lock tells whether another process has the store. A store is created in that order too, so
/// `log` without `data` is never ours, and `data` without `log` is a creation cut short only while it is empty.
pub(super) fn open(dir: &Path, config: &RocksConfig) -> Result<Instances> {
    let refuse = |why: &str| Err(Error::Open { path: dir.display().to_string(), why: why.to_owned() });
    let (log_dir, data_dir, tmp_dir) = (dir.join(LOG), dir.join(DATA), dir.join(TMP));
    let (has_log, has_data) = (is_rocksdb(&log_dir), is_rocksdb(&data_dir));
    if has_log && !has_data {
        return refuse("the data half of the store is missing");
    }
    for path in [&log_dir, &data_dir, &tmp_dir] {
        fs::create_dir_all(path).map_err(|error| io_error(path, error))?;
    }
    let cache = config.cache();
    let data = open_instance(&config.data_options(&cache), &data_dir, dir)?;
    if has_data && !has_log && data.iterator(IteratorMode::Start).next().is_some() {
        return refuse("the log half of the store is missing");
    }
    empty(&tmp_dir)?;
    if has_log {
        let start = peek(&log_dir, &tmp_dir.join(PEEK))?;
        wal::check_and_cut(&log_dir, &start)?;
    }
    let log = open_instance(&config.log_options(&cache), &log_dir, dir)?;
    Ok(Instances { log, data })
}

/// Opens a store to look at it. `data` is opened as ever, for its lock keeps a process from starting on the store; `log`
/// is only read, up to the first damage. Says what the WAL is like.
pub(super) fn look(dir: &Path, config: &RocksConfig) -> Result<(Instances, WalHealth)> {
    let (log_dir, data_dir, tmp_dir) = (dir.join(LOG), dir.join(DATA), dir.join(TMP));
    if !is_rocksdb(&log_dir) || !is_rocksdb(&data_dir) {
        return Err(Error::Open { path: dir.display().to_string(), why: "there is no store".to_owned() });
    }
    let cache = config.cache();
    let mut data_options = config.data_options(&cache);
    data_options.create_if_missing(false);
    let data = open_instance(&data_options, &data_dir, dir)?;
    let start = peek(&log_dir, &tmp_dir.join(PEEK))?;
    let health = match wal::check(&log_dir, &start) {
        Ok(report) => WalHealth { batches: report.batches, torn_at: report.cut, rot: None },
        Err(Error::Corruption(why)) => WalHealth { rot: Some(why), ..WalHealth::default() },
        Err(error) => return Err(error),
    };
    let log = DB::open_for_read_only(&config.look_options(&cache), &log_dir, false).map_err(convert)?;
    Ok((Instances { log, data }, health))
}

/// What the write-ahead log of a stopped store is like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalHealth {
    /// Whole batches in it.
    pub batches: u64,
    /// File number and offset from which on nothing had been synced; the next start cuts that off.
    pub torn_at: Option<(u64, u64)>,
    /// Damage to what had been synced: the store will not start on this disk.
    pub rot: Option<String>,
}

fn is_rocksdb(dir: &Path) -> bool {
    dir.join("CURRENT").exists()
}

fn open_instance(options: &rocksdb::Options, dir: &Path, store: &Path) -> Result<DB> {
    DB::open(options, dir).map_err(|error| {
        let text: &str = error.as_ref();
        if text.contains("lock hold by current process") || text.contains("While lock file") {
            return Error::Open {
                path: store.display().to_string(),
                why: "the store is locked by a living process".to_owned(),
            };
        }
        convert(error)
    })
}

/// Where `log`'s WAL begins, without reading or changing it: a RocksDB *secondary* reads the MANIFEST and the files,
/// and an empty directory stands in for that of the WALs.
fn peek(log_dir: &Path, peek_dir: &Path) -> Result<WalStart> {
    fs::create_dir_all(peek_dir).map_err(|error| io_error(peek_dir, error))?;
    let start = {
        let db = DB::open_as_secondary(&peek_options(peek_dir), log_dir, peek_dir).map_err(convert)?;
        let round = match db.get(keys::LOG_ROUND).map_err(convert)? {
            None => 0,
            Some(value) => match wal::Round::decode(&value) {
                Some(round) => round.round,
                None => return Err(Error::Corruption("the round record of the log is malformed".to_owned())),
            },
        };
        WalStart { file_min: property(&db, properties::MIN_LOG_NUMBER_TO_KEEP), round }
    };
    fs::remove_dir_all(peek_dir).map_err(|error| io_error(peek_dir, error))?;
    Ok(start)
}

/// Removes what an earlier process left under construction.
fn empty(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).map_err(|error| io_error(dir, error))?;
    for entry in entries {
        let path = entry.map_err(|error| io_error(dir, error))?.path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|error| io_error(&path, error))?;
    }
    Ok(())
}
