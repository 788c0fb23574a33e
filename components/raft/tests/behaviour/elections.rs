//! Elections, votes, pre-votes, timers, and the quorum check.

use flotilla_raft::{
    ConfChange, ConfState, Config, HardState, Index, MessageKind as Kind, PeerId, Role, Term,
};

use crate::harness::*;

use Role::{Candidate, Follower, Leader, PreCandidate};

#[test]
fn election_outcome_depends_on_a_majority_alive_and_on_logs() {
    // Peers down, and whether the survivors elect the campaigner.
    for (size, down, role) in [
        (1, vec![], Leader),
        (3, vec![], Leader),
        (3, vec![2], Leader),
        (3, vec![2, 3], Candidate),
        (4, vec![2, 3], Candidate),
        (5, vec![2, 3], Leader),
        (5, vec![2, 3, 4], Candidate),
    ] {
        for pre_vote in [false, true] {
            let mut network = Network::with(size, |config| config.pre_vote = pre_vote);
            for id in &down {
                network.isolate(*id);
            }
            network.campaign(1);
            let expected = if pre_vote && role == Candidate { PreCandidate } else { role };
            assert_eq!(network.raw(1).role(), expected, "{size} peers without {down:?}, pre-vote {pre_vote}");
            let term = u64::from(expected != PreCandidate);
            assert_eq!(network.raw(1).term(), Term(term));
        }
    }
}

#[test]
fn every_peer_can_lead_in_turn() {
    for pre_vote in [false, true] {
        let mut network = Network::with(3, |config| config.pre_vote = pre_vote);
        for id in 1..=3 {
            network.campaign(id);
            for (peer, role) in network.roles().into_iter().enumerate() {
                assert_eq!(role == Leader, peer as u64 + 1 == id, "campaign of {id}, peer {}", peer + 1);
            }
            assert!(network.peers.values().all(|peer| peer.raw.leader() == PeerId(id)));
        }
    }
}

#[test]
fn a_candidate_with_a_shorter_log_loses_and_a_longer_uncommitted_one_wins() {
    let conf = members(&[1, 2, 3], &[]);
    let mut network = Network::default();
    for (id, terms) in [(1, vec![1]), (2, vec![1, 1]), (3, vec![1, 1, 1])] {
        network.add(id, Peer::new(&config(id), storage(conf.clone(), &terms)));
    }
    network.campaign(1);
    assert_eq!(network.raw(1).role(), Follower, "both others have longer logs");
    assert_eq!(network.raw(1).term(), Term(2), "the lost election keeps its term");
    network.campaign(3);
    assert_eq!(network.raw(3).role(), Leader);
    assert_eq!(network.peer(1).terms(), [1, 1, 1, 3]);
}

#[test]
fn entries_of_a_deposed_leader_are_overwritten() {
    // 1 led in term 1, 3 in term 2 with an entry nobody else has; 4 and 5 know nothing.
    let conf = members(&[1, 2, 3, 4, 5], &[]);
    let mut network = Network::default();
    for (id, terms, term) in
        [(1, vec![1], 2), (2, vec![1], 2), (3, vec![2], 2), (4, vec![], 2), (5, vec![], 2)]
    {
        let mut storage = storage(conf.clone(), &terms);
        let vote = PeerId(if id == 1 || id == 2 { 0 } else { 3 });
        storage.set_hard_state(HardState { term: Term(term), vote, commit: Index(0) });
        network.add(id, Peer::new(&config(id), storage));
    }
    network.campaign(1);
    assert_eq!(network.raw(1).role(), Leader, "2, 4 and 5 vote for it");
    for id in 1..=5 {
        assert_eq!(network.peer(id).terms(), [1, 3], "log of {id}");
    }
}

#[test]
fn losing_makes_a_follower_of_its_own_term_without_leader() {
    for (pre_vote, kind) in [(false, Kind::VoteResponse), (true, Kind::PreVoteResponse)] {
        let mut peer = Peer::new(&Config { pre_vote, ..config(1) }, storage(members(&[1, 2, 3], &[]), &[]));
        peer.raw.campaign().expect("never refused");
        peer.work();
        let term = peer.raw.term().0;
        for from in [2, 3] {
            let mut refusal = message(kind, from, term);
            refusal.reject = true;
            peer.step(refusal);
        }
        assert_eq!(
            (peer.raw.role(), peer.raw.term(), peer.raw.leader()),
            (Follower, Term(term), PeerId::ZERO)
        );
    }
}

