//! Frames and stream news in words, for traces.

use std::fmt::Write;

use bytes::Bytes;
use flotilla_proto::flotilla as pb;
use flotilla_raftstore::wire;
use prost::Message;

use super::network::StreamNews;

/// A frame with all its messages on one line.
pub fn frame(frame: &pb::StoreFrame) -> String {
    let mut out = format!("frame {} -> {}:", frame.from_store, frame.to_store);
    for message in &frame.messages {
        let _ = write!(out, " [{}]", raft_message(message));
    }
    for (columns, name) in [(&frame.heartbeats, "heartbeats"), (&frame.heartbeat_responses, "answers")] {
        let Some(columns) = columns else { continue };
        let _ = write!(out, " {name}");
        for i in 0..columns.region_id.len() {
            let _ = write!(
                out,
                " (r{} {}->{} t{} c{}{})",
                columns.region_id[i],
                columns.from_peer[i],
                columns.to_peer[i],
                columns.term[i],
                columns.commit[i],
                if columns.context[i].is_empty() { "" } else { " ctx" },
            );
        }
    }
    for placement in &frame.placement {
        let _ = write!(out, " [{}]", placed(placement));
    }
    out
}

fn placed(placement: &pb::PlacementMessage) -> String {
    use pb::placement_message::Message as Placed;
    match &placement.message {
        Some(Placed::Heartbeat(beat)) => format!("heartbeat of boot {}", beat.boot_id),
        Some(Placed::Regions(reports)) => {
            let mut out =
                format!("reports {}..{} of boot {}:", reports.since, reports.sequence, reports.boot_id);
            for report in &reports.regions {
                let (region, leader) = (report.region.as_ref(), report.leader.as_ref());
                let (id, leader) = (region.map_or(0, |r| r.id), leader.map_or(0, |p| p.id));
                let _ = write!(out, " r{id} by {leader} t{} pending {:?}", report.term, report.pending_peers);
            }
            let _ = write!(out, " dropped {:?}", reports.dropped);
            out
        }
        Some(Placed::Book(book)) => {
            format!("book t{} of {} stores", book.meta_term, book.stores.len())
        }
        other => format!("{other:?}"),
    }
}

fn raft_message(raft: &pb::RaftMessage) -> String {
    let mut out = format!("r{}", raft.region_id);
    let peer = |p: &Option<flotilla_proto::metapb::Peer>| p.as_ref().map_or(0, |p| p.id);
    let _ = write!(out, " {}->{}", peer(&raft.from_peer), peer(&raft.to_peer));
    if raft.is_tombstone {
        out.push_str(" TOMBSTONE");
    }
    if raft.is_gone {
        out.push_str(" GONE");
    }
    if raft.check_stale {
        out.push_str(" STALE?");
    }
    let Some(message) = raft.message.clone() else { return out };
    let (entries, context) = (message.entries.len(), message.context.len());
    if let Some(m) = wire::message_from_wire(message) {
        let _ = write!(out, " {:?} t{} i{} lt{} c{}", m.kind, m.term.0, m.index.0, m.log_term.0, m.commit.0);
        if entries > 0 {
            let _ = write!(out, " +{entries}");
        }
        if m.reject {
            let _ = write!(out, " REJECT hint {}", m.extra().reject_hint.0);
        }
        if context > 0 {
            out.push_str(" ctx");
        }
    }
    out
}

/// News of a snapshot stream.
pub fn news(news: &StreamNews) -> String {
    let chunk = |bytes: &Bytes| match pb::SnapshotChunk::decode(bytes.clone()).map(|c| c.part) {
        Ok(Some(pb::snapshot_chunk::Part::Header(h))) => {
            format!("header {}", h.message.as_ref().map(raft_message).unwrap_or_default())
        }
        Ok(Some(pb::snapshot_chunk::Part::Data(data))) => format!("{} keys", data.keys.len()),
        Ok(Some(pb::snapshot_chunk::Part::Trailer(t))) => format!("trailer at {} term {}", t.index, t.term),
        _ => "nothing".into(),
    };
    match news {
        StreamNews::Opened(bytes) => format!("opened, {}", chunk(bytes)),
        StreamNews::Chunk(bytes) => format!("chunk, {}", chunk(bytes)),
        StreamNews::Reply(bytes) => format!("reply, {:?}", pb::SnapshotReply::decode(bytes.clone())),
        StreamNews::Closed => "closed".into(),
        StreamNews::Sent => "sent".into(),
        StreamNews::Broken(_) => "broken".into(),
    }
}
