//! Majorities: which index a set of voters has acknowledged, and how a vote stands.
//!
//! A [`JointConfig`] is two majorities that must both agree (Raft dissertation, section 4.3). The rules for edge
//! cases (an empty half never objects) and for commit groups follow etcd-io/raft and tikv/raft-rs.

use crate::{
    peer_set::PeerSet,
    types::{Index, PeerId},
};

/// The acknowledged index of an empty configuration: it never holds anything back.
pub const INDEX_INFINITE: Index = Index(u64::MAX);

/// Configurations up to this size are counted without a heap allocation.
const STACK_VOTERS: usize = 9;

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// Neither won nor lost yet.
    Pending,
    /// A quorum said no, so that yes cannot win any more.
    Lost,
    /// A quorum said yes.
    Won,
}

/// What a voter acknowledged, and the commit group it belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acked {
    /// Highest acknowledged index.
    pub index: Index,
    /// Commit group; 0 = in none.
    pub group: u64,
}

/// Smallest number of voters that is a majority of `voters`.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Runs `f` on a zeroed scratch slice of `len` slots, on the stack for ordinary configurations.
fn with_scratch<T: Copy + Default, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    if len <= STACK_VOTERS {
        f(&mut [T::default(); STACK_VOTERS][..len])
    } else {
        f(&mut vec![T::default(); len])
    }
}

/// Highest index that a majority of `voters` acknowledged; a voter without information counts as 0.
pub fn committed_index(voters: &PeerSet, acked: impl Fn(PeerId) -> Option<Index>) -> Index {
    if voters.is_empty() {
        return INDEX_INFINITE;
    }
    with_scratch(voters.len(), |slots: &mut [Index]| {
        for (slot, id) in slots.iter_mut().zip(voters.iter()) {
            *slot = acked(id).unwrap_or_default();
        }
        slots.sort_unstable();
        slots[slots.len() - majority(slots.len())]
    })
}

/// Like [`committed_index`], but an index counts only once two different commit groups have it; the flag tells
/// whether two groups were found (raft-rs, group commit).
///
/// If every voter is in the same group the plain majority decides; if some voter is in no group and no second
/// group exists, only what all voters have counts.
pub fn group_committed_index(voters: &PeerSet, acked: impl Fn(PeerId) -> Option<Acked>) -> (Index, bool) {
    if voters.is_empty() {
        return (INDEX_INFINITE, true);
    }
    with_scratch(voters.len(), |slots: &mut [Acked]| {
        for (slot, id) in slots.iter_mut().zip(voters.iter()) {
            *slot = acked(id).unwrap_or_default();
        }
        slots.sort_by_key(|slot| std::cmp::Reverse(slot.index));
        let quorum = slots[majority(slots.len()) - 1];
        let mut first_group = quorum.group;
        let mut all_grouped = true;
        for slot in slots.iter() {
            if slot.group == 0 {
                all_grouped = false;
            } else if first_group == 0 {
                first_group = slot.group;
            } else if first_group != slot.group {
                return (slot.index.min(quorum.index), true);
            }
        }
        let lowest = slots[slots.len() - 1].index;
        (if all_grouped { quorum.index } else { lowest }, false)
    })
}

/// How a vote among `voters` stands; `votes` is `None` for who has not answered.
pub fn vote_result(voters: &PeerSet, votes: impl Fn(PeerId) -> Option<bool>) -> VoteResult {
    if voters.is_empty() {
        return VoteResult::Won;
    }
    let (mut yes, mut missing) = (0, 0);
    for id in voters.iter() {
        match votes(id) {
            Some(true) => yes += 1,
            Some(false) => {}
            None => missing += 1,
        }
    }
    let needed = majority(voters.len());
    if yes >= needed {
        VoteResult::Won
    } else if yes + missing >= needed {
        VoteResult::Pending
    } else {
        VoteResult::Lost
    }
}

/// Voters of the incoming configuration, and of the outgoing one while a joint change is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JointConfig {
    /// Voters of the configuration to come, or of the only one.
    pub incoming: PeerSet,
    /// Voters of the configuration to be left; empty unless joint.
    pub outgoing: PeerSet,
}

impl JointConfig {
    /// Whether a joint change is under way.
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `id` votes in either half.
    pub fn contains(&self, id: PeerId) -> bool {
        self.incoming.contains(id) || self.outgoing.contains(id)
    }

    /// Voters of both halves.
    pub fn ids(&self) -> PeerSet {
        self.incoming.iter().chain(self.outgoing.iter()).collect()
    }

    /// Highest index that both halves acknowledged.
    pub fn committed_index(&self, acked: impl Fn(PeerId) -> Option<Index>) -> Index {
        let incoming = committed_index(&self.incoming, &acked);
        if self.outgoing.is_empty() {
            incoming
        } else {
            incoming.min(committed_index(&self.outgoing, &acked))
        }
    }

    /// Like [`Self::committed_index`] under the commit group rule; the flag is true if both halves applied it.
    pub fn group_committed_index(&self, acked: impl Fn(PeerId) -> Option<Acked>) -> (Index, bool) {
        let (incoming, in_force) = group_committed_index(&self.incoming, &acked);
        let (outgoing, out_force) = group_committed_index(&self.outgoing, &acked);
        (incoming.min(outgoing), in_force && out_force)
    }