#[test]
fn only_the_first_vote_of_a_peer_counts() {
    let mut peer = Peer::new(&config(1), storage(members(&[1, 2, 3, 4, 5], &[]), &[]));
    peer.raw.campaign().expect("never refused");
    peer.work();
    let answer = |from, reject| flotilla_raft::Message { reject, ..message(Kind::VoteResponse, from, 1) };
    for (from, reject) in [(2, true), (2, false), (3, false)] {
        peer.step(answer(from, reject));
        assert_eq!(peer.raw.role(), Candidate, "2 changed its mind");
    }
    peer.step(answer(4, false));
    assert_eq!(peer.raw.role(), Leader);
}

#[test]
fn votes_go_to_one_candidate_with_a_good_log_and_only_without_a_known_leader() {
    // (own log, voted for, candidate, candidate's last entry) -> granted
    for (terms, voted, candidate, last, granted) in [
        (vec![], 0, 2, (0, 0), true),
        (vec![1], 0, 2, (0, 0), false),
        (vec![1], 0, 2, (1, 1), true),
        (vec![1, 2], 0, 2, (5, 1), false),
        (vec![1, 2], 0, 2, (1, 3), true),
        (vec![1, 2], 0, 2, (2, 2), true),
        (vec![1, 2], 0, 2, (1, 2), false),
        (vec![], 2, 2, (0, 0), true),
        (vec![], 3, 2, (0, 0), false),
    ] {
        let mut storage = storage(members(&[1, 2, 3], &[]), &terms);
        storage.set_hard_state(HardState { term: Term(3), vote: PeerId(voted), commit: Index(0) });
        let mut peer = Peer::new(&config(1), storage);
        let sent = peer.exchange(vote(Kind::Vote, candidate, 3, last));
        let [answer] = sent.as_slice() else { panic!("one answer, not {sent:?}") };
        assert_eq!((answer.kind, answer.reject, answer.term), (Kind::VoteResponse, !granted, Term(3)));
        let kept = if granted { candidate } else { voted };
        assert_eq!(peer.raw.vote(), PeerId(kept), "{terms:?} voted {voted}");
    }
}

#[test]
fn a_peer_without_vote_refuses_while_it_knows_a_leader() {
    let mut peer = Peer::follower(1, &[]);
    peer.exchange(heartbeat(2, 1, 0));
    let sent = peer.exchange(vote(Kind::Vote, 3, 1, (0, 0)));
    assert!(sent[0].reject, "2 leads term 1");
    let sent = peer.exchange(vote(Kind::PreVote, 3, 2, (0, 0)));
    assert!(!sent[0].reject, "a pre-vote for a later term binds nobody");
    peer.raw.forget_leader();
    let sent = peer.exchange(vote(Kind::Vote, 3, 1, (0, 0)));
    assert!(!sent[0].reject, "no leader known any more");
}

#[test]
fn answers_carry_the_asked_term_if_granted_and_the_own_one_if_not() {
    let mut peer = Peer::follower(1, &[1, 1]);
    let sent = peer.exchange(vote(Kind::PreVote, 2, 9, (2, 1)));
    assert_eq!((sent[0].term, sent[0].reject), (Term(9), false));
    let sent = peer.exchange(vote(Kind::PreVote, 2, 9, (1, 1)));
    assert_eq!((sent[0].term, sent[0].reject, sent[0].extra().reject_hint), (Term(1), true, Index(0)));
    assert_eq!((peer.raw.term(), peer.raw.vote()), (Term(1), PeerId::ZERO), "pre-votes change nothing");
}

