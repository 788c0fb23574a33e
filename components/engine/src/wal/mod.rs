//! The check of `log`'s WAL files before RocksDB reads them: a torn tail is cut off, rot is refused.
//!
//! After a power cut the end of a WAL may be damaged in any way, and nothing that was synced may be. RocksDB's recovery
//! modes cannot tell the two apart: they either drop synced records silently or refuse to open after an ordinary power
//! cut. We can, because each batch carries a round record {its round r, the last round s that had been synced when it
//! was written}. Reading the live files in order, let g be the round of the last good batch. What is missing or
//! unreadable after it had been synced exactly if some later batch has s > g:
//!
//! ```text
//!   r=7 s=6 | r=8 s=7 | ####### | r=10 s=8     s=8 <= g=8: round 9 was never synced, a torn tail: cut after round 8
//!   r=7 s=6 | r=8 s=7 | ####### | r=10 s=9     s=9 >  g=8: round 9 had been synced: rot, refuse
//! ```
//!
//! The rule needs no exception for older files: a file that was closed a moment before the power cut may be torn too.
//! Files that RocksDB has already moved into sorted files are not read; they need not be whole.
//!
//! A store that has nothing to write seals its last synced batch r with an empty one {r+1, r}, so that rot of r is told
//! too. RocksDB's own record of closed WALs in its MANIFEST covers the case of a whole file that is lost or short.
//!
//! Missing: damage to both the last synced batch and its seal, or within the moment before it is sealed, looks like a
//! torn tail.

mod reader;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use flotilla_region::keys;

use crate::{Error, Op, Result, WriteBatch};

use reader::{Item, Reader};

/// Value of [`keys::LOG_ROUND`], which the log writer puts into every batch: 16 bytes, big-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Number of this batch; greater than that of every earlier batch of this store.
    pub round: u64,
    /// Number of the last batch that a finished [`crate::Engine::log_sync`] covered when this one was written.
    pub synced: u64,
}

impl Round {
    /// The stored form.
    pub fn encode(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.round.to_be_bytes());
        bytes[8..].copy_from_slice(&self.synced.to_be_bytes());
        bytes
    }

    /// Reads the stored form; `None` if it is not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (round, synced) = bytes.split_at_checked(8)?;
        Some(Self {
            round: u64::from_be_bytes(round.try_into().ok()?),
            synced: u64::from_be_bytes(synced.try_into().ok()?),
        })
    }
}

/// Where the live part of a WAL begins.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WalStart {
    /// Files with smaller numbers are in sorted files already.
    pub(crate) file_min: u64,
    /// Round of the last batch that is in sorted files; 0 = none.
    pub(crate) round: u64,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WalReport {
    /// Live batches that stay.
    pub(crate) batches: u64,
    /// Round of the last batch that stays.
    pub(crate) round: u64,
    /// Where the WAL was cut: file number and length that stays. Later files were emptied.
    pub(crate) cut: Option<(u64, u64)>,
}

/// The WAL files in `dir`, by number.
pub(crate) fn files(dir: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(|error| io_error(dir, error))? {
        let path = entry.map_err(|error| io_error(dir, error))?.path();
        if path.extension().is_some_and(|extension| extension == "log")
            && let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
        {
            files.insert(number, path);
        }
    }
    Ok(files)
}

/// Checks the live WAL files in `dir` and cuts off a torn tail, durably.
///
/// # Errors
/// [`Error::Corruption`] names the file and the offset of what is missing although it had been synced, or of a record
/// that RocksDB does not write with our options.
pub(crate) fn check_and_cut(dir: &Path, start: &WalStart) -> Result<WalReport> {
    let (check, files) = read_all(dir, start)?;
    if let Some(bad) = &check.bad {
        cut(dir, &files, bad)?;
    }
    Ok(check.report())
}

/// The same check without the cut.
///
/// # Errors
/// As [`check_and_cut`].
pub(crate) fn check(dir: &Path, start: &WalStart) -> Result<WalReport> {
    read_all(dir, start).map(|(check, _)| check.report())
}

fn read_all(dir: &Path, start: &WalStart) -> Result<(Check, BTreeMap<u64, PathBuf>)> {
    let mut check = Check::new(start);
    let files: BTreeMap<u64, PathBuf> =
        files(dir)?.into_iter().filter(|(number, _)| *number >= start.file_min).collect();
    for (&number, path) in &files {
        let bytes = fs::read(path).map_err(|error| io_error(path, error))?;
        check.file(number, path, &bytes)?;
    }
    Ok((check, files))
}

