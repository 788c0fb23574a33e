//! What tikv/raft-rs adds to etcd-io/raft: priorities, commit groups, batching, requested snapshots, deferred reads
//! of the log, commits carried by votes.

use std::cell::{Cell, RefCell};

use bytes::Bytes;
use flotilla_raft::{
    ConfChange, ConfChangeKind, ConfState, Config, ConfigError, Entry, EntryKind, Extra, FetchContext,
    HardState, Index, MemStorage, Message, MessageKind as Kind, PeerId, ProgressState, RawNode, Role,
    Snapshot, StepError, Storage, StorageError, StorageResult, Term,
};

use crate::harness::*;

fn leader_of(voters: &[u64], change: impl Fn(&mut Config)) -> Peer {
    let mut config = config(1);
    change(&mut config);
    let mut peer = Peer::leader(&config, storage(members(voters, &[]), &[]));
    for from in &voters[1..] {
        peer.exchange(ack(*from, 1, 1));
    }
    peer.work();
    peer
}

#[test]
fn at_equal_logs_voters_refuse_candidates_of_lower_priority() {
    // Own priority, candidate's priority, candidate's last index -> granted
    for (own, candidate, index, granted) in [
        (0, 0, 1, true),
        (1, 0, 1, false),
        (1, 1, 1, true),
        (0, 5, 1, true),
        (5, 0, 2, true),
        (0, 9, 0, false),
    ] {
        let mut peer =
            Peer::new(&Config { priority: own, ..config(1) }, storage(members(&[1, 2, 3], &[]), &[1]));
        let extra = Extra { priority: candidate, ..Extra::default() }.boxed();
        let request = Message { extra, ..vote(Kind::Vote, 2, 2, (index, index)) };
        let sent = peer.exchange(request);
        assert_eq!(!sent[0].reject, granted, "own {own}, candidate {candidate} at {index}");
    }
    let mut network = Network::new(3);
    for (id, priority) in [(1, 1), (2, 2), (3, 3)] {
        network.raw(id).set_priority(priority);
    }
    network.campaign(1);
    assert_ne!(network.raw(1).role(), Role::Leader);
    network.campaign(3);
    assert_eq!(network.raw(3).role(), Role::Leader);
    network.raw(1).set_priority(9);
    network.campaign(1);
    assert_eq!(network.raw(1).role(), Role::Leader, "changed at run time");
}

#[test]
fn with_commit_groups_an_entry_commits_once_two_groups_have_it() {
    // Acknowledged by 2 and 3, groups of 1, 2, 3 -> commit with the rule on and off
    for (second, third, groups, grouped, plain) in [
        (3, 2, [0, 0, 0], 2, 3),
        (3, 2, [1, 1, 1], 3, 3),
        (3, 2, [1, 1, 2], 2, 3),
        (3, 2, [1, 2, 2], 3, 3),
        (2, 3, [1, 2, 1], 2, 3),
        (3, 1, [1, 0, 0], 1, 3),
        (3, 2, [1, 2, 0], 3, 3),
    ] {
        let mut peer = leader_of(&[1, 2, 3], |config| config.group_commit = true);
        let assigned: Vec<_> = groups.iter().zip(1..).map(|(group, id)| (PeerId(id), *group)).collect();
        peer.raw.assign_commit_groups(&assigned);
        for _ in 0..2 {
            peer.propose("x").expect("leader");
        }
        peer.work();
        peer.exchange(ack(2, 1, second));
        peer.exchange(ack(3, 1, third));
        assert_eq!(peer.raw.commit(), Index(grouped), "groups {groups:?}, acks {second} {third}");
        peer.raw.set_group_commit(false);
        assert_eq!(peer.raw.commit(), Index(plain), "switching the rule off commits at once");
        assert!(!peer.raw.has_group_commit());
    }
}

