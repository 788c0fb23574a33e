//! Steps that the placement leader asks regions' leaders to take, and the memory of those asked for.

use std::collections::BTreeMap;

use flotilla_region::{KeyRange, Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, StoreId};

use crate::order::{Order, OrderState};
use crate::relapses::Relapses;
use crate::{ClusterView, PlacementConfig, RegionInfo};

/// Why a step is taken; for logs, metrics and limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The configuration is joint.
    LeaveJoint,
    /// The region has too few replicas on stores that are to keep them.
    Repair,
    /// The region has more replicas than it should, or a learner that leads nowhere.
    Surplus,
    /// The leader sits on a store that is being drained, or on a replica that is to go.
    EvictLeader,
    /// The leader sits on a slow disk.
    SlowDisk,
    /// Stores lead different numbers of regions.
    BalanceLeaders,
    /// Stores hold different numbers of replicas.
    BalanceRegions,
    /// Somebody asked for a replica to be moved.
    Ordered,
    /// Two neighbours are small.
    Merge,
}

/// What a membership change does to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerChangeKind {
    /// The peer becomes a voter; it was a learner.
    AddVoter,
    /// The peer becomes a learner; it is new, or was a voter and is demoted.
    AddLearner,
    /// The peer leaves the region.
    Remove,
}

/// One part of a membership change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerChange {
    /// What happens.
    pub kind: PeerChangeKind,
    /// To whom; the role is the wanted one.
    pub peer: Peer,
}

impl PeerChange {
    /// `peer` becomes a voter.
    pub fn add_voter(peer: Peer) -> Self {
        Self { kind: PeerChangeKind::AddVoter, peer: Peer { role: PeerRole::Voter, ..peer } }
    }

    /// `peer` joins as a learner, or is demoted to one.
    pub fn add_learner(peer: Peer) -> Self {
        Self { kind: PeerChangeKind::AddLearner, peer: Peer { role: PeerRole::Learner, ..peer } }
    }

    /// `peer` leaves.
    pub fn remove(peer: Peer) -> Self {
        Self { kind: PeerChangeKind::Remove, peer }
    }
}

/// What the region's leader is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Hand leadership to this voter.
    TransferLeader(Peer),
    /// Change the membership; several changes enter a joint configuration.
    ChangePeers(Vec<PeerChange>),
    /// Leave the joint configuration.
    LeaveJoint,
    /// Take this neighbour over, in this very shape.
    Merge(Box<Region>),
}

/// One step of one region. Whoever takes it refuses it unless the region's epoch is still `epoch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Region.
    pub region: RegionId,
    /// Its epoch when the step was decided.
    pub epoch: RegionEpoch,
    /// Its leader then, who is asked.
    pub leader: Peer,
    /// The step.
    pub step: Step,
    /// Why.
    pub reason: Reason,
}

/// Peers of `region` after `changes` took effect: one change at once, several by a joint configuration.
pub fn after_change(region: &Region, changes: &[PeerChange]) -> Vec<Peer> {
    let is_joint = changes.len() > 1;
    let mut peers = region.peers.clone();
    for change in changes {
        let known = peers.iter().position(|p| p.id == change.peer.id);
        let was_voter = known.is_some_and(|at| peers[at].role == PeerRole::Voter);
        let role = match (change.kind, is_joint) {
            (PeerChangeKind::AddVoter, _) if was_voter => PeerRole::Voter,
            (PeerChangeKind::AddVoter, true) => PeerRole::IncomingVoter,
            (PeerChangeKind::AddVoter, false) => PeerRole::Voter,
            (PeerChangeKind::AddLearner, true) if was_voter => PeerRole::DemotingVoter,
            (PeerChangeKind::AddLearner, _) => PeerRole::Learner,
            (PeerChangeKind::Remove, _) => {
                peers.retain(|p| p.id != change.peer.id);
                continue;
            }
        };
        match known {
            Some(at) => peers[at].role = role,
            None => peers.push(Peer { role, ..change.peer }),
        }
    }
    peers
}