#[test]
fn real_votes_of_higher_terms_are_handled_in_every_role_and_pre_votes_disturb_none() {
    for role in [Follower, PreCandidate, Candidate, Leader] {
        for kind in [Kind::Vote, Kind::PreVote] {
            let pre_vote = role == PreCandidate;
            let mut peer =
                Peer::new(&Config { pre_vote, ..config(1) }, storage(members(&[1, 2, 3], &[]), &[]));
            match role {
                Follower => {}
                Leader => peer.win(),
                _ => peer.raw.campaign().expect("never refused"),
            }
            assert_eq!(peer.raw.role(), role);
            peer.work();
            let before = (peer.raw.role(), peer.raw.term(), peer.raw.vote());
            let sent = peer.exchange(vote(kind, 2, 9, (9, 9)));
            assert!(!sent.last().expect("an answer").reject, "{kind:?} to {role:?}");
            let after = (peer.raw.role(), peer.raw.term(), peer.raw.vote());
            let expected = if kind == Kind::Vote { (Follower, Term(9), PeerId(2)) } else { before };
            assert_eq!(after, expected, "{kind:?} to {role:?}");
        }
    }
}

#[test]
fn hearing_from_the_leader_and_granting_a_vote_reset_the_timer_and_refusing_does_not() {
    let heard: [(flotilla_raft::Message, bool); 5] = [
        (heartbeat(2, 1, 0), true),
        (append(2, 1, (0, 0), &[1], 0), true),
        (snapshot_message(2, 1, snapshot(5, 1, members(&[1, 2, 3], &[]))), true),
        (vote(Kind::Vote, 2, 1, (1, 1)), true),
        (vote(Kind::PreVote, 2, 2, (1, 1)), false),
    ];
    for (heard, resets) in heard {
        let kind = heard.kind;
        let mut storage = storage(members(&[1, 2, 3], &[]), &[]);
        storage.set_hard_state(HardState { term: Term(1), ..HardState::default() });
        let mut peer = Peer::new(&config(1), storage);
        peer.tick(5);
        peer.step(heard);
        assert_eq!(peer.raw.election_elapsed(), if resets { 0 } else { 5 }, "{kind:?}");
    }
    let mut peer = Peer::follower(1, &[1]);
    peer.tick(5);
    peer.step(vote(Kind::Vote, 2, 1, (0, 0)));
    assert_eq!(peer.raw.election_elapsed(), 5, "a refused candidate does not keep others from campaigning");
}

#[test]
fn timeouts_spread_over_the_range_and_differ_between_peers() {
    let mut seen = std::collections::BTreeSet::new();
    let mut peer = Peer::follower(1, &[]);
    for _ in 0..400 {
        seen.insert(peer.raw.randomized_election_ticks());
        peer.raw.campaign().expect("never refused");
        peer.work();
    }
    assert_eq!(seen, (ELECTION_TICKS..2 * ELECTION_TICKS).collect(), "every value of [e, 2e) and no other");
    let bounded = Config { election_ticks_min: 12, election_ticks_max: 14, ..config(1) };
    let mut peer = Peer::new(&bounded, storage(members(&[1, 2, 3], &[]), &[]));
    for _ in 0..50 {
        assert!((12..14).contains(&peer.raw.randomized_election_ticks()));
        peer.raw.campaign().expect("never refused");
        peer.work();
    }
    let alone = |id| Peer::follower(id, &[]).raw.randomized_election_ticks();
    assert!((2..20).any(|id| alone(id) != alone(1)), "peers with the same seed must not campaign in step");
}

#[test]
fn a_follower_campaigns_exactly_when_its_timeout_is_reached() {
    let mut peer = Peer::follower(1, &[]);
    peer.raw.set_randomized_election_ticks(13);
    peer.tick(12);
    assert_eq!(peer.raw.role(), Follower);
    peer.tick(1);
    assert_eq!(peer.raw.role(), Candidate);
}

#[test]
fn learners_and_strangers_do_not_campaign_but_vote() {
    for (id, voters, learners) in [(1, vec![2, 3], vec![1]), (1, vec![2, 3], vec![])] {
        let mut peer = Peer::new(&config(id), storage(members(&voters, &learners), &[]));
        peer.tick(5 * ELECTION_TICKS);
        peer.raw.campaign().expect("never refused");
        peer.step(message(Kind::TimeoutNow, 2, 1));
        assert_eq!(peer.raw.role(), Follower);
        assert!(!peer.raw.is_promotable());
        let sent = peer.exchange(vote(Kind::Vote, 2, 2, (0, 0)));
        assert!(!sent[0].reject, "its configuration may be outdated");
    }
}

