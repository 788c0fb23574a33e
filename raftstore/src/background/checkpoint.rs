//! The checkpoint cycle (rule W9): flush `data`, publish what is durable, let raft workers drop log prefixes, flush
//! `log` so that its WAL files can go. One owner, so that no other flush decides what is durable when.

use std::collections::BTreeMap;

use flotilla_region::{PeerId, RegionId};

use super::Background;
use crate::msg::RaftMsg;
use crate::shared::{Counters, worker_of};
use crate::state::LogId;
use crate::time::Time;

/// So long after the flush of `data`, `log` is flushed: what raft workers drop until then never becomes a file.
const FLUSH_LOG_AFTER_MS: u64 = 300;

/// Between two looks at how full `log` is, and when it is half full.
const LOOK_MS: u64 = 1_000;
const LOOK_FILLING_MS: u64 = 100;

/// Positions in one message: a raft worker has a bounded bite of work in a turn.
const POSITIONS_MAX: usize = 1_024;
/// Of a store without news `log` is flushed when it has this fraction of the bytes that start a checkpoint.
const QUIET_LOG_DIVISOR: u64 = 64;

impl Background {
    /// One cycle. The positions are taken before the flush begins, so every write they stand for had returned. Whoever asked
    /// for it has written something that may have no position.
    pub(super) fn checkpoint(&mut self, is_asked: bool, now: Time) {
        let dirty: BTreeMap<(RegionId, PeerId), LogId> = std::mem::take(&mut *self.shared.dirty.lock());
        if dirty.is_empty() && !is_asked {
            // Votes and promises: nothing waits for them to become a file, but they are in memory until then.
            if self.shared.engine.log_bytes() >= self.shared.config.checkpoint_log_bytes / QUIET_LOG_DIVISOR {
                self.flush_log_at = Some(now);
            }
            return;
        }
        let flushed = if planted!(TruncatedTooFar) { Ok(()) } else { self.shared.engine.flush() };
        if let Err(error) = flushed {
            return self.shared.fail(&error.into());
        }
        let keep_bytes = self.shared.config.log_keep_bytes / dirty.len().max(1) as u64;
        let workers = &self.shared.links.raft;
        let mut lists: Vec<Vec<(RegionId, PeerId, LogId)>> = vec![Vec::new(); workers.len()];
        for ((region, peer), at) in dirty {
            lists[worker_of(region, workers.len())].push((region, peer, at));
        }
        for (worker, positions) in workers.iter().zip(lists) {
            for positions in positions.chunks(POSITIONS_MAX) {
                worker.send(RaftMsg::Durable { positions: positions.to_vec(), keep_bytes });
            }
        }
        self.has_flushed_data = true;
    }

    /// In the turn after the flush of `data`, which may have taken longer than what is waited for now.
    pub(super) fn plan_log_flush(&mut self, now: Time) {
        if std::mem::take(&mut self.has_flushed_data) {
            self.flush_log_at = Some(now.plus_ms(FLUSH_LOG_AFTER_MS));
        }
    }

    /// Whether a cycle is under way.
    pub(super) fn is_in_checkpoint(&self) -> bool {
        self.has_flushed_data || self.flush_log_at.is_some()
    }

    /// Looks whether `log` is full, and plans the next look: from half on it may be so within a second.
    pub(super) fn is_log_full(&mut self, now: Time) -> bool {
        let (bytes, bytes_max) = (self.shared.engine.log_bytes(), self.shared.config.checkpoint_log_bytes);
        self.next_look = now.plus_ms(if bytes >= bytes_max / 2 { LOOK_FILLING_MS } else { LOOK_MS });
        bytes >= bytes_max
    }

    /// The cycle's end.
    pub(super) fn flush_log(&mut self) {
        if !self.is_in_checkpoint() {
            return;
        }
        (self.has_flushed_data, self.flush_log_at) = (false, None);
        if let Err(error) = self.shared.engine.log_flush() {
            return self.shared.fail(&error.into());
        }
        Counters::add(&self.shared.counters.checkpoints, 1);
    }
}
