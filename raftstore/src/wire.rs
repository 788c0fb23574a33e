//! Between the wire types of `flotilla-proto` and our own. The only module that names them.

use bytes::Bytes;
pub use flotilla_proto::{flotilla as pb, metapb};
use flotilla_raft::{ConfState, Entry, Extra, Message, MessageKind, Snapshot, SnapshotMeta};
use flotilla_region::{
    Index, KeyRange, Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, Space, StoreId, Term,
};

pub use pb::{PlacementMessage, RaftMessage, StoreFrame};

use crate::state::entry_kind;

/// A core message for the wire.
pub fn message_to_wire(m: Message) -> pb::Message {
    let &Extra { reject_hint, priority, request_snapshot, commit_term, .. } = m.extra();
    pb::Message {
        kind: m.kind as u32,
        to: m.to.0,
        from: m.from.0,
        term: m.term.0,
        log_term: m.log_term.0,
        index: m.index.0,
        entries: m.entries.into_iter().map(entry_to_wire).collect(),
        commit: m.commit.0,
        reject: m.reject,
        reject_hint: reject_hint.0,
        priority,
        request_snapshot: request_snapshot.0,
        commit_term: commit_term.0,
        context: m.context,
    }
}

/// The kind of a core message; `None` if it is none that a peer may send.
pub(crate) fn message_kind(m: &pb::Message) -> Option<MessageKind> {
    MessageKind::BETWEEN_PEERS.into_iter().find(|kind| *kind as u32 == m.kind)
}

/// A core message from the wire; `None` if it is none that a peer may send.
pub fn message_from_wire(m: pb::Message) -> Option<Message> {
    let kind = message_kind(&m)?;
    Some(Message {
        kind,
        to: PeerId(m.to),
        from: PeerId(m.from),
        term: Term(m.term),
        log_term: Term(m.log_term),
        index: Index(m.index),
        entries: m.entries.into_iter().map(entry_from_wire).collect::<Option<_>>()?,
        commit: Index(m.commit),
        reject: m.reject,
        context: m.context,
        extra: Extra {
            reject_hint: Index(m.reject_hint),
            priority: m.priority,
            request_snapshot: Index(m.request_snapshot),
            commit_term: Term(m.commit_term),
            ..Extra::default()
        }
        .boxed(),
        ..Message::default()
    })
}

fn entry_to_wire(e: Entry) -> pb::Entry {
    pb::Entry { term: e.term.0, index: e.index.0, kind: e.kind as u32, data: e.data }
}

fn entry_from_wire(e: pb::Entry) -> Option<Entry> {
    Some(Entry { term: Term(e.term), index: Index(e.index), kind: entry_kind(e.kind)?, data: e.data })
}

/// A membership for the wire.
pub fn conf_state_to_wire(c: &ConfState) -> pb::ConfState {
    let ids = |list: &[PeerId]| list.iter().map(|p| p.0).collect();
    pb::ConfState {
        voters: ids(&c.voters),
        voters_outgoing: ids(&c.voters_outgoing),
        learners: ids(&c.learners),
        learners_next: ids(&c.learners_next),
        auto_leave: c.auto_leave,
    }
}

/// A peer for the wire.
pub fn peer_to_wire(p: &Peer) -> metapb::Peer {
    let role = match p.role {
        PeerRole::Voter => metapb::PeerRole::Voter,
        PeerRole::Learner => metapb::PeerRole::Learner,
        PeerRole::IncomingVoter => metapb::PeerRole::IncomingVoter,
        PeerRole::DemotingVoter => metapb::PeerRole::DemotingVoter,
    };
    metapb::Peer { id: p.id.0, store_id: p.store.0, role: role as i32, is_witness: false }
}

/// A peer from the wire; unknown roles read as voters, as proto3 demands of enums.
pub fn peer_from_wire(p: &metapb::Peer) -> Peer {
    let role = match p.role() {
        metapb::PeerRole::Voter => PeerRole::Voter,
        metapb::PeerRole::Learner => PeerRole::Learner,
        metapb::PeerRole::IncomingVoter => PeerRole::IncomingVoter,
        metapb::PeerRole::DemotingVoter => PeerRole::DemotingVoter,
    };
    Peer { id: PeerId(p.id), store: StoreId(p.store_id), role }
}

/// An epoch for the wire.
pub fn epoch_to_wire(e: RegionEpoch) -> metapb::RegionEpoch {
    metapb::RegionEpoch { conf_ver: e.conf_ver, version: e.version }
}

/// An epoch from the wire.
pub fn epoch_from_wire(e: &metapb::RegionEpoch) -> RegionEpoch {
    RegionEpoch { conf_ver: e.conf_ver, version: e.version }
}

/// A descriptor for the wire.
pub fn region_to_wire(r: &Region) -> metapb::Region {
    metapb::Region {
        id: r.id.0,
        start_key: r.range.start.clone(),
        end_key: r.range.end.clone(),
        region_epoch: Some(epoch_to_wire(r.epoch)),
        peers: r.peers.iter().map(peer_to_wire).collect(),
        meta_space: r.space == Space::Meta,
    }
}

/// A descriptor from the wire. It shares no memory with the frame, which may be large.
pub fn region_from_wire(r: &metapb::Region) -> Region {
    let key = |key: &Bytes| Bytes::copy_from_slice(key);
    Region {
        id: RegionId(r.id),
        space: if r.meta_space { Space::Meta } else { Space::User },
        range: KeyRange { start: key(&r.start_key), end: key(&r.end_key) },
        epoch: r.region_epoch.as_ref().map(epoch_from_wire).unwrap_or_default(),
        peers: r.peers.iter().map(peer_from_wire).collect(),
    }
}

