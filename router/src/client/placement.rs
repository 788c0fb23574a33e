//! What the client asks placement.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use flotilla_proto::metapb;
use flotilla_proto::pdpb::{self, pd_client::PdClient};
use flotilla_region::StoreId;
use tonic::transport::Channel;

use super::call::Failure;
use super::endpoints::{EndpointError, Endpoints, Failover};
use crate::error::Error;
use crate::retry::FailureKind;

/// Replies of many regions are larger than tonic's default of 4 MiB.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Placement {
    endpoints: Endpoints,
    /// 0 until the first reply; sent along ever after, so that a stranger's answer is an error.
    cluster_id: AtomicU64,
}

impl Placement {
    pub(super) fn new(endpoints: Endpoints) -> Self {
        Self { endpoints, cluster_id: AtomicU64::new(0) }
    }

    pub(super) fn cluster_id(&self) -> u64 {
        self.cluster_id.load(Ordering::Relaxed)
    }

    /// Learns the cluster's id and the addresses of its other members.
    pub(super) async fn discover(&self) -> Result<(), Failure> {
        let reply = self
            .call(|mut pd| async move { pd.get_members(pdpb::GetMembersRequest { header: None }).await })
            .await?;
        self.check(&reply.header)?;
        let cluster_id = reply.header.map_or(0, |header| header.cluster_id);
        if cluster_id == 0 {
            return Err(Failure::of(FailureKind::NoPlacement));
        }
        self.cluster_id.store(cluster_id, Ordering::Relaxed);
        self.endpoints.learn(reply.members.into_iter().flat_map(|member| member.client_urls));
        Ok(())
    }

    /// Up to `limit` regions in key order, the first of which holds `start`.
    pub(super) async fn scan_regions(&self, start: Bytes, limit: i32) -> Result<Vec<pdpb::Region>, Failure> {
        let request = pdpb::ScanRegionsRequest {
            header: self.header(),
            start_key: start,
            limit,
            end_key: Bytes::new(),
        };
        let reply = self
            .call(|mut pd| {
                let request = request.clone();
                async move { pd.scan_regions(request).await }
            })
            .await?;
        self.check(&reply.header)?;
        if !reply.regions.is_empty() {
            return Ok(reply.regions);
        }
        let leaders = reply.leaders.into_iter().map(Some).chain(std::iter::repeat(None));
        let regions = reply.region_metas.into_iter().zip(leaders);
        Ok(regions
            .map(|(region, leader)| pdpb::Region { region: Some(region), leader, pending_peers: Vec::new() })
            .collect())
    }

    /// The region that holds the keys just below `bound`, which is not empty.
    pub(super) async fn region_before(&self, bound: Bytes) -> Result<Option<pdpb::Region>, Failure> {
        let request =
            pdpb::GetRegionRequest { header: self.header(), region_key: bound.clone(), need_buckets: false };
        let reply = self
            .call(|mut pd| {
                let request = request.clone();
                async move { pd.get_region(request).await }
            })
            .await?;
        self.check(&reply.header)?;
        let reply = match &reply.region {
            Some(region) if region.start_key < bound => reply,
            _ => {
                let reply = self
                    .call(|mut pd| {
                        let request = request.clone();
                        async move { pd.get_prev_region(request).await }
                    })
                    .await?;
                self.check(&reply.header)?;
                reply
            }
        };
        Ok(reply.region.map(|region| pdpb::Region {
            region: Some(region),
            leader: reply.leader,
            pending_peers: reply.pending_peers,
        }))
    }

    /// Address of a store; `None` if placement does not know it or it is gone for good.
    pub(super) async fn store_address(&self, store: StoreId) -> Result<Option<String>, Failure> {
        let request = pdpb::GetStoreRequest { header: self.header(), store_id: store.get() };
        let reply = self
            .call(|mut pd| {
                let request = request.clone();
                async move { pd.get_store(request).await }
            })
            .await?;
        self.check(&reply.header)?;
        let live =
            reply.store.filter(|s| s.state() != metapb::StoreState::Tombstone && !s.address.is_empty());
        Ok(live.map(|store| store.address))
    }

    pub(super) async fn all_stores(&self) -> Result<Vec<metapb::Store>, Failure> {
        let request = pdpb::GetAllStoresRequest { header: self.header(), exclude_tombstone_stores: false };
        let reply = self
            .call(|mut pd| {
                let request = request.clone();
                async move { pd.get_all_stores(request).await }
            })
            .await?;
        self.check(&reply.header)?;
        Ok(reply.stores)
    }

    async fn call<R, F, Fut>(&self, call: F) -> Result<R, Failure>
    where
        F: Fn(PdClient<Channel>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<R>, tonic::Status>>,
    {
        let reply = self
            .endpoints
            .call(Failover::Always, |channel| {
                call(PdClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX))
            })
            .await;
        reply.map_err(|error| match error {
            EndpointError::Status(status) if !super::endpoints::is_transport_failure(status.code()) => {
                Failure::fatal(Error::Status(status))
            }
            _ => Failure::of(FailureKind::NoPlacement),
        })
    }

    fn header(&self) -> Option<pdpb::RequestHeader> {
        Some(pdpb::RequestHeader { cluster_id: self.cluster_id(), ..Default::default() })
    }

    fn check(&self, header: &Option<pdpb::ResponseHeader>) -> Result<(), Failure> {
        let error = header.as_ref().and_then(|header| header.error.as_ref());
        match error.filter(|error| error.r#type() != pdpb::ErrorType::Ok) {
            Some(error) => {
                tracing::debug!(error = error.message, "placement has no answer yet");
                Err(Failure::of(FailureKind::NoPlacement))
            }
            None => Ok(()),
        }
    }
}
