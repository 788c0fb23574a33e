//! Replication: proposals, commit, conflict resolution, flow control, heartbeats.

use flotilla_raft::{
    Config, HardState, Index, Message, MessageKind as Kind, PeerId, ProgressState, Role, StepError, Term,
    entry_size,
};

use crate::harness::*;

fn three() -> flotilla_raft::MemStorage {
    storage(members(&[1, 2, 3], &[]), &[])
}

/// A leader of three whose first entry both others have.
fn leader_with(change: impl Fn(&mut Config)) -> Peer {
    let mut config = config(1);
    change(&mut config);
    let mut peer = Peer::leader(&config, three());
    for from in [2, 3] {
        peer.exchange(ack(from, 1, 1));
    }
    assert_eq!(peer.raw.commit(), Index(1));
    peer.work();
    peer
}

fn leader() -> Peer {
    leader_with(|_| {})
}

#[test]
fn proposals_commit_everywhere_in_order_also_after_a_new_election() {
    let mut network = Network::new(3);
    network.campaign(1);
    network.propose(1, "a").expect("leader");
    network.campaign(2);
    network.propose(2, "b").expect("leader");
    network.propose(3, "c").expect("forwarded");
    for id in 1..=3 {
        assert_eq!(network.peer(id).applied_data(), ["a", "b", "c"], "peer {id}");
    }
}

#[test]
fn a_proposal_without_quorum_stays_uncommitted() {
    let mut network = Network::new(5);
    network.campaign(1);
    for id in [3, 4, 5] {
        network.isolate(id);
    }
    network.propose(1, "x").expect("leader");
    assert_eq!(network.commits(), [1, 1, 1, 1, 1]);
    network.heal();
    network.tick(1, 1);
    network.tick(1, 1);
    assert_eq!(network.commits(), [2, 2, 2, 2, 2]);
}

#[test]
fn proposals_are_dropped_without_a_leader_by_candidates_and_where_forwarding_is_off() {
    let mut peer = Peer::follower(1, &[]);
    assert_eq!(peer.propose("x"), Err(StepError::ProposalDropped));
    peer.raw.campaign().expect("never refused");
    assert_eq!(peer.propose("x"), Err(StepError::ProposalDropped));
    let mut peer = Peer::new(&Config { disable_proposal_forwarding: true, ..config(1) }, three());
    peer.exchange(heartbeat(2, 1, 0));
    assert_eq!(peer.propose("x"), Err(StepError::ProposalDropped));
    let mut peer = Peer::follower(1, &[]);
    peer.exchange(heartbeat(2, 1, 0));
    assert_eq!(peer.propose("x"), Ok(()));
    let sent = peer.work();
    assert_eq!((sent[0].kind, sent[0].to, sent[0].term), (Kind::Propose, PeerId(2), Term(0)));
    assert_eq!((sent[0].entries[0].term, sent[0].entries[0].index), (Term(0), Index(0)));
}

#[test]
fn old_term_entries_do_not_commit_by_counting() {
    // Raft paper, figure 8.
    let mut peer = Peer::leader(&config(1), storage(members(&[1, 2, 3, 4, 5], &[]), &[1, 2]));
    assert_eq!(peer.raw.term(), Term(3));
    for from in [2, 3, 4, 5] {
        peer.exchange(ack(from, 3, 2));
        assert_eq!(peer.raw.commit(), Index(0), "entry 2 is of term 2, {from} peers have it");
    }
    peer.exchange(ack(2, 3, 3));
    assert_eq!(peer.raw.commit(), Index(0));
    peer.exchange(ack(3, 3, 3));
    assert_eq!(peer.raw.commit(), Index(3), "an entry of the own term commits the older ones with it");
}

#[test]
fn commit_follows_the_majority_of_acknowledgements_and_the_own_disk() {
    let mut peer = leader();
    peer.propose("x").expect("leader");
    let ready = peer.raw.ready();
    peer.step(ack(2, 1, 2));
    assert_eq!(peer.raw.commit(), Index(1), "the own copy is not stored yet");
    peer.step(ack(3, 1, 2));
    assert_eq!(peer.raw.commit(), Index(2), "a majority without the leader");
    peer.handle(ready);
    peer.raw.advance();
    peer.propose("y").expect("leader");
    peer.work();
    assert_eq!(peer.raw.commit(), Index(2), "only the own copy");
    peer.step(ack(2, 1, 3));
    assert_eq!(peer.raw.commit(), Index(3));
}

