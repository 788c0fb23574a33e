//! What one pass knows beyond the view: health and load of stores with the operators under way counted in.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_region::{Peer, PeerId, PeerRole, Region, RegionId, StoreId};

use crate::operator::{after_change, after_leave};
use crate::order::Order;
use crate::{
    ClusterView, IdPool, InFlight, Move, Operator, PeerChange, PeerChangeKind, PlacementConfig, Reason,
    RegionInfo, Step, StoreHealth, StoreInfo, StoreLoad, StoreState,
};

/// A transfer interrupts its region for a moment: so many regions stand still for one that is handed over. The time to spread
/// leaders then does not grow with the number of regions.
const REGIONS_PER_TRANSFER: usize = 250;

/// What a peer is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PeerHealth {
    /// To be kept.
    Healthy,
    /// Answers no more, but may come back: counts as a replica, not as a live one.
    Silent,
    /// Alive on a store that is being drained.
    Draining,
    /// Given up.
    Gone,
}

impl PeerHealth {
    pub(super) fn is_live(self) -> bool {
        matches!(self, Self::Healthy | Self::Draining)
    }

    /// Whether a new replica should take its place.
    pub(super) fn must_go(self) -> bool {
        matches!(self, Self::Draining | Self::Gone)
    }
}

/// One store in this pass.
pub(super) struct Site<'a> {
    pub(super) info: &'a StoreInfo,
    pub(super) health: StoreHealth,
    /// Load with the effects of all operators and moves under way.
    pub(super) load: StoreLoad,
}

pub(super) struct Round<'a> {
    pub(super) view: &'a ClusterView,
    pub(super) config: &'a PlacementConfig,
    pub(super) sites: BTreeMap<StoreId, Site<'a>>,
    pub(super) now_ms: u64,
    flight: &'a mut InFlight,
    ids: &'a mut IdPool,
    operators: Vec<Operator>,
}

