//! Storage work as messages: what they carry, and what their answers make true.

use bytes::Bytes;
use flotilla_raft::{
    Config, Index, Message, MessageKind as Kind, PeerId, ReadOnlyOption, Role, StepError, Term,
};

use crate::harness::*;

/// A peer with storage threads that are run by hand.
struct Async {
    peer: Peer,
    append: Vec<Message>,
    apply: Vec<Message>,
}

impl Async {
    fn new(config: Config) -> Self {
        let config = Config { async_storage_writes: true, ..config };
        let peer = Peer::new(&config, storage(members(&[1, 2, 3], &[]), &[]));
        Self { peer, append: Vec::new(), apply: Vec::new() }
    }

    /// Takes all Readys; storage work is queued. Returns the network messages.
    fn take(&mut self) -> Vec<Message> {
        let mut network = Vec::new();
        while self.peer.raw.has_ready() {
            let ready = self.peer.raw.ready();
            self.peer.reads.extend(ready.read_states);
            for message in ready.messages {
                match message.to {
                    PeerId::APPEND_THREAD => self.append.push(message),
                    PeerId::APPLY_THREAD => self.apply.push(message),
                    _ => network.push(message),
                }
            }
        }
        network
    }

    /// Stores the oldest queued append. Returns what goes out.
    fn store(&mut self) -> Vec<Message> {
        let mut work = self.append.remove(0);
        let storage = self.peer.raw.storage_mut();
        if let Some(snapshot) = &work.snapshot {
            storage.apply_snapshot((**snapshot).clone()).expect("newer");
        }
        if let Some(state) = work.hard_state() {
            storage.set_hard_state(state);
        }
        storage.append(&mut work.entries);
        self.respond(work.take_responses())
    }

    fn apply(&mut self) -> Vec<u64> {
        let mut work = self.apply.remove(0);
        let indexes = work.entries.iter().map(|entry| entry.index.0).collect();
        assert!(self.respond(work.take_responses()).is_empty());
        indexes
    }

    fn respond(&mut self, responses: Vec<Message>) -> Vec<Message> {
        let (own, others): (Vec<_>, Vec<_>) = responses.into_iter().partition(|m| m.to == PeerId(1));
        for response in own {
            self.peer.step(response);
        }
        others
    }

    fn lead(config: Config) -> Self {
        let mut node = Self::new(config);
        node.peer.raw.campaign().expect("never refused");
        node.take();
        node.store();
        node.peer.step(message(Kind::VoteResponse, 2, 1));
        node.take();
        node.store();
        node.peer.step(ack(2, 1, 1));
        node.take();
        node.drain();
        assert_eq!((node.peer.raw.role(), node.peer.raw.applied()), (Role::Leader, Index(1)));
        node
    }

    fn drain(&mut self) {
        while !(self.append.is_empty() && self.apply.is_empty()) {
            while !self.append.is_empty() {
                self.store();
            }
            while !self.apply.is_empty() {
                self.apply();
            }
            self.take();
        }
    }
}

#[test]
fn each_proposal_is_acknowledged_to_its_own_leader_by_a_message() {
    let mut node = Async::lead(config(1));
    for data in ["x", "y", "z"] {
        node.peer.propose(data).expect("leader");
    }
    node.take();
    let responses = node.append[0].extra().responses.clone();
    let acks = of_kind(&responses, Kind::AppendResponse).into_iter().map(|m| (m.index.0, m.commit.0));
    assert_eq!(acks.collect::<Vec<_>>(), [(2, 0), (3, 0), (4, 0)]);
    node.drain();
    assert_eq!(node.peer.progress(1), (4, 5));
}

#[test]
fn votes_pre_votes_and_acknowledgements_leave_only_with_the_append_that_makes_them_true() {
    for (request, answer) in [
        (vote(Kind::Vote, 2, 1, (0, 0)), Kind::VoteResponse),
        (vote(Kind::PreVote, 2, 1, (0, 0)), Kind::PreVoteResponse),
        (append(2, 1, (0, 0), &[1], 0), Kind::AppendResponse),
        (append(2, 1, (5, 1), &[1], 0), Kind::AppendResponse),
    ] {
        let mut node = Async::new(config(1));
        node.peer.step(request);
        assert!(of_kind(&node.take(), answer).is_empty(), "{answer:?} before the append");
        let sent = node.store();
        assert_eq!(sent[0].kind, answer);
    }
    let mut node = Async::new(config(1));
    node.peer.step(heartbeat(2, 1, 0));
    assert_eq!(node.take()[0].kind, Kind::HeartbeatResponse, "promises nothing");
}

