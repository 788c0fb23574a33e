//! What a client knows of regions and leaders. An older epoch never replaces a newer one.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_region::{Peer, PeerId, Region, RegionId};

/// A cached region.
#[derive(Clone, Debug)]
pub struct Route {
    /// Descriptor.
    pub region: Region,
    /// Supposed leader.
    pub leader: Option<PeerId>,
}

/// A client's cache, by start key.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    by_start: BTreeMap<Bytes, Route>,
}

impl Routes {
    /// The cached region of a key.
    pub fn find(&self, key: &[u8]) -> Option<&Route> {
        let (_, route) = self.by_start.range(..=Bytes::copy_from_slice(key)).next_back()?;
        route.region.range.contains(key).then_some(route)
    }

    /// Learns a region, unless something newer is known of its keys.
    pub fn learn(&mut self, region: Region, leader: Option<PeerId>) {
        let overlapping: Vec<Bytes> = self
            .by_start
            .iter()
            .filter(|(_, r)| r.region.range.overlaps(&region.range))
            .map(|(start, _)| start.clone())
            .collect();
        let newer = |known: &Region| {
            known.epoch.version > region.epoch.version
                || known.id == region.id && region.epoch.is_stale_against(&known.epoch)
        };
        if overlapping.iter().any(|start| newer(&self.by_start[start].region)) {
            return;
        }
        for start in overlapping {
            self.by_start.remove(&start);
        }
        self.by_start.insert(region.range.start.clone(), Route { region, leader });
    }

    /// Notes who leads; `None` = unknown. A leader that the cached region does not name shows that it is old.
    pub fn set_leader(&mut self, region: RegionId, leader: Option<Peer>) {
        let unknown = |route: &Route| leader.is_some_and(|p| route.region.peer(p.id).is_none());
        self.by_start.retain(|_, route| route.region.id != region || !unknown(route));
        for route in self.by_start.values_mut().filter(|r| r.region.id == region) {
            route.leader = leader.map(|p| p.id);
        }
    }

    /// Forgets a region.
    pub fn forget(&mut self, region: RegionId) {
        self.by_start.retain(|_, route| route.region.id != region);
    }
}
