//! Regions, data and faults of the fake cluster.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use flotilla_proto::kvrpcpb::Context;
use flotilla_proto::{errorpb, metapb, pdpb};
use flotilla_region::sentinel_start;

/// Id of the fake cluster.
pub(super) const CLUSTER_ID: u64 = 77;

/// What happens to one raw request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// None: it is served.
    Pass,
    /// It is refused with this error and not applied.
    Refuse(Box<errorpb::Error>),
    /// It is applied, and the connection's stream ends without a reply.
    ApplyAndBreak,
    /// It is not applied, and the connection's stream ends without a reply.
    Break,
    /// It is applied, and the store says that it does not know.
    ApplyAndForget,
}

/// All that the fake cluster knows.
#[derive(Debug, Default)]
pub struct State {
    /// Stores by id.
    pub stores: BTreeMap<u64, metapb::Store>,
    /// Regions by start key, with their leaders.
    pub regions: BTreeMap<Bytes, pdpb::Region>,
    /// Live pairs: value and TTL in seconds.
    pub data: BTreeMap<Bytes, (Bytes, u64)>,
    /// Faults of the next raw requests that pass the checks.
    pub faults: VecDeque<Fault>,
    /// What placement answers instead of `regions`, while set.
    pub placement_view: Option<BTreeMap<Bytes, pdpb::Region>>,
    /// Whether stores name the leader when they are not it.
    pub without_hints: bool,
    /// Raw requests so far, refused ones included.
    pub raw_requests: u64,
    /// Placement requests so far.
    pub placement_requests: u64,
    /// Keys in the last batch of puts.
    pub last_batch_keys: usize,
    next_id: u64,
}

impl State {
    pub(super) fn add_store(&mut self, id: u64, address: String) {
        self.stores.insert(id, metapb::Store { id, address, ..Default::default() });
    }

