//! Looking at a node, and changing its settings while it runs.

use std::sync::Arc;

use super::RawNode;
use crate::{
    config::ReadOnlyOption,
    error::ConfigError,
    status::Status,
    storage::{FetchContext, Storage, StorageResult},
    tracker::{Configuration, Meter, Progress},
    types::{ConfState, Entry, HardState, Index, PeerId, Role, SoftState, Term},
};

impl<S: Storage> RawNode<S> {
    /// Own id.
    pub fn id(&self) -> PeerId {
        self.raft.id
    }

    /// Current term.
    pub fn term(&self) -> Term {
        self.raft.term
    }

    /// Peer voted for in this term; 0 = none.
    pub fn vote(&self) -> PeerId {
        self.raft.vote
    }

    /// Own role.
    pub fn role(&self) -> Role {
        self.raft.role
    }

    /// Known leader; 0 = none.
    pub fn leader(&self) -> PeerId {
        self.raft.lead
    }

    /// Commit index.
    pub fn commit(&self) -> Index {
        self.raft.log.committed
    }

    /// Last index whose application was acknowledged.
    pub fn applied(&self) -> Index {
        self.raft.log.applied
    }

    /// Last index that was stored.
    pub fn stable(&self) -> Index {
        self.raft.log.stable_index()
    }

    /// Last index handed out for application.
    pub fn applying(&self) -> Index {
        self.raft.log.applying
    }

    /// First index of the log.
    pub fn first_index(&self) -> Index {
        self.raft.log.first_index()
    }

    /// Last index of the log, durable or not.
    pub fn last_index(&self) -> Index {
        self.raft.log.last_index()
    }

    /// Term of the last entry.
    pub fn last_term(&self) -> Term {
        self.raft.log.last_term()
    }

