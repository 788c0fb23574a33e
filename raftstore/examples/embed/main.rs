//! Three stores in one process, with a state machine of the embedder's own: counters.
//!
//! Run with `cargo run -p flotilla-raftstore --example embed`. A database builder replaces [`Counters`] by her own
//! commands and the wires of `cluster.rs` by a network; everything else there is what a server does at start.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "an example is wiring: threads and clocks"
)]

mod cluster;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_engine::RocksConfig;
use flotilla_placement::PlacementConfig;
use flotilla_raftstore::placement::Directory;
use flotilla_raftstore::{
    ApplyContext, ApplyView, MachineError, RegionContext, RequestError, StateMachine, Store, StoreConfig,
};
use flotilla_region::{PeerId, Region, RegionId, Space, StoreId, Term};

use cluster::{Cluster, Setup};

/// Handles on all stores.
type Stores = BTreeMap<StoreId, Store>;

/// One command: add a number to a counter, reply with the sum. `key len u8 | key | amount u64 LE`.
struct Counters;

impl StateMachine for Counters {
    fn apply(
        &self,
        _: &ApplyContext<'_>,
        command: &[u8],
        view: &mut ApplyView<'_>,
    ) -> Result<Bytes, MachineError> {
        let (key, amount) = split_command(command).ok_or(MachineError::UnknownCommand)?;
        let before = view.get(key)?.map_or(0, |v| u64::from_le_bytes(v[..].try_into().unwrap_or_default()));
        let after = (before + amount).to_le_bytes();
        view.put(key, &after);
        Ok(Bytes::copy_from_slice(&after))
    }
}

fn split_command(command: &[u8]) -> Option<(&[u8], u64)> {
    let (len, rest) = command.split_first()?;
    let (key, amount) = rest.split_at_checked(*len as usize)?;
    Some((key, u64::from_le_bytes(amount.try_into().ok()?)))
}

fn add(key: &str, amount: u64) -> Bytes {
    let mut command = vec![key.len() as u8];
    command.extend_from_slice(key.as_bytes());
    command.extend_from_slice(&amount.to_le_bytes());
    command.into()
}

/// The region that holds `key`, and the store that leads it, as `store` knows them.
fn route(store: &Store, key: &str) -> Option<(Region, StoreId)> {
    let directory: parking_lot::RwLockReadGuard<'_, Directory> = store.directory().read();
    let info = directory.routes.by_key(Space::User, key.as_bytes())?;
    Some(((*info.region).clone(), info.leader_store()?))
}

fn context(region: &Region) -> RegionContext {
    RegionContext { region: region.id, epoch: region.epoch, peer: PeerId::ZERO, term: Term::ZERO }
}

/// Adds to a counter wherever it lives, following what the stores answer.
fn add_somewhere(stores: &Stores, ask: &Store, key: &str, amount: u64) -> u64 {
    loop {
        let Some((region, leader)) = route(ask, key) else {
            std::thread::yield_now();
            continue;
        };
        let store = &stores[&leader];
        let (tell, told) = channel();
        store.write(context(&region), add(key, amount), Box::new(move |r| drop(tell.send(r))));
        match told.recv().expect("every write is answered once") {
            Ok(reply) => return u64::from_le_bytes(reply[..].try_into().expect("eight bytes")),
            Err(RequestError::Undetermined) => panic!("nothing fails here, so nothing is undetermined"),
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// Reads a counter from the leader: under its lease if it has one, else by a read index.
fn read(stores: &Stores, ask: &Store, key: &str) -> Option<u64> {
    loop {
        let Some((region, leader)) = route(ask, key) else { continue };
        let store = &stores[&leader];
        let data_key = flotilla_region::keys::data_key(Space::User, key.as_bytes());
        if let Some(local) = store.begin_local_read(&context(&region)) {
            let value = store.engine().get(&data_key).expect("the disk works");
            if local.still_holds(&**store.clock()) {
                return value.map(|v| u64::from_le_bytes(v[..].try_into().expect("eight bytes")));
            }
        }
        let (tell, told) = channel();
        store.read(context(&region), false, Box::new(move |r| drop(tell.send(r))));
        if let Ok(grant) = told.recv().expect("every read is answered once") {
            let value = grant.snapshot.get(&data_key).expect("the disk works");
            return value.map(|v| u64::from_le_bytes(v[..].try_into().expect("eight bytes")));
        }
    }
}

fn main() {
    let dir = std::env::temp_dir().join(format!("flotilla-embed-{}", std::process::id()));
    let placement =
        PlacementConfig { store_settle_ms: 500, report_wait_ms: 2_000, ..PlacementConfig::default() };
    let config = StoreConfig { raft_workers: 1, apply_workers: 1, placement, ..StoreConfig::default() };
    let setup = Setup { config, rocks: RocksConfig::small(), machine: Arc::new(Counters) };
    let cluster = Cluster::start(&dir, 3, &setup);
    let stores = cluster.stores();
    let first = stores.values().next().expect("there are three").clone();
    println!("three stores joined");

    for i in 1..=1_000 {
        add_somewhere(&stores, &first, &format!("counter-{}", i % 10), i);
    }
    let started = Instant::now();
    while route(&first, "").is_none_or(|(region, _)| region.peers.len() < 3) {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "placement brings every region to three replicas"
        );
        std::thread::yield_now();
    }
    let total: u64 = (0..10).filter_map(|i| read(&stores, &first, &format!("counter-{i}"))).sum();
    println!("10 counters hold {total}; region {} has three replicas", RegionId::FIRST_USER);
    assert_eq!(total, 500_500, "every addition was applied exactly once");
    // The disks close before their directory goes.
    drop((first, stores));
    cluster.stop();
    let _ = std::fs::remove_dir_all(&dir);
}
