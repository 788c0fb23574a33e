//! What a follower does with a leader's messages.

use super::{Raft, election::Campaign};
use crate::{
    config::ReadOnlyOption,
    error::StepError,
    message::{Extra, Message, MessageKind as Kind},
    reads::ReadState,
    storage::Storage,
    types::{Entry, Index, PeerId, Role, Term},
};

impl<S: Storage> Raft<S> {
    pub(super) fn step_follower(&mut self, m: &mut Message) -> Result<(), StepError> {
        match m.kind {
            Kind::Propose => return self.forward_proposal(m),
            Kind::Append => {
                self.heard_from(m.from);
                return self.on_append(m);
            }
            Kind::Heartbeat => {
                self.heard_from(m.from);
                return self.on_heartbeat(m);
            }
            Kind::Snapshot => {
                self.heard_from(m.from);
                return self.on_snapshot(m);
            }
            Kind::TransferLeader | Kind::ReadIndex => self.forward_to_leader(m),
            Kind::TimeoutNow => self.hup(Campaign::Transfer),
            // With lease-based reads the leader counts on this peer to refuse candidates.
            Kind::ForgetLeader if self.settings.read_only != ReadOnlyOption::LeaseBased => {
                self.lead = PeerId::ZERO;
            }
            Kind::ReadIndexResponse => {
                let context = std::mem::take(&mut m.context);
                self.reads.states.push(ReadState { index: m.index, context });
                if self.settings.commit_fast_forward {
                    self.log.maybe_commit(m.index, m.term);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn heard_from(&mut self, leader: PeerId) {
        self.timers.election_elapsed = 0;
        self.lead = leader;
    }

    fn forward_proposal(&mut self, m: &mut Message) -> Result<(), StepError> {
        if self.lead.is_zero() || self.lead == self.id || self.settings.disable_proposal_forwarding {
            return Err(StepError::ProposalDropped);
        }
        self.forward_to_leader(m);
        Ok(())
    }

    fn forward_to_leader(&mut self, m: &mut Message) {
        if !self.lead.is_zero() {
            let mut forwarded = std::mem::take(m);
            forwarded.to = self.lead;
            self.send(forwarded);
        }
    }

    fn respond_append(&mut self, to: PeerId, index: Index) {
        self.compose(Kind::AppendResponse, to).index = index;
    }

    /// Takes over entries that another source than a leader proves to be committed, after (`prev`, `prev_term`). This
    /// peer leads nobody afterwards. False if the log does not reach them or contradicts them; nothing was taken then.
    pub fn learn_committed(&mut self, prev: Index, prev_term: Term, mut entries: Vec<Entry>) -> bool {
        let Some((last, last_term)) = entries.last().map(|e| (e.index, e.term)) else { return true };
        if last <= self.log.committed {
            return true;
        }
        if self.log.unstable.snapshot().is_some() {
            return false;
        }
        let known = entries.iter().take_while(|e| e.index <= self.log.committed).count();
        let (prev, prev_term) = match known.checked_sub(1) {
            Some(at) => (entries[at].index, entries[at].term),
            None => (prev, prev_term),
        };
        if !self.log.matches(prev, prev_term) {
            return false;
        }
        entries.drain(..known);
        if self.role != Role::Follower || self.term < last_term {
            self.become_follower(self.term.max(last_term), PeerId::ZERO);
        }
        matches!(self.log.maybe_append(prev, prev_term, last, entries), Ok(Some(_)))
    }

    pub(super) fn on_append(&mut self, m: &mut Message) -> Result<(), StepError> {
        if !is_continuous(m.index, m.log_term, m.term, &m.entries) {
            return Err(StepError::Malformed);
        }
        if !self.request_snapshot.is_zero() {
            self.send_snapshot_request();
            return Ok(());
        }
        if m.index < self.log.committed {
            self.respond_append(m.from, self.log.committed);
            return Ok(());
        }
        let entries = std::mem::take(&mut m.entries);
        match self.log.maybe_append(m.index, m.log_term, m.commit, entries)? {
            Some(last) => self.respond_append(m.from, last),
            None => self.refuse_append(m),
        }
        Ok(())
    }

    /// Tells the leader where the logs may still agree, so that it need not try every index (etcd-io/raft).
    fn refuse_append(&mut self, m: &Message) {
        let (hint, hint_term) = self.log.find_agreement(m.index.min(self.log.last_index()), m.log_term);
        self.send(Message {
            kind: Kind::AppendResponse,
            to: m.from,
            index: m.index,
            reject: true,
            log_term: hint_term,
            extra: Extra { reject_hint: hint, ..Extra::default() }.boxed(),
            ..Message::default()
        });
    }

    pub(super) fn on_heartbeat(&mut self, m: &mut Message) -> Result<(), StepError> {
        let last = self.log.last_index();
        if m.commit > last {
            return Err(StepError::CommitBeyondLog { commit: m.commit, last });
        }
        self.log.commit_to(m.commit);
        if !self.request_snapshot.is_zero() {
            self.send_snapshot_request();
            return Ok(());
        }
        let context = std::mem::take(&mut m.context);
        // Where heartbeats are what spreads commits, the leader may leave out those that tell nothing.
        let known = if self.settings.tell_known_commit { self.log.committed } else { Index::ZERO };
        let answer = self.compose(Kind::HeartbeatResponse, m.from);
        (answer.commit, answer.context) = (known, context);
        Ok(())
    }
}

/// Whether `entries` follow (`prev`, `prev_term`) without gap, with terms that never fall and stay within `term`.
fn is_continuous(prev: Index, prev_term: Term, term: Term, entries: &[Entry]) -> bool {
    let mut at = (prev, prev_term);
    entries.iter().all(|entry| {
        let follows = entry.index == at.0.next() && entry.term >= at.1 && entry.term <= term;
        at = (entry.index, entry.term);
        follows
    })
}