#[test]
fn regrouping_commits_at_once_and_consistency_can_be_asked() {
    let mut peer = leader_of(&[1, 2, 3], |config| config.group_commit = true);
    peer.raw.assign_commit_groups(&[(PeerId(1), 1), (PeerId(2), 1), (PeerId(3), 2), (PeerId(9), 3)]);
    peer.propose("x").expect("leader");
    peer.work();
    peer.exchange(ack(2, 1, 2));
    assert_eq!(peer.raw.commit(), Index(1), "group 2 does not have it");
    assert_eq!(peer.raw.is_group_commit_consistent(), Some(true));
    peer.raw.assign_commit_groups(&[(PeerId(2), 2)]);
    assert_eq!(peer.raw.commit(), Index(2));
    peer.work();
    assert_eq!(peer.raw.is_group_commit_consistent(), Some(true));
    peer.raw.clear_commit_groups();
    assert_eq!(peer.raw.is_group_commit_consistent(), Some(false), "the rule finds no two groups");
    let follower = Peer::follower(1, &[]);
    assert_eq!(follower.raw.is_group_commit_consistent(), None);
    let fresh =
        Peer::leader(&Config { group_commit: true, ..config(1) }, storage(members(&[1, 2, 3], &[]), &[1]));
    assert_eq!(fresh.raw.is_group_commit_consistent(), None, "nothing of the term is applied");
}

#[test]
fn batching_sends_one_append_per_peer_and_ready() {
    let mut peer = leader_of(&[1, 2, 3], |config| config.batch_append = true);
    for _ in 0..5 {
        peer.propose("x").expect("leader");
    }
    assert!(peer.raw.has_ready());
    let sent = peer.work();
    let appends: Vec<_> = of_kind(&sent, Kind::Append).iter().map(|m| (m.to.0, m.entries.len())).collect();
    assert_eq!(appends, [(2, 5), (3, 5)]);
    assert_eq!(peer.progress(1), (6, 7), "the own acknowledgements are merged too");
    peer.exchange(ack(2, 1, 6));
    assert_eq!(peer.raw.commit(), Index(6));
    let mut small = leader_of(&[1, 2, 3], |config| {
        config.batch_append = true;
        config.append_bytes_max = 0;
    });
    for _ in 0..3 {
        small.propose("x").expect("leader");
    }
    let sizes: Vec<_> = of_kind(&small.work(), Kind::Append)
        .iter()
        .filter(|m| m.to == PeerId(2))
        .map(|m| m.entries.len())
        .collect();
    assert_eq!(sizes, [1, 1, 1], "the size limit holds");
    small.raw.set_batch_append(false);
    small.propose("x").expect("leader");
    assert_eq!(of_kind(&small.work(), Kind::Append).len(), 2);
}

#[test]
fn commit_broadcasts_can_be_switched_off_except_for_conf_changes() {
    let mut peer = leader_of(&[1, 2, 3], |config| config.skip_commit_broadcast = true);
    peer.propose("x").expect("leader");
    peer.work();
    assert!(peer.exchange(ack(2, 1, 2)).is_empty(), "nobody is told");
    assert_eq!(peer.raw.commit(), Index(2));
    assert!(peer.exchange(ack(3, 1, 2)).is_empty());
    peer.tick(1);
    assert!(of_kind(&peer.work(), Kind::Heartbeat).iter().all(|beat| beat.commit == Index(2)));
    let change = ConfChange { kind: ConfChangeKind::AddLearner, peer: PeerId(4), context: Bytes::new() };
    peer.raw.propose_conf_change(change).expect("leader");
    peer.work();
    let sent = peer.exchange(ack(2, 1, 3));
    assert!(of_kind(&sent, Kind::Append).iter().any(|m| m.to == PeerId(3) && m.commit == Index(3)));
    peer.raw.set_skip_commit_broadcast(false);
    peer.propose("y").expect("leader");
    peer.work();
    assert_eq!(of_kind(&peer.exchange(ack(2, 1, 4)), Kind::Append).len(), 2);
}

