//! Moves of replicas that somebody asked for by hand, from the asking to the outcome.
//!
//! An order is asked for again and again until it has ended ([`order_move`]): whoever asks first begins it, whoever
//! asks later learns how far it is. So it needs no durable record: a new placement leader begins it anew where the
//! region stands. The steps are those of a balance move: a learner, filled; leadership handed over if the old replica
//! has it; both exchanged by one joint change, which is left; the old one, a learner by then, removed.

use std::fmt;

use flotilla_region::{PeerId, PeerRole, RegionId, StoreId};

use crate::check::is_report_complete;
use crate::{ClusterView, InFlight, PlacementConfig, RegionInfo, StoreHealth, StoreState};

/// An order that cannot be begun for so long is given up.
pub(crate) const ORDER_WAIT_MS: u64 = 60_000;
/// An outcome that nobody asks for is forgotten after so long.
const OUTCOME_KEPT_MS: u64 = 10 * 60_000;

/// The replica of `region` on `from` is to be replaced by one on `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoveOrder {
    /// Region.
    pub region: RegionId,
    /// Store of the replica that goes.
    pub from: StoreId,
    /// Store of the replica that comes.
    pub to: StoreId,
}

/// What keeps an order from being begun now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderWait {
    /// The placement leader is new and has not heard of everything yet.
    Reports,
    /// Another change of the region is under way.
    Region,
    /// No leader of the region is known that could be asked.
    Leader,
    /// As many replicas as allowed are being filled on the store, or by the leader's.
    Slots,
    /// There are no ids for a new peer at hand.
    Ids,
}

impl fmt::Display for OrderWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reports => "the placement leader has not heard of all regions yet",
            Self::Region => "another change of the region is under way",
            Self::Leader => "the region has no leader that answers",
            Self::Slots => "the store, or the leader's, is filling as many replicas as it may",
            Self::Ids => "no ids at hand",
        })
    }
}

/// How far an order is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MovePhase {
    /// Not begun.
    Waiting(OrderWait),
    /// The new replica is being added.
    Adding,
    /// The new replica has not caught up.
    Filling,
    /// The old replica leads and hands over.
    HandingOver,
    /// The two are being exchanged.
    Swapping,
    /// The old replica votes no more and is being removed.
    Removing,
    /// The new replica votes, the old one is gone.
    Done,
}

impl fmt::Display for MovePhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting(wait) => write!(f, "waiting: {wait}"),
            Self::Adding => f.write_str("adding a learner"),
            Self::Filling => f.write_str("filling the learner"),
            Self::HandingOver => f.write_str("handing leadership over"),
            Self::Swapping => f.write_str("exchanging the voters"),
            Self::Removing => f.write_str("removing the old replica"),
            Self::Done => f.write_str("done"),
        }
    }
}

/// Why a replica is not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveRefusal {
    /// Nobody reports it.
    #[error("region {0} does not exist")]
    NoRegion(RegionId),
    /// From and to are one.
    #[error("the replica is on store {0} already")]
    SameStore(StoreId),
    /// Not in the registry.
    #[error("store {0} does not exist")]
    NoStore(StoreId),
    /// It is being drained, or was removed.
    #[error("store {0} takes no new replicas: it is not up")]
    StoreNotUp(StoreId),
    /// It was not heard from lately.
    #[error("store {0} does not answer")]
    StoreSilent(StoreId),
    /// Its disk has too little free space.
    #[error("store {0} has too little free space")]
    StoreFull(StoreId),
    /// There is nothing to move.
    #[error("region {region} has no peer on store {store}")]
    NoPeer {
        /// Region.
        region: RegionId,
        /// Store.
        store: StoreId,
    },
    /// It is on its way out, or not yet in.
    #[error("the peer of region {region} on store {store} is no voter")]
    NoVoter {
        /// Region.
        region: RegionId,
        /// Store.
        store: StoreId,
    },
    /// There would be two on one store.
    #[error("region {region} has a peer on store {store} already")]
    HasPeer {
        /// Region.
        region: RegionId,
        /// Store.
        store: StoreId,
    },
    /// Another order for the region has not ended.
    #[error("region {region} is being moved from store {from} to store {to}")]
    OtherMove {
        /// Region.
        region: RegionId,
        /// Where from.
        from: StoreId,
        /// Where to.
        to: StoreId,
    },
    /// Without live voters in the majority nothing commits.
    #[error("region {0} has no quorum of live voters")]
    NoQuorum(RegionId),
    /// It waited too long.
    #[error("could not be begun: {0}")]
    NotBegun(OrderWait),
    /// It became part of a neighbour.
    #[error("region {0} is gone: it was merged")]
    RegionGone(RegionId),
    /// The new replica did not catch up for long, or its store went away.
    #[error("the new replica on store {0} did not catch up, or its store went away: it was taken back")]
    LearnerGone(StoreId),
    /// Something else happened to the region's replicas.
    #[error("the replicas of region {0} changed in another way meanwhile")]
    Overtaken(RegionId),
}

