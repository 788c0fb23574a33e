//! The newest known descriptor of every region, in key order. Every store has such a table and answers routing
//! requests from it; the placement leader's view contains one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_region::{DenseMap, KeyRange, Peer, PeerId, PeerRole, Region, RegionId, Space, StoreId, Term};

/// What clients do to something, per second; a few seconds' mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
}

impl Rates {
    /// Reads and writes.
    pub fn requests(&self) -> u64 {
        self.reads + self.writes
    }

    /// A quarter of the way from here to `now`, or a little less: a few requests a second are as good as none.
    pub fn blend(self, now: Self) -> Self {
        let step = |old: u64, new: u64| {
            if new > old { old + (new - old) / 4 } else { old - (old - new).div_ceil(4) }
        };
        let mut next = self.zip(now, step);
        next.read_bytes = if next.reads == 0 { 0 } else { next.read_bytes };
        next.write_bytes = if next.writes == 0 { 0 } else { next.write_bytes };
        next
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// Whether `told` gives another picture: by more than a third, and more than a little, or that there is nothing.
    pub fn differ_from(&self, told: &Self) -> bool {
        let differ = |now: u64, told: u64, little: u64| now.abs_diff(told) > (told / 3).max(little);
        (self.reads == 0) != (told.reads == 0)
            || (self.writes == 0) != (told.writes == 0)
            || differ(self.reads, told.reads, 3)
            || differ(self.writes, told.writes, 3)
            || differ(self.read_bytes, told.read_bytes, 1 << 10)
            || differ(self.write_bytes, told.write_bytes, 1 << 10)
    }

    fn zip(self, other: Self, apply: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            reads: apply(self.reads, other.reads),
            read_bytes: apply(self.read_bytes, other.read_bytes),
            writes: apply(self.writes, other.writes),
            write_bytes: apply(self.write_bytes, other.write_bytes),
        }
    }
}

/// A region as its leader reported it, or as far as anybody knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionInfo {
    /// Descriptor, shared with whoever else has the same.
    pub region: Arc<Region>,
    /// Its leader in `term`; `None` = not known.
    pub leader: Option<PeerId>,
    /// Raft term in which `leader` leads.
    pub term: Term,
    /// Approximate size; 0 = not known.
    pub bytes: u64,
    /// Approximate number of keys.
    pub keys: u64,
    /// Peers that do not answer the leader, with the milliseconds since they last did.
    pub down: BTreeMap<PeerId, u64>,
    /// Peers that still need a snapshot or much log.
    pub pending: BTreeSet<PeerId>,
    /// The leader applied everything up to an entry of its own term.
    pub ready: bool,
    /// It is written to more than a little.
    pub is_hot: bool,
    /// What clients do to it.
    pub rates: Rates,
}

impl RegionInfo {
    /// The leader's peer, if it is known.
    pub fn leader_peer(&self) -> Option<&Peer> {
        self.region.peer(self.leader?)
    }

    /// The store of the leader, if it is known.
    pub fn leader_store(&self) -> Option<StoreId> {
        self.leader_peer().map(|p| p.store)
    }

    /// Whether the region counts for balance: a user region other than the sentinel.
    pub fn is_counted(&self) -> bool {
        self.region.space == Space::User && self.region.id != RegionId::SENTINEL
    }

    /// Whether it is written to, or asked for `requests_max` times per second (0 = however often).
    pub fn is_busy(&self, requests_max: u64) -> bool {
        self.is_hot || (requests_max > 0 && self.rates.requests() >= requests_max)
    }

    /// Whether a peer is being filled by the leader: a learner, or a voter that lags.
    pub fn is_filling(&self, peer: &Peer) -> bool {
        peer.role == PeerRole::Learner || self.pending.contains(&peer.id)
    }

    /// Whether a checker could decide differently on `other`; sizes aside.
    pub(crate) fn differs_materially(&self, other: &Self) -> bool {
        self.region != other.region
            || self.leader != other.leader
            || self.term != other.term
            || self.ready != other.ready
            || self.pending != other.pending
            || self.down != other.down
    }
}