/// A leader whose followers have its first entry, and have not said that they know it to be committed.
fn leader_beside_bound() -> Peer {
    let mut peer = leader_of(&[1, 2, 3], |config| {
        config.skip_commit_broadcast = true;
        config.check_quorum = true;
        config.election_ticks = 10;
    });
    peer.exchange(ack(2, 1, 1));
    peer.exchange(ack(3, 1, 1));
    peer
}

#[test]
fn who_is_bound_gets_no_heartbeats_that_tell_it_nothing() {
    let mut peer = leader_beside_bound();
    let knows = |from, commit| Message { commit: Index(commit), ..message(Kind::HeartbeatResponse, from, 1) };
    let beats = |peer: &mut Peer, is_bound: &dyn Fn(u64) -> bool| -> Vec<u64> {
        peer.raw.tick_beside(|id| is_bound(id.0));
        of_kind(&peer.work(), Kind::Heartbeat).iter().map(|beat| beat.to.0).collect()
    };
    let (nobody, everybody) = (|_| false, |_| true);
    assert_eq!(beats(&mut peer, &everybody), [2, 3], "nobody has said what it knows");
    for from in [2, 3] {
        peer.exchange(knows(from, 1));
    }
    assert_eq!(beats(&mut peer, &nobody), [2, 3]);
    assert_eq!(beats(&mut peer, &|id| id == 2), [3]);
    peer.raw.broadcast_heartbeat();
    assert_eq!(of_kind(&peer.work(), Kind::Heartbeat).len(), 2, "asked for, everybody gets one");

    peer.propose("x").expect("leader");
    peer.work();
    assert_eq!(beats(&mut peer, &everybody), [2, 3], "they lack an entry");
    peer.exchange(ack(2, 1, 2));
    peer.exchange(ack(3, 1, 2));
    assert_eq!(beats(&mut peer, &everybody), [2, 3], "they do not know that it is committed");
    peer.exchange(knows(2, 2));
    peer.exchange(knows(3, 1));
    assert_eq!(beats(&mut peer, &everybody), [3], "an old answer");
    peer.exchange(knows(3, 2));
    assert!(beats(&mut peer, &everybody).is_empty());
    peer.raw.report_unreachable(PeerId(3));
    assert_eq!(beats(&mut peer, &everybody), [3], "who is probed is asked");
    peer.exchange(ack(3, 1, 2));
    peer.exchange(knows(3, 2));
    peer.raw.read_index(Bytes::from_static(b"read"));
    peer.work();
    assert_eq!(beats(&mut peer, &everybody), [2, 3], "a read waits for what they say");
}

#[test]
fn who_is_bound_is_asked_once_for_each_quorum_check_and_counts_as_heard_from_by_its_answer_only() {
    let mut peer = leader_beside_bound();
    let mut sent = 0;
    for _ in 0..100 {
        peer.raw.tick_beside(|_| true);
        for beat in of_kind(&peer.work(), Kind::Heartbeat) {
            sent += 1;
            let answer = message(Kind::HeartbeatResponse, beat.to.0, 1);
            peer.exchange(Message { commit: Index(1), ..answer });
        }
    }
    assert_eq!(sent, 2 * (1 + 10), "the first ones tell of the commit");
    assert_eq!(peer.raw.role(), Role::Leader);
    for _ in 0..20 {
        peer.raw.tick_beside(|_| true);
        peer.work();
    }
    assert_eq!(peer.raw.role(), Role::Follower, "nobody was heard from");
}

#[test]
fn followers_tell_what_they_know_to_be_committed_where_heartbeats_spread_it() {
    for skips in [false, true] {
        let config = Config { skip_commit_broadcast: skips, ..config(1) };
        let mut peer = Peer::new(&config, storage(members(&[1, 2, 3], &[]), &[1, 1]));
        let sent = peer.exchange(heartbeat(2, 1, 2));
        let told: Vec<_> = of_kind(&sent, Kind::HeartbeatResponse).iter().map(|m| m.commit.0).collect();
        assert_eq!(told, [if skips { 2 } else { 0 }]);
    }
}