#[test]
fn no_campaign_while_a_committed_conf_change_is_not_applied() {
    let mut storage = storage(members(&[1, 2, 3], &[]), &[1]);
    let change = ConfChange { peer: PeerId(4), ..ConfChange::default() };
    storage.append(&mut vec![flotilla_raft::Entry {
        index: Index(2),
        term: Term(1),
        kind: flotilla_raft::EntryKind::ConfChange,
        data: change.encode(),
    }]);
    storage.set_hard_state(HardState { term: Term(1), vote: PeerId(0), commit: Index(2) });
    let mut peer = Peer::new(&config(1), storage);
    peer.tick(3 * ELECTION_TICKS);
    peer.raw.campaign().expect("never refused");
    peer.step(message(Kind::TimeoutNow, 2, 1));
    assert_eq!(peer.raw.role(), Follower);
    peer.work();
    peer.raw.campaign().expect("never refused");
    assert_eq!(peer.raw.role(), Candidate);
    assert_eq!(of_kind(&peer.work(), Kind::Vote).len(), 3, "the new voter is asked too");
}

#[test]
fn no_campaign_while_committed_entries_cannot_be_read() {
    let mut storage = storage(members(&[1, 2, 3], &[]), &[1, 1, 1]);
    storage.set_hard_state(HardState { term: Term(1), vote: PeerId(0), commit: Index(2) });
    let mut raw = flotilla_raft::RawNode::new(&config(1), storage).expect("valid");
    raw.storage_mut().compact(Index(1)).expect("there is an entry");
    raw.campaign().expect("never refused");
    assert_eq!(raw.role(), Follower, "one of them may be a conf change");
}

#[test]
fn a_campaign_asks_all_voters_of_both_halves_and_no_learner() {
    let conf = ConfState {
        voters: ids(&[1, 4]),
        voters_outgoing: ids(&[1, 2, 3]),
        learners: ids(&[5]),
        ..ConfState::default()
    };
    let mut peer = Peer::new(&config(1), storage(conf, &[]));
    peer.raw.campaign().expect("never refused");
    let asked: Vec<u64> = of_kind(&peer.work(), Kind::Vote).iter().map(|vote| vote.to.0).collect();
    assert_eq!(asked, [2, 3, 4]);
    peer.step(message(Kind::VoteResponse, 2, 1));
    assert_eq!(peer.raw.role(), Candidate, "a majority of the old half only");
    peer.step(message(Kind::VoteResponse, 4, 1));
    assert_eq!(peer.raw.role(), Leader);
}

#[test]
fn votes_of_strangers_and_learners_do_not_count() {
    let mut peer = Peer::new(&config(1), storage(members(&[1, 2, 3], &[4]), &[]));
    peer.raw.campaign().expect("never refused");
    peer.work();
    peer.step(message(Kind::VoteResponse, 4, 1));
    assert_eq!(peer.raw.role(), Candidate, "a learner's vote");
    assert_eq!(
        peer.refused(message(Kind::VoteResponse, 9, 1)),
        flotilla_raft::StepError::PeerNotFound,
        "a stranger's vote"
    );
    assert_eq!(peer.raw.role(), Candidate);
}

#[test]
fn own_vote_counts_only_once_it_is_stored_and_never_after_stepping_down() {
    let mut peer = Peer::new(&config(1), storage(members(&[1, 2, 3], &[]), &[]));
    peer.raw.campaign().expect("never refused");
    let ready = peer.raw.ready();
    assert!(ready.must_sync && ready.hard_state.is_some_and(|state| state.vote == PeerId(1)));
    peer.step(message(Kind::VoteResponse, 2, 1));
    assert_eq!(peer.raw.role(), Candidate, "one other vote, the own one is not stored");
    // A leader of a later term appears before the own vote comes back.
    peer.step(heartbeat(3, 2, 0));
    peer.handle(ready);
    peer.raw.advance();
    assert_eq!((peer.raw.role(), peer.raw.term()), (Follower, Term(2)));
}

