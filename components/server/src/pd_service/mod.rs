//! TiKV's placement protocol, answered by every store from its own routes.
//!
//! A store names itself as the leader of placement: it answers as well as any other, it is alive while it answers, and
//! a client whose store died finds the next one among the members.

mod routes;
mod tso;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_proto::keyspacepb::keyspace_server::Keyspace;
use flotilla_proto::keyspacepb::{LoadKeyspaceRequest, LoadKeyspaceResponse};
use flotilla_proto::pdpb::pd_server::Pd;
use flotilla_proto::{metapb, pdpb};
use flotilla_raftstore::Store;
use flotilla_raftstore::placement::record_to_wire;
use flotilla_region::{ClusterId, RegionId, StoreId};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::node::Node;
use routes::Routes;
use tso::Tso;

/// Labels that are ours alone.
const OWN_LABELS: &str = "flotilla-";

/// The service.
#[derive(Clone)]
pub struct PdService {
    node: Arc<Node>,
    tso: Arc<Tso>,
    gc_safe_point: Arc<AtomicU64>,
}

impl PdService {
    /// Of this process.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, tso: Arc::default(), gc_safe_point: Arc::default() }
    }

    /// The store, if the request is meant for its cluster.
    fn open(&self, header: Option<&pdpb::RequestHeader>) -> Result<&Store, Status> {
        let store = self.node.store()?;
        check_cluster(header, store.id().0)?;
        Ok(store)
    }

    fn routes(&self, header: Option<&pdpb::RequestHeader>) -> Result<Routes<'_>, Status> {
        Ok(Routes::new(self.open(header)?, &self.node.network))
    }

    /// What every reply carries.
    fn header(&self) -> Option<pdpb::ResponseHeader> {
        let cluster_id = self.node.open_store().map(|store| store.id().0.0).unwrap_or_default();
        Some(pdpb::ResponseHeader { cluster_id, error: None })
    }

    fn error_header(&self, kind: pdpb::ErrorType, message: String) -> Option<pdpb::ResponseHeader> {
        let error = Some(pdpb::Error { r#type: kind as i32, message });
        self.header().map(|header| pdpb::ResponseHeader { error, ..header })
    }

    fn region_reply(&self, found: Option<pdpb::Region>) -> Response<pdpb::GetRegionResponse> {
        let found = found.unwrap_or_default();
        Response::new(pdpb::GetRegionResponse {
            header: self.header(),
            region: found.region,
            leader: found.leader,
            pending_peers: found.pending_peers,
        })
    }

    /// Number of user regions, for the page that clients' tests ask for.
    pub fn region_count(&self) -> usize {
        let Some(store) = self.node.open_store() else { return 0 };
        store.directory().read().routes.iter().filter(|r| r.region.id != RegionId::META).count()
    }
}

/// PD's refusal of a request for another cluster; some clients read its text.
fn check_cluster(header: Option<&pdpb::RequestHeader>, cluster: ClusterId) -> Result<(), Status> {
    match header {
        Some(header) if header.cluster_id != cluster.0 => Err(Status::failed_precondition(format!(
            "mismatch cluster id, need {cluster} but got {}",
            header.cluster_id
        ))),
        _ => Ok(()),
    }
}

fn member(store: StoreId, address: &str) -> pdpb::Member {
    let url = format!("http://{address}");
    pdpb::Member {
        name: format!("store-{store}"),
        member_id: store.0,
        peer_urls: vec![url.clone()],
        client_urls: vec![url],
    }
}

/// A store as clients see it.
fn client_store(record: &flotilla_placement::StoreRecord) -> metapb::Store {
    let mut store = record_to_wire(record);
    store.labels.retain(|label| !label.key.starts_with(OWN_LABELS));
    store
}

type TsoReplies = Pin<Box<dyn Stream<Item = Result<pdpb::TsoResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Pd for PdService {
    async fn get_members(
        &self,
        _: Request<pdpb::GetMembersRequest>,
    ) -> Result<Response<pdpb::GetMembersResponse>, Status> {
        let _timed = self.node.metrics.start("get_members");
        let store = self.node.store()?;
        let leader = member(store.id().1, &self.node.address);
        let directory = store.directory().read();
        let others = directory
            .stores
            .values()
            .filter(|s| s.id != store.id().1 && s.state != flotilla_placement::StoreState::Tombstone)
            .filter(|s| !s.address.is_empty());
        let mut members: Vec<_> = others.map(|s| member(s.id, &s.address)).collect();
        members.push(leader.clone());
        members.sort_by_key(|m| m.member_id);
        Ok(Response::new(pdpb::GetMembersResponse {
            header: self.header(),
            members,
            leader: Some(leader.clone()),
            etcd_leader: Some(leader),
        }))
    }

    type TsoStream = TsoReplies;

    async fn tso(
        &self,
        request: Request<Streaming<pdpb::TsoRequest>>,
    ) -> Result<Response<Self::TsoStream>, Status> {
        let mut requests = request.into_inner();
        let (service, clock) = (self.clone(), self.node.store()?.clock().clone());
        let (send, replies) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let checked = service.open(request.header.as_ref()).map(|_| ());
                let reply = checked.and_then(|()| {
                    let timestamp = service.tso.take(request.count, clock.unix_ms())?;
                    let (count, header) = (request.count, service.header());
                    Ok(pdpb::TsoResponse { header, count, timestamp: Some(timestamp) })
                });
                let ends = reply.is_err();
                if send.send(reply).await.is_err() || ends {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }

    async fn get_region(
        &self,
        request: Request<pdpb::GetRegionRequest>,
    ) -> Result<Response<pdpb::GetRegionResponse>, Status> {
        let _timed = self.node.metrics.start("get_region");
        let request = request.into_inner();
        let found = self.routes(request.header.as_ref())?.by_key(&request.region_key).await;
        Ok(self.region_reply(found))
    }

    async fn get_prev_region(
        &self,
        request: Request<pdpb::GetRegionRequest>,
    ) -> Result<Response<pdpb::GetRegionResponse>, Status> {
        let _timed = self.node.metrics.start("get_prev_region");
        let request = request.into_inner();
        let found = self.routes(request.header.as_ref())?.before_key(&request.region_key).await;
        Ok(self.region_reply(found))
    }

    async fn get_region_by_id(
        &self,
        request: Request<pdpb::GetRegionByIdRequest>,
    ) -> Result<Response<pdpb::GetRegionResponse>, Status> {
        let _timed = self.node.metrics.start("get_region_by_id");
        let request = request.into_inner();
        let found = self.routes(request.header.as_ref())?.by_id(RegionId(request.region_id)).await;
        Ok(self.region_reply(found))
    }

    async fn scan_regions(
        &self,
        request: Request<pdpb::ScanRegionsRequest>,
    ) -> Result<Response<pdpb::ScanRegionsResponse>, Status> {
        let _timed = self.node.metrics.start("scan_regions");
        let request = request.into_inner();
        let range = pdpb::KeyRange { start_key: request.start_key, end_key: request.end_key };
        let routes = self.routes(request.header.as_ref())?;
        let regions = routes.scan(&[range], request.limit).await;
        Ok(Response::new(pdpb::ScanRegionsResponse {
            header: self.header(),
            region_metas: regions.iter().filter_map(|r| r.region.clone()).collect(),
            leaders: regions.iter().map(|r| r.leader.unwrap_or_default()).collect(),
            regions,
        }))
    }

    async fn batch_scan_regions(
        &self,
        request: Request<pdpb::BatchScanRegionsRequest>,
    ) -> Result<Response<pdpb::BatchScanRegionsResponse>, Status> {
        let _timed = self.node.metrics.start("batch_scan_regions");
        let request = request.into_inner();
        let routes = self.routes(request.header.as_ref())?;
        let regions = routes.scan(&request.ranges, request.limit).await;
        if request.contain_all_key_range && !routes::covers(&request.ranges, &regions, request.limit) {
            let kind = pdpb::ErrorType::RegionsNotContainAllKeyRange;
            let header = self.error_header(kind, "not all regions of the ranges are known".into());
            return Ok(Response::new(pdpb::BatchScanRegionsResponse { header, regions: Vec::new() }));
        }
        Ok(Response::new(pdpb::BatchScanRegionsResponse { header: self.header(), regions }))
    }

    async fn get_store(
        &self,
        request: Request<pdpb::GetStoreRequest>,
    ) -> Result<Response<pdpb::GetStoreResponse>, Status> {
        let request = request.into_inner();
        let store = self.open(request.header.as_ref())?;
        let id = StoreId(request.store_id);
        let found = store.directory().read().stores.get(&id).map(client_store);
        let header = match &found {
            Some(_) => self.header(),
            None => {
                let why = format!("invalid store ID {id}, not found");
                self.error_header(pdpb::ErrorType::Unknown, why)
            }
        };
        Ok(Response::new(pdpb::GetStoreResponse { header, store: found }))
    }

    async fn get_all_stores(
        &self,
        request: Request<pdpb::GetAllStoresRequest>,
    ) -> Result<Response<pdpb::GetAllStoresResponse>, Status> {
        let request = request.into_inner();
        let store = self.open(request.header.as_ref())?;
        let wanted = |s: &&flotilla_placement::StoreRecord| {
            !request.exclude_tombstone_stores || s.state != flotilla_placement::StoreState::Tombstone
        };
        let directory = store.directory().read();
        let stores = directory.stores.values().filter(wanted).map(client_store).collect();
        Ok(Response::new(pdpb::GetAllStoresResponse { header: self.header(), stores }))
    }

    async fn get_gc_safe_point(
        &self,
        request: Request<pdpb::GetGcSafePointRequest>,
    ) -> Result<Response<pdpb::GetGcSafePointResponse>, Status> {
        self.open(request.into_inner().header.as_ref())?;
        let safe_point = self.gc_safe_point.load(Ordering::Relaxed);
        Ok(Response::new(pdpb::GetGcSafePointResponse { header: self.header(), safe_point }))
    }

    /// Old versions of values do not exist here, so nothing depends on the safe point: it is remembered, by this
    /// process only, for clients that set one.
    async fn update_gc_safe_point(
        &self,
        request: Request<pdpb::UpdateGcSafePointRequest>,
    ) -> Result<Response<pdpb::UpdateGcSafePointResponse>, Status> {
        let request = request.into_inner();
        self.open(request.header.as_ref())?;
        let before = self.gc_safe_point.fetch_max(request.safe_point, Ordering::Relaxed);
        let new_safe_point = before.max(request.safe_point);
        Ok(Response::new(pdpb::UpdateGcSafePointResponse { header: self.header(), new_safe_point }))
    }
}

#[tonic::async_trait]
impl Keyspace for PdService {
    async fn load_keyspace(
        &self,
        request: Request<LoadKeyspaceRequest>,
    ) -> Result<Response<LoadKeyspaceResponse>, Status> {
        let request = request.into_inner();
        self.open(request.header.as_ref())?;
        let why = format!("keyspace {:?} does not exist: this cluster serves API version 1", request.name);
        let header = self.error_header(pdpb::ErrorType::EntryNotFound, why);
        Ok(Response::new(LoadKeyspaceResponse { header, keyspace: None }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_clusters_request_is_refused_in_pds_words() {
        let header = |cluster_id| pdpb::RequestHeader { cluster_id, ..Default::default() };
        assert!(check_cluster(None, ClusterId(7)).is_ok());
        assert!(check_cluster(Some(&header(7)), ClusterId(7)).is_ok());
        let status = check_cluster(Some(&header(9)), ClusterId(7)).unwrap_err();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert_eq!(status.message(), "mismatch cluster id, need 7 but got 9");
    }
}
