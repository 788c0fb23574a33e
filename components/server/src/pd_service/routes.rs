//! Routing questions. An answer waits a little for news while the region's leader is unknown or its store looks dead:
//! an election is shorter than what clients put up with, and a wrong answer costs them more than a late one.

use std::time::Duration;

use bytes::Bytes;
use flotilla_placement::RegionInfo;
use flotilla_proto::pdpb;
use flotilla_raftstore::placement::Directory;
use flotilla_raftstore::{Store, wire};
use flotilla_region::{KeyRange, PeerRole, RegionId, Space};
use tokio::time::Instant;

use crate::transport::Network;

/// Longest wait for news.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// How often the routes are looked at meanwhile.
const WAIT_STEP: Duration = Duration::from_millis(10);

/// What one store knows about who holds which keys.
pub struct Routes<'a> {
    store: &'a Store,
    network: &'a Network,
}

impl<'a> Routes<'a> {
    /// As `store` knows them.
    pub fn new(store: &'a Store, network: &'a Network) -> Self {
        Self { store, network }
    }

    /// The region that holds a key.
    pub async fn by_key(&self, key: &[u8]) -> Option<pdpb::Region> {
        self.one(|directory| directory.routes.by_key(Space::User, key)).await
    }

    /// The region before the one that holds a key.
    pub async fn before_key(&self, key: &[u8]) -> Option<pdpb::Region> {
        // There is none before the first region: nothing to wait for.
        let is_first = |directory: &Directory| {
            directory.routes.by_key(Space::User, key).is_some_and(|r| r.region.range.start.is_empty())
        };
        if is_first(&self.store.directory().read()) {
            return None;
        }
        self.one(|directory| directory.routes.before_key(Space::User, key)).await
    }

    /// A region by id. The meta region is nobody's business.
    pub async fn by_id(&self, id: RegionId) -> Option<pdpb::Region> {
        let of_user = |info: &&RegionInfo| info.region.space == Space::User;
        self.one(|directory| directory.routes.by_id(id).filter(of_user)).await
    }

    /// Regions that overlap any of the ranges, in order and without repetition, at most `limit` (0 or less = all).
    pub async fn scan(&self, ranges: &[pdpb::KeyRange], limit: i32) -> Vec<pdpb::Region> {
        let limit = usize::try_from(limit).unwrap_or(0);
        let look = |directory: &Directory| {
            let mut found: Vec<pdpb::Region> = Vec::new();
            let mut settled = true;
            for range in ranges {
                let range = KeyRange::new(range.start_key.clone(), range.end_key.clone());
                for info in directory.routes.scan(Space::User, &range, limit) {
                    let is_repeated =
                        found.last().and_then(|r| r.region.as_ref()).map(|r| r.id) == Some(info.region.id.0);
                    if is_repeated || (limit > 0 && found.len() == limit) {
                        continue;
                    }
                    settled &= self.is_settled(info);
                    found.push(self.to_client(info));
                }
            }
            (found, settled)
        };
        self.wait_for(look).await
    }

    async fn one(&self, find: impl Fn(&Directory) -> Option<&RegionInfo>) -> Option<pdpb::Region> {
        let look = |directory: &Directory| match find(directory) {
            Some(info) => (Some(self.to_client(info)), self.is_settled(info)),
            None => (None, false),
        };
        self.wait_for(look).await
    }

    /// What is known as soon as it is settled, or when the wait is over.
    async fn wait_for<T>(&self, look: impl Fn(&Directory) -> (T, bool)) -> T {
        let give_up = Instant::now() + WAIT_MAX;
        loop {
            let (found, settled) = look(&self.store.directory().read());
            if settled || Instant::now() >= give_up {
                return found;
            }
            tokio::time::sleep(WAIT_STEP).await;
        }
    }

    /// Whether a region's leader is known and its store does not look dead.
    fn is_settled(&self, info: &RegionInfo) -> bool {
        info.leader_store().is_some_and(|s| s == self.store.id().1 || !self.network.is_down(s))
    }

    /// A leader whose store looks dead is not named: a client of the Rust family that cannot connect to a leader does
    /// not ask again who leads.
    fn to_client(&self, info: &RegionInfo) -> pdpb::Region {
        let pending = info.region.peers.iter().filter(|p| p.role != PeerRole::Learner);
        let leader = info.leader_peer().filter(|_| self.is_settled(info));
        pdpb::Region {
            region: Some(wire::region_to_wire(&info.region)),
            leader: leader.map(wire::peer_to_wire),
            pending_peers: pending.filter(|p| info.pending.contains(&p.id)).map(wire::peer_to_wire).collect(),
        }
    }
}

/// Whether the regions leave no gap in any of the ranges, as far as the limit let them reach.
pub fn covers(ranges: &[pdpb::KeyRange], regions: &[pdpb::Region], limit: i32) -> bool {
    if usize::try_from(limit).is_ok_and(|limit| limit > 0 && regions.len() == limit) {
        return true;
    }
    let regions: Vec<_> = regions.iter().filter_map(|r| r.region.as_ref()).collect();
    ranges.iter().all(|range| {
        let mut reached: Option<Bytes> = Some(range.start_key.clone());
        for region in &regions {
            match &reached {
                Some(at)
                    if region.start_key <= *at && (region.end_key.is_empty() || region.end_key > *at) =>
                {
                    reached = (!region.end_key.is_empty()).then(|| region.end_key.clone());
                }
                _ => {}
            }
        }
        reached.is_none_or(|at| !range.end_key.is_empty() && at >= range.end_key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::metapb;

    fn range(start: &'static str, end: &'static str) -> pdpb::KeyRange {
        pdpb::KeyRange { start_key: start.into(), end_key: end.into() }
    }

    fn region(start: &'static str, end: &'static str) -> pdpb::Region {
        let region = metapb::Region { start_key: start.into(), end_key: end.into(), ..Default::default() };
        pdpb::Region { region: Some(region), ..Default::default() }
    }

    #[test]
    fn a_gap_in_a_range_is_seen() {
        let regions = [region("", "c"), region("c", "f"), region("g", "")];
        assert!(covers(&[range("a", "f")], &regions, 0));
        assert!(!covers(&[range("a", "g")], &regions, 0));
        assert!(covers(&[range("h", "")], &regions, 0));
        assert!(!covers(&[range("", "")], &regions, 0));
        assert!(covers(&[range("", "")], &regions, 3), "cut by the limit, not by a gap");
        assert!(!covers(&[range("a", "b")], &[], 0));
    }
}
