//! The active configuration, and what a leader knows about its members.

mod inflights;
mod meter;
mod progress;

pub use inflights::Inflights;
pub use meter::Meter;
pub use progress::{Progress, ProgressState};

use crate::{
    error::ConfChangeError,
    peer_set::PeerSet,
    quorum::{Acked, JointConfig, VoteResult, majority},
    types::{ConfState, Index, PeerId},
};

/// Membership of a group.
///
/// Invariants (checked by [`Configuration::check`]): learners vote in neither half; `learners_next` vote in the
/// outgoing half; without an outgoing half there are no `learners_next` and no `auto_leave`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Voters.
    pub voters: JointConfig,
    /// Learners.
    pub learners: PeerSet,
    /// Outgoing voters that become learners when the joint state is left.
    pub learners_next: PeerSet,
    /// Whether the core leaves the joint state by itself.
    pub auto_leave: bool,
}

impl Configuration {
    /// The configuration that `state` describes.
    pub fn from_conf_state(state: &ConfState) -> Self {
        let set = |ids: &[PeerId]| ids.iter().copied().collect();
        Self {
            voters: JointConfig { incoming: set(&state.voters), outgoing: set(&state.voters_outgoing) },
            learners: set(&state.learners),
            learners_next: set(&state.learners_next),
            auto_leave: state.auto_leave,
        }
    }

    /// As it is stored, lists ascending.
    pub fn to_conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.incoming.to_vec(),
            voters_outgoing: self.voters.outgoing.to_vec(),
            learners: self.learners.to_vec(),
            learners_next: self.learners_next.to_vec(),
            auto_leave: self.auto_leave,
        }
    }

    /// Everybody that a leader sends to.
    pub fn members(&self) -> PeerSet {
        let voters = self.voters.incoming.iter().chain(self.voters.outgoing.iter());
        voters.chain(self.learners.iter()).collect()
    }

    /// Checks the invariants of the type.
    ///
    /// # Errors
    /// `Inconsistent`.
    pub fn check(&self) -> Result<(), ConfChangeError> {
        let disjoint = self.learners.iter().all(|id| !self.voters.contains(id));
        let staged = self.learners_next.iter().all(|id| self.voters.outgoing.contains(id));
        let staged_are_no_voters = self.learners_next.iter().all(|id| !self.voters.incoming.contains(id));
        let plain = self.voters.is_joint() || (self.learners_next.is_empty() && !self.auto_leave);
        let has_voters = !self.voters.incoming.is_empty() || *self == Self::default();
        let ids_are_real = self.members().iter().all(|id| !id.is_zero() && !id.is_storage_thread());
        if disjoint && staged && staged_are_no_voters && plain && has_voters && ids_are_real {
            Ok(())
        } else {
            Err(ConfChangeError::Inconsistent)
        }
    }
}

/// Progress by peer, ascending; a handful of entries, so a scan beats a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgressMap(Vec<(PeerId, Progress)>);

impl ProgressMap {
    /// Progress of `id`.
    pub fn get(&self, id: PeerId) -> Option<&Progress> {
        self.0.iter().find(|(peer, _)| *peer == id).map(|(_, progress)| progress)
    }

    /// Progress of `id`, to be changed.
    pub fn get_mut(&mut self, id: PeerId) -> Option<&mut Progress> {
        self.0.iter_mut().find(|(peer, _)| *peer == id).map(|(_, progress)| progress)
    }

    /// Whether `id` is a member.
    pub fn contains(&self, id: PeerId) -> bool {
        self.get(id).is_some()
    }

    /// Position of `id` for [`Self::slot_mut`], valid until the next insert or remove.
    pub(crate) fn slot(&self, id: PeerId) -> Option<usize> {
        self.0.iter().position(|(peer, _)| *peer == id)
    }

    /// The peer at a position below [`Self::len`].
    pub(crate) fn slot_mut(&mut self, slot: usize) -> (PeerId, &mut Progress) {
        let (id, progress) = &mut self.0[slot];
        (*id, progress)
    }

    /// Number of peers.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no peers.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds `id`, or replaces its progress.
    pub fn insert(&mut self, id: PeerId, progress: Progress) {
        match self.0.binary_search_by_key(&id, |(peer, _)| *peer) {
            Ok(at) => self.0[at].1 = progress,
            Err(at) => {
                self.0.reserve_exact(1);
                self.0.insert(at, (id, progress));
            }
        }
    }

    /// Removes `id`.
    pub fn remove(&mut self, id: PeerId) {
        self.0.retain(|(peer, _)| *peer != id);
    }

