//! The interface of the crate: one node, driven by its owner.

mod access;
mod packed;
mod watched;

pub use packed::Packed;

use bytes::Bytes;

use watched::Watched;

use crate::{
    conf_change::{ConfChangeProposal, ConfChangeV2},
    config::Config,
    entry::entries_size,
    error::{ConfChangeError, ConfigError, StepError},
    message::{Extra, Message, MessageKind as Kind},
    raft::Raft,
    ready::{Applying, Ready, Stored, Storing, Work},
    storage::{FetchContext, Storage},
    types::{ConfState, Entry, EntryKind, HardState, Index, PeerId, Role, SoftState, Term},
};

/// Empty buffers of the last Ready.
#[derive(Debug, Default)]
struct Spare {
    entries: Vec<Entry>,
    committed: Vec<Entry>,
    /// Whether they came back since the last tick.
    is_fresh: bool,
}

/// What `advance` acknowledges besides the messages to the node itself.
#[derive(Debug)]
struct PendingAdvance {
    stored: Stored,
    applying: Option<Applying>,
}

/// One peer of a group, to be driven by one owner: feed messages and ticks, take a [`Ready`] when there is one, do
/// its work, and call [`RawNode::advance`] (or deliver the storage threads' responses).
///
/// See the crate's documentation for the loop.
#[derive(Debug)]
pub struct RawNode<S: Storage> {
    raft: Watched<Raft<S>>,
    is_async: bool,
    apply_ahead_max: u32,
    /// As of the last Ready that had them.
    seen_soft_state: SoftState,
    seen_hard_state: HardState,
    /// Messages to the node itself, taken by `advance`.
    own_messages: Vec<Message>,
    /// Of a Ready that is out.
    pending: Option<PendingAdvance>,
    /// Given back with the last Ready, until a tick after which none came back.
    spare: Option<Box<Spare>>,
    /// Whether the last tick left buffers of the traffic before it.
    is_warm: bool,
}

impl<S: Storage> RawNode<S> {
    /// A node with the state that `storage` holds; a follower without leader.
    ///
    /// # Errors
    /// The configuration or the stored state contradicts itself.
    pub fn new(config: &Config, storage: S) -> Result<Self, ConfigError> {
        Ok(Self::around(config, Raft::new(config, storage)?))
    }

    /// A node that has told its owner all that it is.
    fn around(config: &Config, raft: Raft<S>) -> Self {
        Self {
            is_async: config.async_storage_writes,
            apply_ahead_max: config.apply_ahead_max,
            seen_soft_state: raft.soft_state(),
            seen_hard_state: raft.hard_state(),
            own_messages: Vec::new(),
            pending: None,
            spare: None,
            is_warm: false,
            raft: Watched::new(raft),
        }
    }

    /// Starts a new group: its first entries add `peers`, each with bytes for the application, and are committed.
    /// Every founder must be given the same peers in the same order with the same bytes; peers that join later, or lost
    /// their disk, must not call this. Instead of it, a storage may start from a snapshot.
    ///
    /// # Errors
    /// `Bootstrap` if the log is not empty or no peer is given.
    pub fn bootstrap(&mut self, peers: &[(PeerId, Bytes)]) -> Result<(), ConfigError> {
        let is_invalid = |(id, _): &(PeerId, Bytes)| id.is_zero() || id.is_storage_thread();
        if peers.is_empty() || peers.iter().any(is_invalid) || !self.raft.log.last_index().is_zero() {
            return Err(ConfigError::Bootstrap);
        }
        let term = Term(1);
        self.seen_hard_state = HardState::default();
        self.raft.become_follower(term, PeerId::ZERO);
        let mut entries = Vec::with_capacity(peers.len());
        for (position, (peer, context)) in peers.iter().enumerate() {
            let change = crate::ConfChange { peer: *peer, context: context.clone(), ..Default::default() };
            let index = Index(position as u64 + 1);
            entries.push(Entry { term, index, kind: EntryKind::ConfChange, data: change.encode() });
        }
        let last = self.raft.log.append(entries);
        self.raft.log.commit_to(last);
        // Applied now for the configuration, and once more by the owner, which changes nothing.
        for (peer, context) in peers {
            let change = crate::ConfChange { peer: *peer, context: context.clone(), ..Default::default() };
            self.raft.apply_conf_change(&change.into_v2())?;
        }
        Ok(())
    }

