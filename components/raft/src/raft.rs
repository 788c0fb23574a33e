//! The state machine proper: roles, terms, timers, and what is waiting to be sent.
//!
//! Handlers are grouped by concern in the submodules; `step` is the only way in for messages. The exact message
//! behaviour is that of etcd-io/raft; extensions (from tikv/raft-rs, or our own) are off by default.

mod election;
mod follower;
mod leader;
mod membership;
mod read_index;
mod replication;
mod snapshot;
mod step;
mod transfer;

use bytes::Bytes;

use crate::{
    changer::Changer,
    config::{Config, Settings},
    entry::payload_size,
    error::ConfigError,
    log::RaftLog,
    message::{Message, MessageKind},
    outbox::Outbox,
    reads::Reads,
    storage::Storage,
    tracker::Tracker,
    types::{Entry, HardState, Index, PeerId, Role, SoftState, Term},
};

/// Marks the vote requests of a leadership transfer: leases do not hold against them.
pub(crate) const CAMPAIGN_TRANSFER: Bytes = Bytes::from_static(b"CampaignTransfer");

/// Counters of ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timers {
    /// Ticks since the leader was heard from, or since a leader's last quorum check.
    pub election_elapsed: u32,
    /// Ticks since the last heartbeat; leaders only.
    pub heartbeat_elapsed: u32,
    /// Ticks after which this node campaigns; drawn anew on every role change.
    pub randomized_election_ticks: u32,
    rng: u64,
}

/// What only a leader has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Leadership {
    /// Target of a transfer under way; 0 = none.
    pub transferee: PeerId,
    /// Whether somebody was told to campaign in this term: leases may be overridden from then on.
    pub is_lease_broken: bool,
    /// Index of the last conf change proposed; another one must wait until it is applied.
    pub pending_conf_index: Index,
    /// Payload of proposals not applied yet.
    pub uncommitted_bytes: u64,
    /// Last index when the leadership began; entries up to it were never counted in `uncommitted_bytes`.
    pub start_index: Index,
}

/// One peer's consensus state.
#[derive(Debug)]
pub(crate) struct Raft<S> {
    pub id: PeerId,
    pub term: Term,
    pub vote: PeerId,
    pub lead: PeerId,
    pub role: Role,
    pub log: RaftLog<S>,
    pub tracker: Tracker,
    pub outbox: Outbox,
    pub timers: Timers,
    pub leadership: Leadership,
    pub reads: Reads,
    pub settings: Settings,
    /// As a follower: a snapshot at least this new was asked for; 0 = none.
    pub request_snapshot: Index,
}

impl<S: Storage> Raft<S> {
    /// A follower with the state that `storage` holds.
    ///
    /// # Errors
    /// The configuration or the stored state contradicts itself.
    pub fn new(config: &Config, storage: S) -> Result<Self, ConfigError> {
        config.validate()?;
        let (hard_state, conf_state) = storage.initial_state()?;
        let mut raft = Self {
            id: config.id,
            term: Term::ZERO,
            vote: PeerId::ZERO,
            lead: PeerId::ZERO,
            role: Role::Follower,
            log: RaftLog::new(storage, config.committed_bytes_max)?,
            tracker: Tracker::new(config.inflight_messages_max, config.inflight_bytes_max),
            outbox: Outbox::default(),
            timers: Timers {
                election_elapsed: 0,
                heartbeat_elapsed: 0,
                randomized_election_ticks: 0,
                rng: config.seed ^ config.id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            },
            leadership: Leadership::default(),
            reads: Reads::default(),
            settings: config.settings(),
            request_snapshot: Index::ZERO,
        };
        raft.tracker.group_commit = config.group_commit;
        let last_index = raft.log.last_index();
        let (conf, progress) = Changer { tracker: &raft.tracker, last_index }.restore(&conf_state)?;
        raft.switch_to(conf, progress);
        raft.load(hard_state, config.applied)?;
        raft.become_follower(raft.term, PeerId::ZERO);
        Ok(raft)
    }

    fn load(&mut self, hard_state: HardState, applied: Index) -> Result<(), ConfigError> {
        if !hard_state.is_empty() {
            if hard_state.commit < self.log.committed || hard_state.commit > self.log.last_index() {
                return Err(ConfigError::CommitOutOfRange);
            }
            self.log.committed = hard_state.commit;
            self.term = hard_state.term;
            self.vote = hard_state.vote;
        }
        if !applied.is_zero() {
            if applied < self.log.applied || applied > self.log.committed {
                return Err(ConfigError::AppliedOutOfRange);
            }
            self.log.applied_to(applied, 0);
        }
        Ok(())
    }

    /// Leader and role.
    pub fn soft_state(&self) -> SoftState {
        SoftState { lead: self.lead, role: self.role }
    }

