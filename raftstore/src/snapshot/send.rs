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

use super::limit::RateLimit;
use super::{chunk_crc, data_bytes};
use crate::admin::merge::MergeState;
use crate::config::WIRE_VERSION;
use crate::error::Damage;
use crate::msg::RaftMsg;
use crate::outbox::raft_message;
use crate::positions::Positions;
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
    limit: RateLimit,
    /// Streams that wait for the limit, in the order in which they came to it.
    held: VecDeque<StreamId>,
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
    /// The network has taken what it was given.
    is_free: bool,
    /// Parts that the receiver takes yet; `None` = all.
    window: Option<u32>,
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
        let limit = RateLimit::new(shared.config.snapshot_send_bytes_per_s);
        let (streams, queue, held) = Default::default();
        Self { shared, transport, streams, queue, limit, held, next_stream: 1 }
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
        let bytes = self.shared.engine.approximate_size(&start, &end).bytes;
        let header = pb::SnapshotHeader {
            version: WIRE_VERSION,
            cluster_id: self.shared.origin.cluster.0,
            from_store: self.shared.origin.store.0,
            to_store: to.store.0,
            message: Some(raft_message(&region, from, to, Some(message), true)),
            bytes,
            waits_for_more: true,
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
            let outgoing = Outgoing {
                region: region.id,
                to,
                progress: Progress::Asked,
                is_free: true,
                window: None,
                last_progress: now,
            };
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
                        outgoing.window = Some(reply.window).filter(|parts| *parts > 0);
                    }
                    self.advance(stream, now);
                }
                Ok(None) => self.finish(stream, false, now),
                Err(error) => {
                    self.on_unreadable(stream, error);
                    self.finish(stream, false, now);
                }
            },
            (Kind::More, Some(Progress::Sending(_))) => {
                if let Some(outgoing) = self.streams.get_mut(&stream) {
                    outgoing.last_progress = now;
                    outgoing.window = outgoing.window.map(|parts| parts.saturating_add(1));
                }
                self.advance(stream, now);
            }
            (Kind::More, Some(_)) => {}
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
        let Some(RegionState::Normal(region)) = state else { return Ok(None) };
        let Some(me) = region.peer_on(self.shared.origin.store) else { return Ok(None) };
        let Some(own) = data.get(&keys::apply_state(region.id))?.and_then(LogId::decode) else {
            return Ok(None);
        };
        // What damage there is among them says nothing of this region.
        let Ok(positions) = Positions::load_one(&*data, region.id, me.id) else { return Ok(None) };
        let at = positions.applied(region.id, me.id, own);
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

    /// The network took the last part.
    pub(super) fn on_sent(&mut self, stream: StreamId, now: Time) {
        let Some(outgoing) = self.streams.get_mut(&stream) else { return };
        outgoing.last_progress = now;
        outgoing.is_free = true;
        self.advance(stream, now);
    }

    /// Streams that waited for the limit go on as far as it lets them.
    pub(super) fn resume(&mut self, now: Time) {
        while !self.held.is_empty() && self.limit.is_open(now) {
            let Some(stream) = self.held.pop_front() else { return };
            self.advance(stream, now);
        }
    }

    /// When the next of them may go on.
    pub(super) fn resumes_at(&self) -> Option<Time> {
        (!self.held.is_empty()).then(|| self.limit.opens_at())
    }

    /// Sends the next part if network, receiver and limit take one.
    fn advance(&mut self, stream: StreamId, now: Time) {
        let Some(outgoing) = self.streams.get_mut(&stream) else { return };
        let Progress::Sending(generation) = &mut outgoing.progress else { return };
        if !outgoing.is_free || outgoing.window == Some(0) {
            return;
        }
        if !self.limit.is_open(now) {
            if !self.held.contains(&stream) {
                self.held.push_back(stream);
            }
            return;
        }
        match generation.next_chunk(self.shared.config.snapshot_chunk_bytes) {
            Ok(Some(data)) => {
                self.limit.take(data_bytes(&data), now);
                outgoing.is_free = false;
                outgoing.window = outgoing.window.map(|parts| parts - 1);
                self.transport.snapshot_send(stream, pb::SnapshotChunk { part: Some(Part::Data(data)) });
            }
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

    /// Nobody takes what is sent for the region, or for that peer of it, any more.
    pub(super) fn stop(&mut self, region: RegionId, only: Option<PeerId>, now: Time) {
        let is_meant = |id: RegionId, to: &Peer| id == region && only.is_none_or(|peer| peer == to.id);
        self.queue.retain(|request| !is_meant(request.region.id, &request.to));
        let meant = self.streams.iter().filter(|(_, o)| is_meant(o.region, &o.to)).map(|(s, _)| *s);
        for stream in meant.collect::<Vec<_>>() {
            self.finish(stream, false, now);
        }
    }

    fn finish(&mut self, stream: StreamId, ok: bool, now: Time) {
        let Some(outgoing) = self.streams.remove(&stream) else { return };
        self.held.retain(|held| *held != stream);
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
        for stream in &self.held {
            if let Some(outgoing) = self.streams.get_mut(stream) {
                outgoing.last_progress = now;
            }
        }
        let stuck =
            self.streams.iter().filter(|(_, o)| now.ms_since(o.last_progress) >= limit).map(|(s, _)| *s);
        for stream in stuck.collect::<Vec<_>>() {
            self.finish(stream, false, now);
        }
    }
}

impl Generation {
    fn next_chunk(&mut self, bytes_max: usize) -> Result<Option<pb::SnapshotData>, flotilla_engine::Error> {
        let mut data = pb::SnapshotData::default();
        let mut bytes = 0;
        let mut last: Vec<u8> = Vec::new();
        self.data.scan_once(&self.next, &self.end, &mut |key, value| {
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
        Ok(Some(data))
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