/// An order that a placement leader remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) order: MoveOrder,
    pub(crate) asked_ms: u64,
    /// The new replica has been seen.
    pub(crate) is_seen: bool,
    pub(crate) state: OrderState,
}

/// What became of an order so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OrderState {
    /// Not begun.
    Waiting(OrderWait),
    /// The region's move is this one. The peer is the one that goes.
    Begun(PeerId),
    /// Over, since then, ms.
    Ended(Result<(), MoveRefusal>, u64),
}

/// Begins a move, or tells how far it is; once it has ended, tells the outcome and forgets it.
///
/// # Errors
/// Why the replica is not moved, for good: asking again begins another attempt.
pub fn order_move(
    view: &ClusterView,
    config: &PlacementConfig,
    flight: &mut InFlight,
    order: MoveOrder,
    now_ms: u64,
) -> Result<MovePhase, MoveRefusal> {
    if !is_report_complete(view, config, now_ms) {
        return Ok(MovePhase::Waiting(OrderWait::Reports));
    }
    // Reports may have come since the last pass: an order that has ended is in nobody's way.
    flight.settle_order(order.region, view, now_ms);
    let known = flight.order(order.region).copied();
    match known {
        Some(Order { order: same, state: OrderState::Ended(outcome, _), .. }) if same == order => {
            flight.forget_order(order.region);
            outcome.map(|()| MovePhase::Done)
        }
        Some(Order { order: same, state: OrderState::Waiting(wait), .. }) if same == order => {
            Ok(MovePhase::Waiting(wait))
        }
        Some(Order { order: same, .. }) if same == order => {
            view.regions().by_id(order.region).map(|info| phase(info, order)).ok_or(gone(order))
        }
        Some(Order { order: MoveOrder { region, from, to }, state, .. }) if !state.has_ended() => {
            Err(MoveRefusal::OtherMove { region, from, to })
        }
        _ => {
            if is_done(&view_of(view, order)?.region, order) {
                return Ok(MovePhase::Done);
            }
            check_order(view, config, order, now_ms)?;
            let state = OrderState::Waiting(OrderWait::Region);
            flight.put_order(Order { order, asked_ms: now_ms, is_seen: false, state });
            Ok(MovePhase::Waiting(OrderWait::Region))
        }
    }
}

impl OrderState {
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self, Self::Ended(..))
    }
}

impl Order {
    /// Takes over what the view shows. `is_planned`: the region's move goes on. Returns false once nobody needs to
    /// know any more.
    pub(crate) fn settle(&mut self, view: &ClusterView, is_planned: bool, now_ms: u64) -> bool {
        let next = match self.state {
            OrderState::Ended(_, since_ms) => return now_ms.saturating_sub(since_ms) < OUTCOME_KEPT_MS,
            OrderState::Waiting(wait) => {
                let is_late = now_ms.saturating_sub(self.asked_ms) >= ORDER_WAIT_MS;
                is_late.then_some(OrderState::Ended(Err(MoveRefusal::NotBegun(wait)), now_ms))
            }
            OrderState::Begun(from) => self.next(view, from, is_planned, now_ms),
        };
        self.state = next.unwrap_or(self.state);
        true
    }

