//! Snapshots, restarts, and what a Ready hands out when.

use bytes::Bytes;
use flotilla_raft::{
    ConfState, Config, ConfigError, HardState, Index, MessageKind as Kind, PeerId, ProgressState, Role, Term,
};

use crate::harness::*;

/// A leader of three whose log starts after a snapshot at (5, 1); 2 has everything, 3 was never heard from.
fn compacted_leader() -> Peer {
    let mut storage = flotilla_raft::MemStorage::with_snapshot(snapshot(5, 1, members(&[1, 2, 3], &[])));
    storage.set_hard_state(HardState { term: Term(1), vote: PeerId(0), commit: Index(5) });
    let mut peer = Peer::leader(&config(1), storage);
    peer.exchange(ack(2, 2, 6));
    peer
}

#[test]
fn a_peer_that_needs_compacted_entries_gets_a_snapshot_once_it_was_heard_from() {
    let mut peer = compacted_leader();
    // 3 refuses the probe although it is not known to be alive: the refusal itself proves it.
    assert!(peer.raw.progress(PeerId(3)).is_some_and(|progress| !progress.recent_active));
    let sent = peer.exchange(refusal(3, 2, 5, (0, 0)));
    assert_eq!(sent.len(), 1);
    let carried = sent[0].snapshot.as_ref().expect("a snapshot");
    assert_eq!((sent[0].kind, carried.meta.index, sent[0].index), (Kind::Snapshot, Index(5), Index(0)));
    let progress = peer.raw.progress(PeerId(3)).expect("member");
    assert_eq!(
        (progress.state, progress.pending_snapshot, progress.next),
        (ProgressState::Snapshot, Index(5), Index(6))
    );
    peer.propose("x").expect("leader");
    assert!(peer.work().iter().all(|m| m.to != PeerId(3)), "nothing else while it is under way");
    assert!(peer.exchange(message(Kind::HeartbeatResponse, 3, 2)).is_empty());
}

#[test]
fn silent_peers_get_neither_snapshot_nor_append() {
    let config = Config { check_quorum: true, ..config(1) };
    let mut peer = Peer::leader(&config, storage(members(&[1, 2, 3], &[]), &[]));
    for from in [2, 3] {
        peer.exchange(ack(from, 1, 1));
    }
    for _ in 0..3 {
        peer.propose("x").expect("leader");
    }
    peer.work();
    peer.exchange(ack(2, 1, 4));
    // 3 falls silent, and what it needs next is compacted.
    peer.raw.report_unreachable(PeerId(3));
    let storage = peer.raw.storage_mut();
    storage.create_snapshot(Index(4), members(&[1, 2, 3], &[]), Bytes::new()).expect("applied");
    storage.compact(Index(4)).expect("not compacted yet");
    for _ in 0..2 * ELECTION_TICKS {
        peer.step(message(Kind::HeartbeatResponse, 2, 1));
        peer.tick(1);
        peer.work();
    }
    assert_eq!(peer.raw.role(), Role::Leader);
    assert!(!peer.raw.progress(PeerId(3)).expect("member").is_paused());
    peer.propose("y").expect("leader");
    assert!(peer.work().iter().all(|m| m.to != PeerId(3)));
    let sent = peer.exchange(message(Kind::HeartbeatResponse, 3, 1));
    assert_eq!(of_kind(&sent, Kind::Snapshot).len(), 1, "back again");
}

#[test]
fn the_report_decides_where_probing_goes_on() {
    for (ok, next) in [(true, 6), (false, 1)] {
        let mut peer = compacted_leader();
        peer.exchange(refusal(3, 2, 5, (0, 0)));
        peer.raw.report_snapshot(PeerId(3), ok);
        let progress = peer.raw.progress(PeerId(3)).expect("member");
        assert_eq!(
            (progress.state, progress.next, progress.is_flow_paused),
            (ProgressState::Probe, Index(next), true)
        );
        assert!(peer.work().is_empty(), "waits for the next answer");
        peer.raw.report_snapshot(PeerId(2), ok);
        assert_eq!(
            peer.raw.progress(PeerId(2)).expect("member").state,
            ProgressState::Replicate,
            "no snapshot there"
        );
    }
}

#[test]
fn an_acknowledgement_within_the_log_ends_the_snapshot_state_before_any_report() {
    let mut peer = compacted_leader();
    peer.exchange(refusal(3, 2, 5, (0, 0)));
    peer.exchange(ack(3, 2, 3));
    assert_eq!(
        peer.raw.progress(PeerId(3)).expect("member").state,
        ProgressState::Snapshot,
        "still below the log"
    );
    peer.exchange(ack(3, 2, 5));
    let progress = peer.raw.progress(PeerId(3)).expect("member");
    assert_eq!(
        (progress.state, progress.matched, progress.next),
        (ProgressState::Replicate, Index(5), Index(7))
    );
}

