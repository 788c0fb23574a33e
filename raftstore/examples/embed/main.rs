//! Three stores in one process, with a state machine of the embedder's own: counters.
//!
//! Run with `cargo run -p flotilla-raftstore --example embed`. A database builder replaces [`Counters`] by her own
//! commands and [`Wires`] by a network; everything else is what a server does at start.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "an example is wiring: threads and clocks"
)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flotilla_engine::{RocksConfig, RocksEngine};
use flotilla_placement::{PlacementConfig, StoreRecord, StoreUuid};
use flotilla_proto::flotilla as pb;
use flotilla_raftstore::placement::Directory;
use flotilla_raftstore::{
    ApplyContext, ApplyView, Clock, MachineError, RegionContext, ReplyTo, RequestError, Seams, SnapshotEvent,
    StateMachine, Store, StoreConfig, StreamId, Time, Transport, wire::StoreFrame,
};
use flotilla_region::{ClusterId, PeerId, Region, RegionId, Space, StoreId, Term};

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

struct Monotonic(Instant);

impl Clock for Monotonic {
    fn now(&self) -> Time {
        Time(self.0.elapsed().as_micros() as u64 + 1)
    }

    fn unix_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }
}

/// The network of this process: a call.
#[derive(Default)]
struct Wires {
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    stores: Mutex<HashMap<StoreId, Store>>,
    streams: Mutex<HashMap<StreamId, (StoreId, StoreId)>>,
}

/// One store's end of the wires.
struct Wire {
    me: StoreId,
    wires: Arc<Wires>,
}

impl Wire {
    fn store(&self, id: StoreId) -> Option<Store> {
        self.wires.stores.lock().expect("no panic under the lock").get(&id).cloned()
    }

    /// Stream ids are each sender's own; here they share one table.
    fn key(&self, stream: StreamId) -> StreamId {
        StreamId(self.me.0 << 32 | stream.0)
    }
}

impl Transport for Wire {
    fn send(&self, to: StoreId, frame: StoreFrame) {
        if let Some(store) = self.store(to)
            && let Err(why) = store.on_frame(frame)
        {
            eprintln!("store {to} refused a frame: {why}");
        }
    }

    fn snapshot_open(&self, stream: StreamId, to: StoreId, header: pb::SnapshotChunk) {
        let (Some(receiver), Some(sender)) = (self.store(to), self.store(self.me)) else { return };
        self.wires.streams.lock().expect("no panic under the lock").insert(self.key(stream), (self.me, to));
        if let Some(pb::snapshot_chunk::Part::Header(header)) = header.part {
            let reply: ReplyTo = Box::new(move |r| sender.on_snapshot_event(SnapshotEvent::Reply(stream, r)));
            receiver.on_snapshot_event(SnapshotEvent::Opened(self.key(stream), header, reply));
        }
    }

    fn snapshot_send(&self, stream: StreamId, chunk: pb::SnapshotChunk) {
        let ends =
            self.wires.streams.lock().expect("no panic under the lock").get(&self.key(stream)).copied();
        let Some((from, to)) = ends else { return };
        if let (Some(receiver), Some(sender)) = (self.store(to), self.store(from)) {
            receiver.on_snapshot_event(SnapshotEvent::Chunk(self.key(stream), chunk));
            sender.on_snapshot_event(SnapshotEvent::Sent(stream));
        }
    }

    fn snapshot_close(&self, stream: StreamId) {
        let ends = self.wires.streams.lock().expect("no panic under the lock").remove(&self.key(stream));
        if let Some(receiver) = ends.and_then(|(_, to)| self.store(to)) {
            receiver.on_snapshot_event(SnapshotEvent::Closed(self.key(stream)));
        }
    }
}

