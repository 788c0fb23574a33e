//! What a node wants done.

use crate::{
    message::Message,
    reads::ReadState,
    types::{Entry, HardState, Snapshot, SoftState},
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
