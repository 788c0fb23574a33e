//! kill -9 of all stores at once, under load.

use std::sync::Arc;

use crate::harness::{Cluster, PATIENCE, Settings, cycles, wait_for};
use crate::ledger::Ledger;
use crate::load::{Load, verify};

/// Acknowledged writes before the fault of a cycle: never the same number, so that it meets different work.
pub fn writes_before(cycle: usize) -> u64 {
    300 + (cycle as u64 * 271) % 700
}

/// Regions split by size all the time, and snapshots and checkpoints are frequent: the fault meets them too.
pub fn busy_stores() -> Settings {
    Settings::default()
        .with("store.split_bytes", 30_000)
        .with("store.split_check_ms", 300)
        .with("store.checkpoint_interval_ms", 700)
}

/// In every other cycle the stores fail once more while they come back: as soon as one of them has a process that
/// answers, which is before its regions serve.
pub fn start_in_vain(cluster: &mut Cluster, cycle: usize) -> bool {
    if cycle.is_multiple_of(2) {
        return false;
    }
    for i in 0..cluster.addresses().len() {
        cluster.restart(i);
    }
    wait_for("a store answers", PATIENCE, || cluster.store(cycle % 3).status());
    cluster.kill9_all();
    true
}

#[test]
fn no_acknowledged_write_is_lost_when_all_stores_are_killed_under_load() {
    let mut cluster = Cluster::start(3, busy_stores());
    let ledger = Arc::new(Ledger::default());
    for cycle in 0..cycles(8) {
        let load = Load::start(&cluster.addresses(), &ledger);
        load.wait_acks(writes_before(cycle));
        cluster.kill9_all();
        load.stop();
        start_in_vain(&mut cluster, cycle);
        cluster.restart_all();
        let violations = verify(&cluster.addresses(), &ledger);
        assert_eq!(violations, [], "after kill {cycle} and {} acknowledged writes", ledger.acks());
        ledger.settle();
    }
    let regions = cluster.wait_replicated();
    println!("{} acknowledged writes, none lost; {} regions", ledger.acks(), regions.len());
}
