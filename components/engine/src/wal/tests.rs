//! The check on WAL files that RocksDB wrote, damaged in every way that a disk knows.

use std::fs;
use std::path::{Path, PathBuf};

use flotilla_region::keys;

use super::*;
use crate::{Engine, Prng, RocksConfig, RocksEngine};

/// A WAL file that RocksDB wrote, and where its batches lie.
#[derive(Clone)]
struct Wal {
    bytes: Vec<u8>,
    batches: Vec<Batch>,
}

#[derive(Clone, Copy, Debug)]
struct Batch {
    start: usize,
    end: usize,
}

/// A log batch with a value of `value_bytes` random bytes.
fn batch(round: Round, value_bytes: usize) -> WriteBatch {
    let mut value = vec![0; value_bytes];
    Prng::new(round.round).fill(&mut value);
    let mut batch = WriteBatch::new();
    batch.put(&round.round.to_be_bytes(), &value);
    batch.put(keys::LOG_ROUND, &round.encode());
    batch
}

/// What RocksDB writes for rounds of the given sizes, the first `synced` of which are synced one by one.
fn wal(engine: &RocksEngine, dir: &Path, first: u64, sizes: &[usize], synced: usize) -> Wal {
    let mut last_synced = first - 1;
    for (index, &size) in sizes.iter().enumerate() {
        let round = first + index as u64;
        engine.log_write(&batch(Round { round, synced: last_synced }, size)).unwrap();
        if index < synced {
            engine.log_sync().unwrap();
            last_synced = round;
        }
    }
    let (_, path) = files(&dir.join("log")).unwrap().pop_last().unwrap();
    let bytes = fs::read(path).unwrap();
    let mut batches = Vec::new();
    let mut reader = Reader::new(&bytes);
    loop {
        match reader.next() {
            Item::End => break,
            Item::Record { offset, payload, .. } => {
                let (_, batch) = parse_batch(&payload).unwrap();
                assert_eq!(round_of(&batch).unwrap().round, first + batches.len() as u64);
                batches.push(Batch { start: offset, end: 0 });
            }
            Item::Bad { offset, why, .. } | Item::Foreign { offset, why } => panic!("{why} at {offset}"),
        }
    }
    assert_eq!(batches.len(), sizes.len(), "RocksDB's file is read as what was written");
    for index in 0..batches.len() {
        batches[index].end = batches.get(index + 1).map_or(bytes.len(), |next| next.start);
    }
    Wal { bytes, batches }
}

fn one_wal(sizes: &[usize], synced: usize) -> Wal {
    let dir = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open(dir.path(), RocksConfig::small()).unwrap();
    wal(&engine, dir.path(), 1, sizes, synced)
}

/// What the check says about these files, numbered from 1.
fn judge(files: &[&[u8]]) -> Result<WalReport> {
    let mut check = Check::new(&WalStart::default());
    for (index, bytes) in files.iter().enumerate() {
        let number = index as u64 + 1;
        check.file(number, &PathBuf::from(format!("{number:06}.log")), bytes)?;
    }
    Ok(check.report())
}

fn assert_rot(outcome: &Result<WalReport>, file: &str, within: &Batch, what: &str) {
    let Err(Error::Corruption(text)) = outcome else { panic!("{what}: {outcome:?}") };
    let offset = text.split_once("at offset ").unwrap().1.split_once(':').unwrap().0;
    let offset: usize = offset.parse().unwrap();
    assert!(text.starts_with(file) && (within.start..within.end).contains(&offset), "{what}: {text}");
}

fn assert_cut(outcome: &Result<WalReport>, file: u64, wal: &Wal, damaged: usize, what: &str) {
    let report = outcome.as_ref().unwrap_or_else(|error| panic!("{what}: {error}"));
    let (cut_file, length) = report.cut.unwrap_or_else(|| panic!("{what}: not cut"));
    let end = wal.batches[..damaged].last().map_or(0, |batch| batch.end as u64);
    assert!(cut_file == file && length <= end && length + 7 > end, "{what}: {report:?}, want {end}");
}

