//! The replica checker: leaves joint states, brings a region to its number of replicas, replaces those that must go,
//! removes those too many, and carries balance moves through.
//!
//! Every change is one of: add a learner; promote a caught-up learner; swap learners for voters by one joint change
//! (each voter becomes a learner); demote a voter; remove a learner. So a voter goes in two steps, and a region never
//! counts on a replica that has no data yet.

use flotilla_region::{Peer, PeerRole, RegionId};

use super::round::{PeerHealth, Round};
use crate::{PeerChange, Reason, RegionInfo, Step, StoreHealth, StoreState};

/// What a region is waiting for after its check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing, or something placement cannot give.
    Idle,
    /// A step was asked for or is under way that is not for balance.
    Repairing,
    /// A balance step is under way.
    Moving,
}

/// A voter or learner with its health.
type Seat = (Peer, PeerHealth);

/// A region's peers, sorted out.
struct Group<'i> {
    info: &'i RegionInfo,
    leader: Peer,
    wanted: usize,
    voters: Vec<Seat>,
    learners: Vec<Seat>,
}

/// Decides the region's next step, if it needs one.
pub(super) fn check_region(round: &mut Round<'_>, info: &RegionInfo) -> Verdict {
    let id = info.region.id;
    if let Some(reason) = round.asked_reason(id) {
        let is_balance = matches!(
            reason,
            Reason::SlowDisk
                | Reason::BalanceLeaders
                | Reason::BalanceRegions
                | Reason::Ordered
                | Reason::Merge
        );
        let is_move = is_balance || round.planned_move(id).is_some();
        return if is_move { Verdict::Moving } else { Verdict::Repairing };
    }
    if round.is_source(id) {
        return Verdict::Moving;
    }
    let Some(leader) = round.reachable_leader(info) else { return Verdict::Idle };
    if info.region.is_joint() {
        return leave_joint(round, info, leader);
    }
    let seat = |peer: &Peer| (*peer, round.peer_health(info, peer));
    let (voters, learners) =
        info.region.peers.iter().map(seat).partition(|(peer, _)| peer.role == PeerRole::Voter);
    let group = Group { info, leader, wanted: wanted_replicas(round, info), voters, learners };
    remove_stuck_learner(round, &group)
        .or_else(|| evict_leader(round, &group))
        .or_else(|| repair(round, &group))
        .or_else(|| replace_only_voter(round, &group))
        .or_else(|| demote_surplus(round, &group))
        .or_else(|| carry_move(round, &group))
        .or_else(|| remove_spare_learner(round, &group))
        .unwrap_or(Verdict::Idle)
}

/// Voters a region should have.
pub(super) fn wanted_replicas(round: &Round<'_>, info: &RegionInfo) -> usize {
    let config = round.config;
    if info.region.id != RegionId::META {
        return config.replicas;
    }
    let up = round.sites.values().filter(|s| s.info.record.state == StoreState::Up).count();
    if up >= config.meta_replicas { config.meta_replicas } else { config.replicas }
}

fn leave_joint(round: &mut Round<'_>, info: &RegionInfo, leader: Peer) -> Verdict {
    let is_demoted = info.region.peer(leader.id).is_some_and(|p| p.role == PeerRole::DemotingVoter);
    let heir = round.heirs(info).next().copied();
    match heir.filter(|_| is_demoted) {
        Some(heir) => round.ask(info, leader, Reason::EvictLeader, Step::TransferLeader(heir)),
        None => round.ask(info, leader, Reason::LeaveJoint, Step::LeaveJoint),
    }
    if round.planned_move(info.region.id).is_some() { Verdict::Moving } else { Verdict::Repairing }
}

/// Asks for a membership change, unless live voters would not be a quorum of it.
fn change(
    round: &mut Round<'_>,
    group: &Group<'_>,
    reason: Reason,
    changes: Vec<PeerChange>,
) -> Option<Verdict> {
    if !round.keeps_quorum(group.info, &changes) {
        return None;
    }
    round.ask(group.info, group.leader, reason, Step::ChangePeers(changes));
    let is_move = matches!(reason, Reason::BalanceRegions | Reason::Ordered);
    Some(if is_move { Verdict::Moving } else { Verdict::Repairing })
}