#[test]
fn learners_receive_entries_but_do_not_count() {
    let mut peer = Peer::leader(&config(1), storage(members(&[1, 2], &[3]), &[]));
    peer.step(message(Kind::AppendResponse, 3, 1));
    peer.exchange(ack(3, 1, 1));
    assert_eq!(peer.raw.commit(), Index(0));
    assert_eq!(peer.progress(3), (1, 2));
    peer.exchange(ack(2, 1, 1));
    assert_eq!(peer.raw.commit(), Index(1));
    peer.propose("x").expect("leader");
    assert!(peer.work().iter().any(|m| m.kind == Kind::Append && m.to == PeerId(3)));
}

#[test]
fn an_only_voter_commits_by_each_of_its_own_acknowledgements() {
    let mut peer = Peer::leader(&config(1), storage(members(&[1], &[3]), &[]));
    peer.exchange(ack(3, 1, 1));
    for data in ["x", "y", "z"] {
        peer.propose(data).expect("leader");
    }
    let sent = peer.work();
    let to_learner = of_kind(&sent, Kind::Append).into_iter().map(|m| (m.entries.len(), m.commit.0));
    assert_eq!(to_learner.collect::<Vec<_>>(), [(1, 1), (1, 1), (1, 1), (0, 2), (0, 3), (0, 4)]);
    assert_eq!((peer.raw.commit(), peer.progress(1)), (Index(4), (4, 5)));
}

#[test]
fn own_progress_follows_own_stored_entries() {
    let mut peer = leader();
    peer.propose("x").expect("leader");
    assert_eq!(peer.progress(1), (1, 2));
    peer.work();
    assert_eq!(peer.progress(1), (2, 3));
    // An own acknowledgement of an earlier leadership does not count.
    peer.propose("y").expect("leader");
    let ready = peer.raw.ready();
    peer.step(heartbeat(2, 2, 0));
    peer.handle(ready);
    peer.raw.advance();
    assert_eq!(peer.raw.role(), Role::Follower);
}

#[test]
fn appends_are_accepted_where_the_logs_agree_and_never_lower_the_commit() {
    // (prev, prev term), entries, leader's commit -> last index, commit, refused
    for (prev, terms, commit, last, committed, refused) in [
        ((2, 3), vec![], 3, 2, 0, true),
        ((3, 3), vec![], 3, 2, 0, true),
        ((1, 1), vec![], 1, 2, 1, false),
        ((0, 0), vec![2], 1, 1, 1, false),
        ((2, 2), vec![2, 2], 3, 4, 3, false),
        ((2, 2), vec![2], 4, 3, 3, false),
        ((1, 1), vec![2], 4, 2, 2, false),
        ((1, 1), vec![], 3, 2, 1, false),
        ((2, 2), vec![], 4, 2, 2, false),
    ] {
        let mut peer = Peer::follower(1, &[1, 2]);
        let sent = peer.exchange(append(2, 2, prev, &terms, commit));
        let case = format!("after {prev:?}, {terms:?}, commit {commit}");
        assert_eq!((peer.raw.last_index(), peer.raw.commit()), (Index(last), Index(committed)), "{case}");
        assert_eq!((sent.len(), sent[0].reject), (1, refused), "{case}");
    }
}

#[test]
fn a_delayed_append_does_not_cut_off_what_a_later_one_added() {
    let mut peer = Peer::follower(1, &[]);
    peer.exchange(append(2, 1, (0, 0), &[1, 1, 1], 0));
    let sent = peer.exchange(append(2, 1, (0, 0), &[1], 0));
    assert_eq!(peer.terms(), [1, 1, 1]);
    assert_eq!(sent[0].index, Index(1), "acknowledges only what the message carried");
    peer.exchange(append(2, 2, (1, 1), &[2], 0));
    assert_eq!(peer.terms(), [1, 2], "a conflict does cut");
}

#[test]
fn an_append_below_the_commit_index_is_answered_with_it() {
    let mut peer = Peer::follower(1, &[]);
    peer.exchange(append(2, 1, (0, 0), &[1, 1, 1], 3));
    let sent = peer.exchange(append(2, 1, (1, 1), &[1], 3));
    assert_eq!((sent.len(), sent[0].index, sent[0].reject), (1, Index(3), false));
}

