//! The fake cluster's placement service.

use flotilla_proto::pdpb::{self, pd_server::Pd};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::Service;
use super::state::{CLUSTER_ID, region_at};

fn header() -> Option<pdpb::ResponseHeader> {
    Some(pdpb::ResponseHeader { cluster_id: CLUSTER_ID, error: None })
}

fn reply(region: Option<&pdpb::Region>) -> Response<pdpb::GetRegionResponse> {
    let region = region.cloned().unwrap_or_default();
    Response::new(pdpb::GetRegionResponse {
        header: header(),
        region: region.region,
        leader: region.leader,
        pending_peers: region.pending_peers,
    })
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Pd for Service {
    async fn get_members(&self, _: Request<pdpb::GetMembersRequest>) -> Reply<pdpb::GetMembersResponse> {
        let state = self.state.lock();
        let members: Vec<pdpb::Member> = state
            .stores
            .values()
            .map(|store| pdpb::Member {
                name: format!("store-{}", store.id),
                member_id: store.id,
                client_urls: vec![format!("http://{}", store.address)],
                ..Default::default()
            })
            .collect();
        let leader = members.first().cloned();
        Ok(Response::new(pdpb::GetMembersResponse { header: header(), members, leader, etcd_leader: None }))
    }

    async fn get_region(&self, request: Request<pdpb::GetRegionRequest>) -> Reply<pdpb::GetRegionResponse> {
        let mut state = self.state.lock();
        state.placement_requests += 1;
        Ok(reply(Some(region_at(state.view(), &request.get_ref().region_key))))
    }

    async fn get_prev_region(
        &self,
        request: Request<pdpb::GetRegionRequest>,
    ) -> Reply<pdpb::GetRegionResponse> {
        let mut state = self.state.lock();
        state.placement_requests += 1;
        let here = region_at(state.view(), &request.get_ref().region_key);
        let start = here.region.as_ref().map(|r| r.start_key.clone()).unwrap_or_default();
        Ok(reply(state.view().range(..start).next_back().map(|(_, region)| region)))
    }

    async fn get_region_by_id(
        &self,
        request: Request<pdpb::GetRegionByIdRequest>,
    ) -> Reply<pdpb::GetRegionResponse> {
        let state = self.state.lock();
        let id = request.get_ref().region_id;
        Ok(reply(state.view().values().find(|r| r.region.as_ref().is_some_and(|r| r.id == id))))
    }

    async fn scan_regions(
        &self,
        request: Request<pdpb::ScanRegionsRequest>,
    ) -> Reply<pdpb::ScanRegionsResponse> {
        let mut state = self.state.lock();
        state.placement_requests += 1;
        let request = request.into_inner();
        let first = region_at(state.view(), &request.start_key);
        let start = first.region.as_ref().map(|r| r.start_key.clone()).unwrap_or_default();
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let regions = state.view().range(start..).map(|(_, region)| region.clone()).take(limit).collect();
        Ok(Response::new(pdpb::ScanRegionsResponse { header: header(), regions, ..Default::default() }))
    }

    async fn get_store(&self, request: Request<pdpb::GetStoreRequest>) -> Reply<pdpb::GetStoreResponse> {
        let store = self.state.lock().stores.get(&request.get_ref().store_id).cloned();
        Ok(Response::new(pdpb::GetStoreResponse { header: header(), store }))
    }

    async fn get_all_stores(
        &self,
        _: Request<pdpb::GetAllStoresRequest>,
    ) -> Reply<pdpb::GetAllStoresResponse> {
        let stores = self.state.lock().stores.values().cloned().collect();
        Ok(Response::new(pdpb::GetAllStoresResponse { header: header(), stores }))
    }

    type TsoStream = BoxStream<pdpb::TsoResponse>;

    async fn tso(&self, _: Request<Streaming<pdpb::TsoRequest>>) -> Reply<Self::TsoStream> {
        Err(Status::unimplemented("the fake cluster has no timestamps"))
    }

    async fn batch_scan_regions(
        &self,
        _: Request<pdpb::BatchScanRegionsRequest>,
    ) -> Reply<pdpb::BatchScanRegionsResponse> {
        Err(Status::unimplemented("not asked by the client"))
    }

    async fn get_gc_safe_point(
        &self,
        _: Request<pdpb::GetGcSafePointRequest>,
    ) -> Reply<pdpb::GetGcSafePointResponse> {
        Err(Status::unimplemented("not asked by the client"))
    }

    async fn update_gc_safe_point(
        &self,
        _: Request<pdpb::UpdateGcSafePointRequest>,
    ) -> Reply<pdpb::UpdateGcSafePointResponse> {
        Err(Status::unimplemented("not asked by the client"))
    }
}