/// Peers of `region` after its joint configuration was left.
pub fn after_leave(region: &Region) -> Vec<Peer> {
    let role = |role| match role {
        PeerRole::IncomingVoter | PeerRole::Voter => PeerRole::Voter,
        PeerRole::DemotingVoter | PeerRole::Learner => PeerRole::Learner,
    };
    region.peers.iter().map(|p| Peer { role: role(p.role), ..*p }).collect()
}

/// A balance move, or one onto the stores of a neighbour: the replica `from` is to be replaced by one on `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Replica that goes.
    pub from: PeerId,
    /// Its store.
    pub from_store: StoreId,
    /// Store of the replica that comes.
    pub to: StoreId,
    /// The neighbour that the region shall become part of, if it moves for that.
    pub join: Option<RegionId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    operator: Operator,
    at_ms: u64,
}

/// A range that a region has, and since when it has all of that and is not busy, ms.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shape {
    range: KeyRange,
    since_ms: u64,
}

/// Operators asked for and not yet seen done, the moves under way and those ordered, and since when learners exist and
/// regions were neither cut nor busy.
///
/// Belongs to one placement leadership; losing it costs nothing but the learners of unfinished moves.
/// Invariant: at most one operator and one order per region.
#[derive(Clone, Debug, Default)]
pub struct InFlight {
    asked: BTreeMap<RegionId, Asked>,
    moves: BTreeMap<RegionId, Move>,
    learners: BTreeMap<PeerId, u64>,
    shapes: BTreeMap<RegionId, Shape>,
    orders: BTreeMap<RegionId, Order>,
    relapses: Relapses,
}

impl InFlight {
    /// Nothing under way.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is under way that could be over, or overdue, at the next pass.
    pub fn is_idle(&self) -> bool {
        self.asked.is_empty()
            && self.moves.is_empty()
            && self.orders.is_empty()
            && self.learners.is_empty()
            && self.relapses.is_empty()
    }

    /// The region's unfinished operator.
    pub fn operator(&self, region: RegionId) -> Option<&Operator> {
        self.asked.get(&region).map(|a| &a.operator)
    }

    /// All unfinished operators.
    pub fn operators(&self) -> impl Iterator<Item = &Operator> {
        self.asked.values().map(|a| &a.operator)
    }

    /// All balance moves under way.
    pub fn moves(&self) -> impl Iterator<Item = (RegionId, &Move)> {
        self.moves.iter().map(|(region, plan)| (*region, plan))
    }

    /// The region's leader refused or failed the operator it was asked for at `epoch`: derive it anew.
    pub fn failed(&mut self, region: RegionId, epoch: RegionEpoch) {
        if self.asked.get(&region).is_some_and(|a| a.operator.epoch == epoch) {
            self.asked.remove(&region);
        }
    }

    /// When the region's learner was first seen, ms.
    pub(crate) fn learner_since_ms(&self, peer: PeerId) -> Option<u64> {
        self.learners.get(&peer).copied()
    }

    /// When the region was first seen after it had been cut or busy, ms. A merge begins nothing anew, as with PD.
    pub(crate) fn calm_since_ms(&self, region: RegionId) -> Option<u64> {
        self.shapes.get(&region).map(|shape| shape.since_ms)
    }

    /// Whether a replica of the region was damaged on the store of late, and so was its successor.
    pub(crate) fn has_relapsed(&self, region: RegionId, store: StoreId) -> bool {
        self.relapses.has(region, store)
    }

    /// Whether a neighbour was asked to take the region over.
    pub(crate) fn is_source(&self, region: RegionId) -> bool {
        let takes =
            |operator: &Operator| matches!(&operator.step, Step::Merge(source) if source.id == region);
        self.operators().any(takes)
    }

    /// The region's balance move.
    pub(crate) fn planned(&self, region: RegionId) -> Option<Move> {
        self.moves.get(&region).copied()
    }

    pub(crate) fn plan(&mut self, region: RegionId, plan: Move) {
        self.moves.insert(region, plan);
    }

    /// What was ordered for a region.
    pub(crate) fn order(&self, region: RegionId) -> Option<&Order> {
        self.orders.get(&region)
    }

    /// Takes over for one order what the view shows since the last pass.
    pub(crate) fn settle_order(&mut self, region: RegionId, view: &ClusterView, now_ms: u64) {
        let is_planned = self.moves.contains_key(&region);
        if let Some(order) = self.orders.get_mut(&region) {
            order.settle(view, is_planned, now_ms);
        }
    }