/// The first place at which the WAL is not whole.
struct Bad {
    file: u64,
    path: PathBuf,
    /// Where the damage begins.
    offset: u64,
    /// Length of the file up to the last good record.
    good_bytes: u64,
    why: &'static str,
}

struct Check {
    /// Round of the last good batch.
    round: u64,
    /// Sequence number that the next batch has if none is missing.
    sequence_next: Option<u64>,
    batches: u64,
    bad: Option<Bad>,
}

impl Check {
    fn new(start: &WalStart) -> Self {
        Self { round: start.round, sequence_next: None, batches: 0, bad: None }
    }

    fn report(&self) -> WalReport {
        WalReport {
            batches: self.batches,
            round: self.round,
            cut: self.bad.as_ref().map(|bad| (bad.file, bad.good_bytes)),
        }
    }

    fn file(&mut self, file: u64, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut reader = Reader::new(bytes);
        loop {
            match reader.next() {
                Item::End => return Ok(()),
                Item::Foreign { offset, why } => return Err(corruption(path, offset, why)),
                Item::Bad { offset, good_bytes, why } => {
                    self.first_bad(file, path, offset, good_bytes, why);
                }
                Item::Record { offset, good_bytes, payload } => {
                    self.record(file, path, offset, good_bytes, &payload)?;
                }
            }
        }
    }

    fn record(
        &mut self,
        file: u64,
        path: &Path,
        offset: usize,
        good_bytes: usize,
        payload: &[u8],
    ) -> Result<()> {
        let Some((sequence, batch)) = parse_batch(payload) else {
            if self.bad.is_some() {
                // Found while searching for a place to go on; bytes inside a value may look like a record.
                return Ok(());
            }
            return Err(corruption(path, offset, "a record that is not a batch of ours"));
        };
        if self.bad.is_none() && self.sequence_next.is_some_and(|next| next != sequence) {
            self.first_bad(file, path, offset, good_bytes, "batches before it are missing");
        }
        let round = round_of(&batch);
        if let Some(round) = round
            && round.synced > self.round
            && round.round > round.synced
        {
            return Err(match &self.bad {
                Some(bad) => corruption(&bad.path, bad.offset as usize, bad.why),
                None => corruption(path, offset, "batches before it are missing"),
            });
        }
        if self.bad.is_none() {
            self.sequence_next = Some(sequence + batch.count() as u64);
            self.round = round.map_or(self.round, |round| self.round.max(round.round));
            self.batches += 1;
        }
        Ok(())
    }

    fn first_bad(&mut self, file: u64, path: &Path, offset: usize, good_bytes: usize, why: &'static str) {
        self.bad.get_or_insert_with(|| Bad {
            file,
            path: path.to_path_buf(),
            offset: offset as u64,
            good_bytes: good_bytes as u64,
            why,
        });
    }
}

fn parse_batch(payload: &[u8]) -> Option<(u64, WriteBatch)> {
    let batch = WriteBatch::from_bytes(payload)?;
    let sequence = u64::from_le_bytes(payload.get(..8)?.try_into().ok()?);
    Some((sequence, batch))
}

fn round_of(batch: &WriteBatch) -> Option<Round> {
    batch.iter().find_map(|op| match op {
        Op::Put(key, value) if key == keys::LOG_ROUND => Round::decode(value),
        _ => None,
    })
}

/// Cuts the file with the damage after its last good record and empties later ones. From the last file to the first:
/// a crash in between leaves a WAL that the next check judges in the same way.
fn cut(dir: &Path, files: &BTreeMap<u64, PathBuf>, bad: &Bad) -> Result<()> {
    for (&number, path) in files.range(bad.file..).rev() {
        let length = if number == bad.file { bad.good_bytes } else { 0 };
        let file = OpenOptions::new().write(true).open(path).map_err(|error| io_error(path, error))?;
        file.set_len(length).and_then(|()| file.sync_all()).map_err(|error| io_error(path, error))?;
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| io_error(dir, error))
}

fn corruption(path: &Path, offset: usize, why: &str) -> Error {
    Error::Corruption(format!("{} at offset {offset}: {why}", path.display()))
}

fn io_error(path: &Path, error: std::io::Error) -> Error {
    Error::Io(format!("{}: {error}", path.display()))
}