    fn next(
        &mut self,
        view: &ClusterView,
        from: PeerId,
        is_planned: bool,
        now_ms: u64,
    ) -> Option<OrderState> {
        let ended = |outcome| Some(OrderState::Ended(outcome, now_ms));
        let Some(info) = view.regions().by_id(self.order.region) else { return ended(Err(gone(self.order))) };
        let region = &info.region;
        self.is_seen |= region.peer_on(self.order.to).is_some();
        if region.peer(from).is_none() {
            let is_done = is_done(region, self.order);
            return ended(if is_done { Ok(()) } else { Err(MoveRefusal::Overtaken(region.id)) });
        }
        match region.peer_on(self.order.to) {
            _ if is_planned => None,
            Some(_) => ended(Err(MoveRefusal::Overtaken(region.id))),
            None if self.is_seen => ended(Err(MoveRefusal::LearnerGone(self.order.to))),
            // The first step was refused, as the region had changed.
            None => Some(OrderState::Waiting(OrderWait::Region)),
        }
    }
}

/// Whether an order can be begun at all.
///
/// # Errors
/// Why not.
pub(crate) fn check_order(
    view: &ClusterView,
    config: &PlacementConfig,
    order: MoveOrder,
    now_ms: u64,
) -> Result<(), MoveRefusal> {
    let MoveOrder { region: id, from, to } = order;
    let region = &view_of(view, order)?.region;
    if from == to {
        return Err(MoveRefusal::SameStore(to));
    }
    let target = view.store(to).ok_or(MoveRefusal::NoStore(to))?;
    let old = region.peer_on(from).ok_or(MoveRefusal::NoPeer { region: id, store: from })?;
    if old.role == PeerRole::Learner {
        return Err(MoveRefusal::NoVoter { region: id, store: from });
    }
    // A learner may be what an earlier attempt left.
    if region.peer_on(to).is_some_and(|peer| peer.role == PeerRole::Voter) {
        return Err(MoveRefusal::HasPeer { region: id, store: to });
    }
    if target.record.state != StoreState::Up {
        return Err(MoveRefusal::StoreNotUp(to));
    }
    if view.health(to, config, now_ms) != StoreHealth::Live {
        return Err(MoveRefusal::StoreSilent(to));
    }
    if target.is_low_on_space(config.low_space_percent) {
        return Err(MoveRefusal::StoreFull(to));
    }
    Ok(())
}

fn view_of(view: &ClusterView, order: MoveOrder) -> Result<&RegionInfo, MoveRefusal> {
    view.regions().by_id(order.region).ok_or(MoveRefusal::NoRegion(order.region))
}

fn gone(order: MoveOrder) -> MoveRefusal {
    MoveRefusal::RegionGone(order.region)
}

fn is_done(region: &flotilla_region::Region, order: MoveOrder) -> bool {
    let votes = region.peer_on(order.to).is_some_and(|peer| peer.role == PeerRole::Voter);
    order.from != order.to && votes && region.peer_on(order.from).is_none()
}

/// How far a move that was begun is.
fn phase(info: &RegionInfo, order: MoveOrder) -> MovePhase {
    let (from, to) = (info.region.peer_on(order.from), info.region.peer_on(order.to));
    let leads = info.leader_store() == Some(order.from);
    let Some(to) = to else { return MovePhase::Adding };
    match (to.role, from.map(|peer| peer.role)) {
        (PeerRole::Voter, None) => MovePhase::Done,
        (PeerRole::Learner, _) if info.pending.contains(&to.id) => MovePhase::Filling,
        (PeerRole::Learner | PeerRole::Voter, Some(PeerRole::Voter)) if leads => MovePhase::HandingOver,
        (PeerRole::Voter, Some(PeerRole::Learner)) => MovePhase::Removing,
        _ => MovePhase::Swapping,
    }
}
