//! The vocabulary of the consensus core: ids, log positions, entries, durable state.

use std::fmt;

use bytes::Bytes;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The zero value, which never names a real one.
            pub const ZERO: Self = Self(0);

            /// The bare number, for encoding.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// Whether this is the zero value.
            pub const fn is_zero(self) -> bool {
                self.0 == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id_type! {
    /// One replica of a Raft group; unique for ever, 0 = none.
    PeerId
}
id_type! {
    /// An election term; 0 = before the first election.
    Term
}
id_type! {
    /// A position in the log; the first entry of an empty group is 1, 0 = before it.
    Index
}

impl PeerId {
    /// Destination of [`crate::MessageKind::StorageAppend`] messages (async storage writes).
    pub const APPEND_THREAD: Self = Self(u64::MAX);
    /// Destination of [`crate::MessageKind::StorageApply`] messages (async storage writes).
    pub const APPLY_THREAD: Self = Self(u64::MAX - 1);

    /// Whether the id names one of the two local storage threads.
    pub const fn is_storage_thread(self) -> bool {
        self.0 >= Self::APPLY_THREAD.0
    }
}

impl Index {
    /// The position after this one.
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position before this one; 0 stays 0.
    pub const fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// What an entry's data is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// Opaque bytes for the state machine; empty for the entry a new leader appends.
    #[default]
    Normal,
    /// A [`crate::ConfChange`].
    ConfChange,
    /// A [`crate::ConfChangeV2`].
    ConfChangeV2,
}

/// One log entry. Cloning shares `data`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Term of the leader that created the entry.
    pub term: Term,
    /// Position in the log.
    pub index: Index,
    /// How to read `data`.
    pub kind: EntryKind,
    /// Payload.
    pub data: Bytes,
}

/// What must survive a restart besides entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Current term.
    pub term: Term,
    /// Peer that got this peer's vote in `term`; 0 = none.
    pub vote: PeerId,
    /// Highest index known to be committed. May be lost: it is learned again.
    pub commit: Index,
}

impl HardState {
    /// Whether nothing was ever recorded.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Membership as it is stored in snapshots and apply states. Lists are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfState {
    /// Voters of the incoming (or only) configuration.
    pub voters: Vec<PeerId>,
    /// Voters of the outgoing configuration; empty unless joint.
    pub voters_outgoing: Vec<PeerId>,
    /// Learners.
    pub learners: Vec<PeerId>,
    /// Outgoing voters that become learners when the joint state is left.
    pub learners_next: Vec<PeerId>,
    /// Whether the core leaves the joint state by itself.
    pub auto_leave: bool,
}

/// Position and membership that a snapshot stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Last applied index contained in the snapshot; 0 = no snapshot.
    pub index: Index,
    /// Term of that index.
    pub term: Term,
    /// Membership at that index.
    pub conf_state: ConfState,
}

/// A state machine snapshot. The core reads only `meta`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Position and membership.
    pub meta: SnapshotMeta,
    /// Opaque bytes for the application.
    pub data: Bytes,
}

impl Snapshot {
    /// Whether this stands for "no snapshot".
    pub fn is_empty(&self) -> bool {
        self.meta.index.is_zero()
    }
}

/// Role of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows a leader, or knows none. Learners are followers.
    #[default]
    Follower,
    /// Asks whether an election would succeed (PreVote).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads the group in its term.
    Leader,
}

/// Volatile state, for observers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoftState {
    /// Known leader; 0 = none.
    pub lead: PeerId,
    /// Own role.
    pub role: Role,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_positions_print_as_bare_numbers() {
        assert_eq!(format!("{} {:?} {:>3?}", PeerId(7), Term(2), Index(5)), "7 2   5");
    }
}
