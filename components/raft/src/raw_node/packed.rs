//! A node that has nothing to do, in a tenth of the memory.

use super::RawNode;
use crate::{
    config::Config,
    error::ConfigError,
    raft::{Leadership, Raft, Timers},
    storage::Storage,
    tracker::{Progress, ProgressMap},
    types::{Index, PeerId, Role, Term},
};

/// What a node at rest must remember: the rest follows from its configuration, its storage, and from being at rest.
///
/// An owner of many groups, most of which are idle, keeps this instead of the node ([`RawNode::pack`]).
#[derive(Debug, PartialEq, Eq)]
pub struct Packed {
    term: Term,
    vote: PeerId,
    lead: PeerId,
    /// Commit index, applied index and last index.
    last: Index,
    timers: Timers,
    read_sequence: u64,
    /// Of a leader. What a follower knows about the others is void once it campaigns.
    led: Option<Box<Led>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Led {
    leadership: Leadership,
    progress: ProgressMap,
}

impl Packed {
    /// Current term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Peer voted for in this term; 0 = none.
    pub fn vote(&self) -> PeerId {
        self.vote
    }

    /// Known leader; 0 = none.
    pub fn leader(&self) -> PeerId {
        self.lead
    }

    /// Last index of the log; all of it is committed and applied.
    pub fn last_index(&self) -> Index {
        self.last
    }

    /// What a leader knows about all members, ascending; nothing of a follower.
    pub fn progress_iter(&self) -> impl Iterator<Item = (PeerId, &Progress)> {
        self.led.iter().flat_map(|led| led.progress.iter())
    }

    /// Whether the node leads.
    pub fn is_leader(&self) -> bool {
        self.led.is_some()
    }
}

impl<S: Storage> RawNode<S> {
    /// Whether the node may be [packed](Self::pack): a leader or a follower with nothing to tell or to store, nothing
    /// under way, and a log that is committed, stored and applied to its end.
    pub fn is_packable(&self) -> bool {
        let raft = &*self.raft;
        let last = raft.log.last_index();
        let is_log_done = raft.log.is_done_at(last);
        let is_still = !self.has_ready()
            && self.pending.is_none()
            && self.own_messages.is_empty()
            && raft.reads.is_empty()
            && raft.request_snapshot.is_zero()
            && raft.leadership.transferee.is_zero()
            && raft.leadership.uncommitted_bytes == 0
            && raft.tracker.has_no_votes();
        let has_role = match raft.role {
            Role::Leader => raft.tracker.progress.iter().all(|(_, progress)| progress.inflights.is_empty()),
            Role::Follower => true,
            Role::Candidate | Role::PreCandidate => false,
        };
        let stored = || raft.log.storage.initial_state().map(|(_, conf_state)| conf_state);
        is_log_done && is_still && has_role && stored() == Ok(self.conf_state())
    }

    /// Takes the node apart: into what must be remembered, and its storage.
    ///
    /// It must be [packable](Self::is_packable), or what it has under way is lost; debug builds check it.
    pub fn pack(self) -> (Packed, S) {
        debug_assert!(self.is_packable(), "a node with something to do was packed");
        let Self {
            raft,
            is_async: _,
            apply_ahead_max: _,
            seen_soft_state: _,
            seen_hard_state: _,
            own_messages: _,
            pending: _,
            spare: _,
            is_warm: _,
        } = self;
        let Raft {
            id: _,
            term,
            vote,
            lead,
            role,
            log,
            tracker,
            outbox: _,
            timers,
            leadership,
            reads,
            settings: _,
            request_snapshot: _,
        } = raft.into_inner();
        let led = (role == Role::Leader).then(|| {
            let mut progress = tracker.progress;
            progress.iter_mut().for_each(|(_, progress)| progress.inflights.release_if_empty());
            Box::new(Led { leadership, progress })
        });
        let last = log.committed;
        (Packed { term, vote, lead, last, timers, read_sequence: reads.sequence(), led }, log.storage)
    }

    /// The node that was [packed](Self::pack), with the storage that it was taken apart into, or one with the same
    /// content. Settings are those of `config`.
    ///
    /// # Errors
    /// Configuration, storage and `packed` contradict each other.
    pub fn unpack(config: &Config, packed: Packed, storage: S) -> Result<Self, ConfigError> {
        let Packed { term, vote, lead, last, timers, read_sequence, led } = packed;
        let mut raft = Raft::new(&Config { applied: Index::ZERO, ..config.clone() }, storage)?;
        if raft.log.last_index() != last || raft.term > term {
            return Err(ConfigError::CommitOutOfRange);
        }
        (raft.term, raft.vote, raft.lead, raft.timers) = (term, vote, lead, timers);
        raft.log.commit_to(last);
        raft.log.applied_to(last, 0);
        raft.reads.resume(read_sequence);
        if let Some(led) = led {
            let Led { leadership, progress } = *led;
            raft.role = Role::Leader;
            raft.leadership = leadership;
            raft.tracker.progress = progress;
        }
        Ok(Self::around(config, raft))
    }
}
