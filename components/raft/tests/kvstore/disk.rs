//! The disk format, without processes: every place at which a file can be cut or damaged.

use std::{fs, path::Path};

use bytes::Bytes;
use flotilla_raft::{
    ConfState, Entry, HardState, Index, PeerId, Ready, Snapshot, SnapshotMeta, Storage, StorageError, Term,
};

use crate::{
    storage::{DiskError, DiskStorage},
    wal::WalError,
};

const OWNER: PeerId = PeerId(1);

fn open(folder: &Path) -> Result<DiskStorage, DiskError> {
    DiskStorage::open(folder, OWNER)
}

fn entry(index: u64, term: u64) -> Entry {
    let data = Bytes::from(format!("entry {index} of term {term}"));
    Entry { index: Index(index), term: Term(term), data, ..Entry::default() }
}

fn batch(term: u64, indexes: std::ops::RangeInclusive<u64>) -> Ready {
    let commit = Index(indexes.start() - 1);
    Ready {
        hard_state: Some(HardState { term: Term(term), vote: OWNER, commit }),
        entries: indexes.map(|index| entry(index, term)).collect(),
        must_sync: true,
        ..Ready::default()
    }
}

fn members() -> ConfState {
    ConfState { voters: vec![OWNER, PeerId(2)], learners: vec![PeerId(3)], ..ConfState::default() }
}

/// Terms of the entries, hard state, and the snapshot's position.
fn state(storage: &DiskStorage) -> (Vec<(u64, u64)>, HardState, Index) {
    let (first, last) = (storage.first_index().unwrap(), storage.last_index().unwrap());
    let term = |index| (index, storage.term(Index(index)).unwrap().0);
    let (hard_state, _) = storage.initial_state().unwrap();
    ((first.0..=last.0).map(term).collect(), hard_state, storage.last_snapshot().meta.index)
}

#[test]
fn what_was_saved_is_there_after_every_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let mut storage = open(folder.path()).unwrap();
    assert!(storage.is_empty());
    let steps: [fn(&mut DiskStorage); 5] = [
        |storage| storage.save(&batch(1, 1..=5)).unwrap(),
        // A new leader replaces the tail.
        |storage| storage.save(&batch(2, 4..=8)).unwrap(),
        |storage| storage.compact(Index(6), members(), Bytes::from_static(b"state at 6"), 2).unwrap(),
        |storage| storage.save(&batch(3, 9..=10)).unwrap(),
        // The leader sends a snapshot.
        |storage| {
            let meta = SnapshotMeta { index: Index(20), term: Term(4), conf_state: members() };
            let snapshot = Some(Box::new(Snapshot { meta, data: Bytes::from_static(b"state at 20") }));
            storage.save(&Ready { snapshot, ..batch(4, 21..=21) }).unwrap();
        },
    ];
    for step in steps {
        step(&mut storage);
        let before = (state(&storage), storage.last_snapshot().clone());
        drop(storage);
        storage = open(folder.path()).unwrap();
        assert_eq!((state(&storage), storage.last_snapshot().clone()), before);
        assert!(!storage.is_empty());
    }
    assert_eq!(state(&storage).0, [(21, 4)]);
    assert_eq!(storage.last_snapshot().data, "state at 20");
    assert_eq!(storage.initial_state().unwrap().1, members());
}

#[test]
fn compaction_keeps_some_entries_and_a_short_log_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut storage = open(folder.path()).unwrap();
    storage.save(&batch(1, 1..=8)).unwrap();
    storage.compact(Index(3), members(), Bytes::new(), 5).unwrap();
    assert_eq!((storage.first_index(), storage.last_index()), (Ok(Index(1)), Ok(Index(8))));
    storage.compact(Index(7), members(), Bytes::new(), 5).unwrap();
    assert_eq!((storage.first_index(), storage.last_index()), (Ok(Index(3)), Ok(Index(8))));
    assert_eq!(state(&open(folder.path()).unwrap()), state(&storage));
}

#[test]
fn a_commit_index_alone_is_not_written_and_the_next_record_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut storage = open(folder.path()).unwrap();
    storage.save(&batch(1, 1..=3)).unwrap();
    let length = || fs::metadata(folder.path().join("log")).unwrap().len();
    let before = length();
    let commit = HardState { term: Term(1), vote: OWNER, commit: Index(3) };
    storage.save(&Ready { hard_state: Some(commit), ..Ready::default() }).unwrap();
    assert_eq!(length(), before);
    let entries = vec![entry(4, 1)];
    storage.save(&Ready { entries, must_sync: true, ..Ready::default() }).unwrap();
    assert_eq!(open(folder.path()).unwrap().initial_state().unwrap().0, commit);
}