/// Learners are useless on stores that do not answer or are to go, and when they never catch up.
fn remove_stuck_learner(round: &mut Round<'_>, group: &Group<'_>) -> Option<Verdict> {
    let is_stuck = |(peer, health): &&Seat| match health {
        PeerHealth::Gone | PeerHealth::Draining => true,
        PeerHealth::Silent | PeerHealth::Healthy => {
            let is_filling = *health == PeerHealth::Silent || group.info.pending.contains(&peer.id);
            let store_answers = round.sites.get(&peer.store).is_some_and(|s| s.health == StoreHealth::Live);
            !store_answers || (is_filling && round.learner_age_ms(peer.id) >= round.config.learner_stuck_ms)
        }
    };
    let (peer, _) = group.learners.iter().find(is_stuck).copied()?;
    change(round, group, Reason::Surplus, vec![PeerChange::remove(peer)])
}

/// A leader on a store that is being drained goes to a healthy voter first.
fn evict_leader(round: &mut Round<'_>, group: &Group<'_>) -> Option<Verdict> {
    let must_go = round.peer_health(group.info, &group.leader).must_go();
    let heir = emptiest_heir(round, group).filter(|_| must_go)?;
    round.ask(group.info, group.leader, Reason::EvictLeader, Step::TransferLeader(heir));
    Some(Verdict::Repairing)
}

fn emptiest_heir(round: &Round<'_>, group: &Group<'_>) -> Option<Peer> {
    let leaders = |peer: &&Peer| (round.sites[&peer.store].load.leaders, peer.id);
    round.heirs(group.info).min_by_key(leaders).copied()
}

/// Brings the region to its number of replicas on stores that are to keep them.
fn repair(round: &mut Round<'_>, group: &Group<'_>) -> Option<Verdict> {
    let keepers = group.voters.iter().filter(|(_, health)| !health.must_go()).count();
    let missing = group.wanted.saturating_sub(keepers);
    if missing == 0 {
        return None;
    }
    for changes in promotions(group) {
        if let Some(verdict) = change(round, group, Reason::Repair, changes) {
            return Some(verdict);
        }
    }
    let coming = group.learners.iter().filter(|(_, health)| !health.must_go()).count();
    if coming < missing
        && let Some(verdict) = add_learner(round, group)
    {
        return Some(verdict);
    }
    demote_damaged(round, group).or((coming > 0).then_some(Verdict::Repairing))
}

/// Ways to have caught-up learners vote, the best one first: all of them for as many voters that are to go, in one joint
/// change; or one of them.
fn promotions(group: &Group<'_>) -> Vec<Vec<PeerChange>> {
    let healthy = group.learners.iter().filter(|(_, health)| *health == PeerHealth::Healthy);
    let ready = healthy.map(|(peer, _)| *peer).filter(|peer| !group.info.pending.contains(&peer.id));
    let mut victims: Vec<Seat> = group.voters.clone();
    victims.retain(|(peer, health)| health.must_go() && peer.id != group.leader.id);
    victims.sort_by_key(|(peer, health)| std::cmp::Reverse((*health, peer.id)));
    if group.voters.len() < group.wanted {
        // Each one more is a gain.
        victims.clear();
    }
    let swaps: Vec<_> = ready.clone().zip(&victims).collect();
    let swap = |(to, (from, _)): &(Peer, &Seat)| [PeerChange::add_voter(*to), PeerChange::add_learner(*from)];
    match swaps.len() {
        // Too few voters, or only the leader is to go: it needs an heir first.
        0 => ready.take(1).map(|peer| vec![PeerChange::add_voter(peer)]).collect(),
        1 => vec![swap(&swaps[0]).to_vec()],
        _ => vec![swaps.iter().flat_map(swap).collect(), swap(&swaps[0]).to_vec()],
    }
}

/// A damaged voter for which no other store has room makes room on its own: it goes first, and a new one comes there.
/// It was no help anyway, and those that remain are as many as a quorum needed before. Where that did not help it stays.
fn demote_damaged(round: &mut Round<'_>, group: &Group<'_>) -> Option<Verdict> {
    let is_damaged = |peer: &Peer| {
        let site = round.sites.get(&peer.store);
        site.is_some_and(|site| site.info.is_damaged(group.info.region.id, peer.id))
            && !round.has_relapsed(group.info.region.id, peer.store)
    };
    let (victim, _) = group.voters.iter().find(|(peer, _)| is_damaged(peer) && peer.id != group.leader.id)?;
    if group.info.region.peers.iter().any(|p| p.role == PeerRole::Learner) {
        return None;
    }
    change(round, group, Reason::Repair, vec![PeerChange::add_learner(*victim)])
}

