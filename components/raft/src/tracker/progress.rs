//! What a leader knows about one peer.

use super::inflights::Inflights;
use crate::types::Index;

/// How a leader sends to a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressState {
    /// The end of the peer's log is unknown: one append at a time, then wait.
    #[default]
    Probe,
    /// The peer follows: appends are pipelined within the inflight window.
    Replicate,
    /// The peer was sent a snapshot: nothing else is sent.
    Snapshot,
}

/// What a leader knows about one peer, and what it sent to it.
///
/// Followers keep one per member too, but use only membership and `is_learner`.
///
/// Invariant: `matched < next`; in `Replicate`, entries of `(matched, next)` are under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Highest index known to be durable on the peer.
    pub matched: Index,
    /// First index to send next.
    pub next: Index,
    /// Highest commit index sent; lowered when the message may have been lost.
    pub sent_commit: Index,
    /// Index of the snapshot under way; 0 = none.
    pub pending_snapshot: Index,
    /// The peer asked for a snapshot at least this new; 0 = it did not.
    pub pending_request_snapshot: Index,
    /// Commit group; 0 = none.
    pub commit_group: u64,
    /// Unacknowledged appends.
    pub inflights: Inflights,
    /// How the leader sends.
    pub state: ProgressState,
    /// Whether the peer was heard from since the last quorum check.
    pub recent_active: bool,
    /// Whether it was heard from between the last two quorum checks.
    pub(crate) was_active: bool,
    /// Whether it has said that it knows of all commits; only with `skip_commit_broadcast`.
    pub(crate) knows_commit: bool,
    /// Whether sending pauses until the next response.
    pub is_flow_paused: bool,
    /// Whether the peer is a learner.
    pub is_learner: bool,
    /// Whether an append is due at the next Ready (`batch_append`).
    pub(crate) append_due: bool,
    /// Whether entries for the peer wait for the meter, since something was last tried.
    pub(crate) is_held_back: bool,
}

impl Progress {
    /// A peer of which nothing is known, to be probed from `next`.
    pub fn new(next: Index, inflights: Inflights, is_learner: bool) -> Self {
        Self {
            matched: Index::ZERO,
            next,
            sent_commit: Index::ZERO,
            pending_snapshot: Index::ZERO,
            pending_request_snapshot: Index::ZERO,
            commit_group: 0,
            inflights,
            state: ProgressState::Probe,
            recent_active: false,
            was_active: false,
            knows_commit: false,
            is_flow_paused: false,
            is_learner,
            append_due: false,
            is_held_back: false,
        }
    }

    /// Whether the peer was heard from lately: since the last quorum check, or in the time before it. Just after a check
    /// nobody is `recent_active`, which says nothing about anybody.
    pub fn is_alive(&self) -> bool {
        self.recent_active || self.was_active
    }

    /// Whether a heartbeat tells the peer nothing, and its answer nothing but that it lives: it has the log up to `last`, and
    /// has said that it knows what of it is committed.
    pub(crate) fn knows_all(&self, last: Index) -> bool {
        self.knows_commit
            && self.state == ProgressState::Replicate
            && self.matched == last
            && self.pending_request_snapshot.is_zero()
    }

    /// A quorum check begins a new time of listening.
    pub(crate) fn listen_anew(&mut self) {
        self.was_active = std::mem::replace(&mut self.recent_active, false);
    }

    fn enter(&mut self, state: ProgressState) {
        if self.state == ProgressState::Snapshot {
            self.pending_request_snapshot = Index::ZERO;
        }
        self.is_flow_paused = false;
        self.is_held_back = false;
        self.pending_snapshot = Index::ZERO;
        self.state = state;
        self.inflights.reset();
    }

    /// Starts probing: after what is known to match, or after the snapshot that was under way.
    pub fn become_probe(&mut self) {
        let after_snapshot = match self.state {
            ProgressState::Snapshot => self.pending_snapshot.next(),
            _ => Index::ZERO,
        };
        self.enter(ProgressState::Probe);
        self.next = self.matched.next().max(after_snapshot);
        self.lower_sent_commit();
    }

    /// Starts pipelining after what is known to match.
    pub fn become_replicate(&mut self) {
        self.enter(ProgressState::Replicate);
        self.next = self.matched.next();
        self.lower_sent_commit();
    }

    /// A snapshot at `index` was sent.
    pub fn become_snapshot(&mut self, index: Index) {
        let request = self.pending_request_snapshot;
        self.enter(ProgressState::Snapshot);
        self.pending_request_snapshot = request;
        self.pending_snapshot = index;
        self.next = index.next();
        self.sent_commit = index;
    }

    fn lower_sent_commit(&mut self) {
        self.sent_commit = self.sent_commit.min(self.next.prev());
    }