    /// Advances the logical clock by one tick. Spare buffers are freed if nothing happened since the last one.
    pub fn tick(&mut self) {
        self.tick_beside(|_| false);
    }

    /// [Ticks](Self::tick) beside followers that need not hear of their leader to hold to it: those that `is_bound` names have
    /// promised not to campaign, and are not ticked. With [`Config::skip_commit_broadcast`] such a one gets one heartbeat
    /// for each quorum check, in the place of one for each `heartbeat_ticks`, while it has said that it knows the whole log
    /// and what of it is committed. `is_bound` is called when heartbeats are due.
    pub fn tick_beside(&mut self, is_bound: impl Fn(PeerId) -> bool) {
        let was_used = self.raft.take_used();
        let is_fresh = match self.spare.as_deref_mut() {
            Some(spare) => std::mem::take(&mut spare.is_fresh),
            None => self.is_async && was_used,
        };
        if !is_fresh && (was_used || self.is_warm) {
            self.release_buffers();
        }
        self.is_warm = is_fresh;
        self.raft.maybe_touch(|raft| raft.tick(is_bound));
    }

    /// Gives back the buffers that the traffic left: of a group that is not ticked any more, say.
    pub fn release_buffers(&mut self) {
        self.spare = None;
        self.raft.maybe_touch(|raft| {
            raft.release_buffers();
            false
        });
    }

    /// Starts an election now, if this node may.
    ///
    /// # Errors
    /// None at present.
    pub fn campaign(&mut self) -> Result<(), StepError> {
        self.raft.step(&mut Message { kind: Kind::Hup, ..Message::default() })
    }

    /// Proposes an entry; followers forward it to the leader. `Ok` says that it was logged here or forwarded: it may still
    /// get lost without notice, and is done only when it is applied.
    ///
    /// # Errors
    /// `ProposalDropped`.
    pub fn propose(&mut self, data: Bytes) -> Result<(), StepError> {
        self.propose_entry(Entry { data, ..Entry::default() })
    }

    /// Proposes a membership change. The leader turns one that cannot be made now into an empty entry.
    ///
    /// # Errors
    /// `ProposalDropped`.
    pub fn propose_conf_change(&mut self, change: impl Into<ConfChangeProposal>) -> Result<(), StepError> {
        let (kind, data) = match change.into() {
            ConfChangeProposal::Single(change) => (EntryKind::ConfChange, change.encode()),
            ConfChangeProposal::Multi(change) => (EntryKind::ConfChangeV2, change.encode()),
        };
        self.propose_entry(Entry { kind, data, ..Entry::default() })
    }

    fn propose_entry(&mut self, entry: Entry) -> Result<(), StepError> {
        if self.raft.role == Role::Leader && entry.kind == EntryKind::Normal {
            return self.raft.propose_normal(entry);
        }
        let from = self.raft.id;
        self.raft.step(&mut Message { kind: Kind::Propose, from, entries: vec![entry], ..Message::default() })
    }

    /// Makes a committed membership change. Must be called for every conf change among the committed entries, in
    /// order. A change that cannot be made from the present configuration (a bug, or a forged entry) changes
    /// nothing, on every replica alike.
    pub fn apply_conf_change(&mut self, change: &ConfChangeV2) -> ConfState {
        self.try_apply_conf_change(change).unwrap_or_else(|_| self.conf_state())
    }

    /// Like [`Self::apply_conf_change`], telling why a change was not made.
    ///
    /// # Errors
    /// The change cannot be made; nothing changed.
    pub fn try_apply_conf_change(&mut self, change: &ConfChangeV2) -> Result<ConfState, ConfChangeError> {
        self.raft.apply_conf_change(change)
    }

    /// Takes a message from a peer, or (async storage writes) from a storage thread or this node itself.
    ///
    /// # Errors
    /// The message was dropped; none is fatal to the node.
    pub fn step(&mut self, mut message: Message) -> Result<(), StepError> {
        self.raft.check_message(&message, self.is_async)?;
        self.raft.step(&mut message)
    }

