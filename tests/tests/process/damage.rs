//! Damaged disks, drained stores and lost quorums, on real files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, RegionView, Settings, flotilla, run, wait_for};

/// Longest run of a command on a stopped store's disk.
const OFFLINE_LIMIT: Duration = Duration::from_secs(60);
/// Larger than a block of a file, so that each has its own.
const VALUE_BYTES: usize = 6_000;

/// A value that compression cannot shorten: it is found in the files as it is.
fn noise(key: &str) -> String {
    let mut state =
        key.bytes().fold(0x9E37_79B9_7F4A_7C15_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    let mut text = String::with_capacity(VALUE_BYTES);
    while text.len() < VALUE_BYTES {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push(char::from(b'0' + ((state >> 33) % 75) as u8));
    }
    text.replace(['\\', '\'', '"', '`'], "_")
}

fn put(cluster: &Cluster, key: &str) {
    let value = noise(key);
    let done = cluster.flotilla(&["put", key, &value]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}

fn assert_there(cluster: &Cluster, key: &str) {
    let done = cluster.flotilla(&["get", key]);
    assert!(done.code == Some(0) && done.stdout.trim_end() == noise(key), "{key}: {:?}", done.stderr);
}

/// Runs `flotilla ctl ARGUMENTS` without a cluster, for its exit status and JSON.
fn offline(arguments: &[&str]) -> (Option<i32>, Value, String) {
    let mut command = Command::new(flotilla());
    command.arg("ctl").args(arguments).args(["--output", "json"]);
    let done = run(&mut command, OFFLINE_LIMIT);
    let value = serde_json::from_str(&done.stdout).unwrap_or(Value::Null);
    (done.code, value, done.stderr)
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("a file");
}

/// Flips a bit of a key's value in whatever file of `data` holds it.
fn rot(data_dir: &Path, key: &str) {
    let wanted = noise(key).into_bytes();
    let hit = files(&data_dir.join("data"), "sst").into_iter().find_map(|path| {
        let at = position(&fs::read(&path).expect("a file"), &wanted[1_000..1_100])?;
        Some((path, at))
    });
    let (path, at) = hit.expect("the value is in a file");
    flip(&path, at);
}

fn stays(region: &RegionView, store: u64) -> Option<u64> {
    region.voters.iter().find(|(_, s)| *s == store).map(|(peer, _)| *peer)
}

#[test]
fn a_region_with_rotten_data_is_replaced_while_the_store_serves_the_others() {
    let mut cluster = Cluster::start(3, Settings::default());
    cluster.split(&["h", "p"]);
    let all = ["a1", "a2", "j1", "j2", "j3", "q1", "q2"];
    all.iter().for_each(|key| put(&cluster, key));
    let id = cluster.store_ids().expect("all answer")[1];
    let i = cluster.index_of(id);
    let before = cluster.region_of("j1");
    let old = stays(&before, id).expect("a voter there");
    // All values in one file: whoever reads up to the end of a region reads the block behind it, and in a file without
    // the values between that might be the damaged one.
    let done = cluster.flotilla(&["ctl", "compact", "--store", &id.to_string()]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    cluster.sigterm(i, Duration::from_secs(20));
    let dir = cluster.store(i).data_dir.clone();
    let dir_text = dir.to_str().expect("UTF-8").to_owned();
    let (code, found, why) = offline(&["disk", "verify", "--data-dir", &dir_text]);
    assert_eq!(code, Some(0), "{found} {why}");
    rot(&dir, "j2");
    let (code, found, _) = offline(&["disk", "verify", "--data-dir", &dir_text]);
    let damaged = |region: &Value| !region["damage"].as_array().expect("a list").is_empty();
    let bad: Vec<u64> = found["regions"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|region| damaged(region))
        .map(|region| region["id"].as_u64().expect("an id"))
        .collect();
    assert_eq!((code, bad), (Some(1), vec![before.id]), "{found}");
    cluster.restart(i);
    cluster.wait_ready();
    // Whoever leads, the comparison reads all replicas.
    let _ = cluster.flotilla(&["ctl", "check", "--region", &before.id.to_string()]);
    wait_for("the damaged replica is replaced", PATIENCE, || {
        all.iter().for_each(|key| assert_there(&cluster, key));
        match stays(&cluster.region_of("j1"), id) {
            Some(peer) if peer != old => Ok(()),
            peer => Err(format!("peer {peer:?} is there")),
        }
    });
    cluster.wait_replicated();
    let (_, page) = cluster.store(i).page("/metrics").expect("a page");
    assert!(page.contains("flotilla_regions_quarantined_total 1"), "{page}");
    wait_for("the replicas are compared", PATIENCE, || {
        let done = cluster.flotilla(&["ctl", "check"]);
        if done.code == Some(0) { Ok(()) } else { Err(done.stderr) }
    });
}

#[test]
fn a_drained_store_gives_everything_away_and_is_removed() {
    let mut cluster = Cluster::start_wide(4, Settings::default());
    let all = ["a1", "j1", "q1"];
    all.iter().for_each(|key| put(&cluster, key));
    for key in ["d", "h", "p"] {
        wait_for("a split", PATIENCE, || cluster.try_split(key));
    }
    let id = cluster.regions()[0].leader.expect("placement is led").1;
    let done = cluster.flotilla(&["ctl", "drain-store", "--store", &id.to_string()]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(cluster.regions().iter().all(|region| stays(region, id).is_none()), "{:?}", cluster.regions());
    let i = cluster.index_of(id);
    cluster.kill9(i);
    cluster.wait_replicated();
    all.iter().for_each(|key| assert_there(&cluster, key));
    let done = cluster.flotilla(&["ctl", "drain-store", "--store", &id.to_string(), "--undo"]);
    assert!(done.code == Some(1) && done.stderr.contains("refused"), "{}", done.stderr);
}

#[test]
fn a_cluster_that_lost_two_of_three_stores_goes_on_with_the_third() {
    let mut cluster = Cluster::start(3, Settings::default());
    cluster.split(&["h"]);
    let all = ["a1", "a2", "j1", "j2"];
    all.iter().for_each(|key| put(&cluster, key));
    let ids = cluster.store_ids().expect("all answer");
    let (kept, lost) = (ids[2], format!("{},{}", ids[0], ids[1]));
    let kept = cluster.index_of(kept);
    cluster.kill9_all();
    let dir = cluster.store(kept).data_dir.clone();
    let dir = dir.to_str().expect("UTF-8");
    let (code, listed, why) = offline(&["disk", "regions", "--data-dir", dir]);
    assert!(code == Some(0) && listed.as_array().is_some_and(|list| list.len() >= 4), "{listed} {why}");
    let own = ids[2].to_string();
    let (code, _, why) = offline(&["recover", "--data-dir", dir, "--failed", &own]);
    assert!(code == Some(1) && why.contains("which --failed names"), "{why}");
    let (code, plan, why) = offline(&["recover", "--data-dir", dir, "--failed", "77"]);
    assert!(code == Some(0) && plan["failed_without_replica"][0] == 77, "{plan} {why}");
    let none = format!("{dir}-none");
    let (code, _, why) = offline(&["recover", "--data-dir", &none, "--failed", &lost]);
    assert!(code == Some(1) && why.contains("there is no store"), "{why}");
    assert!(!std::path::Path::new(&none).exists(), "a typing error made a store");
    let recover = ["recover", "--data-dir", dir, "--failed", &lost];
    let (code, plan, why) = offline(&recover);
    let keep = plan["keep"].as_array().map_or(0, Vec::len);
    assert!(code == Some(0) && plan["executed"] == false && keep == 4, "{plan} {why}");
    assert!(plan["lost_ranges"].as_array().is_some_and(Vec::is_empty), "{plan}");
    let (code, done, why) = offline(&[&recover[..], &["--execute"]].concat());
    assert!(code == Some(0) && done["executed"] == true, "{done} {why}");
    let (_, again, _) = offline(&recover);
    assert_eq!(again["healthy"].as_u64(), Some(4), "{again}");
    cluster.restart(kept);
    cluster.wait_ready();
    all.iter().for_each(|key| assert_there(&cluster, key));
    put(&cluster, "b-new");
    assert_there(&cluster, "b-new");
}

#[test]
fn rot_of_the_last_synced_batch_is_no_torn_tail() {
    let single = Settings::default().with("placement.replicas", 1).with("placement.meta_replicas", 1);
    // No checkpoint moves the log into files meanwhile.
    let mut cluster = Cluster::start(1, single.with("store.checkpoint_interval_ms", 3_600_000));
    put(&cluster, "a1");
    let dir = cluster.store(0).data_dir.clone();
    let wanted = noise("a1").into_bytes();
    let length = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let wal = files(&dir.join("log"), "log").pop().expect("a WAL");
    wait_for("the batch is sealed", PATIENCE, || {
        let bytes = fs::read(&wal).expect("a file");
        let at = position(&bytes, &wanted[..100]).ok_or("the value is not in the WAL")?;
        if bytes.len() > at + VALUE_BYTES + 39 { Ok(()) } else { Err(format!("{} bytes", length(&wal))) }
    });
    cluster.kill9(0);
    let at = position(&fs::read(&wal).expect("a file"), &wanted[..100]).expect("as before");
    flip(&wal, at + 3_000);
    let dir_text = dir.to_str().expect("UTF-8");
    let (code, found, _) = offline(&["disk", "verify", "--data-dir", dir_text]);
    assert!(code == Some(1) && found["log"]["rot"].is_string(), "{found}");
    cluster.restart(0);
    wait_for("it refuses to start", PATIENCE, || {
        cluster.store(0).ended().map(drop).ok_or("it runs".to_owned())
    });
    let said = cluster.store(0).tail();
    assert!(said.contains("offset") && said.contains(".log"), "{said}");
}
