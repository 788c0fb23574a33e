//! ReadIndex, and leadership transfer, which breaks leases.

use bytes::Bytes;
use flotilla_raft::{
    ConfChange, ConfChangeKind, Config, Index, Message, MessageKind as Kind, PeerId, ReadOnlyOption,
    ReadState, Role, StepError, Term,
};

use crate::harness::*;

fn leader_with(change: impl Fn(&mut Config)) -> Peer {
    let mut config = config(1);
    change(&mut config);
    let mut peer = Peer::leader(&config, storage(members(&[1, 2, 3], &[4]), &[]));
    for from in [2, 3, 4] {
        peer.exchange(ack(from, 1, 1));
    }
    peer
}

fn read(context: &'static str) -> Bytes {
    Bytes::from_static(context.as_bytes())
}

fn state(index: u64, context: &'static str) -> ReadState {
    ReadState { index: Index(index), context: read(context) }
}

/// A peer's answer to a heartbeat.
fn echo(from: u64, beat: &Message) -> Message {
    Message { context: beat.context.clone(), ..message(Kind::HeartbeatResponse, from, beat.term.0) }
}

fn beat_to(sent: &[Message], to: u64) -> Message {
    let beats = of_kind(sent, Kind::Heartbeat);
    (*beats.iter().find(|beat| beat.to == PeerId(to)).expect("a heartbeat")).clone()
}

#[test]
fn a_read_is_answered_with_the_commit_index_after_a_quorum_of_heartbeats() {
    let mut peer = leader_with(|_| {});
    peer.raw.read_index(read("r1"));
    let sent = peer.work();
    assert!(peer.reads.is_empty(), "not before a quorum confirmed");
    peer.exchange(echo(4, &beat_to(&sent, 4)));
    assert!(peer.reads.is_empty(), "a learner confirms nothing");
    peer.exchange(echo(2, &beat_to(&sent, 2)));
    assert_eq!(peer.reads, [state(1, "r1")]);
    assert!(!peer.raw.has_unconfirmed_reads(), "nothing is kept");
    peer.exchange(echo(3, &beat_to(&sent, 3)));
    assert_eq!(peer.reads.len(), 1, "answered once");
}

#[test]
fn a_reader_is_told_of_the_commit_that_it_waits_for_where_broadcasts_are_off() {
    let mut peer = leader_with(|config| config.skip_commit_broadcast = true);
    peer.propose("x").expect("leader");
    peer.work();
    assert!(of_kind(&peer.exchange(ack(2, 1, 2)), Kind::Append).is_empty(), "commits, and tells nobody");
    let sent = peer.exchange(Message { context: read("r1"), ..message(Kind::ReadIndex, 3, 0) });
    let sent = peer.exchange(echo(2, &beat_to(&sent, 2)));
    let told: Vec<_> = sent.iter().map(|m| (m.kind, m.to.0, m.index.0, m.commit.0)).collect();
    assert_eq!(told, [(Kind::ReadIndexResponse, 3, 2, 0), (Kind::Append, 3, 2, 2)], "only who asked");
}

#[test]
fn reads_through_followers_and_learners_come_back_to_them() {
    let mut network = Network::default();
    let conf = members(&[1, 2], &[3]);
    for id in 1..=3 {
        network.add(id, Peer::new(&config(id), storage(conf.clone(), &[])));
    }
    network.campaign(1);
    network.propose(1, "x").expect("leader");
    for (id, context) in [(1, "at leader"), (2, "at follower"), (3, "at learner")] {
        network.raw(id).read_index(read(context));
        network.settle();
        assert_eq!(network.peer(id).reads, [state(2, context)], "peer {id}");
    }
}

#[test]
fn reads_wait_until_the_leader_has_committed_in_its_term() {
    let mut peer = Peer::leader(&config(1), storage(members(&[1, 2, 3], &[]), &[]));
    peer.raw.read_index(read("early"));
    assert!(of_kind(&peer.work(), Kind::Heartbeat).is_empty());
    assert!(!peer.raw.has_committed_in_term());
    let sent = peer.exchange(ack(2, 1, 1));
    assert!(peer.raw.has_committed_in_term());
    peer.exchange(echo(3, &beat_to(&sent, 3)));
    assert_eq!(peer.reads, [state(1, "early")]);
}

