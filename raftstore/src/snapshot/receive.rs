//! The receiving side.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::wire::pb;
use crate::wire::pb::snapshot_chunk::Part;
use crate::wire::pb::snapshot_reply::Kind;
use bytes::Bytes;
use flotilla_engine::SstWriter;
use flotilla_raft::SnapshotMeta;
use flotilla_region::{Index, KeyRange, RegionId, Space, StoreId, Term, keys};

use super::limit::RateLimit;
use super::{chunk_crc, data_bytes};
use crate::admin::merge::MergeState;
use crate::config::WIRE_VERSION;
use crate::msg::{RaftMsg, ReceivedSnapshot};
use crate::shared::Shared;
use crate::time::Time;
use crate::transport::{ReplyTo, StreamId};
use crate::wire;

/// Snapshots on their way in. Invariant: every open one holds a reservation of its region's range.
pub(super) struct Receiver {
    shared: Arc<Shared>,
    streams: BTreeMap<StreamId, Incoming>,
    limit: RateLimit,
    /// Streams whose senders may go on once what they sent is paid for, a part each.
    owed: VecDeque<StreamId>,
}

/// Parts under way to the receiver at a time: enough that the network has always one.
pub(crate) const WINDOW_PARTS: u32 = 4;

struct Incoming {
    region: RegionId,
    space: Space,
    range: KeyRange,
    from_store: StoreId,
    raft: pb::RaftMessage,
    writer: Box<dyn SstWriter>,
    reply: ReplyTo,
    keys: u64,
    /// First and last key so far.
    outermost: Option<(Bytes, Bytes)>,
    crc: crc32fast::Hasher,
    last_progress: Time,
    /// The sender waits for the window to grow.
    has_window: bool,
}