#[test]
fn the_append_carries_the_hard_state_only_when_it_changed_and_the_end_of_the_log_always() {
    let mut node = Async::lead(config(1));
    node.peer.propose("a").expect("leader");
    node.take();
    node.peer.propose("b").expect("leader");
    node.peer.step(ack(2, 1, 2));
    node.peer.step(ack(3, 1, 2));
    node.take();
    let [first, second] = node.append.as_slice() else { panic!("two appends") };
    assert_eq!((first.term, first.commit, first.extra().vote), (Term(0), Index(0), PeerId(0)));
    assert_eq!((second.term, second.commit, second.extra().vote), (Term(1), Index(2), PeerId(1)));
    let ends: Vec<_> = node
        .append
        .iter()
        .map(|append| append.extra().responses.last().expect("an answer").index.0)
        .collect();
    assert_eq!(ends, [2, 3]);
    // A commit alone, while older entries are being stored, still asks for the end of the log.
    node.peer.step(ack(2, 1, 3));
    node.peer.step(ack(3, 1, 3));
    node.take();
    let third = &node.append[2];
    assert!(third.entries.is_empty());
    assert_eq!(third.extra().responses.last().map(|response| response.index), Some(Index(3)));
    node.drain();
    // With nothing unstable there is nothing to answer.
    node.peer.propose("c").expect("leader");
    node.take();
    node.drain();
    node.peer.step(ack(2, 1, 4));
    node.take();
    assert!(node.append[0].extra().responses.is_empty(), "{:?}", node.append[0]);
}

#[test]
fn entries_are_handed_out_for_applying_only_once_they_are_stored_here() {
    let mut node = Async::lead(config(1));
    node.peer.propose("x").expect("leader");
    node.take();
    node.peer.step(ack(2, 1, 2));
    node.peer.step(ack(3, 1, 2));
    node.take();
    assert_eq!(node.peer.raw.commit(), Index(2), "a leader may commit what it has not stored");
    assert!(node.apply.is_empty());
    node.store();
    node.take();
    assert_eq!(node.apply(), [2]);
    assert_eq!(node.peer.raw.applied(), Index(2));
}

#[test]
fn applying_pauses_at_the_limit_until_acknowledged() {
    let mut node = Async::lead(Config { committed_bytes_max: 20, ..config(1) });
    for _ in 0..5 {
        node.peer.propose("0123456789").expect("leader");
    }
    node.take();
    node.store();
    node.peer.step(ack(2, 1, 6));
    node.take();
    node.take();
    assert_eq!(node.apply.len(), 1, "one entry of 18 bytes; a second would exceed the limit");
    assert!(!node.peer.raw.has_ready());
    assert_eq!(node.peer.raw.applying(), Index(2));
    assert_eq!(node.apply(), [2]);
    node.take();
    assert_eq!(node.apply(), [3], "resumed by the acknowledgement");
    // Cut short does not matter when everything fits: outstanding hand-outs count together.
    let mut node = Async::lead(Config { committed_bytes_max: 40, ..config(1) });
    for round in 0..4 {
        node.peer.propose("0123456789").expect("leader");
        node.take();
        node.store();
        node.peer.step(ack(2, 1, 2 + round));
        node.take();
    }
    let handed: usize = node.apply.iter().map(|work| work.entries.len()).sum();
    assert_eq!(handed, 3, "the third hand-out reaches 40 bytes");
}

#[test]
fn an_answer_of_an_earlier_term_does_not_make_replaced_entries_stable() {
    let mut node = Async::new(config(1));
    node.peer.step(append(2, 1, (0, 0), &[1, 1], 0));
    node.take();
    // Before that is stored, another leader replaces the entries with as many.
    node.peer.step(append(3, 2, (0, 0), &[2, 2], 0));
    node.take();
    let late = node.append[0].extra().responses.last().expect("an answer").clone();
    assert_eq!((late.kind, late.index, late.log_term), (Kind::StorageAppendResponse, Index(2), Term(1)));
    node.store();
    assert_eq!(node.peer.terms(), [2, 2], "the view is that of the second append");
    assert_eq!(node.append[0].entries.len(), 2, "handed out again");
    node.store();
    node.take();
    assert_eq!(node.peer.raw.storage().entries_slice().len(), 2);
    node.peer.step(heartbeat(3, 2, 2));
    node.take();
    assert_eq!(node.apply(), [1, 2]);
}

#[test]
fn an_entry_that_was_replaced_and_came_back_is_not_stable_by_the_first_answer() {
    let mut node = Async::new(config(1));
    for (from, term, prev, terms) in
        [(2, 1, (0, 0), vec![1, 1]), (3, 2, (1, 1), vec![2]), (2, 3, (1, 1), vec![1, 3])]
    {
        node.peer.step(append(from, term, prev, &terms, 0));
        node.take();
    }
    assert_eq!(node.peer.terms(), [1, 1, 3]);
    node.peer.step(heartbeat(2, 3, 2));
    // The first write is done; the second, under way, replaces entry 2 on disk once more.
    node.store();
    node.take();
    assert!(node.apply.is_empty(), "entry 2 of term 1 is not safe on disk");
    node.store();
    node.take();
    assert!(node.apply.is_empty());
    node.store();
    node.take();
    assert_eq!(node.apply(), [1, 2]);
}

