//! Opening a store whose WAL was damaged, and stores that lost their power.

use std::fs;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_engine::{Engine, Error, Result, RocksConfig, RocksEngine, Round, power_cut_copy};
use flotilla_region::keys;

use crate::{log_content, round, tempdir};

fn config() -> RocksConfig {
    RocksConfig { record_synced_length: true, ..RocksConfig::small() }
}

fn open(dir: &Path) -> Arc<RocksEngine> {
    RocksEngine::open(dir, config()).unwrap()
}

/// Writes rounds `first..=last`, each with a key of its own, and syncs those up to `synced`.
fn write_rounds(engine: &RocksEngine, first: u64, last: u64, synced: u64) {
    for number in first..=last {
        let before = (number - 1).min(synced.max(first - 1));
        engine.log_write(&round(number, before, &[(&format!("key {number:03}"), "value")])).unwrap();
        if number <= synced {
            engine.log_sync().unwrap();
        }
    }
}

/// The last round in the log, all before it being there too.
fn last_round(engine: &RocksEngine) -> u64 {
    let content = log_content(engine);
    let Some(value) = content.get(keys::LOG_ROUND) else { return 0 };
    let last = Round::decode(value).unwrap().round;
    assert_eq!(content.len() as u64, last + 1, "rounds are missing: {content:?}");
    last
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

fn wal_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir.join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    files
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 0x04;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path, length: u64) {
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

fn assert_rot(outcome: Result<Arc<RocksEngine>>, file: &Path) {
    let Err(Error::Corruption(text)) = outcome else { panic!("opened a rotten log") };
    assert!(text.contains(&*file.to_string_lossy()) && text.contains("offset"), "{text}");
}

#[test]
fn a_log_with_a_torn_tail_opens_without_it_and_goes_on() {
    let dir = tempdir();
    {
        let engine = open(dir.path());
        write_rounds(&engine, 1, 9, 6);
    }
    let files = wal_files(dir.path());
    let [file] = &files[..] else { panic!("{files:?}") };
    let length = fs::metadata(file).unwrap().len();
    cut(file, length - 10);
    {
        let engine = open(dir.path());
        assert_eq!(last_round(&engine), 8);
        write_rounds(&engine, 9, 12, 10);
    }
    // Power is lost again, and the end of the new file is garbage.
    let [file] = &wal_files(dir.path())[..] else { panic!("one live file") };
    let length = fs::metadata(file).unwrap().len() as usize;
    flip(file, length - 3);
    let engine = open(dir.path());
    assert_eq!(last_round(&engine), 11);
    write_rounds(&engine, 12, 14, 14);
    drop(engine);
    assert_eq!(last_round(&open(dir.path())), 14);
}

#[test]
fn a_tail_cut_anywhere_opens_with_the_rounds_that_are_whole() {
    let dir = tempdir();
    {
        let engine = open(dir.path());
        write_rounds(&engine, 1, 6, 4);
    }
    let [file] = &wal_files(dir.path())[..] else { panic!("one live file") };
    let record = fs::metadata(file).unwrap().len() / 6;
    for length in (4 * record..6 * record).step_by(7) {
        let torn = tempdir();
        copy(dir.path(), torn.path());
        cut(&torn.path().join("log").join(file.file_name().unwrap()), length);
        assert_eq!(last_round(&open(torn.path())), length / record, "cut at {length}");
    }
}

#[test]
fn rot_before_the_synced_point_refuses_to_open() {
    let dir = tempdir();
    {
        let engine = open(dir.path());
        write_rounds(&engine, 1, 9, 6);
    }
    let [file] = &wal_files(dir.path())[..] else { panic!("one live file") };
    let record = fs::metadata(file).unwrap().len() as usize / 9;
    for number in [0, 3, 5] {
        let rotten = tempdir();
        copy(dir.path(), rotten.path());
        let file = rotten.path().join("log").join(file.file_name().unwrap());
        flip(&file, number * record + 30);
        let before = fs::read(&file).unwrap();
        assert_rot(RocksEngine::open(rotten.path(), config()), &file);
        assert_eq!(fs::read(&file).unwrap(), before, "evidence is left alone");
    }
}

/// A store that stopped after it began a second WAL file and before the first was in a sorted file: rounds 1 to 10 in
/// the first, 11 to 14 in the second.
fn store_with_two_files() -> tempfile::TempDir {
    let (dir, early) = (tempdir(), tempdir());
    let engine = open(dir.path());
    write_rounds(&engine, 1, 10, 10);
    copy(dir.path(), early.path());
    engine.log_flush().unwrap();
    write_rounds(&engine, 11, 14, 14);
    let newest = wal_files(dir.path()).pop().unwrap();
    fs::copy(&newest, early.path().join("log").join(newest.file_name().unwrap())).unwrap();
    early
}

#[test]
fn both_files_of_a_log_are_read() {
    let dir = store_with_two_files();
    assert_eq!(wal_files(dir.path()).len(), 2);
    assert_eq!(last_round(&open(dir.path())), 14);
}

#[test]
fn rot_in_an_old_file_or_its_loss_refuses_to_open() {
    let dir = store_with_two_files();
    let old = wal_files(dir.path()).remove(0);
    flip(&old, 60);
    assert_rot(RocksEngine::open(dir.path(), config()), &old);
    let dir = store_with_two_files();
    let [old, new] = &wal_files(dir.path())[..] else { panic!("two files") };
    fs::remove_file(old).unwrap();
    assert_rot(RocksEngine::open(dir.path(), config()), new);
}

#[test]
fn an_obsolete_file_need_not_be_whole() {
    let dir = tempdir();
    let old = {
        let engine = open(dir.path());
        write_rounds(&engine, 1, 10, 10);
        let old = wal_files(dir.path()).pop().unwrap();
        let bytes = fs::read(&old).unwrap();
        engine.log_flush().unwrap();
        write_rounds(&engine, 11, 14, 14);
        (old, bytes)
    };
    // Its deletion had not reached the disk, and neither had its end.
    fs::write(&old.0, &old.1[..old.1.len() - 20]).unwrap();
    assert_eq!(last_round(&open(dir.path())), 14);
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_flushed() {
    let (dir, cut, again) = (tempdir(), tempdir(), tempdir());
    let engine = open(dir.path());
    write_rounds(&engine, 1, 9, 6);
    engine.write(&crate::batch(&[("flushed", "1")])).unwrap();
    engine.flush().unwrap();
    engine.write(&crate::batch(&[("not flushed", "1")])).unwrap();
    engine.power_cut(cut.path()).unwrap();
    assert_eq!(last_round(&engine), 9, "the store itself goes on");
    let after = open(cut.path());
    assert_eq!(last_round(&after), 6);
    assert_eq!(crate::scan(&*after, "", "z", false, 9), ["flushed=1"]);
    write_rounds(&after, 7, 8, 7);
    after.power_cut(again.path()).unwrap();
    assert_eq!(last_round(&open(again.path())), 7);
}

/// Proves that a test with power cuts notices a store that does not sync.
#[cfg(feature = "planted")]
#[test]
fn a_power_cut_shows_a_sync_that_is_none() {
    let (dir, cut) = (tempdir(), tempdir());
    let engine =
        RocksEngine::open(dir.path(), RocksConfig { planted_skip_log_sync: true, ..config() }).unwrap();
    write_rounds(&engine, 1, 9, 9);
    engine.power_cut(cut.path()).unwrap();
    assert_eq!(last_round(&open(cut.path())), 0);
}

#[test]
fn a_store_that_did_not_record_its_syncs_is_not_cut() {
    let (dir, cut) = (tempdir(), tempdir());
    drop(RocksEngine::open(dir.path(), RocksConfig::small()).unwrap());
    assert!(matches!(power_cut_copy(dir.path(), cut.path()), Err(Error::Open { .. })));
}

const CHILD_DIR: &str = "FLOTILLA_ENGINE_CHILD_DIR";

#[test]
#[ignore = "the child of the test that kills it"]
fn child_that_writes_until_it_is_killed() {
    let dir = std::env::var(CHILD_DIR).unwrap();
    let engine = open(Path::new(&dir));
    let mut number = last_round(&engine);
    loop {
        number += 1;
        engine.log_write(&round(number, number - 1, &[(&format!("key {number:03}"), "value")])).unwrap();
        engine.log_sync().unwrap();
        println!("synced {number}");
        number += 1;
        engine.log_write(&round(number, number - 1, &[(&format!("key {number:03}"), "value")])).unwrap();
        if number.is_multiple_of(40) {
            engine.log_flush().unwrap();
        }
    }
}

#[test]
fn a_killed_process_whose_power_then_fails_has_what_it_synced() {
    let dir = tempdir();
    let mut store = dir.path().join("0");
    let mut acknowledged = 0;
    for life in 1..=4 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "wal::child_that_writes_until_it_is_killed", "--ignored", "--nocapture"])
            .env(CHILD_DIR, &store)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        let synced = lines
            .map_while(|line| {
                line.unwrap().split("synced ").nth(1).map(str::to_owned).or(Some(String::new()))
            })
            .filter_map(|number| number.parse::<u64>().ok());
        acknowledged = synced.take(30 * life).last().unwrap_or(acknowledged);
        child.kill().unwrap();
        child.wait().unwrap();
        let next = dir.path().join(life.to_string());
        power_cut_copy(&store, &next).unwrap();
        store = next;
        let survived = last_round(&open(&store));
        assert!(
            survived >= acknowledged,
            "life {life}: {acknowledged} was acknowledged, {survived} survived"
        );
    }
    assert!(acknowledged >= 200, "the child wrote {acknowledged} rounds");
}