#[test]
fn an_only_voter_reads_at_once_but_not_before_its_first_commit() {
    let mut peer = Peer::new(&config(1), storage(members(&[1], &[]), &[1, 1]));
    peer.raw.campaign().expect("never refused");
    let ready = peer.raw.ready();
    peer.handle(ready);
    peer.raw.advance();
    assert_eq!((peer.raw.role(), peer.raw.commit()), (Role::Leader, Index(0)));
    peer.raw.read_index(read("early"));
    peer.work();
    assert_eq!(peer.reads, [state(3, "early")], "after everything of earlier terms");
    peer.raw.read_index(read("late"));
    peer.work();
    assert_eq!(peer.reads.len(), 2);
}

#[test]
fn repeated_requests_and_late_confirmations_never_give_too_small_an_index() {
    let mut peer = leader_with(|_| {});
    peer.raw.read_index(read("same"));
    let first = peer.work();
    peer.exchange(echo(2, &beat_to(&first, 2)));
    assert_eq!(peer.reads, [state(1, "same")]);
    // The same bytes again, after another commit: the late echo of the first round proves nothing about it.
    peer.propose("x").expect("leader");
    peer.work();
    peer.exchange(ack(2, 1, 2));
    peer.raw.read_index(read("same"));
    let second = peer.work();
    peer.exchange(echo(3, &beat_to(&first, 3)));
    assert_eq!(peer.reads.len(), 1);
    peer.exchange(echo(3, &beat_to(&second, 3)));
    assert_eq!(peer.reads, [state(1, "same"), state(2, "same")]);
}

#[test]
fn confirming_the_last_read_confirms_the_earlier_ones_also_by_a_periodic_heartbeat() {
    let mut peer = leader_with(|_| {});
    peer.raw.read_index(read("a"));
    peer.raw.read_index(read("b"));
    peer.work();
    peer.tick(1);
    let sent = peer.work();
    peer.exchange(echo(3, &beat_to(&sent, 3)));
    assert_eq!(peer.reads, [state(1, "a"), state(1, "b")]);
    // Echoes of what was never sent are ignored.
    peer.raw.read_index(read("c"));
    peer.work();
    let forged = Message {
        context: Bytes::from(u64::MAX.to_be_bytes().to_vec()),
        ..message(Kind::HeartbeatResponse, 2, 1)
    };
    peer.exchange(forged);
    let odd = Message { context: read("c"), ..message(Kind::HeartbeatResponse, 2, 1) };
    peer.exchange(odd);
    assert_eq!(peer.reads.len(), 2);
}

#[test]
fn a_deposed_leader_answers_no_read() {
    let mut peer = leader_with(|_| {});
    peer.raw.read_index(read("a"));
    let sent = peer.work();
    peer.step(heartbeat(2, 2, 1));
    assert_eq!(peer.raw.role(), Role::Follower);
    assert!(!peer.raw.has_unconfirmed_reads());
    peer.exchange(echo(2, &beat_to(&sent, 2)));
    peer.exchange(echo(3, &beat_to(&sent, 3)));
    assert!(peer.reads.is_empty());
}

#[test]
fn pending_reads_complete_when_a_change_shrinks_the_quorum() {
    let mut peer = Peer::leader(&config(1), storage(members(&[1, 2], &[]), &[]));
    peer.exchange(ack(2, 1, 1));
    peer.raw
        .propose_conf_change(ConfChange {
            kind: ConfChangeKind::RemovePeer,
            peer: PeerId(2),
            context: Bytes::new(),
        })
        .expect("leader");
    peer.work();
    peer.raw.read_index(read("r"));
    peer.work();
    assert!(peer.reads.is_empty());
    peer.exchange(ack(2, 1, 2));
    assert_eq!(peer.reads, [state(1, "r")]);
}