/// What became of knowledge offered to a [`RouteTable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Older than what is known: refused.
    Stale,
    /// Accepted; nothing that matters to routing or placement changed.
    Same,
    /// Accepted; the regions whose place it took are gone.
    Changed {
        /// Older regions that overlapped the new one.
        replaced: Vec<RegionInfo>,
    },
}

/// Regions by id and by key.
///
/// Invariant: ranges of one space are disjoint, and both indexes hold the same regions.
/// Invariant: for each region neither part of its epoch nor its term ever decreases while it is in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    regions: DenseMap<RegionId, RegionInfo>,
    /// Start keys per space.
    user_starts: DenseMap<Bytes, RegionId>,
    meta_starts: DenseMap<Bytes, RegionId>,
}

impl RouteTable {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a leader's report. An older epoch or term never replaces a newer one: a leader of a newer term that has
    /// not applied the newest descriptor yet is believed about who leads, and about nothing else.
    pub fn report(&mut self, info: RegionInfo) -> Learned {
        let Some(known) = self.regions.get_mut(&info.region.id) else {
            return self.insert(info);
        };
        if info.term < known.term {
            return Learned::Stale;
        }
        if info.region.epoch.is_stale_against(&known.region.epoch) {
            let leads = info.leader.filter(|id| known.region.peer(*id).is_some());
            if info.term == known.term || leads.is_none() {
                return Learned::Stale;
            }
            known.leader = leads;
            known.term = info.term;
            known.ready = false;
            return Learned::Changed { replaced: Vec::new() };
        }
        let leader = info.leader.or(known.leader.filter(|_| known.term == info.term));
        let info = RegionInfo { leader: leader.filter(|id| info.region.peer(*id).is_some()), ..info };
        if info.region == known.region {
            let is_changed = known.differs_materially(&info);
            *known = info;
            return if is_changed { Learned::Changed { replaced: Vec::new() } } else { Learned::Same };
        }
        self.insert(info)
    }

    /// Learns a descriptor, and perhaps a leader, from somewhere else than the leader's report: a local replica, an
    /// error, another table. Keeps the sizes and peer states known so far.
    pub fn learn(&mut self, region: &Region, leader: Option<PeerId>, term: Term) -> Learned {
        let known = self.regions.get(&region.id).cloned().unwrap_or_default();
        // A report says more than a replica does: an unknown leader of an older or equal term changes nothing.
        let (leader, term) = match leader {
            Some(id) if term >= known.term => (Some(id), term),
            None if term > known.term => (None, term),
            _ => (known.leader.filter(|id| region.peer(*id).is_some()), known.term),
        };
        let shared = if *known.region == *region { known.region.clone() } else { Arc::new(region.clone()) };
        self.report(RegionInfo { region: shared, leader, term, ..known })
    }

    /// Inserts a region that is new, or newer than the one with its id, unless something newer overlaps it.
    fn insert(&mut self, info: RegionInfo) -> Learned {
        let region = &info.region;
        let overlapping: Vec<RegionId> =
            self.overlapping(region.space, &region.range).map(|o| o.region.id).collect();
        // Along one key's history versions strictly increase: a split adds to the parent's, a merge exceeds both.
        let is_older =
            |id: &RegionId| *id != region.id && self.regions[id].region.epoch.version >= region.epoch.version;
        if overlapping.iter().any(is_older) {
            return Learned::Stale;
        }
        let id = region.id;
        self.remove(id);
        let replaced = overlapping.into_iter().filter_map(|other| self.remove(other)).collect();
        self.starts_mut(info.region.space).insert(info.region.range.start.clone(), id);
        self.regions.insert(id, info);
        Learned::Changed { replaced }
    }

    /// Forgets a region.
    pub fn remove(&mut self, id: RegionId) -> Option<RegionInfo> {
        let info = self.regions.remove(&id)?;
        self.starts_mut(info.region.space).remove(&info.region.range.start);
        Some(info)
    }