#[test]
fn the_window_of_a_peer_can_be_changed_while_running() {
    let mut peer = leader_of(&[1, 2, 3], |_| {});
    peer.raw.set_inflight_messages_max(PeerId(2), 1);
    peer.raw.set_inflight_messages_max(PeerId(3), 0);
    for _ in 0..3 {
        peer.propose("x").expect("leader");
    }
    let sent = peer.work();
    let carrying = |to| sent.iter().filter(|m| m.to == PeerId(to) && !m.entries.is_empty()).count();
    assert_eq!((carrying(2), carrying(3)), (1, 0));
    peer.raw.set_inflight_messages_max(PeerId(9), 7);
    // Buffers are given back once everything is acknowledged.
    peer.exchange(ack(2, 1, 4));
    peer.tick(1);
    peer.work();
    assert!(!peer.raw.progress(PeerId(2)).expect("member").inflights.has_buffer());
}

#[test]
fn a_follower_can_ask_for_a_snapshot() {
    let mut network = Network::new(3);
    network.campaign(1);
    network.propose(1, "x").expect("leader");
    let unavailable = network.raw(2).request_snapshot();
    assert_eq!(unavailable, Ok(()));
    assert_eq!(network.raw(2).request_snapshot(), Err(StepError::SnapshotRequestDropped), "one at a time");
    network.settle();
    let progress = |network: &mut Network| network.raw(1).progress(PeerId(2)).expect("member").clone();
    assert_eq!(progress(&mut network).pending_request_snapshot, Index(2));
    assert_eq!(network.raw(2).requested_snapshot(), Index(2), "the leader has none at hand");
    network.propose(1, "y").expect("leader");
    assert_eq!(network.peer(2).terms().len(), 2, "no appends meanwhile");
    let storage = network.raw(1).storage_mut();
    storage.create_snapshot(Index(3), members(&[1, 2, 3], &[]), Bytes::new()).expect("applied");
    network.tick(1, 1);
    assert_eq!(network.raw(2).requested_snapshot(), Index::ZERO);
    assert_eq!((network.raw(2).first_index(), network.raw(2).commit()), (Index(4), Index(3)));
    assert_eq!(progress(&mut network).state, ProgressState::Replicate);
    network.propose(1, "z").expect("leader");
    assert_eq!(network.commits(), [4, 4, 4]);
}

#[test]
fn a_requested_snapshot_is_none_that_the_peer_has_passed_meanwhile() {
    let mut leader = Peer::leader(&config(1), storage(members(&[1, 2, 3], &[]), &[]));
    leader.exchange(ack(2, 1, 1));
    let mut request = refusal(2, 1, 1, (1, 1));
    request.extra.as_mut().expect("its hint").request_snapshot = Index(1);
    assert!(leader.exchange(request).is_empty(), "no snapshot is at hand");
    for data in ["a", "b", "c"] {
        leader.propose(data).expect("leader");
    }
    leader.work();
    leader.exchange(ack(3, 1, 4));
    let snapshot_at = |leader: &mut Peer, index| {
        let storage = leader.raw.storage_mut();
        storage.create_snapshot(Index(index), members(&[1, 2, 3], &[]), Bytes::new()).expect("applied");
    };
    snapshot_at(&mut leader, 2);
    assert!(leader.exchange(ack(2, 1, 4)).iter().all(|m| m.snapshot.is_none()), "the peer has more");
    leader.raw.check_invariants();
    snapshot_at(&mut leader, 4);
    leader.raw.tick();
    let sent = leader.exchange(message(Kind::HeartbeatResponse, 2, 1));
    assert!(sent.iter().any(|m| m.snapshot.is_some()), "{sent:?}");
    leader.raw.check_invariants();
}

