//! Membership changes: proposing, applying, joint configurations, learners, removed leaders.

use bytes::Bytes;
use flotilla_raft::{
    ConfChange, ConfChangeKind as Change, ConfChangeSingle, ConfChangeTransition as Transition, ConfChangeV2,
    ConfState, Config, Entry, EntryKind, HardState, Index, Message, MessageKind as Kind, PeerId, Role,
    StepError, Term,
};

use crate::harness::*;

fn single(kind: Change, peer: u64) -> ConfChange {
    ConfChange { kind, peer: PeerId(peer), context: Bytes::new() }
}

fn multi(transition: Transition, changes: &[(Change, u64)]) -> ConfChangeV2 {
    let changes = changes.iter().map(|(kind, peer)| ConfChangeSingle { kind: *kind, peer: PeerId(*peer) });
    ConfChangeV2 { transition, changes: changes.collect(), context: Bytes::new() }
}

fn only_voter() -> Peer {
    Peer::leader(&config(1), storage(members(&[1], &[]), &[]))
}

#[test]
fn changes_take_effect_when_applied_and_return_the_new_membership() {
    for (change, expected) in [
        (multi(Transition::Auto, &[(Change::AddVoter, 2)]), members(&[1, 2], &[])),
        (multi(Transition::Auto, &[(Change::AddLearner, 2)]), members(&[1], &[2])),
        (multi(Transition::Auto, &[(Change::AddVoter, 1)]), members(&[1], &[])),
        (multi(Transition::Auto, &[(Change::Update, 9)]), members(&[1], &[])),
        (
            multi(Transition::JointExplicit, &[(Change::AddVoter, 2)]),
            ConfState { voters_outgoing: ids(&[1]), ..members(&[1, 2], &[]) },
        ),
        (
            multi(Transition::JointImplicit, &[(Change::AddVoter, 2)]),
            ConfState { voters_outgoing: ids(&[1]), auto_leave: true, ..members(&[1, 2], &[]) },
        ),
        (
            multi(Transition::JointExplicit, &[(Change::AddLearner, 1), (Change::AddVoter, 2)]),
            ConfState { voters_outgoing: ids(&[1]), learners_next: ids(&[1]), ..members(&[2], &[]) },
        ),
    ] {
        let mut peer = only_voter();
        peer.raw.propose_conf_change(change.clone()).expect("leader");
        assert_eq!(peer.raw.conf_state(), members(&[1], &[]), "proposing changes nothing");
        let got = peer.raw.apply_conf_change(&change);
        assert_eq!((got, peer.raw.conf_state()), (expected.clone(), expected), "{change:?}");
        peer.raw.check_invariants();
    }
}

#[test]
fn a_single_change_is_logged_in_its_own_form() {
    let mut peer = only_voter();
    peer.raw.propose_conf_change(single(Change::AddVoter, 1)).expect("leader");
    peer.work();
    peer.raw.propose_conf_change(single(Change::AddVoter, 1).into_v2()).expect("leader");
    peer.work();
    let kinds: Vec<_> = peer.applied.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2]);
    assert_eq!(peer.raw.conf_state(), members(&[1], &[]), "adding a voter twice is harmless");
}

#[test]
fn automatic_joint_changes_are_left_by_the_leader() {
    let mut network = Network::new(3);
    network.campaign(1);
    let change = multi(Transition::Auto, &[(Change::RemovePeer, 3), (Change::AddLearner, 2)]);
    network.raw(1).propose_conf_change(change).expect("leader");
    network.settle();
    for id in [1, 2] {
        assert_eq!(network.raw(id).conf_state(), members(&[1], &[2]), "peer {id}");
    }
    let applied = network.peer(1).applied.len();
    let last = &network.peer(1).applied[applied - 1];
    assert_eq!((last.kind, last.data.len()), (EntryKind::ConfChangeV2, 0), "the leave request is empty");
}

#[test]
fn a_new_leader_leaves_only_after_the_change_and_everything_before_it_is_applied() {
    // Joint by configuration, entries 1 and 2 committed and not applied.
    let conf = ConfState { voters_outgoing: ids(&[1]), auto_leave: true, ..members(&[1], &[]) };
    let mut storage = storage(conf, &[1, 1]);
    storage.set_hard_state(HardState { term: Term(1), vote: PeerId(0), commit: Index(0) });
    let mut peer = Peer::new(&Config { committed_bytes_max: 1, ..config(1) }, storage);
    peer.raw.campaign().expect("never refused");
    let mut leave_seen_at = None;
    while peer.raw.has_ready() {
        let ready = peer.raw.ready();
        if ready.entries.iter().any(|entry| entry.kind == EntryKind::ConfChangeV2) {
            leave_seen_at.get_or_insert(peer.raw.applied());
        }
        peer.handle(ready);
        peer.raw.advance();
    }
    assert_eq!(leave_seen_at, Some(Index(2)), "once the leader has applied what it found in the log");
    assert_eq!(peer.raw.conf_state(), members(&[1], &[]));
    assert_eq!(peer.terms(), [1, 1, 2, 2], "its first entry and one request to leave");
}

