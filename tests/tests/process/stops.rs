//! SIGTERM: a store leaves in an orderly way while clients write.

use std::sync::Arc;
use std::time::Duration;

use crate::harness::{Cluster, Settings};
use crate::ledger::Ledger;
use crate::load::{Load, split_keys, verify};

/// What is promised.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// Longest time without any acknowledged write while a store leaves that hands its leaders over first.
const GAP_LIMIT: Duration = Duration::from_secs(3);

#[test]
fn a_store_told_to_stop_leaves_within_ten_seconds_and_writes_go_on_elsewhere() {
    let mut cluster = Cluster::start(3, Settings::default());
    cluster.split(&split_keys());
    let ledger = Arc::new(Ledger::default());
    for i in 0..3 {
        let load = Load::start(&cluster.addresses(), &ledger);
        load.wait_acks(200);
        ledger.reset_gap();
        let (status, took) = cluster.sigterm(i, STOP_LIMIT);
        load.wait_acks(200);
        let gap = ledger.longest_gap();
        load.stop();
        assert_eq!(status.code(), Some(0), "store {i}:\n{}", cluster.store(i).tail());
        assert!(gap < GAP_LIMIT, "no write was acknowledged for {gap:?} while store {i} left");
        assert_eq!(verify(&cluster.addresses(), &ledger), [], "without store {i}");
        println!("store {i} ended after {took:?}, longest time without a write {gap:?}");
        cluster.restart(i);
        cluster.wait_ready();
        cluster.wait_replicated();
    }
    assert_eq!(verify(&cluster.addresses(), &ledger), []);
}

#[test]
fn three_stores_told_to_stop_at_once_lose_nothing() {
    let mut cluster = Cluster::start(3, Settings::default());
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&cluster.addresses(), &ledger);
    load.wait_acks(200);
    for i in 0..3 {
        // The last ones have nobody to hand their leaders to.
        let (status, took) = cluster.sigterm(i, STOP_LIMIT);
        assert_eq!(status.code(), Some(0), "store {i} after {took:?}:\n{}", cluster.store(i).tail());
    }
    load.stop();
    cluster.restart_all();
    assert_eq!(verify(&cluster.addresses(), &ledger), []);
}