#[test]
fn a_late_own_pre_vote_is_no_vote() {
    let mut peer = Peer::new(&Config { pre_vote: true, ..config(1) }, storage(members(&[1, 2, 3], &[]), &[]));
    peer.raw.campaign().expect("never refused");
    let ready = peer.raw.ready();
    // Both others promise before the own promise is stored.
    peer.step(message(Kind::PreVoteResponse, 2, 1));
    peer.step(message(Kind::PreVoteResponse, 3, 1));
    assert_eq!((peer.raw.role(), peer.raw.term()), (Candidate, Term(1)));
    peer.handle(ready);
    peer.raw.advance();
    peer.step(message(Kind::PreVoteResponse, 2, 1));
    assert_eq!(peer.raw.role(), Candidate, "promises are no votes");
    peer.work();
    peer.step(message(Kind::VoteResponse, 2, 1));
    assert_eq!(peer.raw.role(), Leader);
}

#[test]
fn a_single_voter_becomes_leader_by_its_own_stored_vote() {
    for pre_vote in [false, true] {
        let mut peer = Peer::new(&Config { pre_vote, ..config(1) }, storage(members(&[1], &[]), &[]));
        peer.raw.campaign().expect("never refused");
        assert_ne!(peer.raw.role(), Leader, "not before the vote is stored");
        peer.work();
        assert_eq!((peer.raw.role(), peer.raw.term(), peer.raw.commit()), (Leader, Term(1), Index(1)));
    }
}

#[test]
fn any_role_follows_whoever_acts_in_a_higher_term() {
    for role in [Follower, PreCandidate, Candidate, Leader] {
        for (seen, lead) in [
            (vote(Kind::Vote, 2, 5, (0, 0)), 0),
            (append(2, 5, (0, 0), &[], 0), 2),
            (heartbeat(2, 5, 0), 2),
            (message(Kind::AppendResponse, 2, 5), 0),
        ] {
            let pre_vote = role == PreCandidate;
            let mut peer =
                Peer::new(&Config { pre_vote, ..config(1) }, storage(members(&[1, 2, 3], &[]), &[]));
            match role {
                Follower => {}
                Leader => peer.win(),
                _ => peer.raw.campaign().expect("never refused"),
            }
            let kind = seen.kind;
            peer.step(seen);
            let state = (peer.raw.role(), peer.raw.term(), peer.raw.leader());
            assert_eq!(state, (Follower, Term(5), PeerId(lead)), "{kind:?} to {role:?}");
        }
    }
}

#[test]
fn a_candidate_yields_to_a_leader_of_its_term() {
    for seen in [
        append(2, 1, (0, 0), &[1], 0),
        heartbeat(2, 1, 0),
        snapshot_message(2, 1, snapshot(5, 1, members(&[1, 2, 3], &[]))),
    ] {
        let mut peer = Peer::follower(1, &[]);
        peer.raw.campaign().expect("never refused");
        peer.work();
        peer.step(seen);
        assert_eq!((peer.raw.role(), peer.raw.leader(), peer.raw.term()), (Follower, PeerId(2), Term(1)));
    }
}

#[test]
fn messages_of_lower_terms_change_nothing() {
    let mut peer = Peer::follower(1, &[1, 3]);
    for old in [append(2, 2, (0, 0), &[2, 2, 2], 3), heartbeat(2, 2, 1), message(Kind::TimeoutNow, 2, 2)] {
        let sent = peer.exchange(old);
        assert!(sent.is_empty(), "without pre-vote and quorum check nobody is told");
    }
    assert_eq!((peer.terms(), peer.raw.commit(), peer.raw.leader()), (vec![1, 3], Index(0), PeerId::ZERO));
}

#[test]
fn a_stale_leader_is_told_where_candidates_may_be_stuck() {
    for (check_quorum, pre_vote) in [(true, false), (false, true)] {
        let config = Config { check_quorum, pre_vote, ..config(1) };
        let mut peer = Peer::new(&config, storage(members(&[1, 2, 3], &[]), &[1, 3]));
        for old in [append(2, 2, (0, 0), &[], 0), heartbeat(2, 2, 0)] {
            let sent = peer.exchange(old);
            assert_eq!(sent.len(), 1);
            assert_eq!(
                (sent[0].kind, sent[0].term, sent[0].index),
                (Kind::AppendResponse, Term(3), Index(0))
            );
        }
        let sent = peer.exchange(vote(Kind::PreVote, 2, 2, (9, 9)));
        assert!(sent[0].reject && sent[0].term == Term(3));
    }
}