    /// Asks for an index at which a read of the present state may be served; comes back as a
    /// [`crate::ReadState`] with the same `context`, or not at all if leadership is unclear or a message is lost: ask
    /// again after some ticks, with another context.
    pub fn read_index(&mut self, context: Bytes) {
        self.step_local(Message { kind: Kind::ReadIndex, context, ..Message::default() });
    }

    /// Asks the leader to hand over to `to`.
    pub fn transfer_leader(&mut self, to: PeerId) {
        self.step_local(Message { kind: Kind::TransferLeader, from: to, ..Message::default() });
    }

    /// Tells that messages to `peer` could not be delivered.
    pub fn report_unreachable(&mut self, peer: PeerId) {
        self.step_local(Message { kind: Kind::Unreachable, from: peer, ..Message::default() });
    }

    /// Tells whether a snapshot to `peer` was delivered. Must be called for every one that was sent.
    pub fn report_snapshot(&mut self, peer: PeerId, ok: bool) {
        self.step_local(Message {
            kind: Kind::SnapshotStatus,
            from: peer,
            reject: !ok,
            ..Message::default()
        });
    }

    /// Forgets the leader without changing the term, so that this peer may vote for another one.
    pub fn forget_leader(&mut self) {
        self.step_local(Message { kind: Kind::ForgetLeader, ..Message::default() });
    }

    /// Sends heartbeats now, if leader.
    pub fn broadcast_heartbeat(&mut self) {
        self.step_local(Message { kind: Kind::Beat, ..Message::default() });
    }

    fn step_local(&mut self, mut message: Message) {
        self.raft.step(&mut message).expect("requests of the owner are ignored, never refused");
    }

    /// As a follower, asks the leader for a snapshot at or after the last own entry.
    ///
    /// # Errors
    /// `SnapshotRequestDropped`.
    pub fn request_snapshot(&mut self) -> Result<(), StepError> {
        self.raft.request_snapshot()
    }

    /// Takes over entries after (`prev`, `prev_term`) that something else than a leader proves to be committed: what a
    /// finished group of which this peer is the last member left behind. An extension; no message does this. False if
    /// the log does not reach the entries, or contradicts them.
    pub fn learn_committed(&mut self, prev: Index, prev_term: Term, entries: Vec<Entry>) -> bool {
        self.raft.learn_committed(prev, prev_term, entries)
    }

    /// Entries that the storage had to fetch can be read now.
    pub fn on_entries_fetched(&mut self, context: FetchContext) {
        self.raft.on_entries_fetched(context);
    }

    /// How many entries that are not durable here may be handed out for application: any number where the owner stores
    /// a Ready's entries before it applies the same Ready's committed ones.
    fn apply_ahead_max(&self) -> u64 {
        match (self.is_async, self.raft.role) {
            (false, _) => u64::MAX,
            (true, Role::Leader) => u64::from(self.apply_ahead_max),
            (true, _) => 0,
        }
    }

    /// Whether [`Self::ready`] has work. A node that only ticked since it had none is not looked through again: most nodes of
    /// a process are idle.
    pub fn has_ready(&self) -> bool {
        if !self.raft.is_touched() {
            debug_assert!(!self.finds_work(), "work without a touch");
            return false;
        }
        let has_work = self.finds_work();
        if !has_work {
            self.raft.rest();
        }
        has_work
    }

    fn finds_work(&self) -> bool {
        let raft = &self.raft;
        !raft.outbox.now.is_empty()
            || !raft.outbox.after_append.is_empty()
            || raft.outbox.appends_due
            || !raft.log.unstable.next_entries().is_empty()
            || raft.log.has_next_committed_entries(self.apply_ahead_max())
            || raft.log.unstable.next_snapshot().is_some()
            || !raft.reads.states.is_empty()
            || raft.soft_state() != self.seen_soft_state
            || self.changed_hard_state().is_some()
    }

    fn changed_hard_state(&self) -> Option<HardState> {
        let mut hard_state = self.raft.hard_state();
        if planted!(VoteNotPersisted) {
            hard_state.vote = PeerId::ZERO;
        }
        (hard_state != self.seen_hard_state && !hard_state.is_empty()).then_some(hard_state)
    }

