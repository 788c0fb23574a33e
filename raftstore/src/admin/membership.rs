//! Membership: one change at a time, or several through a joint configuration that is left explicitly.
//!
//! A voter is never removed in one step: it is demoted to a learner, which a later change then removes. Otherwise it
//! could be gone while those that remain have forgotten in a crash that the change is committed, and need its vote by
//! the membership before. The removal of a learner is proposed under the membership that does without its vote, so
//! that by its own commit a quorum of that membership holds a commit index that covers the demotion.
//!
//! The entry's context carries the peers as they will be and the epoch it was checked for; core and descriptor change in
//! the same step of the raft worker (trap T19).

use std::sync::Arc;

use bytes::Bytes;
use flotilla_raft::{ConfChangeKind, ConfChangeSingle, ConfChangeTransition, ConfChangeV2};
use flotilla_region::{Peer as PeerInfo, PeerId, PeerRole, Region};

use crate::entry::MembershipChange;
use crate::error::RequestError;
use crate::msg::{AdminDone, Callers, PeerChange, Waiting};
use crate::outbox::raft_message;
use crate::peer::{Peer, Phase};
use crate::worker::Env;

/// A learner further behind than this is not promoted.
const PROMOTE_LAG_MAX: u64 = 1_024;

impl Peer {
    /// Checks and proposes membership changes.
    pub(crate) fn propose_change(&mut self, changes: &[PeerChange], done: AdminDone, env: &mut Env) {
        let planned = plan(&self.region, changes).and_then(|plan| self.check_plan(&plan).map(|()| plan));
        match planned {
            Ok(plan) => self.propose_membership(plan, done, env),
            Err(why) => done(Err(RequestError::Refused(why))),
        }
    }

    /// Proposes to leave the joint configuration.
    pub(crate) fn propose_leave(&mut self, done: AdminDone, env: &mut Env) {
        if !self.region.is_joint() {
            return done(Err(RequestError::Refused("membership is not joint")));
        }
        let mut peers = self.region.peers.clone();
        let mut changed = 0;
        for peer in &mut peers {
            let role = match peer.role {
                PeerRole::IncomingVoter => PeerRole::Voter,
                PeerRole::DemotingVoter => PeerRole::Learner,
                role => role,
            };
            changed += u64::from(role != peer.role);
            peer.role = role;
        }
        let plan = Plan { transition: ConfChangeTransition::Auto, changes: Vec::new(), peers, changed };
        self.propose_membership(plan, done, env);
    }

    fn propose_membership(&mut self, plan: Plan, done: AdminDone, env: &mut Env) {
        if self.is_in_merge() {
            return done(Err(RequestError::Merging(self.id())));
        }
        if self.node.pending_conf_index() > self.applied.index {
            return done(Err(RequestError::Refused("another membership change is under way")));
        }
        let context = MembershipChange { epoch: self.region.epoch, changed: plan.changed, peers: plan.peers };
        let change =
            ConfChangeV2 { transition: plan.transition, changes: plan.changes, context: context.encode() };
        if self.node.propose_conf_change(change).is_err() {
            return done(Err(self.not_leader()));
        }
        let (index, term) = (self.node.last_index(), self.node.term());
        let waiting = Waiting { index, term, proposed_at: env.now, callers: Callers::Admin(done) };
        self.writes.push_proposed(waiting);
    }

