//! Messages between peers, and between a peer and its storage threads.

use bytes::Bytes;

use crate::types::{Entry, HardState, Index, PeerId, Snapshot, Term};

/// Kind of a [`Message`]. The numbers are part of the store-to-store wire format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum MessageKind {
    /// Local: start an election.
    #[default]
    Hup = 0,
    /// Local: send heartbeats.
    Beat = 1,
    /// Append `entries` to the leader's log; forwarded by followers.
    Propose = 2,
    /// Leader to follower: entries, or an empty probe that carries the commit index.
    Append = 3,
    /// Answer to `Append`, `Snapshot` (position reached) or a stale leader.
    AppendResponse = 4,
    /// Candidate asks for a vote.
    Vote = 5,
    /// Answer to `Vote`.
    VoteResponse = 6,
    /// Leader to follower: install a snapshot.
    Snapshot = 7,
    /// Leader to follower: still here; carries commit index and read context.
    Heartbeat = 8,
    /// Answer to `Heartbeat`; echoes its context.
    HeartbeatResponse = 9,
    /// Local: a message to `from` could not be delivered.
    Unreachable = 10,
    /// Local: outcome of a snapshot to `from`; `reject` = it failed.
    SnapshotStatus = 11,
    /// Local: check that a quorum was heard from.
    CheckQuorum = 12,
    /// Ask the leader to hand over to `from`.
    TransferLeader = 13,
    /// Leader to follower: campaign now.
    TimeoutNow = 14,
    /// Ask for a read index; `context` names the request.
    ReadIndex = 15,
    /// Answer to a forwarded `ReadIndex`.
    ReadIndexResponse = 16,
    /// Asks whether a vote would be given.
    PreVote = 17,
    /// Answer to `PreVote`.
    PreVoteResponse = 18,
    /// To the append thread: persist hard state, entries and snapshot, then deliver `responses`.
    StorageAppend = 19,
    /// From the append thread: what is durable now.
    StorageAppendResponse = 20,
    /// To the apply thread: apply `entries`, then deliver `responses`.
    StorageApply = 21,
    /// From the apply thread: what was applied.
    StorageApplyResponse = 22,
    /// Local: forget the current leader without changing the term.
    ForgetLeader = 23,
}

impl MessageKind {
    /// What peers send each other; the other kinds never leave a process, and none of them is taken from the network.
    pub const BETWEEN_PEERS: [Self; 14] = [
        Self::Propose,
        Self::Append,
        Self::AppendResponse,
        Self::Vote,
        Self::VoteResponse,
        Self::Snapshot,
        Self::Heartbeat,
        Self::HeartbeatResponse,
        Self::TransferLeader,
        Self::TimeoutNow,
        Self::ReadIndex,
        Self::ReadIndexResponse,
        Self::PreVote,
        Self::PreVoteResponse,
    ];
}

/// One message. Which fields mean something depends on `kind`; the rest stay at their defaults.
///
/// Two cache lines: what few kinds carry lies in [`Extra`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Kind.
    pub kind: MessageKind,
    /// Whether the request was refused.
    pub reject: bool,
    /// Destination.
    pub to: PeerId,
    /// Sender; 0 for local messages.
    pub from: PeerId,
    /// Sender's term (the term asked for in vote requests); 0 for local messages and proposals.
    pub term: Term,
    /// Term of the entry at `index` (appends, votes), or the hint's term (rejected appends).
    pub log_term: Term,
    /// Log position before `entries` (appends), last own position (votes), acknowledged or rejected position
    /// (responses).
    pub index: Index,
    /// Sender's commit index, bounded for heartbeats by what the receiver acknowledged; in their answers only with
    /// `skip_commit_broadcast`.
    pub commit: Index,
    /// Entries to append, propose or apply.
    pub entries: Vec<Entry>,
    /// Read request, or the mark of a leadership transfer in vote requests.
    pub context: Bytes,
    /// Snapshot to install or to store.
    pub snapshot: Option<Box<Snapshot>>,
    /// What few kinds carry; see [`Self::extra`].
    pub extra: Option<Box<Extra>>,
}

/// What only votes, refused appends and storage messages carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// Own vote, in `StorageAppend` only.
    pub vote: PeerId,
    /// Where the logs may still agree, in a refused `AppendResponse`.
    pub reject_hint: Index,
    /// Election priority of the candidate (vote requests); 0 = default.
    pub priority: i64,
    /// Index from which a follower asks for a fresh snapshot (refused `AppendResponse`); 0 = none.
    pub request_snapshot: Index,
    /// Term of `commit`, where `commit` is offered to fast-forward a voter (vote messages); 0 = not offered.
    pub commit_term: Term,
    /// Messages to deliver once this storage message's work is durable (or applied).
    pub responses: Vec<Message>,
}

impl Extra {
    /// For [`Message::extra`]: none if all is at its default, so that equal messages compare equal.
    pub fn boxed(self) -> Option<Box<Self>> {
        (self != Self::NONE).then(|| Box::new(self))
    }

    const NONE: Self = Self {
        vote: PeerId::ZERO,
        reject_hint: Index::ZERO,
        priority: 0,
        request_snapshot: Index::ZERO,
        commit_term: Term::ZERO,
        responses: Vec::new(),
    };
}

impl Default for Extra {
    fn default() -> Self {
        Self::NONE
    }
}

impl Message {
    /// What few kinds carry; all at its default if this one does not.
    pub fn extra(&self) -> &Extra {
        static NONE: Extra = Extra::NONE;
        self.extra.as_deref().unwrap_or(&NONE)
    }

    /// Hard state that a `StorageAppend` carries; `None` if it did not change.
    pub fn hard_state(&self) -> Option<HardState> {
        let state = HardState { term: self.term, vote: self.extra().vote, commit: self.commit };
        (!state.is_empty()).then_some(state)
    }

    /// Takes the messages to deliver once this storage message's work is done.
    pub fn take_responses(&mut self) -> Vec<Self> {
        self.extra.as_deref_mut().map(|extra| std::mem::take(&mut extra.responses)).unwrap_or_default()
    }
}
