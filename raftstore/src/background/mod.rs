//! Slow work of a store, apart from everything that acknowledges: the checkpoint cycle, checks of sizes and load.

mod checkpoint;
mod digest;
mod load;
mod sizes;

use std::sync::Arc;
use std::time::Duration;

use crate::admin::check::DigestTask;
use crate::mailbox::{Mailbox, Turn};
use crate::msg::PeerStatus;
use crate::shared::{Counters, Shared};
use crate::time::Time;

use digest::Digests;
use load::LoadWatch;
use sizes::Sizes;

/// To the background worker.
pub(crate) enum BackgroundMsg {
    /// Peers of one raft worker, asked for by the size check.
    Statuses(Vec<PeerStatus>),
    /// Hash what a region holds.
    Digest(DigestTask),
    /// Checkpoint now, then tell.
    Checkpoint(Box<dyn FnOnce() + Send>),
}

/// The background worker of a store.
pub(crate) struct Background {
    pub(super) shared: Arc<Shared>,
    mailbox: Mailbox<BackgroundMsg>,
    sizes: Sizes,
    digests: Digests,
    load: LoadWatch,
    next_load: Time,
    next_checkpoint: Time,
    /// When `log` is flushed, after a checkpoint.
    flush_log_at: Option<Time>,
    /// Since the last turn.
    has_flushed_data: bool,
    next_sizes: Time,
    /// How often the WAL's size is looked at.
    next_look: Time,
}

impl Background {
    pub(crate) fn new(shared: Arc<Shared>, mailbox: Mailbox<BackgroundMsg>) -> Self {
        let (sizes, digests, soon) = (Sizes::default(), Digests::default(), Time::default());
        Self {
            shared,
            mailbox,
            sizes,
            digests,
            load: LoadWatch::default(),
            next_load: soon,
            next_checkpoint: soon,
            flush_log_at: None,
            has_flushed_data: false,
            next_sizes: soon,
            next_look: soon,
        }
    }

    fn handle(&mut self, message: BackgroundMsg, now: Time) {
        match message {
            BackgroundMsg::Statuses(statuses) => {
                self.digests.learn(&statuses);
                self.sizes.check(&self.shared, statuses, now);
            }
            BackgroundMsg::Digest(task) => self.digests.push(task),
            BackgroundMsg::Checkpoint(done) => {
                self.checkpoint(true, now);
                self.flush_log();
                done();
            }
        }
    }

    /// Damage in a file that compactions have to read stops them all, for good. The regions go on being served, ever more
    /// slowly; only somebody who has the store drained, or wipes its disk, can help.
    fn look_for_damage(&self) {
        if let Some(why) = self.shared.engine.compaction_damage() {
            tracing::error!(%why, "compaction meets damage again and again: drain this store and replace its disk");
            Counters::add(&self.shared.counters.compactions_damaged, 1);
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
        self.plan_log_flush(now);
        if let Some(message) = self.mailbox.pop() {
            self.handle(message, now);
        }
        if now >= self.next_look {
            let full = self.is_log_full(now);
            if !self.is_in_checkpoint() && (full || now >= self.next_checkpoint) {
                self.next_checkpoint = now.plus_ms(self.shared.config.checkpoint_interval_ms);
                self.checkpoint(false, now);
                self.look_for_damage();
            }
        }
        if self.flush_log_at.is_some_and(|at| now >= at) {
            self.flush_log();
        }
        self.digests.work(&self.shared);
        self.digests.maybe_ask(&self.shared, now);
        if now >= self.next_load {
            self.next_load = now.plus_ms(self.shared.config.load_interval_ms);
            self.load.look(&self.shared, now);
        }
        if now >= self.next_sizes {
            self.next_sizes = now.plus_ms(self.shared.config.split_check_ms);
            self.sizes.ask(&self.shared);
        }
        !self.mailbox.is_empty() || self.digests.is_busy() || self.has_flushed_data
    }

    fn has_messages(&self) -> bool {
        !self.mailbox.is_empty()
    }

    fn held(&self) -> usize {
        self.digests.held()
    }

    fn deadline(&self) -> Time {
        let next = self.next_look.min(self.next_sizes).min(self.next_load);
        self.flush_log_at.map_or(next, |at| at.min(next))
    }

    fn wait(&mut self, timeout: Duration) {
        self.mailbox.wait(timeout);
    }
}