#[test]
fn explicit_joint_changes_wait_for_a_request() {
    let mut network = Network::new(3);
    network.campaign(1);
    let change = multi(Transition::JointExplicit, &[(Change::RemovePeer, 3)]);
    network.raw(1).propose_conf_change(change).expect("leader");
    network.settle();
    let joint = ConfState { voters_outgoing: ids(&[1, 2, 3]), ..members(&[1, 2], &[]) };
    assert_eq!(network.raw(1).conf_state(), joint);
    network.raw(1).propose_conf_change(ConfChangeV2::default()).expect("leader");
    network.settle();
    assert_eq!(network.raw(1).conf_state(), members(&[1, 2], &[]));
}

#[test]
fn a_joint_configuration_commits_and_elects_only_with_both_halves() {
    let conf = ConfState { voters_outgoing: ids(&[1, 2, 3]), ..members(&[1, 4, 5], &[]) };
    let mut peer = Peer::leader(&config(1), storage(conf, &[]));
    peer.exchange(ack(2, 1, 1));
    assert_eq!(peer.raw.commit(), Index(0), "old half only");
    peer.exchange(ack(4, 1, 1));
    assert_eq!(peer.raw.commit(), Index(1));
}

#[test]
fn only_one_change_at_a_time_and_refused_ones_become_empty_entries() {
    let mut peer = Peer::leader(&config(1), storage(members(&[1, 2, 3], &[]), &[]));
    peer.exchange(ack(2, 1, 1));
    peer.raw.propose_conf_change(single(Change::AddVoter, 4)).expect("leader");
    assert_eq!(peer.raw.pending_conf_index(), Index(2));
    peer.raw.propose_conf_change(single(Change::AddVoter, 5)).expect("leader");
    peer.propose("x").expect("leader");
    peer.work();
    peer.exchange(ack(2, 1, 4));
    let kinds: Vec<_> = peer.applied.iter().map(|entry| (entry.kind, entry.data.is_empty())).collect();
    let normal = EntryKind::Normal;
    assert_eq!(kinds, [(normal, true), (EntryKind::ConfChange, false), (normal, true), (normal, false)]);
    assert_eq!(peer.raw.pending_conf_index(), Index(2));
    peer.raw.propose_conf_change(single(Change::AddVoter, 5)).expect("leader");
    assert_eq!(peer.raw.pending_conf_index(), Index(5), "applied: the next one may come");
}

#[test]
fn changes_that_do_not_suit_the_joint_state_or_lead_nowhere_are_refused() {
    let joint = ConfState { voters_outgoing: ids(&[1]), ..members(&[1], &[]) };
    for (conf, change, admitted) in [
        (members(&[1], &[]), ConfChangeV2::default(), false),
        (members(&[1], &[]), single(Change::RemovePeer, 1).into_v2(), false),
        (members(&[1], &[]), single(Change::AddVoter, 2).into_v2(), true),
        (joint.clone(), single(Change::AddVoter, 2).into_v2(), false),
        (joint.clone(), multi(Transition::JointExplicit, &[]), false),
        (joint.clone(), ConfChangeV2::default(), true),
    ] {
        for is_checked in [true, false] {
            let config = Config { disable_conf_change_validation: !is_checked, ..config(1) };
            let mut peer = Peer::leader(&config, storage(conf.clone(), &[]));
            let before = peer.raw.pending_conf_index();
            peer.raw.propose_conf_change(change.clone()).expect("leader");
            let is_pending = peer.raw.pending_conf_index() > before;
            assert_eq!(is_pending, admitted || !is_checked, "{change:?} in {conf:?}");
        }
    }
}

#[test]
fn a_new_leader_admits_no_change_before_it_has_applied_what_it_found() {
    let change = Entry {
        index: Index(1),
        term: Term(1),
        kind: EntryKind::ConfChange,
        data: single(Change::AddVoter, 4).encode(),
    };
    let mut storage = storage(members(&[1, 2, 3], &[]), &[]);
    storage.append(&mut vec![change]);
    storage.set_hard_state(HardState { term: Term(1), ..HardState::default() });
    let mut peer = Peer::leader(&config(1), storage);
    assert_eq!(peer.raw.pending_conf_index(), Index(1), "the last index before its own first entry");
    peer.raw.propose_conf_change(single(Change::AddVoter, 5)).expect("leader");
    peer.work();
    peer.exchange(ack(2, 2, 3));
    assert_eq!(peer.raw.conf_state(), members(&[1, 2, 3, 4], &[]), "the second change became empty");
}