    /// Takes the work to be done. Legal without any: then the Ready is empty.
    ///
    /// # Panics
    /// Without async storage writes, if the previous Ready was not acknowledged by [`Self::advance`].
    pub fn ready(&mut self) -> Ready {
        assert!(self.pending.is_none(), "ready() was called twice without advance()");
        let Spare { entries, committed: committed_entries, .. } =
            self.spare.as_deref_mut().map(std::mem::take).unwrap_or_default();
        let mut ready = Ready { entries, committed_entries, ..Ready::default() };
        self.collect(&mut ready);
        ready.messages = self.raft.outbox.now.take();
        let applying = self.applying_of(&ready);
        if self.is_async {
            self.attach_storage_messages(&mut ready);
        } else {
            self.prepare_advance(&mut ready, applying);
        }
        self.accept(&ready, applying);
        ready
    }

    /// Takes the work to be done into `work`, whose lists must be empty and whose buffers are used again, instead of as
    /// [`Self::ready`]: for owners with threads of their own for log and state machine, which then pass no messages of the
    /// core and allocate nothing for each piece of work.
    ///
    /// # Panics
    /// Without async storage writes.
    pub fn take_work(&mut self, work: &mut Work) {
        assert!(self.is_async, "work is taken with async storage writes only");
        debug_assert!(work.is_taken_over(), "work of before was not taken over");
        self.collect(&mut work.ready);
        let Work { ready, answers, storing, applying } = work;
        self.raft.outbox.now.swap(&mut ready.messages);
        *storing = self.has_to_store(ready).then(|| self.storing_with(ready, answers));
        *applying = self.applying_of(ready);
        self.accept(ready, *applying);
    }

    /// Whether something is to be stored, or an answer waits for what is being stored.
    fn has_to_store(&self, ready: &Ready) -> bool {
        let has_state = ready.hard_state.is_some() || ready.snapshot.is_some();
        has_state || !ready.entries.is_empty() || !self.raft.outbox.after_append.is_empty()
    }

    /// What storing the work makes true. Answers to others go to `answers`.
    fn storing_with(&mut self, ready: &Ready, answers: &mut Vec<Message>) -> Storing {
        let own = self.raft.id;
        self.raft.outbox.after_append.swap(answers);
        let mut storing = Storing { stored: self.stored_by(ready), ..Storing::default() };
        answers.retain_mut(|answer| {
            if answer.to != own {
                return true;
            }
            // A leader's: nearly always one run of acknowledgements, and nothing else.
            if answer.kind == Kind::AppendResponse && storing.acks.is_none() && storing.own.is_empty() {
                storing.acks = Some((answer.term, answer.commit, answer.index));
            } else {
                storing.own.push(std::mem::take(answer));
            }
            false
        });
        storing
    }

    /// What storing the work makes true, but for the answers that wait for it.
    fn stored_by(&self, ready: &Ready) -> Stored {
        let snapshot = ready.snapshot.as_ref().map(|snapshot| snapshot.meta.index);
        Stored { term: self.raft.term, last: self.unstable_end(), snapshot }
    }

    /// What applying the committed entries of the work makes true.
    fn applying_of(&self, ready: &Ready) -> Option<Applying> {
        let entries = &ready.committed_entries;
        entries.last().map(|last| Applying {
            term: self.raft.term,
            index: last.index,
            bytes: entries_size(entries),
            payload: self.raft.counted_payload(entries),
        })
    }

    /// The work that [`Work::storing`] came with is stored.
    pub fn on_stored(&mut self, storing: Storing) {
        let Storing { stored, acks, mut own } = storing;
        if let Some((term, first, last)) = acks {
            // Refused by nobody who still leads in that term, and void for others.
            let _ = self.raft.on_own_acks(term, first, last);
        }
        for answer in &mut own {
            if self.raft.check_message(answer, true).is_ok() {
                let _ = self.step_own(answer);
            }
        }
        self.finish_storing(&stored);
    }