    /// All peers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, &Progress)> {
        self.0.iter().map(|(id, progress)| (*id, progress))
    }

    /// All peers, ascending, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (PeerId, &mut Progress)> {
        self.0.iter_mut().map(|(id, progress)| (*id, progress))
    }
}

/// Configuration, progress of its members, and the votes of the election under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracker {
    /// Active configuration.
    pub config: Configuration,
    /// Progress of every member.
    pub progress: ProgressMap,
    /// Whether an index counts only once two commit groups have it.
    pub group_commit: bool,
    votes: Vec<(PeerId, bool)>,
    inflight_messages_max: usize,
    inflight_bytes_max: u64,
}

impl Tracker {
    /// A tracker of nobody. Limits of the inflight windows: number of appends, bytes (0 = no limit).
    pub fn new(inflight_messages_max: usize, inflight_bytes_max: u64) -> Self {
        Self { inflight_messages_max, inflight_bytes_max, ..Self::default() }
    }

    /// A tracker of nobody with the same limits.
    pub(crate) fn emptied(&self) -> Self {
        let group_commit = self.group_commit;
        Self { group_commit, ..Self::new(self.inflight_messages_max, self.inflight_bytes_max) }
    }

    /// A window for a new peer.
    pub fn new_inflights(&self) -> Inflights {
        Inflights::new(self.inflight_messages_max, self.inflight_bytes_max)
    }

    /// Whether `id` is the only voter.
    pub fn is_only_voter(&self, id: PeerId) -> bool {
        self.config.voters.incoming.as_slice() == [id] && self.config.voters.outgoing.is_empty()
    }

    /// Highest index that a quorum has, and whether the commit group rule decided it.
    pub fn committed_index(&self) -> (Index, bool) {
        if planted!(LearnerInQuorum) {
            let mut matched: Vec<Index> =
                self.progress.iter().map(|(_, progress)| progress.matched).collect();
            matched.sort_unstable_by_key(|index| std::cmp::Reverse(*index));
            return (matched[majority(self.config.voters.ids().len()) - 1], false);
        }
        if self.group_commit {
            self.config.voters.group_committed_index(|id| {
                let progress = self.progress.get(id)?;
                Some(Acked { index: progress.matched, group: progress.commit_group })
            })
        } else {
            (
                self.config
                    .voters
                    .committed_index(|id| self.progress.get(id).map(|progress| progress.matched)),
                false,
            )
        }
    }

    /// Whether a quorum was heard from since the last check.
    pub fn is_quorum_active(&self) -> bool {
        let active = |id| self.progress.get(id).map(|progress| progress.recent_active);
        self.config.voters.vote_result(active) == VoteResult::Won
    }

    /// Forgets the votes of the last election.
    pub fn reset_votes(&mut self) {
        self.votes = Vec::new();
    }

    /// Whether no election is, or was, under way.
    pub(crate) fn has_no_votes(&self) -> bool {
        self.votes.is_empty()
    }

    /// Takes the vote of `id`; only its first one counts.
    pub fn record_vote(&mut self, id: PeerId, granted: bool) {
        if !self.has_vote_of(id) {
            self.votes.push((id, granted));
        }
    }

    /// Whether `id` has answered in the election under way.
    pub fn has_vote_of(&self, id: PeerId) -> bool {
        self.votes.iter().any(|(voter, _)| *voter == id)
    }

    /// How the election stands; votes of peers that are no voters now do not count.
    pub fn vote_result(&self) -> VoteResult {
        let granted = self.votes.iter().filter(|(_, granted)| *granted).count();
        if planted!(StrangersVoteCounted) && granted >= majority(self.config.voters.ids().len()) {
            return VoteResult::Won;
        }
        let vote = |id| self.votes.iter().find(|(voter, _)| *voter == id).map(|(_, granted)| *granted);
        self.config.voters.vote_result(vote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_kept_by_peer_in_ascending_order() {
        let tracker = Tracker::new(4, 0);
        let progress = |next| Progress::new(Index(next), tracker.new_inflights(), false);
        let mut map = ProgressMap::default();
        assert!(map.is_empty());
        for (peer, next) in [(5, 1), (2, 2), (9, 3), (5, 4)] {
            map.insert(PeerId(peer), progress(next));
        }
        let listed: Vec<_> = map.iter().map(|(id, progress)| (id.0, progress.next.0)).collect();
        assert_eq!(listed, [(2, 2), (5, 4), (9, 3)], "the second progress of 5 replaced the first");
        map.remove(PeerId(2));
        assert_eq!((map.len(), map.slot(PeerId(9)), map.slot(PeerId(2))), (2, Some(1), None));
    }
}