#[test]
fn a_received_snapshot_replaces_log_and_membership_and_is_acknowledged_once_stored() {
    let conf =
        ConfState { voters_outgoing: ids(&[1, 2]), learners_next: ids(&[2]), ..members(&[1, 3], &[4]) };
    let mut peer = Peer::follower(1, &[1, 1, 1]);
    peer.exchange(append(2, 2, (3, 1), &[], 2));
    peer.step(snapshot_message(2, 2, snapshot(9, 2, conf.clone())));
    assert!(!peer.raw.is_promotable(), "not while the snapshot is not stored");
    let ready = peer.raw.ready();
    assert!(ready.entries.is_empty() && ready.committed_entries.is_empty());
    assert_eq!(ready.hard_state.map(|state| state.commit), Some(Index(9)));
    assert_eq!(ready.snapshot.as_ref().map(|snapshot| snapshot.meta.index), Some(Index(9)));
    assert_eq!((ready.messages[0].kind, ready.messages[0].index), (Kind::AppendResponse, Index(9)));
    peer.handle(ready);
    peer.raw.advance();
    assert_eq!((peer.raw.applied(), peer.raw.conf_state()), (Index(9), conf));
    assert!(peer.raw.is_promotable());
    assert_eq!((peer.raw.first_index(), peer.raw.last_index()), (Index(10), Index(9)));
    let sent = peer.exchange(append(2, 2, (9, 2), &[2], 10));
    assert_eq!((sent[0].index, peer.raw.commit()), (Index(10), Index(10)));
    // The same snapshot again is old news.
    let sent = peer.exchange(snapshot_message(2, 2, snapshot(9, 2, members(&[1], &[]))));
    assert_eq!(sent[0].index, Index(10));
    assert_eq!(peer.raw.conf_state().voters, ids(&[1, 3]));
}

#[test]
fn a_snapshot_can_make_a_learner_of_a_voter_and_back() {
    for (before, after, is_voter) in [
        (members(&[1, 2], &[]), members(&[2], &[1]), false),
        (members(&[2], &[1]), members(&[1, 2], &[]), true),
    ] {
        let mut peer = Peer::new(&config(1), storage(before, &[]));
        peer.exchange(snapshot_message(2, 1, snapshot(9, 1, after)));
        assert_eq!(peer.raw.is_promotable(), is_voter);
        peer.tick(3 * ELECTION_TICKS);
        assert_eq!(peer.raw.role() != Role::Follower, is_voter);
    }
}

#[test]
fn old_snapshots_are_ignored_and_matching_ones_only_raise_the_commit_index() {
    let mut peer = Peer::follower(1, &[]);
    peer.exchange(append(2, 1, (0, 0), &[1, 1, 1], 1));
    let sent = peer.exchange(snapshot_message(2, 1, snapshot(1, 1, members(&[1, 2, 3], &[]))));
    assert_eq!((sent[0].index, peer.raw.commit(), peer.terms().len()), (Index(1), Index(1), 3));
    let sent = peer.exchange(snapshot_message(2, 1, snapshot(2, 1, members(&[1, 2, 3], &[]))));
    assert_eq!((sent[0].index, peer.raw.commit(), peer.terms().len()), (Index(2), Index(2), 3));
    assert!(peer.raw.storage().snapshot_ref().is_empty(), "none was handed out for storing");
}

#[test]
fn a_lagging_peer_catches_up_by_snapshot_and_then_by_log() {
    let mut network = Network::new(3);
    network.campaign(1);
    network.isolate(3);
    for data in ["a", "b", "c"] {
        network.propose(1, data).expect("leader");
    }
    let storage = network.raw(1).storage_mut();
    storage.create_snapshot(Index(4), members(&[1, 2, 3], &[]), Bytes::new()).expect("applied");
    storage.compact(Index(4)).expect("not compacted yet");
    network.heal();
    network.tick(1, 1);
    network.propose(1, "d").expect("leader");
    network.tick(1, 1);
    assert_eq!(network.commits(), [5, 5, 5]);
    assert_eq!(network.raw(3).first_index(), Index(5));
    assert_eq!(network.peer(3).applied_data(), ["d"]);
}

#[test]
fn a_restarted_peer_continues_where_its_disk_ends() {
    let mut peer = Peer::follower(1, &[]);
    peer.exchange(vote(Kind::Vote, 2, 3, (0, 0)));
    peer.exchange(append(2, 3, (0, 0), &[3, 3, 3], 2));
    let mut peer = peer.restart(&config(1));
    let state = (peer.raw.role(), peer.raw.term(), peer.raw.vote(), peer.raw.commit());
    assert_eq!(state, (Role::Follower, Term(3), PeerId(2), Index(2)));
    let ready = peer.raw.ready();
    assert!(ready.soft_state.is_none() && ready.hard_state.is_none() && !ready.must_sync);
    assert_eq!(ready.committed_entries.len(), 2, "applied again from the start");
    peer.handle(ready);
    peer.raw.advance();
    assert!(!peer.raw.has_ready());
    // A peer that is told what was applied starts there.
    let mut peer = peer.restart(&Config { applied: Index(1), ..config(1) });
    assert_eq!(peer.raw.ready().committed_entries.len(), 1);
    assert!(peer.raw.vote() == PeerId(2), "it must not vote again in this term");
}

