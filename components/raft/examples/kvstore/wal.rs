//! The write-ahead log: one file of checksummed records, each durable before the next one is begun.
//!
//! ```text
//! file    magic [8] | salt u32 | checksum of both u32 | record*
//! record  length u32 | checksum of the payload u32 | checksum of salt, position and the two before u32 | payload
//! ```
//!
//! Numbers are little endian. The salt is drawn anew for each file, so that nothing a client stores can be mistaken
//! for a record.
//!
//! **What a crash may leave**: because every record is synced before the next one is begun, only the last one can be
//! incomplete. It was never acknowledged to anybody, and is cut off. A record that is wrong although something
//! follows it was once durable: the disk lost it, and the file is refused rather than shortened, because others
//! count on what it held. (Damage to the very last record looks like a torn write. It is cut off too, and if it had
//! been acknowledged, the leader's heartbeats give it away: see `node.rs`.)
//!
//! **A failed write or sync** is the end of the process: nobody knows what the file holds then, so nothing may be
//! built on it.

use std::{
    fs::{self, File, OpenOptions},
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    path::{Path, PathBuf},
};

use bytes::Bytes;

const MAGIC: &[u8; 8] = b"KVSTORE1";
/// Bytes before the first record.
const FILE_HEAD: usize = 16;
/// Bytes of a record before its payload.
const RECORD_HEAD: usize = 12;

/// Why there is no log to work with.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The operating system refuses.
    #[error("{path}: {source}")]
    Io {
        /// What was read or written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something else has that name.
    #[error("{path} is not a log of this program")]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// A newer version wrote it.
    #[error("{path} was written by another version of this program")]
    OtherVersion {
        /// The file.
        path: PathBuf,
    },
    /// The file lost what was durable.
    #[error(
        "{path} is damaged at byte {position}: what stood there was durable once, and others may count on it; \
         remove this peer from the group and let it join again under a new id, with an empty folder"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the first wrong record begins.
        position: u64,
    },
}

/// The log, open for appending.
#[derive(Debug)]
pub struct Wal {
    path: PathBuf,
    file: File,
    salt: u32,
    /// Length of the file.
    end: u64,
}

impl Wal {
    /// Opens the log in `folder` and reads its records; `None` if there is none. A torn last record is cut off.
    ///
    /// # Errors
    /// Any; the process must not start.
    pub fn open(folder: &Path) -> Result<Option<(Self, Vec<Bytes>)>, WalError> {
        let path = folder.join("log");
        let image = match fs::read(&path) {
            Ok(image) => Bytes::from(image),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(WalError::Io { path, source }),
        };
        if !image.starts_with(MAGIC) {
            return Err(WalError::NotALog { path });
        }
        let Some(salt) = file_salt(&image) else { return Err(WalError::Damaged { path, position: 0 }) };
        let mut records = Vec::new();
        let mut end = FILE_HEAD;
        while let Some(record) = record_at(&image, end, salt) {
            end += RECORD_HEAD + record.len();
            records.push(record);
        }
        // The first record was durable before the file got its name.
        if records.is_empty() || (end < image.len() && has_successor(&image, end, salt)) {
            return Err(WalError::Damaged { path, position: end as u64 });
        }
        let cut = || {
            let file = OpenOptions::new().append(true).open(&path)?;
            if end < image.len() {
                file.set_len(end as u64)?;
                file.sync_all()?;
            }
            Ok(file)
        };
        let file = cut().map_err(|source| WalError::Io { path: path.clone(), source })?;
        Ok(Some((Self { path, file, salt, end: end as u64 }, records)))
    }

    /// Makes a new log in `folder` with `first` as its first record. It takes the place of the old one all at once:
    /// a crash leaves the one or the other.
    ///
    /// # Errors
    /// Any is the end of the process.
    pub fn create(folder: &Path, first: &[u8]) -> Result<Self, WalError> {
        let path = folder.join("log");
        let salt = RandomState::new().build_hasher().finish() as u32;
        let mut image = MAGIC.to_vec();
        image.extend_from_slice(&salt.to_le_bytes());
        image.extend_from_slice(&crc32fast::hash(&image).to_le_bytes());
        let mut replace = || {
            image.extend_from_slice(&encode_record(first, FILE_HEAD as u64, salt)?);
            let new = folder.join("log.new");
            let mut file = File::create(&new)?;
            file.write_all(&image)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            // The name is durable once its folder is.
            File::open(folder)?.sync_all()?;
            Ok(file)
        };
        let file = replace().map_err(|source| WalError::Io { path: path.clone(), source })?;
        Ok(Self { path, file, salt, end: image.len() as u64 })
    }

    /// Appends a record; it is durable on return.
    ///
    /// # Errors
    /// Any is the end of the process.
    pub fn append(&mut self, payload: &[u8]) -> Result<(), WalError> {
        let mut write = || {
            let record = encode_record(payload, self.end, self.salt)?;
            self.file.write_all(&record)?;
            self.file.sync_data()?;
            Ok(record.len() as u64)
        };
        let written: io::Result<u64> = write();
        self.end += written.map_err(|source| WalError::Io { path: self.path.clone(), source })?;
        Ok(())
    }

    /// The error for records that are intact and make no sense.
    pub fn other_version(&self) -> WalError {
        WalError::OtherVersion { path: self.path.clone() }
    }
}

fn encode_record(payload: &[u8], position: u64, salt: u32) -> io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut record = Vec::with_capacity(RECORD_HEAD + payload.len());
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    record.extend_from_slice(&head_checksum(&record, position, salt).to_le_bytes());
    record.extend_from_slice(payload);
    Ok(record)
}

fn head_checksum(length_and_checksum: &[u8], position: u64, salt: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&position.to_le_bytes());
    hasher.update(length_and_checksum);
    hasher.finalize()
}

fn u32_at(image: &[u8], position: usize) -> Option<u32> {
    let bytes = image.get(position..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

fn file_salt(image: &[u8]) -> Option<u32> {
    let is_intact = u32_at(image, 12)? == crc32fast::hash(&image[..12]);
    if is_intact { u32_at(image, 8) } else { None }
}

/// Where the record at `position` ends, if its head is intact.
fn record_end(image: &[u8], position: usize, salt: u32) -> Option<usize> {
    let checksum = u32_at(image, position + 8)?;
    let is_intact = checksum == head_checksum(&image[position..position + 8], position as u64, salt);
    let length = u32_at(image, position)?;
    is_intact.then_some(position + RECORD_HEAD + length as usize)
}

/// The payload at `position`, if the whole record is there and intact.
fn record_at(image: &Bytes, position: usize, salt: u32) -> Option<Bytes> {
    let end = record_end(image, position, salt).filter(|end| *end <= image.len())?;
    let payload = image.slice(position + RECORD_HEAD..end);
    (u32_at(image, position + 4)? == crc32fast::hash(&payload)).then_some(payload)
}

/// Whether anything was written after the broken record at `position`: then that record had been durable.
fn has_successor(image: &Bytes, position: usize, salt: u32) -> bool {
    match record_end(image, position, salt) {
        Some(end) => end < image.len(),
        None => (position + 1..image.len()).any(|later| record_at(image, later, salt).is_some()),
    }
}