    /// Records that an append with `entries` entries of `bytes` payload bytes was sent from `next`.
    pub fn sent_entries(&mut self, entries: usize, bytes: u64) {
        match self.state {
            ProgressState::Replicate => {
                if entries > 0 {
                    self.next = Index(self.next.0 + entries as u64);
                    self.inflights.add(self.next.prev(), bytes);
                }
                self.is_flow_paused = self.inflights.is_full();
            }
            ProgressState::Probe => self.is_flow_paused |= entries > 0,
            ProgressState::Snapshot => {
                unreachable!("nothing but heartbeats is sent while a snapshot is under way")
            }
        }
    }

    /// Whether entries must wait for what is under way to the peer's destination, of whatever group. The first append to a
    /// peer whose log is not known goes in any case.
    pub(crate) fn must_wait(&self) -> bool {
        self.state == ProgressState::Replicate
            && self.inflights.meter().is_some_and(|meter| meter.is_closed())
    }

    /// Entries wait. Whether an append without any is worth sending: because it tells of commits, or once, because its
    /// answer tells whether what is under way got lost.
    pub(crate) fn hold_back(&mut self, commit: Index) -> bool {
        let is_first = !std::mem::replace(&mut self.is_held_back, true);
        self.can_bump_commit(commit) || (is_first && !self.inflights.is_empty())
    }

    /// Whether entries for the peer wait for its meter ([`crate::RawNode::set_meter`]).
    pub fn is_held_back(&self) -> bool {
        self.is_held_back
    }

    /// Whether sending `commit` may tell the peer something: not sent yet, and the last one sent did not already
    /// cover everything the peer has.
    pub fn can_bump_commit(&self, commit: Index) -> bool {
        commit > self.sent_commit && self.sent_commit < self.next.prev()
    }

    /// Takes an acknowledgement of `index`; false if it is old news.
    pub fn maybe_update(&mut self, index: Index) -> bool {
        if index <= self.matched {
            return false;
        }
        self.matched = index;
        self.next = self.next.max(index.next());
        self.is_flow_paused = false;
        true
    }

    /// Takes a refusal of an append after `rejected`, with `hint` where the logs may still agree; false if stale.
    pub fn maybe_decrease(&mut self, rejected: Index, hint: Index) -> bool {
        if self.state == ProgressState::Replicate {
            if rejected <= self.matched {
                return false;
            }
            self.next = self.matched.next();
        } else {
            if self.next.prev() != rejected {
                return false;
            }
            let after_hint = Index(hint.0.saturating_add(1));
            self.next = rejected.min(after_hint).max(self.matched.next());
            self.is_flow_paused = false;
        }
        self.lower_sent_commit();
        true
    }

    /// Takes a request for a snapshot at least as new as `request`; false if it is outdated.
    pub fn maybe_request_snapshot(&mut self, request: Index) -> bool {
        if request < self.matched {
            return false;
        }
        if self.pending_request_snapshot.is_zero() {
            self.pending_request_snapshot = request;
        }
        self.is_flow_paused = false;
        true
    }