#[test]
fn a_requested_snapshot_at_the_commit_index_is_taken_and_the_sender_waits_for_the_report() {
    let mut network = Network::new(2);
    network.campaign(1);
    network.propose(1, "x").expect("leader");
    let storage = network.raw(1).storage_mut();
    storage.create_snapshot(Index(2), members(&[1, 2], &[]), Bytes::from_static(b"s")).expect("applied");
    network.raw(2).request_snapshot().expect("a follower with an entry of the term");
    network.settle();
    assert_eq!(
        network.raw(2).storage().snapshot_ref().meta.index,
        Index(2),
        "installed although nothing is new"
    );
    assert_eq!(network.raw(1).progress(PeerId(2)).expect("member").state, ProgressState::Snapshot);
    network.raw(1).report_snapshot(PeerId(2), true);
    network.tick(1, 1);
    network.propose(1, "y").expect("leader");
    assert_eq!(network.commits(), [3, 3]);
}

#[test]
fn requests_for_snapshots_are_refused_or_cancelled_where_they_make_no_sense() {
    let mut leader = leader_of(&[1, 2, 3], |_| {});
    assert_eq!(leader.raw.request_snapshot(), Err(StepError::SnapshotRequestDropped));
    let mut peer = Peer::follower(1, &[1]);
    assert_eq!(peer.raw.request_snapshot(), Err(StepError::SnapshotRequestDropped), "no leader");
    peer.exchange(heartbeat(2, 2, 0));
    assert_eq!(peer.raw.request_snapshot(), Err(StepError::SnapshotRequestDropped), "an older term's tail");
    peer.exchange(append(2, 2, (1, 1), &[2], 0));
    assert_eq!(peer.raw.request_snapshot(), Ok(()));
    let sent = peer.exchange(append(2, 2, (2, 2), &[2], 0));
    assert!(sent.iter().all(|m| m.extra().request_snapshot == Index(2)), "repeated instead of appending");
    assert_eq!(peer.exchange(heartbeat(2, 2, 0))[0].extra().request_snapshot, Index(2));
    peer.exchange(heartbeat(3, 3, 0));
    assert_eq!(peer.raw.requested_snapshot(), Index::ZERO, "another term");
    peer.exchange(append(3, 3, (2, 2), &[3], 0));
    assert_eq!(peer.raw.request_snapshot(), Ok(()));
    peer.raw.campaign().expect("never refused");
    assert_eq!(peer.raw.requested_snapshot(), Index::ZERO, "a candidate needs its log");
}

#[test]
fn a_leader_ignores_requests_for_snapshots_of_what_it_does_not_have() {
    let mut leader = leader_of(&[1, 2, 3], |_| {});
    let request = |index| {
        let mut request = refusal(2, 1, 1, (1, 1));
        request.extra.as_mut().expect("its hint").request_snapshot = Index(index);
        request
    };
    assert!(leader.exchange(request(9)).is_empty(), "beyond the log");
    assert!(leader.exchange(request(0)).is_empty(), "a refusal of what is known to match");
    assert_eq!(leader.raw.progress(PeerId(2)).expect("member").state, ProgressState::Replicate);
    leader.exchange(request(1));
    let progress = leader.raw.progress(PeerId(2)).expect("member");
    assert_eq!((progress.state, progress.pending_request_snapshot), (ProgressState::Probe, Index(1)));
}

