//! A flush of `data` that reports a full disk.
//!
//! Without paranoid checks RocksDB retries a flush that met a full disk for as long as it takes, and a caller that waits
//! for it never hears of it. So the flush is started and watched; what went wrong is known from RocksDB's info log only.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rocksdb::{DB, FlushOptions, WaitForCompactOptions, properties};

use crate::{Error, Result};

use super::{convert, property};

/// How often the flush is looked at, and how long before the wait is left to RocksDB: memtables that keep filling while
/// others are flushed never look finished.
const LOOK_EVERY_US: u64 = 1_000;
const LOOKS: u32 = 5_000;
/// Text of RocksDB's `BackgroundCallFlush`, before and after the error.
const FAILED: (&str, &str) = ("Waiting after background flush error: ", ", Accumulated");

/// Makes every finished write to `db`, which lies in `dir`, durable.
pub(super) fn flush(db: &DB, dir: &Path) -> Result<()> {
    let failures = Failures::since_now(db, dir);
    let mut options = FlushOptions::new();
    options.set_wait(false);
    db.flush_opt(&options).map_err(convert)?;
    // Ends early when nothing runs in the background any more.
    let mut look = WaitForCompactOptions::default();
    look.set_timeout(LOOK_EVERY_US);
    for _ in 0..LOOKS {
        if property(db, properties::NUM_IMMUTABLE_MEM_TABLE) == 0 {
            return Ok(());
        }
        if let Some(error) = failures.seen(db) {
            return Err(error);
        }
        // Too early is no error, and errors show in `failures`.
        let _ = db.wait_for_compact(&look);
    }
    db.flush().map_err(convert)
}

/// Looks for failed flushes.
struct Failures {
    /// Background errors, of compactions too.
    errors: u64,
    info_log: PathBuf,
    /// Length of the info log at the start.
    read_from: u64,
}

impl Failures {
    fn since_now(db: &DB, dir: &Path) -> Self {
        let info_log = dir.join("LOG");
        let read_from = std::fs::metadata(&info_log).map_or(0, |metadata| metadata.len());
        Self { errors: property(db, properties::BACKGROUND_ERRORS), info_log, read_from }
    }

    fn seen(&self, db: &DB) -> Option<Error> {
        if property(db, properties::BACKGROUND_ERRORS) == self.errors {
            return None;
        }
        let text = self.new_text().ok()?;
        let (_, failure) = text.split_once(FAILED.0)?;
        let failure = failure.split_once(FAILED.1).map_or(failure, |(failure, _)| failure);
        Some(super::classify(failure.to_owned()))
    }

    fn new_text(&self) -> std::io::Result<String> {
        let mut file = File::open(&self.info_log)?;
        // A shorter log is a new one.
        let from = if file.metadata()?.len() < self.read_from { 0 } else { self.read_from };
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