    /// How a vote stands that both halves must win.
    pub fn vote_result(&self, votes: impl Fn(PeerId) -> Option<bool>) -> VoteResult {
        let incoming = vote_result(&self.incoming, &votes);
        let outgoing = vote_result(&self.outgoing, &votes);
        match (incoming, outgoing) {
            _ if incoming == outgoing => incoming,
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            _ => VoteResult::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn set(ids: &[u64]) -> PeerSet {
        ids.iter().copied().map(PeerId).collect()
    }

    /// The largest index that, counted one by one, a majority has.
    fn by_counting(voters: &PeerSet, acked: &BTreeMap<PeerId, Index>) -> Index {
        if voters.is_empty() {
            return INDEX_INFINITE;
        }
        let have = |index| voters.iter().filter(|id| acked.get(id).is_some_and(|own| *own >= index)).count();
        let candidates = acked.values().copied().chain([Index(0)]);
        let reached = candidates.filter(|index| index.is_zero() || have(*index) * 2 > voters.len());
        reached.max().expect("0 is always reached")
    }

    /// Tries every way in which the missing votes can turn out.
    fn by_trying(voters: &PeerSet, votes: &BTreeMap<PeerId, bool>) -> VoteResult {
        let missing: Vec<PeerId> = voters.iter().filter(|id| !votes.contains_key(id)).collect();
        let outcomes: Vec<bool> = (0..1u32 << missing.len())
            .map(|bits| {
                let late =
                    |id: &PeerId| missing.iter().position(|m| m == id).is_some_and(|at| bits >> at & 1 == 1);
                let yes =
                    voters.iter().filter(|id| votes.get(id).copied().unwrap_or_else(|| late(id))).count();
                voters.is_empty() || yes * 2 > voters.len()
            })
            .collect();
        match (outcomes.contains(&true), outcomes.contains(&false)) {
            (true, false) => VoteResult::Won,
            (false, _) => VoteResult::Lost,
            _ => VoteResult::Pending,
        }
    }

    fn voters() -> impl Strategy<Value = PeerSet> {
        prop::collection::btree_set(1u64..13, 0..12).prop_map(|ids| ids.into_iter().map(PeerId).collect())
    }

    proptest! {
        #[test]
        fn committed_indexes_equal_counting(
            incoming in voters(),
            outgoing in voters(),
            acked in prop::collection::btree_map((1u64..13).prop_map(PeerId), (0u64..9).prop_map(Index), 0..12),
        ) {
            let lookup = |id| acked.get(&id).copied();
            let plain = committed_index(&incoming, lookup);
            prop_assert_eq!(plain, by_counting(&incoming, &acked));
            let joint = JointConfig { incoming: incoming.clone(), outgoing: outgoing.clone() };
            let expected = plain.min(by_counting(&outgoing, &acked));
            prop_assert_eq!(joint.committed_index(lookup), expected);
            // In one group for each peer, two of a majority are always two groups.
            let alone = |id: PeerId| Some(Acked { index: lookup(id)?, group: id.0 });
            let (grouped, in_force) = group_committed_index(&incoming, alone);
            if incoming.len() >= 3 && incoming.iter().all(|id| acked.contains_key(&id)) {
                prop_assert_eq!((grouped, in_force), (plain, true));
            }
            let together = |id: PeerId| Some(Acked { index: lookup(id).unwrap_or_default(), group: 7 });
            prop_assert_eq!(group_committed_index(&incoming, together).0, plain);
        }

        #[test]
        fn vote_results_equal_trying_everything(
            incoming in voters(),
            outgoing in voters(),
            votes in prop::collection::btree_map((1u64..13).prop_map(PeerId), any::<bool>(), 0..12),
        ) {
            let lookup = |id| votes.get(&id).copied();
            let plain = vote_result(&incoming, lookup);
            prop_assert_eq!(plain, by_trying(&incoming, &votes));
            let joint = JointConfig { incoming: incoming.clone(), outgoing: outgoing.clone() };
            let other = by_trying(&outgoing, &votes);
            let expected = match (plain, other) {
                (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
                (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
                _ => VoteResult::Pending,
            };
            prop_assert_eq!(joint.vote_result(lookup), expected);
            prop_assert_eq!(joint.ids().len(), incoming.iter().filter(|id| !outgoing.contains(*id)).count() + outgoing.len());
        }
    }

    #[test]
    fn large_configurations_count_like_small_ones() {
        let voters = set(&(1..=11).collect::<Vec<_>>());
        let acked = |PeerId(id): PeerId| Some(Index(10 * id));
        assert_eq!(committed_index(&voters, acked), Index(60), "six of eleven have 60 or more");
        let grouped = |PeerId(id): PeerId| Some(Acked { index: Index(10 * id), group: 1 + id / 11 });
        assert_eq!(group_committed_index(&voters, grouped), (Index(60), true));
    }

    #[test]
    fn joint_groups_need_two_groups_in_both_halves() {
        // Data of raft-rs: acks and groups of peers 1..=6, halves 1,2,3 and 4,5,6.
        for (acks, groups, expected) in [
            ([100, 101, 99, 100, 101, 99], [1, 1, 2, 1, 2, 1], (99, true)),
            ([100, 101, 99, 100, 101, 99], [1, 2, 1, 1, 2, 1], (100, true)),
            ([100, 101, 99, 100, 101, 99], [1, 1, 1, 1, 2, 1], (100, false)),
            ([100, 101, 99, 100, 101, 99], [0, 0, 0, 1, 2, 1], (99, false)),
        ] {
            let config = JointConfig { incoming: set(&[1, 2, 3]), outgoing: set(&[4, 5, 6]) };
            let acked = |PeerId(id): PeerId| {
                let at = id as usize - 1;
                Some(Acked { index: Index(acks[at]), group: groups[at] })
            };
            let (index, in_force) = config.group_committed_index(acked);
            assert_eq!((index.0, in_force), expected, "{groups:?}");
        }
    }
}