#[test]
fn followers_forward_reads_to_the_leader_they_know() {
    let mut peer = Peer::follower(1, &[]);
    peer.raw.read_index(read("lost"));
    assert!(peer.work().is_empty(), "no leader, no answer");
    peer.exchange(heartbeat(2, 1, 0));
    peer.raw.read_index(read("own"));
    let sent = peer.work();
    assert_eq!(
        (sent[0].kind, sent[0].to, sent[0].from, sent[0].term),
        (Kind::ReadIndex, PeerId(2), PeerId(1), Term(0))
    );
    // Another follower took this one for the leader: passed on in its name.
    let forwarded = Message { context: read("other"), ..message(Kind::ReadIndex, 3, 0) };
    let sent = peer.exchange(forwarded);
    assert_eq!((sent[0].to, sent[0].from), (PeerId(2), PeerId(3)));
    let answer = Message { context: read("own"), index: Index(0), ..message(Kind::ReadIndexResponse, 2, 1) };
    peer.exchange(answer);
    assert_eq!(peer.reads, [state(0, "own")]);
}

fn lease(config: &mut Config) {
    config.read_only = ReadOnlyOption::LeaseBased;
    config.check_quorum = true;
}

#[test]
fn with_a_lease_reads_need_no_round() {
    let mut peer = leader_with(lease);
    peer.raw.read_index(read("a"));
    assert!(peer.work().is_empty());
    assert_eq!(peer.reads, [state(1, "a")]);
    let forwarded = Message { context: read("b"), ..message(Kind::ReadIndex, 2, 0) };
    let sent = peer.exchange(forwarded);
    assert_eq!((sent[0].kind, sent[0].to, sent[0].index), (Kind::ReadIndexResponse, PeerId(2), Index(1)));
    peer.raw.set_check_quorum(false);
    peer.raw.read_index(read("c"));
    peer.work();
    assert_eq!(peer.reads.len(), 2, "also while the quorum check is switched off");
    let mut early = Peer::leader(
        &Config { read_only: ReadOnlyOption::LeaseBased, check_quorum: true, ..config(1) },
        storage(members(&[1, 2, 3], &[]), &[]),
    );
    early.raw.read_index(read("early"));
    early.work();
    assert!(early.reads.is_empty(), "nothing is committed in the term");
}

#[test]
pub fn a_transfer_breaks_the_lease_for_the_rest_of_the_term() {
    let mut peer = leader_with(lease);
    peer.raw.transfer_leader(PeerId(2));
    assert_eq!(of_kind(&peer.work(), Kind::TimeoutNow).len(), 1);
    peer.raw.read_index(read("during"));
    let sent = peer.work();
    assert!(peer.reads.is_empty(), "2 may campaign against the voters' leases");
    peer.exchange(echo(3, &beat_to(&sent, 3)));
    assert_eq!(peer.reads.len(), 1);
    peer.tick(ELECTION_TICKS);
    peer.work();
    assert_eq!(peer.raw.lead_transferee(), PeerId::ZERO, "given up");
    peer.raw.read_index(read("after"));
    peer.work();
    assert_eq!(peer.reads.len(), 1, "the request to campaign may still be under way");
    assert!(peer.raw.set_read_only(ReadOnlyOption::Safe).is_ok());
    peer.raw.set_check_quorum(false);
    assert!(peer.raw.set_read_only(ReadOnlyOption::LeaseBased).is_err());
}

#[test]
fn forgetting_the_leader_is_refused_where_it_counts_on_the_lease() {
    let mut peer = Peer::new(
        &Config { read_only: ReadOnlyOption::LeaseBased, check_quorum: true, ..config(1) },
        storage(members(&[1, 2, 3], &[]), &[]),
    );
    peer.exchange(heartbeat(2, 1, 0));
    peer.raw.forget_leader();
    assert_eq!(peer.raw.leader(), PeerId(2));
}

#[test]
fn a_transfer_to_an_up_to_date_peer_is_immediate_and_overrides_leases_and_pre_vote() {
    let mut network = Network::with(3, |config| {
        config.check_quorum = true;
        config.pre_vote = true;
    });
    network.campaign(1);
    network.raw(1).transfer_leader(PeerId(2));
    network.settle();
    assert_eq!((network.raw(2).role(), network.raw(1).leader()), (Role::Leader, PeerId(2)));
    assert_eq!(network.terms(), [2, 2, 2]);
    // Asked of a follower: passed on.
    network.raw(3).transfer_leader(PeerId(1));
    network.settle();
    assert_eq!(network.raw(1).role(), Role::Leader);
}