#[test]
fn stored_states_that_contradict_themselves_are_refused() {
    let attempt =
        |config: &Config, storage| flotilla_raft::RawNode::new(config, storage).map(|_| ()).unwrap_err();
    let mut beyond = storage(members(&[1], &[]), &[1]);
    beyond.set_hard_state(HardState { term: Term(1), vote: PeerId(0), commit: Index(9) });
    assert_eq!(attempt(&config(1), beyond), ConfigError::CommitOutOfRange);
    let mut below = flotilla_raft::MemStorage::with_snapshot(snapshot(5, 1, members(&[1], &[])));
    below.set_hard_state(HardState { term: Term(1), vote: PeerId(0), commit: Index(4) });
    assert_eq!(attempt(&config(1), below), ConfigError::CommitOutOfRange);
    let applied = Config { applied: Index(3), ..config(1) };
    assert_eq!(attempt(&applied, storage(members(&[1], &[]), &[1])), ConfigError::AppliedOutOfRange);
    let twice = storage(members(&[1, 2], &[1]), &[]);
    assert!(matches!(attempt(&config(1), twice), ConfigError::Membership(_)));
}

#[test]
fn a_ready_is_told_once_and_what_happens_meanwhile_comes_with_the_next() {
    let mut peer = Peer::follower(1, &[]);
    assert!(!peer.raw.has_ready(), "the state after construction counts as seen");
    peer.step(heartbeat(2, 1, 0));
    let first = peer.raw.ready();
    assert_eq!(first.soft_state.map(|state| state.lead), Some(PeerId(2)));
    assert_eq!(first.hard_state.map(|state| state.term), Some(Term(1)));
    assert!(first.must_sync);
    peer.step(append(2, 1, (0, 0), &[1], 1));
    peer.handle(first);
    peer.raw.advance();
    let second = peer.raw.ready();
    assert!(second.soft_state.is_none());
    assert_eq!((second.entries.len(), second.committed_entries.len(), second.messages.len()), (1, 1, 1));
    peer.handle(second);
    peer.raw.advance();
    assert!(!peer.raw.has_ready());
    // A commit alone need not be synced.
    peer.exchange(append(2, 1, (1, 1), &[1], 1));
    peer.step(heartbeat(2, 1, 2));
    let commit = peer.raw.ready();
    assert_eq!((commit.hard_state.map(|state| state.commit), commit.must_sync), (Some(Index(2)), false));
    // A leader lost and found again within one Ready is no change.
    peer.handle(commit);
    peer.raw.advance();
    peer.raw.forget_leader();
    peer.step(heartbeat(2, 1, 2));
    assert!(peer.raw.ready().soft_state.is_none());
}

#[test]
fn committed_entries_come_in_pages_without_gaps() {
    for limit in [0, 1, 25, u64::MAX] {
        let mut storage = storage(members(&[1, 2, 3], &[]), &[1; 10]);
        storage.set_hard_state(HardState { term: Term(1), vote: PeerId(0), commit: Index(10) });
        let mut peer = Peer::new(&Config { committed_bytes_max: limit, ..config(1) }, storage);
        let mut pages = Vec::new();
        while peer.raw.has_ready() {
            let ready = peer.raw.ready();
            pages.push(ready.committed_entries.len());
            peer.handle(ready);
            peer.raw.advance();
        }
        let indexes: Vec<u64> = peer.applied.iter().map(|entry| entry.index.0).collect();
        assert_eq!(indexes, (1..=10).collect::<Vec<_>>(), "limit {limit}");
        let expected = match limit {
            u64::MAX => vec![10],
            25 => vec![4, 4, 2],
            _ => vec![1; 10],
        };
        assert_eq!(pages, expected, "limit {limit}");
    }
}

#[test]
fn an_idle_peer_has_nothing_to_do_and_an_empty_ready_is_legal() {
    let mut peer = Peer::follower(1, &[]);
    peer.tick(ELECTION_TICKS - 1);
    assert!(!peer.raw.has_ready());
    let ready = peer.raw.ready();
    assert!(ready.is_empty() && !ready.must_sync);
    peer.raw.advance();
}

#[test]
fn status_shows_progress_to_leaders_only() {
    let mut leader = Peer::leader(&config(1), storage(members(&[1, 2, 3], &[]), &[]));
    leader.exchange(ack(2, 1, 1));
    let status = leader.raw.status();
    assert_eq!((status.id, status.soft_state.role, status.applied), (PeerId(1), Role::Leader, Index(1)));
    assert_eq!(status.progress.len(), 3);
    assert_eq!(status.config.to_conf_state(), members(&[1, 2, 3], &[]));
    assert_eq!(status.hard_state, leader.raw.hard_state());
    let follower = Peer::follower(1, &[1, 1]);
    assert!(follower.raw.status().progress.is_empty());
    assert_eq!((follower.raw.last_term(), follower.raw.soft_state().role), (Term(1), Role::Follower));
    assert_eq!(follower.raw.progress_iter().count(), 3, "followers know the members");
    assert_eq!(stored_last(follower.raw.storage()), Index(2));
}