    /// Whether no append may be sent now.
    pub fn is_paused(&self) -> bool {
        self.state == ProgressState::Snapshot || self.is_flow_paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(state: ProgressState, matched: u64, next: u64) -> Progress {
        let mut progress = Progress::new(Index(next), Inflights::new(4, 0), false);
        progress.state = state;
        progress.matched = Index(matched);
        progress
    }

    use ProgressState::{Probe, Replicate, Snapshot};

    #[test]
    fn paused_by_flag_or_always_while_a_snapshot_is_under_way() {
        for (state, flag, expected) in [
            (Probe, false, false),
            (Probe, true, true),
            (Replicate, false, false),
            (Replicate, true, true),
            (Snapshot, false, true),
            (Snapshot, true, true),
        ] {
            let mut pr = progress(state, 0, 1);
            pr.is_flow_paused = flag;
            assert_eq!(pr.is_paused(), expected, "{state:?} with flag {flag}");
        }
    }

    #[test]
    fn acknowledgement_and_role_change_clear_the_pause() {
        let mut pr = progress(Probe, 1, 5);
        pr.is_flow_paused = true;
        assert!(pr.maybe_update(Index(3)));
        assert!(!pr.is_flow_paused);
        pr.is_flow_paused = true;
        pr.become_replicate();
        assert!(!pr.is_flow_paused);
    }

    #[test]
    fn probing_restarts_after_the_match_or_after_the_snapshot() {
        for (state, pending, next) in [(Replicate, 0, 2), (Snapshot, 10, 11), (Snapshot, 0, 2), (Probe, 0, 2)]
        {
            let mut pr = progress(state, 1, 5);
            pr.pending_snapshot = Index(pending);
            pr.inflights.add(Index(4), 1);
            pr.become_probe();
            assert_eq!((pr.state, pr.matched, pr.next), (Probe, Index(1), Index(next)), "from {state:?}");
            assert!(pr.inflights.is_empty());
        }
    }

    #[test]
    fn probing_and_refusals_lower_the_sent_commit() {
        let mut pr = progress(Replicate, 3, 9);
        pr.sent_commit = Index(8);
        pr.become_probe();
        assert_eq!(pr.sent_commit, Index(3), "an append that carried it may be lost");
        let mut pr = progress(Replicate, 3, 9);
        pr.sent_commit = Index(8);
        assert!(pr.maybe_decrease(Index(8), Index(5)));
        assert_eq!((pr.next, pr.sent_commit), (Index(4), Index(3)));
        let mut pr = progress(Probe, 3, 9);
        pr.sent_commit = Index(8);
        assert!(pr.maybe_decrease(Index(8), Index(5)));
        assert_eq!((pr.next, pr.sent_commit), (Index(6), Index(5)));
    }

    #[test]
    fn a_snapshot_moves_next_and_sent_commit_and_clears_the_window() {
        let mut pr = progress(Replicate, 1, 5);
        pr.inflights.add(Index(4), 1);
        pr.become_snapshot(Index(10));
        assert_eq!((pr.state, pr.pending_snapshot, pr.next), (Snapshot, Index(10), Index(11)));
        assert_eq!(pr.sent_commit, Index(10));
        assert!(pr.inflights.is_empty());
        assert!(!pr.can_bump_commit(Index(20)), "nothing to notify right after recovery");
    }

    #[test]
    fn updates_never_move_backwards() {
        for (index, matched, next, taken) in
            [(2, 3, 5, false), (3, 3, 5, false), (4, 4, 5, true), (5, 5, 6, true)]
        {
            let mut pr = progress(Replicate, 3, 5);
            assert_eq!(pr.maybe_update(Index(index)), taken);
            assert_eq!((pr.matched, pr.next), (Index(matched), Index(next)), "ack of {index}");
        }
    }

    #[test]
    fn refusals_move_next_back_unless_stale() {
        for (state, matched, next, rejected, hint, expected, new_next) in [
            (Replicate, 5, 10, 5, 5, false, 10),
            (Replicate, 5, 10, 4, 4, false, 10),
            (Replicate, 5, 10, 9, 9, true, 6),
            (Probe, 0, 10, 5, 5, false, 10),
            (Probe, 0, 10, 9, 9, true, 9),
            (Probe, 0, 10, 9, 2, true, 3),
            (Probe, 0, 10, 9, 0, true, 1),
            (Probe, 4, 10, 9, 2, true, 5),
            (Probe, 0, 10, 9, u64::MAX, true, 9),
        ] {
            let mut pr = progress(state, matched, next);
            pr.is_flow_paused = true;
            let taken = pr.maybe_decrease(Index(rejected), Index(hint));
            assert_eq!(
                (taken, pr.next),
                (expected, Index(new_next)),
                "{state:?} {matched} {next} {rejected} {hint}"
            );
            if taken && state == Probe {
                assert!(!pr.is_flow_paused);
            }
        }
    }

    #[test]
    fn an_empty_probe_does_not_pause_but_an_append_does() {
        let mut pr = progress(Probe, 0, 5);
        pr.sent_entries(0, 0);
        assert!(!pr.is_paused());
        pr.sent_entries(2, 10);
        assert!(pr.is_paused());
        assert_eq!(pr.next, Index(5), "probing does not advance");
    }

    #[test]
    fn the_append_that_fills_the_window_pauses() {
        let mut pr = progress(Replicate, 0, 1);
        for _ in 0..3 {
            pr.sent_entries(2, 1);
            assert!(!pr.is_paused());
        }
        pr.sent_entries(1, 1);
        assert!(pr.is_paused());
        assert_eq!(pr.next, Index(8));
    }

    #[test]
    fn a_commit_is_worth_sending_once_and_only_below_what_was_sent() {
        let mut pr = progress(Replicate, 5, 8);
        pr.sent_commit = Index(4);
        assert!(pr.can_bump_commit(Index(5)));
        assert!(!pr.can_bump_commit(Index(4)));
        pr.sent_commit = Index(7);
        assert!(!pr.can_bump_commit(Index(9)), "the peer already knows that all it was sent is committed");
    }

    #[test]
    fn a_snapshot_request_outlives_the_sending_but_not_the_snapshot() {
        let mut pr = progress(Replicate, 5, 8);
        assert!(pr.maybe_request_snapshot(Index(5)));
        pr.become_probe();
        assert_eq!(pr.pending_request_snapshot, Index(5));
        pr.become_snapshot(Index(9));
        assert_eq!(pr.pending_request_snapshot, Index(5));
        pr.become_probe();
        assert_eq!(pr.pending_request_snapshot, Index::ZERO);
    }

    #[test]
    fn a_snapshot_request_below_the_match_is_outdated() {
        let mut pr = progress(Replicate, 5, 8);
        pr.is_flow_paused = true;
        assert!(!pr.maybe_request_snapshot(Index(4)));
        assert_eq!((pr.pending_request_snapshot, pr.is_flow_paused), (Index::ZERO, true));
    }
}
