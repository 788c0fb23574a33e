//! Meters: what is under way to one destination, bounded over groups.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_raft::{
    ConfChange, ConfChangeKind, ConfChangeV2, Config, Index, Message, MessageKind as Kind, Meter, PeerId,
    ProgressState,
};

use crate::harness::*;

/// Leaders of several groups, all with voters 1, 2, 3 of which the others have everything; peer 2 lives where `meter`
/// counts.
fn leaders(count: usize, meter: &Arc<Meter>) -> Vec<Peer> {
    let config = Config { check_quorum: true, skip_commit_broadcast: true, ..config(1) };
    let lead = |_| {
        let mut peer = Peer::leader(&config, storage(members(&[1, 2, 3], &[]), &[]));
        peer.raw.set_meter(PeerId(2), Some(meter.clone()));
        for from in [2, 3] {
            peer.exchange(ack(from, 1, 1));
        }
        peer.work();
        peer
    };
    (0..count).map(lead).collect()
}

/// Proposes ten bytes. Returns the number of entries that go to peers 2 and 3.
fn write(peer: &mut Peer) -> (usize, usize) {
    peer.raw.propose(Bytes::from_static(b"ten bytes!")).expect("leader");
    entries_sent(&peer.work())
}

fn entries_sent(messages: &[Message]) -> (usize, usize) {
    let count = |to| -> usize {
        of_kind(messages, Kind::Append).iter().filter(|m| m.to == PeerId(to)).map(|m| m.entries.len()).sum()
    };
    (count(2), count(3))
}

fn is_held_back(peer: &Peer) -> bool {
    peer.raw.progress(PeerId(2)).expect("a member").is_held_back()
}

#[test]
fn a_full_meter_holds_back_the_entries_of_every_group_to_that_peer_and_no_other() {
    let meter = Arc::new(Meter::new(20));
    let mut groups = leaders(3, &meter);
    assert_eq!(write(&mut groups[0]), (1, 1));
    assert_eq!(write(&mut groups[1]), (1, 1));
    assert_eq!((meter.bytes(), meter.is_full()), (20, true));
    for group in &mut groups {
        assert!(!group.raw.take_held_back());
        assert_eq!(write(group), (0, 1));
        assert!(group.raw.take_held_back() && !group.raw.take_held_back());
        assert!(is_held_back(group));
    }
    // Room that comes back goes to the first who sends.
    assert_eq!(entries_sent(&groups[0].exchange(ack(2, 1, 2))), (1, 0));
    assert!(!groups[2].raw.resume(PeerId(3)), "nothing waits there");
    assert!(groups[2].raw.resume(PeerId(2)), "no room");
    assert_eq!(meter.bytes(), 20);
    groups[1].exchange(ack(2, 1, 3));
    groups[0].exchange(ack(2, 1, 3));
    assert_eq!(meter.bytes(), 0);
    assert!(!groups[2].raw.resume(PeerId(2)));
    assert_eq!(entries_sent(&groups[2].work()), (1, 0));
    assert!(!is_held_back(&groups[2]));
}

#[test]
fn reserved_room_is_for_those_that_are_resumed_an_append_at_a_time() {
    let meter = Arc::new(Meter::new(1_000));
    let config = Config { append_bytes_max: 1, ..config(1) };
    let mut peer = Peer::leader(&config, storage(members(&[1, 2, 3], &[]), &[]));
    peer.raw.set_meter(PeerId(2), Some(meter.clone()));
    [2, 3].into_iter().for_each(|from| drop(peer.exchange(ack(from, 1, 1))));
    meter.reserve(true);
    assert_eq!([write(&mut peer), write(&mut peer), write(&mut peer)], [(0, 1); 3]);
    meter.reserve(false);
    assert!(peer.raw.resume(PeerId(2)), "two more wait");
    meter.reserve(true);
    assert_eq!(entries_sent(&peer.work()), (1, 0));
    assert_eq!(entries_sent(&peer.exchange(ack(2, 1, 2))), (0, 0), "not its turn");
    meter.reserve(false);
    assert!(peer.raw.resume(PeerId(2)));
    assert!(!peer.raw.resume(PeerId(2)));
    assert_eq!(entries_sent(&peer.work()), (2, 0));
}

#[test]
fn a_held_back_peer_hears_of_commits_and_of_the_leader_and_may_be_probed() {
    let meter = Arc::new(Meter::new(10));
    let mut peer = leaders(1, &meter).remove(0);
    write(&mut peer);
    write(&mut peer);
    peer.exchange(ack(3, 1, 2));
    peer.propose("x").expect("leader");
    let told: Vec<Message> = peer.work().into_iter().filter(|m| m.to == PeerId(2)).collect();
    assert_eq!((told.len(), told[0].commit, told[0].entries.len()), (1, Index(2), 0), "all that it has");
    peer.tick(1);
    assert_eq!(of_kind(&peer.work(), Kind::Heartbeat).len(), 2);
    // What was under way is lost: the answer to a heartbeat finds out.
    let sent = peer.exchange(message(Kind::HeartbeatResponse, 2, 1));
    assert_eq!(
        (sent.len(), sent[0].kind, sent[0].index, sent[0].entries.len()),
        (1, Kind::Append, Index(2), 0)
    );
    let sent = peer.exchange(refusal(2, 1, 2, (1, 1)));
    assert_eq!(peer.raw.progress(PeerId(2)).map(|p| p.state), Some(ProgressState::Probe));
    assert_eq!(meter.bytes(), 0);
    assert_eq!(entries_sent(&sent), (3, 0));
    // And so the other way round: a probe goes whatever else is under way.
    let mut other = leaders(1, &meter).remove(0);
    assert_eq!(write(&mut other), (1, 1));
    assert!(meter.is_full());
    peer.raw.report_unreachable(PeerId(2));
    assert_eq!(entries_sent(&peer.exchange(message(Kind::HeartbeatResponse, 2, 1))), (3, 0));
}

