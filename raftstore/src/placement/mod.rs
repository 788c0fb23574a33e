//! The placement driver's runtime on one store: heartbeats and reports to the other stores, the route table, and, on
//! the store that leads the meta region, the checkers and schedulers of `flotilla-placement`.

use std::sync::Arc;

use flotilla_proto::flotilla as pb;
use flotilla_region::{Peer, PeerId, Region, RegionId, StoreId, Term};

/// A region led on this store, as its raft worker tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedRegion {
    /// Descriptor.
    pub region: Arc<Region>,
    /// This store's peer.
    pub leader: Peer,
    /// Term in which it leads.
    pub term: Term,
    /// Followers that need a snapshot or much log before they can help.
    pub pending: Vec<PeerId>,
}

/// To the placement runtime.
pub(crate) enum PlacementMsg {
    /// A region is led here, or what is known of a led one changed.
    Led(LedRegion),
    /// A region is not led here (any more).
    NotLed(RegionId),
    /// Approximate bytes of led regions.
    Sizes(Vec<(RegionId, u64)>),
    /// Region ids were taken from the store's window: see whether it must be refilled.
    IdsLow,
    /// From other stores.
    Frame(StoreId, Vec<pb::PlacementMessage>),
    /// A store wants to join.
    Join(pb::JoinRequest, Box<dyn FnOnce(pb::JoinReply) + Send>),
}

/// State machine of the meta region.
pub(crate) struct MetaMachine;

impl crate::machine::StateMachine for MetaMachine {
    fn apply(
        &self,
        _: &crate::machine::ApplyContext<'_>,
        _: &[u8],
        _: &mut crate::machine::ApplyView<'_>,
    ) -> Result<bytes::Bytes, crate::machine::MachineError> {
        Err(crate::machine::MachineError::UnknownCommand)
    }
}
