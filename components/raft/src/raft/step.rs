//! The way in for messages: terms first, then what every role does alike, then the role's handler.

use super::{CAMPAIGN_TRANSFER, Raft};
use crate::{
    entry::entries_size,
    error::StepError,
    message::{Message, MessageKind as Kind},
    storage::Storage,
    types::{Index, PeerId, Role, Term},
};

/// Terms and indexes beyond this are forged: counting to it would take centuries.
const POSITION_MAX: u64 = u64::MAX / 4;

impl<S: Storage> Raft<S> {
    /// Takes a message from the owner, a peer or a storage thread. What it carries is taken out of it.
    ///
    /// # Errors
    /// The message was not, or not fully, taken.
    pub fn step(&mut self, m: &mut Message) -> Result<(), StepError> {
        if m.term > self.term {
            if self.is_within_lease(m) {
                return Ok(());
            }
            self.on_higher_term(m);
        } else if m.term < self.term && !m.term.is_zero() {
            self.on_lower_term(m);
            return Ok(());
        }
        match m.kind {
            Kind::Hup => self.on_hup(),
            Kind::StorageAppendResponse => {
                let snapshot = m.snapshot.as_ref().map(|snapshot| snapshot.meta.index);
                self.on_append_stored(m.term, m.index, m.log_term, snapshot);
            }
            Kind::StorageApplyResponse => return self.on_entries_applied(m),
            Kind::Vote | Kind::PreVote => self.on_vote_request(m),
            _ => return self.step_role(m),
        }
        Ok(())
    }

    fn step_role(&mut self, m: &mut Message) -> Result<(), StepError> {
        match self.role {
            Role::Follower => self.step_follower(m),
            Role::PreCandidate | Role::Candidate => self.step_candidate(m),
            Role::Leader => self.step_leader(m),
        }
    }

    /// Whether a vote request is to be ignored because a leader was heard from recently.
    fn is_within_lease(&self, m: &Message) -> bool {
        matches!(m.kind, Kind::Vote | Kind::PreVote)
            && self.settings.check_quorum
            && !self.lead.is_zero()
            && self.timers.election_elapsed < self.settings.election_ticks
            && m.context != CAMPAIGN_TRANSFER
    }

    fn on_higher_term(&mut self, m: &Message) {
        match m.kind {
            // Asking about a term, or being promised a vote in it, does not start it.
            Kind::PreVote => {}
            Kind::PreVoteResponse if !m.reject => {}
            Kind::Append | Kind::Heartbeat | Kind::Snapshot => self.become_follower(m.term, m.from),
            _ => self.become_follower(m.term, PeerId::ZERO),
        }
    }

    fn on_lower_term(&mut self, m: &Message) {
        let can_be_stuck = self.settings.check_quorum || self.settings.pre_vote;
        match m.kind {
            // The sender may be a leader that our higher term cuts off from us: tell it, so that it steps down.
            Kind::Heartbeat | Kind::Append if can_be_stuck => {
                self.send(Message { kind: Kind::AppendResponse, to: m.from, ..Message::default() });
            }
            Kind::PreVote => self.send(Message {
                kind: Kind::PreVoteResponse,
                to: m.from,
                term: self.term,
                reject: true,
                ..Message::default()
            }),
            Kind::StorageAppendResponse => {
                let snapshot = m.snapshot.as_ref().map(|snapshot| snapshot.meta.index);
                self.on_append_stored(m.term, m.index, m.log_term, snapshot);
            }
            _ => {}
        }
    }

    /// The append thread has stored entries up to (`index`, `log_term`) and a snapshot. In a later `term` the
    /// entries may have been replaced since, so they do not count; a stored snapshot always does.
    pub fn on_append_stored(&mut self, term: Term, index: Index, log_term: Term, snapshot: Option<Index>) {
        if term == self.term && !index.is_zero() {
            self.log.unstable.stable_to(index, log_term);
        }
        if let Some(index) = snapshot {
            self.log.unstable.stable_snapshot_to(index);
            if index <= self.log.committed {
                self.applied_to(index, 0);
            }
        }
    }

    fn on_entries_applied(&mut self, m: &Message) -> Result<(), StepError> {
        let Some(last) = m.entries.last() else { return Ok(()) };
        if last.index > self.log.applying.max(self.log.applied) {
            return Err(StepError::Malformed);
        }
        let payload = self.counted_payload(&m.entries);
        self.applied_to(last.index, entries_size(&m.entries));
        self.release_uncommitted(payload);
        Ok(())
    }

    /// Checks what a peer of ours cannot have sent.
    ///
    /// # Errors
    /// The message is to be dropped.
    pub fn check_message(&self, m: &Message, is_async: bool) -> Result<(), StepError> {
        match m.kind {
            Kind::StorageAppendResponse | Kind::StorageApplyResponse => {
                let is_own_thread = is_async && m.from.is_storage_thread();
                return if is_own_thread { Ok(()) } else { Err(StepError::LocalMessage) };
            }
            Kind::Hup
            | Kind::ForgetLeader
            | Kind::Beat
            | Kind::Unreachable
            | Kind::SnapshotStatus
            | Kind::CheckQuorum
            | Kind::StorageAppend
            | Kind::StorageApply => return Err(StepError::LocalMessage),
            Kind::AppendResponse | Kind::VoteResponse | Kind::PreVoteResponse
                if m.from == self.id && (!is_async || m.reject) =>
            {
                return Err(StepError::LocalMessage);
            }
            Kind::AppendResponse
            | Kind::VoteResponse
            | Kind::PreVoteResponse
            | Kind::HeartbeatResponse
            | Kind::ReadIndexResponse
                if !self.tracker.progress.contains(m.from) =>
            {
                return Err(StepError::PeerNotFound);
            }
            _ => {}
        }
        // The bound is all ones: a bit above it in any of them is one in their union.
        let mut positions = m.term.0 | m.log_term.0 | m.index.0 | m.commit.0;
        if let Some(extra) = &m.extra {
            positions |= extra.commit_term.0;
        }
        if let Some(snapshot) = &m.snapshot {
            positions |= snapshot.meta.index.0 | snapshot.meta.term.0;
        }
        if positions > POSITION_MAX || !self.is_sender_possible(m) {
            return Err(StepError::Malformed);
        }
        Ok(())
    }

    /// Whether `m`, which no storage thread and not the owner sends, names a peer and a term it can come from.
    fn is_sender_possible(&self, m: &Message) -> bool {
        match m.kind {
            // Passed on by peers on behalf of others, without a term of their own.
            Kind::Propose | Kind::ReadIndex | Kind::TransferLeader => true,
            _ if m.from.is_zero() || m.from.is_storage_thread() => false,
            Kind::AppendResponse | Kind::VoteResponse => !m.term.is_zero(),
            // A peer that never saw an election refuses in term 0.
            Kind::PreVoteResponse => m.reject || !m.term.is_zero(),
            _ => m.from != self.id && !m.term.is_zero(),
        }
    }
}
