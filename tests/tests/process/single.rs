//! One store, the smallest cluster, and the commands that a user types first.

use std::sync::Arc;

use crate::harness::{Cluster, Settings};
use crate::ledger::Ledger;
use crate::load::{Load, verify};

fn single() -> Settings {
    Settings::default().with("placement.replicas", 1).with("placement.meta_replicas", 1)
}

#[test]
fn a_single_store_keeps_acknowledged_writes_over_kills() {
    let mut cluster = Cluster::start(1, single());
    let ledger = Arc::new(Ledger::default());
    for cycle in 0..2 {
        let load = Load::start(&cluster.addresses(), &ledger);
        load.wait_acks(300);
        cluster.kill9_all();
        load.stop();
        cluster.restart_all();
        assert_eq!(verify(&cluster.addresses(), &ledger), [], "after kill {cycle}");
        ledger.settle();
    }
}

#[test]
fn commands_put_get_scan_and_delete_on_a_running_store() {
    let mut cluster = Cluster::start(1, single());
    let run = |arguments: &[&str]| {
        let done = cluster.flotilla(arguments);
        (done.code, done.stdout.trim_end().to_owned(), done.stderr)
    };
    for (key, value) in [("a", "one"), ("b", ""), ("c", "three")] {
        assert_eq!(run(&["put", key, value]).0, Some(0), "{key}");
    }
    assert_eq!(run(&["get", "a"]).1, "one");
    let (code, _, why) = run(&["get", "missing"]);
    assert!(code == Some(1) && why.lines().count() == 1, "{code:?} {why}");
    let listed = run(&["scan", "--output", "json"]).1;
    assert!(["\"a\"", "\"b\"", "\"c\"", "three"].iter().all(|part| listed.contains(part)), "{listed}");
    assert_eq!(run(&["delete", "a"]).0, Some(0));
    assert_eq!(run(&["get", "a"]).0, Some(1));
    let (code, page) = cluster.store(0).page("/metrics").expect("a page");
    assert!(code == 200 && page.contains("flotilla_rpc_seconds_count"), "{code} {page}");
    let status = cluster.store(0).status().expect("a page");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"), "{status}");
    assert!(status["commit"].is_string(), "{status}");
}