#[test]
fn a_flipped_bit_is_rot_before_the_synced_point_and_a_torn_tail_after_it() {
    let wal = one_wal(&[30, 5, 100, 0, 17, 40, 20, 60, 9, 1], 6);
    assert_eq!(judge(&[&wal.bytes]).unwrap(), WalReport { batches: 10, round: 10, cut: None });
    for (index, batch) in wal.batches.iter().enumerate() {
        for (byte, bit) in (batch.start..batch.end).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut bytes = wal.bytes.clone();
            bytes[byte] ^= 1 << bit;
            let outcome = judge(&[&bytes]);
            let what = format!("bit {bit} of byte {byte}, batch {index}");
            if index < 6 {
                assert_rot(&outcome, "000001.log", batch, &what);
            } else {
                assert_cut(&outcome, 1, &wal, index, &what);
                assert_eq!(outcome.unwrap().round, index as u64, "{what}");
            }
        }
    }
}

#[test]
fn a_file_cut_at_any_byte_after_the_synced_point_keeps_its_whole_batches() {
    let wal = one_wal(&[30, 5, 100, 0, 17, 40, 20, 60, 9, 1], 6);
    for length in wal.batches[5].end..wal.bytes.len() {
        let whole = wal.batches.iter().filter(|batch| batch.end <= length).count();
        let report = judge(&[&wal.bytes[..length]]).unwrap();
        assert_eq!((report.batches, report.round), (whole as u64, whole as u64), "{length}");
        assert_eq!(report.cut.is_some(), wal.batches.iter().all(|batch| batch.end != length), "{length}");
    }
}

#[test]
fn batches_over_several_blocks_are_judged_like_small_ones() {
    let wal = one_wal(&[40_000, 10, 66_000, 32_700, 5, 33_000], 4);
    let mut prng = Prng::new(11);
    for (index, batch) in wal.batches.iter().enumerate() {
        for _ in 0..2 {
            let byte = prng.range(batch.start as u64..batch.end as u64) as usize;
            let mut bytes = wal.bytes.clone();
            bytes[byte] ^= 0x10;
            let outcome = judge(&[&bytes]);
            let what = format!("byte {byte}, batch {index}");
            match &outcome {
                // Padding at the end of a block means nothing.
                Ok(report) if report.cut.is_none() => assert!(batch.end - byte < 7, "{what} was overlooked"),
                _ if index < 4 => assert_rot(&outcome, "000001.log", batch, &what),
                _ => assert_cut(&outcome, 1, &wal, index, &what),
            }
        }
    }
}

#[test]
fn pages_that_were_not_written_are_found_whatever_lies_behind_them() {
    let wal = one_wal(&[3_000; 40], 20);
    for page in 0..wal.bytes.len() / 4_096 {
        let mut bytes = wal.bytes.clone();
        bytes[page * 4_096..(page + 1) * 4_096].fill(0);
        let outcome = judge(&[&bytes]);
        let damaged = wal.batches.iter().position(|batch| batch.end > page * 4_096).unwrap();
        let what = format!("page {page}, batch {damaged}");
        if damaged < 20 {
            let Err(Error::Corruption(_)) = outcome else { panic!("{what}: {outcome:?}") };
        } else {
            assert_cut(&outcome, 1, &wal, damaged, &what);
        }
    }
}

/// Two files of one log, the second begun after round 10, of which 10 + 4 rounds were synced.
fn two_wals(synced_in_first: usize, synced_in_second: usize) -> (Wal, Wal) {
    let dir = tempfile::tempdir().unwrap();
    let engine = RocksEngine::open(dir.path(), RocksConfig::small()).unwrap();
    let first = wal(&engine, dir.path(), 1, &[25; 10], synced_in_first);
    engine.log_flush().unwrap();
    let mut second = wal(&engine, dir.path(), 11, &[25; 8], synced_in_second);
    if synced_in_second == 0 {
        // The writer of round 11 knew what had been synced in the first file only.
        let dir = tempfile::tempdir().unwrap();
        let engine = RocksEngine::open(dir.path(), RocksConfig::small()).unwrap();
        for round in 1..=10 {
            engine.log_write(&batch(Round { round, synced: 0 }, 25)).unwrap();
        }
        engine.log_flush().unwrap();
        for round in 11..=18 {
            let synced = synced_in_first as u64;
            engine.log_write(&batch(Round { round, synced }, 25)).unwrap();
        }
        let (_, path) = files(&dir.path().join("log")).unwrap().pop_last().unwrap();
        second.bytes = fs::read(path).unwrap();
    }
    (first, second)
}