/// A membership from the wire.
pub fn conf_state_from_wire(c: &pb::ConfState) -> ConfState {
    let ids = |list: &[u64]| list.iter().map(|p| PeerId(*p)).collect();
    ConfState {
        voters: ids(&c.voters),
        voters_outgoing: ids(&c.voters_outgoing),
        learners: ids(&c.learners),
        learners_next: ids(&c.learners_next),
        auto_leave: c.auto_leave,
    }
}

/// The `MsgSnap` that a received snapshot stands for.
pub fn snapshot_message(header: pb::Message, meta: SnapshotMeta) -> Option<Message> {
    let mut message = message_from_wire(header)?;
    message.snapshot = Some(Box::new(Snapshot { meta, data: bytes::Bytes::new() }));
    Some(message)
}

/// What peers of a merge's two regions tell each other, for the wire.
pub(crate) fn merge_to_wire(message: pb::merge_message::Message) -> bytes::Bytes {
    prost::Message::encode_to_vec(&pb::MergeMessage { message: Some(message) }).into()
}

/// [`merge_to_wire`] undone; `None` for anything else.
pub(crate) fn merge_from_wire(bytes: &[u8]) -> Option<pb::merge_message::Message> {
    <pb::MergeMessage as prost::Message>::decode(bytes).ok()?.message
}

/// Adds a heartbeat or its answer to its column form.
pub(crate) fn push_heartbeat(columns: &mut pb::Heartbeats, region: &Region, message: &Message) {
    columns.region_id.push(region.id.0);
    columns.from_peer.push(message.from.0);
    columns.to_peer.push(message.to.0);
    columns.term.push(message.term.0);
    columns.commit.push(message.commit.0);
    columns.context.push(message.context.clone());
    columns.conf_ver.push(region.epoch.conf_ver);
    columns.version.push(region.epoch.version);
}

/// One heartbeat out of the column form.
#[derive(Clone, Debug)]
pub(crate) struct HeartbeatCell {
    pub region: RegionId,
    pub epoch: RegionEpoch,
    pub message: Message,
}

/// The heartbeats of a frame; `None` if its columns differ in length.
pub(crate) fn heartbeat_cells(columns: pb::Heartbeats, response: bool) -> Option<Vec<HeartbeatCell>> {
    let n = columns.region_id.len();
    let lengths = [
        columns.from_peer.len(),
        columns.to_peer.len(),
        columns.term.len(),
        columns.commit.len(),
        columns.context.len(),
        columns.conf_ver.len(),
        columns.version.len(),
    ];
    if lengths.iter().any(|len| *len != n) {
        return None;
    }
    let kind = if response { MessageKind::HeartbeatResponse } else { MessageKind::Heartbeat };
    let mut contexts = columns.context.into_iter();
    let cells = (0..n).map(|i| HeartbeatCell {
        region: RegionId(columns.region_id[i]),
        epoch: RegionEpoch { conf_ver: columns.conf_ver[i], version: columns.version[i] },
        message: Message {
            kind,
            from: PeerId(columns.from_peer[i]),
            to: PeerId(columns.to_peer[i]),
            term: Term(columns.term[i]),
            commit: Index(columns.commit[i]),
            context: contexts.next().unwrap_or_default(),
            ..Message::default()
        },
    });
    Some(cells.collect())
}

/// Adds heartbeats to a frame's.
pub(crate) fn merge_heartbeats(into: &mut Option<pb::Heartbeats>, more: pb::Heartbeats) {
    if more.region_id.is_empty() {
        return;
    }
    let into = into.get_or_insert_default();
    into.region_id.extend(more.region_id);
    into.from_peer.extend(more.from_peer);
    into.to_peer.extend(more.to_peer);
    into.term.extend(more.term);
    into.commit.extend(more.commit);
    into.context.extend(more.context);
    into.conf_ver.extend(more.conf_ver);
    into.version.extend(more.version);
}

/// A later request takes the place of an earlier one, and so does an answer.
fn merge_liveness(earlier: &mut pb::StoreLiveness, later: pb::StoreLiveness) {
    if later.epoch > 0 {
        (earlier.epoch, earlier.round, earlier.duration_ms) = (later.epoch, later.round, later.duration_ms);
    }
    if later.support_epoch > 0 || later.refused_epoch > 0 {
        (earlier.support_epoch, earlier.support_round) = (later.support_epoch, later.support_round);
        earlier.refused_epoch = later.refused_epoch;
    }
}

/// Whether a frame may wait a little for company: heartbeats that confirm no read, and news for placement.
pub fn is_patient(frame: &StoreFrame) -> bool {
    let confirms = |h: &Option<pb::Heartbeats>| h.iter().flat_map(|h| &h.context).any(|c| !c.is_empty());
    frame.messages.is_empty() && !confirms(&frame.heartbeats) && !confirms(&frame.heartbeat_responses)
}

/// Puts a later frame to the same store behind an earlier one, as one frame.
pub fn merge_frames(earlier: &mut StoreFrame, later: StoreFrame) {
    earlier.messages.extend(later.messages);
    earlier.placement.extend(later.placement);
    match (&mut earlier.liveness, later.liveness) {
        (Some(earlier), Some(later)) => merge_liveness(earlier, later),
        (earlier, later) => *earlier = earlier.take().or(later),
    }
    for (into, more) in [
        (&mut earlier.heartbeats, later.heartbeats),
        (&mut earlier.heartbeat_responses, later.heartbeat_responses),
    ] {
        if let Some(more) = more {
            merge_heartbeats(into, more);
        }
    }
}
