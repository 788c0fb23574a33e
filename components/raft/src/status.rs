//! A copy of a node's state, for observers.

use crate::{
    tracker::{Configuration, Progress},
    types::{HardState, Index, PeerId, SoftState},
};

/// State of a node at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Own id.
    pub id: PeerId,
    /// Term, vote, commit index.
    pub hard_state: HardState,
    /// Leader and role.
    pub soft_state: SoftState,
    /// Last applied index.
    pub applied: Index,
    /// Target of a leadership transfer under way; 0 = none.
    pub lead_transferee: PeerId,
    /// Active configuration.
    pub config: Configuration,
    /// Members by ascending id; empty unless leader.
    pub progress: Vec<(PeerId, Progress)>,
}
