//! Power cuts of all stores at once: each goes on with a copy of its disk that holds only what had been synced.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use flotilla_engine::power_cut_copy;

use crate::harness::{Cluster, Settings, cycles};
use crate::kills::writes_before;
use crate::ledger::{Ledger, Violation};
use crate::load::{Load, split_keys, verify};

/// One cycle: load, cut, restart on what the disks are sure to hold; the violations.
fn cut_power(cluster: &mut Cluster, count: usize, ledger: &Arc<Ledger>, writes: u64) -> Vec<Violation> {
    let load = Load::start(&cluster.addresses(), ledger);
    load.wait_acks(writes);
    cluster.kill9_all();
    load.stop();
    for i in 0..count {
        keep_what_was_synced(&cluster.store(i).data_dir);
    }
    cluster.restart_all();
    verify(&cluster.addresses(), ledger)
}

/// Replaces a store's disk by the copy, and brings along what else lies there.
fn keep_what_was_synced(dir: &Path) {
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
    Settings::default().with("rocksdb.record_synced_length", true)
}

#[test]
fn no_acknowledged_write_is_lost_when_all_stores_lose_power_under_load() {
    let mut cluster = Cluster::start(3, settings());
    cluster.split(&split_keys());
    let ledger = Arc::new(Ledger::default());
    for cycle in 0..cycles(5) {
        let violations = cut_power(&mut cluster, 3, &ledger, writes_before(cycle));
        assert_eq!(violations, [], "after cut {cycle} and {} acknowledged writes", ledger.acks());
        ledger.settle();
    }
    cluster.wait_replicated();
    println!("{} acknowledged writes, none lost", ledger.acks());
}

/// The same stores with the sync of the log left out must fail the check above: else it shows nothing. They form
/// their cluster as they should, so that the cut takes writes and not the cluster.
#[cfg(feature = "planted")]
#[test]
fn a_planted_store_that_does_not_sync_loses_acknowledged_writes_and_is_caught() {
    let program = Path::new(env!("CARGO_BIN_EXE_flotilla-planted"));
    // A checkpoint would make durable what the sync did not.
    let settings = settings().with("store.checkpoint_interval_ms", 3_600_000);
    let mut cluster = Cluster::start_program(program, 3, &settings);
    let ledger = Arc::new(Ledger::default());
    assert_eq!(cut_power(&mut cluster, 3, &ledger, 300), [], "while it syncs");
    cluster.kill9_all();
    cluster.configure(&settings.with("rocksdb.planted_skip_log_sync", true));
    cluster.restart_all();
    let lost = |cycle| {
        let violations = cut_power(&mut cluster, 3, &ledger, writes_before(cycle));
        violations.iter().any(|violation| matches!(violation, Violation::Lost { .. }))
    };
    assert!((0..cycles(5)).any(lost), "{} acknowledged writes, none lost", ledger.acks());
}
