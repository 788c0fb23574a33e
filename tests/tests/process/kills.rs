//! kill -9 of all stores at once, under load.

use std::sync::Arc;

use crate::harness::{Cluster, Settings, cycles};
use crate::ledger::Ledger;
use crate::load::{Load, split_keys, verify};

/// Acknowledged writes before the kill of a cycle: never the same number, so that the kill meets different work.
pub fn writes_before(cycle: usize) -> u64 {
    300 + (cycle as u64 * 271) % 700
}

#[test]
fn no_acknowledged_write_is_lost_when_all_stores_are_killed_under_load() {
    let mut cluster = Cluster::start(3, Settings::default());
    cluster.split(&split_keys());
    let ledger = Arc::new(Ledger::default());
    for cycle in 0..cycles(5) {
        let load = Load::start(&cluster.addresses(), &ledger);
        load.wait_acks(writes_before(cycle));
        cluster.kill9_all();
        load.stop();
        cluster.restart_all();
        let violations = verify(&cluster.addresses(), &ledger);
        assert_eq!(violations, [], "after kill {cycle} and {} acknowledged writes", ledger.acks());
        ledger.settle();
    }
    cluster.wait_replicated();
    println!("{} acknowledged writes, none lost", ledger.acks());
}
