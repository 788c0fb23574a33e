//! What goes wrong in the background of `data`.
//!
//! Without paranoid checks RocksDB retries a flush that met a full disk for as long as it takes, and a caller that waits
//! for it never hears of it. So the flush is started and watched. A compaction that met a damaged block is retried for
//! ever, too. What went wrong is known from RocksDB's info log only.

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
/// Text of RocksDB's `BackgroundCallFlush`, and of `BackgroundCallCompaction`, before and after the error.
const FLUSH_FAILED: &str = "Waiting after background flush error: ";
const COMPACTION_FAILED: &str = "Waiting after background compaction error: ";
const FAILED_END: &str = ", Accumulated";

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
        if let Some(error) = failures.seen(db, FLUSH_FAILED) {
            return Err(error);
        }
        // Too early is no error, and errors show in `failures`.
        let _ = db.wait_for_compact(&look);
    }
    db.flush().map_err(convert)
}

/// Looks for failed work in the background.
pub(super) struct Failures {
    /// Background errors, of every kind.
    errors: u64,
    info_log: PathBuf,
    /// Length of the info log at the start.
    read_from: u64,
}

impl Failures {
    /// Those from now on, of the instance in `dir`.
    pub(super) fn since_now(db: &DB, dir: &Path) -> Self {
        let info_log = dir.join("LOG");
        let read_from = std::fs::metadata(&info_log).map_or(0, |metadata| metadata.len());
        Self { errors: property(db, properties::BACKGROUND_ERRORS), info_log, read_from }
    }

    /// The damage that a compaction has met since the last look.
    pub(super) fn damage(&mut self, db: &DB, dir: &Path) -> Option<String> {
        let seen = std::mem::replace(self, Self::since_now(db, dir)).seen(db, COMPACTION_FAILED);
        seen.and_then(|error| match error {
            Error::Corruption(why) => Some(why),
            _ => None,
        })
    }

    fn seen(&self, db: &DB, kind: &str) -> Option<Error> {
        if property(db, properties::BACKGROUND_ERRORS) == self.errors {
            return None;
        }
        let text = self.new_text().ok()?;
        let (_, failure) = text.split_once(kind)?;
        let failure = failure.split_once(FAILED_END).map_or(failure, |(failure, _)| failure);
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
