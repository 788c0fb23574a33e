//! What a leader does with messages.

use super::Raft;
use crate::{
    error::StepError,
    message::{Extra, Message, MessageKind as Kind},
    storage::Storage,
    tracker::ProgressState,
    types::{Entry, Index, PeerId, Role, Term},
};

impl<S: Storage> Raft<S> {
    pub(super) fn step_leader(&mut self, m: &mut Message) -> Result<(), StepError> {
        match m.kind {
            Kind::Beat => self.broadcast_heartbeat(),
            Kind::Propose => return self.on_propose(m),
            Kind::ReadIndex => self.on_read_index(m),
            Kind::AppendResponse if m.reject => self.on_append_refused(m),
            Kind::AppendResponse => return self.on_append_accepted(m.from, m.index),
            Kind::HeartbeatResponse => self.on_heartbeat_response(m),
            Kind::SnapshotStatus => self.on_snapshot_status(m),
            Kind::Unreachable => self.on_unreachable(m.from),
            Kind::TransferLeader => self.on_transfer_leader(m.from),
            _ => {}
        }
        Ok(())
    }

    /// Steps down if no quorum was heard from since the last check.
    pub(super) fn check_quorum(&mut self) {
        if !self.tracker.is_quorum_active() {
            self.become_follower(self.term, PeerId::ZERO);
        }
        let own = self.id;
        for (_, progress) in self.tracker.progress.iter_mut().filter(|(id, _)| *id != own) {
            progress.listen_anew();
            // What is under way to a peer that is silent counts as lost: others may need the room.
            if progress.inflights.meter().is_some()
                && progress.state == ProgressState::Replicate
                && !progress.is_alive()
            {
                progress.become_probe();
            }
        }
    }

    fn on_propose(&mut self, m: &mut Message) -> Result<(), StepError> {
        if m.entries.is_empty() {
            return Err(StepError::Malformed);
        }
        self.check_may_propose()?;
        let mut entries = std::mem::take(&mut m.entries);
        let pending_conf_index = self.admit_conf_changes(&mut entries)?;
        if !self.append_entries(entries) {
            return Err(StepError::ProposalDropped);
        }
        self.leadership.pending_conf_index = pending_conf_index;
        self.broadcast_append();
        Ok(())
    }

    /// Appends one entry that changes no membership, without going through a message.
    pub fn propose_normal(&mut self, mut entry: Entry) -> Result<(), StepError> {
        self.check_may_propose()?;
        if !self.reserve_uncommitted(entry.data.len() as u64) {
            return Err(StepError::ProposalDropped);
        }
        entry.index = self.log.last_index().next();
        entry.term = self.term;
        let index = entry.index;
        self.log.append_one(entry);
        self.acknowledge_own(index);
        self.broadcast_append();
        Ok(())
    }

    /// A removed leader takes no proposals, and neither does one that is handing over.
    fn check_may_propose(&self) -> Result<(), StepError> {
        let is_member = self.tracker.progress.contains(self.id);
        if is_member && self.leadership.transferee.is_zero() {
            Ok(())
        } else {
            Err(StepError::ProposalDropped)
        }
    }

    /// The peer's log differs before the append: go back, as far as both sides' terms tell at once.
    fn on_append_refused(&mut self, m: &Message) {
        let Some(progress) = self.tracker.progress.get_mut(m.from) else { return };
        progress.recent_active = true;
        let &Extra { reject_hint, request_snapshot, .. } = m.extra();
        if !request_snapshot.is_zero() {
            let is_known = request_snapshot <= self.log.last_index();
            if is_known && progress.maybe_request_snapshot(request_snapshot) {
                if progress.state == ProgressState::Replicate {
                    progress.become_probe();
                }
                self.send_append(m.from);
            }
            return;
        }
        let hint = if m.log_term.is_zero() {
            reject_hint
        } else {
            self.log.find_agreement(reject_hint.min(self.log.last_index()), m.log_term).0
        };
        if progress.maybe_decrease(m.index, hint) {
            if progress.state == ProgressState::Replicate {
                progress.become_probe();
            }
            self.send_append(m.from);
        }
    }

