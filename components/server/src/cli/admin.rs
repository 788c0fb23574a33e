//! Administration: the cluster's own service, through any of its stores.

use std::time::Duration;

use flotilla_proto::flotilla::admin_request::Command;
use flotilla_proto::flotilla::cluster_service_client::ClusterServiceClient;
use flotilla_proto::flotilla::{
    AdminRequest, CheckReply, CheckRequest, CompactRequest, MoveReply, MoveRequest, RegionInfo,
    RegionsRequest, StoreInfo, StoreStateRequest, StoresRequest,
};
use flotilla_proto::metapb;
use flotilla_router::{Endpoints, Failover};

use super::error::CliError;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Longest wait for an answer; a membership change waits for a snapshot.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Descriptions of tens of thousands of regions.
const REPLY_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Looks at a cluster and changes it.
#[derive(Debug)]
pub struct Admin {
    endpoints: Endpoints,
}

impl Admin {
    /// Through any of these stores; nothing is connected yet. Every answer is waited for as long as `timeout`, or half a
    /// minute.
    ///
    /// # Errors
    /// No address, or one that is not `host:port`.
    pub fn new<S: AsRef<str>>(addresses: &[S], timeout: Option<Duration>) -> Result<Self, CliError> {
        let answer = timeout.unwrap_or(ANSWER_TIMEOUT);
        Ok(Self { endpoints: Endpoints::new(addresses, CONNECT_TIMEOUT.min(answer), answer)? })
    }

    /// All stores, by id.
    ///
    /// # Errors
    /// No store answered.
    pub async fn stores(&self) -> Result<Vec<StoreInfo>, CliError> {
        let call = self.endpoints.call(Failover::Always, |channel| async move {
            let mut client = ClusterServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
            client.stores(StoresRequest {}).await
        });
        let mut stores = call.await?.stores;
        stores.sort_by_key(|info| info.store.as_ref().map(|store| store.id));
        Ok(stores)
    }

    /// The region with this id, or all of them (0) in key order.
    ///
    /// # Errors
    /// No store answered.
    pub async fn regions(&self, id: u64) -> Result<Vec<RegionInfo>, CliError> {
        let call = self.endpoints.call(Failover::Always, |channel| async move {
            let mut client = ClusterServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
            client.regions(RegionsRequest { id, forwarded: false }).await
        });
        let mut regions = call.await?.regions;
        regions.sort_by(|a, b| order(a).cmp(&order(b)));
        Ok(regions)
    }

    /// Has the region's leader carry out a command; returns the regions that it left.
    ///
    /// # Errors
    /// [`CliError::Refused`] with the leader's reason, or no store answered. A command that was sent is never sent
    /// again: look before repeating it.
    pub async fn command(&self, region_id: u64, command: Command) -> Result<Vec<metapb::Region>, CliError> {
        let request = AdminRequest { region_id, command: Some(command), forwarded: false };
        let call = self.endpoints.call(Failover::BeforeSending, |channel| {
            let request = request.clone();
            async move { ClusterServiceClient::new(channel).admin(request).await }
        });
        let reply = call.await?;
        if reply.error.is_empty() {
            Ok(reply.regions)
        } else {
            Err(CliError::Refused { message: reply.error })
        }
    }

    /// Has the leader compare the region's replicas.
    ///
    /// # Errors
    /// [`CliError::Refused`], or no store answered.
    pub async fn check(&self, region_id: u64) -> Result<CheckReply, CliError> {
        let call = self.endpoints.call(Failover::Always, |channel| async move {
            ClusterServiceClient::new(channel).check(CheckRequest { region_id, forwarded: false }).await
        });
        let reply = call.await?;
        if reply.error.is_empty() { Ok(reply) } else { Err(CliError::Refused { message: reply.error }) }
    }

    /// Has a store drained and removed, or kept after all.
    ///
    /// # Errors
    /// [`CliError::Refused`], or no store answered.
    pub async fn drain(&self, store_id: u64, drain: bool) -> Result<(), CliError> {
        let request = StoreStateRequest { store_id, drain, forwarded: false };
        let call = self.endpoints.call(Failover::Always, |channel| async move {
            ClusterServiceClient::new(channel).store_state(request).await
        });
        done(call.await?.error)
    }

    /// Has a replica moved, or asks how far that is; ask until it is done or refused.
    ///
    /// # Errors
    /// No store answered. What the cluster says is in the reply.
    pub async fn move_peer(
        &self,
        region_id: u64,
        from_store: u64,
        to_store: u64,
    ) -> Result<MoveReply, CliError> {
        let request = MoveRequest { region_id, from_store, to_store, forwarded: false };
        let call = self.endpoints.call(Failover::Always, |channel| async move {
            ClusterServiceClient::new(channel).r#move(request).await
        });
        Ok(call.await?)
    }

    /// Has a store compact its files, all of them or those of one region.
    ///
    /// # Errors
    /// [`CliError::Refused`], or no store answered.
    pub async fn compact(&self, store_id: u64, region_id: u64) -> Result<(), CliError> {
        let request = CompactRequest { region_id, store_id, forwarded: false };
        let call = self.endpoints.call(Failover::Always, |channel| async move {
            ClusterServiceClient::new(channel).compact(request).await
        });
        done(call.await?.error)
    }
}

fn done(error: String) -> Result<(), CliError> {
    if error.is_empty() { Ok(()) } else { Err(CliError::Refused { message: error }) }
}

/// The meta region first, then by start key.
fn order(info: &RegionInfo) -> Option<(bool, &[u8])> {
    info.region.as_ref().map(|region| (!region.meta_space, &region.start_key[..]))
}