#[test]
fn votes_carry_commits_so_that_a_stalemate_over_a_conf_change_ends() {
    let fast = |id| Config { commit_fast_forward: true, ..config(id) };
    let change = ConfChange { kind: ConfChangeKind::RemovePeer, peer: PeerId(1), context: Bytes::new() };
    let entry = Entry { index: Index(2), term: Term(1), kind: EntryKind::ConfChange, data: change.encode() };
    let peer = |id, commit| {
        let mut storage = storage(members(&[1, 2, 3], &[]), &[1]);
        storage.append(&mut vec![entry.clone()]);
        storage.set_hard_state(HardState { term: Term(1), vote: PeerId(0), commit: Index(commit) });
        Peer::new(&fast(id), storage)
    };
    let offered = |term| Extra { commit_term: Term(term), ..Extra::default() }.boxed();
    // A voter learns from the request it refuses.
    let mut voter = peer(2, 0);
    voter.work();
    let request = Message { commit: Index(2), extra: offered(1), ..vote(Kind::Vote, 3, 2, (1, 1)) };
    let sent = voter.exchange(request);
    assert!(sent[0].reject);
    assert_eq!(voter.raw.commit(), Index(2));
    // A candidate learns from a refusal, and gives up if that is a conf change.
    let mut candidate = peer(2, 0);
    candidate.work();
    candidate.raw.campaign().expect("never refused");
    candidate.work();
    let refused =
        Message { reject: true, commit: Index(2), extra: offered(1), ..message(Kind::VoteResponse, 3, 2) };
    candidate.step(refused.clone());
    assert_eq!((candidate.raw.role(), candidate.raw.commit()), (Role::Follower, Index(2)));
    // Offers of another term at that index, and offers without the extension, are ignored.
    let mut other = peer(2, 0);
    other.exchange(Message { commit: Index(2), extra: offered(9), ..vote(Kind::Vote, 3, 9, (1, 1)) });
    assert_eq!(other.raw.commit(), Index(0));
    let mut plain = Peer::follower(2, &[1, 1]);
    let sent =
        plain.exchange(Message { commit: Index(2), extra: offered(1), ..vote(Kind::Vote, 3, 2, (1, 1)) });
    assert_eq!((plain.raw.commit(), sent[0].commit), (Index(0), Index(0)));
    // Answers to reads carry the leader's commit index.
    let mut reader = peer(2, 0);
    reader.exchange(heartbeat(3, 1, 0));
    reader.exchange(Message { index: Index(2), ..message(Kind::ReadIndexResponse, 3, 1) });
    assert_eq!(reader.raw.commit(), Index(2));
}

/// A storage that first has to fetch what is to be sent.
struct Lazy {
    memory: MemStorage,
    is_ready: Cell<bool>,
    /// Entries are gone although the term before them is known, and the snapshot is still being made.
    is_losing: Cell<bool>,
    asked: RefCell<Vec<FetchContext>>,
}

impl Storage for Lazy {
    fn initial_state(&self) -> StorageResult<(HardState, ConfState)> {
        self.memory.initial_state()
    }

    fn entries_into(
        &self,
        low: Index,
        high: Index,
        max: u64,
        context: FetchContext,
        out: &mut Vec<Entry>,
    ) -> StorageResult<()> {
        if context != FetchContext::Immediate && !self.is_ready.get() {
            self.asked.borrow_mut().push(context);
            return Err(StorageError::LogTemporarilyUnavailable);
        }
        if context != FetchContext::Immediate && self.is_losing.get() {
            return Err(StorageError::Compacted);
        }
        self.memory.entries_into(low, high, max, context, out)
    }

    fn term(&self, index: Index) -> StorageResult<Term> {
        self.memory.term(index)
    }

    fn first_index(&self) -> StorageResult<Index> {
        self.memory.first_index()
    }

    fn last_index(&self) -> StorageResult<Index> {
        self.memory.last_index()
    }

    fn snapshot(&self, at_least: Index, to: PeerId) -> StorageResult<Snapshot> {
        if self.is_losing.get() { Ok(Snapshot::default()) } else { self.memory.snapshot(at_least, to) }
    }
}

fn lazy_work(raw: &mut RawNode<Lazy>) -> Vec<Message> {
    let mut sent = Vec::new();
    while raw.has_ready() {
        let mut ready = raw.ready();
        raw.storage_mut().memory.append(&mut ready.entries);
        sent.extend(ready.messages);
        raw.advance();
    }
    sent
}

