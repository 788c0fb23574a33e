//! What a node wants done.

use crate::{
    message::Message,
    reads::ReadState,
    types::{Entry, HardState, Index, Snapshot, SoftState, Term},
};

/// Work for the owner of a node, taken by [`crate::RawNode::ready`].
///
/// Without async storage writes, in this order:
/// 1. store `snapshot`, append `entries`, store `hard_state`; sync if `must_sync` or if there is a snapshot;
/// 2. send `messages`: they promise that step 1 is durable. (A leader's appends and heartbeats promise nothing about
///    its own disk and may leave before.)
/// 3. apply `snapshot` and `committed_entries`, calling [`crate::RawNode::apply_conf_change`] for conf changes;
/// 4. call [`crate::RawNode::advance`].
///
/// With async storage writes, all of it but `read_states` and `soft_state` is in `messages`: send each to its
/// destination, storage threads included; the other fields repeat it for observers. A storage thread does the work of its messages in order and then
/// delivers their `responses`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Leader and own role, if changed.
    pub soft_state: Option<SoftState>,
    /// To be stored before sending, if changed.
    pub hard_state: Option<HardState>,
    /// Reads that may be served once their index is applied.
    pub read_states: Vec<ReadState>,
    /// To be appended to the stored log, replacing what is at or after the first one's index.
    pub entries: Vec<Entry>,
    /// To replace stored log and state machine.
    pub snapshot: Option<Box<Snapshot>>,
    /// To be applied to the state machine.
    pub committed_entries: Vec<Entry>,
    /// To be sent.
    pub messages: Vec<Message>,
    /// Whether entries, term and vote must be durable before messages leave. As in etcd-io/raft a snapshot does not
    /// count, and must be durable as well.
    pub must_sync: bool,
}

impl Ready {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.soft_state.is_none()
            && self.hard_state.is_none()
            && self.read_states.is_empty()
            && self.entries.is_empty()
            && self.snapshot.is_none()
            && self.committed_entries.is_empty()
            && self.messages.is_empty()
    }
}

/// Work for an owner whose log and state machine are the business of other threads, taken by
/// [`crate::RawNode::take_work`]. What [`Ready`] with async storage writes says in messages is said here in values, and the
/// lists are drained and used again: nothing is allocated for a piece of work.
///
/// - `ready.messages` may leave at once;
/// - `storing`, if there, goes with `ready.snapshot`, `ready.entries` and `ready.hard_state` to who stores them, in the order
///   of the work: when they are stored (synced, if `ready.must_sync` or if there is a snapshot), `answers` may leave and
///   [`crate::RawNode::on_stored`] is told;
/// - `applying`, if there, goes with `ready.committed_entries` to who applies them; then
///   [`crate::RawNode::on_applied`] is told.
#[derive(Debug, Default)]
pub struct Work {
    /// What is to be done.
    pub ready: Ready,
    /// To other peers: true once the work is stored.
    pub answers: Vec<Message>,
    /// For [`crate::RawNode::on_stored`]; `None` if nothing is to be stored and no answer waits for what is being stored.
    pub storing: Option<Storing>,
    /// For [`crate::RawNode::on_applied`]; `None` if nothing is to be applied.
    pub applying: Option<Applying>,
}

impl Work {
    /// Whether the lists are empty.
    pub fn is_taken_over(&self) -> bool {
        let Ready { read_states, entries, committed_entries, messages, .. } = &self.ready;
        let is_ready_empty = read_states.is_empty() && entries.is_empty() && committed_entries.is_empty();
        is_ready_empty && messages.is_empty() && self.answers.is_empty()
    }
}

/// What a node learns when work is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storing {
    pub(crate) stored: Stored,
    /// A leader's acknowledgements to itself: term, first and last index.
    pub(crate) acks: Option<(Term, Index, Index)>,
    /// Other answers to itself, such as its own vote.
    pub(crate) own: Vec<Message>,
}

impl Storing {
    /// Whether the node learns nothing: it need not be told.
    pub fn is_empty(&self) -> bool {
        self.stored.is_nothing() && self.acks.is_none() && self.own.is_empty()
    }
}

/// How far storage has come when work is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Term when the work was taken.
    pub term: Term,
    /// End of the log then, if any of it was not stored.
    pub last: Option<(Index, Term)>,
    /// The work's snapshot.
    pub snapshot: Option<Index>,
}

impl Stored {
    /// Whether it says nothing.
    pub fn is_nothing(&self) -> bool {
        self.last.is_none() && self.snapshot.is_none()
    }
}

/// What a node learns when committed entries are applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applying {
    /// Term when they were handed out.
    pub(crate) term: Term,
    /// The last of them.
    pub(crate) index: Index,
    /// Their size.
    pub(crate) bytes: u64,
    /// How much of it counts as uncommitted in this leadership.
    pub(crate) payload: u64,
}
