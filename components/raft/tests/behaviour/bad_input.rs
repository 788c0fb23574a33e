//! What no correct peer sends: refused or ignored, never a panic.

use bytes::Bytes;
use flotilla_raft::{
    ConfState, Config, Entry, EntryKind, Extra, Index, MemStorage, Message, MessageKind as Kind, PeerId,
    RawNode, Role, StepError, Term,
};
use proptest::prelude::*;

use crate::harness::*;

#[test]
fn local_kinds_are_refused_from_the_network() {
    let mut peer = Peer::follower(1, &[]);
    for kind in [
        Kind::Hup,
        Kind::Beat,
        Kind::ForgetLeader,
        Kind::Unreachable,
        Kind::SnapshotStatus,
        Kind::CheckQuorum,
        Kind::StorageAppend,
        Kind::StorageAppendResponse,
        Kind::StorageApply,
        Kind::StorageApplyResponse,
    ] {
        assert_eq!(peer.refused(message(kind, 2, 1)), StepError::LocalMessage, "{kind:?}");
        let mut from_thread = message(kind, 2, 1);
        from_thread.from = PeerId::APPEND_THREAD;
        assert_eq!(
            peer.refused(from_thread),
            StepError::LocalMessage,
            "{kind:?} without async storage writes"
        );
    }
}

#[test]
fn responses_of_strangers_are_refused_by_leaders_and_followers() {
    let mut leader = Peer::leader(&config(1), storage(members(&[1, 2, 3], &[]), &[]));
    let mut follower = Peer::follower(1, &[]);
    for kind in [
        Kind::AppendResponse,
        Kind::VoteResponse,
        Kind::PreVoteResponse,
        Kind::HeartbeatResponse,
        Kind::ReadIndexResponse,
    ] {
        assert_eq!(leader.refused(message(kind, 9, 1)), StepError::PeerNotFound, "{kind:?}");
        assert_eq!(follower.refused(message(kind, 9, 1)), StepError::PeerNotFound, "{kind:?}");
    }
}

#[test]
fn messages_without_term_or_from_nobody_are_malformed() {
    let mut peer = Peer::follower(1, &[1]);
    for kind in [Kind::Append, Kind::Heartbeat, Kind::Snapshot, Kind::Vote, Kind::PreVote, Kind::TimeoutNow] {
        for (from, term) in [(2, 0), (0, 1), (1, 1), (u64::MAX, 1), (2, u64::MAX)] {
            assert_eq!(
                peer.refused(message(kind, from, term)),
                StepError::Malformed,
                "{kind:?} {from} {term}"
            );
        }
    }
    assert_eq!(peer.raw.term(), Term(1));
}

#[test]
fn entries_with_gaps_or_falling_terms_are_malformed() {
    for change in [
        (|m| m.entries[1].index = Index(9)) as fn(&mut Message),
        |m| m.entries[0].index = Index(1),
        |m| m.entries[1].term = Term(1),
        |m| m.entries[1].term = Term(9),
        |m| m.index = Index(u64::MAX / 2),
    ] {
        let mut peer = Peer::follower(1, &[1, 2]);
        let mut bad = append(2, 3, (2, 2), &[2, 3], 4);
        change(&mut bad);
        assert_eq!(peer.refused(bad), StepError::Malformed);
        assert_eq!(peer.terms(), [1, 2]);
    }
}

#[test]
fn contradictions_to_committed_entries_are_reported() {
    let mut peer = Peer::follower(1, &[]);
    peer.exchange(append(2, 1, (0, 0), &[1, 1, 1], 2));
    let bad = peer.refused(append(3, 2, (2, 1), &[], 0).with_entries(entries(3, &[2])).with_prev(1, 1));
    assert_eq!(bad, StepError::Malformed, "below the commit index and not continuous");
    peer.exchange(append(3, 2, (2, 1), &[2], 3));
    assert_eq!(peer.terms(), [1, 1, 2]);
    let lost = peer.refused(heartbeat(3, 2, 9));
    assert_eq!(lost, StepError::CommitBeyondLog { commit: Index(9), last: Index(3) });
    assert_eq!(peer.raw.commit(), Index(3));
}

/// Small edits.
trait Edit {
    fn with_entries(self, entries: Vec<Entry>) -> Self;
    fn with_prev(self, index: u64, term: u64) -> Self;
}