    pub(super) fn bootstrap(&mut self) {
        self.next_id = 1_000;
        for (id, start, end) in [(2, Bytes::new(), sentinel_start()), (3, sentinel_start(), Bytes::new())] {
            let peers: Vec<metapb::Peer> =
                self.stores.keys().map(|store| peer(id * 100 + store, *store)).collect();
            let leader = peers.first().cloned();
            let region = metapb::Region {
                id,
                start_key: start.clone(),
                end_key: end,
                region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 1 }),
                peers,
                meta_space: false,
            };
            self.regions
                .insert(start, pdpb::Region { region: Some(region), leader, pending_peers: Vec::new() });
        }
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The region that holds `key`.
    pub fn region_at(&self, key: &[u8]) -> &pdpb::Region {
        region_at(&self.regions, key)
    }

    fn region_at_mut(&mut self, key: &[u8]) -> &mut pdpb::Region {
        let at = std::ops::Bound::Included(key);
        let (_, region) = self
            .regions
            .range_mut::<[u8], _>((std::ops::Bound::Unbounded, at))
            .next_back()
            .expect("they tile");
        region
    }

    /// Splits a region; the right part keeps the id.
    pub fn split(&mut self, key: impl Into<Bytes>) {
        let key = key.into();
        let old = self.region_at(&key).clone();
        let old_region = old.region.clone().expect("set");
        if old_region.start_key == key {
            return;
        }
        let mut left = old.clone();
        let left_id = self.next_id();
        let mut right = old;
        for (part, is_left) in [(&mut left, true), (&mut right, false)] {
            let region = part.region.as_mut().expect("set");
            region.region_epoch.as_mut().expect("set").version += 1;
            if is_left {
                region.id = left_id;
                region.end_key = key.clone();
                for peer in &mut region.peers {
                    peer.id = left_id * 100 + peer.store_id;
                }
                let store = part.leader.as_ref().expect("set").store_id;
                part.leader = region.peers.iter().find(|p| p.store_id == store).cloned();
            } else {
                region.start_key = key.clone();
            }
        }
        self.regions.insert(old_region.start_key, left);
        self.regions.insert(key, right);
    }

    /// Merges the region that holds `key` with its left neighbour, whose id goes.
    pub fn merge_left(&mut self, key: &[u8]) {
        let mut target = self.region_at(key).clone();
        let region = target.region.as_mut().expect("set");
        self.regions.remove(&region.start_key);
        let (start, source) =
            self.regions.range(..region.start_key.clone()).next_back().expect("a neighbour");
        let version = |r: &metapb::Region| r.region_epoch.as_ref().expect("set").version;
        let merged = version(region).max(version(source.region.as_ref().expect("set"))) + 1;
        region.start_key = start.clone();
        region.region_epoch.as_mut().expect("set").version = merged;
        let start = start.clone();
        self.regions.insert(start, target);
    }

    /// Makes the peer on `store` the leader of the region that holds `key`; `false` if there is none.
    pub fn transfer_leader(&mut self, key: &[u8], store: u64) -> bool {
        let region = self.region_at_mut(key);
        let peers = &region.region.as_ref().expect("set").peers;
        let peer = peers.iter().find(|p| p.store_id == store).cloned();
        let found = peer.is_some();
        region.leader = peer.or(region.leader.take());
        found
    }

    /// Gives every region that `store` leads another leader.
    pub fn move_leaders_from(&mut self, store: u64) {
        for region in self.regions.values_mut() {
            if region.leader.as_ref().is_some_and(|leader| leader.store_id == store) {
                let peers = &region.region.as_ref().expect("set").peers;
                region.leader = peers.iter().find(|p| p.store_id != store).cloned();
            }
        }
    }

    /// Replaces the peer on one store by a new one on another, as a move does.
    pub fn replace_peer(&mut self, key: &[u8], from_store: u64, to_store: u64) {
        let id = self.next_id();
        let region = self.region_at_mut(key);
        let descriptor = region.region.as_mut().expect("set");
        descriptor.peers.retain(|p| p.store_id != from_store);
        if to_store != 0 {
            descriptor.peers.push(peer(id, to_store));
        }
        descriptor.region_epoch.as_mut().expect("set").conf_ver += 1;
        if region.leader.as_ref().is_none_or(|leader| leader.store_id == from_store) {
            region.leader = descriptor.peers.first().cloned();
        }
    }

    /// From now on placement answers what is true now.
    pub fn freeze_placement(&mut self) {
        self.placement_view = Some(self.regions.clone());
    }

    /// Placement's view of the regions.
    pub(super) fn view(&self) -> &BTreeMap<Bytes, pdpb::Region> {
        self.placement_view.as_ref().unwrap_or(&self.regions)
    }

    /// TiKV's checks in TiKV's order; `keys` have to be in the region, `Ok` carries the region.
    pub(super) fn check(
        &self,
        store: u64,
        context: Option<&Context>,
        keys: &[&[u8]],
    ) -> Result<metapb::Region, Box<errorpb::Error>> {
        let context = context.cloned().unwrap_or_default();
        let asked = context.peer.unwrap_or_default();
        if asked.store_id != store {
            let error = errorpb::StoreNotMatch { request_store_id: asked.store_id, actual_store_id: store };
            return refuse(errorpb::Error { store_not_match: Some(error), ..Default::default() });
        }
        let id = context.region_id;
        let found = self.regions.values().find(|r| r.region.as_ref().is_some_and(|d| d.id == id));
        let held =
            found.and_then(|r| Some((r, r.region.as_ref()?.peers.iter().find(|p| p.store_id == store)?)));
        let Some((region, peer)) = held else {
            let error = errorpb::RegionNotFound { region_id: id };
            return refuse(errorpb::Error { region_not_found: Some(error), ..Default::default() });
        };
        if peer.id != asked.id {
            let error = errorpb::MismatchPeerId { request_peer_id: asked.id, store_peer_id: peer.id };
            return refuse(errorpb::Error { mismatch_peer_id: Some(error), ..Default::default() });
        }
        if region.leader.as_ref() != Some(peer) {
            let leader = region.leader.filter(|_| !self.without_hints);
            let error = errorpb::NotLeader { region_id: id, leader };
            return refuse(errorpb::Error { not_leader: Some(error), ..Default::default() });
        }
        let descriptor = region.region.clone().expect("set");
        let version = |epoch: &Option<metapb::RegionEpoch>| epoch.as_ref().map_or(0, |e| e.version);
        if version(&descriptor.region_epoch) != version(&context.region_epoch) {
            let mut current_regions = vec![descriptor.clone()];
            let before = self.regions.range(..descriptor.start_key.clone()).next_back();
            current_regions.extend(before.and_then(|(_, r)| r.region.clone()));
            let error = errorpb::EpochNotMatch { current_regions };
            return refuse(errorpb::Error { epoch_not_match: Some(error), ..Default::default() });
        }
        for key in keys {
            let end = &descriptor.end_key;
            if *key < &descriptor.start_key[..] || (!end.is_empty() && *key >= &end[..]) {
                let error = errorpb::KeyNotInRegion {
                    key: Bytes::copy_from_slice(key),
                    region_id: id,
                    start_key: descriptor.start_key.clone(),
                    end_key: end.clone(),
                };
                return refuse(errorpb::Error { key_not_in_region: Some(error), ..Default::default() });
            }
        }
        Ok(descriptor)
    }
}

pub(super) fn region_at<'a>(regions: &'a BTreeMap<Bytes, pdpb::Region>, key: &[u8]) -> &'a pdpb::Region {
    let at = std::ops::Bound::Included(key);
    regions.range::<[u8], _>((std::ops::Bound::Unbounded, at)).next_back().expect("regions tile the space").1
}

fn refuse<T>(error: errorpb::Error) -> Result<T, Box<errorpb::Error>> {
    Err(Box::new(error))
}

fn peer(id: u64, store_id: u64) -> metapb::Peer {
    metapb::Peer { id, store_id, ..Default::default() }
}
