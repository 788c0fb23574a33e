//! What travels and what is stored, as bytes: there and back, and whatever else comes.

use bytes::Bytes;
use flotilla_raft::{
    ConfChangeKind, ConfState, Entry, EntryKind, Extra, Index, Message, MessageKind, PeerId, Snapshot,
    SnapshotMeta, Term,
};
use proptest::prelude::*;

use crate::{
    codec::{decode_message, encode_message},
    machine::{Addresses, ChangeContext, Command, Machine, Operation, RequestId},
};

fn addresses() -> Addresses {
    Addresses { raft: "127.0.0.1:1".parse().unwrap(), http: "[::1]:65535".parse().unwrap() }
}

/// A message with every field that travels set.
fn full_message() -> Message {
    let meta = SnapshotMeta {
        index: Index(11),
        term: Term(12),
        conf_state: ConfState {
            voters: vec![PeerId(1), PeerId(2)],
            voters_outgoing: vec![PeerId(3)],
            learners: vec![PeerId(4)],
            learners_next: vec![PeerId(5)],
            auto_leave: true,
        },
    };
    let kinds = [EntryKind::Normal, EntryKind::ConfChange, EntryKind::ConfChangeV2];
    let entry = |kind| Entry { term: Term(7), index: Index(8), kind, data: Bytes::from_static(b"data") };
    Message {
        kind: MessageKind::Append,
        to: PeerId(1),
        from: PeerId(u64::MAX),
        term: Term(3),
        log_term: Term(4),
        index: Index(5),
        entries: kinds.into_iter().map(entry).collect(),
        commit: Index(6),
        snapshot: Some(Box::new(Snapshot { meta, data: Bytes::from_static(b"state") })),
        reject: true,
        context: Bytes::from_static(b"context"),
        extra: Extra {
            reject_hint: Index(9),
            priority: -1,
            request_snapshot: Index(10),
            commit_term: Term(13),
            ..Extra::default()
        }
        .boxed(),
    }
}

#[test]
fn messages_between_peers_arrive_as_they_were_sent_and_local_ones_not_at_all() {
    use MessageKind as Kind;
    let between = [
        Kind::Propose,
        Kind::Append,
        Kind::AppendResponse,
        Kind::Vote,
        Kind::VoteResponse,
        Kind::Snapshot,
        Kind::Heartbeat,
        Kind::HeartbeatResponse,
        Kind::TransferLeader,
        Kind::TimeoutNow,
        Kind::ReadIndex,
        Kind::ReadIndexResponse,
        Kind::PreVote,
        Kind::PreVoteResponse,
    ];
    for kind in between {
        for message in [Message { kind, ..full_message() }, Message { kind, ..Message::default() }] {
            assert_eq!(decode_message(encode_message(&message).into()), Ok(message));
        }
    }
    let local = [
        Kind::Hup,
        Kind::Beat,
        Kind::Unreachable,
        Kind::SnapshotStatus,
        Kind::CheckQuorum,
        Kind::StorageAppend,
        Kind::StorageAppendResponse,
        Kind::StorageApply,
        Kind::StorageApplyResponse,
        Kind::ForgetLeader,
    ];
    for kind in local {
        let message = Message { kind, ..Message::default() };
        assert!(decode_message(encode_message(&message).into()).is_err(), "{kind:?}");
    }
}

#[test]
fn every_prefix_of_a_message_is_refused() {
    let bytes = Bytes::from(encode_message(&full_message()));
    for length in 0..bytes.len() {
        assert!(decode_message(bytes.slice(..length)).is_err(), "prefix of {length}");
    }
}

#[test]
fn commands_and_contexts_survive_encoding() {
    let request = RequestId { session: 1, sequence: u64::MAX };
    for operation in
        [Operation::Put(Bytes::from_static(b"v")), Operation::Put(Bytes::new()), Operation::Delete]
    {
        let command = Command { request, key: "ключ".into(), operation };
        assert_eq!(Command::decode(command.encode()), Ok(command));
    }
    assert!(Command::decode(Bytes::new()).is_err(), "the entry of a new leader is no command");
    for addresses in [None, Some(addresses())] {
        let context = ChangeContext { request, addresses };
        assert_eq!(ChangeContext::decode(context.encode()), Ok(context));
    }
}

#[test]
fn a_machine_survives_encoding_and_remembers_who_left() {
    let mut machine = Machine { applied: Index(9), ..Machine::default() };
    for (key, operation) in [
        ("a", Operation::Put(Bytes::from_static(b"1"))),
        ("b", Operation::Put(Bytes::from_static(b"2"))),
        ("a", Operation::Delete),
        ("c", Operation::Delete),
    ] {
        machine.apply(Command { request: RequestId::default(), key: key.into(), operation });
    }
    machine.apply_change(ConfChangeKind::AddLearner, PeerId(1), Some(addresses()));
    machine.apply_change(ConfChangeKind::AddVoter, PeerId(1), None);
    machine.apply_change(ConfChangeKind::AddVoter, PeerId(2), Some(addresses()));
    machine.apply_change(ConfChangeKind::RemovePeer, PeerId(2), None);
    assert_eq!(machine.values.keys().collect::<Vec<_>>(), ["b"]);
    assert_eq!(machine.members.keys().collect::<Vec<_>>(), [&PeerId(1)], "promotion keeps the addresses");
    assert_eq!(machine.removed.iter().collect::<Vec<_>>(), [&PeerId(2)]);
    assert_eq!(Machine::decode(machine.applied, machine.encode()), Ok(machine));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(data in prop::collection::vec(any::<u8>(), 0..300)) {
        let data = Bytes::from(data);
        let _ = decode_message(data.clone());
        let _ = Command::decode(data.clone());
        let _ = ChangeContext::decode(data.clone());
        let _ = Machine::decode(Index(1), data);
    }

    #[test]
    fn a_damaged_message_never_panics(at in 0_usize..400, byte in any::<u8>()) {
        let mut data = encode_message(&full_message());
        let at = at % data.len();
        data[at] = byte;
        let _ = decode_message(data.into());
    }
}