#[test]
fn a_follower_without_news_is_not_sent_empty_appends_for_every_proposal() {
    let meter = Arc::new(Meter::new(10));
    let mut groups = leaders(2, &meter);
    for group in &mut groups {
        // A first heartbeat, after which all know what is committed.
        group.tick(1);
        group.work();
    }
    write(&mut groups[0]);
    for _ in 0..3 {
        groups[1].propose("x").expect("leader");
        let sent = groups[1].work();
        assert!(
            sent.iter().all(|m| m.to != PeerId(2)),
            "nothing is under way, and nothing committed: {sent:?}"
        );
    }
    let mut to_second = Vec::new();
    for _ in 0..3 {
        groups[0].propose("x").expect("leader");
        to_second.extend(groups[0].work().into_iter().filter(|m| m.to == PeerId(2)));
    }
    assert_eq!((to_second.len(), to_second[0].entries.len()), (1, 0), "{to_second:?}");
}

#[test]
fn what_is_under_way_to_a_silent_peer_makes_room_for_others() {
    let meter = Arc::new(Meter::new(10));
    let mut groups = leaders(2, &meter);
    write(&mut groups[0]);
    write(&mut groups[1]);
    assert!(is_held_back(&groups[1]));
    for _ in 0..3 {
        groups[0].tick(ELECTION_TICKS);
        groups[0].work();
        groups[0].exchange(message(Kind::HeartbeatResponse, 3, 1));
    }
    assert_eq!(groups[0].raw.progress(PeerId(2)).map(|p| p.state), Some(ProgressState::Probe));
    assert_eq!(meter.bytes(), 0);
    assert!(!groups[1].raw.resume(PeerId(2)));
    assert_eq!(entries_sent(&groups[1].work()), (1, 0));
}

#[test]
fn without_a_meter_silence_changes_nothing() {
    let meter = Arc::new(Meter::new(10));
    let mut peer = leaders(1, &meter).remove(0);
    peer.raw.set_meter(PeerId(2), None);
    write(&mut peer);
    for _ in 0..3 {
        peer.tick(ELECTION_TICKS);
        peer.work();
        peer.exchange(message(Kind::HeartbeatResponse, 3, 1));
    }
    let progress = peer.raw.progress(PeerId(2)).expect("a member");
    assert_eq!((progress.state, progress.inflights.len()), (ProgressState::Replicate, 1));
}

/// What ends a window, and how.
type End = (&'static str, fn(&mut Peer));

#[test]
fn a_meter_is_balanced_whatever_ends_a_window() {
    let meter = Arc::new(Meter::new(100));
    let ends: [End; 6] = [
        ("unreachable", |peer| peer.raw.report_unreachable(PeerId(2))),
        ("a later term", |peer| drop(peer.exchange(heartbeat(3, 2, 0)))),
        ("no quorum", |peer| {
            peer.tick(3 * ELECTION_TICKS);
            drop(peer.work());
            assert_ne!(peer.raw.role(), flotilla_raft::Role::Leader);
        }),
        ("another meter", |peer| peer.raw.set_meter(PeerId(2), None)),
        ("acknowledged", |peer| drop(peer.exchange(ack(2, 1, 3)))),
        ("removed", |peer| {
            let change =
                ConfChange { kind: ConfChangeKind::RemovePeer, peer: PeerId(2), ..Default::default() };
            peer.raw.apply_conf_change(&change.into_v2());
        }),
    ];
    for (what, end) in ends {
        let mut peer = leaders(1, &meter).remove(0);
        write(&mut peer);
        write(&mut peer);
        assert_eq!(meter.bytes(), 20, "{what}");
        let copy = peer.raw.status();
        assert_eq!(meter.bytes(), 20, "a copy is not under way");
        end(&mut peer);
        assert_eq!(meter.bytes(), 0, "{what}");
        drop(copy);
    }
    let mut peer = leaders(1, &meter).remove(0);
    write(&mut peer);
    drop(peer);
    assert_eq!((meter.bytes(), Arc::strong_count(&meter)), (0, 1), "the node is gone");
}

#[test]
fn a_change_of_other_members_keeps_what_is_counted() {
    let meter = Arc::new(Meter::new(100));
    let mut peer = leaders(1, &meter).remove(0);
    write(&mut peer);
    let change = ConfChange { kind: ConfChangeKind::AddLearner, peer: PeerId(4), ..Default::default() };
    peer.raw.apply_conf_change(&change.into_v2());
    assert_eq!(meter.bytes(), 10);
    write(&mut peer);
    assert_eq!(meter.bytes(), 20);
    peer.raw.apply_conf_change(&ConfChangeV2::default());
    peer.exchange(ack(2, 1, 3));
    assert_eq!(meter.bytes(), 0);
}