/// `None` if no store could take one; waits if limits or ids are all that is in the way.
fn add_learner(round: &mut Round<'_>, group: &Group<'_>) -> Option<Verdict> {
    // Without a quorum no change commits: spend no id on it.
    if round.spare_voters(group.info) < 0 {
        return None;
    }
    let store = round.best_store(group.info)?;
    if !round.has_fill_slot(group.info, group.leader.store, store) {
        return Some(Verdict::Repairing);
    }
    let Some(peer) = round.new_peer(group.info.region.id, store) else { return Some(Verdict::Repairing) };
    change(round, group, Reason::Repair, vec![PeerChange::add_learner(peer)])
}

/// Demotes the most dispensable voter of a region that has too many.
fn demote_surplus(round: &mut Round<'_>, group: &Group<'_>) -> Option<Verdict> {
    if group.voters.len() <= group.wanted {
        return None;
    }
    let stores: Vec<_> = group.voters.iter().map(|(peer, _)| peer.store).collect();
    // The least healthy, then the one that adds least to the spread, then the one on the fullest store.
    let dispensable = |(peer, health): &&Seat| {
        let isolation = round.isolation(peer.store, &stores);
        let peers = round.sites.get(&peer.store).map_or(u64::MAX, |s| s.load.peers);
        (*health, std::cmp::Reverse(isolation), peers, peer.id)
    };
    let victim = group.voters.iter().filter(|(peer, _)| peer.id != group.leader.id).max_by_key(dispensable);
    let (victim, _) = *victim?;
    change(round, group, Reason::Surplus, vec![PeerChange::add_learner(victim)])
}

/// An ordered move of a region's only voter: the new one votes already, so that it can lead; the old one goes.
fn replace_only_voter(round: &mut Round<'_>, group: &Group<'_>) -> Option<Verdict> {
    let id = group.info.region.id;
    let plan = round.planned_move(id).filter(|_| round.is_ordered(id))?;
    let voter =
        |is_it: &dyn Fn(&Peer) -> bool| group.voters.iter().map(|seat| seat.0).find(|peer| is_it(peer));
    let to = voter(&|peer| peer.store == plan.to)?;
    let from = voter(&|peer| peer.id == plan.from)?;
    if from.id == group.leader.id {
        round.ask(group.info, group.leader, Reason::Ordered, Step::TransferLeader(to));
        return Some(Verdict::Moving);
    }
    change(round, group, Reason::Ordered, vec![PeerChange::add_learner(from)])
}

/// The next step of the region's move: swap the new replica, once caught up, for the old one.
fn carry_move(round: &mut Round<'_>, group: &Group<'_>) -> Option<Verdict> {
    let id = group.info.region.id;
    let plan = round.planned_move(id)?;
    let is_ordered = round.is_ordered(id);
    let reason = if is_ordered { Reason::Ordered } else { Reason::BalanceRegions };
    let (to, health) = group.learners.iter().find(|(peer, _)| peer.store == plan.to).copied()?;
    if health != PeerHealth::Healthy || group.info.pending.contains(&to.id) {
        return Some(Verdict::Moving);
    }
    let from = group.voters.iter().map(|(peer, _)| *peer).find(|peer| peer.id == plan.from)?;
    if from.id == group.leader.id {
        match emptiest_heir(round, group) {
            Some(heir) => {
                round.ask(group.info, group.leader, Reason::EvictLeader, Step::TransferLeader(heir));
            }
            None if is_ordered && group.voters.len() == 1 => {
                change(round, group, reason, vec![PeerChange::add_voter(to)]);
            }
            None if is_ordered => {}
            None => return None,
        }
        return Some(Verdict::Moving);
    }
    let swap = vec![PeerChange::add_voter(to), PeerChange::add_learner(from)];
    Some(change(round, group, reason, swap).unwrap_or(Verdict::Moving))
}

/// Learners that nothing needs: what a swap or a demotion left, and what a forgotten move began.
fn remove_spare_learner(round: &mut Round<'_>, group: &Group<'_>) -> Option<Verdict> {
    let (learner, _) = group.learners.first().copied()?;
    let id = group.info.region.id;
    let reason = match round.planned_move(id) {
        Some(_) if round.is_ordered(id) => Reason::Ordered,
        Some(_) => Reason::BalanceRegions,
        None => Reason::Surplus,
    };
    change(round, group, reason, vec![PeerChange::remove(learner)])
}
