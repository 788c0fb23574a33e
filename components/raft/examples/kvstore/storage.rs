//! What survives a crash: the hard state, the log's entries, the last snapshot. All of it is in one file.
//!
//! The first record of the file says how things stood when the file was made: the snapshot, the hard state, the
//! entries that were kept. Each further record is what one `Ready` wanted stored. A copy of the same is kept in memory
//! (the crate's [`MemStorage`]), where the core reads it.
//!
//! A compaction, and a snapshot that came from the leader, write a new file and rename it over the old one: there is
//! no moment at which snapshot and log do not fit together.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use flotilla_raft::{
    ConfState, Entry, FetchContext, HardState, Index, MemStorage, PeerId, Ready, Snapshot, SnapshotMeta,
    Storage, StorageError, StorageResult, Term,
};

use crate::{
    codec::{DecodeError, Reader, put_entries, put_hard_state, put_snapshot, put_u64},
    wal::{Wal, WalError},
};

/// Why a peer cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The log.
    #[error("{0}")]
    Wal(#[from] WalError),
    /// The folder cannot be made.
    #[error("{path}: {source}")]
    Folder {
        /// Its name.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Two peers cannot share a folder, and a peer cannot change its id.
    #[error("{path} is the folder of peer {owner}")]
    OthersFolder {
        /// Its name.
        path: PathBuf,
        /// Whose it is.
        owner: PeerId,
    },
}

/// The stable log of one peer.
#[derive(Debug)]
pub struct DiskStorage {
    folder: PathBuf,
    owner: PeerId,
    wal: Wal,
    mem: MemStorage,
    /// Whether a peer waits for a newer snapshot than there is.
    is_snapshot_wanted: Cell<bool>,
}

impl DiskStorage {
    /// Opens what `owner` has in `folder`, or begins it.
    ///
    /// # Errors
    /// Any; the process must not start.
    pub fn open(folder: &Path, owner: PeerId) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Folder { path: folder.to_path_buf(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let (wal, mem) = match Wal::open(folder)? {
            None => {
                let mem = MemStorage::new();
                (Wal::create(folder, &encode_start(owner, &mem))?, mem)
            }
            Some((wal, records)) => {
                let (found, mem) = replay(records).map_err(|DecodeError| wal.other_version())?;
                if found != owner {
                    return Err(DiskError::OthersFolder { path: folder.to_path_buf(), owner: found });
                }
                (wal, mem)
            }
        };
        let is_snapshot_wanted = Cell::new(false);
        Ok(Self { folder: folder.to_path_buf(), owner, wal, mem, is_snapshot_wanted })
    }

    /// Whether nothing was ever stored.
    pub fn is_empty(&self) -> bool {
        let is_log_empty = self.mem.entries_slice().is_empty() && self.mem.snapshot_ref().is_empty();
        is_log_empty && self.mem.hard_state().is_empty()
    }

    /// The last snapshot; empty if there was none yet.
    pub fn last_snapshot(&self) -> &Snapshot {
        self.mem.snapshot_ref()
    }

    /// Stores what `ready` wants stored; durable on return if it asks for that. A commit index alone is not written:
    /// it may be lost, and the next record carries it.
    ///
    /// # Errors
    /// Any is the end of the process.
    pub fn save(&mut self, ready: &Ready) -> Result<(), WalError> {
        if let Some(hard_state) = ready.hard_state {
            self.mem.set_hard_state(hard_state);
        }
        if let Some(snapshot) = &ready.snapshot {
            let newer = self.mem.apply_snapshot(Snapshot::clone(snapshot));
            newer.expect("the core takes only snapshots beyond what is committed");
            self.mem.append(&mut ready.entries.clone());
            return self.rewrite();
        }
        self.mem.append(&mut ready.entries.clone());
        if ready.must_sync {
            let mut record = Vec::new();
            put_hard_state(&mut record, self.mem.hard_state());
            put_entries(&mut record, &ready.entries);
            self.wal.append(&record)?;
        }
        Ok(())
    }

    /// Whether a peer needs a newer snapshot than there is; the question is forgotten.
    pub fn take_snapshot_wanted(&self) -> bool {
        self.is_snapshot_wanted.take()
    }

    /// Makes a snapshot of the state machine at `index`, and drops the entries before it but for the last `kept`:
    /// a peer that is only a little behind is helped by entries faster than by everything.
    ///
    /// # Errors
    /// Any is the end of the process.
    pub fn compact(
        &mut self,
        index: Index,
        conf_state: ConfState,
        data: Bytes,
        kept: usize,
    ) -> Result<(), WalError> {
        let created = self.mem.create_snapshot(index, conf_state, data);
        created.expect("the applied index is in the log, and beyond the last snapshot");
        let first = Index(index.0.saturating_sub(kept as u64));
        // Fails where there is nothing to drop yet.
        let _ = self.mem.compact(first);
        self.rewrite()
    }

    fn rewrite(&mut self) -> Result<(), WalError> {
        self.wal = Wal::create(&self.folder, &encode_start(self.owner, &self.mem))?;
        Ok(())
    }
}

/// How things stand, as the first record of a file.
fn encode_start(owner: PeerId, mem: &MemStorage) -> Vec<u8> {
    let mut record = Vec::new();
    put_u64(&mut record, owner.0);
    put_snapshot(&mut record, mem.snapshot_ref());
    let base = mem.first_index().expect("memory can always be read").prev();
    put_u64(&mut record, base.0);
    put_u64(&mut record, mem.term(base).expect("the base has a term").0);
    put_hard_state(&mut record, mem.hard_state());
    put_entries(&mut record, mem.entries_slice());
    record
}

/// The owner and the state that the records of a file add up to.
fn replay(records: Vec<Bytes>) -> Result<(PeerId, MemStorage), DecodeError> {
    let mut records = records.into_iter().map(Reader);
    let mut start = records.next().ok_or(DecodeError)?;
    let owner = start.peer()?;
    let snapshot = start.snapshot()?;
    let base = SnapshotMeta { index: start.index()?, term: start.term()?, ..SnapshotMeta::default() };
    let is_log_longer = base.index < snapshot.meta.index;
    let mut mem = MemStorage::with_snapshot(if is_log_longer {
        Snapshot { meta: base, data: Bytes::new() }
    } else {
        snapshot.clone()
    });
    append(&mut mem, &mut start)?;
    if is_log_longer {
        let SnapshotMeta { index, conf_state, .. } = snapshot.meta;
        mem.create_snapshot(index, conf_state, snapshot.data).map_err(|_| DecodeError)?;
    }
    for mut record in records {
        append(&mut mem, &mut record)?;
    }
    Ok((owner, mem))
}

/// Adds a hard state and entries.
fn append(mem: &mut MemStorage, record: &mut Reader) -> Result<(), DecodeError> {
    mem.set_hard_state(record.hard_state()?);
    let mut entries = record.entries()?;
    let last = mem.last_index().map_err(|_| DecodeError)?;
    let is_gapless = entries.windows(2).all(|pair| pair[1].index == pair[0].index.next());
    if !is_gapless || entries.first().is_some_and(|first| first.index > last.next()) {
        return Err(DecodeError);
    }
    mem.append(&mut entries);
    Ok(())
}

impl Storage for DiskStorage {
    fn initial_state(&self) -> StorageResult<(HardState, ConfState)> {
        self.mem.initial_state()
    }

    fn entries_into(
        &self,
        low: Index,
        high: Index,
        bytes_max: u64,
        context: FetchContext,
        out: &mut Vec<Entry>,
    ) -> StorageResult<()> {
        self.mem.entries_into(low, high, bytes_max, context, out)
    }

    fn term(&self, index: Index) -> StorageResult<Term> {
        self.mem.term(index)
    }

    fn first_index(&self) -> StorageResult<Index> {
        self.mem.first_index()
    }

    fn last_index(&self) -> StorageResult<Index> {
        self.mem.last_index()
    }

    /// A peer that joined after the last snapshot is not named in it and could not use it: it waits for the next one,
    /// which the loop makes when it finds [`Self::take_snapshot_wanted`].
    fn snapshot(&self, at_least: Index, to: PeerId) -> StorageResult<Snapshot> {
        let snapshot = self.mem.snapshot(at_least, to);
        let names = |state: &ConfState| {
            let lists = [&state.voters, &state.voters_outgoing, &state.learners];
            lists.iter().any(|list| list.contains(&to))
        };
        match snapshot {
            Ok(snapshot) if names(&snapshot.meta.conf_state) => Ok(snapshot),
            _ => {
                self.is_snapshot_wanted.set(true);
                Err(StorageError::SnapshotTemporarilyUnavailable)
            }
        }
    }
}
