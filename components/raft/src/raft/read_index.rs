//! Linearizable reads without a log entry (Raft dissertation, section 6.4).

use super::Raft;
use crate::{
    config::ReadOnlyOption,
    message::{Message, MessageKind as Kind},
    reads::{ReadRequest, ReadState},
    storage::Storage,
    types::{Index, PeerId},
};

impl<S: Storage> Raft<S> {
    /// Takes a read request. Until the leader has committed in its own term, its commit index may lie behind what
    /// an earlier leader acknowledged, so reads wait; that holds for an only voter too.
    pub(super) fn on_read_index(&mut self, m: &mut Message) {
        let request = ReadRequest { from: m.from, context: std::mem::take(&mut m.context) };
        if self.has_committed_in_term() || planted!(ReadIndexBeforeOwnCommit) {
            self.confirm_read(request);
        } else {
            self.reads.postpone(request);
        }
    }

    fn confirm_read(&mut self, request: ReadRequest) {
        let commit = self.log.committed;
        if self.tracker.is_only_voter(self.id) || self.has_lease() {
            self.answer_read(commit, request);
            return;
        }
        let context = self.reads.enqueue(commit, request);
        self.broadcast_heartbeat_with(&context);
    }

    /// Whether nobody else can have become leader, as far as the clocks can be trusted. A transferee may override
    /// the voters' leases at any later time.
    fn has_lease(&self) -> bool {
        self.settings.read_only == ReadOnlyOption::LeaseBased
            && (planted!(LeaseThroughTransfer)
                || !self.leadership.is_lease_broken && self.leadership.transferee.is_zero())
    }

    /// Answers a read, here or at the peer that forwarded it.
    fn answer_read(&mut self, index: Index, request: ReadRequest) {
        let ReadRequest { from, context } = request;
        if from.is_zero() || from == self.id {
            self.reads.states.push(ReadState { index, context });
        } else {
            self.send(Message {
                kind: Kind::ReadIndexResponse,
                to: from,
                index,
                context,
                ..Message::default()
            });
            self.tell_commit_to_reader(from);
        }
    }

    /// A peer that waits for an index to be applied is told of the commit, even where broadcasts are left out.
    fn tell_commit_to_reader(&mut self, to: PeerId) {
        let committed = self.log.committed;
        let is_behind = self.tracker.progress.get_mut(to).is_some_and(|p| p.can_bump_commit(committed));
        if is_behind && !self.should_broadcast_commit() {
            self.send_append(to);
        }
    }

    /// Takes up the reads that waited for the first commit in this term.
    pub(super) fn answer_postponed_reads(&mut self) {
        if self.reads.is_empty() || !self.has_committed_in_term() {
            return;
        }
        for request in self.reads.take_postponed() {
            self.confirm_read(request);
        }
    }

    /// Answers the reads that a quorum has confirmed by now. Only leaders have any.
    pub(super) fn answer_confirmed_reads(&mut self) {
        while let Some((index, request)) = self.reads.pop_confirmed(self.id, &self.tracker.config.voters) {
            self.answer_read(index, request);
        }
    }
}