    /// Term of the entry at `index`, if the log knows it.
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.raft.log.term(index).ok()
    }

    /// Entries from `low` on, durable or not, within `bytes_max` but at least one; empty if there are none.
    ///
    /// # Errors
    /// See [`Storage::entries`].
    pub fn entries(&self, low: Index, bytes_max: u64) -> StorageResult<Vec<Entry>> {
        self.raft.log.entries(low, bytes_max, FetchContext::Immediate)
    }

    /// Term, vote, commit index.
    pub fn hard_state(&self) -> HardState {
        self.raft.hard_state()
    }

    /// Leader and role.
    pub fn soft_state(&self) -> SoftState {
        self.raft.soft_state()
    }

    /// Active configuration as it is stored.
    pub fn conf_state(&self) -> ConfState {
        self.raft.tracker.config.to_conf_state()
    }

    /// Active configuration.
    pub fn configuration(&self) -> &Configuration {
        &self.raft.tracker.config
    }

    /// What this node as a leader knows about `id`; on followers only membership means something.
    pub fn progress(&self, id: PeerId) -> Option<&Progress> {
        self.raft.tracker.progress.get(id)
    }

    /// [`Self::progress`] of all members, ascending.
    pub fn progress_iter(&self) -> impl Iterator<Item = (PeerId, &Progress)> {
        self.raft.tracker.progress.iter()
    }

    /// Whether this node may campaign.
    pub fn is_promotable(&self) -> bool {
        self.raft.is_promotable()
    }

    /// Target of a leadership transfer under way; 0 = none.
    pub fn lead_transferee(&self) -> PeerId {
        self.raft.leadership.transferee
    }

    /// Index of the last conf change proposed in this leadership; the next one waits until it is applied.
    pub fn pending_conf_index(&self) -> Index {
        self.raft.leadership.pending_conf_index
    }

    /// Whether this node as a leader has committed an entry of its own term.
    pub fn has_committed_in_term(&self) -> bool {
        self.raft.role == Role::Leader && self.raft.has_committed_in_term()
    }

    /// Payload of this leader's proposals that are not applied yet.
    pub fn uncommitted_bytes(&self) -> u64 {
        self.raft.leadership.uncommitted_bytes
    }

    /// Ticks since the leader was heard from (on a leader: since the last quorum check).
    pub fn election_elapsed(&self) -> usize {
        self.raft.timers.election_elapsed as usize
    }

    /// Ticks after which this node campaigns without a leader.
    pub fn randomized_election_ticks(&self) -> usize {
        self.raft.timers.randomized_election_ticks as usize
    }

    /// Overwrites the randomized election timeout until the next role change; for tests that need an order.
    pub fn set_randomized_election_ticks(&mut self, ticks: usize) {
        self.raft.timers.randomized_election_ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
    }

    /// Has this node campaign after `ticks` ticks, and again after so many as long as nobody answers; until the next
    /// role change. For owners that know of a leader's end by other means than silence.
    pub fn campaign_after(&mut self, ticks: usize) {
        self.raft.timers.election_elapsed = 0;
        self.raft.timers.randomized_election_ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
    }

    /// Tells a leader that did not tick whether `peer` lives, in place of what was heard from it.
    pub fn set_active(&mut self, peer: PeerId, lives: bool) {
        if let Some(progress) = self.raft.tracker.progress.get_mut(peer) {
            progress.recent_active = lives;
            progress.was_active = lives;
        }
    }

    /// Leader: from now on everybody has a whole election timeout to be heard from, before the quorum counts as lost.
    pub fn restart_quorum_check(&mut self) {
        if self.raft.role == Role::Leader {
            self.raft.timers.election_elapsed = 0;
        }
    }

    /// Index of the snapshot asked for by [`Self::request_snapshot`] and not received yet; 0 = none.
    pub fn requested_snapshot(&self) -> Index {
        self.raft.request_snapshot
    }

    /// Whether reads wait for confirmation here.
    pub fn has_unconfirmed_reads(&self) -> bool {
        !self.raft.reads.is_empty()
    }

    /// Stable log, as the owner passed it in.
    pub fn storage(&self) -> &S {
        &self.raft.log.storage
    }

    /// Stable log, to be written to.
    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.raft.log.storage
    }

    /// A copy of the state, for observers.
    pub fn status(&self) -> Status {
        let raft = &self.raft;
        let progress = match raft.role {
            Role::Leader => raft.tracker.progress.iter().map(|(id, pr)| (id, pr.clone())).collect(),
            _ => Vec::new(),
        };
        Status {
            id: raft.id,
            hard_state: raft.hard_state(),
            soft_state: raft.soft_state(),
            applied: raft.log.applied,
            lead_transferee: raft.leadership.transferee,
            config: raft.tracker.config.clone(),
            progress,
        }
    }

    /// Changes the election priority.
    pub fn set_priority(&mut self, priority: i64) {
        self.raft.settings.priority = priority;
    }

    /// Turns the quorum check on or off.
    pub fn set_check_quorum(&mut self, on: bool) {
        self.raft.settings.check_quorum = on;
    }

    /// Turns commit broadcasts off or on.
    pub fn set_skip_commit_broadcast(&mut self, skip: bool) {
        self.raft.settings.skip_commit_broadcast = skip;
    }

    /// Turns batching of appends on or off.
    pub fn set_batch_append(&mut self, on: bool) {
        self.raft.settings.batch_append = on;
    }

    /// Changes how reads are confirmed.
    ///
    /// # Errors
    /// `LeaseWithoutCheckQuorum`.
    pub fn set_read_only(&mut self, option: ReadOnlyOption) -> Result<(), ConfigError> {
        if option == ReadOnlyOption::LeaseBased && !self.raft.settings.check_quorum {
            return Err(ConfigError::LeaseWithoutCheckQuorum);
        }
        self.raft.settings.read_only = option;
        Ok(())
    }

    /// Changes the number of unacknowledged appends allowed to `peer`; 0 stops sending entries to it.
    pub fn set_inflight_messages_max(&mut self, peer: PeerId, count_max: usize) {
        if let Some(progress) = self.raft.tracker.progress.get_mut(peer) {
            progress.inflights.set_count_max(count_max);
        }
    }

    /// Has `meter` count the entries under way to `peer` as this node, leading, sends them, and hold back further ones while
    /// it is full; `None` ends that. An extension: without a meter only the peer's own window limits. Ends with
    /// the peer's membership. With `check_quorum`, what is under way to a metered peer that is silent counts as lost.
    pub fn set_meter(&mut self, peer: PeerId, meter: Option<Arc<Meter>>) {
        if let Some(progress) = self.raft.tracker.progress.get_mut(peer) {
            progress.inflights.set_meter(meter);
        }
    }

    /// Whether meters held entries back since this was last asked: those for the peers whose
    /// [`Progress::is_held_back`] is true. The owner must [`Self::resume`] each of them when its meter has room.
    pub fn take_held_back(&mut self) -> bool {
        let mut has_held_back = false;
        self.raft.maybe_touch(|raft| {
            has_held_back = std::mem::take(&mut raft.outbox.has_held_back);
            false
        });
        has_held_back
    }

    /// Sends the next append to `peer`, if it is its turn and the meter has room. True if there is more to send and the peer
    /// must wait for another turn.
    pub fn resume(&mut self, peer: PeerId) -> bool {
        self.raft.resume(peer)
    }

    /// Turns the commit group rule on or off; may commit at once.
    pub fn set_group_commit(&mut self, on: bool) {
        self.raft.tracker.group_commit = on;
        self.raft.recompute_commit();
    }

    /// Whether the commit group rule is on.
    pub fn has_group_commit(&self) -> bool {
        self.raft.tracker.group_commit
    }

    /// Puts peers into commit groups (0 = none); unknown peers are ignored. May commit at once.
    pub fn assign_commit_groups(&mut self, groups: &[(PeerId, u64)]) {
        for (id, group) in groups {
            if let Some(progress) = self.raft.tracker.progress.get_mut(*id) {
                progress.commit_group = *group;
            }
        }
        self.raft.recompute_commit();
    }

    /// Takes all peers out of their commit groups.
    pub fn clear_commit_groups(&mut self) {
        for (_, progress) in self.raft.tracker.progress.iter_mut() {
            progress.commit_group = 0;
        }
    }

    /// Whether the group commit rule decided the commit index; `None` unless this is a leader that has applied an
    /// entry of its term.
    pub fn is_group_commit_consistent(&self) -> Option<bool> {
        let raft = &self.raft;
        if raft.role != Role::Leader || !raft.log.matches(raft.log.applied, raft.term) {
            return None;
        }
        let (index, in_force) = raft.tracker.committed_index();
        Some(in_force && index == raft.log.committed)
    }

    /// Asserts the invariants of the node's state; for tests and simulators.
    pub fn check_invariants(&self) {
        self.raft.check_invariants();
    }
}