#[test]
fn rot_in_an_old_file_is_proved_by_a_newer_one() {
    let (first, second) = two_wals(10, 4);
    assert_eq!(judge(&[&first.bytes, &second.bytes]).unwrap().batches, 18);
    for (index, damaged) in first.batches.iter().enumerate() {
        let mut bytes = first.bytes.clone();
        bytes[damaged.start + 9] ^= 1;
        let outcome = judge(&[&bytes, &second.bytes]);
        assert_rot(&outcome, "000001.log", damaged, &format!("batch {index}"));
        let outcome = judge(&[&first.bytes[..damaged.start], &second.bytes]);
        let Err(Error::Corruption(text)) = outcome else { panic!("cut before batch {index}: {outcome:?}") };
        assert!(text.contains("batches before it are missing"), "{text}");
    }
    let Err(Error::Corruption(text)) = judge(&[&second.bytes]) else { panic!("a lost file was overlooked") };
    assert!(text.starts_with("000001.log at offset 0"), "{text}");
}

#[test]
fn an_old_file_may_be_torn_where_it_had_not_been_synced() {
    let (first, second) = two_wals(7, 0);
    assert_eq!(judge(&[&first.bytes, &second.bytes]).unwrap().batches, 18);
    for (index, damaged) in first.batches.iter().enumerate() {
        let mut bytes = first.bytes.clone();
        bytes[damaged.start + 9] ^= 1;
        let outcome = judge(&[&bytes, &second.bytes]);
        if index < 7 {
            assert_rot(&outcome, "000001.log", damaged, &format!("batch {index}"));
        } else {
            assert_cut(&outcome, 1, &first, index, &format!("batch {index}"));
        }
    }
}

#[test]
fn batches_that_are_not_there_leave_a_gap_that_is_cut() {
    let wal = one_wal(&[25; 10], 6);
    let mut bytes = wal.bytes.clone();
    bytes.drain(wal.batches[7].start..wal.batches[7].end);
    let report = judge(&[&bytes]).unwrap();
    assert_eq!(report, WalReport { batches: 7, round: 7, cut: Some((1, wal.batches[7].start as u64)) });
    let mut bytes = wal.bytes.clone();
    bytes.drain(wal.batches[3].start..wal.batches[3].end);
    let outcome = judge(&[&bytes]);
    let Err(Error::Corruption(text)) = outcome else { panic!("{outcome:?}") };
    assert!(text.contains("batches before it are missing"), "{text}");
}

#[test]
fn a_record_that_is_no_batch_is_refused() {
    let wal = one_wal(&[25; 3], 3);
    let mut bytes = wal.bytes;
    let payload = b"twelve bytes";
    let mut checked = vec![1];
    checked.extend_from_slice(payload);
    bytes.extend(crate::crc32c::masked(&checked).to_le_bytes());
    bytes.extend((payload.len() as u16).to_le_bytes());
    bytes.extend(checked);
    let outcome = judge(&[&bytes]);
    let Err(Error::Corruption(text)) = outcome else { panic!("{outcome:?}") };
    assert!(text.contains("not a batch of ours"), "{text}");
}

#[test]
fn a_cut_is_what_the_next_check_finds_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = two_wals(7, 0);
    let mut damaged = first.bytes.clone();
    damaged[first.batches[8].start + 9] ^= 1;
    fs::write(dir.path().join("000004.log"), &damaged[..100]).unwrap();
    fs::write(dir.path().join("000005.log"), &damaged).unwrap();
    fs::write(dir.path().join("000009.log"), &second.bytes).unwrap();
    let start = WalStart { file_min: 5, round: 0 };
    let report = check_and_cut(dir.path(), &start).unwrap();
    assert_eq!(report.cut, Some((5, first.batches[8].start as u64)));
    let again = check_and_cut(dir.path(), &start).unwrap();
    assert_eq!(again, WalReport { batches: 8, round: 8, cut: None });
    assert_eq!(fs::metadata(dir.path().join("000004.log")).unwrap().len(), 100, "an obsolete file is left");
    assert_eq!(fs::metadata(dir.path().join("000009.log")).unwrap().len(), 0);
}
