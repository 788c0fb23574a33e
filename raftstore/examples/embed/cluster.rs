//! Stores in one process, joined by function calls: what a server does at start, without a network.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flotilla_engine::{RocksConfig, RocksEngine};
use flotilla_placement::{StoreRecord, StoreUuid};
use flotilla_proto::flotilla as pb;
use flotilla_raftstore::{
    Clock, PreSplit, ReplyTo, Seams, SnapshotEvent, StateMachine, Store, StoreConfig, StreamId, Time,
    Transport, Workers, wire::StoreFrame,
};
use flotilla_region::{ClusterId, StoreId};

/// What every store of a cluster is given.
pub struct Setup {
    pub config: StoreConfig,
    pub rocks: RocksConfig,
    pub machine: Arc<dyn StateMachine>,
}

/// Stores that run.
pub struct Cluster {
    folder: PathBuf,
    wires: Arc<Wires>,
    clock: Arc<Monotonic>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Cluster {
    /// Founds a cluster of `stores` stores with fresh disks in `folder`.
    pub fn start(folder: &Path, stores: u8, setup: &Setup) -> Cluster {
        let mut cluster = Cluster {
            folder: folder.to_path_buf(),
            wires: Arc::default(),
            clock: Arc::new(Monotonic(Instant::now())),
            threads: Vec::new(),
            stop: Arc::default(),
        };
        let id = ClusterId(42);
        let engine = cluster.disk(1, setup);
        let founder =
            Store::bootstrap(&*engine, id, record(1), &PreSplit::default()).expect("a fresh disk").store;
        cluster.open(founder, engine, setup);
        for n in 2..=stores {
            let store = cluster.join(founder, n);
            let engine = cluster.disk(n, setup);
            Store::init(&*engine, id, store, Bytes::copy_from_slice(&[n; 16])).expect("a fresh disk");
            cluster.open(store, engine, setup);
        }
        cluster
    }

    /// The stores, by id.
    pub fn stores(&self) -> BTreeMap<StoreId, Store> {
        self.wires.stores.read().expect("no panic under the lock").clone()
    }

    fn disk(&self, n: u8, setup: &Setup) -> Arc<RocksEngine> {
        RocksEngine::open(self.folder.join(n.to_string()), setup.rocks.clone()).expect("a fresh directory")
    }

    /// Has the founder register a store.
    fn join(&self, founder: StoreId, n: u8) -> StoreId {
        let founder = self.wires.store(founder).expect("it was opened");
        loop {
            let (tell, told) = channel();
            let StoreRecord { uuid, address, format_max, .. } = record(n);
            let uuid = Bytes::copy_from_slice(&uuid.0);
            let request = pb::JoinRequest { uuid, address, format_max, ..Default::default() };
            founder.join(request, Box::new(move |reply| drop(tell.send(reply))));
            match told.recv().expect("every join is answered") {
                reply if reply.store_id != 0 => return StoreId(reply.store_id),
                _ => std::thread::yield_now(),
            }
        }
    }

    /// Opens a store and gives each of its workers a thread.
    fn open(&mut self, id: StoreId, engine: Arc<RocksEngine>, setup: &Setup) {
        let seams = Seams {
            engine,
            transport: Arc::new(Wire { me: id, wires: self.wires.clone() }),
            clock: self.clock.clone(),
            machine: setup.machine.clone(),
            fatal: Arc::new(|error| {
                eprintln!("a store stops: {error}");
                std::process::exit(70);
            }),
        };
        let config = StoreConfig { seed: id.0, ..setup.config.clone() };
        let (store, Workers { turns }) = Store::open(config, seams).expect("the disk is fresh");
        self.wires.stores.write().expect("no panic under the lock").insert(id, store);
        for mut worker in turns {
            let (clock, stop) = (self.clock.clone(), self.stop.clone());
            let name = format!("{}-{}", id.0, worker.name());
            let run = move || {
                while !stop.load(Ordering::Relaxed) {
                    if !worker.turn(clock.now()) {
                        worker.wait(clock.now().until(worker.deadline()).min(Duration::from_millis(100)));
                    }
                }
            };
            self.threads.push(std::thread::Builder::new().name(name).spawn(run).expect("a thread"));
        }
    }

    /// Ends all threads and closes the disks, unless somebody still holds a store.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no worker panics");
        }
        self.wires.stores.write().expect("no panic under the lock").clear();
    }
}

fn record(n: u8) -> StoreRecord {
    StoreRecord {
        uuid: StoreUuid([n; 16]),
        address: format!("store-{n}"),
        format_max: flotilla_raftstore::FORMAT,
        ..StoreRecord::default()
    }
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
    stores: RwLock<BTreeMap<StoreId, Store>>,
    streams: Mutex<BTreeMap<StreamId, (StoreId, StoreId)>>,
}

impl Wires {
    fn store(&self, id: StoreId) -> Option<Store> {
        self.stores.read().expect("no panic under the lock").get(&id).cloned()
    }
}

/// One store's end of the wires.
struct Wire {
    me: StoreId,
    wires: Arc<Wires>,
}

impl Wire {
    /// Stream ids are each sender's own; here they share one table.
    fn key(&self, stream: StreamId) -> StreamId {
        StreamId(self.me.0 << 32 | stream.0)
    }
}

impl Transport for Wire {
    fn send(&self, to: StoreId, frame: StoreFrame) {
        if let Some(store) = self.wires.store(to)
            && let Err(why) = store.on_frame(frame)
        {
            eprintln!("store {to} refused a frame: {why}");
        }
    }

    fn snapshot_open(&self, stream: StreamId, to: StoreId, header: pb::SnapshotChunk) {
        let (Some(receiver), Some(sender)) = (self.wires.store(to), self.wires.store(self.me)) else {
            return;
        };
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
        if let (Some(receiver), Some(sender)) = (self.wires.store(to), self.wires.store(from)) {
            receiver.on_snapshot_event(SnapshotEvent::Chunk(self.key(stream), chunk));
            sender.on_snapshot_event(SnapshotEvent::Sent(stream));
        }
    }

    fn snapshot_close(&self, stream: StreamId) {
        let ends = self.wires.streams.lock().expect("no panic under the lock").remove(&self.key(stream));
        if let Some(receiver) = ends.and_then(|(_, to)| self.wires.store(to)) {
            receiver.on_snapshot_event(SnapshotEvent::Closed(self.key(stream)));
        }
    }
}
