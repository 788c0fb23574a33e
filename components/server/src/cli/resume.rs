//! The record that lets an import go on where it was cut short.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::CliError;
use super::load::Progress;
use super::text::{decode_hex, to_hex};

/// Least time between two writes of the record.
const INTERVAL: Duration = Duration::from_millis(500);

/// How far an import came: everything before the mark is stored. Entries behind it may be stored too; storing them
/// again does no harm. The file is replaced as a whole, so a crash leaves the old or the new mark.
#[derive(Debug)]
pub(super) struct Resume {
    path: PathBuf,
    mark: Mark,
    written: Duration,
    is_stale: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    version: u32,
    cluster_id: u64,
    /// What is imported, as text.
    source: String,
    /// Entries stored from the start on.
    entries: u64,
    /// Key of the last of them.
    last_key_hex: Option<String>,
}

impl Resume {
    /// Reads the record at `path`, or begins one.
    ///
    /// # Errors
    /// The record is of another cluster or source, or cannot be read.
    pub(super) fn open(path: &Path, cluster_id: u64, source: &str) -> Result<Self, CliError> {
        let fresh =
            Mark { version: 1, cluster_id, source: source.to_owned(), entries: 0, last_key_hex: None };
        let mark = match fs::read(path) {
            Ok(text) => {
                let bad = || CliError::BadResume { path: path.to_owned() };
                let mark: Mark = serde_json::from_slice(&text).map_err(|_| bad())?;
                if mark.last_key_hex.as_deref().is_some_and(|hex| decode_hex(hex).is_none()) {
                    return Err(bad());
                }
                mark
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => fresh.clone(),
            Err(error) => return Err(CliError::file(path)(error)),
        };
        if (mark.version, mark.cluster_id, &mark.source) != (fresh.version, fresh.cluster_id, &fresh.source) {
            return Err(CliError::ForeignRecord { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), mark, written: Duration::ZERO, is_stale: false })
    }

    /// Entries stored by earlier runs.
    pub(super) fn entries(&self) -> u64 {
        self.mark.entries
    }

    /// Key of the last of them.
    pub(super) fn last_key(&self) -> Option<Bytes> {
        self.mark.last_key_hex.as_deref().and_then(decode_hex)
    }

    /// Takes the progress of this run, which began behind the first `before` entries, and writes it now and then.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn update(&mut self, before: u64, progress: &Progress) -> Result<(), CliError> {
        if before + progress.front > self.mark.entries {
            self.mark.entries = before + progress.front;
            self.mark.last_key_hex = progress.front_key.as_deref().map(to_hex);
            self.is_stale = true;
        }
        if self.is_stale && progress.elapsed.saturating_sub(self.written) >= INTERVAL {
            self.written = progress.elapsed;
            self.save()?;
        }
        Ok(())
    }

    /// The import ended: what is left of it stays in the record; a whole one removes it.
    ///
    /// # Errors
    /// The file cannot be written or removed.
    pub(super) fn finish(mut self, is_complete: bool) -> Result<(), CliError> {
        if !is_complete {
            return self.save();
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(CliError::file(&self.path)(error)),
            _ => Ok(()),
        }
    }

    fn save(&mut self) -> Result<(), CliError> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        let text = serde_json::to_vec(&self.mark).expect("a mark is plain data");
        fs::write(&new, text).map_err(CliError::file(&new))?;
        fs::rename(&new, &self.path).map_err(CliError::file(&self.path))?;
        self.is_stale = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(front: u64, key: &'static str, ms: u64) -> Progress {
        let front_key = Some(Bytes::from_static(key.as_bytes()));
        Progress { front, front_key, elapsed: Duration::from_millis(ms), ..Progress::default() }
    }

    #[test]
    fn a_cut_import_goes_on_behind_its_mark_and_a_whole_one_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        let mut resume = Resume::open(&path, 7, "dir:/x").unwrap();
        assert_eq!((resume.entries(), resume.last_key()), (0, None));
        resume.update(0, &progress(3, "c", 100)).unwrap();
        assert!(!path.exists(), "not at every entry");
        resume.update(0, &progress(3, "c", 600)).unwrap();
        assert!(path.exists());

        let mut resume = Resume::open(&path, 7, "dir:/x").unwrap();
        assert_eq!((resume.entries(), resume.last_key()), (3, Some("c".into())));
        resume.update(3, &progress(2, "e", 0)).unwrap();
        resume.finish(false).unwrap();
        let resume = Resume::open(&path, 7, "dir:/x").unwrap();
        assert_eq!((resume.entries(), resume.last_key()), (5, Some("e".into())));
        assert!(matches!(Resume::open(&path, 8, "dir:/x"), Err(CliError::ForeignRecord { .. })));
        assert!(matches!(Resume::open(&path, 7, "dir:/y"), Err(CliError::ForeignRecord { .. })));
        resume.finish(true).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(&path, "{}").unwrap();
        assert!(matches!(Resume::open(&path, 7, "dir:/x"), Err(CliError::BadResume { .. })));
    }
}
