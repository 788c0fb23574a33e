//! Files for ingestion, in `dir/tmp` until RocksDB takes them over.

use std::path::PathBuf;

use rocksdb::SstFileWriter;

use crate::{Result, SstContent, SstFile, SstWriter};

use super::config::SST_OPTIONS;
use super::convert;

/// An [`SstWriter`] over RocksDB's. All points and range tombstones of a file get one sequence number at ingestion, and
/// a range tombstone hides only smaller ones, so `clear` spares the file's own keys.
pub(super) struct RocksSstWriter {
    writer: SstFileWriter<'static>,
    file: RocksSst,
    bytes: u64,
}

impl RocksSstWriter {
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        let writer = SstFileWriter::create(&SST_OPTIONS);
        open(&writer, &path)?;
        Ok(Self { writer, file: RocksSst { path: Some(path) }, bytes: 0 })
    }
}

/// `SstFileWriter::open` borrows the writer for as long as its options live; a shorter life of its type is enough.
fn open<'a>(writer: &'a SstFileWriter<'a>, path: &PathBuf) -> Result<()> {
    writer.open(path).map_err(convert)
}

impl SstWriter for RocksSstWriter {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.writer.put(key, value).map_err(convert)?;
        self.bytes += (key.len() + value.len()) as u64;
        Ok(())
    }

    fn clear(&mut self, start: &[u8], end: &[u8]) -> Result<()> {
        if start >= end {
            return Ok(());
        }
        self.writer.delete_range(start, end).map_err(convert)?;
        self.bytes += (start.len() + end.len()) as u64;
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn finish(mut self: Box<Self>) -> Result<SstFile> {
        if self.bytes == 0 {
            self.file.remove();
        } else {
            self.writer.finish().map_err(convert)?;
        }
        Ok(SstFile(Box::new(self.file)))
    }
}

/// A finished file; removed when dropped, unless RocksDB has taken it.
pub(super) struct RocksSst {
    /// `None` for a file that holds nothing.
    path: Option<PathBuf>,
}

impl RocksSst {
    pub(super) fn path(&self) -> Option<&PathBuf> {
        self.path.as_ref()
    }

    fn remove(&mut self) {
        if let Some(path) = self.path.take() {
            // The file is gone already if it was ingested; any that stays is removed at the next open.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for RocksSst {
    fn drop(&mut self) {
        self.remove();
    }
}

impl SstContent for RocksSst {
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}
