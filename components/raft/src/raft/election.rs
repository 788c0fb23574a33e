//! Campaigns and votes.

use super::{CAMPAIGN_TRANSFER, Raft};
use crate::{
    error::StepError,
    message::{Extra, Message, MessageKind as Kind},
    quorum::VoteResult,
    storage::{FetchContext, Storage},
    types::{EntryKind, Index, PeerId, Role, Term},
};

/// Why a node campaigns.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Campaign {
    /// To learn whether it would win.
    PreElection,
    /// To win.
    Election,
    /// The leader told it to.
    Transfer,
}

impl<S: Storage> Raft<S> {
    /// The election timeout passed, or the owner wants an election.
    pub fn on_hup(&mut self) {
        self.hup(if self.settings.pre_vote { Campaign::PreElection } else { Campaign::Election });
    }

    /// Campaigns unless it must not: a leader need not, a non-voter cannot, and a peer that has committed conf
    /// changes to apply would count votes by a configuration that is over.
    pub(super) fn hup(&mut self, campaign: Campaign) {
        if self.role != Role::Leader
            && self.is_promotable()
            && !self.has_conf_change_in(self.log.applied, self.log.committed)
        {
            self.campaign(campaign);
        }
    }

    /// Whether any entry of `(after, upto]` is a conf change. Unreadable entries count as such.
    fn has_conf_change_in(&self, after: Index, upto: Index) -> bool {
        const PAGE_BYTES: u64 = 1024 * 1024;
        let mut low = after.next();
        while low <= upto {
            match self.log.slice(low, upto.next(), PAGE_BYTES, FetchContext::Immediate) {
                Ok(page) if page.iter().any(|entry| entry.kind != EntryKind::Normal) => return true,
                Ok(page) => match page.last() {
                    Some(last) => low = last.index.next(),
                    None => return true,
                },
                Err(_) => return true,
            }
        }
        false
    }

    fn campaign(&mut self, campaign: Campaign) {
        let (kind, response, term) = match campaign {
            Campaign::PreElection => {
                self.become_pre_candidate();
                (Kind::PreVote, Kind::PreVoteResponse, Term(self.term.0 + 1))
            }
            Campaign::Election | Campaign::Transfer => {
                self.become_candidate();
                (Kind::Vote, Kind::VoteResponse, self.term)
            }
        };
        let (index, log_term) = (self.log.last_index(), self.log.last_term());
        let (commit, commit_term) = self.commit_offer();
        let extra = Extra { commit_term, priority: self.settings.priority, ..Extra::default() }.boxed();
        for to in self.tracker.config.voters.ids().iter() {
            if to == self.id {
                // The own vote counts like any other once it is durable.
                self.send(Message { kind: response, to, term, ..Message::default() });
                continue;
            }
            let context =
                if campaign == Campaign::Transfer { CAMPAIGN_TRANSFER } else { bytes::Bytes::new() };
            self.send(Message {
                kind,
                to,
                term,
                index,
                log_term,
                context,
                commit,
                extra: extra.clone(),
                ..Message::default()
            });
        }
    }

    pub(super) fn on_vote_request(&mut self, m: &Message) {
        let is_pre_vote = m.kind == Kind::PreVote;
        let may_vote = self.vote == m.from
            || (self.vote.is_zero() && self.lead.is_zero())
            || (is_pre_vote && m.term > self.term);
        let is_preferred = m.index > self.log.last_index() || self.settings.priority <= m.extra().priority;
        let granted = may_vote && self.log.is_up_to_date(m.index, m.log_term) && is_preferred;
        let kind = if is_pre_vote { Kind::PreVoteResponse } else { Kind::VoteResponse };
        if granted {
            // A promise is about the term asked for, a refusal comes from the own one.
            self.send(Message { kind, to: m.from, term: m.term, ..Message::default() });
            if !is_pre_vote {
                self.timers.election_elapsed = 0;
                self.vote = m.from;
            }
        } else {
            let (commit, commit_term) = self.commit_offer();
            let term = self.term;
            self.send(Message {
                kind,
                to: m.from,
                term,
                reject: true,
                commit,
                extra: Extra { commit_term, ..Extra::default() }.boxed(),
                ..Message::default()
            });
            self.maybe_fast_forward(m);
        }
    }

    /// What the pre-candidate and candidate roles do.
    pub(super) fn step_candidate(&mut self, m: &mut Message) -> Result<(), StepError> {
        let own_response =
            if self.role == Role::PreCandidate { Kind::PreVoteResponse } else { Kind::VoteResponse };
        match m.kind {
            Kind::Propose => Err(StepError::ProposalDropped),
            Kind::Append => {
                self.become_follower(m.term, m.from);
                self.on_append(m)
            }
            Kind::Heartbeat => {
                self.become_follower(m.term, m.from);
                self.on_heartbeat(m)
            }
            Kind::Snapshot => {
                self.become_follower(m.term, m.from);
                self.on_snapshot(m)
            }
            kind if kind == own_response => {
                self.on_vote_response(m);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_vote_response(&mut self, m: &Message) {
        self.tracker.record_vote(m.from, !m.reject);
        match self.tracker.vote_result() {
            VoteResult::Won if self.role == Role::PreCandidate => self.campaign(Campaign::Election),
            // Wait for the storage to have it.
            VoteResult::Won if self.settings.own_vote_first && !self.tracker.has_vote_of(self.id) => {}
            VoteResult::Won => {
                self.become_leader();
                self.broadcast_append();
            }
            VoteResult::Lost => self.become_follower(self.term, PeerId::ZERO),
            VoteResult::Pending => {}
        }
        self.maybe_fast_forward(m);
    }

    /// Commit index and its term to attach to vote messages; zero unless `commit_fast_forward` is on.
    fn commit_offer(&self) -> (Index, Term) {
        if !self.settings.commit_fast_forward {
            return (Index::ZERO, Term::ZERO);
        }
        let commit = self.log.committed;
        (commit, self.log.term(commit).unwrap_or_default())
    }

    /// Takes over a commit index that a vote message offers. A candidate that thereby learns of a conf change gives
    /// up: it counted votes by an old configuration.
    fn maybe_fast_forward(&mut self, m: &Message) {
        if !self.settings.commit_fast_forward || self.role == Role::Leader {
            return;
        }
        let before = self.log.committed;
        if self.log.maybe_commit(m.commit, m.extra().commit_term)
            && self.role != Role::Follower
            && self.has_conf_change_in(before, self.log.committed)
        {
            self.become_follower(self.term, PeerId::ZERO);
        }
    }
}
