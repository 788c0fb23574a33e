//! Slow work of a store, apart from everything that acknowledges: the checkpoint cycle and size checks.

mod checkpoint;
mod sizes;

use std::sync::Arc;
use std::time::Duration;

use crate::mailbox::{Address, Mailbox, Turn};
use crate::msg::PeerStatus;
use crate::shared::Shared;
use crate::time::Time;

use sizes::Sizes;

/// To the background worker.
pub(crate) enum BackgroundMsg {
    /// Peers of one raft worker, asked for by the size check.
    Statuses(Vec<PeerStatus>),
    /// Checkpoint now, then tell.
    Checkpoint(Box<dyn FnOnce() + Send>),
}

/// The background worker of a store.
pub(crate) struct Background {
    pub(super) shared: Arc<Shared>,
    pub(super) address: Address<BackgroundMsg>,
    mailbox: Mailbox<BackgroundMsg>,
    sizes: Sizes,
    next_checkpoint: Time,
    next_sizes: Time,
    /// How often the WAL's size is looked at.
    next_look: Time,
}

impl Background {
    pub(crate) fn new(
        shared: Arc<Shared>,
        address: Address<BackgroundMsg>,
        mailbox: Mailbox<BackgroundMsg>,
    ) -> Self {
        let sizes = Sizes::default();
        let soon = Time::default();
        Self { shared, address, mailbox, sizes, next_checkpoint: soon, next_sizes: soon, next_look: soon }
    }

    fn handle(&mut self, message: BackgroundMsg) {
        match message {
            BackgroundMsg::Statuses(statuses) => self.sizes.check(&self.shared, statuses),
            BackgroundMsg::Checkpoint(done) => {
                self.checkpoint();
                done();
            }
        }
    }
}

impl Turn for Background {
    fn name(&self) -> String {
        "background".into()
    }

    fn turn(&mut self, now: Time) -> bool {
        if self.shared.has_failed() {
            return false;
        }
        if self.next_checkpoint == Time::default() {
            self.next_checkpoint = now.plus_ms(self.shared.config.checkpoint_interval_ms);
        }
        if let Some(message) = self.mailbox.pop() {
            self.handle(message);
        }
        if now >= self.next_look {
            self.next_look = now.plus_ms(1_000);
            let full = self.shared.engine.log_bytes() >= self.shared.config.checkpoint_log_bytes;
            if full || now >= self.next_checkpoint {
                self.next_checkpoint = now.plus_ms(self.shared.config.checkpoint_interval_ms);
                self.checkpoint();
            }
        }
        if now >= self.next_sizes {
            self.next_sizes = now.plus_ms(self.shared.config.split_check_ms);
            self.sizes.ask(&self.shared, &self.address);
        }
        !self.mailbox.is_empty()
    }

    fn has_messages(&self) -> bool {
        !self.mailbox.is_empty()
    }

    fn deadline(&self) -> Time {
        self.next_look.min(self.next_sizes)
    }

    fn wait(&mut self, timeout: Duration) {
        self.mailbox.wait(timeout);
    }
}