    /// Takes a run of own acknowledgements as [`Self::acknowledge_own`] makes them, as if each had come by itself.
    pub fn on_own_acks(&mut self, term: Term, first: Index, last: Index) -> Result<(), StepError> {
        if self.role != Role::Leader || term != self.term {
            return Ok(());
        }
        // Those that commit nothing leave no other trace than the last one.
        let mut index = if self.would_commit(last) { first } else { last };
        while index <= last {
            self.on_append_accepted(self.id, index)?;
            index = index.next();
        }
        Ok(())
    }

    /// Whether an own acknowledgement of `index` would commit anything.
    fn would_commit(&mut self, index: Index) -> bool {
        let committed = self.log.committed;
        let Some(own) = self.tracker.progress.get_mut(self.id) else { return false };
        let matched = std::mem::replace(&mut own.matched, index);
        let (reached, _) = self.tracker.committed_index();
        if let Some(own) = self.tracker.progress.get_mut(self.id) {
            own.matched = matched;
        }
        reached > committed
    }

    fn on_append_accepted(&mut self, from: PeerId, index: Index) -> Result<(), StepError> {
        if index > self.log.last_index() {
            return Err(StepError::Malformed);
        }
        let Some(progress) = self.tracker.progress.get_mut(from) else { return Ok(()) };
        progress.recent_active = true;
        let recovers = progress.matched == index && progress.state == ProgressState::Probe;
        if !progress.maybe_update(index) && !recovers {
            return Ok(());
        }
        match progress.state {
            ProgressState::Probe => progress.become_replicate(),
            ProgressState::Replicate => progress.inflights.free_to(index),
            // Whatever happened to the snapshot, the peer can be served from the log.
            ProgressState::Snapshot if progress.matched.next() >= self.log.first_index() => {
                progress.become_replicate();
            }
            ProgressState::Snapshot => {}
        }
        let can_bump = progress.can_bump_commit(self.log.committed);
        // A match within what is committed moves no quorum beyond it.
        let may_commit = index > self.log.committed || self.tracker.group_commit;
        self.after_match_advanced(from, may_commit, can_bump);
        Ok(())
    }

    fn after_match_advanced(&mut self, from: PeerId, may_commit: bool, can_bump: bool) {
        let is_own = from == self.id;
        if may_commit && self.maybe_commit() {
            if self.should_broadcast_commit() {
                self.broadcast_append();
            }
        } else if !is_own && can_bump && self.should_broadcast_commit() {
            self.send_append(from);
        }
        if !is_own {
            self.drain_appends(from);
        }
        self.maybe_finish_transfer(from);
    }

    fn on_heartbeat_response(&mut self, m: &Message) {
        let (last_index, committed) = (self.log.last_index(), self.log.committed);
        let Some(progress) = self.tracker.progress.get_mut(m.from) else { return };
        progress.recent_active = true;
        progress.knows_commit = m.commit == committed;
        progress.is_flow_paused = false;
        progress.is_held_back = false;
        let is_behind = progress.matched < last_index || progress.state == ProgressState::Probe;
        if is_behind || !progress.pending_request_snapshot.is_zero() {
            self.send_append(m.from);
        }
        if !m.context.is_empty() {
            self.reads.record_echo(m.from, &m.context);
            self.answer_confirmed_reads();
        }
    }

    /// A snapshot arrived or failed. Either way wait for the next answer before sending more.
    fn on_snapshot_status(&mut self, m: &Message) {
        let Some(progress) = self.tracker.progress.get_mut(m.from) else { return };
        if progress.state != ProgressState::Snapshot {
            return;
        }
        if m.reject {
            progress.pending_snapshot = Index::ZERO;
        }
        progress.become_probe();
        progress.is_flow_paused = true;
    }

    fn on_unreachable(&mut self, from: PeerId) {
        if let Some(progress) = self.tracker.progress.get_mut(from)
            && progress.state == ProgressState::Replicate
        {
            progress.become_probe();
        }
    }
}