#[test]
fn removing_a_voter_commits_what_the_smaller_quorum_has() {
    let mut peer = Peer::leader(&config(1), storage(members(&[1, 2], &[]), &[]));
    peer.exchange(ack(2, 1, 1));
    peer.raw.propose_conf_change(single(Change::RemovePeer, 2)).expect("leader");
    peer.work();
    peer.propose("x").expect("leader");
    peer.work();
    assert_eq!(peer.raw.commit(), Index(1));
    peer.exchange(ack(2, 1, 2));
    assert_eq!(peer.raw.conf_state(), members(&[1], &[]));
    assert_eq!(peer.raw.commit(), Index(3), "applying the removal commits the rest");
}

#[test]
fn a_shrinking_quorum_tells_everybody_of_the_commit() {
    let mut peer = Peer::leader(&config(1), storage(members(&[1, 2, 3, 4], &[5]), &[]));
    for from in [2, 3, 4, 5] {
        peer.exchange(ack(from, 1, 1));
    }
    peer.raw.propose_conf_change(single(Change::RemovePeer, 4)).expect("leader");
    peer.work();
    peer.propose("x").expect("leader");
    peer.work();
    peer.exchange(ack(2, 1, 3));
    assert_eq!(peer.raw.commit(), Index(1), "2 of 4 have everything");
    let sent = peer.exchange(ack(3, 1, 2));
    assert_eq!(peer.raw.commit(), Index(3));
    let told: Vec<_> =
        of_kind(&sent, Kind::Append).iter().filter(|m| m.commit == Index(3)).map(|m| m.to.0).collect();
    assert!([2, 3, 5].iter().all(|id| told.contains(id)), "told {told:?}");
}

#[test]
fn a_new_peer_is_probed_at_once_and_counts_as_active_for_one_period() {
    let config = Config { check_quorum: true, ..config(1) };
    let mut peer = Peer::leader(&config, storage(members(&[1], &[]), &[]));
    peer.raw.propose_conf_change(single(Change::AddVoter, 2)).expect("leader");
    let sent = peer.work();
    assert!(sent.iter().any(|m| m.kind == Kind::Append && m.to == PeerId(2)));
    assert_eq!(peer.progress(2), (0, 2), "the last entry is sent again to find the end of its log");
    for _ in 0..ELECTION_TICKS {
        peer.tick(1);
        peer.work();
    }
    assert_eq!(peer.raw.role(), Role::Leader, "survives the first quorum check");
    for _ in 0..ELECTION_TICKS {
        peer.tick(1);
        peer.work();
    }
    assert_eq!(peer.raw.role(), Role::Follower, "but not the second");
}

#[test]
fn a_promoted_learner_can_campaign_and_win() {
    let mut network = Network::default();
    let conf = members(&[1, 2], &[3]);
    for id in 1..=3 {
        network.add(id, Peer::new(&config(id), storage(conf.clone(), &[])));
    }
    network.campaign(1);
    network.campaign(3);
    assert_eq!(network.raw(3).role(), Role::Follower);
    network.change(1, Change::AddVoter, 3);
    assert!(network.raw(3).is_promotable());
    network.campaign(3);
    assert_eq!(network.raw(3).role(), Role::Leader);
}

#[test]
fn a_removed_leader_keeps_replicating_but_takes_no_proposals() {
    let mut peer = Peer::leader(&config(1), storage(members(&[1, 2, 3], &[]), &[]));
    for from in [2, 3] {
        peer.exchange(ack(from, 1, 1));
    }
    peer.raw.propose_conf_change(single(Change::RemovePeer, 1)).expect("leader");
    peer.propose("after").expect("leader");
    peer.work();
    peer.exchange(ack(2, 1, 2));
    assert_eq!((peer.raw.role(), peer.raw.commit()), (Role::Leader, Index(2)));
    assert_eq!(peer.propose("x"), Err(StepError::ProposalDropped));
    peer.exchange(ack(2, 1, 3));
    assert_eq!(peer.raw.commit(), Index(2), "its own copy does not count any more");
    peer.exchange(ack(3, 1, 3));
    assert_eq!(peer.raw.commit(), Index(3));
    peer.tick(1);
    assert_eq!(of_kind(&peer.work(), Kind::Heartbeat).len(), 2);
}

#[test]
fn a_removed_or_demoted_leader_steps_down_if_told_to() {
    for kind in [Change::RemovePeer, Change::AddLearner] {
        let config = Config { step_down_on_removal: true, ..config(1) };
        let mut peer = Peer::leader(&config, storage(members(&[1, 2, 3], &[]), &[]));
        peer.exchange(ack(2, 1, 1));
        peer.raw.propose_conf_change(single(kind, 1)).expect("leader");
        peer.work();
        peer.exchange(ack(2, 1, 2));
        peer.exchange(ack(3, 1, 2));
        assert_eq!(
            (peer.raw.role(), peer.raw.leader(), peer.raw.term()),
            (Role::Follower, PeerId(0), Term(1))
        );
    }
}