impl Edit for Message {
    fn with_entries(mut self, entries: Vec<Entry>) -> Self {
        self.entries = entries;
        self
    }

    fn with_prev(mut self, index: u64, term: u64) -> Self {
        self.index = Index(index);
        self.log_term = Term(term);
        self
    }
}

#[test]
fn acknowledgements_beyond_the_log_are_malformed() {
    let mut peer = Peer::leader(&config(1), storage(members(&[1, 2, 3], &[]), &[]));
    assert_eq!(peer.refused(ack(2, 1, 99)), StepError::Malformed);
    assert_eq!(peer.progress(2).0, 0);
    assert_eq!(peer.raw.commit(), Index(0));
}

#[test]
fn empty_proposals_and_corrupt_conf_changes_are_refused() {
    let mut peer = Peer::leader(&config(1), storage(members(&[1, 2, 3], &[]), &[]));
    assert_eq!(peer.refused(message(Kind::Propose, 2, 0)), StepError::Malformed);
    for kind in [EntryKind::ConfChange, EntryKind::ConfChangeV2] {
        let corrupt = Entry { kind, data: Bytes::from_static(b"\xff\xff"), ..Entry::default() };
        let proposal = Message { entries: vec![corrupt], ..message(Kind::Propose, 2, 0) };
        assert_eq!(peer.refused(proposal), StepError::CorruptConfChange);
    }
    assert_eq!(peer.raw.last_index(), Index(1));
}

#[test]
fn snapshots_without_us_or_with_an_impossible_membership_change_nothing() {
    let mut peer = Peer::follower(1, &[1]);
    let sent = peer.exchange(snapshot_message(2, 1, snapshot(9, 1, members(&[2, 3], &[]))));
    assert_eq!((sent[0].kind, sent[0].index), (Kind::AppendResponse, Index(0)));
    let twice = ConfState { learners: ids(&[1]), ..members(&[1, 2], &[]) };
    let stray = ConfState { learners_next: ids(&[3]), ..members(&[1, 2], &[]) };
    let nobody = ConfState { learners: ids(&[1]), ..ConfState::default() };
    for conf in [twice, stray, nobody] {
        let refused = peer.refused(snapshot_message(2, 1, snapshot(9, 1, conf)));
        assert_eq!(refused, StepError::ImpossibleMembership);
    }
    peer.exchange(message(Kind::Snapshot, 2, 1));
    assert_eq!((peer.terms(), peer.raw.commit()), (vec![1], Index(0)));
}

#[test]
fn forged_conf_changes_change_nothing_on_any_replica() {
    use flotilla_raft::{ConfChange, ConfChangeError, ConfChangeKind, ConfChangeV2};
    let mut peer = Peer::new(&config(1), storage(members(&[1], &[]), &[]));
    let remove = ConfChange { kind: ConfChangeKind::RemovePeer, peer: PeerId(1), context: Bytes::new() };
    assert_eq!(peer.raw.apply_conf_change(&remove.clone().into_v2()), members(&[1], &[]));
    let refused = peer.raw.try_apply_conf_change(&remove.into_v2());
    assert_eq!(refused, Err(ConfChangeError::RemovedAllVoters));
    let leave = peer.raw.try_apply_conf_change(&ConfChangeV2::default());
    assert_eq!(leave, Err(ConfChangeError::NotJoint));
}

#[test]
#[should_panic(expected = "ready() was called twice without advance()")]
fn taking_two_readys_is_a_bug_of_the_caller() {
    let mut peer = Peer::follower(1, &[]);
    peer.raw.ready();
    peer.raw.ready();
}

#[test]
#[should_panic(expected = "advance() was called without ready()")]
fn advancing_without_ready_is_a_bug_of_the_caller() {
    Peer::follower(1, &[]).raw.advance();
}

