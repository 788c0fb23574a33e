//! A store that cannot start says why in one line and ends.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use flotilla_engine::{Engine, RocksConfig, RocksEngine, WriteBatch};
use flotilla_raftstore::{self as raftstore, FORMAT, StoreIdent};
use flotilla_region::keys;

use crate::harness::{Cluster, PATIENCE, Ports, Settings, Store, flotilla, run};

/// Such a start ends soon.
const REFUSAL_LIMIT: Duration = Duration::from_secs(30);

/// Runs a start that must fail: its one line.
fn refused(command: &mut Command) -> String {
    let done = run(command, REFUSAL_LIMIT);
    assert!(done.code.is_some_and(|code| code != 0), "{command:?}: {:?}\n{}", done.code, done.stderr);
    let lines: Vec<&str> = done.stderr.lines().filter(|line| line.starts_with("flotilla: ")).collect();
    assert_eq!(lines.len(), 1, "{command:?} says why in one line:\n{}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    assert_eq!(done.stderr.lines().last(), Some(lines[0]), "{}", done.stderr);
    lines[0].to_owned()
}

fn assert_names(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{line:?} does not name {part:?}");
    }
}

/// A store of its own with a configuration file of its own; not running.
fn lone(folder: &Path, config: &str) -> Store {
    fs::write(folder.join("flotilla.toml"), config).expect("a file");
    let ports = Ports::free();
    Store::new(flotilla(), folder, "store", ports, &ports.address())
}

#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = lone(folder.path(), "");
    for port in [store.ports.main, store.ports.status] {
        let taken = TcpListener::bind(("127.0.0.1", port)).expect("free a moment ago");
        assert_names(&refused(&mut store.command()), &[&format!("127.0.0.1:{port}"), "in use"]);
        drop(taken);
    }
}

#[test]
fn what_is_wrong_with_a_configuration_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flotilla.toml");
    let name = path.to_str().unwrap();
    let unknown = lone(folder.path(), "[store]\nraft_workers = 2\nraft_wokers = 2\n");
    assert_names(&refused(&mut unknown.command()), &[name, "line 3", "raft_wokers"]);
    let planted = lone(folder.path(), "[rocksdb]\nplanted_skip_log_sync = true\n");
    assert_names(&refused(&mut planted.command()), &[name, "line 2", "planted_skip_log_sync"]);
    let wrong = lone(folder.path(), "[store]\nraft_workers = \"two\"\n");
    assert_names(&refused(&mut wrong.command()), &[name, "line 2"]);
    let broken = lone(folder.path(), "[store\n");
    assert_names(&refused(&mut broken.command()), &[name, "line 1"]);
    let useless = lone(folder.path(), "[store]\nraft_workers = 0\n");
    assert_names(&refused(&mut useless.command()), &["raft_workers"]);
    fs::remove_file(&path).unwrap();
    assert_names(&refused(&mut useless.command()), &[name]);
    fs::create_dir(&path).unwrap();
    assert_names(&refused(&mut useless.command()), &[name]);
}

#[test]
fn an_address_that_is_none_and_a_data_directory_that_is_none_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = lone(folder.path(), "");
    assert_names(&refused(store.command().args(["--advertise-addr", "nowhere"])), &["nowhere"]);
    fs::write(&store.data_dir, "a file").unwrap();
    assert_names(&refused(&mut store.command()), &[store.data_dir.to_str().unwrap()]);
}

#[test]
fn a_data_directory_that_a_living_process_uses_is_refused_and_left_alone() {
    let mut cluster = Cluster::start(1, Settings::default());
    let folder = tempfile::tempdir().unwrap();
    let mut second = lone(folder.path(), "");
    second.data_dir = cluster.store(0).data_dir.clone();
    let line = refused(&mut second.command());
    assert_names(&line, &[second.data_dir.to_str().unwrap()]);
    assert!(["lock", "in use"].iter().any(|word| line.contains(word)), "{line}");
    assert_eq!(cluster.flotilla(&["put", "still", "here"]).code, Some(0));
}

#[test]
fn a_data_directory_of_another_cluster_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut stranger = lone(folder.path(), "");
    stranger.spawn();
    stranger.wait_ready(PATIENCE);
    let theirs = stranger.status().expect("a page")["cluster_id"].clone();
    stranger.kill9();
    let mut cluster = Cluster::start(1, Settings::default());
    let ours = cluster.store(0).status().expect("a page")["cluster_id"].clone();
    assert_ne!(ours, theirs);
    // Told to find its cluster where another one is.
    stranger.cluster = cluster.addresses().join(",");
    let line = refused(&mut stranger.command());
    assert_names(&line, &[stranger.data_dir.to_str().unwrap(), &ours.to_string(), &theirs.to_string()]);
    assert_eq!(cluster.flotilla(&["put", "still", "here"]).code, Some(0));
}

#[test]
fn a_data_directory_of_a_newer_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = lone(folder.path(), "");
    store.spawn();
    store.wait_ready(PATIENCE);
    store.kill9();
    {
        let engine = RocksEngine::open(&store.data_dir, RocksConfig::small()).unwrap();
        let ident = raftstore::Store::ident(&*engine).unwrap().expect("it was a store");
        let newer = StoreIdent { format: FORMAT + 6, format_read_min: FORMAT + 1, ..ident };
        let mut batch = WriteBatch::new();
        batch.put(keys::STORE_IDENT, &newer.encode());
        engine.write(&batch).unwrap();
        engine.flush().unwrap();
    }
    let line = refused(&mut store.command());
    let newer = format!("format {}", FORMAT + 6);
    assert_names(&line, &[store.data_dir.to_str().unwrap(), &newer]);
}

#[test]
fn a_disk_that_takes_no_writes_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = lone(folder.path(), "");
    assert_names(&refused(&mut store.command_on_full_disk(0)), &[store.data_dir.to_str().unwrap()]);
    // With room again, the same directory serves.
    let mut store = lone(folder.path(), "");
    store.spawn();
    store.wait_ready(PATIENCE);
}
