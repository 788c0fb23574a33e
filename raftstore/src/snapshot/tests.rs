//! One store's snapshot worker between a network and a clock that the test plays.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::{Engine, MemEngine, WriteBatch};
use flotilla_raft::{Message, MessageKind};
use flotilla_region::{
    ClusterId, Index, KeyRange, Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, Space, StoreId, Term,
    keys,
};
use parking_lot::Mutex;

use super::{SnapshotMsg, chunk_crc, data_bytes};
use crate::config::StoreConfig;
use crate::mailbox::Turn;
use crate::outbox::raft_message;
use crate::placement::MetaMachine;
use crate::state::{LogId, RegionState};
use crate::store::{Seams, Store};
use crate::time::{Clock, Time};
use crate::transport::{SnapshotEvent, StreamId, Transport};
use crate::wire::pb;
use crate::wire::pb::snapshot_chunk::Part;
use crate::wire::pb::snapshot_reply::Kind;

const ME: StoreId = StoreId(1);
const REGION: RegionId = RegionId(50);
const START: Time = Time(5_000_000);
const RATE: u64 = 100_000;

/// What the sender gave to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Given {
    Open,
    Part(usize),
    Trailer,
    Close,
}

#[derive(Default)]
struct Wire {
    given: Mutex<Vec<(StreamId, Given)>>,
}

impl Transport for Wire {
    fn send(&self, _: StoreId, _: crate::wire::StoreFrame) {}
    fn snapshot_open(&self, stream: StreamId, _: StoreId, _: pb::SnapshotChunk) {
        self.given.lock().push((stream, Given::Open));
    }
    fn snapshot_send(&self, stream: StreamId, chunk: pb::SnapshotChunk) {
        let given = match chunk.part {
            Some(Part::Data(data)) => Given::Part(data_bytes(&data)),
            _ => Given::Trailer,
        };
        self.given.lock().push((stream, given));
    }
    fn snapshot_close(&self, stream: StreamId) {
        self.given.lock().push((stream, Given::Close));
    }
}

struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> Time {
        START
    }
    fn unix_ms(&self) -> u64 {
        0
    }
}

struct Rig {
    store: Store,
    engine: Arc<MemEngine>,
    worker: Box<dyn Turn>,
    wire: Arc<Wire>,
    answers: Arc<Mutex<Vec<(u64, Kind, u32)>>>,
    now: Time,
}

impl Rig {
    fn new() -> Self {
        let engine = MemEngine::new(1);
        Store::init(&*engine, ClusterId(9), ME, Bytes::from_static(b"0123456789abcdef")).expect("healthy");
        let config = StoreConfig {
            snapshot_chunk_bytes: 1_000,
            snapshot_send_bytes_per_s: RATE,
            snapshot_receive_bytes_per_s: RATE,
            ..StoreConfig::default()
        };
        let wire = Arc::new(Wire::default());
        let seams = Seams {
            engine: engine.clone(),
            transport: wire.clone(),
            clock: Arc::new(NoClock),
            machine: Arc::new(MetaMachine),
            fatal: Arc::new(|error| panic!("{error}")),
        };
        let (store, workers) = Store::open(config, seams).expect("a store");
        let worker = workers.turns.into_iter().find(|turn| turn.name() == "snapshot").expect("one");
        let mut rig = Self { store, engine, worker, wire, answers: Arc::default(), now: START };
        rig.turn();
        rig
    }

    fn turn(&mut self) {
        while self.worker.turn(self.now) {}
    }

    fn event(&mut self, event: SnapshotEvent) {
        self.store.on_snapshot_event(event);
        self.turn();
    }

    /// Lets time pass until the worker wants a turn, or `ms` at most.
    fn wait(&mut self, ms: u64) {
        self.now = self.worker.deadline().min(self.now.plus_ms(ms));
        self.turn();
    }

    // ---- the sending side ----

    /// A region of 200 keys of about 1,000 bytes on disk.
    fn write_region(&self) -> Region {
        let region = region();
        let mut batch = WriteBatch::new();
        batch.put(&keys::region_state(REGION), &RegionState::Normal(region.clone()).encode());
        let at = LogId { index: Index(30), term: Term(7) };
        batch.put(&keys::apply_state(REGION), &at.encode());
        for n in 0..200 {
            let key = keys::data_key(Space::User, format!("b{n:03}").as_bytes());
            batch.put(&key, &[7; 996]);
        }
        self.engine.write(&batch).expect("healthy");
        region
    }

