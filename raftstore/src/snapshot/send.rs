//! The sending side.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::wire::pb;
use crate::wire::pb::snapshot_chunk::Part;
use crate::wire::pb::snapshot_reply::Kind;
use bytes::Bytes;
use flotilla_engine::EngineSnapshot;
use flotilla_raft::Message;
use flotilla_region::{Peer, PeerId, Region, RegionId, keys};

use super::chunk_crc;
use crate::admin::merge::MergeState;
use crate::config::WIRE_VERSION;
use crate::error::Damage;
use crate::msg::RaftMsg;
use crate::outbox::raft_message;
use crate::shared::Shared;
use crate::state::{LogId, RegionState};
use crate::time::Time;
use crate::transport::{StreamId, Transport};
use crate::wire;

/// Snapshots on their way out. Invariant: at most `snapshot_send_max` streams are open.
pub(super) struct Sender {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    streams: BTreeMap<StreamId, Outgoing>,
    queue: VecDeque<Request>,
    next_stream: u64,
}

struct Request {
    region: Arc<Region>,
    to: Peer,
    header: pb::SnapshotChunk,
}

struct Outgoing {
    region: RegionId,
    to: Peer,
    progress: Progress,
    last_progress: Time,
}

enum Progress {
    /// The receiver has not reserved a slot yet.
    Asked,
    /// Generating.
    Sending(Box<Generation>),
    /// Everything is sent; waiting for the receiver to hand it to the region.
    Sent,
}

/// One engine snapshot being read.
struct Generation {
    data: Arc<dyn EngineSnapshot>,
    region: Region,
    at: LogId,
    /// The merge that the region expects, encoded.
    merge: Option<Bytes>,
    /// Where to read on, as a `data` key.
    next: Vec<u8>,
    end: Vec<u8>,
    keys: u64,
    bytes: u64,
    crc: crc32fast::Hasher,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>, transport: Arc<dyn Transport>) -> Self {
        Self { shared, transport, streams: BTreeMap::new(), queue: VecDeque::new(), next_stream: 1 }
    }

    /// Snapshots that wait or are under way.
    pub(super) fn held(&self) -> usize {
        self.queue.len() + self.streams.len()
    }

    /// The core wants a snapshot sent. One is enough for a region and receiver at a time.
    pub(super) fn ask(&mut self, region: Arc<Region>, from: Peer, to: Peer, message: Message, now: Time) {
        let under_way = self.streams.values().any(|o| o.region == region.id && o.to.id == to.id)
            || self.queue.iter().any(|r| r.region.id == region.id && r.to.id == to.id);
        if under_way {
            return;
        }
        let (start, end) = keys::data_bounds(region.space, &region.range);
        let bytes = self.shared.engine.approximate_bytes(&start, &end);
        let header = pb::SnapshotHeader {
            version: WIRE_VERSION,
            cluster_id: self.shared.origin.cluster.0,
            from_store: self.shared.origin.store.0,
            to_store: to.store.0,
            message: Some(raft_message(&region, from, to, Some(message), true)),
            bytes,
        };
        let header = pb::SnapshotChunk { part: Some(Part::Header(header)) };
        self.queue.push_back(Request { region, to, header });
        self.open_next(now);
    }

    fn open_next(&mut self, now: Time) {
        while self.streams.len() < self.shared.config.snapshot_send_max {
            let Some(Request { region, to, header }) = self.queue.pop_front() else { return };
            let stream = StreamId(self.next_stream);
            self.next_stream += 1;
            let outgoing = Outgoing { region: region.id, to, progress: Progress::Asked, last_progress: now };
            self.streams.insert(stream, outgoing);
            self.transport.snapshot_open(stream, to.store, header);
        }
    }

    /// The receiver answered.
    pub(super) fn on_reply(&mut self, stream: StreamId, reply: &pb::SnapshotReply, now: Time) {
        match (reply.kind(), self.streams.get(&stream).map(|o| &o.progress)) {
            (Kind::Ready, Some(Progress::Asked)) => match self.generate(stream) {
                Ok(Some(generation)) => {
                    if let Some(outgoing) = self.streams.get_mut(&stream) {
                        outgoing.progress = Progress::Sending(Box::new(generation));
                    }
                    self.on_sent(stream, now);
                }
                Ok(None) => self.finish(stream, false, now),
                Err(error) => {
                    self.on_unreadable(stream, error);
                    self.finish(stream, false, now);
                }
            },
            (Kind::Done, Some(Progress::Sent)) => self.finish(stream, true, now),
            (_, Some(_)) => self.finish(stream, false, now),
            (_, None) => {}
        }
    }

    /// Takes the engine snapshot. Its own records say which region it holds, and at which position.
    fn generate(&self, stream: StreamId) -> Result<Option<Generation>, flotilla_engine::Error> {
        let Some(outgoing) = self.streams.get(&stream) else { return Ok(None) };
        let data = self.shared.engine.snapshot();
        let state = data.get(&keys::region_state(outgoing.region))?.and_then(RegionState::decode);
        let at = data.get(&keys::apply_state(outgoing.region))?.and_then(LogId::decode);
        let (Some(RegionState::Normal(region)), Some(at)) = (state, at) else { return Ok(None) };
        if region.peer(outgoing.to.id).is_none() {
            return Ok(None);
        }
        let merge = data.get(&keys::merge_state(outgoing.region))?;
        // A final source's end is decided without this receiver, which then gets the result. Not so a target's: it may
        // need the receiver for a quorum.
        if merge
            .clone()
            .is_some_and(|state| !matches!(MergeState::decode(state), Some(MergeState::Expecting(_))))
        {
            return Ok(None);
        }
        let (next, end) = keys::data_bounds(region.space, &region.range);
        Ok(Some(Generation {
            data,
            region,
            at,
            merge,
            next,
            end,
            keys: 0,
            bytes: 0,
            crc: crc32fast::Hasher::new(),
        }))
    }

    /// A region cannot be read: its raft worker learns of damage.
    fn on_unreadable(&self, stream: StreamId, error: flotilla_engine::Error) {
        let Some(outgoing) = self.streams.get(&stream) else { return };
        let region = outgoing.region;
        tracing::warn!(region = region.0, %error, "snapshot cannot be read");
        if let flotilla_engine::Error::Corruption(text) = error {
            let peer = match &outgoing.progress {
                Progress::Sending(generation) => generation.region.peer_on(self.shared.origin.store),
                Progress::Asked | Progress::Sent => None,
            };
            let (peer, damage) = (peer.map(|peer| peer.id).unwrap_or_default(), Damage::Bytes(text));
            self.shared.links.raft_of(region).send(RaftMsg::Damaged { region, peer, damage });
        }
    }

    /// The network took the last part: here is the next.
    pub(super) fn on_sent(&mut self, stream: StreamId, now: Time) {
        let Some(outgoing) = self.streams.get_mut(&stream) else { return };
        outgoing.last_progress = now;
        let Progress::Sending(generation) = &mut outgoing.progress else { return };
        match generation.next_chunk(self.shared.config.snapshot_chunk_bytes) {
            Ok(Some(chunk)) => self.transport.snapshot_send(stream, chunk),
            Ok(None) => {
                let trailer = generation.trailer();
                outgoing.progress = Progress::Sent;
                self.transport.snapshot_send(stream, trailer);
            }
            Err(error) => {
                self.on_unreadable(stream, error);
                self.finish(stream, false, now);
            }
        }
    }

    /// The stream broke.
    pub(super) fn on_broken(&mut self, stream: StreamId, now: Time) {
        self.finish(stream, false, now);
    }

    fn finish(&mut self, stream: StreamId, ok: bool, now: Time) {
        let Some(outgoing) = self.streams.remove(&stream) else { return };
        self.transport.snapshot_close(stream);
        self.report(outgoing.region, outgoing.to.id, ok);
        self.open_next(now);
    }

    fn report(&self, region: RegionId, to: PeerId, ok: bool) {
        self.shared.links.raft_of(region).send(RaftMsg::SnapshotSent { region, to, ok });
    }

    /// Gives up streams without progress.
    pub(super) fn expire(&mut self, now: Time) {
        let limit = self.shared.config.snapshot_timeout_ms;
        let stuck =
            self.streams.iter().filter(|(_, o)| now.ms_since(o.last_progress) >= limit).map(|(s, _)| *s);
        for stream in stuck.collect::<Vec<_>>() {
            self.finish(stream, false, now);
        }
    }
}

