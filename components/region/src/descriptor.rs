//! What a region is at one moment: its range, epoch and peers.

use flotilla_raft::{ConfState, PeerId};

use crate::{KeyRange, RegionId, StoreId};

/// Which key space a region's range lies in. Clients see the user space only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Space {
    /// Keys of the embedder's state machine.
    #[default]
    User,
    /// Facts of the placement driver; one region, never split.
    Meta,
}

/// Version of a region. Invariant: neither field ever decreases on any replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RegionEpoch {
    /// Moves with every membership change, by the number of peers changed.
    pub conf_ver: u64,
    /// Moves with every split (by the number of new regions), merge and rollback.
    pub version: u64,
}

impl RegionEpoch {
    /// Epoch of a region at cluster bootstrap.
    pub const INITIAL: Self = Self { conf_ver: 1, version: 1 };

    /// Whether `self` is older than `other` in either component.
    pub fn is_stale_against(&self, other: &Self) -> bool {
        self.version < other.version || self.conf_ver < other.conf_ver
    }
}

/// Role of a peer in the region's (possibly joint) configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PeerRole {
    /// Votes in the only, or in both configurations.
    #[default]
    Voter,
    /// Receives the log, never votes.
    Learner,
    /// Votes in the incoming half of a joint configuration only.
    IncomingVoter,
    /// Votes in the outgoing half only, becomes a learner when the joint state is left.
    DemotingVoter,
}

/// One replica of a region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Never reused.
    pub id: PeerId,
    /// Where it lives.
    pub store: StoreId,
    /// Its role.
    pub role: PeerRole,
}

/// Descriptor of a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// Identity.
    pub id: RegionId,
    /// Key space of `range`.
    pub space: Space,
    /// Keys it holds.
    pub range: KeyRange,
    /// Version.
    pub epoch: RegionEpoch,
    /// Replicas, in no particular order.
    pub peers: Vec<Peer>,
}

impl Region {
    /// The replica on `store`.
    pub fn peer_on(&self, store: StoreId) -> Option<&Peer> {
        self.peers.iter().find(|p| p.store == store)
    }

    /// The replica with this id.
    pub fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.iter().find(|p| p.id == id)
    }

    /// Whether the configuration is joint.
    pub fn is_joint(&self) -> bool {
        self.peers.iter().any(|p| matches!(p.role, PeerRole::IncomingVoter | PeerRole::DemotingVoter))
    }

    /// Whether more than half of the voters are live, of a joint configuration in both halves.
    pub fn has_quorum(&self, is_live: impl Fn(&Peer) -> bool) -> bool {
        let half = |votes: fn(PeerRole) -> bool| {
            let voters = self.peers.iter().filter(|peer| votes(peer.role));
            voters.clone().filter(|peer| is_live(peer)).count() > voters.count() / 2
        };
        let incoming = half(|role| matches!(role, PeerRole::Voter | PeerRole::IncomingVoter));
        incoming
            && (!self.is_joint() || half(|role| matches!(role, PeerRole::Voter | PeerRole::DemotingVoter)))
    }

    /// Membership of the Raft group that the peers' roles stand for. Joint states are left explicitly.
    pub fn conf_state(&self) -> ConfState {
        let mut state = ConfState::default();
        let joint = self.is_joint();
        for peer in &self.peers {
            match peer.role {
                PeerRole::Voter => {
                    state.voters.push(peer.id);
                    if joint {
                        state.voters_outgoing.push(peer.id);
                    }
                }
                PeerRole::Learner => state.learners.push(peer.id),
                PeerRole::IncomingVoter => state.voters.push(peer.id),
                PeerRole::DemotingVoter => {
                    state.voters_outgoing.push(peer.id);
                    state.learners_next.push(peer.id);
                }
            }
        }
        for list in
            [&mut state.voters, &mut state.voters_outgoing, &mut state.learners, &mut state.learners_next]
        {
            list.sort_unstable();
        }
        state
    }
}
