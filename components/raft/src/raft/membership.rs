//! Membership changes: admission on the leader, and the switch when one is applied.

use super::Raft;
use crate::{
    changer::Changer,
    conf_change::{ConfChange, ConfChangeV2},
    error::{ConfChangeError, StepError},
    message::{Message, MessageKind as Kind},
    storage::Storage,
    tracker::{Configuration, ProgressMap},
    types::{ConfState, Entry, EntryKind, Index, PeerId, Role},
};

impl<S: Storage> Raft<S> {
    /// Turns conf changes that must not be proposed now into empty entries. Returns the index of the last conf
    /// change that remains, or the present one.
    ///
    /// # Errors
    /// `CorruptConfChange`.
    pub(super) fn admit_conf_changes(&self, entries: &mut [Entry]) -> Result<Index, StepError> {
        let mut pending = self.leadership.pending_conf_index;
        if entries.iter().all(|entry| entry.kind == EntryKind::Normal) {
            return Ok(pending);
        }
        let mut index = self.log.last_index();
        for entry in entries {
            index = index.next();
            let Some(change) = decode(entry)? else { continue };
            if self.settings.disable_conf_change_validation || self.may_change_conf(&change, pending) {
                pending = index;
            } else {
                *entry = Entry::default();
            }
        }
        Ok(pending)
    }

    /// Whether `change` can be made: the last one is applied, it suits the joint state, and it leads somewhere.
    fn may_change_conf(&self, change: &ConfChangeV2, pending: Index) -> bool {
        let is_joint = self.tracker.config.voters.is_joint();
        let wants_to_leave = change.changes.is_empty();
        let changer = Changer { tracker: &self.tracker, last_index: self.log.last_index() };
        let may_come = pending <= self.log.applied || planted!(ConfChangeBeforeApplied);
        may_come && is_joint == wants_to_leave && changer.apply(change).is_ok()
    }

    /// Makes a committed change. One that cannot be made from the present configuration changes nothing; every
    /// replica decides that alike.
    pub fn apply_conf_change(&mut self, change: &ConfChangeV2) -> Result<ConfState, ConfChangeError> {
        let changer = Changer { tracker: &self.tracker, last_index: self.log.last_index() };
        let (config, progress) = changer.apply(change)?;
        Ok(self.switch_to(config, progress))
    }

    /// Takes over a configuration and draws the leader's conclusions.
    pub(super) fn switch_to(&mut self, config: Configuration, progress: ProgressMap) -> ConfState {
        self.tracker.config = config;
        let mut before = std::mem::replace(&mut self.tracker.progress, progress);
        for (id, kept) in self.tracker.progress.iter_mut() {
            if let Some(copied) = before.get_mut(id) {
                kept.inflights.take_meter(&mut copied.inflights);
            }
        }
        drop(before);
        let conf_state = self.tracker.config.to_conf_state();
        if self.role != Role::Leader {
            return conf_state;
        }
        let is_voter = self.tracker.progress.get(self.id).is_some_and(|own| !own.is_learner);
        if !is_voter {
            // A removed leader keeps replicating until another one takes over, unless told otherwise.
            if self.settings.step_down_on_removal {
                self.become_follower(self.term, PeerId::ZERO);
            }
            return conf_state;
        }
        if self.maybe_commit() {
            self.broadcast_append();
        } else {
            for slot in 0..self.tracker.progress.len() {
                if self.tracker.progress.slot_mut(slot).0 != self.id {
                    self.maybe_send_append(slot, false);
                }
            }
        }
        self.answer_confirmed_reads();
        if !self.tracker.config.voters.contains(self.leadership.transferee) {
            self.abort_transfer();
        }
        conf_state
    }

    /// Leaves a joint configuration once the change that led there is applied here.
    pub(super) fn maybe_auto_leave(&mut self) {
        if self.tracker.config.auto_leave
            && self.role == Role::Leader
            && self.log.applied >= self.leadership.pending_conf_index
        {
            let entry = Entry { kind: EntryKind::ConfChangeV2, ..Entry::default() };
            // Dropped during a leadership transfer; applying further entries tries again.
            let mut proposal = Message { kind: Kind::Propose, entries: vec![entry], ..Message::default() };
            let _ = self.step(&mut proposal);
        }
    }
}

/// The conf change in `entry`, if it is one.
fn decode(entry: &Entry) -> Result<Option<ConfChangeV2>, StepError> {
    let decoded = match entry.kind {
        EntryKind::Normal => return Ok(None),
        EntryKind::ConfChange => ConfChange::decode(&entry.data).map(ConfChange::into_v2),
        EntryKind::ConfChangeV2 => ConfChangeV2::decode(&entry.data),
    };
    decoded.map(Some).map_err(|_| StepError::CorruptConfChange)
}
