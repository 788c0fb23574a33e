//! A store whose disk is gone comes back as a new store.

use std::sync::Arc;

use crate::harness::{Cluster, PATIENCE, Settings, wait_for};
use crate::ledger::Ledger;
use crate::load::{Load, split_keys, verify};

/// Wipes one store and has the cluster heal; then shows that the new disk holds everything by doing without another.
fn wipe_and_heal(cluster: &mut Cluster, ledger: &Arc<Ledger>, wiped: usize, without: usize) {
    let load = Load::start(&cluster.addresses(), ledger);
    load.wait_acks(300);
    let before = cluster.store_ids().expect("all stores answer");
    cluster.kill9(wiped);
    cluster.wipe(wiped);
    load.wait_acks(300);
    cluster.restart(wiped);
    cluster.wait_ready();
    load.wait_acks(300);
    load.stop();
    cluster.wait_replicated();
    let after = cluster.store_ids().expect("all stores answer");
    let new: Vec<u64> = after.iter().copied().filter(|id| !before.contains(id)).collect();
    assert_eq!((new.len(), after.len()), (1, before.len()), "{before:?} became {after:?}");
    assert!(new[0] > before[before.len() - 1], "{new:?}: an id is not used twice");
    wait_for("nothing counts on the lost disk", PATIENCE, || {
        let old = cluster
            .stores()
            .into_iter()
            .find(|store| before.contains(&store.id) && !after.contains(&store.id));
        match old {
            Some(old) if old.regions > 0 || !old.address.is_empty() => Err(format!("{old:?}")),
            _ => Ok(()),
        }
    });
    cluster.kill9(without);
    assert_eq!(verify(&cluster.addresses(), ledger), [], "with the new disk and one old one");
    cluster.restart(without);
    cluster.wait_ready();
    cluster.wait_replicated();
}

#[test]
fn a_wiped_store_rejoins_as_a_new_one_and_every_region_heals_to_three_replicas() {
    let mut cluster = Cluster::start(3, Settings::default());
    cluster.split(&split_keys());
    let ledger = Arc::new(Ledger::default());
    wipe_and_heal(&mut cluster, &ledger, 2, 1);
    // The first listed store is the one that founds clusters: it must not found a second one.
    wipe_and_heal(&mut cluster, &ledger, 0, 2);
    println!("{} acknowledged writes, none lost", ledger.acks());
}
