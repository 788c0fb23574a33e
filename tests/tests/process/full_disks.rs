//! A disk that takes no more writes in the middle of its work.

use std::sync::Arc;

use crate::harness::{Cluster, PATIENCE, Settings};
use crate::ledger::Ledger;
use crate::load::{Load, verify};

/// Room for what a start writes, and for a second or two of load.
const FILE_BYTES_MAX: u64 = 400 << 10;
/// Exit status of a store that met an error after which nothing may be acknowledged.
const EXIT_FATAL: i32 = 70;

#[test]
fn a_single_store_whose_disk_fills_up_ends_and_loses_nothing_that_it_acknowledged() {
    let mut cluster = Cluster::start(1, Settings::default());
    cluster.kill9(0);
    cluster.store(0).spawn_on_full_disk(FILE_BYTES_MAX);
    cluster.wait_ready();
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&cluster.addresses(), &ledger);
    let status = cluster.store(0).wait_ended(PATIENCE);
    load.stop();
    assert_eq!(status.code(), Some(EXIT_FATAL), "{}", cluster.store(0).tail());
    cluster.restart_all();
    assert!(ledger.acks() > 0);
    assert_eq!(verify(&cluster.addresses(), &ledger), [], "of {} acknowledged writes", ledger.acks());
}

#[test]
fn a_store_whose_disk_fills_up_ends_and_the_others_go_on() {
    let mut cluster = Cluster::start(3, Settings::default());
    cluster.kill9(1);
    cluster.store(1).spawn_on_full_disk(FILE_BYTES_MAX);
    cluster.wait_ready();
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&cluster.addresses(), &ledger);
    let status = cluster.store(1).wait_ended(PATIENCE);
    assert_eq!(status.code(), Some(EXIT_FATAL), "{}", cluster.store(1).tail());
    load.wait_acks(200);
    load.stop();
    assert_eq!(verify(&cluster.addresses(), &ledger), [], "of {} acknowledged writes", ledger.acks());
    cluster.restart_all();
    cluster.wait_replicated();
}
