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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change() -> impl Strategy<Value = ConfChangeSingle> {
        let kinds = [
            ConfChangeKind::AddVoter,
            ConfChangeKind::AddLearner,
            ConfChangeKind::RemovePeer,
            ConfChangeKind::Update,
        ];
        (0usize..4, 1u64..7)
            .prop_map(move |(kind, id)| ConfChangeSingle { kind: kinds[kind], peer: PeerId(id) })
    }

    fn tracker(state: &ConfState) -> Tracker {
        let mut tracker = Tracker::new(10, 0);
        let changer = Changer { tracker: &tracker, last_index: Index(10) };
        let (config, progress) = changer.restore(state).expect("consistent");
        tracker.config = config;
        tracker.progress = progress;
        tracker
    }

    fn with(tracker: &Tracker, (config, progress): Membership) -> Tracker {
        config.check().expect("changes keep the invariants");
        assert!(
            config.members().iter().eq(progress.iter().map(|(id, _)| id)),
            "progress of exactly the members"
        );
        for (id, own) in progress.iter() {
            assert_eq!(own.is_learner, config.learners.contains(id), "learner flag of {id}");
        }
        let mut changed = tracker.clone();
        changed.config = config;
        changed.progress = progress;
        changed
    }

    fn initial() -> ConfState {
        ConfState { voters: vec![PeerId(1), PeerId(2)], learners: vec![PeerId(3)], ..ConfState::default() }
    }

    /// One simple change after the other; those that would remove the last voter are left out.
    fn in_sequence(changes: &[ConfChangeSingle]) -> Option<Tracker> {
        let mut tracker = tracker(&initial());
        for change in changes {
            let changer = Changer { tracker: &tracker, last_index: Index(10) };
            let changed = changer.simple(std::slice::from_ref(change)).ok()?;
            tracker = with(&tracker, changed);
        }
        Some(tracker)
    }

    proptest! {
        #[test]
        fn a_joint_change_equals_the_same_changes_one_by_one(
            changes in prop::collection::vec(change(), 1..8),
            auto_leave in any::<bool>(),
        ) {
            let Some(expected) = in_sequence(&changes) else { return Ok(()) };
            let start = tracker(&initial());
            let entered =
                Changer { tracker: &start, last_index: Index(10) }.enter_joint(auto_leave, &changes);
            let joint = with(&start, entered.expect("not joint yet"));
            prop_assert_eq!(joint.config.auto_leave, auto_leave);
            prop_assert_eq!(joint.config.voters.outgoing.to_vec(), initial().voters);
            let again = Changer { tracker: &joint, last_index: Index(10) };
            prop_assert_eq!(again.enter_joint(false, &changes), Err(ConfChangeError::AlreadyJoint));
            prop_assert_eq!(again.simple(&changes), Err(ConfChangeError::SimpleInJoint));
            let left = with(&joint, again.leave_joint().expect("joint"));
            prop_assert_eq!(&left.config, &expected.config);
            let ids = |tracker: &Tracker| tracker.progress.iter().map(|(id, _)| id).collect::<Vec<_>>();
            prop_assert_eq!(ids(&left), ids(&expected));
        }

        #[test]
        fn restoring_a_stored_membership_reproduces_it(
            changes in prop::collection::vec(change(), 1..8),
            is_joint in any::<bool>(),
        ) {
            let start = tracker(&initial());
            let changer = Changer { tracker: &start, last_index: Index(10) };
            let changed = if is_joint { changer.enter_joint(true, &changes) } else { changer.simple(&changes) };
            let Ok(changed) = changed else { return Ok(()) };
            let stored = changed.0.to_conf_state();
            let mut shuffled = stored.clone();
            shuffled.voters.reverse();
            shuffled.voters_outgoing.reverse();
            prop_assert_eq!(tracker(&shuffled).config.to_conf_state(), stored);
        }
    }

    #[test]
    fn new_peers_are_probed_from_the_last_index_and_count_as_active() {
        let empty = Tracker::new(10, 0);
        for (last_index, next) in [(0, 1), (1, 1), (7, 7)] {
            let changer = Changer { tracker: &empty, last_index: Index(last_index) };
            let add = ConfChangeSingle { kind: ConfChangeKind::AddVoter, peer: PeerId(1) };
            let (_, progress) = changer.simple(&[add]).expect("a first voter");
            let own = progress.get(PeerId(1)).expect("added");
            assert_eq!((own.matched, own.next, own.recent_active), (Index(0), Index(next), true));
        }
    }

    #[test]
    fn impossible_changes_are_named_and_reserved_ids_skipped() {
        let empty = Tracker::new(10, 0);
        let changer = Changer { tracker: &empty, last_index: Index(1) };
        assert_eq!(changer.enter_joint(false, &[]), Err(ConfChangeError::ZeroVoterJoint));
        assert_eq!(changer.leave_joint(), Err(ConfChangeError::NotJoint));
        let start = tracker(&initial());
        let changer = Changer { tracker: &start, last_index: Index(1) };
        let change = |kind, id| ConfChangeSingle { kind, peer: PeerId(id) };
        let two = [change(ConfChangeKind::AddVoter, 4), change(ConfChangeKind::AddVoter, 5)];
        assert_eq!(changer.simple(&two), Err(ConfChangeError::ManyVotersInSimple));
        let all = [change(ConfChangeKind::RemovePeer, 1), change(ConfChangeKind::RemovePeer, 2)];
        assert_eq!(changer.enter_joint(true, &all), Err(ConfChangeError::RemovedAllVoters));
        let reserved = [change(ConfChangeKind::AddVoter, 0), change(ConfChangeKind::AddVoter, u64::MAX)];
        assert_eq!(changer.simple(&reserved).map(|(config, _)| config), Ok(start.config.clone()));
    }
}
