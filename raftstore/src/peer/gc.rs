//! How much of the log a peer keeps. Truncation is local: every store has its own durably applied index.

use flotilla_region::Index;

use super::{Peer, Phase};
use crate::msg::LogTask;
use crate::state::LogId;
use crate::worker::Env;

/// Prefix bookkeeping. Invariant: base <= durable <= applied.
#[derive(Debug)]
pub(crate) struct LogGc {
    base: Index,
    durable: Index,
}

impl LogGc {
    pub(crate) fn new(base: Index) -> Self {
        Self { base, durable: base }
    }

    /// Position before the first entry.
    pub(crate) fn base(&self) -> Index {
        self.base
    }

    /// The log starts anew after an installed snapshot, which is durable.
    pub(crate) fn reset(&mut self, at: Index) {
        *self = Self::new(at);
    }
}

impl Peer {
    /// `data` is durable up to `at`: the log below it is needed by followers only.
    pub(crate) fn on_durable(&mut self, at: LogId, env: &mut Env) {
        if self.phase != Phase::Live || at.index <= self.gc.durable {
            return;
        }
        self.gc.durable = at.index.min(self.applied.index);
        self.truncate_log(env);
    }

    /// Drops the prefix that nobody needs: never past what is durably applied here, nor past what a follower lacks
    /// unless the log has become too long for one follower to hold it.
    fn truncate_log(&mut self, env: &mut Env) {
        let config = &env.shared.config;
        let last = self.node.last_index().0;
        let to = if self.is_leader() {
            let slowest = self.node.progress_iter().map(|(_, p)| p.matched.0).min().unwrap_or(0);
            let by_bytes = self.node.storage().index_before_last(config.log_force_bytes).0;
            let forced = last.saturating_sub(config.log_force_entries).max(by_bytes);
            self.gc.durable.0.min(slowest.max(forced))
        } else {
            self.gc.durable.0.saturating_sub(config.log_keep_entries)
        };
        if to <= self.gc.base.0 {
            return;
        }
        let Some((base, delete_from)) = self.node.storage_mut().truncate(Index(to)) else { return };
        self.gc.base = base.index;
        env.log(LogTask {
            region: self.id(),
            peer: self.me.id,
            incarnation: self.incarnation,
            base: Some(base),
            delete_from,
            ..LogTask::default()
        });
    }

    /// Drops entries from memory that can be read from `log`; those that a living follower lacks only if `needed_too`.
    /// Returns whether anything is left that may be dropped some time.
    pub(crate) fn shed_entries(&mut self, needed_too: bool) -> bool {
        let me = self.me.id;
        let lacking = self.node.progress_iter().filter(|(id, p)| *id != me && p.is_alive());
        let known = lacking.map(|(_, p)| p.matched).min().filter(|_| self.is_leader() && !needed_too);
        self.node.storage_mut().evict(known.unwrap_or(Index(u64::MAX)))
    }

    /// Reads entries after `known` into memory, the last `bytes_max` of them at most.
    pub(crate) fn warm(&mut self, known: Index, bytes_max: u64, env: &mut Env) {
        let log = self.node.storage_mut();
        log.warm(known, bytes_max);
        if log.list_cache() {
            env.cached.push_back(self.region.id);
        }
    }
}
