//! What can go wrong, by who can cause it.

use crate::{storage::StorageError, types::Index};

/// Why a message or a request was not taken. The node is unchanged, but for a message's term, its sender as leader and the
/// election timer, which are taken over before the rest is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    /// There is no leader to take the proposal, or the leader cannot take it now. Retry later or elsewhere.
    #[error("raft proposal dropped")]
    ProposalDropped,
    /// The message kind never comes from another peer.
    #[error("raft: cannot step raft local message")]
    LocalMessage,
    /// A response from a peer that the active configuration does not know. Ignore it.
    #[error("raft: cannot step as peer not found")]
    PeerNotFound,
    /// The message carries terms, indexes or entries that no correct peer sends. Its term may have been taken over.
    #[error("message carries an impossible term, index or entry sequence")]
    Malformed,
    /// A leader counts on entries that this log does not have: this peer lost durable data.
    #[error("commit index {commit} lies beyond the last entry {last}; the log lost data")]
    CommitBeyondLog {
        /// Commit index of the leader.
        commit: Index,
        /// Own last index.
        last: Index,
    },
    /// A leader wants to replace a committed entry: one of the two peers lost durable data.
    #[error("entry {index} contradicts a committed entry")]
    ConflictsWithCommitted {
        /// First conflicting index.
        index: Index,
    },
    /// A proposed conf change cannot be decoded.
    #[error("conf change cannot be decoded")]
    CorruptConfChange,
    /// The membership of an offered snapshot contradicts itself.
    #[error("snapshot names an impossible membership")]
    ImpossibleMembership,
    /// No snapshot can be asked for now: no leader, a snapshot or request pending, or a log tail of another term.
    #[error("raft snapshot request dropped")]
    SnapshotRequestDropped,
}

/// Why a membership change cannot be made from the present configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfChangeError {
    /// No incoming voter would be left.
    #[error("removed all voters")]
    RemovedAllVoters,
    /// A simple change while a joint change is under way.
    #[error("can't apply simple config change in joint config")]
    SimpleInJoint,
    /// A simple change that moves more than one voter.
    #[error("more than one voter changed without entering joint config")]
    ManyVotersInSimple,
    /// A second joint change.
    #[error("config is already joint")]
    AlreadyJoint,
    /// A joint change of a configuration without voters.
    #[error("can't make a zero-voter config joint")]
    ZeroVoterJoint,
    /// Leaving a joint configuration that is none.
    #[error("can't leave a non-joint config")]
    NotJoint,
    /// Lists that contradict each other, e.g. a peer that is voter and learner.
    #[error("configuration contradicts itself")]
    Inconsistent,
}

/// Why bytes are not a conf change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end early.
    #[error("conf change is cut short")]
    Truncated,
    /// Written by a version this one does not know.
    #[error("conf change has unknown version {0}")]
    UnknownVersion(u8),
    /// A kind or transition this version does not know.
    #[error("conf change has unknown tag {0}")]
    UnknownTag(u8),
}

/// Why a node cannot be built from a configuration and a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The id is 0 or reserved for a storage thread.
    #[error("peer id is zero or reserved")]
    InvalidId,
    /// `heartbeat_ticks` is 0.
    #[error("heartbeat_ticks must be greater than 0")]
    ZeroHeartbeatTicks,
    /// `election_ticks` is not above `heartbeat_ticks`, or is out of range.
    #[error("election_ticks must be greater than heartbeat_ticks")]
    ElectionTicks,
    /// The range of election timeouts is empty or starts below `election_ticks`.
    #[error("election_ticks_min must be at least election_ticks and below election_ticks_max")]
    ElectionTicksRange,
    /// `inflight_messages_max` is 0.
    #[error("inflight_messages_max must be greater than 0")]
    ZeroInflight,
    /// `inflight_bytes_max` is below `append_bytes_max`.
    #[error("inflight_bytes_max must be at least append_bytes_max")]
    InflightBytes,
    /// Lease-based reads need `check_quorum`.
    #[error("check_quorum must be on for lease-based reads")]
    LeaseWithoutCheckQuorum,
    /// The stored commit index lies outside of the stored log.
    #[error("stored commit index lies outside of the log")]
    CommitOutOfRange,
    /// `applied` lies outside of `[first_index - 1, commit]`.
    #[error("applied index lies outside of the committed log")]
    AppliedOutOfRange,
    /// The storage cannot be read.
    #[error("storage: {0}")]
    Storage(#[from] StorageError),
    /// The stored membership contradicts itself.
    #[error("stored membership: {0}")]
    Membership(#[from] ConfChangeError),
    /// Bootstrap of a storage that is not empty, or with an empty or invalid peer list.
    #[error("bootstrap needs an empty log and a list of peers")]
    Bootstrap,
}