    /// Takes an answer of this node to itself, as it lay in the outbox: a run of acknowledgements is one.
    fn step_own(&mut self, answer: &mut Message) -> Result<(), StepError> {
        match answer.kind {
            Kind::AppendResponse => self.raft.on_own_acks(answer.term, answer.commit, answer.index),
            _ => self.raft.step(answer),
        }
    }

    fn finish_storing(&mut self, stored: &Stored) {
        if !stored.is_nothing() {
            let (index, log_term) = stored.last.unwrap_or_default();
            self.raft.on_append_stored(stored.term, index, log_term, stored.snapshot);
        }
    }

    /// The entries that [`Work::applying`] came with are applied. Ignored if they were not handed out.
    pub fn on_applied(&mut self, applying: Applying) {
        if applying.index <= self.raft.log.applying.max(self.raft.log.applied) {
            self.finish_applying(&applying);
        }
    }

    fn finish_applying(&mut self, applying: &Applying) {
        let is_same_leadership = self.raft.term == applying.term;
        self.raft.applied_to(applying.index, applying.bytes);
        if is_same_leadership {
            self.raft.release_uncommitted(applying.payload);
        }
    }

    /// Fills in everything but the messages.
    fn collect(&mut self, ready: &mut Ready) {
        let ahead_max = self.apply_ahead_max();
        self.raft.flush_due_appends();
        let hard_state = self.changed_hard_state();
        let raft = &mut *self.raft;
        let soft_state = raft.soft_state();
        ready.soft_state = (soft_state != self.seen_soft_state).then_some(soft_state);
        ready.hard_state = hard_state;
        if !raft.reads.states.is_empty() {
            ready.read_states = std::mem::take(&mut raft.reads.states);
        }
        ready.entries.extend_from_slice(raft.log.unstable.next_entries());
        raft.log.take_committed_entries(ahead_max, &mut ready.committed_entries);
        ready.snapshot = raft.log.unstable.next_snapshot().map(|snapshot| Box::new(snapshot.clone()));
        let seen = self.seen_hard_state;
        ready.must_sync = !ready.entries.is_empty()
            || hard_state.is_some_and(|new| (new.term, new.vote) != (seen.term, seen.vote));
    }

    /// Position that the storing of everything unstable makes durable, if anything is.
    fn unstable_end(&self) -> Option<(Index, Term)> {
        let log = &self.raft.log;
        log.unstable.has_entries().then(|| (log.last_index(), log.last_term()))
    }

    /// Sync mode: answers to others leave with this Ready, answers to this node count on `advance`.
    fn prepare_advance(&mut self, ready: &mut Ready, applying: Option<Applying>) {
        let own = self.raft.id;
        let answers = self.raft.outbox.after_append.take();
        let to_self = answers.iter().filter(|answer| answer.to == own).count();
        // Nearly always they are all a leader's or all a follower's, and move as a whole.
        if to_self == answers.len() {
            self.own_messages = answers;
        } else if to_self == 0 && ready.messages.is_empty() {
            ready.messages = answers;
        } else {
            for answer in answers {
                let to = if answer.to == own { &mut self.own_messages } else { &mut ready.messages };
                to.push(answer);
            }
        }
        self.pending = Some(PendingAdvance { stored: self.stored_by(ready), applying });
    }

    /// Async mode: storage work becomes messages, which carry the answers that it makes true.
    fn attach_storage_messages(&mut self, ready: &mut Ready) {
        if self.has_to_store(ready) {
            let append = self.storage_append(ready);
            ready.messages.push(append);
        }
        if !ready.committed_entries.is_empty() {
            let own = self.raft.id;
            let response = Message {
                kind: Kind::StorageApplyResponse,
                to: own,
                from: PeerId::APPLY_THREAD,
                entries: ready.committed_entries.clone(),
                ..Message::default()
            };
            ready.messages.push(Message {
                kind: Kind::StorageApply,
                to: PeerId::APPLY_THREAD,
                from: own,
                entries: ready.committed_entries.clone(),
                extra: Extra { responses: vec![response], ..Extra::default() }.boxed(),
                ..Message::default()
            });
        }
    }