impl Generation {
    fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<pb::SnapshotChunk>, flotilla_engine::Error> {
        let mut data = pb::SnapshotData::default();
        let mut bytes = 0;
        let mut last: Vec<u8> = Vec::new();
        self.data.scan(&self.next, &self.end, &mut |key, value| {
            data.keys.push(Bytes::copy_from_slice(&key[1..]));
            data.values.push(Bytes::copy_from_slice(value));
            bytes += key.len() + value.len();
            last.clear();
            last.extend_from_slice(key);
            bytes < bytes_max
        })?;
        if planted!(LastKeyMissing) && bytes < bytes_max {
            let _ = (data.keys.pop(), data.values.pop());
        }
        if data.keys.is_empty() {
            return Ok(None);
        }
        // The smallest key after the last one.
        last.push(0);
        self.next = last;
        self.keys += data.keys.len() as u64;
        self.bytes += bytes as u64;
        data.crc = chunk_crc(&data, &mut self.crc);
        Ok(Some(pb::SnapshotChunk { part: Some(Part::Data(data)) }))
    }

    fn trailer(&self) -> pb::SnapshotChunk {
        let trailer = pb::SnapshotTrailer {
            index: self.at.index.0,
            term: self.at.term.0,
            conf_state: Some(wire::conf_state_to_wire(&self.region.conf_state())),
            region: Some(wire::region_to_wire(&self.region)),
            keys: self.keys,
            bytes: self.bytes,
            crc: self.crc.clone().finalize(),
            merge_state: self.merge.clone().unwrap_or_default(),
            // What cannot be read is not worth a snapshot.
            history: self.data.get(&keys::history(self.region.id)).ok().flatten().unwrap_or_default(),
        };
        pb::SnapshotChunk { part: Some(Part::Trailer(trailer)) }
    }
}