    /// Refuses what would make the group unavailable, or take its leader away.
    fn check_plan(&self, plan: &Plan) -> Result<(), &'static str> {
        let votes_after = |p: &&PeerInfo| matches!(p.role, PeerRole::Voter | PeerRole::IncomingVoter);
        if !plan.peers.iter().any(|p| p.id == self.me.id && votes_after(&p)) {
            return Err("the leader would leave: transfer leadership first");
        }
        let voters: Vec<PeerId> = plan.peers.iter().filter(votes_after).map(|p| p.id).collect();
        let healthy = |id: &&PeerId| {
            **id == self.me.id || self.node.progress(**id).is_some_and(|progress| progress.is_alive())
        };
        if voters.iter().filter(healthy).count() < voters.len() / 2 + 1 {
            return Err("the region would lose its quorum of healthy voters");
        }
        for single in plan.changes.iter().filter(|c| c.kind == ConfChangeKind::AddVoter) {
            // One that never answered has nothing, however short the log is, and seems alive because it is new.
            let caught_up = self
                .node
                .progress(single.peer)
                .is_some_and(|p| p.matched.0 > 0 && p.matched.0 + PROMOTE_LAG_MAX >= self.node.commit().0);
            if self.region.peer(single.peer).is_some() && !caught_up {
                return Err("the learner has not caught up");
            }
        }
        Ok(())
    }

    /// A membership change was applied: core and descriptor take it over in this one step.
    pub(crate) fn on_membership(
        &mut self,
        change: &ConfChangeV2,
        region: Arc<Region>,
        done: Option<AdminDone>,
        env: &mut Env,
    ) {
        // What was applied before a snapshot that is being installed: the core has that one's membership already.
        if self.phase != Phase::Installing {
            let conf_state = self.node.apply_conf_change(change);
            assert_eq!(
                conf_state,
                region.conf_state(),
                "core and descriptor of region {} disagree",
                region.id
            );
        }
        let before = std::mem::replace(&mut self.region, region);
        if let Some(done) = done {
            done(Ok(vec![(*self.region).clone()]));
        }
        if self.phase == Phase::Installing {
            return;
        }
        let Some(me) = self.region.peer(self.me.id).copied() else {
            return self.close(env);
        };
        self.me = me;
        let region = self.region.clone();
        env.shared.ranges.lock().refresh(&region);
        let gone = before.peers.iter().filter(|p| region.peer(p.id).is_none());
        // Nobody will send them another entry: whoever leads tells them, until they have acknowledged it.
        env.removed.extend(gone.clone().map(|gone| (region.id, *gone)));
        if self.is_leader() {
            for gone in gone {
                self.tell_removed(*gone, env);
                self.release_removed(gone.id, env);
                self.stop_snapshots(Some(gone.id), env);
            }
            self.join_flow(env);
            self.publish_lease(true, env);
        }
    }

    /// Tells a peer that it is none any more.
    pub(crate) fn tell_removed(&self, gone: PeerInfo, env: &mut Env) {
        let mut message = raft_message(&self.region, self.me, gone, None, false);
        message.is_tombstone = true;
        env.outbox.push(gone.store, message);
    }
}

struct Plan {
    transition: ConfChangeTransition,
    changes: Vec<ConfChangeSingle>,
    peers: Vec<PeerInfo>,
    changed: u64,
}

/// What the changes make of the region's peers.
fn plan(region: &Region, changes: &[PeerChange]) -> Result<Plan, &'static str> {
    if region.is_joint() {
        return Err("membership is joint: leave that first");
    }
    let demotes = |c: &PeerChange| matches!(c, PeerChange::AddLearner(p) if region.peer(p.id).is_some_and(|old| old.role == PeerRole::Voter));
    let joint = changes.len() > 1 || changes.iter().any(demotes);
    let mut peers = region.peers.clone();
    let mut singles = Vec::with_capacity(changes.len());
    for change in changes {
        let (kind, id) = apply_change(&mut peers, *change, joint)?;
        singles.push(ConfChangeSingle { kind, peer: id });
    }
    if singles.is_empty() {
        return Err("no change");
    }
    let transition = if joint { ConfChangeTransition::JointExplicit } else { ConfChangeTransition::Auto };
    Ok(Plan { transition, changed: singles.len() as u64, changes: singles, peers })
}

