//! Power cuts of all stores at once: each goes on with a copy of its disk that holds only what had been synced.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use flotilla_engine::power_cut_copy;

use crate::harness::{Cluster, Settings, cycles};
use crate::kills::{busy_stores, start_in_vain, writes_before};
use crate::ledger::{Ledger, Violation};
use crate::load::{Load, verify};

const STORES: usize = 3;

/// One cycle: load, cut, restart on what the disks are sure to hold; the violations.
fn cut_power(cluster: &mut Cluster, ledger: &Arc<Ledger>, cycle: usize) -> Vec<Violation> {
    let load = Load::start(&cluster.addresses(), ledger);
    load.wait_acks(writes_before(cycle));
    cluster.kill9_all();
    load.stop();
    keep_what_was_synced(cluster);
    if start_in_vain(cluster, cycle) {
        keep_what_was_synced(cluster);
    }
    cluster.restart_all();
    verify(&cluster.addresses(), ledger)
}

fn keep_what_was_synced(cluster: &mut Cluster) {
    (0..STORES).for_each(|i| replace_by_copy(&cluster.store(i).data_dir));
}

/// Replaces a store's disk by the copy, and brings along what else lies there.
fn replace_by_copy(dir: &Path) {
    let cut = dir.with_extension("cut");
    power_cut_copy(dir, &cut).expect("the store recorded what it synced");
    for entry in fs::read_dir(dir).expect("its disk") {
        let entry = entry.expect("its disk");
        let to = cut.join(entry.file_name());
        if entry.file_type().expect("its disk").is_file() && !to.exists() {
            fs::copy(entry.path(), to).expect("a copy");
        }
    }
    fs::remove_dir_all(dir).expect("its disk");
    fs::rename(&cut, dir).expect("the same folder");
}

fn settings() -> Settings {
    busy_stores().with("rocksdb.record_synced_length", true)
}

#[test]
fn no_acknowledged_write_is_lost_when_all_stores_lose_power_under_load() {
    let mut cluster = Cluster::start(STORES, settings());
    let ledger = Arc::new(Ledger::default());
    for cycle in 0..cycles(8) {
        let violations = cut_power(&mut cluster, &ledger, cycle);
        assert_eq!(violations, [], "after cut {cycle} and {} acknowledged writes", ledger.acks());
        ledger.settle();
    }
    let regions = cluster.wait_replicated();
    println!("{} acknowledged writes, none lost; {} regions", ledger.acks(), regions.len());
}

/// The same stores with the sync of the log left out must fail the check above: else it shows nothing. They form
/// their cluster as they should, so that the cut takes writes and not the cluster.
#[cfg(feature = "planted")]
#[test]
fn a_planted_store_that_does_not_sync_loses_acknowledged_writes_and_is_caught() {
    let program = Path::new(env!("CARGO_BIN_EXE_flotilla-planted"));
    // A checkpoint would make durable what the sync did not.
    let settings = settings().with("store.checkpoint_interval_ms", 3_600_000);
    let mut cluster = Cluster::start_program(program, STORES, &settings);
    let ledger = Arc::new(Ledger::default());
    assert_eq!(cut_power(&mut cluster, &ledger, 0), [], "while it syncs");
    cluster.kill9_all();
    cluster.configure(&settings.with("rocksdb.planted_skip_log_sync", true));
    cluster.restart_all();
    let lost = |cycle| {
        let violations = cut_power(&mut cluster, &ledger, cycle);
        violations.iter().any(|violation| matches!(violation, Violation::Lost { .. }))
    };
    assert!((0..cycles(5)).any(lost), "{} acknowledged writes, none lost", ledger.acks());
}