    /// Orders that are not begun.
    pub(crate) fn waiting_orders(&self) -> Vec<Order> {
        let is_waiting = |order: &&Order| matches!(order.state, OrderState::Waiting(_));
        self.orders.values().filter(is_waiting).copied().collect()
    }

    /// Whether the region's move was ordered.
    pub(crate) fn is_ordered(&self, region: RegionId) -> bool {
        self.orders.get(&region).is_some_and(|order| matches!(order.state, OrderState::Begun(_)))
    }

    pub(crate) fn put_order(&mut self, order: Order) {
        self.orders.insert(order.order.region, order);
    }

    pub(crate) fn forget_order(&mut self, region: RegionId) {
        self.orders.remove(&region);
    }

    pub(crate) fn ask(&mut self, operator: Operator, now_ms: u64) {
        let before = self.asked.insert(operator.region, Asked { operator, at_ms: now_ms });
        assert!(before.is_none(), "a region has at most one unfinished operator");
    }

    /// Forgets what the view shows as done, overtaken or expired.
    pub(crate) fn settle(&mut self, view: &ClusterView, config: &PlacementConfig, now_ms: u64) {
        self.asked.retain(|region, asked| {
            let is_expired = now_ms.saturating_sub(asked.at_ms) >= config.operator_expire_ms;
            !is_expired && view.regions().by_id(*region).is_some_and(|info| is_open(&asked.operator, info))
        });
        let (asked, orders) = (&self.asked, &self.orders);
        self.moves.retain(|region, plan| {
            let Some(info) = view.regions().by_id(*region) else { return false };
            let is_ordered =
                orders.get(region).is_some_and(|order| matches!(order.state, OrderState::Begun(_)));
            // The only voter hands over to the new one, which must vote for that.
            let may_both_vote = is_ordered && voters(&info.region) > config.replicas;
            is_under_way(plan, &info.region, asked.contains_key(region), may_both_vote)
        });
        let moves = &self.moves;
        self.orders.retain(|region, order| order.settle(view, moves.contains_key(region), now_ms));
        self.relapses.learn(view.stores(), config.damage_wait_ms, now_ms);
        let (mut learners, mut shapes) = (BTreeMap::new(), BTreeMap::new());
        for info in view.regions().iter() {
            let (id, range) = (info.region.id, info.region.range.clone());
            let calm = self.shapes.get(&id).filter(|shape| {
                range.contains_range(&shape.range) && !info.is_busy(config.merge_requests_max)
            });
            let since_ms = calm.map_or(now_ms, |shape| shape.since_ms);
            shapes.insert(id, Shape { range, since_ms });
            for peer in info.region.peers.iter().filter(|p| p.role == PeerRole::Learner) {
                learners.insert(peer.id, self.learners.get(&peer.id).copied().unwrap_or(now_ms));
            }
        }
        self.learners = learners;
        self.shapes = shapes;
    }
}

fn is_open(operator: &Operator, info: &RegionInfo) -> bool {
    let is_moved = match &operator.step {
        Step::TransferLeader(to) => info.leader == Some(to.id),
        Step::ChangePeers(_) | Step::LeaveJoint | Step::Merge(_) => false,
    };
    !is_moved && info.region.epoch == operator.epoch && info.leader.is_none_or(|l| l == operator.leader.id)
}

/// A move is over when its old replica is gone, and void when its new one vanished or became an ordinary voter beside
/// the old one.
fn is_under_way(plan: &Move, region: &Region, is_asked: bool, may_both_vote: bool) -> bool {
    let (from, to) = (region.peer(plan.from), region.peer_on(plan.to));
    match (from.map(|p| p.role), to.map(|p| p.role)) {
        (None, _) => false,
        (Some(_), None) => is_asked,
        (Some(PeerRole::Voter), Some(PeerRole::Voter)) => may_both_vote,
        (Some(_), Some(_)) => true,
    }
}

fn voters(region: &Region) -> usize {
    region.peers.iter().filter(|peer| peer.role == PeerRole::Voter).count()
}
