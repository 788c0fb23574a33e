//! Snapshots on the receiving side, and asking for one.

use super::Raft;
use crate::{
    changer::Changer,
    error::StepError,
    message::{Extra, Message, MessageKind as Kind},
    storage::Storage,
    types::{Index, Role, Snapshot},
};

impl<S: Storage> Raft<S> {
    pub(super) fn on_snapshot(&mut self, m: &mut Message) -> Result<(), StepError> {
        let restored = match m.snapshot.take() {
            Some(snapshot) => self.restore(snapshot)?,
            None => false,
        };
        let index = if restored { self.log.last_index() } else { self.log.committed };
        self.send(Message { kind: Kind::AppendResponse, to: m.from, index, ..Message::default() });
        Ok(())
    }

    /// Replaces log and membership by a snapshot. False if it is not needed: older than what is committed, not for
    /// this peer, or equal to what the log has (then only the commit index moves).
    fn restore(&mut self, snapshot: Box<Snapshot>) -> Result<bool, StepError> {
        let meta = &snapshot.meta;
        let is_requested = !self.request_snapshot.is_zero() && meta.index >= self.request_snapshot;
        let is_new = meta.index > self.log.committed || (is_requested && meta.index == self.log.committed);
        if !is_new || self.role != Role::Follower {
            return Ok(false);
        }
        let conf_state = &meta.conf_state;
        let lists = [&conf_state.voters, &conf_state.learners, &conf_state.voters_outgoing];
        if !lists.iter().any(|ids| ids.contains(&self.id)) {
            return Ok(false);
        }
        if !is_requested && self.log.matches(meta.index, meta.term) {
            self.log.commit_to(meta.index);
            return Ok(false);
        }
        let fresh = self.tracker.emptied();
        let changer = Changer { tracker: &fresh, last_index: meta.index };
        let (config, progress) = changer.restore(conf_state).map_err(|_| StepError::ImpossibleMembership)?;
        let last_index = meta.index;
        self.log.restore(snapshot);
        self.request_snapshot = Index::ZERO;
        self.tracker = fresh;
        self.switch_to(config, progress);
        if let Some(own) = self.tracker.progress.get_mut(self.id) {
            own.maybe_update(last_index.prev());
        }
        Ok(true)
    }

    /// Asks the leader for a snapshot, e.g. because the state machine is damaged (raft-rs).
    ///
    /// # Errors
    /// `SnapshotRequestDropped`.
    pub fn request_snapshot(&mut self) -> Result<(), StepError> {
        let last_index = self.log.last_index();
        if self.role != Role::Follower
            || self.lead.is_zero()
            || self.log.unstable.snapshot().is_some()
            || !self.request_snapshot.is_zero()
            || last_index.is_zero()
            || self.log.last_term() != self.term
        {
            return Err(StepError::SnapshotRequestDropped);
        }
        self.request_snapshot = last_index;
        self.send_snapshot_request();
        Ok(())
    }

    /// Asks the leader, which the caller has just heard from.
    pub(super) fn send_snapshot_request(&mut self) {
        self.send(Message {
            kind: Kind::AppendResponse,
            to: self.lead,
            index: self.log.committed,
            reject: true,
            log_term: self.log.last_term(),
            extra: Extra {
                reject_hint: self.log.last_index(),
                request_snapshot: self.request_snapshot,
                ..Extra::default()
            }
            .boxed(),
            ..Message::default()
        });
    }
}
