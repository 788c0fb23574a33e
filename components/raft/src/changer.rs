//! Computes the configuration that a membership change leads to.
//!
//! Rules of etcd-io/raft's confchange package: a simple change moves at most one voter; a joint change copies the
//! voters to the outgoing half first and edits the incoming one; a voter that is demoted in a joint change waits in
//! `learners_next` until the outgoing half is left.

use crate::{
    conf_change::{ConfChangeKind, ConfChangeSingle, ConfChangeV2},
    error::ConfChangeError,
    tracker::{Configuration, Progress, ProgressMap, Tracker},
    types::{ConfState, Index, PeerId},
};

/// A configuration together with the progress of its members.
type Membership = (Configuration, ProgressMap);

/// Computes changes of `tracker`'s configuration without touching it.
#[derive(Clone, Copy, Debug)]
pub struct Changer<'a> {
    /// The configuration to start from.
    pub tracker: &'a Tracker,
    /// Last index of the log: new peers are probed from here.
    pub last_index: Index,
}

impl Changer<'_> {
    /// Whatever `change` asks for.
    ///
    /// # Errors
    /// The change cannot be made from the present configuration.
    pub fn apply(&self, change: &ConfChangeV2) -> Result<Membership, ConfChangeError> {
        if change.leaves_joint() {
            self.leave_joint()
        } else if let Some(auto_leave) = change.enters_joint() {
            self.enter_joint(auto_leave, &change.changes)
        } else {
            self.simple(&change.changes)
        }
    }

    /// Changes that move at most one voter.
    ///
    /// # Errors
    /// Joint already, no voter left, or more than one voter moved.
    pub fn simple(&self, changes: &[ConfChangeSingle]) -> Result<Membership, ConfChangeError> {
        let before = &self.tracker.config.voters;
        if before.is_joint() {
            return Err(ConfChangeError::SimpleInJoint);
        }
        let (config, progress) = self.edit(self.tracker.config.clone(), changes)?;
        let after = &config.voters.incoming;
        let added = after.iter().filter(|&id| !before.incoming.contains(id)).count();
        let removed = before.incoming.iter().filter(|&id| !after.contains(id)).count();
        if added + removed > 1 {
            return Err(ConfChangeError::ManyVotersInSimple);
        }
        Ok((config, progress))
    }

    /// Starts a joint change.
    ///
    /// # Errors
    /// Joint already, or without voters before or after.
    pub fn enter_joint(
        &self,
        auto_leave: bool,
        changes: &[ConfChangeSingle],
    ) -> Result<Membership, ConfChangeError> {
        let mut config = self.tracker.config.clone();
        if config.voters.is_joint() {
            return Err(ConfChangeError::AlreadyJoint);
        }
        if config.voters.incoming.is_empty() {
            return Err(ConfChangeError::ZeroVoterJoint);
        }
        config.voters.outgoing = config.voters.incoming.clone();
        let (mut config, progress) = self.edit(config, changes)?;
        config.auto_leave = auto_leave;
        Ok((config, progress))
    }

    /// Ends a joint change.
    ///
    /// # Errors
    /// Not joint.
    pub fn leave_joint(&self) -> Result<Membership, ConfChangeError> {
        let mut config = self.tracker.config.clone();
        let mut progress = self.tracker.progress.clone();
        if !config.voters.is_joint() {
            return Err(ConfChangeError::NotJoint);
        }
        for id in std::mem::take(&mut config.learners_next).iter() {
            config.learners.insert(id);
            if let Some(pr) = progress.get_mut(id) {
                pr.is_learner = true;
            }
        }
        for id in std::mem::take(&mut config.voters.outgoing).iter() {
            if !config.voters.incoming.contains(id) && !config.learners.contains(id) {
                progress.remove(id);
            }
        }
        config.auto_leave = false;
        Ok((config, progress))
    }

    /// The membership that `state` describes, everybody unknown and to be probed.
    ///
    /// # Errors
    /// `Inconsistent`.
    pub fn restore(&self, state: &ConfState) -> Result<Membership, ConfChangeError> {
        let config = Configuration::from_conf_state(state);
        config.check()?;
        let mut progress = ProgressMap::default();
        for id in config.members().iter() {
            progress.insert(id, self.new_progress(config.learners.contains(id)));
        }
        Ok((config, progress))
    }

    fn edit(
        &self,
        mut config: Configuration,
        changes: &[ConfChangeSingle],
    ) -> Result<Membership, ConfChangeError> {
        let mut progress = self.tracker.progress.clone();
        for change in changes {
            if change.peer.is_zero() || change.peer.is_storage_thread() {
                continue;
            }
            match change.kind {
                ConfChangeKind::AddVoter => self.add_voter(&mut config, &mut progress, change.peer),
                ConfChangeKind::AddLearner => self.add_learner(&mut config, &mut progress, change.peer),
                ConfChangeKind::RemovePeer => remove(&mut config, &mut progress, change.peer),
                ConfChangeKind::Update => {}
            }
        }
        if config.voters.incoming.is_empty() {
            return Err(ConfChangeError::RemovedAllVoters);
        }
        Ok((config, progress))
    }

    /// A new peer counts as active, so that it survives the next quorum check and can be sent a snapshot.
    fn new_progress(&self, is_learner: bool) -> Progress {
        let next = self.last_index.max(Index(1));
        let mut progress = Progress::new(next, self.tracker.new_inflights(), is_learner);
        progress.recent_active = true;
        progress
    }

    fn add_voter(&self, config: &mut Configuration, progress: &mut ProgressMap, id: PeerId) {
        match progress.get_mut(id) {
            Some(known) => known.is_learner = false,
            None => progress.insert(id, self.new_progress(false)),
        }
        config.learners.remove(id);
        config.learners_next.remove(id);
        config.voters.incoming.insert(id);
    }

    fn add_learner(&self, config: &mut Configuration, progress: &mut ProgressMap, id: PeerId) {
        let Some(known) = progress.get_mut(id) else {
            progress.insert(id, self.new_progress(true));
            config.learners.insert(id);
            return;
        };
        if known.is_learner {
            return;
        }
        config.voters.incoming.remove(id);
        if config.voters.outgoing.contains(id) {
            config.learners_next.insert(id);
        } else {
            known.is_learner = true;
            config.learners.insert(id);
        }
    }
}

fn remove(config: &mut Configuration, progress: &mut ProgressMap, id: PeerId) {
    config.voters.incoming.remove(id);
    config.learners.remove(id);
    config.learners_next.remove(id);
    if !config.voters.outgoing.contains(id) {
        progress.remove(id);
    }
}
