//! Between the vocabulary and the wire.

use flotilla_proto::metapb;
use flotilla_region::{KeyRange, Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, Space, StoreId};

/// The region that a message describes; `None` if it lacks an id or an epoch, without which it cannot be compared
/// with anything known.
pub fn region_from_proto(region: &metapb::Region) -> Option<Region> {
    let epoch = region.region_epoch.as_ref()?;
    if region.id == 0 {
        return None;
    }
    Some(Region {
        id: RegionId(region.id),
        space: if region.meta_space { Space::Meta } else { Space::User },
        range: KeyRange::new(region.start_key.clone(), region.end_key.clone()),
        epoch: RegionEpoch { conf_ver: epoch.conf_ver, version: epoch.version },
        peers: region.peers.iter().filter_map(peer_from_proto).collect(),
    })
}

/// The peer that a message describes; `None` if it has no id, which is how the protocol says "no leader yet".
pub fn peer_from_proto(peer: &metapb::Peer) -> Option<Peer> {
    if peer.id == 0 {
        return None;
    }
    let role = match peer.role() {
        metapb::PeerRole::Voter => PeerRole::Voter,
        metapb::PeerRole::Learner => PeerRole::Learner,
        metapb::PeerRole::IncomingVoter => PeerRole::IncomingVoter,
        metapb::PeerRole::DemotingVoter => PeerRole::DemotingVoter,
    };
    Some(Peer { id: PeerId(peer.id), store: StoreId(peer.store_id), role })
}

/// A peer as a request's context names it.
pub fn peer_to_proto(peer: &Peer) -> metapb::Peer {
    let role = match peer.role {
        PeerRole::Voter => metapb::PeerRole::Voter,
        PeerRole::Learner => metapb::PeerRole::Learner,
        PeerRole::IncomingVoter => metapb::PeerRole::IncomingVoter,
        PeerRole::DemotingVoter => metapb::PeerRole::DemotingVoter,
    };
    metapb::Peer { id: peer.id.get(), store_id: peer.store.get(), role: role.into(), is_witness: false }
}

pub(crate) fn epoch_to_proto(epoch: RegionEpoch) -> metapb::RegionEpoch {
    metapb::RegionEpoch { conf_ver: epoch.conf_ver, version: epoch.version }
}