#[test]
fn being_told_to_campaign_skips_the_pre_vote_and_marks_the_requests() {
    let mut peer = Peer::new(&Config { pre_vote: true, ..config(1) }, storage(members(&[1, 2, 3], &[]), &[]));
    peer.exchange(heartbeat(2, 1, 0));
    let sent = peer.exchange(message(Kind::TimeoutNow, 2, 1));
    let requests = of_kind(&sent, Kind::Vote);
    assert_eq!((requests.len(), peer.raw.term()), (2, Term(2)));
    assert!(requests.iter().all(|request| request.context == "CampaignTransfer"));
    let mut learner = Peer::new(&config(3), storage(members(&[1, 2], &[3]), &[]));
    learner.exchange(heartbeat(1, 1, 0));
    assert!(learner.exchange(message(Kind::TimeoutNow, 1, 1)).is_empty());
}

#[test]
fn a_slow_target_catches_up_first() {
    let mut network = Network::new(3);
    network.campaign(1);
    network.isolate(3);
    network.propose(1, "x").expect("leader");
    network.heal();
    network.raw(1).transfer_leader(PeerId(3));
    network.settle();
    network.tick(1, 1);
    assert_eq!(network.raw(3).role(), Role::Leader);
    assert_eq!(network.peer(3).terms().len(), 3);
}

#[test]
fn proposals_are_dropped_during_a_transfer_which_ends_after_an_election_timeout() {
    let mut peer = leader_with(|_| {});
    peer.tick(ELECTION_TICKS - 1);
    peer.raw.transfer_leader(PeerId(2));
    peer.work();
    assert_eq!(peer.propose("x"), Err(StepError::ProposalDropped));
    peer.tick(ELECTION_TICKS - 1);
    assert_eq!(peer.raw.lead_transferee(), PeerId(2), "the clock starts with the transfer");
    // Asking for the same target again does not extend it.
    peer.raw.transfer_leader(PeerId(2));
    peer.tick(1);
    assert_eq!(peer.raw.lead_transferee(), PeerId::ZERO);
    assert_eq!(peer.propose("x"), Ok(()));
}

#[test]
fn transfers_to_oneself_to_learners_and_to_strangers_are_ignored() {
    for target in [1, 4, 9] {
        let mut peer = leader_with(|_| {});
        peer.raw.transfer_leader(PeerId(target));
        assert!(peer.work().is_empty());
        assert_eq!(peer.raw.lead_transferee(), PeerId::ZERO, "to {target}");
    }
}

#[test]
fn another_target_replaces_the_first_and_the_own_id_cancels() {
    let mut peer = leader_with(|_| {});
    peer.raw.transfer_leader(PeerId(2));
    peer.raw.transfer_leader(PeerId(3));
    assert_eq!(peer.raw.lead_transferee(), PeerId(3));
    let told: Vec<u64> = of_kind(&peer.work(), Kind::TimeoutNow).iter().map(|m| m.to.0).collect();
    assert_eq!(told, [2, 3]);
    peer.raw.transfer_leader(PeerId(1));
    assert_eq!(peer.raw.lead_transferee(), PeerId::ZERO);
}

#[test]
fn a_transfer_ends_when_its_target_leaves_or_is_demoted_or_a_higher_term_appears() {
    for kind in [ConfChangeKind::RemovePeer, ConfChangeKind::AddLearner] {
        let mut peer = leader_with(|_| {});
        peer.raw.transfer_leader(PeerId(2));
        let change = ConfChange { kind, peer: PeerId(2), context: Bytes::new() };
        peer.raw.apply_conf_change(&change.into_v2());
        assert_eq!(peer.raw.lead_transferee(), PeerId::ZERO, "{kind:?}");
    }
    let mut peer = leader_with(|_| {});
    peer.raw.transfer_leader(PeerId(2));
    peer.exchange(vote(Kind::Vote, 3, 2, (9, 9)));
    assert_eq!((peer.raw.role(), peer.raw.lead_transferee()), (Role::Follower, PeerId::ZERO));
}