    /// Forgets who leads a region if it is the peer on `store`. Returns whether it was.
    pub fn forget_leader(&mut self, id: RegionId, store: StoreId) -> bool {
        match self.regions.get_mut(&id) {
            Some(info) if info.leader_store() == Some(store) => {
                info.leader = None;
                info.ready = false;
                true
            }
            _ => false,
        }
    }

    /// The region with this id.
    pub fn by_id(&self, id: RegionId) -> Option<&RegionInfo> {
        self.regions.get(&id)
    }

    /// The region that holds `key`; `None` where nothing is known yet.
    pub fn by_key(&self, space: Space, key: &[u8]) -> Option<&RegionInfo> {
        let (_, id) =
            self.starts(space).range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        let info = &self.regions[id];
        info.region.range.is_before_end(key).then_some(info)
    }

    /// The region just before the one that holds `key`; `None` if that is the first one, or where either is unknown.
    pub fn before_key(&self, space: Space, key: &[u8]) -> Option<&RegionInfo> {
        let range = &self.by_key(space, key)?.region.range;
        let before = (Bound::Unbounded, Bound::Excluded(&range.start[..]));
        let (_, id) = self.starts(space).range::<[u8], _>(before).next_back()?;
        let info = &self.regions[id];
        (info.region.range.end == range.start).then_some(info)
    }

    /// Regions that overlap `range`, ascending, at most `limit` (0 = all).
    pub fn scan(&self, space: Space, range: &KeyRange, limit: usize) -> Vec<&RegionInfo> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        self.overlapping(space, range).take(limit).collect()
    }

    /// All regions by id.
    pub fn iter(&self) -> impl Iterator<Item = &RegionInfo> {
        self.regions.values()
    }

    /// Number of regions.
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Whether no region is known.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Whether the known regions of a space leave no gap.
    pub fn covers(&self, space: Space) -> bool {
        let mut reached = Some(Bytes::new());
        for (start, id) in self.starts(space).iter() {
            if reached.as_ref() != Some(start) {
                return false;
            }
            let end = &self.regions[id].region.range.end;
            reached = (!end.is_empty()).then(|| end.clone());
        }
        reached.is_none()
    }

    fn overlapping<'a, 'r>(
        &'a self,
        space: Space,
        range: &'r KeyRange,
    ) -> impl Iterator<Item = &'a RegionInfo> + use<'a, 'r> {
        let starts = self.starts(space);
        let upto_start = (Bound::Unbounded, Bound::Included(&range.start[..]));
        let first = starts.range::<[u8], _>(upto_start).next_back();
        let after_start = (Bound::Excluded(&range.start[..]), Bound::Unbounded);
        first
            .into_iter()
            .chain(starts.range::<[u8], _>(after_start))
            .map(|(_, id)| &self.regions[id])
            .take_while(|info| range.is_before_end(&info.region.range.start))
            .filter(|info| info.region.range.overlaps(range))
    }

    fn starts(&self, space: Space) -> &DenseMap<Bytes, RegionId> {
        match space {
            Space::User => &self.user_starts,
            Space::Meta => &self.meta_starts,
        }
    }

    fn starts_mut(&mut self, space: Space) -> &mut DenseMap<Bytes, RegionId> {
        match space {
            Space::User => &mut self.user_starts,
            Space::Meta => &mut self.meta_starts,
        }
    }

    /// Asserts the type's invariants.
    pub fn check_invariants(&self) {
        assert_eq!(
            self.regions.len(),
            self.user_starts.len() + self.meta_starts.len(),
            "indexes differ in size"
        );
        for space in [Space::User, Space::Meta] {
            let mut previous: Option<&KeyRange> = None;
            for (start, id) in self.starts(space).iter() {
                let region = &self.regions[id].region;
                assert_eq!((region.space, &region.range.start), (space, start), "index names another region");
                assert!(!previous.is_some_and(|p| p.overlaps(&region.range)), "ranges overlap");
                previous = Some(&region.range);
            }
        }
    }
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
