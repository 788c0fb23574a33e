//! The fake cluster's administration.

use flotilla_proto::flotilla::admin_request::Command;
use flotilla_proto::flotilla::cluster_service_server::ClusterService;
use flotilla_proto::flotilla::{
    AdminReply, AdminRequest, CheckReply, CheckRequest, CompactReply, CompactRequest, IdentifyReply,
    IdentifyRequest, JoinReply, JoinRequest, MoveReply, MoveRequest, RegionInfo, RegionsReply,
    RegionsRequest, StoreInfo, StoreStateReply, StoreStateRequest, StoresReply, StoresRequest,
};
use flotilla_proto::metapb;
use tonic::{Request, Response, Status};

use super::Service;
use super::state::{CLUSTER_ID, State};

type Reply<T> = Result<Response<T>, Status>;

fn count(state: &State, holds: impl Fn(&flotilla_proto::pdpb::Region) -> bool) -> u32 {
    state.regions.values().filter(|region| holds(region)).count() as u32
}

#[tonic::async_trait]
impl ClusterService for Service {
    async fn identify(&self, _: Request<IdentifyRequest>) -> Reply<IdentifyReply> {
        let address = self.state.lock().stores[&self.store].address.clone();
        Ok(Response::new(IdentifyReply {
            cluster_id: CLUSTER_ID,
            store_id: self.store,
            address,
            ..Default::default()
        }))
    }

    async fn join(&self, _: Request<JoinRequest>) -> Reply<JoinReply> {
        Ok(Response::new(JoinReply { refused: "the fake cluster is complete".into(), ..Default::default() }))
    }

    async fn stores(&self, _: Request<StoresRequest>) -> Reply<StoresReply> {
        let state = self.state.lock();
        let stores = state.stores.values().map(|store| StoreInfo {
            store: Some(store.clone()),
            region_count: count(&state, |r| {
                r.region.as_ref().is_some_and(|d| d.peers.iter().any(|p| p.store_id == store.id))
            }),
            leader_count: count(&state, |r| r.leader.as_ref().is_some_and(|p| p.store_id == store.id)),
            capacity_bytes: 1 << 40,
            available_bytes: 1 << 39,
            ..Default::default()
        });
        Ok(Response::new(StoresReply { stores: stores.collect() }))
    }

    async fn regions(&self, request: Request<RegionsRequest>) -> Reply<RegionsReply> {
        let id = request.get_ref().id;
        let state = self.state.lock();
        let wanted =
            |r: &&flotilla_proto::pdpb::Region| id == 0 || r.region.as_ref().is_some_and(|d| d.id == id);
        let regions = state.regions.values().filter(wanted).map(|region| RegionInfo {
            region: region.region.clone(),
            leader: region.leader,
            term: 6,
            ..Default::default()
        });
        Ok(Response::new(RegionsReply { regions: regions.collect() }))
    }

    async fn check(&self, request: Request<CheckRequest>) -> Reply<CheckReply> {
        Ok(Response::new(CheckReply { index: request.get_ref().region_id, ..Default::default() }))
    }

    async fn store_state(&self, request: Request<StoreStateRequest>) -> Reply<StoreStateReply> {
        let known = self.state.lock().stores.contains_key(&request.get_ref().store_id);
        let error = if known { String::new() } else { "no such store".to_owned() };
        Ok(Response::new(StoreStateReply { error }))
    }

    async fn r#move(&self, request: Request<MoveRequest>) -> Reply<MoveReply> {
        let MoveRequest { region_id, from_store, to_store, .. } = request.into_inner();
        let mut state = self.state.lock();
        let found = state.regions.values_mut().find(|r| r.region.as_ref().is_some_and(|d| d.id == region_id));
        let peers = found.and_then(|region| region.region.as_mut()).map(|region| &mut region.peers);
        let refused = |error: String| Ok(Response::new(MoveReply { error, ..Default::default() }));
        let Some(peers) = peers else { return refused(format!("region {region_id} does not exist")) };
        if peers.iter().any(|peer| peer.store_id == to_store) {
            let is_done = peers.iter().all(|peer| peer.store_id != from_store);
            let phase = if is_done { "done" } else { "removing the old replica" };
            peers.retain(|peer| peer.store_id != from_store);
            return Ok(Response::new(MoveReply { is_done, phase: phase.into(), ..Default::default() }));
        }
        let Some(old) = peers.iter().find(|peer| peer.store_id == from_store) else {
            return refused(format!("region {region_id} has no peer on store {from_store}"));
        };
        let new = metapb::Peer { id: old.id + 10_000, store_id: to_store, ..*old };
        peers.push(new);
        Ok(Response::new(MoveReply { phase: "adding a learner".into(), ..Default::default() }))
    }

    async fn compact(&self, _: Request<CompactRequest>) -> Reply<CompactReply> {
        Ok(Response::new(CompactReply::default()))
    }

    async fn admin(&self, request: Request<AdminRequest>) -> Reply<AdminReply> {
        let request = request.into_inner();
        let mut state = self.state.lock();
        let found =
            state.regions.values().filter_map(|r| r.region.clone()).find(|r| r.id == request.region_id);
        let Some(region) = found else {
            let error = format!("region {} does not exist", request.region_id);
            return Ok(Response::new(AdminReply { error, ..Default::default() }));
        };
        let start = region.start_key.clone();
        let holds = |store: u64| region.peers.iter().any(|p| p.store_id == store);
        let error = match request.command {
            Some(Command::Split(split)) => {
                split.keys.into_iter().for_each(|key| state.split(key));
                String::new()
            }
            Some(Command::TransferLeaderToStore(store)) if holds(store) => {
                state.transfer_leader(&start, store);
                String::new()
            }
            Some(Command::AddPeerOnStore(store)) if !holds(store) => {
                state.replace_peer(&start, 0, store);
                String::new()
            }
            Some(Command::RemovePeerOnStore(store)) if holds(store) => {
                state.replace_peer(&start, store, 0);
                String::new()
            }
            _ => format!("region {} cannot do that", region.id),
        };
        let regions = state.regions.values().filter_map(|r| r.region.clone());
        let regions = regions.filter(|r| r.id == region.id).collect();
        Ok(Response::new(AdminReply { error, regions }))
    }
}