/// Opens a store and gives each of its workers a thread.
fn start(id: StoreId, engine: Arc<RocksEngine>, wires: &Arc<Wires>, stop: &Arc<AtomicBool>) -> Store {
    let config = StoreConfig {
        raft_workers: 1,
        apply_workers: 1,
        placement: PlacementConfig {
            store_settle_ms: 500,
            report_wait_ms: 2_000,
            ..PlacementConfig::default()
        },
        ..StoreConfig::default()
    };
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let clock = Arc::new(Monotonic(*ORIGIN.get_or_init(Instant::now)));
    let (store, workers) = Store::open(
        config,
        Seams {
            engine,
            transport: Arc::new(Wire { me: id, wires: wires.clone() }),
            clock: clock.clone(),
            machine: Arc::new(Counters),
            fatal: Arc::new(|error| {
                eprintln!("a store stops: {error}");
                std::process::exit(70);
            }),
        },
    )
    .expect("the disk is fresh");
    wires.stores.lock().expect("no panic under the lock").insert(id, store.clone());
    for mut worker in workers.turns {
        let (clock, stop) = (clock.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if !worker.turn(clock.now()) {
                    worker.wait(clock.now().until(worker.deadline()).min(Duration::from_millis(100)));
                }
            }
        });
        wires.threads.lock().expect("no panic under the lock").push(thread);
    }
    store
}

/// The region that holds `key`, and the store that leads it, as `store` knows them.
fn route(store: &Store, key: &str) -> Option<(Region, StoreId)> {
    let directory: parking_lot::RwLockReadGuard<'_, Directory> = store.directory().read();
    let info = directory.routes.by_key(Space::User, key.as_bytes())?;
    Some((info.region.clone(), info.leader_store()?))
}

fn context(region: &Region) -> RegionContext {
    RegionContext { region: region.id, epoch: region.epoch, peer: PeerId::ZERO, term: Term::ZERO }
}

/// Adds to a counter wherever it lives, following what the stores answer.
fn add_somewhere(wires: &Wires, ask: &Store, key: &str, amount: u64) -> u64 {
    loop {
        let Some((region, leader)) = route(ask, key) else {
            std::thread::yield_now();
            continue;
        };
        let store = wires.stores.lock().expect("no panic under the lock")[&leader].clone();
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
fn read(wires: &Wires, ask: &Store, key: &str) -> Option<u64> {
    loop {
        let Some((region, leader)) = route(ask, key) else { continue };
        let store = wires.stores.lock().expect("no panic under the lock")[&leader].clone();
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
    let (wires, stop) = (Arc::new(Wires::default()), Arc::new(AtomicBool::new(false)));
    let open =
        |name: &str| RocksEngine::open(dir.join(name), RocksConfig::small()).expect("a fresh directory");
    let record = |n: u8| StoreRecord {
        uuid: StoreUuid([n; 16]),
        address: format!("store-{n}"),
        format_max: flotilla_raftstore::FORMAT,
        ..StoreRecord::default()
    };

    let cluster = ClusterId(42);
    let engine = open("1");
    let founder = Store::bootstrap(&*engine, cluster, record(1)).expect("a fresh disk").store;
    let first = start(founder, engine, &wires, &stop);
    println!("store {founder} founded cluster {cluster}");

    for n in [2, 3] {
        let id = loop {
            let (tell, told) = channel();
            let StoreRecord { uuid, address, format_max, .. } = record(n);
            let request = pb::JoinRequest {
                uuid: Bytes::copy_from_slice(&uuid.0),
                address,
                format_max,
                ..Default::default()
            };
            first.join(request, Box::new(move |reply| drop(tell.send(reply))));
            match told.recv().expect("every join is answered") {
                reply if reply.store_id != 0 => break StoreId(reply.store_id),
                _ => std::thread::yield_now(),
            }
        };
        let engine = open(&n.to_string());
        Store::init(&*engine, cluster, id, Bytes::copy_from_slice(&[n; 16])).expect("a fresh disk");
        start(id, engine, &wires, &stop);
        println!("store {id} joined");
    }

    for i in 1..=1_000 {
        add_somewhere(&wires, &first, &format!("counter-{}", i % 10), i);
    }
    let started = Instant::now();
    while route(&first, "").is_none_or(|(region, _)| region.peers.len() < 3) {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "placement brings every region to three replicas"
        );
        std::thread::yield_now();
    }
    let total: u64 = (0..10).filter_map(|i| read(&wires, &first, &format!("counter-{i}"))).sum();
    println!("10 counters hold {total}; region {} has three replicas", RegionId::FIRST_USER);
    assert_eq!(total, 500_500, "every addition was applied exactly once");
    stop.store(true, Ordering::Relaxed);
    for thread in wires.threads.lock().expect("no panic under the lock").drain(..) {
        thread.join().expect("no worker panics");
    }
    // The disks close before their directory goes.
    wires.stores.lock().expect("no panic under the lock").clear();
    drop(first);
    let _ = std::fs::remove_dir_all(&dir);
}
