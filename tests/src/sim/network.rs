//! The simulated network: encoded frames with delay, loss, duplication and reordering, cuts in one or both
//! directions, and snapshot streams that deliver in order or break.
//!
//! Frames of one worker to one store arrive in the order in which they were sent, as on a stream of the real
//! transport; a draw may break that, as a reconnect may. Streams lose nothing silently: they break.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flotilla_engine::Prng;
use flotilla_proto::flotilla as pb;
use flotilla_raftstore::wire::StoreFrame;
use flotilla_raftstore::{StreamId, Transport};
use flotilla_region::StoreId;
use prost::Message;

use super::effects::{Effect, Effects, Life};
use super::profile::NetProfile;

/// A store's end of the network.
pub struct SimTransport {
    /// The store.
    pub store: StoreId,
    /// Its life.
    pub life: Life,
    /// Where frames go.
    pub effects: Effects,
}

impl Transport for SimTransport {
    fn send(&self, to: StoreId, frame: StoreFrame) {
        self.effects.push(self.store, self.life, Effect::Frame { to, bytes: frame.encode_to_vec() });
    }

    fn snapshot_open(&self, stream: StreamId, to: StoreId, header: pb::SnapshotChunk) {
        let bytes = header.encode_to_vec();
        self.effects.push(self.store, self.life, Effect::StreamOpen { stream, to, bytes });
    }

    fn snapshot_send(&self, stream: StreamId, chunk: pb::SnapshotChunk) {
        let bytes = chunk.encode_to_vec();
        self.effects.push(self.store, self.life, Effect::StreamSend { stream, bytes });
    }

    fn snapshot_close(&self, stream: StreamId) {
        self.effects.push(self.store, self.life, Effect::StreamClose { stream });
    }
}

/// Something that arrives.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// A frame.
    Frame {
        /// Sender.
        from: StoreId,
        /// Receiver.
        to: StoreId,
        /// Encoded.
        bytes: Bytes,
    },
    /// News of a snapshot stream for one of its ends.
    Stream {
        /// Whom it concerns.
        to: StoreId,
        /// The network's name of the stream.
        connection: u64,
        /// What.
        news: StreamNews,
    },
    /// A frame to `peer` was lost for good.
    Unreachable {
        /// Who learns of it.
        to: StoreId,
        /// Who cannot be reached.
        peer: StoreId,
    },
}

/// News of a snapshot stream.
#[derive(Clone, Debug)]
pub enum StreamNews {
    /// To the receiver: a header.
    Opened(Bytes),
    /// To the receiver: a part.
    Chunk(Bytes),
    /// To the receiver: the end.
    Closed,
    /// To the sender: an answer.
    Reply(Bytes),
    /// To the sender: the last part is out.
    Sent,
    /// To the sender: broken.
    Broken(StreamId),
}

/// One snapshot stream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Sending store.
    pub sender: StoreId,
    /// The sender's name of it.
    pub id: StreamId,
    /// Receiving store.
    pub receiver: StoreId,
    forward_free_us: u64,
    back_free_us: u64,
}

/// The network. It decides what arrives when; the event loop delivers.
pub struct Network {
    rng: Prng,
    profile: NetProfile,
    /// Directions `(from, to)` that carry nothing.
    cut: BTreeSet<(StoreId, StoreId)>,
    /// Those of them whose senders are never told so.
    silent: BTreeSet<(StoreId, StoreId)>,
    /// How much longer directions take.
    slow_us: BTreeMap<(StoreId, StoreId), u64>,
    /// Ends of ways that were cut or slowed down.
    troubled: BTreeSet<StoreId>,
    /// When the last frame of `(from, to, worker)` arrives.
    lanes: BTreeMap<(StoreId, StoreId, usize), u64>,
    streams: BTreeMap<u64, Stream>,
    by_sender: BTreeMap<(StoreId, StreamId), u64>,
    next_connection: u64,
    /// Loss in parts of 1,000, while faults are on.
    pub loss_permille: u64,
}

