//! Messages of one worker on their way to other stores: one frame a store and turn, heartbeats in columns.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::wire::pb;
use flotilla_raft::{Message, MessageKind};
use flotilla_region::{ClusterId, Peer, Region, Space, StoreId};

use crate::config::WIRE_VERSION;
use crate::time::Time;
use crate::transport::Transport;
use crate::wire;

/// A frame is sent when it has grown to so many bytes of entries.
const FRAME_BYTES: usize = 1 << 20;

/// Identity that every frame carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameOrigin {
    pub cluster: ClusterId,
    pub store: StoreId,
}

impl FrameOrigin {
    /// An empty frame for `to`.
    pub(crate) fn frame(&self, to: StoreId) -> pb::StoreFrame {
        pb::StoreFrame {
            version: WIRE_VERSION,
            cluster_id: self.cluster.0,
            from_store: self.store.0,
            to_store: to.0,
            ..pb::StoreFrame::default()
        }
    }
}

/// Collects a turn's messages. Heartbeats without a read context wait for the store's heartbeat grid, so that those
/// of all regions leave in one frame.
pub(crate) struct Outbox {
    transport: Arc<dyn Transport>,
    origin: FrameOrigin,
    frames: BTreeMap<StoreId, (usize, pb::StoreFrame)>,
    held: BTreeMap<StoreId, (pb::Heartbeats, pb::Heartbeats)>,
    heartbeat_ms: u64,
    next_heartbeat: Time,
}

impl Outbox {
    pub(crate) fn new(transport: Arc<dyn Transport>, origin: FrameOrigin, heartbeat_ms: u64) -> Self {
        Self {
            transport,
            origin,
            frames: BTreeMap::new(),
            held: BTreeMap::new(),
            heartbeat_ms,
            next_heartbeat: Time::default(),
        }
    }

    /// Queues a core message of `region` for the peer `to`. `may_create` adds what the receiver needs to create the
    /// peer.
    pub(crate) fn send(&mut self, region: &Region, from: Peer, to: Peer, message: Message, may_create: bool) {
        match message.kind {
            MessageKind::Heartbeat if !may_create => self.heartbeat(region, to.store, &message, false),
            MessageKind::HeartbeatResponse => self.heartbeat(region, to.store, &message, true),
            _ => self.push(to.store, raft_message(region, from, to, Some(message), may_create)),
        }
    }

    /// Queues a message that is not the core's.
    pub(crate) fn push(&mut self, to: StoreId, message: pb::RaftMessage) {
        let entries = message.message.as_ref().map_or(&[][..], |m| &m.entries);
        let bytes: usize = entries.iter().map(|e| e.data.len()).sum();
        let (used, frame) = self.frames.entry(to).or_insert_with(|| (0, self.origin.frame(to)));
        *used += bytes;
        frame.messages.push(message);
        if *used >= FRAME_BYTES {
            let full = std::mem::replace(frame, self.origin.frame(to));
            *used = 0;
            self.transport.send(to, full);
        }
    }

    fn heartbeat(&mut self, region: &Region, to: StoreId, message: &Message, response: bool) {
        if message.context.is_empty() {
            let (requests, responses) = self.held.entry(to).or_default();
            wire::push_heartbeat(if response { responses } else { requests }, region, message);
            return;
        }
        let (_, frame) = self.frames.entry(to).or_insert_with(|| (0, self.origin.frame(to)));
        let columns = if response { &mut frame.heartbeat_responses } else { &mut frame.heartbeats };
        wire::push_heartbeat(columns.get_or_insert_default(), region, message);
    }

    /// When held heartbeats want to leave.
    pub(crate) fn deadline(&self) -> Option<Time> {
        (!self.held.is_empty()).then_some(self.next_heartbeat)
    }

    /// Sends everything that is due.
    pub(crate) fn flush(&mut self, now: Time) {
        if now >= self.next_heartbeat {
            // A little longer than the core's interval, so that a region never misses one.
            let grid = self.heartbeat_ms * 1_250;
            self.next_heartbeat = Time((now.0 / grid + 1) * grid);
            for (to, (requests, responses)) in std::mem::take(&mut self.held) {
                let (_, frame) = self.frames.entry(to).or_insert_with(|| (0, self.origin.frame(to)));
                wire::merge_heartbeats(&mut frame.heartbeats, requests);
                wire::merge_heartbeats(&mut frame.heartbeat_responses, responses);
            }
        }
        for (to, (_, frame)) in std::mem::take(&mut self.frames) {
            let has_heartbeats = frame.heartbeats.is_some() || frame.heartbeat_responses.is_some();
            if !frame.messages.is_empty() || has_heartbeats {
                self.transport.send(to, frame);
            }
        }
    }
}

/// A message between peers, addressed. `message` is absent for the store's own questions (stale, tombstone).
pub(crate) fn raft_message(
    region: &Region,
    from: Peer,
    to: Peer,
    message: Option<Message>,
    may_create: bool,
) -> pb::RaftMessage {
    pb::RaftMessage {
        region_id: region.id.0,
        from_peer: Some(wire::peer_to_wire(&from)),
        to_peer: Some(wire::peer_to_wire(&to)),
        epoch: Some(wire::epoch_to_wire(region.epoch)),
        message: message.map(wire::message_to_wire),
        start_key: if may_create { region.range.start.clone() } else { bytes::Bytes::new() },
        end_key: if may_create { region.range.end.clone() } else { bytes::Bytes::new() },
        meta_space: region.space == Space::Meta,
        is_tombstone: false,
        check_stale: false,
        merge: bytes::Bytes::new(),
        check: None,
        fortification: None,
        transfer: None,
        is_gone: false,
    }
}