    fn ask(&mut self, region: &Region) {
        let (from, to) = (region.peers[0], region.peers[1]);
        let message = Message { kind: MessageKind::Snapshot, term: Term(7), ..Message::default() };
        let region = Arc::new(region.clone());
        self.store.shared.links.snapshot.send(SnapshotMsg::Send { region, from, to, message });
        self.turn();
    }

    fn stop(&mut self, only: Option<PeerId>) {
        self.store.shared.links.snapshot.send(SnapshotMsg::Stop { region: REGION, only });
        self.turn();
    }

    fn reply(&mut self, kind: Kind, window: u32) {
        let reply = pb::SnapshotReply { kind: kind as i32, window, ..Default::default() };
        self.event(SnapshotEvent::Reply(StreamId(1), reply));
    }

    /// What the network was given since the last look; it takes all of it.
    fn take(&mut self) -> Vec<Given> {
        let given = std::mem::take(&mut *self.wire.given.lock());
        for (stream, _) in given.iter().filter(|(_, given)| matches!(given, Given::Part(_))) {
            self.event(SnapshotEvent::Sent(*stream));
        }
        given.into_iter().map(|(_, given)| given).collect()
    }

    /// Bytes of parts that the network takes in `ms`.
    fn bytes_in(&mut self, ms: u64, has_more: bool) -> usize {
        let (end, mut bytes) = (self.now.plus_ms(ms), 0);
        loop {
            let given = self.take();
            for part in &given {
                if let Given::Part(size) = part {
                    bytes += size;
                    if has_more {
                        self.reply(Kind::More, 0);
                    }
                }
            }
            if self.now >= end {
                return bytes;
            }
            if given.is_empty() {
                self.wait(end.ms_since(self.now).max(1));
            }
        }
    }

    // ---- the receiving side ----

    fn open(&mut self, stream: u64, (from, term): (u64, u64), waits_for_more: bool) {
        let region = region();
        let sender = Peer { id: PeerId(500 + from), store: StoreId(from), role: PeerRole::Voter };
        let message = Message { kind: MessageKind::Snapshot, term: Term(term), ..Message::default() };
        let header = pb::SnapshotHeader {
            version: 1,
            cluster_id: 9,
            from_store: from,
            to_store: ME.0,
            message: Some(raft_message(&region, sender, region.peers[0], Some(message), true)),
            waits_for_more,
            ..Default::default()
        };
        let answers = self.answers.clone();
        let reply = move |r: pb::SnapshotReply| answers.lock().push((stream, r.kind(), r.window));
        self.event(SnapshotEvent::Opened(StreamId(stream), header, Box::new(reply)));
    }

    fn part(&mut self, stream: u64, key: &'static str, bytes: usize) {
        let (keys, values) = (vec![Bytes::from_static(key.as_bytes())], vec![vec![1; bytes].into()]);
        let mut data = pb::SnapshotData { keys, values, ..Default::default() };
        data.crc = chunk_crc(&data, &mut crc32fast::Hasher::new());
        self.event(SnapshotEvent::Chunk(
            StreamId(stream),
            pb::SnapshotChunk { part: Some(Part::Data(data)) },
        ));
    }

    fn answers(&self) -> Vec<(u64, Kind, u32)> {
        std::mem::take(&mut *self.answers.lock())
    }
}

fn region() -> Region {
    let peer = |n: u64| Peer { id: PeerId(500 + n), store: StoreId(n), role: PeerRole::Voter };
    Region {
        id: REGION,
        range: KeyRange::new("b", "c"),
        epoch: RegionEpoch { conf_ver: 3, version: 2 },
        peers: vec![peer(1), peer(2)],
        ..Region::default()
    }
}

#[test]
fn a_sender_keeps_to_its_rate() {
    let mut rig = Rig::new();
    let region = rig.write_region();
    rig.ask(&region);
    assert_eq!(rig.take(), [Given::Open]);
    rig.reply(Kind::Ready, 0);
    let bytes = rig.bytes_in(1_000, false);
    assert!((RATE as usize..=RATE as usize * 11 / 10 + 1_000).contains(&bytes), "{bytes}");
    assert!(rig.bytes_in(1_100, false) > 80_000);
    assert_eq!(rig.wire.given.lock().len(), 0);
    assert_eq!(rig.bytes_in(1_000, false), 0, "all is sent");
}