#[test]
fn with_pre_vote_a_partitioned_peer_does_not_raise_terms() {
    let mut network = Network::with(3, |config| config.pre_vote = true);
    network.campaign(1);
    network.isolate(3);
    network.tick(3, 10 * ELECTION_TICKS);
    assert_eq!((network.raw(3).role(), network.raw(3).term()), (PreCandidate, Term(1)));
    network.propose(1, "x").expect("leader");
    network.heal();
    network.tick(3, 2 * ELECTION_TICKS);
    assert_eq!(network.raw(1).role(), Leader);
    assert_eq!(network.terms(), [1, 1, 1]);
    network.tick(1, 1);
    assert_eq!(network.commits(), [2, 2, 2], "back in the group");
}

#[test]
fn without_pre_vote_it_deposes_the_leader_and_loses() {
    let mut network = Network::new(3);
    network.campaign(1);
    network.isolate(3);
    network.propose(1, "x").expect("leader");
    network.campaign(3);
    network.campaign(3);
    network.heal();
    network.campaign(3);
    assert_eq!(network.raw(3).role(), Follower, "its log is behind");
    assert_eq!(network.raw(1).role(), Follower, "but its term is higher");
    assert!(network.raw(1).term() >= Term(4));
}

#[test]
fn a_restarted_peer_of_lower_term_can_win_with_pre_vote() {
    let mut network = Network::with(3, |config| config.pre_vote = true);
    network.campaign(1);
    network.isolate(3);
    network.propose(1, "x").expect("leader");
    network.campaign(2);
    // 3 knows term 1, the others term 2 and more entries.
    network.heal();
    network.isolate(2);
    network.tick(1, 4 * ELECTION_TICKS);
    network.heal();
    network.campaign(3);
    network.campaign(2);
    assert_eq!(network.raw(2).role(), Leader);
    assert_eq!(network.commits()[0], network.commits()[1]);
}

#[test]
fn the_quorum_check_keeps_a_leader_with_a_quorum_and_removes_one_without() {
    let mut network = Network::with(3, |config| config.check_quorum = true);
    network.campaign(1);
    network.tick(1, 5 * ELECTION_TICKS);
    assert_eq!(network.raw(1).role(), Leader, "followers answer heartbeats");
    network.isolate(1);
    network.tick(1, 2 * ELECTION_TICKS);
    let raw = network.raw(1);
    assert_eq!((raw.role(), raw.leader(), raw.term()), (Follower, PeerId::ZERO, Term(1)));
}

#[test]
fn a_quorum_check_that_begins_anew_waits_for_a_whole_election_timeout() {
    let config = Config { check_quorum: true, ..config(1) };
    let mut peer = Peer::leader(&config, storage(members(&[1, 2, 3], &[]), &[]));
    peer.tick(ELECTION_TICKS - 1);
    // It slept, and nobody lives as far as it knows.
    [2, 3].into_iter().for_each(|id| peer.raw.set_active(PeerId(id), false));
    peer.raw.restart_quorum_check();
    peer.tick(ELECTION_TICKS - 1);
    assert_eq!(peer.raw.role(), Leader);
    peer.tick(1);
    assert_eq!(peer.raw.role(), Follower, "nobody was heard from");
    peer.raw.set_randomized_election_ticks(ELECTION_TICKS);
    peer.tick(ELECTION_TICKS - 1);
    peer.raw.restart_quorum_check();
    peer.tick(1);
    assert_eq!(peer.raw.role(), Candidate, "a leader's check: no other timer is touched");
}

#[test]
fn a_peer_is_alive_until_it_is_silent_between_two_quorum_checks() {
    let config = Config { check_quorum: true, ..config(1) };
    let mut peer = Peer::leader(&config, storage(members(&[1, 2, 3], &[]), &[]));
    let answers = |peer: &mut Peer, from: &[u64]| {
        for _ in 0..ELECTION_TICKS {
            from.iter().for_each(|id| peer.step(message(Kind::HeartbeatResponse, *id, 1)));
            peer.tick(1);
            peer.work();
        }
    };
    let alive = |peer: &Peer| [2, 3].map(|id| peer.raw.progress(PeerId(id)).expect("a member").is_alive());
    answers(&mut peer, &[2, 3]);
    assert_eq!(alive(&peer), [true, true]);
    // To the end of a time in which 3 was silent: the check itself makes nobody dead.
    answers(&mut peer, &[2]);
    answers(&mut peer, &[2]);
    assert_eq!((peer.raw.role(), alive(&peer)), (Leader, [true, false]));
    peer.step(message(Kind::HeartbeatResponse, 3, 1));
    assert_eq!(alive(&peer), [true, true]);
}

