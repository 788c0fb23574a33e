//! Regions split and merge under load, by command and by placement.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::harness::{Cluster, PATIENCE, RegionView, Settings, wait_for};
use crate::ledger::Ledger;
use crate::load::{Load, connect, runtime, split_keys, verify};

/// Splits and merges of each border.
const ROUNDS: u64 = 4;
/// Keys of one request of the full scan.
const SCAN_KEYS: u32 = 500;

/// Neighbours on either side of a border.
fn beside(regions: &[RegionView], key: &str) -> Option<(RegionView, RegionView)> {
    let right = regions.iter().find(|r| !r.is_meta && r.start == key.as_bytes())?;
    let left = regions.iter().find(|r| !r.is_meta && r.end == key.as_bytes())?;
    Some((left.clone(), right.clone()))
}

/// Merges the regions on either side of a border, the left one into the right one or the other way round.
fn merge(cluster: &Cluster, key: &str, leftwards: bool) {
    wait_for("a merge", PATIENCE, || {
        let (left, right) = beside(&cluster.regions(), key).ok_or("no border")?;
        let (source, target) = if leftwards { (right, left) } else { (left, right) };
        cluster.try_merge(source.id, target.id)
    });
    wait_for("the border is gone", PATIENCE, || match beside(&cluster.regions(), key) {
        None => Ok(()),
        Some(pair) => Err(format!("{pair:?}")),
    });
}

/// The regions of clients follow one another without a gap from the first key to the last.
pub fn check_tiles(regions: &[RegionView]) {
    let users: Vec<&RegionView> = regions.iter().filter(|r| !r.is_meta).collect();
    assert!(users.first().is_some_and(|r| r.start.is_empty()), "{users:?}");
    assert!(users.last().is_some_and(|r| r.end.is_empty()), "{users:?}");
    for pair in users.windows(2) {
        assert!(!pair[0].end.is_empty() && pair[0].end == pair[1].start, "{pair:?}");
    }
}

/// Every key of the ledger that holds a value, exactly once and in order.
fn check_scan(cluster: &Cluster, ledger: &Ledger) -> usize {
    let runtime = runtime();
    let client = connect(&runtime, &cluster.addresses());
    let (mut found, mut from) = (Vec::new(), Vec::new());
    loop {
        let range = from.clone()..b"x".to_vec();
        let page = runtime.block_on(client.scan_keys(range, SCAN_KEYS)).expect("a scan");
        let page: Vec<Vec<u8>> = page.into_iter().map(Into::into).collect();
        let Some(last) = page.last() else { break };
        from = [&last[..], &[0]].concat();
        found.extend(page);
    }
    runtime.shutdown_background();
    assert!(found.windows(2).all(|pair| pair[0] < pair[1]), "a key is there twice or out of order");
    let found: BTreeSet<String> =
        found.into_iter().map(|key| String::from_utf8(key).expect("written as text")).collect();
    let known: BTreeSet<String> = ledger.keys().into_iter().collect();
    assert!(found.is_subset(&known), "keys that nobody wrote");
    found.len()
}

#[test]
fn no_acknowledged_write_is_lost_while_regions_split_and_merge_under_load() {
    let mut cluster = Cluster::start(3, Settings::default());
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&cluster.addresses(), &ledger);
    load.wait_acks(200);
    let mut merged = 0;
    for round in 0..ROUNDS {
        for key in split_keys() {
            wait_for("a split", PATIENCE, || cluster.try_split(key));
        }
        wait_for("all borders are there", PATIENCE, || {
            let regions = cluster.regions();
            let missing = split_keys().into_iter().find(|key| beside(&regions, key).is_none());
            missing.map_or(Ok(()), |key| Err(key.to_owned()))
        });
        // The last round leaves some borders, so that regions of both kinds are verified.
        let keys = split_keys();
        let some = if round + 1 == ROUNDS { &keys[..2] } else { &keys[..] };
        for key in some {
            merge(&cluster, key, round % 2 == 0);
            merged += 1;
            load.wait_acks(50);
        }
    }
    load.stop();
    assert_eq!(verify(&cluster.addresses(), &ledger), [], "after {merged} merges");
    check_tiles(&cluster.wait_replicated());
    let keys = check_scan(&cluster, &ledger);
    // What was taken over is durable.
    cluster.kill9_all();
    cluster.restart_all();
    assert_eq!(verify(&cluster.addresses(), &ledger), [], "after a kill -9 of all stores");
    check_tiles(&cluster.wait_replicated());
    assert_eq!(check_scan(&cluster, &ledger), keys);
    println!("{merged} merges, {} acknowledged writes, {keys} keys", ledger.acks());
}

#[test]
fn small_regions_merge_by_themselves_once_they_have_had_their_ranges_for_long() {
    let settings =
        Settings::default().with("placement.merge_wait_ms", 3_000).with("store.split_check_ms", 500);
    let mut cluster = Cluster::start(3, settings);
    cluster.split(&split_keys());
    wait_for("all regions of clients but the last become one", PATIENCE, || {
        let regions = cluster.regions();
        let left = split_keys().into_iter().filter(|key| beside(&regions, key).is_some()).count();
        if left == 0 { Ok(()) } else { Err(format!("{left} borders are left")) }
    });
    check_tiles(&cluster.wait_replicated());
}

#[test]
fn what_cannot_be_merged_is_refused_by_name() {
    let mut cluster = Cluster::start(3, Settings::default());
    let regions = cluster.split(&["w04", "w08"]);
    let of = |key: &str| regions.iter().find(|r| r.holds(key.as_bytes())).expect("a region").id;
    let meta = regions.iter().find(|r| r.is_meta).expect("the meta region").id;
    let (first, second, third) = (of("w00"), of("w05"), of("w09"));
    let why = cluster.try_merge(first, third).expect_err("not beside each other");
    assert!(why.contains("no neighbours"), "{why}");
    let why = cluster.try_merge(meta, first).expect_err("never merged");
    assert!(why.contains("never merged"), "{why}");
    cluster.try_merge(first, second).expect("neighbours");
    let why = cluster.try_merge(first, second).expect_err("gone");
    assert!(why.contains("does not exist"), "{why}");
}