#[test]
fn entries_stored_and_replaced_within_a_term_are_told_apart() {
    // A stored acknowledgement names (index, term): another term at that index is ignored.
    let mut node = Async::new(config(1));
    node.peer.step(append(2, 3, (0, 0), &[1], 0));
    node.take();
    let mut forged = node.append[0].extra().responses.last().expect("an answer").clone();
    forged.log_term = Term(2);
    node.peer.step(forged);
    node.peer.step(heartbeat(2, 3, 1));
    node.take();
    assert!(node.apply.is_empty(), "entry 1 is not stable");
    node.store();
    node.take();
    assert_eq!(node.apply(), [1]);
}

#[test]
fn a_stored_snapshot_counts_even_when_its_answer_is_of_an_earlier_term() {
    let mut node = Async::new(config(1));
    node.peer.step(snapshot_message(2, 1, snapshot(9, 1, members(&[1, 2, 3], &[]))));
    node.take();
    node.peer.step(heartbeat(3, 2, 9));
    node.take();
    assert!(!node.peer.raw.is_promotable());
    let sent = node.store();
    assert_eq!((sent[0].kind, sent[0].index), (Kind::AppendResponse, Index(9)));
    assert_eq!(node.peer.raw.applied(), Index(9));
    assert!(node.peer.raw.is_promotable());
}

#[test]
fn storage_answers_that_cannot_be_are_refused() {
    let mut node = Async::lead(config(1));
    let answer = |kind, from: PeerId| Message { kind, from, term: Term(1), ..Message::default() };
    assert_eq!(node.peer.refused(answer(Kind::StorageAppendResponse, PeerId(2))), StepError::LocalMessage);
    let mut applied = answer(Kind::StorageApplyResponse, PeerId::APPLY_THREAD);
    applied.term = Term(0);
    node.peer.step(applied.clone());
    applied.entries = entries(50, &[1]);
    assert_eq!(node.peer.refused(applied), StepError::Malformed);
    let mut own = ack(1, 1, 1);
    own.reject = true;
    assert_eq!(node.peer.refused(own), StepError::LocalMessage);
}

#[test]
#[should_panic(expected = "the storage threads' responses acknowledge")]
fn advance_is_a_bug_with_async_storage() {
    Async::new(config(1)).peer.raw.advance();
}

#[test]
fn reads_and_leases_work_alike() {
    let mut node =
        Async::lead(Config { check_quorum: true, read_only: ReadOnlyOption::LeaseBased, ..config(1) });
    node.peer.raw.read_index(Bytes::from_static(b"r"));
    node.take();
    assert_eq!(node.peer.reads.len(), 1);
}

#[test]
fn a_candidate_that_others_elect_leads_at_once_or_once_its_own_vote_is_stored() {
    for own_vote_first in [false, true] {
        let mut node = Async::new(Config { own_vote_first, ..config(1) });
        node.peer.raw.campaign().expect("never refused");
        node.take();
        for voter in [2, 3] {
            node.peer.step(message(Kind::VoteResponse, voter, 1));
        }
        let expected = if own_vote_first { Role::Candidate } else { Role::Leader };
        assert_eq!(node.peer.raw.role(), expected, "a crash now would lose the vote");
        node.store();
        assert_eq!(node.peer.raw.role(), Role::Leader);
    }
}

#[test]
fn a_leader_may_apply_so_many_entries_before_it_has_stored_them() {
    for (apply_ahead_max, applied) in [(0, vec![]), (2, vec![2, 3]), (9, vec![2, 3, 4])] {
        let mut node = Async::lead(Config { apply_ahead_max, ..config(1) });
        for data in ["x", "y", "z"] {
            node.peer.propose(data).expect("leader");
        }
        node.take();
        for voter in [2, 3] {
            node.peer.step(ack(voter, 1, 4));
        }
        node.take();
        assert_eq!((node.peer.raw.commit(), node.peer.raw.stable()), (Index(4), Index(1)));
        let mut ahead = Vec::new();
        while !node.apply.is_empty() {
            ahead.extend(node.apply());
            node.take();
        }
        assert_eq!(ahead, applied, "{apply_ahead_max} ahead");
        node.drain();
        assert_eq!((node.peer.raw.applied(), node.peer.raw.stable()), (Index(4), Index(4)));
    }
}

#[test]
fn a_follower_applies_what_it_has_stored() {
    let mut node = Async::new(Config { apply_ahead_max: 9, ..config(1) });
    node.peer.step(append(2, 1, (0, 0), &[1, 1], 2));
    node.take();
    assert_eq!((node.peer.raw.commit(), node.apply.len()), (Index(2), 0));
    node.store();
    node.take();
    assert_eq!(node.apply(), [1, 2]);
}