#[test]
fn a_sender_waits_for_the_window_to_grow() {
    let mut rig = Rig::new();
    let region = rig.write_region();
    rig.ask(&region);
    rig.take();
    rig.reply(Kind::Ready, 4);
    assert_eq!(rig.bytes_in(500, false), 4_000);
    rig.reply(Kind::More, 0);
    assert_eq!(rig.bytes_in(500, false), 1_000);
    rig.reply(Kind::More, 0);
    assert!(rig.bytes_in(500, true) > 40_000, "as fast as it is told to");
}

#[test]
fn nothing_more_is_sent_for_a_leader_that_is_none_or_a_peer_that_is_gone() {
    for only in [None, Some(PeerId(502))] {
        let mut rig = Rig::new();
        let region = rig.write_region();
        rig.ask(&region);
        rig.take();
        rig.reply(Kind::Ready, 0);
        assert!(rig.bytes_in(300, false) > 0);
        rig.stop(Some(PeerId(503)));
        assert!(rig.bytes_in(300, false) > 0, "another peer's end");
        rig.take();
        rig.stop(only);
        let given: Vec<Given> = rig.take();
        assert_eq!(given.last(), Some(&Given::Close));
        assert_eq!(rig.bytes_in(1_000, false), 0);
        rig.ask(&region);
        assert_eq!(rig.take(), [Given::Open], "it may come to lead again");
    }
}

#[test]
fn a_receiver_has_senders_wait_until_what_they_sent_is_paid_for() {
    let mut rig = Rig::new();
    rig.open(1, (2, 7), true);
    assert_eq!(rig.answers(), [(1, Kind::Ready, 4)]);
    rig.part(1, "b1", 5_000);
    assert_eq!(rig.answers(), [(1, Kind::More, 0)], "saved up");
    rig.part(1, "b2", 25_000);
    rig.part(1, "b3", 10_000);
    assert_eq!(rig.answers(), []);
    let before = rig.now;
    rig.wait(1_000);
    assert_eq!(rig.answers(), [(1, Kind::More, 0), (1, Kind::More, 0)]);
    assert!((290..=310).contains(&rig.now.ms_since(before)), "{} ms", rig.now.ms_since(before));
    // A sender that does not know it is not told.
    let mut rig = Rig::new();
    rig.open(1, (2, 7), false);
    rig.part(1, "b1", 5_000);
    assert_eq!(rig.answers(), [(1, Kind::Ready, 0)]);
}

#[test]
fn a_later_leaders_snapshot_takes_the_place_of_an_earlier_ones() {
    let mut rig = Rig::new();
    rig.open(1, (2, 7), true);
    rig.open(2, (3, 7), true);
    rig.open(3, (3, 6), true);
    rig.open(4, (2, 8), true);
    assert_eq!(
        rig.answers(),
        [(1, Kind::Ready, 4), (2, Kind::Busy, 0), (3, Kind::Busy, 0), (4, Kind::Busy, 0)],
        "no later leader among them"
    );
    rig.open(5, (3, 8), true);
    assert_eq!(rig.answers(), [(1, Kind::Refused, 0), (5, Kind::Ready, 4)]);
    assert_eq!(rig.store.shared.ranges.lock().reserved(), 1);
    rig.part(1, "b1", 100);
    rig.part(5, "b1", 100);
    assert_eq!(rig.answers(), [(5, Kind::More, 0)], "the old one's parts are nobody's");
    rig.event(SnapshotEvent::Closed(StreamId(1)));
    assert_eq!(rig.store.shared.ranges.lock().reserved(), 1);
    rig.event(SnapshotEvent::Closed(StreamId(5)));
    assert_eq!(rig.store.shared.ranges.lock().reserved(), 0);
}

#[test]
fn none_is_taken_while_another_one_of_the_region_is_being_installed() {
    let mut rig = Rig::new();
    assert!(rig.store.shared.ranges.lock().reserve(REGION, Space::User, &KeyRange::new("b", "bb")));
    rig.open(1, (2, 7), true);
    assert_eq!(rig.answers(), [(1, Kind::Busy, 0)]);
    rig.store.shared.ranges.lock().unreserve(REGION);
    rig.open(2, (2, 7), true);
    assert_eq!(rig.answers(), [(2, Kind::Ready, 4)]);
}
