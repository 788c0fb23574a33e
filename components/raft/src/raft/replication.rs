//! What a leader sends: appends, heartbeats, snapshots, within each peer's flow control.

use bytes::Bytes;

use super::Raft;
use crate::{
    entry::payload_size,
    message::{Message, MessageKind as Kind},
    storage::{FetchContext, Storage, StorageError},
    tracker::{Progress, ProgressState},
    types::{Index, PeerId, Role},
};

impl<S: Storage> Raft<S> {
    /// Sends to `to` what it needs next, even if that is an append without entries. Nothing while it is paused.
    pub(super) fn send_append(&mut self, to: PeerId) {
        if let Some(slot) = self.tracker.progress.slot(to) {
            self.maybe_send_append(slot, true);
        }
    }

    /// Sends appends with entries to `to` until it is paused or has everything.
    pub(super) fn drain_appends(&mut self, to: PeerId) {
        if let Some(slot) = self.tracker.progress.slot(to) {
            self.drain_slot(slot);
        }
    }

    fn drain_slot(&mut self, slot: usize) {
        while self.maybe_send_append(slot, false) {}
    }

    /// Sends to every other member what it needs next. With `batch_append`, at the next Ready.
    pub(super) fn broadcast_append(&mut self) {
        for slot in 0..self.tracker.progress.len() {
            let (id, progress) = self.tracker.progress.slot_mut(slot);
            if id == self.id {
                continue;
            }
            if self.settings.batch_append {
                progress.append_due = true;
                self.outbox.appends_due = true;
            } else {
                self.maybe_send_append(slot, true);
            }
        }
    }

    /// Sends the appends that `batch_append` held back.
    pub fn flush_due_appends(&mut self) {
        if !std::mem::take(&mut self.outbox.appends_due) {
            return;
        }
        for slot in 0..self.tracker.progress.len() {
            let (_, progress) = self.tracker.progress.slot_mut(slot);
            if std::mem::take(&mut progress.append_due) && self.maybe_send_append(slot, true) {
                self.drain_slot(slot);
            }
        }
    }

    /// Sends one append, or a snapshot where entries are gone. False if nothing was sent; without `allow_empty`, an
    /// append without entries is nothing.
    pub(super) fn maybe_send_append(&mut self, slot: usize, allow_empty: bool) -> bool {
        let (to, progress) = self.tracker.progress.slot_mut(slot);
        if progress.is_paused() {
            return false;
        }
        if !progress.pending_request_snapshot.is_zero() {
            return self.maybe_send_snapshot(slot);
        }
        // The commonest end of a drain, told apart without a look into the log.
        if !allow_empty && progress.next == self.log.last_index().next() {
            return false;
        }
        let index = progress.next.prev();
        let Ok(log_term) = self.log.term(index) else { return self.maybe_send_snapshot(slot) };
        // A full window still lets empty appends through: their answers reopen it if all of it was lost.
        let is_window_full = progress.state == ProgressState::Replicate && progress.inflights.is_full();
        // Nothing is proposed until the peer that is to lead has everything, so that it does not wait.
        let is_heir = self.leadership.transferee == to;
        let is_behind = progress.next <= self.log.last_index();
        let must_wait = !is_window_full && !is_heir && is_behind && progress.must_wait();
        if must_wait {
            self.outbox.has_held_back = true;
            if !progress.hold_back(self.log.committed) || !allow_empty {
                return false;
            }
        }
        let fetched = if is_window_full || must_wait {
            Ok(Vec::new())
        } else {
            let context = FetchContext::Send { to, term: self.term, allow_empty };
            self.log.entries(progress.next, self.settings.append_bytes_max, context)
        };
        let entries = match fetched {
            Ok(entries) if entries.is_empty() && !allow_empty => return false,
            Ok(entries) => entries,
            Err(StorageError::LogTemporarilyUnavailable) => return false,
            Err(_) if allow_empty => return self.maybe_send_snapshot(slot),
            Err(_) => return false,
        };
        let commit = self.log.committed;
        progress.sent_entries(entries.len(), payload_size(&entries));
        progress.sent_commit = commit;
        let append = self.compose(Kind::Append, to);
        append.index = index;
        append.log_term = log_term;
        append.entries = entries;
        append.commit = commit;
        true
    }

