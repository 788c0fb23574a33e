//! Leadership transfer (Raft dissertation, section 3.10).

use super::Raft;
use crate::{
    message::{Message, MessageKind as Kind},
    storage::Storage,
    types::{PeerId, Role},
};

impl<S: Storage> Raft<S> {
    /// Starts a transfer to `target`, replacing another one; asking again for the same target does not extend it.
    pub(super) fn on_transfer_leader(&mut self, target: PeerId) {
        let Some(progress) = self.tracker.progress.get(target) else { return };
        if progress.is_learner || self.leadership.transferee == target {
            return;
        }
        let is_up_to_date = progress.matched == self.log.last_index();
        self.abort_transfer();
        if target == self.id {
            return;
        }
        // The transfer has one election timeout to succeed.
        self.timers.election_elapsed = 0;
        self.leadership.transferee = target;
        if is_up_to_date {
            self.send_timeout_now(target);
        } else {
            self.send_append(target);
        }
    }

    pub(super) fn abort_transfer(&mut self) {
        self.leadership.transferee = PeerId::ZERO;
    }

    /// Tells the target to campaign once it has the whole log.
    pub(super) fn maybe_finish_transfer(&mut self, from: PeerId) {
        if self.role != Role::Leader || from != self.leadership.transferee {
            return;
        }
        let last_index = self.log.last_index();
        if self.tracker.progress.get(from).is_some_and(|progress| progress.matched == last_index) {
            self.send_timeout_now(from);
        }
    }

    fn send_timeout_now(&mut self, to: PeerId) {
        self.leadership.is_lease_broken = true;
        self.send(Message { kind: Kind::TimeoutNow, to, ..Message::default() });
    }
}