impl<'a> Round<'a> {
    pub(super) fn new(
        view: &'a ClusterView,
        config: &'a PlacementConfig,
        flight: &'a mut InFlight,
        ids: &'a mut IdPool,
        now_ms: u64,
    ) -> Self {
        let site = |info: &'a StoreInfo| {
            let id = info.record.id;
            (id, Site { info, health: view.health(id, config, now_ms), load: view.load(id) })
        };
        let sites = view.stores().map(site).collect();
        let mut round = Self { view, config, sites, now_ms, flight, ids, operators: Vec::new() };
        round.count_out_silent();
        let asked: Vec<Operator> = round.flight.operators().cloned().collect();
        asked.iter().for_each(|operator| round.count_in(operator));
        let moves: Vec<(RegionId, Move)> = round.flight.moves().map(|(r, m)| (r, *m)).collect();
        for (region, plan) in moves {
            // An operator under way that removes the old replica has been counted already.
            let is_removing = round.flight.operator(region).is_some_and(|o| removes(o, plan.from));
            if !is_removing {
                round.load_mut(plan.from_store, |load| lower(&mut load.peers));
            }
        }
        round
    }

    /// Nobody sends anything to a store that does not answer: a store that is lost shall not use up the slots that its
    /// replacement needs.
    fn count_out_silent(&mut self) {
        let answers = |store: &StoreId| self.sites.get(store).is_some_and(|s| s.health == StoreHealth::Live);
        let silent: BTreeSet<StoreId> = self.view.filled_stores().filter(|store| !answers(store)).collect();
        if silent.is_empty() {
            return;
        }
        for info in self.view.regions().iter() {
            let Some(leader) = info.leader_store() else { continue };
            let in_vain = |peer: &&Peer| silent.contains(&peer.store) && info.is_filling(peer);
            for _ in info.region.peers.iter().filter(in_vain) {
                self.load_mut(leader, |load| lower(&mut load.sending));
            }
        }
    }

    pub(super) fn into_operators(self) -> Vec<Operator> {
        self.operators
    }

    // ---- health ----

    pub(super) fn peer_health(&self, info: &RegionInfo, peer: &Peer) -> PeerHealth {
        let Some(site) = self.sites.get(&peer.store) else { return PeerHealth::Gone };
        if site.info.is_damaged(info.region.id, peer.id) {
            return PeerHealth::Gone;
        }
        let down_ms = info.down.get(&peer.id).copied();
        // A learner that never answered may be waiting for its first snapshot.
        let may_be_new = peer.role == PeerRole::Learner;
        let is_given_up = site.health == StoreHealth::Gone
            || (!may_be_new && down_ms.is_some_and(|ms| ms >= self.config.store_gone_ms));
        let is_live = site.health == StoreHealth::Live && down_ms.is_none();
        match (site.info.record.state, is_live) {
            (StoreState::Tombstone, _) => PeerHealth::Gone,
            (StoreState::Offline, true) => PeerHealth::Draining,
            (StoreState::Offline, false) => PeerHealth::Gone,
            (StoreState::Up, true) => PeerHealth::Healthy,
            (StoreState::Up, false) if is_given_up => PeerHealth::Gone,
            (StoreState::Up, false) => PeerHealth::Silent,
        }
    }

    /// Live voters beyond a quorum, in the weaker half of a joint configuration; negative = no quorum.
    pub(super) fn spare_voters(&self, info: &RegionInfo) -> i64 {
        self.spare_voters_of(info, &info.region.peers)
    }

    fn spare_voters_of(&self, info: &RegionInfo, peers: &[Peer]) -> i64 {
        let spare = |is_in: fn(PeerRole) -> bool| {
            let voters: Vec<_> = peers.iter().filter(|p| is_in(p.role)).collect();
            let live = voters.iter().filter(|p| self.peer_health(info, p).is_live()).count();
            live as i64 - (voters.len() / 2 + 1) as i64
        };
        let incoming = spare(|role| matches!(role, PeerRole::Voter | PeerRole::IncomingVoter));
        let is_joint =
            peers.iter().any(|p| matches!(p.role, PeerRole::IncomingVoter | PeerRole::DemotingVoter));
        if is_joint {
            incoming.min(spare(|role| matches!(role, PeerRole::Voter | PeerRole::DemotingVoter)))
        } else {
            incoming
        }
    }

    /// Whether live voters are a quorum before, during and after a change.
    pub(super) fn keeps_quorum(&self, info: &RegionInfo, changes: &[PeerChange]) -> bool {
        let during = Region { peers: after_change(&info.region, changes), ..(*info.region).clone() };
        self.spare_voters(info) >= 0
            && self.spare_voters_of(info, &during.peers) >= 0
            && self.spare_voters_of(info, &after_leave(&during)) >= 0
    }

    /// The leader, if it can be asked for a step now.
    pub(super) fn reachable_leader(&self, info: &RegionInfo) -> Option<Peer> {
        let leader = info.leader_peer().filter(|_| info.ready)?;
        (self.sites.get(&leader.store)?.health == StoreHealth::Live).then_some(*leader)
    }

    /// Voters that could take leadership over.
    pub(super) fn heirs<'i>(&'i self, info: &'i RegionInfo) -> impl Iterator<Item = &'i Peer> {
        info.region.peers.iter().filter(|p| {
            info.leader != Some(p.id)
                && matches!(p.role, PeerRole::Voter | PeerRole::IncomingVoter)
                && !info.pending.contains(&p.id)
                && self.peer_health(info, p) == PeerHealth::Healthy
        })
    }

    // ---- limits and what is under way ----

    pub(super) fn is_busy(&self, region: RegionId) -> bool {
        let is_awaited = || self.flight.moves().any(|(_, plan)| plan.join == Some(region));
        self.flight.operator(region).is_some() || self.flight.is_source(region) || is_awaited()
    }

    /// Whether a neighbour was asked to take the region over.
    pub(super) fn is_source(&self, region: RegionId) -> bool {
        self.flight.is_source(region)
    }

    /// Why the region's unfinished operator was asked for.
    pub(super) fn asked_reason(&self, region: RegionId) -> Option<Reason> {
        self.flight.operator(region).map(|o| o.reason)
    }

    pub(super) fn planned_move(&self, region: RegionId) -> Option<Move> {
        self.flight.planned(region)
    }

    /// Whether the region's move was asked for by hand.
    pub(super) fn is_ordered(&self, region: RegionId) -> bool {
        self.flight.is_ordered(region)
    }

    /// Orders that are not begun.
    pub(super) fn waiting_orders(&self) -> Vec<Order> {
        self.flight.waiting_orders()
    }

    pub(super) fn put_order(&mut self, order: Order) {
        self.flight.put_order(order);
    }

    pub(super) fn learner_age_ms(&self, peer: PeerId) -> u64 {
        self.flight.learner_since_ms(peer).map_or(0, |since| self.now_ms.saturating_sub(since))
    }

    /// Transfers for the sake of stores, not of their region, that may be added to those under way.
    pub(super) fn transfer_slots(&self) -> usize {
        let is_one = |o: &&Operator| matches!(o.reason, Reason::BalanceLeaders | Reason::SlowDisk);
        let most = self.config.transfers_max.max(self.view.regions().len() / REGIONS_PER_TRANSFER);
        most.saturating_sub(self.flight.operators().filter(is_one).count())
    }

    pub(super) fn has_move_slot(&self) -> bool {
        self.flight.moves().count() < self.config.moves_max
    }

    pub(super) fn has_merge_slot(&self) -> bool {
        self.flight.operators().filter(|o| o.reason == Reason::Merge).count() < self.config.merges_max
    }

    /// For how long the region was neither cut nor busy, as far as this leadership knows.
    pub(super) fn calm_ms(&self, region: RegionId) -> u64 {
        self.flight.calm_since_ms(region).map_or(0, |since| self.now_ms.saturating_sub(since))
    }

    // ---- placement of new replicas ----

    /// Whether the store is one on which replicas of the region are damaged again and again.
    pub(super) fn has_relapsed(&self, region: RegionId, store: StoreId) -> bool {
        self.flight.has_relapsed(region, store)
    }

    /// Whether `store` may get a new replica of the region at all.
    pub(super) fn is_placeable(&self, info: &RegionInfo, store: StoreId) -> bool {
        let Some(site) = self.sites.get(&store) else { return false };
        site.health == StoreHealth::Live
            && site.info.record.state == StoreState::Up
            && !site.info.is_low_on_space(self.config.low_space_percent)
            && !self.has_relapsed(info.region.id, store)
            && info.region.peer_on(store).is_none()
    }

    /// Whether limits leave room to fill a replica on `store` from `leader`. The meta region has no limits.
    pub(super) fn has_fill_slot(&self, info: &RegionInfo, leader: StoreId, store: StoreId) -> bool {
        info.region.id == RegionId::META
            || (self.sites[&store].load.filling < self.config.filling_per_store_max
                && self.sites[&leader].load.sending < self.config.sending_per_store_max)
    }

    /// The best store for a new replica, limits aside: the farthest from the replicas that stay, then the emptiest.
    pub(super) fn best_store(&self, info: &RegionInfo) -> Option<StoreId> {
        let staying: Vec<StoreId> = info
            .region
            .peers
            .iter()
            .filter(|p| !self.peer_health(info, p).must_go())
            .map(|p| p.store)
            .collect();
        let candidates = self.sites.keys().copied().filter(|store| self.is_placeable(info, *store));
        candidates.min_by_key(|store| {
            let isolation = self.isolation(*store, &staying);
            (std::cmp::Reverse(isolation), self.sites[store].load.peers, *store)
        })
    }

    /// How far `store` is from `others`: per other store, more the coarser the first location label that differs.
    pub(super) fn isolation(&self, store: StoreId, others: &[StoreId]) -> u64 {
        let labels = &self.config.location_labels;
        let label = |store: StoreId, key: &String| self.sites.get(&store)?.info.record.labels.get(key);
        let distance = |other: &StoreId| {
            let first = labels.iter().position(|key| label(store, key) != label(*other, key));
            first.map_or(0, |level| 100u64.saturating_pow((labels.len() - level) as u32))
        };
        others.iter().filter(|other| **other != store).map(distance).fold(0, u64::saturating_add)
    }

    /// A peer nobody ever had, on `store`; `None` while there are no ids.
    pub(super) fn new_peer(&mut self, region: RegionId, store: StoreId) -> Option<Peer> {
        let id = if region == RegionId::META { self.ids.take_for_meta() } else { self.ids.take() };
        id.map(|id| Peer { id: PeerId(id), store, role: PeerRole::Learner })
    }

    // ---- operators ----

    /// Asks the region's leader for a step.
    pub(super) fn ask(&mut self, info: &RegionInfo, leader: Peer, reason: Reason, step: Step) {
        let operator = Operator { region: info.region.id, epoch: info.region.epoch, leader, step, reason };
        self.count_in(&operator);
        self.flight.ask(operator.clone(), self.now_ms);
        self.operators.push(operator);
    }

    pub(super) fn plan_move(&mut self, region: RegionId, plan: Move) {
        self.flight.plan(region, plan);
        self.load_mut(plan.from_store, |load| lower(&mut load.peers));
    }

    /// Counts the effect of an operator that the view does not show yet.
    fn count_in(&mut self, operator: &Operator) {
        let Some(info) = self.view.regions().by_id(operator.region) else { return };
        let counted = u64::from(info.is_counted());
        match &operator.step {
            Step::TransferLeader(to) => {
                self.load_mut(operator.leader.store, |load| {
                    load.leaders = load.leaders.saturating_sub(counted)
                });
                self.load_mut(to.store, |load| load.leaders += counted);
            }
            Step::ChangePeers(changes) => {
                for PeerChange { kind, peer } in changes {
                    let is_known = info.region.peer(peer.id).is_some();
                    match kind {
                        PeerChangeKind::AddLearner if !is_known => {
                            self.load_mut(peer.store, |load| {
                                load.peers += counted;
                                load.filling += 1;
                            });
                            self.load_mut(operator.leader.store, |load| load.sending += 1);
                        }
                        PeerChangeKind::Remove => {
                            self.load_mut(peer.store, |load| load.peers = load.peers.saturating_sub(counted));
                        }
                        PeerChangeKind::AddLearner | PeerChangeKind::AddVoter => {}
                    }
                }
            }
            Step::LeaveJoint | Step::Merge(_) => {}
        }
    }

    fn load_mut(&mut self, store: StoreId, apply: impl FnOnce(&mut StoreLoad)) {
        if let Some(site) = self.sites.get_mut(&store) {
            apply(&mut site.load);
        }
    }
}

fn lower(count: &mut u64) {
    *count = count.saturating_sub(1);
}

fn removes(operator: &Operator, peer: PeerId) -> bool {
    match &operator.step {
        Step::ChangePeers(changes) => {
            changes.iter().any(|c| c.kind == PeerChangeKind::Remove && c.peer.id == peer)
        }
        Step::TransferLeader(_) | Step::LeaveJoint | Step::Merge(_) => false,
    }
}