#[test]
fn a_snapshot_is_offered_only_to_peers_that_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let mut storage = open(folder.path()).unwrap();
    storage.save(&batch(1, 1..=3)).unwrap();
    let unavailable = Err(StorageError::SnapshotTemporarilyUnavailable);
    assert_eq!(storage.snapshot(Index(0), PeerId(2)), unavailable, "there is none");
    assert!(storage.take_snapshot_wanted() && !storage.take_snapshot_wanted());
    storage.compact(Index(2), members(), Bytes::new(), 0).unwrap();
    for named in [2, 3] {
        assert_eq!(storage.snapshot(Index(0), PeerId(named)).map(|s| s.meta.index), Ok(Index(2)));
    }
    assert!(!storage.take_snapshot_wanted());
    assert_eq!(storage.snapshot(Index(0), PeerId(4)), unavailable, "it joined later");
    assert!(storage.take_snapshot_wanted());
}

/// Length of a file and the (index, term) of the entries that it holds up to there.
type Stage = (usize, Vec<(u64, u64)>);

/// A file of a start and three batches: its bytes, and its stages.
fn three_batches(folder: &Path) -> (Vec<u8>, Vec<Stage>) {
    let log = folder.join("log");
    let mut storage = open(folder).unwrap();
    let length = || fs::metadata(&log).unwrap().len() as usize;
    let mut stages = vec![(length(), Vec::new())];
    // The last value holds a whole log, as a client's may.
    for indexes in [1..=2, 3..=3] {
        storage.save(&batch(1, indexes)).unwrap();
        stages.push((length(), state(&storage).0));
    }
    let mut nested = batch(2, 4..=5);
    nested.entries[1].data = fs::read(&log).unwrap().into();
    storage.save(&nested).unwrap();
    stages.push((length(), state(&storage).0));
    (fs::read(&log).unwrap(), stages)
}

#[test]
fn a_log_cut_anywhere_holds_every_batch_before_the_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (image, stages) = three_batches(folder.path());
    let log = folder.path().join("log");
    for length in 0..=image.len() {
        fs::write(&log, &image[..length]).unwrap();
        let whole = stages.iter().rev().find(|(end, _)| *end <= length);
        match (open(folder.path()), whole) {
            (Ok(storage), Some((end, expected))) => {
                assert_eq!(state(&storage).0, *expected, "cut at {length}");
                assert_eq!(fs::metadata(&log).unwrap().len() as usize, *end, "cut at {length}");
            }
            // Nobody sees a file before its first record is durable.
            (Err(DiskError::Wal(WalError::NotALog { .. } | WalError::Damaged { .. })), None) => {}
            (opened, _) => panic!("cut at {length}: {:?}", opened.map(|storage| state(&storage))),
        }
    }
}

#[test]
fn a_torn_write_of_which_any_part_is_missing_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let (image, stages) = three_batches(folder.path());
    let (end, expected) = &stages[2];
    // Blocks of the last record that did not reach the disk, though later ones did.
    for from in *end..image.len() {
        let mut torn = image.clone();
        let to = (from + 16).min(torn.len());
        torn[from..to].fill(0);
        if torn == image {
            continue;
        }
        fs::write(folder.path().join("log"), &torn).unwrap();
        let storage = open(folder.path()).unwrap_or_else(|error| panic!("nothing at {from}: {error}"));
        assert_eq!(state(&storage).0, *expected, "nothing at {from}");
    }
}

#[test]
fn a_flipped_bit_is_refused_before_the_last_record_and_never_read() {
    let folder = tempfile::tempdir().unwrap();
    let (image, stages) = three_batches(folder.path());
    let (end, expected) = &stages[2];
    for at in 0..image.len() {
        let mut damaged = image.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(folder.path().join("log"), &damaged).unwrap();
        match open(folder.path()) {
            Err(DiskError::Wal(WalError::NotALog { .. })) => assert!(at < 8, "bit of byte {at}"),
            Err(DiskError::Wal(WalError::Damaged { position, .. })) => {
                assert!(position <= at as u64 && at < *end, "bit of byte {at}, found at {position}");
            }
            Err(error) => panic!("bit of byte {at}: {error}"),
            // Like a torn write.
            Ok(storage) => assert!(at >= *end && state(&storage).0 == *expected, "bit of byte {at}"),
        }
    }
}

#[test]
fn a_new_file_that_was_not_finished_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let (_, stages) = three_batches(folder.path());
    fs::write(folder.path().join("log.new"), b"KVSTORE1 and then the power went").unwrap();
    let mut storage = open(folder.path()).unwrap();
    assert_eq!(state(&storage).0, stages[3].1);
    storage.compact(Index(4), members(), Bytes::new(), 0).unwrap();
    assert_eq!(state(&open(folder.path()).unwrap()).2, Index(4));
}

#[test]
fn a_folder_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    match DiskStorage::open(folder.path(), PeerId(2)) {
        Err(DiskError::OthersFolder { owner: OWNER, .. }) => {}
        other => panic!("{other:?}"),
    }
}