/// A leader of voters 1, 2, 3 in term 2.
fn lazy_leader(memory: MemStorage) -> RawNode<Lazy> {
    let is_ready = Cell::new(false);
    let storage = Lazy { memory, is_ready, is_losing: Cell::new(false), asked: RefCell::new(Vec::new()) };
    let mut raw = RawNode::new(&config(1), storage).expect("valid");
    raw.campaign().expect("never refused");
    lazy_work(&mut raw);
    raw.step(message(Kind::VoteResponse, 2, 2)).expect("a vote");
    lazy_work(&mut raw);
    assert_eq!(raw.role(), Role::Leader);
    raw
}

#[test]
fn entries_that_vanish_are_replaced_by_a_snapshot_as_soon_as_there_is_one() {
    let mut raw = lazy_leader(storage(members(&[1, 2, 3], &[]), &[1, 1, 1]));
    raw.storage().is_ready.set(true);
    raw.storage().is_losing.set(true);
    raw.step(refusal(2, 2, 3, (1, 1))).expect("taken");
    assert!(lazy_work(&mut raw).is_empty(), "no entries, and an empty snapshot is none");
    // Where an empty append would be worth nothing, no snapshot is worth it either.
    raw.on_entries_fetched(FetchContext::Send { to: PeerId(2), term: Term(2), allow_empty: false });
    assert!(lazy_work(&mut raw).is_empty());
    raw.storage().is_losing.set(false);
    raw.step(message(Kind::HeartbeatResponse, 2, 2)).expect("taken");
    assert_eq!(lazy_work(&mut raw)[0].entries.len(), 3, "entries 2, 3 and that of the term");
}

#[test]
fn sending_resumes_once_fetched_entries_have_arrived_unless_things_changed() {
    let memory = storage(members(&[1, 2, 3], &[]), &[1, 1, 1]);
    let mut raw = lazy_leader(memory);
    raw.step(refusal(2, 2, 3, (0, 0))).expect("taken");
    assert!(lazy_work(&mut raw).is_empty(), "the entries must be fetched first");
    let asked = raw.storage().asked.borrow().clone();
    assert_eq!(asked, [FetchContext::Send { to: PeerId(2), term: Term(2), allow_empty: true }]);
    raw.storage().is_ready.set(true);
    let stale = |to, term| FetchContext::Send { to: PeerId(to), term: Term(term), allow_empty: true };
    for context in [stale(9, 2), stale(2, 1), stale(1, 2), FetchContext::Immediate] {
        raw.on_entries_fetched(context);
        assert!(lazy_work(&mut raw).is_empty(), "{context:?}");
    }
    raw.on_entries_fetched(asked[0]);
    let sent = lazy_work(&mut raw);
    assert_eq!((sent[0].to, sent[0].entries.len()), (PeerId(2), 4));
    raw.step(heartbeat(3, 3, 0)).expect("taken");
    raw.on_entries_fetched(asked[0]);
    assert!(of_kind(&lazy_work(&mut raw), Kind::Append).is_empty(), "no leader any more");
}

#[test]
fn entries_proved_by_another_source_are_taken_once_and_only_where_they_fit() {
    let mut peer = Peer::follower(1, &[1, 1, 2]);
    peer.exchange(append(2, 2, (3, 2), &[], 1));
    assert_eq!(peer.raw.commit(), Index(1));
    assert!(!peer.raw.learn_committed(Index(5), Term(2), entries(6, &[2])), "a gap");
    assert!(!peer.raw.learn_committed(Index(2), Term(2), entries(3, &[2])), "another term before them");
    assert_eq!((peer.raw.commit(), peer.raw.last_index()), (Index(1), Index(3)));
    // What is there is kept, what differs is replaced, and all of it is committed.
    assert!(peer.raw.learn_committed(Index(1), Term(1), entries(2, &[1, 3, 3])));
    peer.work();
    assert_eq!((peer.raw.commit(), peer.raw.last_index(), peer.raw.term()), (Index(4), Index(4), Term(3)));
    assert_eq!(peer.applied.iter().map(|e| e.term.0).collect::<Vec<_>>(), [1, 1, 3, 3]);
    assert!(peer.raw.learn_committed(Index(1), Term(1), entries(2, &[1, 3, 3])), "known already");
    assert_eq!(peer.raw.last_index(), Index(4));
}