/// All kinds, by number.
const KINDS: [Kind; 24] = [
    Kind::Hup,
    Kind::Beat,
    Kind::Propose,
    Kind::Append,
    Kind::AppendResponse,
    Kind::Vote,
    Kind::VoteResponse,
    Kind::Snapshot,
    Kind::Heartbeat,
    Kind::HeartbeatResponse,
    Kind::Unreachable,
    Kind::SnapshotStatus,
    Kind::CheckQuorum,
    Kind::TransferLeader,
    Kind::TimeoutNow,
    Kind::ReadIndex,
    Kind::ReadIndexResponse,
    Kind::PreVote,
    Kind::PreVoteResponse,
    Kind::StorageAppend,
    Kind::StorageAppendResponse,
    Kind::StorageApply,
    Kind::StorageApplyResponse,
    Kind::ForgetLeader,
];

fn position() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..6, 1 => Just(u64::MAX), 1 => Just(u64::MAX - 1), 1 => Just(u64::MAX / 2)]
}

fn any_message() -> impl Strategy<Value = Message> {
    let head = (0usize..24, position(), position(), position(), position(), position(), any::<bool>());
    let tail = (position(), position(), 0usize..3, any::<bool>(), position(), position());
    (head, tail).prop_map(|(head, tail)| {
        let (kind, from, term, log_term, index, commit, reject) = head;
        let (hint, request, count, has_snapshot, entry_term, entry_kind) = tail;
        let kinds = [EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2];
        let entry = |offset: usize| Entry {
            index: Index(index.wrapping_add(1 + offset as u64)),
            term: Term(entry_term),
            kind: kinds[(entry_kind % 3) as usize],
            data: Bytes::from(vec![2, 0, 1, (entry_kind % 4) as u8, (hint % 256) as u8]),
        };
        Message {
            kind: KINDS[kind],
            from: PeerId(from),
            to: PeerId(1),
            term: Term(term),
            log_term: Term(log_term),
            index: Index(index),
            commit: Index(commit),
            reject,
            extra: Extra {
                reject_hint: Index(hint),
                request_snapshot: Index(request),
                commit_term: Term(request),
                ..Extra::default()
            }
            .boxed(),
            context: Bytes::from(commit.to_be_bytes().to_vec()),
            entries: (0..count).map(entry).collect(),
            snapshot: has_snapshot.then(|| Box::new(snapshot(index, log_term, members(&[1, 2, 3], &[])))),
        }
    })
}

#[test]
fn snapshots_at_impossible_positions_are_malformed() {
    for (index, term) in [(u64::MAX, 1), (u64::MAX - 1, 1), (5, u64::MAX)] {
        let mut peer = Peer::follower(1, &[1]);
        let forged = snapshot(index, term, members(&[1, 2, 3], &[]));
        assert_eq!(peer.refused(snapshot_message(2, 1, forged)), StepError::Malformed, "{index} {term}");
        assert_eq!((peer.raw.commit(), peer.raw.last_index()), (Index(0), Index(1)));
    }
}

/// Takes and acknowledges work like a careless but correct owner.
fn drain(raw: &mut RawNode<MemStorage>) {
    for _ in 0..20 {
        if !raw.has_ready() {
            return;
        }
        let mut ready = raw.ready();
        if let Some(snapshot) = ready.snapshot {
            let _ = raw.storage_mut().apply_snapshot(*snapshot);
        }
        raw.storage_mut().append(&mut ready.entries);
        for entry in &ready.committed_entries {
            if let EntryKind::ConfChangeV2 = entry.kind
                && let Ok(change) = flotilla_raft::ConfChangeV2::decode(&entry.data)
            {
                raw.apply_conf_change(&change);
            }
        }
        raw.advance();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_sequence_of_forged_messages_panics(
        leads in any::<bool>(),
        flags in any::<u8>(),
        messages in prop::collection::vec(any_message(), 1..30),
    ) {
        let config = Config {
            check_quorum: flags & 1 != 0,
            pre_vote: flags & 2 != 0,
            batch_append: flags & 4 != 0,
            commit_fast_forward: flags & 8 != 0,
            inflight_messages_max: if flags & 16 != 0 { 1 } else { 256 },
            ..config(1)
        };
        let mut peer = Peer::new(&config, storage(members(&[1, 2, 3], &[]), &[1, 1]));
        if leads {
            peer.win();
        }
        for message in messages {
            let _ = peer.raw.step(message);
            peer.raw.tick();
            drain(&mut peer.raw);
            peer.raw.check_invariants();
        }
        prop_assert!(peer.raw.role() != Role::Leader || peer.raw.leader() == PeerId(1));
    }
}
