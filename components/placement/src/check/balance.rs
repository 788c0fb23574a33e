//! Balance of leaders and of replicas over the stores that serve.
//!
//! Both walk the regions once and take, for each, the pair of stores that differ most, if they differ by the
//! tolerance or more. Loads count what is under way, and a tolerance of at least 2 makes every step shrink the sum of
//! the loads' squares: walks end, and nothing moves back.

use flotilla_region::{Peer, PeerRole, StoreId};

use super::merge::is_to_merge;
use super::replica::wanted_replicas;
use super::round::{PeerHealth, Round, Site};
use crate::{
    Move, PeerChange, PlacementConfig, Reason, RegionInfo, Step, StoreHealth, StoreLoad, StoreState,
};

/// Hands leaderships from stores with slow disks to others.
pub(super) fn leave_slow_disks(round: &mut Round<'_>) {
    if !round.sites.values().any(|site| site.info.disk.is_slow) {
        return;
    }
    let (view, mut slots) = (round.view, round.transfer_slots());
    for info in view.regions().iter() {
        if slots == 0 {
            return;
        }
        let Some(leader) = free_leader(round, info).filter(|p| is_slow(round, p.store)) else { continue };
        if let Some(heir) = best_heir(round, info) {
            round.ask(info, leader, Reason::SlowDisk, Step::TransferLeader(heir));
            slots -= 1;
        }
    }
}

/// The leader of a region, if it can be asked to hand over and nothing else is under way.
fn free_leader(round: &Round<'_>, info: &RegionInfo) -> Option<Peer> {
    let id = info.region.id;
    let is_taken = round.is_busy(id) || round.planned_move(id).is_some() || info.region.is_joint();
    round.reachable_leader(info).filter(|_| !is_taken)
}

/// The one with the fewest leaders on its store, of those that can be given some.
fn best_heir(round: &Round<'_>, info: &RegionInfo) -> Option<Peer> {
    let may_lead = |peer: &&Peer| is_settled(round, peer.store) && !is_slow(round, peer.store);
    let leaders = |peer: &&Peer| (round.sites[&peer.store].load.leaders, peer.id);
    round.heirs(info).filter(may_lead).min_by_key(leaders).copied()
}

fn is_slow(round: &Round<'_>, store: StoreId) -> bool {
    round.sites[&store].info.disk.is_slow
}

/// Hands leaderships from stores with more to stores with fewer.
pub(super) fn balance_leaders(round: &mut Round<'_>) {
    let Some((tolerance, spread)) = spread(round, |load| load.leaders, round.config.leader_tolerance) else {
        return;
    };
    if spread < tolerance {
        return;
    }
    let (view, mut slots) = (round.view, round.transfer_slots());
    for info in view.regions().iter().filter(|info| info.is_counted()) {
        if slots == 0 {
            return;
        }
        let Some(leader) = free_leader(round, info) else { continue };
        let Some(heir) = best_heir(round, info) else { continue };
        let leaders = |store: StoreId| round.sites[&store].load.leaders;
        if leaders(leader.store) >= leaders(heir.store) + tolerance {
            round.ask(info, leader, Reason::BalanceLeaders, Step::TransferLeader(heir));
            slots -= 1;
        }
    }
}

/// Starts moves of replicas from stores with more to stores with fewer.
pub(super) fn balance_regions(round: &mut Round<'_>) {
    let Some((tolerance, spread)) = spread(round, |load| load.peers, round.config.region_tolerance) else {
        return;
    };
    if spread < tolerance {
        return;
    }
    let view = round.view;
    for info in view.regions().iter().filter(|info| info.is_counted()) {
        if !round.has_move_slot() {
            return;
        }
        let Some(leader) = round.reachable_leader(info).filter(|_| is_complete(round, info)) else {
            continue;
        };
        let Some((from, to)) = best_move(round, info, leader, tolerance) else { continue };
        if is_to_merge(round, info) {
            continue;
        }
        let plan = Move { from: from.id, from_store: from.store, to, join: None };
        if !start_move(round, info, leader, plan, Reason::BalanceRegions) {
            return;
        }
    }
}

/// Begins to replace a replica by one on another store. Returns false if there are no ids.
pub(super) fn start_move(
    round: &mut Round<'_>,
    info: &RegionInfo,
    leader: Peer,
    plan: Move,
    reason: Reason,
) -> bool {
    let Some(peer) = round.new_peer(info.region.id, plan.to) else { return false };
    round.plan_move(info.region.id, plan);
    let changes = vec![PeerChange::add_learner(peer)];
    round.ask(info, leader, reason, Step::ChangePeers(changes));
    true
}

/// The tolerance in force and the widest difference between stores that take part; `None` with fewer than two.
fn spread(round: &Round<'_>, count: fn(&StoreLoad) -> u64, floor: u64) -> Option<(u64, u64)> {
    let serving =
        |site: &&Site<'_>| site.health == StoreHealth::Live && site.info.record.state == StoreState::Up;
    let counts: Vec<u64> = round.sites.values().filter(serving).map(|site| count(&site.load)).collect();
    let (least, most) = (*counts.iter().min()?, *counts.iter().max()?);
    let tolerance = tolerance(round.config, floor, &counts);
    (counts.len() > 1).then_some((tolerance, most - least))
}

fn tolerance(config: &PlacementConfig, floor: u64, counts: &[u64]) -> u64 {
    let mean = counts.iter().sum::<u64>() / counts.len() as u64;
    floor.max(mean * config.tolerance_percent / 100)
}

/// Whether a store has been up for long enough to be given leaders.
fn is_settled(round: &Round<'_>, store: StoreId) -> bool {
    let since_ms = round.sites[&store].info.settled_since_ms;
    round.now_ms.saturating_sub(since_ms) >= round.config.store_settle_ms
}

/// Whether the region has exactly its replicas, all of them healthy and caught up, and nothing under way.
pub(super) fn is_complete(round: &Round<'_>, info: &RegionInfo) -> bool {
    let id = info.region.id;
    info.pending.is_empty()
        && !round.is_busy(id)
        && round.planned_move(id).is_none()
        && info.region.peers.len() == wanted_replicas(round, info)
        && info
            .region
            .peers
            .iter()
            .all(|p| p.role == PeerRole::Voter && round.peer_health(info, p) == PeerHealth::Healthy)
}

/// The replica and the store whose exchange evens loads most without bringing replicas closer together.
fn best_move(round: &Round<'_>, info: &RegionInfo, leader: Peer, tolerance: u64) -> Option<(Peer, StoreId)> {
    let load = |store: StoreId| round.sites[&store].load.peers;
    let stores: Vec<StoreId> = info.region.peers.iter().map(|p| p.store).collect();
    let mut best: Option<((u64, bool), Peer, StoreId)> = None;
    for from in &info.region.peers {
        let others: Vec<StoreId> = stores.iter().copied().filter(|s| *s != from.store).collect();
        let isolation = round.isolation(from.store, &others);
        for to in round.sites.keys().copied() {
            let gain = load(from.store).saturating_sub(load(to));
            let is_possible = gain >= tolerance
                && round.is_placeable(info, to)
                && round.has_fill_slot(info, leader.store, to)
                && round.isolation(to, &others) >= isolation;
            // A leader would have to be moved away first.
            let key = (gain, from.id != leader.id);
            if is_possible && best.as_ref().is_none_or(|(known, ..)| *known < key) {
                best = Some((key, *from, to));
            }
        }
    }
    best.map(|(_, from, to)| (from, to))
}