#[test]
fn a_deposed_leader_that_learns_of_committed_entries_leads_no_more() {
    let mut peer = leader_of(&[1, 2, 3], |_| {});
    let (commit, last, term) = (peer.raw.commit(), peer.raw.last_index(), peer.raw.term());
    peer.raw.propose("lost".into()).expect("leads");
    peer.work();
    let next = Term(term.0 + 1);
    assert!(peer.raw.learn_committed(commit, term, entries(last.0 + 1, &[next.0])));
    peer.work();
    assert_eq!((peer.raw.role(), peer.raw.term(), peer.raw.commit()), (Role::Follower, next, last.next()));
    assert!(peer.applied.iter().all(|e| e.data != "lost"));
}

/// A leader of 1, 2, 3 whose followers have everything and know it.
fn leader_at_rest() -> Peer {
    let mut peer = leader_of(&[1, 2, 3], |_| {});
    peer.raw.propose("kept".into()).expect("leads");
    peer.work();
    let (term, last) = (peer.raw.term().0, peer.raw.last_index().0);
    for follower in [2, 3] {
        peer.exchange(ack(follower, term, last));
    }
    peer.work();
    assert_eq!(peer.raw.applied().0, last);
    peer
}

#[test]
fn a_packed_leader_goes_on_as_it_was() {
    let Peer { raw, .. } = leader_at_rest();
    let before = format!("{raw:?}");
    let (packed, storage) = raw.pack();
    assert!(packed.is_leader());
    let mut raw = RawNode::unpack(&config(1), packed, storage).expect("its own parts");
    assert!(!raw.has_ready(), "nothing is told a second time");
    // But for empty buffers and what may have to be looked at.
    let plain = |state: &str| {
        let buffer = "window: Some(Window { appends: [], bytes: 0 })";
        let state = state.replace("is_touched: true", "is_touched: false").replace(buffer, "window: None");
        state.replace("last_count: 2", "last_count: 0")
    };
    assert_eq!(plain(&format!("{raw:?}")), plain(&before));
    raw.propose("next".into()).expect("leads");
    let sent = raw.ready().messages;
    assert_eq!(of_kind(&sent, Kind::Append).iter().map(|m| m.entries.len()).sum::<usize>(), 2);
}

#[test]
fn what_has_something_to_do_is_not_packed() {
    let changes: [fn(&mut Peer); 6] = [
        |peer| peer.raw.propose("more".into()).expect("leads"),
        |peer| {
            peer.raw.propose("more".into()).expect("leads");
            peer.work();
        },
        |peer| peer.raw.read_index("read".into()),
        |peer| peer.raw.transfer_leader(PeerId(2)),
        |peer| peer.raw.step(vote(Kind::Vote, 2, peer.raw.term().0 + 9, (99, 9))).expect("taken"),
        |peer| {
            peer.exchange(heartbeat(2, peer.raw.term().0 + 1, 0));
            assert!(peer.raw.is_packable(), "a follower");
            peer.raw.campaign().expect("never refused");
            peer.work();
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut peer = leader_at_rest();
        assert!(peer.raw.is_packable(), "{number}");
        change(&mut peer);
        assert!(!peer.raw.is_packable(), "{number}");
    }
}

#[test]
fn a_node_is_unpacked_with_the_storage_that_it_had_only() {
    let Peer { raw, .. } = leader_at_rest();
    let (packed, mut storage) = raw.pack();
    storage.append(&mut entries(packed.last_index().0 + 1, &[packed.term().0]));
    let unpacked = RawNode::unpack(&config(1), packed, storage);
    assert_eq!(unpacked.map(|_| ()), Err(ConfigError::CommitOutOfRange));
}
