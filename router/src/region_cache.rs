//! Which region holds a key, and which of its peers to ask.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_region::{KeyRange, Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, Space};

/// A region and the peer that requests for it go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The region as last learned.
    pub region: Arc<Region>,
    /// Its leader as last learned; `None` while unknown.
    leader: Option<Peer>,
    /// Where in the region's peers to try next while no leader is known.
    cursor: usize,
    /// Peers that failed since a leader was last known.
    failed: usize,
}

impl Route {
    /// A route to `region`; the hint is dropped unless it names one of the region's peers.
    pub fn new(region: Region, leader: Option<PeerId>) -> Self {
        let leader = leader.and_then(|id| region.peer(id).copied());
        Self { region: Arc::new(region), leader, cursor: 0, failed: 0 }
    }

    /// The leader, if known.
    pub fn leader(&self) -> Option<Peer> {
        self.leader
    }

    /// The peer to ask: the leader, or while it is unknown one of the others in turn. `None` only for a region
    /// without peers.
    pub fn target(&self) -> Option<Peer> {
        self.leader.or_else(|| {
            let candidates = self.candidates();
            candidates.get(self.cursor % candidates.len().max(1)).copied()
        })
    }

    /// Peers that may lead; all of them if none may.
    fn candidates(&self) -> Vec<Peer> {
        let may_lead: Vec<Peer> =
            self.region.peers.iter().filter(|p| p.role != PeerRole::Learner).copied().collect();
        if may_lead.is_empty() { self.region.peers.clone() } else { may_lead }
    }
}

/// What [`RegionCache::insert`] did with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is in the table now; regions that it overlaps are gone from it.
    Installed,
    /// The table held it already, at this epoch; nothing changed.
    Known,
    /// The table holds something newer; nothing changed.
    Stale,
    /// Not a region to route to: of the meta space, with an empty range, or without peers.
    Unusable,
}

/// Routes of the user key space, ordered by start key.
///
/// - Invariant: ranges do not overlap.
/// - Invariant: a region never replaces one of the same id whose epoch is newer in either part, nor an overlapping
///   one of another id whose version is higher (splits and merges give every region they touch a higher version).
/// - Invariant: `starts` holds exactly the ids and start keys of `routes`.
#[derive(Clone, Debug, Default)]
pub struct RegionCache {
    routes: BTreeMap<Bytes, Route>,
    starts: BTreeMap<RegionId, Bytes>,
}

impl RegionCache {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of regions known.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The region that holds `key`.
    pub fn locate(&self, key: &[u8]) -> Option<&Route> {
        let (_, route) = self
            .routes
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)))
            .next_back()?;
        route.region.range.contains(key).then_some(route)
    }

    /// The region that holds the keys just below `bound`: `start < bound <= end`.
    pub fn locate_before(&self, bound: &[u8]) -> Option<&Route> {
        let (_, route) = self
            .routes
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Excluded(bound)))
            .next_back()?;
        let end = &route.region.range.end;
        (end.is_empty() || bound <= &end[..]).then_some(route)
    }

    /// The region with this id.
    pub fn get(&self, id: RegionId) -> Option<&Route> {
        self.routes.get(self.starts.get(&id)?)
    }

    /// All routes in key order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.values()
    }

    /// Learns a region, unless something newer is known (see the type's invariants). A region known at the same
    /// epoch keeps its leader: stores know it better than whoever repeats the region.
    pub fn insert(&mut self, region: Region, leader: Option<PeerId>) -> Inserted {
        if region.space != Space::User || region.range.is_empty() || region.peers.is_empty() {
            return Inserted::Unusable;
        }
        if let Some(known) = self.get(region.id) {
            if region.epoch.is_stale_against(&known.region.epoch) && !planted!(OlderEpoch) {
                return Inserted::Stale;
            }
            if known.region.epoch == region.epoch {
                return Inserted::Known;
            }
        }
        let overlapping = self.overlapping(&region.range);
        let is_newer = |id: &RegionId| {
            self.get(*id).is_some_and(|known| known.region.epoch.version > region.epoch.version)
        };
        if overlapping.iter().any(is_newer) && !planted!(OlderEpoch) {
            return Inserted::Stale;
        }
        self.remove(region.id);
        for id in overlapping {
            self.remove(id);
        }
        let start = region.range.start.clone();
        self.starts.insert(region.id, start.clone());
        self.routes.insert(start, Route::new(region, leader));
        Inserted::Installed
    }

    /// Forgets a region, unless it is known at another epoch than `epoch` by now.
    pub fn invalidate(&mut self, id: RegionId, epoch: RegionEpoch) {
        if self.get(id).is_some_and(|route| route.region.epoch == epoch) {
            self.remove(id);
        }
    }

    /// A store named the region's leader. If that peer is none of the region's, membership has moved on and the
    /// region is forgotten. Returns whether the hint was taken.
    pub fn set_leader(&mut self, id: RegionId, leader: PeerId) -> bool {
        let Some(route) = self.get_mut(id) else { return false };
        match route.region.peer(leader).copied() {
            Some(peer) => {
                route.leader = Some(peer);
                route.failed = 0;
                true
            }
            None => {
                self.remove(id);
                false
            }
        }
    }

    /// `peer` did not answer, or answered that it does not lead and knows no leader: the next request goes to
    /// another one; after one round without success the region is forgotten. Does nothing if the route already
    /// leads elsewhere.
    pub fn peer_failed(&mut self, id: RegionId, peer: PeerId) {
        let Some(route) = self.get_mut(id) else { return };
        if route.target().is_none_or(|target| target.id != peer) {
            return;
        }
        let candidates = route.candidates();
        let at = candidates.iter().position(|c| c.id == peer).unwrap_or(0);
        route.leader = None;
        route.cursor = at + 1;
        route.failed += 1;
        if route.failed >= candidates.len() {
            self.remove(id);
        }
    }

    /// # Panics
    /// If an invariant of the type does not hold.
    pub fn check_invariants(&self) {
        assert_eq!(self.routes.len(), self.starts.len());
        for (id, start) in &self.starts {
            assert_eq!(self.routes[start].region.id, *id);
        }
        let ranges: Vec<&KeyRange> = self.iter().map(|route| &route.region.range).collect();
        for pair in ranges.windows(2) {
            assert!(
                !pair[0].end.is_empty() && pair[0].end <= pair[1].start,
                "{:?} overlaps {:?}",
                pair[0],
                pair[1]
            );
        }
    }

    fn get_mut(&mut self, id: RegionId) -> Option<&mut Route> {
        self.routes.get_mut(self.starts.get(&id)?)
    }

    fn remove(&mut self, id: RegionId) {
        if let Some(start) = self.starts.remove(&id) {
            self.routes.remove(&start);
        }
    }

    fn overlapping(&self, range: &KeyRange) -> Vec<RegionId> {
        let before = self.routes.range::<Bytes, _>(..range.start.clone()).next_back();
        let after =
            self.routes.range(range.start.clone()..).take_while(|(start, _)| range.is_before_end(start));
        before
            .into_iter()
            .chain(after)
            .map(|(_, route)| &route.region)
            .filter(|region| region.range.overlaps(range))
            .map(|region| region.id)
            .collect()
    }
}

#[cfg(test)]
#[path = "region_cache_tests.rs"]
mod tests;