    /// Sends the next append to a peer whose entries waited for its meter. True if there is more to send, and it is the
    /// meter alone that keeps it.
    pub fn resume(&mut self, to: PeerId) -> bool {
        let Some(slot) = self.tracker.progress.slot(to).filter(|_| self.role == Role::Leader) else {
            return false;
        };
        self.tracker.progress.slot_mut(slot).1.is_held_back = false;
        let is_sent = self.maybe_send_append(slot, false);
        let (_, progress) = self.tracker.progress.slot_mut(slot);
        if is_sent {
            let has_more = progress.next <= self.log.last_index();
            progress.is_held_back =
                progress.state == ProgressState::Replicate && has_more && !progress.is_paused();
        }
        progress.is_held_back
    }

    /// Entries that storage had to fetch have arrived. Dropped if leadership, term or member changed since.
    pub fn on_entries_fetched(&mut self, context: FetchContext) {
        let FetchContext::Send { to, term, allow_empty } = context else { return };
        if self.role != Role::Leader || self.term != term || to == self.id {
            return;
        }
        if let Some(slot) = self.tracker.progress.slot(to)
            && self.maybe_send_append(slot, allow_empty)
        {
            self.drain_slot(slot);
        }
    }

    /// Sends a snapshot, unless the peer was silent of late or none is at hand.
    fn maybe_send_snapshot(&mut self, slot: usize) -> bool {
        let (to, progress) = self.tracker.progress.slot_mut(slot);
        if !progress.recent_active {
            return false;
        }
        let request = progress.pending_request_snapshot;
        // The peer may have acknowledged more since it asked.
        let at_least = if request.is_zero() { request } else { request.max(progress.matched) };
        let Ok(snapshot) = self.log.snapshot(at_least, to) else { return false };
        if snapshot.is_empty() {
            return false;
        }
        progress.become_snapshot(snapshot.meta.index);
        self.send(Message {
            kind: Kind::Snapshot,
            to,
            snapshot: Some(Box::new(snapshot)),
            ..Message::default()
        });
        true
    }

    /// Sends the periodic heartbeats, which also confirm waiting reads. Who `is_bound` and knows all gets the first one after
    /// each quorum check, and later ones if it has not answered by half of the time.
    pub(super) fn beat(&mut self, is_bound: impl Fn(PeerId) -> bool) {
        let context = self.reads.heartbeat_context();
        let (elapsed, last) = (self.timers.election_elapsed, self.log.last_index());
        let is_for_all = elapsed < self.settings.heartbeat_ticks || !context.is_empty();
        let is_late = elapsed > self.settings.election_ticks / 2;
        self.send_heartbeats(&context, |to, progress| {
            let is_asked = progress.recent_active || !is_late;
            is_for_all || !is_asked || !progress.knows_all(last) || !is_bound(to)
        });
    }

    /// Sends a heartbeat to everybody.
    pub fn broadcast_heartbeat(&mut self) {
        let context = self.reads.heartbeat_context();
        self.broadcast_heartbeat_with(&context);
    }

    pub(super) fn broadcast_heartbeat_with(&mut self, context: &Bytes) {
        self.send_heartbeats(context, |_, _| true);
    }

    fn send_heartbeats(&mut self, context: &Bytes, is_wanted: impl Fn(PeerId, &Progress) -> bool) {
        for slot in 0..self.tracker.progress.len() {
            let (to, progress) = self.tracker.progress.slot_mut(slot);
            progress.inflights.release_if_empty();
            if to == self.id || !is_wanted(to, progress) {
                continue;
            }
            // The peer must not commit beyond what it is known to share.
            let commit: Index = progress.matched.min(self.log.committed);
            progress.sent_commit = commit;
            let heartbeat = self.compose(Kind::Heartbeat, to);
            heartbeat.commit = commit;
            heartbeat.context = context.clone();
        }
    }

    /// Commits what a quorum has, if it is of the own term (Raft, section 5.4.2). True if that is news.
    pub(super) fn maybe_commit(&mut self) -> bool {
        let (index, _) = self.tracker.committed_index();
        let own =
            if planted!(OldTermCommitted) { self.log.term(index).unwrap_or_default() } else { self.term };
        let advanced = self.log.maybe_commit(index, own);
        if advanced {
            self.tracker.progress.iter_mut().for_each(|(_, progress)| progress.knows_commit = false);
            self.answer_postponed_reads();
        }
        advanced
    }

    /// The rule of what counts as committed changed.
    pub fn recompute_commit(&mut self) {
        if self.role == Role::Leader && self.maybe_commit() && self.should_broadcast_commit() {
            self.broadcast_append();
        }
    }

    /// Whether peers are told of commits at once. Conf changes are never held back: applying them late keeps the
    /// old configuration alive.
    pub(super) fn should_broadcast_commit(&self) -> bool {
        !self.settings.skip_commit_broadcast || self.leadership.pending_conf_index > self.log.applied
    }
}