fn apply_change(
    peers: &mut Vec<PeerInfo>,
    change: PeerChange,
    joint: bool,
) -> Result<(ConfChangeKind, PeerId), &'static str> {
    let at = |peers: &[PeerInfo], id: PeerId| peers.iter().position(|p| p.id == id);
    let add = |peers: &mut Vec<PeerInfo>, new: PeerInfo| {
        if peers.iter().any(|p| p.store == new.store) {
            return Err("the store holds a peer of the region already");
        }
        peers.push(new);
        Ok(())
    };
    match change {
        PeerChange::AddVoter(new) => {
            let role = if joint { PeerRole::IncomingVoter } else { PeerRole::Voter };
            match at(peers, new.id) {
                Some(old) if peers[old].role == PeerRole::Learner => peers[old].role = role,
                Some(_) => return Err("the peer votes already"),
                None => add(peers, PeerInfo { role, ..new })?,
            }
            Ok((ConfChangeKind::AddVoter, new.id))
        }
        PeerChange::AddLearner(new) => {
            match at(peers, new.id) {
                Some(old) if peers[old].role == PeerRole::Voter => peers[old].role = PeerRole::DemotingVoter,
                Some(_) => return Err("the peer is a learner already"),
                None => add(peers, PeerInfo { role: PeerRole::Learner, ..new })?,
            }
            Ok((ConfChangeKind::AddLearner, new.id))
        }
        PeerChange::Remove(id) => {
            let at = at(peers, id).ok_or("no such peer")?;
            if peers[at].role != PeerRole::Learner {
                return Err("demote a voter before it is removed");
            }
            peers.remove(at);
            Ok((ConfChangeKind::RemovePeer, id))
        }
    }
}

/// What a conf change entry says, and the region after it; an error means that it must not take effect.
pub(crate) fn membership_after(region: &Region, change: &ConfChangeV2) -> Result<Region, RequestError> {
    let Some(wanted) = MembershipChange::decode(Bytes::clone(&change.context)) else {
        return Err(RequestError::Refused("unknown membership change"));
    };
    if wanted.epoch.conf_ver != region.epoch.conf_ver {
        return Err(RequestError::EpochNotMatch(vec![region.clone()]));
    }
    let mut after = region.clone();
    after.epoch.conf_ver += wanted.changed;
    after.peers = wanted.peers;
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_region::{RegionEpoch, RegionId, StoreId};

    fn peer(id: u64, role: PeerRole) -> PeerInfo {
        PeerInfo { id: PeerId(id), store: StoreId(id), role }
    }

    fn region(peers: &[PeerInfo]) -> Region {
        Region { id: RegionId(1), epoch: RegionEpoch::INITIAL, peers: peers.to_vec(), ..Region::default() }
    }

    #[test]
    fn one_change_is_simple_and_two_are_joint() {
        let region =
            region(&[peer(1, PeerRole::Voter), peer(2, PeerRole::Learner), peer(3, PeerRole::Voter)]);
        let simple = plan(&region, &[PeerChange::AddVoter(peer(2, PeerRole::Voter))]).expect("legal");
        assert_eq!(simple.transition, ConfChangeTransition::Auto);
        assert_eq!(simple.peers[1].role, PeerRole::Voter);
        let swap = [
            PeerChange::AddVoter(peer(2, PeerRole::Voter)),
            PeerChange::AddLearner(peer(3, PeerRole::Learner)),
        ];
        let joint = plan(&region, &swap).expect("legal");
        assert_eq!(joint.transition, ConfChangeTransition::JointExplicit);
        assert_eq!(joint.peers[1].role, PeerRole::IncomingVoter);
        assert_eq!(joint.peers[2].role, PeerRole::DemotingVoter);
        assert_eq!(joint.changed, 2);
    }

    #[test]
    fn nonsense_is_refused() {
        let two = region(&[peer(1, PeerRole::Voter), peer(2, PeerRole::Voter)]);
        assert!(plan(&two, &[]).is_err());
        assert!(plan(&two, &[PeerChange::AddVoter(peer(2, PeerRole::Voter))]).is_err());
        assert!(plan(&two, &[PeerChange::Remove(PeerId(9))]).is_err());
        assert!(plan(&two, &[PeerChange::Remove(PeerId(2))]).is_err(), "a voter is demoted first");
        let other_on_store = PeerInfo { id: PeerId(9), ..peer(2, PeerRole::Learner) };
        assert!(
            plan(&two, &[PeerChange::AddLearner(other_on_store)]).is_err(),
            "one peer of a region per store"
        );
        let joint = region(&[peer(1, PeerRole::Voter), peer(2, PeerRole::IncomingVoter)]);
        assert!(plan(&joint, &[PeerChange::Remove(PeerId(1))]).is_err());
    }
}
