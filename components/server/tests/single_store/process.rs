//! The process: its disk, its pages, its beginning and its end.

use std::process::Command;
use std::time::Duration;

use crate::harness::{StoreProcess, binary, free_ports, http_get};

#[test]
fn acknowledged_writes_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    for i in 0..20 {
        store.run_ok(&["put", &format!("key{i}"), &format!("value{i}")]);
    }
    let store = store.kill_and_restart();
    for i in 0..20 {
        assert_eq!(store.run_ok(&["get", &format!("key{i}")]).trim_end(), format!("value{i}"));
    }
}

#[test]
fn a_directory_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir_all(from.join("deep/er")).unwrap();
    std::fs::write(from.join("empty"), "").unwrap();
    std::fs::write(from.join("deep/er/file"), vec![7u8; 100_000]).unwrap();
    let store = StoreProcess::start(&dir.path().join("data"));
    store.run_ok(&["import", "--dir", from.to_str().unwrap(), "--verify"]);
    store.run_ok(&["export", "--dir", to.to_str().unwrap()]);
    assert_eq!(std::fs::read(to.join("empty")).unwrap(), b"");
    assert_eq!(std::fs::read(to.join("deep/er/file")).unwrap(), vec![7u8; 100_000]);
}

#[test]
fn the_pages_tell_what_the_store_is_and_does() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    store.run_ok(&["put", "k", "v"]);
    let status = http_get(&store.status_address, "/status").unwrap();
    let (_, json) = status.split_once("\r\n\r\n").unwrap();
    let status: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(status["store_id"], 1);
    assert_eq!(status["regions"], 3);
    assert_eq!(status["leaders"], 3);
    assert_eq!(status["ready"], true);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let metrics = http_get(&store.status_address, "/metrics").unwrap();
    let value = |name: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    assert_eq!(value("flotilla_rpc_seconds_count{rpc=\"raw_put\"}"), 1);
    assert!(value("flotilla_log_syncs_total") >= 1);
    assert!(value("flotilla_applied_commands_total") >= 1);
}

#[test]
fn asked_to_end_it_ends_well_and_soon() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = StoreProcess::start(dir.path());
    store.run_ok(&["put", "k", "v"]);
    let (status, took) = store.terminate();
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(http_get(&store.status_address, "/ready").is_none());
}

/// Runs a store that must not start; returns the one line that it says.
fn refused(arguments: &[&str]) -> String {
    let output = Command::new(binary()).arg("server").args(arguments).output().expect("the program starts");
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).expect("text");
    let last = text.lines().last().unwrap_or_default().to_string();
    assert!(last.starts_with("flotilla: "), "{text}");
    last
}

#[test]
fn what_keeps_a_store_from_starting_is_named_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let (data, other) = (dir.path().join("data"), dir.path().join("other"));
    let store = StoreProcess::start(&data);
    let path = |path: &std::path::Path| path.to_str().unwrap().to_string();
    let [port, status_port] = free_ports();
    let (free, free_status) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{status_port}"));

    let line = refused(&["--data-dir", &path(&other), "--addr", &store.address, "--status-addr", &free]);
    assert!(line.contains(&format!("cannot listen on {}", store.address)), "{line}");
    let line = refused(&["--data-dir", &path(&data), "--addr", &free, "--status-addr", &free_status]);
    assert!(line.contains(&path(&data)) && line.contains("locked by a living process"), "{line}");
    let line = refused(&["--addr", "nowhere"]);
    assert!(line.contains("addr") && line.contains("nowhere"), "{line}");

    let config = dir.path().join("flotilla.toml");
    let line = refused(&["--config", &path(&config)]);
    assert!(line.contains(&path(&config)), "{line}");
    std::fs::write(&config, "[store]\nraft_wrokers = 1\n").unwrap();
    let line = refused(&["--config", &path(&config)]);
    assert!(line.contains("line 2") && line.contains("raft_wrokers"), "{line}");
    std::fs::write(&config, "[store]\nlease_ms = 600\n").unwrap();
    let line = refused(&["--config", &path(&config)]);
    assert!(line.contains("lease_ms"), "{line}");
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let line = refused(&["--data-dir", &path(&file), "--addr", &free, "--status-addr", &free_status]);
    assert!(line.contains(&path(&file)), "{line}");
}

#[test]
fn a_disk_of_another_cluster_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("own");
    let mut store = StoreProcess::start(&own);
    store.terminate();
    let other = StoreProcess::start(&dir.path().join("other"));
    let [port, status_port] = free_ports();
    let line = refused(&[
        "--data-dir",
        own.to_str().unwrap(),
        "--addr",
        &format!("127.0.0.1:{port}"),
        "--status-addr",
        &format!("127.0.0.1:{status_port}"),
        "--cluster",
        &other.address,
    ]);
    assert!(line.contains("belongs to cluster") && line.contains(&other.address), "{line}");
}

#[test]
fn the_example_configuration_is_what_the_program_prints() {
    let output = Command::new(binary()).arg("config").output().expect("the program starts");
    assert_eq!(output.stdout, include_bytes!("../../flotilla.example.toml"));
    let output = Command::new(binary()).arg("--version").output().expect("the program starts");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("flotilla {} (", env!("CARGO_PKG_VERSION"))), "{text}");
}