    fn storage_append(&mut self, ready: &Ready) -> Message {
        let own = self.raft.id;
        let mut responses = single_acks(self.raft.outbox.after_append.take(), own);
        let end = self.unstable_end();
        if end.is_some() || ready.snapshot.is_some() {
            let (index, log_term) = end.unwrap_or_default();
            responses.push(Message {
                kind: Kind::StorageAppendResponse,
                to: own,
                from: PeerId::APPEND_THREAD,
                term: self.raft.term,
                index,
                log_term,
                snapshot: ready.snapshot.clone(),
                ..Message::default()
            });
        }
        let hard_state = ready.hard_state.unwrap_or_default();
        Message {
            kind: Kind::StorageAppend,
            to: PeerId::APPEND_THREAD,
            from: own,
            term: hard_state.term,
            commit: hard_state.commit,
            entries: ready.entries.clone(),
            snapshot: ready.snapshot.clone(),
            extra: Extra { vote: hard_state.vote, responses, ..Extra::default() }.boxed(),
            ..Message::default()
        }
    }

    /// Marks everything in the Ready as handed out. `applying`: its committed entries.
    fn accept(&mut self, ready: &Ready, applying: Option<Applying>) {
        if let Some(soft_state) = ready.soft_state {
            self.seen_soft_state = soft_state;
        }
        if let Some(hard_state) = ready.hard_state {
            self.seen_hard_state = hard_state;
        }
        self.raft.log.unstable.accept_in_progress();
        if let Some(Applying { index, bytes, .. }) = applying {
            let ahead_max = self.apply_ahead_max();
            self.raft.log.accept_applying(index, bytes, ahead_max);
        }
    }

    /// Acknowledges that the work of the last Ready is done: stored, sent and applied.
    ///
    /// # Panics
    /// If there is no Ready to acknowledge, or with async storage writes.
    pub fn advance(&mut self) {
        assert!(!self.is_async, "with async storage writes the storage threads' responses acknowledge");
        let pending = self.pending.take().expect("advance() was called without ready()");
        let mut own_messages = std::mem::take(&mut self.own_messages);
        for message in &mut own_messages {
            self.step_own(message).expect("own answers are never refused");
        }
        // Kept like the rest for an owner that gives buffers back, and freed with them.
        if self.spare.is_some() {
            own_messages.clear();
            self.raft.outbox.after_append.reuse(own_messages);
        }
        self.finish_storing(&pending.stored);
        if let Some(applying) = pending.applying {
            self.finish_applying(&applying);
        }
    }

    /// Gives the buffers of a Ready back for the next ones: worth it under load. To be called after [`Self::advance`], if at
    /// all; what the Ready still holds, unsent messages too, is dropped. A tick without any since the one before frees them.
    #[inline]
    pub fn recycle(&mut self, ready: Ready) {
        // Idle nodes, which exchange but heartbeats, keep nothing.
        if !ready.must_sync && ready.committed_entries.is_empty() {
            return;
        }
        let Ready { mut messages, mut entries, mut committed_entries, .. } = ready;
        entries.clear();
        committed_entries.clear();
        **self.spare.get_or_insert_default() =
            Spare { entries, committed: committed_entries, is_fresh: true };
        messages.clear();
        let raft = &mut *self.raft;
        // Followers mostly answer, leaders mostly tell.
        if raft.role == Role::Leader {
            raft.outbox.now.reuse(messages);
        } else {
            raft.outbox.after_append.reuse(messages);
        }
    }
}

/// Answers with each run of acknowledgements to `own` as single ones.
fn single_acks(answers: Vec<Message>, own: PeerId) -> Vec<Message> {
    let is_own_ack = |answer: &Message| answer.kind == Kind::AppendResponse && answer.to == own;
    if !answers.iter().any(is_own_ack) {
        return answers;
    }
    let mut singles = Vec::with_capacity(answers.len() + 1);
    for mut answer in answers {
        if is_own_ack(&answer) {
            let last = std::mem::replace(&mut answer.index, std::mem::take(&mut answer.commit));
            while answer.index < last {
                let next = Message { index: answer.index.next(), ..answer.clone() };
                singles.push(std::mem::replace(&mut answer, next));
            }
        }
        singles.push(answer);
    }
    singles
}
