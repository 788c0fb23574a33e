//! For power-cut tests: what the disk is sure to hold of `log`'s WAL, and a copy of a store that holds no more.
//!
//! `data` has no WAL, and RocksDB syncs its files and MANIFEST before it refers to them, so only `log`'s WAL is cut.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::wal;
use crate::{Error, Result};

use super::io_error;
use super::open::{DATA, LOG, TMP};

const RECORD: &str = "log.synced";

/// All WAL files before `file` and the first `length` bytes of `file` are on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    file: u64,
    length: u64,
}

/// The side file that says how far the WAL was synced: {file u64, length u64}, little-endian, overwritten in place.
pub(super) struct SyncedLength {
    log_dir: PathBuf,
    path: PathBuf,
    file: File,
}

impl SyncedLength {
    /// Starts a record; what RocksDB recovered at open counts as durable, because it has moved it into files.
    pub(super) fn start(dir: &Path) -> Result<Self> {
        let path = dir.join(RECORD);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|error| io_error(&path, error))?;
        let synced = Self { log_dir: dir.join(LOG), path, file };
        synced.record(synced.measure()?)?;
        Ok(synced)
    }

    /// What has been written by now, all of which a sync that begins now covers.
    pub(super) fn measure(&self) -> Result<Reached> {
        let Some((file, path)) = wal::files(&self.log_dir)?.pop_last() else {
            return Ok(Reached { file: 0, length: 0 });
        };
        let length = fs::metadata(&path).map_err(|error| io_error(&path, error))?.len();
        Ok(Reached { file, length })
    }

    pub(super) fn record(&self, reached: Reached) -> Result<()> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&reached.file.to_le_bytes());
        bytes[8..].copy_from_slice(&reached.length.to_le_bytes());
        self.file.write_all_at(&bytes, 0).map_err(|error| io_error(&self.path, error))
    }
}

/// For tests: copies the store in `dir`, which no process has open any more (or whose file deletions are off), to the
/// empty or missing directory `to` as a power cut would have left it: the WAL ends where it had last been synced.
///
/// # Errors
/// [`Error::Open`] if the store was not run with [`super::RocksConfig::record_synced_length`].
pub fn power_cut_copy(dir: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
    let (dir, to) = (dir.as_ref(), to.as_ref());
    let reached = read_record(dir)?;
    fs::create_dir_all(to.join(TMP)).map_err(|error| io_error(to, error))?;
    // MANIFESTs before the files that they name: a file that appears in between is then one that nobody names.
    for first in [true, false] {
        for half in [LOG, DATA] {
            copy_half(&dir.join(half), &to.join(half), first)?;
        }
    }
    fs::copy(dir.join(RECORD), to.join(RECORD)).map_err(|error| io_error(&to.join(RECORD), error))?;
    for (number, path) in wal::files(&to.join(LOG))? {
        let keep = match number.cmp(&reached.file) {
            std::cmp::Ordering::Less => continue,
            std::cmp::Ordering::Equal => reached.length,
            std::cmp::Ordering::Greater => 0,
        };
        let file = OpenOptions::new().write(true).open(&path).map_err(|error| io_error(&path, error))?;
        let length = file.metadata().map_err(|error| io_error(&path, error))?.len();
        file.set_len(keep.min(length)).map_err(|error| io_error(&path, error))?;
    }
    Ok(())
}

fn read_record(dir: &Path) -> Result<Reached> {
    let path = dir.join(RECORD);
    let not_recorded = || Error::Open {
        path: dir.display().to_string(),
        why: "the store was run without recording what it synced".to_owned(),
    };
    let bytes = fs::read(&path).map_err(|_| not_recorded())?;
    let (file, length) = bytes.split_at_checked(8).ok_or_else(not_recorded)?;
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).map_err(|_| not_recorded());
    Ok(Reached { file: number(file)?, length: number(length)? })
}

fn copy_half(from: &Path, to: &Path, manifests: bool) -> Result<()> {
    fs::create_dir_all(to).map_err(|error| io_error(to, error))?;
    let entries = fs::read_dir(from).map_err(|error| io_error(from, error))?;
    for entry in entries {
        let entry = entry.map_err(|error| io_error(from, error))?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let is_manifest = text == "CURRENT" || text.starts_with("MANIFEST");
        if is_manifest != manifests || text == "LOCK" || text.starts_with("LOG") {
            continue;
        }
        match fs::copy(entry.path(), to.join(&name)) {
            // An obsolete file whose deletion was under way when deletions were switched off.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => {
                copied.map_err(|error| io_error(&entry.path(), error))?;
            }
        }
    }
    Ok(())
}