impl Network {
    /// A whole network.
    pub fn new(rng: Prng, profile: NetProfile) -> Self {
        Self {
            rng,
            profile,
            cut: BTreeSet::new(),
            silent: BTreeSet::new(),
            slow_us: BTreeMap::new(),
            troubled: BTreeSet::new(),
            lanes: BTreeMap::new(),
            streams: BTreeMap::new(),
            by_sender: BTreeMap::new(),
            next_connection: 1,
            loss_permille: 0,
        }
    }

    /// Cuts the direction `from` → `to`.
    pub fn cut(&mut self, from: StoreId, to: StoreId) {
        self.cut.insert((from, to));
        self.troubled.extend([from, to]);
    }

    /// Cuts the direction `from` → `to`, and its sender never learns what got lost.
    pub fn swallow(&mut self, from: StoreId, to: StoreId) {
        self.cut(from, to);
        self.silent.insert((from, to));
    }

    /// Stores that do not hear each other as they should, or did not of late, since this was last asked.
    pub fn take_troubled(&mut self) -> BTreeSet<StoreId> {
        let mut troubled = std::mem::take(&mut self.troubled);
        let ways = self.cut.iter().chain(self.slow_us.keys());
        troubled.extend(ways.flat_map(|(from, to)| [*from, *to]));
        troubled
    }

    /// Makes the direction `from` → `to` slower.
    pub fn slow_down(&mut self, from: StoreId, to: StoreId, more_us: u64) {
        self.slow_us.insert((from, to), more_us);
        self.troubled.extend([from, to]);
    }

    /// A delay on the way `from` → `to`.
    fn delay_between(&mut self, from: StoreId, to: StoreId) -> u64 {
        self.delay_us() + self.slow_us.get(&(from, to)).copied().unwrap_or(0)
    }

    /// Mends everything.
    pub fn mend(&mut self) {
        self.cut.clear();
        self.silent.clear();
        self.slow_us.clear();
    }

    /// Ends all faults for good.
    pub fn heal(&mut self) {
        self.mend();
        self.loss_permille = 0;
        self.profile.duplicate_permille = 0;
        self.profile.reorder_permille = 0;
        self.profile.break_permille = 0;
    }

    /// Whether a direction is cut.
    pub fn is_cut(&self, from: StoreId, to: StoreId) -> bool {
        self.cut.contains(&(from, to))
    }

    /// A delay as the profile draws it.
    pub fn delay_us(&mut self) -> u64 {
        let (low, high) = self.profile.delay_us;
        let delay = self.rng.range(low..high);
        if self.rng.chance(self.profile.slow_permille, 1_000) { delay * 20 } else { delay }
    }

    /// A worker of `from` sent a frame.
    pub fn on_frame(
        &mut self,
        now_us: u64,
        (from, worker): (StoreId, usize),
        to: StoreId,
        bytes: Vec<u8>,
    ) -> Vec<(u64, Delivery)> {
        let lost = self.is_cut(from, to) || self.rng.chance(self.loss_permille, 1_000);
        if lost {
            if !self.silent.contains(&(from, to)) && self.rng.chance(1, 4) {
                return vec![(now_us + self.delay_us(), Delivery::Unreachable { to: from, peer: to })];
            }
            return Vec::new();
        }
        let mut at = now_us + self.delay_between(from, to);
        if !self.rng.chance(self.profile.reorder_permille, 1_000) {
            let lane = self.lanes.entry((from, to, worker)).or_default();
            at = at.max(*lane + 1);
            *lane = at;
        }
        let frame = Delivery::Frame { from, to, bytes: bytes.into() };
        let mut all = vec![(at, frame.clone())];
        if self.rng.chance(self.profile.duplicate_permille, 1_000) {
            all.push((at + self.delay_us(), frame));
        }
        all
    }

    /// A store opened a stream.
    pub fn on_open(
        &mut self,
        now_us: u64,
        sender: StoreId,
        id: StreamId,
        receiver: StoreId,
        bytes: Vec<u8>,
    ) -> Vec<(u64, Delivery)> {
        let connection = self.next_connection;
        self.next_connection += 1;
        let stream = Stream { sender, id, receiver, forward_free_us: now_us, back_free_us: now_us };
        self.streams.insert(connection, stream);
        self.by_sender.insert((sender, id), connection);
        self.forward(now_us, connection, StreamNews::Opened(bytes.into()))
    }