impl Receiver {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let limit = RateLimit::new(shared.config.snapshot_receive_bytes_per_s);
        Self { shared, streams: BTreeMap::new(), limit, owed: VecDeque::new() }
    }

    /// Snapshots that are under way.
    pub(super) fn held(&self) -> usize {
        self.streams.len()
    }

    /// A store asks for a slot.
    pub(super) fn on_opened(
        &mut self,
        stream: StreamId,
        header: pb::SnapshotHeader,
        reply: ReplyTo,
        now: Time,
    ) {
        match self.reserve(header, reply, now) {
            Ok(incoming) => {
                let window = if incoming.has_window { WINDOW_PARTS } else { 0 };
                let ready = pb::SnapshotReply { kind: Kind::Ready as i32, window, ..Default::default() };
                (incoming.reply)(ready);
                self.streams.insert(stream, incoming);
            }
            Err((reply, kind, why)) => answer(&reply, kind, why),
        }
    }

    fn reserve(
        &mut self,
        header: pb::SnapshotHeader,
        reply: ReplyTo,
        now: Time,
    ) -> Result<Incoming, (ReplyTo, Kind, &'static str)> {
        let origin = self.shared.origin;
        if header.version > WIRE_VERSION {
            return Err((reply, Kind::Refused, "newer format"));
        }
        if header.cluster_id != origin.cluster.0 || header.to_store != origin.store.0 {
            return Err((reply, Kind::Refused, "meant for another store"));
        }
        let Some(raft) = header.message else { return Err((reply, Kind::Refused, "no message")) };
        let region = RegionId(raft.region_id);
        self.supersede(region, header.from_store, term_of(&raft));
        // A reservation without a stream is that of one which is being installed, and ends with that.
        let busy = self.streams.len() >= self.shared.config.snapshot_receive_max
            || self.streams.values().any(|i| i.region == region)
            || self.shared.ranges.lock().is_reserved(region);
        if busy {
            return Err((reply, Kind::Busy, "no free slot"));
        }
        let space = if raft.meta_space { Space::Meta } else { Space::User };
        let range = KeyRange { start: raft.start_key.clone(), end: raft.end_key.clone() };
        if !self.shared.ranges.lock().reserve(region, space, &range) {
            return Err((reply, Kind::Refused, "overlaps another region"));
        }
        let Ok(writer) = self.shared.engine.sst_writer() else {
            self.shared.ranges.lock().unreserve(region);
            return Err((reply, Kind::Busy, "cannot write"));
        };
        Ok(Incoming {
            region,
            space,
            range,
            from_store: StoreId(header.from_store),
            raft,
            writer,
            reply,
            keys: 0,
            outermost: None,
            crc: crc32fast::Hasher::new(),
            last_progress: now,
            has_window: header.waits_for_more,
        })
    }

    /// Gives up what an earlier leader sends: the region takes nothing of it any more.
    fn supersede(&mut self, region: RegionId, from_store: u64, term: u64) {
        let older = self
            .streams
            .iter()
            .find(|(_, i)| i.region == region && i.from_store.0 != from_store && term_of(&i.raft) < term);
        if let Some(stream) = older.map(|(stream, _)| *stream) {
            self.refuse(stream, "a later leader sends one");
        }
    }

    /// The next part of a stream.
    pub(super) fn on_chunk(&mut self, stream: StreamId, chunk: pb::SnapshotChunk, now: Time) {
        let Some(incoming) = self.streams.get_mut(&stream) else { return };
        incoming.last_progress = now;
        match chunk.part {
            Some(Part::Data(data)) => {
                self.limit.take(data_bytes(&data), now);
                match incoming.add(&data) {
                    Ok(()) if incoming.has_window => self.owed.push_back(stream),
                    Ok(()) => {}
                    Err(why) => self.refuse(stream, why),
                }
            }
            Some(Part::Trailer(trailer)) => self.complete(stream, &trailer),
            _ => self.refuse(stream, "unexpected part"),
        }
    }

    /// Lets senders go on as far as what they sent is paid for.
    pub(super) fn resume(&mut self, now: Time) {
        while !self.owed.is_empty() && self.limit.is_open(now) {
            let Some(stream) = self.owed.pop_front() else { return };
            if let Some(incoming) = self.streams.get_mut(&stream) {
                incoming.last_progress = now;
                answer(&incoming.reply, Kind::More, "");
            }
        }
    }

    /// When the next of them may.
    pub(super) fn resumes_at(&self) -> Option<Time> {
        (!self.owed.is_empty()).then(|| self.limit.opens_at())
    }

    fn complete(&mut self, stream: StreamId, trailer: &pb::SnapshotTrailer) {
        let Some(incoming) = self.streams.remove(&stream) else { return };
        let region = incoming.region;
        match self.finish(incoming, trailer) {
            Ok((received, reply)) => {
                self.shared.links.raft_of(region).send(RaftMsg::SnapshotReceived(Box::new(received)));
                answer(&reply, Kind::Done, "");
            }
            Err((reply, why)) => {
                self.shared.ranges.lock().unreserve(region);
                answer(&reply, Kind::Refused, why);
            }
        }
    }

    fn finish(
        &self,
        incoming: Incoming,
        trailer: &pb::SnapshotTrailer,
    ) -> Result<(ReceivedSnapshot, ReplyTo), (ReplyTo, &'static str)> {
        let Incoming {
            region, space, range, from_store, raft, mut writer, reply, keys, outermost, crc, ..
        } = incoming;
        if trailer.keys != keys || trailer.crc != crc.finalize() {
            return Err((reply, "checksum does not match"));
        }
        let (Some(descriptor), Some(conf_state)) = (trailer.region.as_ref(), trailer.conf_state.as_ref())
        else {
            return Err((reply, "incomplete trailer"));
        };
        let descriptor = wire::region_from_wire(descriptor);
        // The region may have shrunk since the header; if it grew, the sender has to start again.
        if descriptor.id != region || descriptor.space != space || !range.contains_range(&descriptor.range) {
            return Err((reply, "the region changed"));
        }
        if outermost.is_some_and(|(first, last)| {
            !descriptor.range.contains(&first) || !descriptor.range.contains(&last)
        }) {
            return Err((reply, "key outside the region"));
        }
        let meta = SnapshotMeta {
            index: Index(trailer.index),
            term: Term(trailer.term),
            conf_state: wire::conf_state_from_wire(conf_state),
        };
        if meta.conf_state != descriptor.conf_state() {
            return Err((reply, "membership does not match"));
        }
        let merge = match trailer.merge_state.is_empty() {
            true => None,
            false => match MergeState::decode(trailer.merge_state.clone()) {
                Some(state) => Some(state),
                None => return Err((reply, "malformed merge state")),
            },
        };
        // What the region has lost since the header may be another one's here by now.
        let (start, end) = keys::data_bounds(space, &descriptor.range);
        match writer.clear(&start, &end).and_then(|()| writer.finish()) {
            Ok(file) => {
                let (files, history) = (vec![file], trailer.history.clone());
                Ok((ReceivedSnapshot { from_store, raft, descriptor, meta, merge, files, history }, reply))
            }
            Err(_) => Err((reply, "cannot write")),
        }
    }

    fn refuse(&mut self, stream: StreamId, why: &'static str) {
        if let Some(incoming) = self.streams.remove(&stream) {
            tracing::warn!(region = incoming.region.0, why, "snapshot refused");
            self.shared.ranges.lock().unreserve(incoming.region);
            answer(&incoming.reply, Kind::Refused, why);
        }
    }

    /// The sender went away.
    pub(super) fn on_closed(&mut self, stream: StreamId) {
        if let Some(incoming) = self.streams.remove(&stream) {
            self.shared.ranges.lock().unreserve(incoming.region);
        }
    }

    /// Gives up streams without progress.
    pub(super) fn expire(&mut self, now: Time) {
        let limit = self.shared.config.snapshot_timeout_ms;
        let stuck =
            self.streams.iter().filter(|(_, i)| now.ms_since(i.last_progress) >= limit).map(|(s, _)| *s);
        for stream in stuck.collect::<Vec<_>>() {
            self.refuse(stream, "timed out");
        }
    }
}

impl Incoming {
    fn add(&mut self, data: &pb::SnapshotData) -> Result<(), &'static str> {
        if data.keys.len() != data.values.len() {
            return Err("malformed part");
        }
        if chunk_crc(data, &mut self.crc) != data.crc {
            return Err("checksum does not match");
        }
        for (key, value) in data.keys.iter().zip(&data.values) {
            if !self.range.contains(key) {
                return Err("key outside the region");
            }
            self.writer.put(&keys::data_key(self.space, key), value).map_err(|_| "cannot write")?;
        }
        self.keys += data.keys.len() as u64;
        if let (Some(first), Some(last)) = (data.keys.first(), data.keys.last()) {
            let first = self.outermost.take().map_or_else(|| first.clone(), |(first, _)| first);
            self.outermost = Some((first, last.clone()));
        }
        Ok(())
    }
}

fn term_of(raft: &pb::RaftMessage) -> u64 {
    raft.message.as_ref().map_or(0, |message| message.term)
}

fn answer(reply: &ReplyTo, kind: Kind, reason: &str) {
    reply(pb::SnapshotReply { kind: kind as i32, reason: reason.into(), ..Default::default() });
}
