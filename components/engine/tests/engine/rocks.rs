//! RocksDB behind the seam: each test runs on the model too where it can.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use flotilla_engine::{Engine, Error, MemEngine, RocksConfig, RocksEngine, Size, WriteBatch};

use crate::{batch, data_content, log_content, round, scan, tempdir};

fn open(dir: &Path) -> Arc<RocksEngine> {
    RocksEngine::open(dir, RocksConfig::small()).unwrap()
}

/// Runs `scenario` on both engines.
fn on_both(scenario: impl Fn(&dyn Engine)) {
    let dir = tempdir();
    scenario(&*open(dir.path()));
    scenario(&*MemEngine::new(1));
}

#[test]
fn reads_see_what_was_written() {
    on_both(|engine| {
        engine.log_write(&round(1, 0, &[("l", "1")])).unwrap();
        engine.log_sync().unwrap();
        assert_eq!(engine.log_get(b"l").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(engine.log_get(b"m").unwrap(), None);
        engine.write(&batch(&[("a", "1"), ("b", "2"), ("c", "3"), ("", "empty")])).unwrap();
        assert_eq!(engine.get(b"b").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(engine.get(b"l").unwrap(), None, "log and data are apart");
        assert_eq!(scan(engine, "", "z", false, 9), ["=empty", "a=1", "b=2", "c=3"]);
        assert_eq!(scan(engine, "a", "c", true, 9), ["b=2", "a=1"]);
        assert_eq!(scan(engine, "a", "z", false, 1), ["a=1"]);
        assert_eq!(scan(engine, "b", "b", false, 9), Vec::<String>::new());
        assert_eq!(scan(engine, "c", "a", true, 9), Vec::<String>::new());
    });
}

#[test]
fn a_snapshot_does_not_see_later_writes() {
    on_both(|engine| {
        engine.write(&batch(&[("a", "1"), ("b", "1")])).unwrap();
        let snapshot = engine.snapshot();
        let mut later = batch(&[("a", "2"), ("c", "2")]);
        later.delete_range(b"b", b"c");
        engine.write(&later).unwrap();
        engine.flush().unwrap();
        engine.compact(b"", b"z").unwrap();
        assert_eq!(snapshot.get(b"a").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(snapshot.get(b"b").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(snapshot.get(b"c").unwrap(), None);
        assert_eq!(scan(engine, "", "z", false, 9), ["a=2", "c=2"]);
    });
}

#[test]
fn ingested_files_hide_what_was_there_and_never_their_own_keys() {
    on_both(|engine| {
        engine.write(&batch(&[("a", "old"), ("b", "old"), ("c", "old"), ("x", "old")])).unwrap();
        let snapshot = engine.snapshot();
        let mut first = engine.sst_writer().unwrap();
        first.clear(b"a", b"d").unwrap();
        first.put(b"b", b"first").unwrap();
        first.put(b"c", b"first").unwrap();
        assert!(first.bytes() > 0);
        let mut second = engine.sst_writer().unwrap();
        second.put(b"c", b"second").unwrap();
        second.clear(b"b", b"c").unwrap();
        let empty = engine.sst_writer().unwrap().finish().unwrap();
        let files = vec![first.finish().unwrap(), empty, second.finish().unwrap()];
        engine.ingest(files).unwrap();
        assert_eq!(scan(engine, "", "z", false, 9), ["c=second", "x=old"]);
        engine.flush().unwrap();
        engine.compact(b"", b"z").unwrap();
        assert_eq!(scan(engine, "", "z", true, 9), ["x=old", "c=second"]);
        assert_eq!(snapshot.get(b"a").unwrap().as_deref(), Some(&b"old"[..]), "the snapshot is older");
    });
}

#[test]
fn a_file_that_only_clears_is_a_file() {
    on_both(|engine| {
        engine.write(&batch(&[("a", "1"), ("b", "1")])).unwrap();
        engine.flush().unwrap();
        let mut file = engine.sst_writer().unwrap();
        file.clear(b"a", b"b").unwrap();
        file.clear(b"z", b"a").unwrap();
        engine.ingest(vec![file.finish().unwrap()]).unwrap();
        assert_eq!(scan(engine, "", "z", false, 9), ["b=1"]);
        engine.ingest(Vec::new()).unwrap();
    });
}

#[test]
fn files_that_are_not_ingested_leave_nothing_behind() {
    let dir = tempdir();
    let engine = open(dir.path());
    let files = |dir: &Path| fs::read_dir(dir.join("tmp")).unwrap().count();
    let mut abandoned = engine.sst_writer().unwrap();
    abandoned.put(b"a", b"1").unwrap();
    let mut finished = engine.sst_writer().unwrap();
    finished.put(b"a", b"1").unwrap();
    let finished = finished.finish().unwrap();
    let mut ingested = engine.sst_writer().unwrap();
    ingested.put(b"b", b"1").unwrap();
    engine.ingest(vec![ingested.finish().unwrap()]).unwrap();
    assert_eq!(files(dir.path()), 2);
    drop((abandoned, finished));
    assert_eq!(files(dir.path()), 0);
    fs::write(dir.path().join("tmp/000007.sst"), b"left by a killed process").unwrap();
    drop(engine);
    assert_eq!(scan(&*open(dir.path()), "", "z", false, 9), ["b=1"]);
    assert_eq!(files(dir.path()), 0);
}

#[test]
fn a_reopened_store_has_what_it_had() {
    let dir = tempdir();
    for life in 0..3u64 {
        let engine = open(dir.path());
        assert_eq!(log_content(&*engine).len(), if life == 0 { 0 } else { life as usize + 1 });
        engine.log_write(&round(life + 1, life, &[(&format!("l{life}"), "1")])).unwrap();
        engine.log_sync().unwrap();
        engine.write(&batch(&[(&format!("d{life}"), "1")])).unwrap();
        engine.flush().unwrap();
        assert_eq!(data_content(&*engine).len() as u64, life + 1);
    }
}

#[test]
fn a_flushed_log_has_no_wal_bytes_and_the_same_content() {
    let dir = tempdir();
    let engine = open(dir.path());
    for n in 1..=20 {
        engine.log_write(&round(n, n - 1, &[(&format!("l{n}"), "1")])).unwrap();
        engine.log_sync().unwrap();
    }
    let before = log_content(&*engine);
    assert!(engine.log_bytes() > 500);
    engine.log_flush().unwrap();
    assert_eq!(engine.log_bytes(), 0);
    assert_eq!(log_content(&*engine), before);
    drop(engine);
    assert_eq!(log_content(&*open(dir.path())), before);
}

#[test]
fn a_store_that_is_open_is_not_opened_again() {
    let dir = tempdir();
    let _engine = open(dir.path());
    let refused = RocksEngine::open(dir.path(), RocksConfig::small());
    let Err(Error::Open { path, why }) = refused else { panic!("opened twice") };
    assert_eq!(path, dir.path().display().to_string());
    assert!(why.contains("locked by a living process"), "{why}");
}

#[test]
fn half_a_store_is_refused() {
    for (half, word) in [("log", "log half"), ("data", "data half")] {
        let dir = tempdir();
        {
            let engine = open(dir.path());
            engine.write(&batch(&[("a", "1")])).unwrap();
            engine.flush().unwrap();
        }
        fs::remove_dir_all(dir.path().join(half)).unwrap();
        let refused = RocksEngine::open(dir.path(), RocksConfig::small());
        let Err(Error::Open { why, .. }) = refused else { panic!("opened without {half}") };
        assert!(why.contains(word), "{why}");
    }
}

#[test]
fn a_creation_cut_short_is_gone_on_with() {
    let dir = tempdir();
    drop(open(dir.path()));
    fs::remove_dir_all(dir.path().join("log")).unwrap();
    let engine = open(dir.path());
    engine.log_write(&round(1, 0, &[])).unwrap();
    engine.log_sync().unwrap();
}

/// Makes the next files of an instance lie on a full device.
fn fill_disk(dir: &Path, extension: &str) {
    let newest = fs::read_dir(dir)
        .unwrap()
        .filter_map(|entry| entry.unwrap().path().file_stem()?.to_str()?.parse::<u64>().ok())
        .max()
        .unwrap();
    for number in newest + 1..newest + 30 {
        std::os::unix::fs::symlink("/dev/full", dir.join(format!("{number:06}.{extension}"))).unwrap();
    }
}

#[test]
fn the_first_log_error_closes_the_log() {
    let dir = tempdir();
    let engine = open(dir.path());
    engine.log_write(&round(1, 0, &[("a", "1")])).unwrap();
    engine.log_sync().unwrap();
    fill_disk(&dir.path().join("log"), "log");
    engine.log_flush().unwrap();
    let first = engine.log_write(&round(2, 1, &[("b", "1")]));
    assert!(matches!(first, Err(Error::NoSpace(_))), "{first:?}");
    for later in [
        engine.log_write(&WriteBatch::new()),
        engine.log_sync(),
        engine.log_flush(),
        engine.log_get(b"a").map(|_| ()),
    ] {
        assert!(matches!(&later, Err(Error::Io(why)) if why.contains("No space")), "{later:?}");
    }
    engine.write(&batch(&[("a", "1")])).unwrap();
    engine.flush().unwrap();
}

#[test]
fn a_full_disk_fails_a_data_flush() {
    let dir = tempdir();
    let engine = open(dir.path());
    engine.write(&batch(&[("a", "1")])).unwrap();
    fill_disk(&dir.path().join("data"), "sst");
    let flushed = engine.flush();
    assert!(matches!(flushed, Err(Error::NoSpace(_))), "{flushed:?}");
}

#[test]
fn sizes_count_files_and_memory() {
    let dir = tempdir();
    let engine = open(dir.path());
    let mut batch = WriteBatch::new();
    let mut prng = flotilla_engine::Prng::new(5);
    for n in 0..1_000u32 {
        let mut value = [0; 1_000];
        prng.fill(&mut value);
        batch.put(&n.to_be_bytes(), &value);
    }
    engine.write(&batch).unwrap();
    let (start, middle, end) = ([0; 4], 500u32.to_be_bytes(), 1_000u32.to_be_bytes());
    assert_eq!(engine.approximate_size(&start, &end), Size { bytes: 1_004_000, keys: 1_000 });
    assert_eq!(engine.approximate_size(&end, &start), Size::default());
    engine.flush().unwrap();
    let whole = engine.approximate_size(&start, &end);
    assert!((950_000..1_200_000).contains(&whole.bytes) && (900..1_100).contains(&whole.keys), "{whole:?}");
    let half = engine.approximate_size(&start, &middle);
    assert!((400_000..600_000).contains(&half.bytes) && (400..600).contains(&half.keys), "{half:?}");
    // Another part of the file tree: few keys with as many bytes. And a list of files that has changed.
    let mut batch = WriteBatch::new();
    for n in 5_000..5_010u32 {
        let mut value = vec![0; 100_000];
        prng.fill(&mut value);
        batch.put(&n.to_be_bytes(), &value);
    }
    engine.write(&batch).unwrap();
    engine.flush().unwrap();
    let few = engine.approximate_size(&5_000u32.to_be_bytes(), &6_000u32.to_be_bytes());
    assert!((900_000..1_200_000).contains(&few.bytes) && (8..12).contains(&few.keys), "{few:?}");
    assert!((900..1_100).contains(&engine.approximate_size(&start, &end).keys));
    let metrics = engine.metrics();
    let metric = |name| metrics.iter().find(|(n, _)| *n == name).unwrap().1;
    assert!(metric("data_file_bytes") > 900_000 && metric("data_background_errors") == 0, "{metrics:?}");
}

/// A store with two hundred keys in each of the ranges a, m and z, in one file with a damaged block in its middle.
fn with_damage(dir: &Path) -> Arc<RocksEngine> {
    {
        let engine = open(dir);
        let mut batch = WriteBatch::new();
        let mut prng = flotilla_engine::Prng::new(3);
        for range in ["a", "m", "z"] {
            for n in 0..200 {
                let mut value = [0; 100];
                prng.fill(&mut value);
                batch.put(&numbered(range, n), &value);
            }
        }
        engine.write(&batch).unwrap();
        engine.flush().unwrap();
        engine.compact(b"a", b"zz").unwrap();
    }
    let files = fs::read_dir(dir.join("data")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "sst")).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
    open(dir)
}

fn numbered(range: &str, n: u32) -> Vec<u8> {
    format!("{range}{n:03}").into_bytes()
}

/// A compaction that meets damage is tried again for ever, and files pile up in level 0.
#[test]
fn compactions_that_never_end_stop_no_writes() {
    let dir = tempdir();
    let engine = with_damage(dir.path());
    let rounds = 70;
    for n in 0..rounds {
        engine.write(&batch(&[("a000", "new"), ("m000", "new"), ("z199", "new")])).unwrap();
        engine.flush().unwrap();
        assert_eq!(engine.get(b"z199").unwrap().as_deref(), Some(&b"new"[..]), "after flush {n}");
    }
    let backlog = engine.backlog();
    assert_eq!((backlog.memtables, backlog.level0_files), (0, rounds), "nothing was compacted");
    let why = engine.compaction_damage().expect("it is said");
    assert!(why.contains("checksum") || why.contains("Corruption"), "{why}");
}

#[test]
fn damage_in_a_data_file_stays_with_the_keys_in_its_block() {
    let dir = tempdir();
    let engine = with_damage(dir.path());
    let reads = |range| (0..200).map(|n| engine.get(&numbered(range, n))).collect::<Vec<_>>();
    let failed = reads("m").iter().filter(|read| matches!(read, Err(Error::Corruption(_)))).count();
    assert!((1..100).contains(&failed), "{failed} keys of the damaged block");
    assert!(reads("a").iter().chain(&reads("z")).all(|read| matches!(read, Ok(Some(_)))));
    let snapshot = engine.snapshot();
    assert!(matches!(snapshot.scan(b"a", b"zz", &mut |_, _| true), Err(Error::Corruption(_))));
    snapshot.scan(b"a", b"b", &mut |_, _| true).unwrap();
    snapshot.scan_reverse(b"z", b"zz", &mut |_, _| true).unwrap();
    // Compactions that meet the damage do not stop the instance.
    for n in 0..2 {
        engine.write(&batch(&[("a000", "new"), ("m000", "new"), ("z199", "new")])).unwrap();
        engine.flush().unwrap();
        engine.compact(b"a", b"zz").unwrap();
        assert_eq!(engine.get(b"z199").unwrap().as_deref(), Some(&b"new"[..]), "after compaction {n}");
    }
    // Ingestion that replaces the range heals reads of it.
    let mut file = engine.sst_writer().unwrap();
    file.clear(b"m", b"n").unwrap();
    file.put(b"m100", b"healed").unwrap();
    engine.ingest(vec![file.finish().unwrap()]).unwrap();
    assert_eq!(engine.get(b"m100").unwrap().as_deref(), Some(&b"healed"[..]));
}