#[test]
fn refusals_say_where_the_logs_may_agree() {
    // Own log, the append's position -> hint index and term.
    for (terms, prev, hint) in [
        (vec![], (3, 1), (0, 0)),
        (vec![1, 1], (5, 3), (2, 1)),
        (vec![1, 1, 4, 4, 4], (4, 2), (2, 1)),
        (vec![1, 2, 2, 5, 5], (5, 3), (3, 2)),
        (vec![3, 3], (2, 2), (0, 0)),
    ] {
        let mut peer = Peer::follower(1, &terms);
        let sent = peer.exchange(append(2, 6, prev, &[6], 0));
        let answer = &sent[0];
        let told = (answer.reject, answer.index.0, (answer.extra().reject_hint.0, answer.log_term.0));
        assert_eq!(told, (true, prev.0, hint), "{terms:?} against {prev:?}");
    }
}

#[test]
fn the_leader_skips_terms_that_the_follower_cannot_have() {
    // Leader's log, follower's answer -> next index to try.
    let terms = [1, 3, 3, 3, 3, 5, 5, 5];
    for (hint, expected_prev) in
        [((2, 2), 1), ((6, 4), 5), ((3, 0), 3), ((5, 3), 5), ((0, 0), 0), ((100, 9), 8)]
    {
        let mut peer = Peer::leader(&config(1), storage(members(&[1, 2, 3], &[]), &terms));
        let sent = peer.exchange(refusal(2, 6, 8, hint));
        let probe = of_kind(&sent, Kind::Append);
        let expected_prev = expected_prev.min(7);
        assert_eq!(probe[0].index.0, expected_prev, "hint {hint:?}");
    }
}