#[test]
fn learners_do_not_keep_a_leader_in_office() {
    let config = Config { check_quorum: true, ..config(1) };
    let mut peer = Peer::leader(&config, storage(members(&[1, 2, 3], &[4]), &[]));
    for _ in 0..2 * ELECTION_TICKS {
        peer.step(message(Kind::HeartbeatResponse, 4, 1));
        peer.tick(1);
        peer.work();
    }
    assert_eq!(peer.raw.role(), Follower);
}

#[test]
fn leases_hold_candidates_off_until_the_election_timeout() {
    for kind in [Kind::Vote, Kind::PreVote] {
        let config = Config { check_quorum: true, ..config(1) };
        let mut peer = Peer::new(&config, storage(members(&[1, 2, 3], &[]), &[]));
        peer.raw.set_randomized_election_ticks(usize::MAX);
        peer.exchange(heartbeat(2, 1, 0));
        peer.raw.set_randomized_election_ticks(usize::MAX);
        peer.tick(ELECTION_TICKS - 1);
        assert!(peer.exchange(vote(kind, 3, 5, (9, 9))).is_empty(), "ignored, not refused");
        assert_eq!(peer.raw.term(), Term(1));
        peer.tick(1);
        assert!(!peer.exchange(vote(kind, 3, 5, (9, 9)))[0].reject);
    }
    // Without the quorum check a leader gives no lease, pre-vote or not.
    let config = Config { pre_vote: true, ..config(1) };
    let mut peer = Peer::new(&config, storage(members(&[1, 2, 3], &[]), &[]));
    peer.exchange(heartbeat(2, 1, 0));
    assert!(!peer.exchange(vote(Kind::PreVote, 3, 5, (9, 9)))[0].reject);
    peer.raw.set_check_quorum(true);
    peer.exchange(heartbeat(2, 1, 0));
    assert!(peer.exchange(vote(Kind::PreVote, 3, 5, (9, 9))).is_empty(), "switched on at run time");
}

#[test]
fn a_candidate_stuck_in_a_higher_term_is_freed() {
    let mut network = Network::with(3, |config| config.check_quorum = true);
    network.campaign(1);
    network.isolate(3);
    network.campaign(3);
    network.campaign(3);
    network.heal();
    network.campaign(3);
    assert_eq!(network.raw(3).role(), Candidate, "the others hold to their leader");
    network.tick(1, 1);
    assert_eq!(network.raw(1).role(), Follower, "the answer to its heartbeat carries the higher term");
    network.tick(1, 2 * ELECTION_TICKS);
    assert_eq!(network.roles().iter().filter(|role| **role == Leader).count(), 1);
    assert!(network.terms().iter().all(|term| *term == network.raw(1).term().0));
}

#[test]
fn forgetting_the_leader_keeps_term_vote_and_timer() {
    let mut peer = Peer::follower(1, &[]);
    peer.exchange(vote(Kind::Vote, 2, 1, (0, 0)));
    peer.exchange(heartbeat(2, 1, 0));
    peer.tick(4);
    peer.raw.forget_leader();
    assert_eq!((peer.raw.leader(), peer.raw.vote(), peer.raw.term()), (PeerId::ZERO, PeerId(2), Term(1)));
    assert_eq!(peer.raw.election_elapsed(), 4);
    peer.exchange(heartbeat(2, 1, 0));
    assert_eq!(peer.raw.leader(), PeerId(2), "the next heartbeat restores it");
    let mut leader = Peer::leader(&config(1), storage(members(&[1, 2, 3], &[]), &[]));
    leader.raw.forget_leader();
    assert_eq!(leader.raw.leader(), PeerId(1), "no effect on a leader");
}

#[test]
fn campaigning_as_leader_does_nothing() {
    for pre_vote in [false, true] {
        let mut peer =
            Peer::leader(&Config { pre_vote, ..config(1) }, storage(members(&[1, 2, 3], &[]), &[]));
        peer.raw.campaign().expect("never refused");
        assert_eq!((peer.raw.role(), peer.raw.term()), (Leader, Term(1)));
    }
}