#[test]
fn answers_of_a_removed_peer_do_not_count() {
    let mut peer = Peer::leader(&config(1), storage(members(&[1, 2, 3], &[]), &[]));
    for from in [2, 3] {
        peer.exchange(ack(from, 1, 1));
    }
    peer.raw.propose_conf_change(single(Change::RemovePeer, 3)).expect("leader");
    peer.work();
    peer.exchange(ack(2, 1, 2));
    peer.work();
    peer.propose("x").expect("leader");
    peer.work();
    assert_eq!(peer.refused(ack(3, 1, 3)), StepError::PeerNotFound);
    assert_eq!(peer.raw.commit(), Index(2));
}

#[test]
fn a_demoted_outgoing_voter_waits_in_learners_next() {
    let mut network = Network::new(3);
    network.campaign(1);
    let change = multi(Transition::JointExplicit, &[(Change::AddLearner, 3)]);
    network.raw(1).propose_conf_change(change).expect("leader");
    network.settle();
    let conf = network.raw(1).conf_state();
    assert_eq!((conf.learners.len(), conf.learners_next), (0, ids(&[3])));
    assert!(!network.raw(1).progress(PeerId(3)).expect("member").is_learner);
    network.raw(1).propose_conf_change(ConfChangeV2::default()).expect("leader");
    network.settle();
    assert_eq!(network.raw(3).conf_state(), members(&[1, 2], &[3]));
    assert!(network.raw(1).progress(PeerId(3)).expect("member").is_learner);
}

#[test]
fn proposals_of_changes_are_forwarded_and_keep_their_kind() {
    let mut network = Network::new(3);
    network.campaign(1);
    network.change(2, Change::RemovePeer, 3);
    assert_eq!(network.raw(1).conf_state(), members(&[1, 2], &[]));
    let forwarded = Message {
        entries: vec![Entry {
            kind: EntryKind::ConfChange,
            data: single(Change::AddLearner, 7).encode(),
            ..Entry::default()
        }],
        ..message(Kind::Propose, 9, 0)
    };
    network.peer(1).step(forwarded);
    network.settle();
    assert_eq!(network.raw(1).conf_state(), members(&[1, 2], &[7]));
}

#[test]
fn a_conf_change_may_come_with_other_entries() {
    let mut peer = only_voter();
    let change = single(Change::AddLearner, 2);
    let entries = vec![
        Entry { data: Bytes::from_static(b"before"), ..Entry::default() },
        Entry { kind: EntryKind::ConfChange, data: change.encode(), ..Entry::default() },
    ];
    let next = peer.raw.last_index().next();
    peer.step(Message { entries, ..message(Kind::Propose, 2, 0) });
    assert_eq!(peer.raw.pending_conf_index(), next.next());
    peer.work();
    assert_eq!(peer.raw.conf_state().learners, ids(&[2]));
}

#[test]
fn bootstrap_gives_every_peer_the_same_first_entries() {
    let peers: Vec<(PeerId, Bytes)> =
        (1..=3).map(|id| (PeerId(id), Bytes::from(format!("address {id}")))).collect();
    let mut network = Network::default();
    for id in 1..=3 {
        let mut peer = Peer::new(&config(id), flotilla_raft::MemStorage::new());
        peer.raw.bootstrap(&peers).expect("an empty storage");
        network.add(id, peer);
    }
    let ready = network.raw(1).ready();
    assert_eq!(ready.hard_state, Some(HardState { term: Term(1), vote: PeerId(0), commit: Index(3) }));
    assert_eq!((ready.entries.len(), ready.committed_entries.len(), ready.must_sync), (3, 3, true));
    let context = ConfChange::decode(&ready.entries[1].data).expect("well encoded").context;
    assert_eq!(context, "address 2");
    network.peer(1).handle(ready);
    network.raw(1).advance();
    network.settle();
    network.campaign(2);
    network.propose(3, "x").expect("forwarded");
    for id in 1..=3 {
        assert_eq!(network.raw(id).conf_state(), members(&[1, 2, 3], &[]));
        assert_eq!(network.peer(id).applied_data().last().map(|data| &data[..]), Some(&b"x"[..]));
    }
    let mut peer = Peer::new(&config(1), flotilla_raft::MemStorage::new());
    assert!(peer.raw.bootstrap(&[]).is_err());
    assert!(peer.raw.bootstrap(&[(PeerId(0), Bytes::new())]).is_err());
    let mut peer = Peer::follower(1, &[1]);
    assert!(peer.raw.bootstrap(&peers).is_err(), "the log is not empty");
}
