//! How much of the log a peer keeps. Truncation is local: every store has its own durably applied index.

use flotilla_raft::ProgressState;
use flotilla_region::{Index, PeerId};

use super::{Peer, Phase};
use crate::msg::LogTask;
use crate::state::LogId;
use crate::worker::Env;

/// Prefix bookkeeping. Invariant: base <= durable <= applied, and durable <= stable.
#[derive(Debug)]
pub(crate) struct LogGc {
    base: Index,
    durable: Index,
}

impl LogGc {
    pub(crate) fn new(base: Index) -> Self {
        Self { base, durable: base }
    }

    /// Of a log whose durable position is known.
    pub(crate) fn of(base: Index, durable: Index) -> Self {
        Self { base, durable }
    }

    /// Position up to which `data` is known to be durable.
    pub(crate) fn durable(&self) -> Index {
        self.durable
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
    /// `data` is durable up to `at`: the log below it is needed by followers only, and `keep_bytes` of it are enough for
    /// them.
    pub(crate) fn on_durable(&mut self, at: LogId, keep_bytes: u64, env: &mut Env) {
        if self.phase != Phase::Live || at.index <= self.gc.durable {
            return;
        }
        // What is applied ahead of the log is not in it yet.
        self.gc.durable = at.index.min(self.applied.index).min(self.node.stable());
        self.truncate_log(keep_bytes, env);
    }

    /// Drops the prefix that nobody needs: never past what is durably applied here, nor past what a follower lacks
    /// unless the log has become too long for one follower to hold it.
    fn truncate_log(&mut self, keep_bytes: u64, env: &mut Env) {
        let config = &env.shared.config;
        let last = self.node.last_index().0;
        let to = if self.is_leader() {
            let slowest = self.node.progress_iter().map(|(_, p)| p.matched.0).min().unwrap_or(0);
            let forced = |times: u64| {
                let by_bytes =
                    self.node.storage().index_before_last(config.log_force_bytes.saturating_mul(times));
                last.saturating_sub(config.log_force_entries.saturating_mul(times)).max(by_bytes.0)
            };
            let forced = forced_to(forced(1), || forced(2), self.snapshot_under_way());
            self.gc.durable.0.min(slowest.max(forced))
        } else {
            let keep = config.log_keep_entries.min(keep_bytes / self.node.storage().mean_entry_bytes());
            self.gc.durable.0.saturating_sub(keep)
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

    /// The lowest position of the snapshots that followers are being sent.
    fn snapshot_under_way(&self) -> Option<Index> {
        let under_way = self.node.progress_iter().filter(|(_, p)| p.state == ProgressState::Snapshot);
        under_way.map(|(_, p)| p.pending_snapshot).min()
    }

    /// Index up to which every living follower has the log, `but` one of them; `None` if there is none.
    pub(crate) fn known_to_living(&self, but: PeerId) -> Option<Index> {
        let me = self.me.id;
        let living = self.node.progress_iter().filter(|(id, p)| *id != me && *id != but && p.is_alive());
        living.map(|(_, p)| p.matched).min()
    }

    /// Drops entries from memory that can be read from `log`; those that a living follower lacks only if `needed_too`.
    /// Returns whether anything is left that may be dropped some time.
    pub(crate) fn shed_entries(&mut self, needed_too: bool) -> bool {
        let known = self.known_to_living(PeerId::ZERO).filter(|_| self.is_leader() && !needed_too);
        let stable = self.node.stable();
        self.node.storage_mut().evict(known.unwrap_or(stable).min(stable))
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

/// Up to where a log is cut though a follower lacks it, at the latest. What follows a snapshot under way its receiver needs
/// next: that is kept, up to twice the length.
fn forced_to(once: u64, twice: impl Fn() -> u64, under_way: Option<Index>) -> u64 {
    under_way.map_or(once, |snapshot| once.min(snapshot.0.max(twice())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_snapshot_under_way_is_kept_up_to_twice_the_length() {
        let forced = |under_way: Option<u64>| forced_to(900, || 800, under_way.map(Index));
        assert_eq!(forced(None), 900);
        assert_eq!(forced(Some(950)), 900, "not needed");
        assert_eq!(forced(Some(850)), 850);
        assert_eq!(forced(Some(300)), 800, "too much");
    }
}