    /// Term, vote, commit index.
    pub fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: self.vote, commit: self.log.committed }
    }

    /// Puts a message into the outbox, with sender and term. Answers that promise durability wait for the append.
    pub(super) fn send(&mut self, mut message: Message) {
        use MessageKind as Kind;
        if message.from.is_zero() {
            message.from = self.id;
        }
        match message.kind {
            Kind::Vote | Kind::VoteResponse | Kind::PreVote | Kind::PreVoteResponse => {}
            Kind::Propose | Kind::ReadIndex => message.term = Term::ZERO,
            _ => message.term = self.term,
        }
        let slot = self.slot(message.kind, message.to);
        *slot = message;
    }

    /// A message of the present term in the outbox, to be filled in: for what is sent all the time.
    #[inline]
    pub(super) fn compose(&mut self, kind: MessageKind, to: PeerId) -> &mut Message {
        let (from, term) = (self.id, self.term);
        let message = self.slot(kind, to);
        message.kind = kind;
        message.to = to;
        message.from = from;
        message.term = term;
        message
    }

    #[inline]
    fn slot(&mut self, kind: MessageKind, to: PeerId) -> &mut Message {
        use MessageKind as Kind;
        let is_early = kind == Kind::AppendResponse && to != self.id && planted!(AckBeforeSync);
        if matches!(kind, Kind::AppendResponse | Kind::VoteResponse | Kind::PreVoteResponse) && !is_early {
            self.outbox.after_append.add()
        } else {
            debug_assert_ne!(to, self.id, "a node sends itself only answers: {kind:?}");
            self.outbox.now.add()
        }
    }

    /// Forgets everything that belongs to a role, and the vote if the term changes.
    fn reset(&mut self, term: Term) {
        if self.term != term {
            self.term = term;
            self.vote = PeerId::ZERO;
            self.request_snapshot = Index::ZERO;
        }
        self.lead = PeerId::ZERO;
        self.timers.election_elapsed = 0;
        self.timers.heartbeat_elapsed = 0;
        self.randomize_election_ticks();
        self.tracker.reset_votes();
        let last_index = self.log.last_index();
        for (id, progress) in self.tracker.progress.iter_mut() {
            progress.become_probe();
            progress.matched = if id == self.id { last_index } else { Index::ZERO };
            progress.next = last_index.next();
            progress.sent_commit = Index::ZERO;
            progress.pending_request_snapshot = Index::ZERO;
            progress.recent_active = false;
            progress.was_active = false;
            progress.knows_commit = false;
            progress.append_due = false;
        }
        self.outbox.appends_due = false;
        self.leadership = Leadership { start_index: last_index, ..Leadership::default() };
        self.reads.reset();
    }

    /// Becomes a follower of `lead` (0 = nobody known) in `term`.
    pub fn become_follower(&mut self, term: Term, lead: PeerId) {
        self.reset(term);
        self.lead = lead;
        self.role = Role::Follower;
    }

    fn become_candidate(&mut self) {
        assert_ne!(self.role, Role::Leader, "a leader does not campaign");
        self.reset(Term(self.term.0 + 1));
        self.vote = self.id;
        self.role = Role::Candidate;
        self.request_snapshot = Index::ZERO;
    }

    fn become_pre_candidate(&mut self) {
        assert_ne!(self.role, Role::Leader, "a leader does not campaign");
        self.tracker.reset_votes();
        self.lead = PeerId::ZERO;
        self.role = Role::PreCandidate;
        self.request_snapshot = Index::ZERO;
    }

    fn become_leader(&mut self) {
        assert_ne!(self.role, Role::Follower, "only a candidate becomes leader");
        self.reset(self.term);
        self.lead = self.id;
        self.role = Role::Leader;
        if let Some(own) = self.tracker.progress.get_mut(self.id) {
            own.become_replicate();
            own.recent_active = true;
        }
        // No conf change can be proposed before everything of earlier terms is applied: one may be among it.
        self.leadership.pending_conf_index = self.leadership.start_index;
        let is_appended = self.append_entries(vec![Entry::default()]);
        assert!(is_appended, "an entry without payload is never refused");
    }

    /// Appends proposals with own term and next indexes; false if that exceeds the uncommitted limit.
    fn append_entries(&mut self, mut entries: Vec<Entry>) -> bool {
        let bytes = payload_size(&entries);
        if !self.reserve_uncommitted(bytes) {
            return false;
        }
        let mut index = self.log.last_index();
        for entry in &mut entries {
            index = index.next();
            entry.index = index;
            entry.term = self.term;
        }
        self.log.append(entries);
        self.acknowledge_own(index);
        true
    }

    /// The leader's own acknowledgement is a message too: it counts once the entries are durable. A run of them, of one
    /// index after the other, waits as one message, with the run's first index as `commit`.
    fn acknowledge_own(&mut self, index: Index) {
        let (own, term, is_batched) = (self.id, self.term, self.settings.batch_append);
        if let Some(last) = self.outbox.after_append.last_mut()
            && (last.kind, last.to, last.term) == (MessageKind::AppendResponse, own, term)
        {
            if is_batched {
                (last.commit, last.index) = (index, index);
                return;
            }
            if last.index.next() == index {
                last.index = index;
                return;
            }
        }
        let ack = self.compose(MessageKind::AppendResponse, own);
        (ack.commit, ack.index) = (index, index);
    }

    /// Counts proposals against the limit. The first one always fits, and empty ones do not count.
    fn reserve_uncommitted(&mut self, bytes: u64) -> bool {
        let used = self.leadership.uncommitted_bytes;
        if used > 0 && bytes > 0 && used.saturating_add(bytes) > self.settings.uncommitted_bytes_max {
            return false;
        }
        self.leadership.uncommitted_bytes = used.saturating_add(bytes);
        true
    }

    /// Gives quota back for applied entries.
    pub fn release_uncommitted(&mut self, bytes: u64) {
        self.leadership.uncommitted_bytes = self.leadership.uncommitted_bytes.saturating_sub(bytes);
    }

    /// Payload of those of `entries` that this leadership counted.
    pub fn counted_payload(&self, entries: &[Entry]) -> u64 {
        let counted = |entry: &&Entry| entry.index > self.leadership.start_index;
        entries.iter().filter(counted).map(|entry| entry.data.len() as u64).sum()
    }

    /// Gives back the buffers that the traffic since the last tick left.
    pub fn release_buffers(&mut self) {
        self.log.unstable.release_if_empty();
        self.outbox.now.release_if_empty();
        self.outbox.after_append.release_if_empty();
    }

    /// Advances the logical clock. False if nothing but the clock moved. `is_bound`: [`crate::RawNode::tick_beside`].
    pub fn tick(&mut self, is_bound: impl Fn(PeerId) -> bool) -> bool {
        if self.role == Role::Leader { self.tick_leader(is_bound) } else { self.tick_election() }
    }

    fn tick_election(&mut self) -> bool {
        self.timers.election_elapsed = self.timers.election_elapsed.saturating_add(1);
        let is_due =
            self.timers.election_elapsed >= self.timers.randomized_election_ticks && self.is_promotable();
        if is_due {
            self.timers.election_elapsed = 0;
            self.on_hup();
        }
        is_due
    }

    fn tick_leader(&mut self, is_bound: impl Fn(PeerId) -> bool) -> bool {
        self.timers.heartbeat_elapsed += 1;
        self.timers.election_elapsed += 1;
        let is_election_over = self.timers.election_elapsed >= self.settings.election_ticks;
        if is_election_over {
            self.timers.election_elapsed = 0;
            if self.settings.check_quorum {
                self.check_quorum();
            }
            if self.role == Role::Leader {
                self.abort_transfer();
            }
        }
        let is_beat =
            self.role == Role::Leader && self.timers.heartbeat_elapsed >= self.settings.heartbeat_ticks;
        if is_beat {
            self.timers.heartbeat_elapsed = 0;
            self.beat(is_bound);
        }
        is_election_over || is_beat
    }

    fn randomize_election_ticks(&mut self) {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.timers.rng = self.timers.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.timers.rng;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let span = u64::from(self.settings.election_ticks_max - self.settings.election_ticks_min);
        let extra = u32::try_from(mixed % span).expect("below a span of u32");
        self.timers.randomized_election_ticks = self.settings.election_ticks_min + extra;
    }

    /// Whether this node may campaign: a voter, and not about to be replaced by a snapshot.
    pub fn is_promotable(&self) -> bool {
        let is_voter = self.tracker.progress.get(self.id).is_some_and(|own| !own.is_learner);
        is_voter && self.log.unstable.snapshot().is_none()
    }

    /// Whether the leader has committed an entry of its own term, so that its commit index is the group's.
    pub fn has_committed_in_term(&self) -> bool {
        self.log.matches(self.log.committed, self.term)
    }

    /// Moves the applied index; a leader then leaves a joint configuration if it is time.
    pub fn applied_to(&mut self, index: Index, bytes: u64) {
        let applied = index.max(self.log.applied);
        self.log.applied_to(applied, bytes);
        self.maybe_auto_leave();
    }

    /// Asserts the invariants of all parts.
    pub fn check_invariants(&self) {
        self.log.check_invariants();
        assert!(self.tracker.config.check().is_ok(), "configuration contradicts itself");
        let members = self.tracker.config.members();
        assert!(
            members.iter().eq(self.tracker.progress.iter().map(|(id, _)| id)),
            "progress is not of the members"
        );
        for (id, progress) in self.tracker.progress.iter() {
            assert!(progress.matched < progress.next, "peer {id}: match {} >= next", progress.matched);
        }
        match self.role {
            Role::Leader => assert_eq!(self.lead, self.id, "a leader follows somebody"),
            Role::Candidate => assert_eq!(self.vote, self.id, "a candidate votes for itself"),
            Role::PreCandidate => assert!(self.lead.is_zero(), "a pre-candidate knows no leader"),
            Role::Follower => {}
        }
    }
}