    /// A store sent a part.
    pub fn on_send(
        &mut self,
        now_us: u64,
        sender: StoreId,
        id: StreamId,
        bytes: Vec<u8>,
    ) -> Vec<(u64, Delivery)> {
        let Some(connection) = self.by_sender.get(&(sender, id)).copied() else { return Vec::new() };
        let mut all = self.forward(now_us, connection, StreamNews::Chunk(bytes.into()));
        if self.streams.contains_key(&connection) {
            let at = now_us + self.delay_us();
            all.push((at, Delivery::Stream { to: sender, connection, news: StreamNews::Sent }));
        }
        all
    }

    /// A store closed its stream.
    pub fn on_close(&mut self, now_us: u64, sender: StoreId, id: StreamId) -> Vec<(u64, Delivery)> {
        let Some(connection) = self.by_sender.remove(&(sender, id)) else { return Vec::new() };
        self.forward(now_us, connection, StreamNews::Closed)
    }

    /// The receiver answered.
    pub fn on_reply(&mut self, now_us: u64, connection: u64, bytes: Vec<u8>) -> Vec<(u64, Delivery)> {
        let Some(stream) = self.streams.get(&connection).cloned() else { return Vec::new() };
        if self.is_cut(stream.receiver, stream.sender) || self.breaks() {
            return self.break_stream(now_us, connection);
        }
        let delay = self.delay_between(stream.receiver, stream.sender);
        let at = (now_us + delay).max(stream.back_free_us + 1);
        self.streams.entry(connection).and_modify(|s| s.back_free_us = at);
        let news = StreamNews::Reply(bytes.into());
        vec![(at, Delivery::Stream { to: stream.sender, connection, news })]
    }

    fn breaks(&mut self) -> bool {
        self.rng.chance(self.profile.break_permille, 1_000)
    }

    fn forward(&mut self, now_us: u64, connection: u64, news: StreamNews) -> Vec<(u64, Delivery)> {
        let Some(stream) = self.streams.get(&connection).cloned() else { return Vec::new() };
        let closes = matches!(news, StreamNews::Closed);
        if self.is_cut(stream.sender, stream.receiver) || self.breaks() {
            return self.break_stream(now_us, connection);
        }
        let delay = self.delay_between(stream.sender, stream.receiver);
        let at = (now_us + delay).max(stream.forward_free_us + 1);
        self.streams.entry(connection).and_modify(|s| s.forward_free_us = at);
        if closes {
            self.streams.remove(&connection);
        }
        vec![(at, Delivery::Stream { to: stream.receiver, connection, news })]
    }

    fn break_stream(&mut self, now_us: u64, connection: u64) -> Vec<(u64, Delivery)> {
        let Some(stream) = self.streams.remove(&connection) else { return Vec::new() };
        let mut all = Vec::new();
        if self.by_sender.remove(&(stream.sender, stream.id)).is_some() {
            let at = now_us + self.delay_us();
            let news = StreamNews::Broken(stream.id);
            all.push((at, Delivery::Stream { to: stream.sender, connection, news }));
        }
        let at = (now_us + self.delay_us()).max(stream.forward_free_us + 1);
        all.push((at, Delivery::Stream { to: stream.receiver, connection, news: StreamNews::Closed }));
        all
    }

    /// A store died: its streams break, and its lanes start anew.
    pub fn on_death(&mut self, now_us: u64, store: StoreId) -> Vec<(u64, Delivery)> {
        self.lanes.retain(|(from, ..), _| *from != store);
        let touched: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, s)| s.sender == store || s.receiver == store)
            .map(|(connection, _)| *connection)
            .collect();
        touched.into_iter().flat_map(|connection| self.break_stream(now_us, connection)).collect()
    }

    /// The stream with this name, while it is whole.
    pub fn stream(&self, connection: u64) -> Option<&Stream> {
        self.streams.get(&connection)
    }
}