#[test]
fn diverged_followers_are_repaired() {
    // Raft paper, figure 7.
    let leader_terms = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
    for terms in [
        vec![1, 1, 1, 4, 4, 5, 5, 6, 6],
        vec![1, 1, 1, 4],
        vec![1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        vec![1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        vec![1, 1, 1, 4, 4, 4, 4],
        vec![1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ] {
        let conf = members(&[1, 2, 3], &[]);
        let mut network = Network::default();
        let at_term = |terms: &[u64]| {
            let mut storage = storage(conf.clone(), terms);
            storage.set_hard_state(HardState { term: Term(8), ..HardState::default() });
            storage
        };
        network.add(1, Peer::new(&config(1), at_term(&leader_terms)));
        network.add(2, Peer::new(&config(2), at_term(&terms)));
        network.add(3, Peer::new(&config(3), at_term(&[])));
        network.campaign(1);
        network.propose(1, "x").expect("leader");
        assert_eq!(network.peer(2).terms(), [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 9, 9], "from {terms:?}");
        assert_eq!(network.commits(), [12, 12, 12]);
    }
}

#[test]
fn heartbeats_raise_the_commit_index_and_never_lower_it() {
    let mut peer = Peer::follower(1, &[1, 1, 1]);
    for (commit, expected) in [(2, 2), (1, 2), (3, 3)] {
        let sent = peer.exchange(heartbeat(2, 1, commit));
        assert_eq!(peer.raw.commit(), Index(expected));
        assert_eq!(sent[0].kind, Kind::HeartbeatResponse);
    }
}

#[test]
fn heartbeats_carry_at_most_what_the_peer_is_known_to_have() {
    let mut peer = leader();
    peer.propose("x").expect("leader");
    peer.work();
    peer.exchange(ack(2, 1, 2));
    peer.tick(1);
    let sent = peer.work();
    let beats = of_kind(&sent, Kind::Heartbeat);
    let told: Vec<_> = beats.iter().map(|beat| (beat.to.0, beat.commit.0, beat.index.0)).collect();
    assert_eq!(told, [(2, 2, 0), (3, 1, 0)]);
    assert!(beats.iter().all(|beat| beat.entries.is_empty()));
    let mut follower = Peer::follower(1, &[]);
    follower.raw.broadcast_heartbeat();
    assert!(follower.work().is_empty(), "only leaders have a heartbeat");
}

#[test]
fn a_heartbeat_answer_of_a_lagging_peer_triggers_an_append_until_it_is_acknowledged() {
    let mut peer = leader();
    peer.propose("x").expect("leader");
    peer.work();
    for _ in 0..2 {
        let sent = peer.exchange(message(Kind::HeartbeatResponse, 2, 1));
        assert_eq!(of_kind(&sent, Kind::Append).len(), 1);
    }
    peer.exchange(ack(2, 1, 2));
    assert!(peer.exchange(message(Kind::HeartbeatResponse, 2, 1)).is_empty());
}

#[test]
fn probing_sends_one_append_until_an_answer_comes() {
    let mut peer = Peer::leader(&config(1), three());
    for _ in 0..3 {
        peer.propose("x").expect("leader");
        assert!(of_kind(&peer.work(), Kind::Append).is_empty(), "the first entry is the probe");
    }
    assert_eq!(peer.progress(2), (0, 1), "probing does not advance next");
    let sent = peer.exchange(message(Kind::HeartbeatResponse, 2, 1));
    assert_eq!(of_kind(&sent, Kind::Append).len(), 1, "a heartbeat's answer allows another one");
    let sent = peer.exchange(ack(2, 1, 1));
    let appends = of_kind(&sent, Kind::Append);
    assert!(appends.iter().all(|append| append.to == PeerId(2)), "the other peer stays paused");
    assert_eq!(peer.progress(2), (1, 5));
    assert!(peer.raw.progress(PeerId(3)).expect("member").is_paused());
    // An empty append does not pause a probed peer.
    peer.raw.report_unreachable(PeerId(2));
    peer.exchange(ack(2, 1, 4));
    assert_eq!(peer.raw.progress(PeerId(2)).expect("member").state, ProgressState::Replicate);
}

#[test]
fn replicating_pipelines_up_to_the_window_and_resumes_with_acknowledgements() {
    let mut peer = leader_with(|config| config.inflight_messages_max = 3);
    for _ in 0..5 {
        peer.propose("x").expect("leader");
    }
    let sent = peer.work();
    let indexes = |sent: &[Message], to| -> Vec<u64> {
        let of_peer = sent.iter().filter(|m| m.kind == Kind::Append && m.to == PeerId(to));
        of_peer.map(|append| append.index.0).collect()
    };
    assert_eq!(indexes(&sent, 2), [1, 2, 3], "three in flight, then none");
    assert!(peer.raw.progress(PeerId(2)).expect("member").inflights.is_full());
    // Acknowledging the second frees both before it.
    let sent = peer.exchange(ack(2, 1, 3));
    assert_eq!(indexes(&sent, 2), [4], "one append carries all that is left");
    assert_eq!(peer.raw.progress(PeerId(2)).expect("member").inflights.len(), 2);
    // A stale acknowledgement frees nothing.
    assert!(indexes(&peer.exchange(ack(2, 1, 2)), 2).is_empty());
}

#[test]
fn a_full_window_lets_one_empty_append_through_per_heartbeat_answer() {
    let mut peer = leader_with(|config| config.inflight_messages_max = 1);
    for _ in 0..3 {
        peer.propose("x").expect("leader");
    }
    peer.work();
    for _ in 0..2 {
        let sent = peer.exchange(message(Kind::HeartbeatResponse, 2, 1));
        let appends = of_kind(&sent, Kind::Append);
        assert_eq!(appends.len(), 1);
        assert!(appends[0].entries.is_empty() && appends[0].index == Index(2));
    }
}

#[test]
fn the_window_is_limited_by_bytes_too() {
    let mut peer = leader_with(|config| {
        config.append_bytes_max = 30;
        config.inflight_bytes_max = 30;
    });
    for _ in 0..6 {
        peer.propose("ten bytes!").expect("leader");
    }
    let sent = peer.work();
    let appends = sent.iter().filter(|m| m.kind == Kind::Append && m.to == PeerId(2));
    assert_eq!(appends.count(), 3, "30 bytes of payload in flight");
    assert_eq!(peer.raw.progress(PeerId(2)).expect("member").inflights.bytes(), 30);
}

#[test]
fn appends_respect_the_size_limit_but_carry_at_least_one_entry() {
    for (limit, counts) in [(0, vec![1, 1, 1, 1]), (40, vec![2, 2]), (u64::MAX, vec![4])] {
        let mut peer = leader_with(|config| {
            config.append_bytes_max = limit;
            config.inflight_bytes_max = 0;
        });
        peer.raw.report_unreachable(PeerId(2));
        for _ in 0..4 {
            peer.propose("ten bytes!").expect("leader");
        }
        // The probe with the first entries is out; its answer releases the rest.
        let first = of_kind(&peer.work(), Kind::Append).iter().filter(|m| m.to == PeerId(2)).count();
        assert_eq!(first, 1);
        peer.raw.report_unreachable(PeerId(2));
        let mut sent = peer.exchange(message(Kind::HeartbeatResponse, 2, 1));
        let probed = of_kind(&sent, Kind::Append)[0].clone();
        sent = peer.exchange(ack(2, 1, probed.index.0 + probed.entries.len() as u64));
        let mut got = vec![probed.entries.len()];
        let carrying = |m: &&&Message| m.to == PeerId(2) && !m.entries.is_empty();
        got.extend(of_kind(&sent, Kind::Append).iter().filter(carrying).map(|m| m.entries.len()));
        assert_eq!(got, counts, "limit {limit}");
        assert!(entry_size(&probed.entries[0]) <= 20);
    }
}

#[test]
fn an_unreachable_peer_is_probed_again_from_its_match() {
    let mut peer = leader();
    peer.propose("x").expect("leader");
    peer.work();
    assert_eq!(peer.progress(2), (1, 3));
    peer.raw.report_unreachable(PeerId(2));
    assert_eq!(peer.progress(2), (1, 2));
    assert_eq!(peer.raw.progress(PeerId(2)).expect("member").state, ProgressState::Probe);
    assert!(peer.work().is_empty(), "nothing is sent by itself");
    peer.raw.report_unreachable(PeerId(9));
}

#[test]
fn refusals_in_replicate_fall_back_to_probing_and_stale_ones_are_ignored() {
    let mut peer = leader();
    peer.propose("x").expect("leader");
    peer.work();
    let before = peer.progress(2);
    assert!(peer.exchange(refusal(2, 1, 1, (0, 0))).is_empty(), "below the match: late");
    assert_eq!(peer.progress(2), before);
    let sent = peer.exchange(refusal(2, 1, 2, (1, 1)));
    assert_eq!((peer.progress(2), of_kind(&sent, Kind::Append).len()), ((1, 2), 1));
    assert_eq!(peer.raw.progress(PeerId(2)).expect("member").state, ProgressState::Probe);
    assert!(peer.exchange(refusal(2, 1, 7, (1, 1))).is_empty(), "not the probe that is out");
}

#[test]
fn late_refusals_never_move_next_below_the_match() {
    let mut peer = Peer::leader(&config(1), storage(members(&[1, 2, 3], &[]), &[1, 1, 1]));
    peer.exchange(ack(2, 2, 3));
    peer.raw.report_unreachable(PeerId(2));
    assert_eq!(peer.progress(2), (3, 4));
    peer.exchange(refusal(2, 2, 3, (0, 0)));
    assert_eq!(peer.progress(2), (3, 4));
}

#[test]
fn an_advanced_commit_is_told_to_everybody_and_a_repeated_ack_tells_nothing() {
    let mut peer = leader();
    peer.propose("x").expect("leader");
    peer.work();
    let sent = peer.exchange(ack(2, 1, 2));
    let told: Vec<_> = of_kind(&sent, Kind::Append).iter().map(|m| (m.to.0, m.commit.0)).collect();
    assert_eq!(told, [(2, 2), (3, 2)]);
    assert!(peer.exchange(ack(2, 1, 2)).is_empty());
    let sent = peer.exchange(ack(3, 1, 2));
    assert!(sent.is_empty(), "3 was told already");
}

#[test]
fn a_heartbeat_with_a_lower_commit_makes_the_next_ack_tell_again() {
    let mut peer = leader();
    for _ in 0..3 {
        peer.propose("x").expect("leader");
    }
    peer.work();
    // 3 acknowledges everything: commit 4 is broadcast, 2 is told as well.
    peer.exchange(ack(3, 1, 4));
    assert_eq!(peer.raw.commit(), Index(4));
    peer.tick(1);
    let sent = peer.work();
    assert_eq!(of_kind(&sent, Kind::Heartbeat)[0].commit, Index(1), "2 acknowledged only 1");
    let sent = peer.exchange(ack(2, 1, 2));
    assert_eq!(of_kind(&sent, Kind::Append).iter().map(|m| m.commit.0).collect::<Vec<_>>(), [4]);
    assert!(peer.exchange(ack(2, 1, 3)).is_empty(), "told by then");
}

#[test]
fn the_uncommitted_limit_admits_one_large_proposal_and_empty_ones() {
    let mut peer = leader_with(|config| config.uncommitted_bytes_max = 10);
    assert_eq!(peer.propose("much more than ten bytes"), Ok(()));
    assert_eq!(peer.propose("x"), Err(StepError::ProposalDropped));
    assert_eq!(peer.propose(""), Ok(()), "empty entries always fit");
    assert!(peer.raw.uncommitted_bytes() > 10);
    peer.work();
    let last = peer.raw.last_index().0;
    peer.exchange(ack(2, 1, last));
    assert_eq!(peer.raw.uncommitted_bytes(), 0, "applying gives the quota back");
    assert_eq!(peer.propose("five!"), Ok(()));
    assert_eq!(peer.propose("five!"), Ok(()));
    assert_eq!(peer.propose("x"), Err(StepError::ProposalDropped));
}

#[test]
fn forwarded_proposals_count_against_the_limit_and_are_taken_whole_or_not_at_all() {
    let mut peer = leader_with(|config| config.uncommitted_bytes_max = 10);
    let last = peer.raw.last_index();
    let entry = |data| flotilla_raft::Entry {
        data: bytes::Bytes::from_static(data),
        ..flotilla_raft::Entry::default()
    };
    let forwarded = |entries| Message { entries, ..message(Kind::Propose, 2, 0) };
    peer.step(forwarded(vec![entry(b"four"), entry(b"five!")]));
    assert_eq!(peer.refused(forwarded(vec![entry(b""), entry(b"xx")])), StepError::ProposalDropped);
    assert_eq!((peer.raw.last_index().0, peer.raw.uncommitted_bytes()), (last.0 + 2, 9));
}

#[test]
fn heartbeats_can_be_sent_at_once_by_leaders() {
    let mut peer = leader_with(|_| {});
    peer.raw.broadcast_heartbeat();
    let sent = peer.work();
    assert_eq!(of_kind(&sent, Kind::Heartbeat).len(), 2);
    let mut follower = Peer::follower(1, &[1]);
    follower.raw.broadcast_heartbeat();
    assert!(follower.work().is_empty());
}

#[test]
fn entries_of_earlier_leaderships_do_not_give_quota_back() {
    let mut storage = three();
    storage.append(&mut vec![flotilla_raft::Entry {
        index: Index(1),
        term: Term(1),
        data: bytes::Bytes::from_static(b"0123456789"),
        ..flotilla_raft::Entry::default()
    }]);
    storage.set_hard_state(HardState { term: Term(1), ..HardState::default() });
    let mut peer = Peer::leader(&Config { uncommitted_bytes_max: 10, ..config(1) }, storage);
    peer.propose("ten bytes!").expect("leader");
    peer.work();
    // Commits and applies entry 1 and the first entry of the term, not the proposal.
    peer.exchange(ack(2, 2, 2));
    assert_eq!((peer.raw.applied(), peer.raw.uncommitted_bytes()), (Index(2), 10));
}

#[test]
fn each_proposal_is_sent_at_once_and_in_the_order_of_peers() {
    let mut peer = leader();
    peer.propose("x").expect("leader");
    peer.propose("y").expect("leader");
    let sent = peer.work();
    let to: Vec<u64> = of_kind(&sent, Kind::Append).iter().map(|m| m.to.0).collect();
    assert_eq!(to, [2, 3, 2, 3]);
}

#[test]
fn messages_may_come_in_any_order() {
    let mut network = Network::new(3);
    network.campaign(1);
    for data in ["a", "b", "c"] {
        network.peer(1).propose(data).expect("leader");
    }
    let mut sent = network.peer(1).work();
    sent.reverse();
    for message in sent.clone().into_iter().chain(sent) {
        let to = message.to.0;
        network.peer(to).step(message);
    }
    network.settle();
    network.tick(1, 1);
    for id in 1..=3 {
        assert_eq!(network.peer(id).applied_data(), ["a", "b", "c"], "peer {id}");
    }
}
