//! A split leaves no gap in who leads (PITFALLS.md T3): the child's peer on the parent leader's store campaigns at once.
//!
//! Bounded is the time from the moment on when a child is seen on the disk of the store that leads its parent until the
//! first peer leads the child, where nothing is in the way: the parent's leader stays, and its store and others of the
//! child's voters, a majority together, have met no fault (they were killed or cut off, stood still, had a slow or a
//! failing disk) since some seconds before. Births that something was in the way of are not judged.
//!
//! It is a violation if that takes longer than a few round trips: a question for a vote, and an answer to it, is not lost
//! when it meets the split on another store.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_region::{PeerRole, Region, RegionId, StoreId};

/// A store counts as undisturbed so long after its last trouble: a peer that begins anew gives no vote for an election
/// timeout, and stores support each other for seconds.
const CALM_US: u64 = 5_000_000;

/// A child without a leader.
struct Birth {
    region: Region,
    /// Whose peer led the parent.
    store: StoreId,
    parent: RegionId,
    at_us: u64,
}

/// Children and their first leaders.
#[derive(Default)]
pub struct Gaps {
    /// Regions that somebody leads or led, or that were seen.
    known: BTreeSet<RegionId>,
    births: BTreeMap<RegionId, Birth>,
    /// When a store was last in trouble.
    trouble_us: BTreeMap<StoreId, u64>,
    /// Children whose first leader was waited for without anything in the way, and the longest time that it took.
    pub measured: (u64, u64),
}

impl Gaps {
    /// A store is in trouble.
    pub fn on_trouble(&mut self, store: StoreId, now_us: u64) {
        self.trouble_us.insert(store, now_us);
    }

    /// Whether a region was never heard of.
    pub fn is_new(&self, region: RegionId) -> bool {
        !self.known.contains(&region)
    }

    /// A region is seen that nobody leads yet; `parent` says of which region it was part, if the store leads that one.
    pub fn on_seen(&mut self, store: StoreId, region: &Region, parent: Option<RegionId>, now_us: u64) {
        self.known.insert(region.id);
        if let Some(parent) = parent {
            let birth = Birth { region: region.clone(), store, parent, at_us: now_us };
            self.births.insert(region.id, birth);
        }
    }

    /// A peer leads a region.
    pub fn on_leader(&mut self, region: RegionId, now_us: u64) {
        self.known.insert(region);
        let Some(birth) = self.births.remove(&region) else { return };
        if self.is_undisturbed(&birth) {
            let (count, longest) = self.measured;
            self.measured = (count + 1, longest.max(now_us - birth.at_us));
        }
    }

    /// A store leads a region no more: what it split may wait for the next leader.
    pub fn on_follower(&mut self, store: StoreId, parent: RegionId) {
        self.births.retain(|_, birth| birth.store != store || birth.parent != parent);
    }

    /// Stores that may have a leader of a child that is waited for.
    pub fn awaited(&self) -> BTreeSet<StoreId> {
        let peers = self.births.values().flat_map(|birth| &birth.region.peers);
        peers.map(|peer| peer.store).collect()
    }

    /// Checks that no child waits for its first leader for longer than `bound_us`.
    ///
    /// # Errors
    /// A sentence that names a child that does.
    pub fn check(&mut self, now_us: u64, bound_us: u64) -> Result<(), String> {
        let late = self.births.iter().find(|(_, birth)| now_us - birth.at_us > bound_us);
        let Some((id, _)) = late.map(|(id, birth)| (*id, birth.at_us)) else { return Ok(()) };
        let Some(birth) = self.births.remove(&id) else { return Ok(()) };
        if !self.is_undisturbed(&birth) {
            return Ok(());
        }
        Err(format!(
            "region {id}, split off from region {} by store {}, has no leader after {} us; nothing is in the way",
            birth.parent,
            birth.store,
            now_us - birth.at_us
        ))
    }

    /// Whether nothing was in the way of an election, up to now.
    fn is_undisturbed(&self, birth: &Birth) -> bool {
        let is_calm = |store: &StoreId| {
            self.trouble_us.get(store).is_none_or(|trouble_us| trouble_us + CALM_US < birth.at_us)
        };
        let voters = birth.region.peers.iter().filter(|peer| peer.role == PeerRole::Voter);
        let calm = voters.clone().filter(|peer| is_calm(&peer.store)).count();
        is_calm(&birth.store) && !birth.region.is_joint() && 2 * calm > voters.count()
    }
}

#[cfg(test)]
mod tests {
    use flotilla_region::{Peer, PeerId};

    use super::*;

    #[test]
    fn a_child_without_a_leader_is_found_unless_something_is_in_the_way() {
        let voter = |id: u64| Peer { id: PeerId(10 + id), store: StoreId(id), role: PeerRole::Voter };
        let child = Region { id: RegionId(7), peers: (1..=3).map(voter).collect(), ..Region::default() };
        let born = || {
            let mut gaps = Gaps::default();
            gaps.on_seen(StoreId(1), &child, Some(RegionId(2)), 10_000_000);
            gaps
        };
        let late = |mut gaps: Gaps| gaps.check(10_200_000, 100_000).is_err();
        assert!(late(born()));
        assert_eq!(born().check(10_100_000, 100_000), Ok(()), "it is not late yet");
        let with = |change: &dyn Fn(&mut Gaps)| {
            let mut gaps = born();
            change(&mut gaps);
            gaps
        };
        assert!(!late(with(&|gaps| gaps.on_leader(RegionId(7), 10_050_000))));
        assert!(!late(with(&|gaps| gaps.on_follower(StoreId(1), RegionId(2)))));
        assert!(!late(with(&|gaps| gaps.on_trouble(StoreId(1), 9_000_000))), "its parent's leader");
        assert!(late(with(&|gaps| gaps.on_trouble(StoreId(2), 10_100_000))), "a majority is left");
        let most = |gaps: &mut Gaps| (2..4).for_each(|id| gaps.on_trouble(StoreId(id), 10_100_000));
        assert!(!late(with(&most)), "none is left");
        assert!(late(with(&|gaps| gaps.on_trouble(StoreId(1), 1_000_000))), "that was long ago");
    }
}
