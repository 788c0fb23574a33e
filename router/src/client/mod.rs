//! The client: an asynchronous shell around the pure parts.

mod batch;
mod call;
mod endpoints;
mod placement;
mod raw;
mod request;
mod scan;
mod stores;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_proto::{metapb, pdpb};
use parking_lot::Mutex;

pub use endpoints::{EndpointError, Endpoints, Failover};
pub use raw::{Checksum, CompareAndSwap, KeyTtl};
pub use scan::{Pair, Scan, Scanner};

use crate::error::Result;
use crate::region_cache::RegionCache;
use crate::retry::{CallClass, RetryPolicy};
use placement::Placement;
use stores::Stores;

/// How a client behaves. The defaults suit a cluster on one network.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// How long and how often a call is tried.
    pub retry: RetryPolicy,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the reply to one attempt.
    pub rpc_timeout: Duration,
    /// Requests of one batch call that are under way at once.
    pub batch_concurrency_max: usize,
    /// Bytes of keys and values in one request of a batch call; a single pair may be larger.
    pub batch_bytes_max: usize,
    /// Keys in one request of a batch call.
    pub batch_keys_max: usize,
    /// Seed of the jitter between attempts; clients should differ.
    pub seed: u64,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            retry: RetryPolicy::default(),
            connect_timeout: Duration::from_millis(1_000),
            rpc_timeout: Duration::from_millis(3_000),
            batch_concurrency_max: 16,
            batch_bytes_max: 1024 * 1024,
            batch_keys_max: 1024,
            seed: 0,
        }
    }
}

/// A client of a cluster: cheap to clone, shared by any number of tasks. Regions and connections are kept and
/// shared between clones.
///
/// Every call tries again until it succeeds, cannot succeed, or its budget ends ([`RetryPolicy`]); a write whose
/// outcome is unknown says so ([`crate::Error::Undetermined`]).
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: ClientOptions,
    cache: Mutex<RegionCache>,
    /// Held while regions are loaded, so that callers who miss the same region ask for it once.
    loading: tokio::sync::Mutex<()>,
    placement: Placement,
    stores: Stores,
    /// Calls so far: each gets a seed of its own.
    calls: AtomicU64,
}

impl Client {
    /// Connects to a cluster through any of `addresses` (`host:port`), with default options. Addresses that do not
    /// answer are passed over, and the cluster's other members become known.
    ///
    /// # Errors
    /// No address answered within the budget, or the list is empty or malformed.
    pub async fn connect<S: AsRef<str>>(addresses: &[S]) -> Result<Self> {
        Self::connect_with(addresses, ClientOptions::default()).await
    }

    /// As [`Client::connect`], with options.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect_with<S: AsRef<str>>(addresses: &[S], options: ClientOptions) -> Result<Self> {
        let endpoints = Endpoints::new(addresses, options.connect_timeout, options.rpc_timeout)?;
        let client = Self {
            inner: Arc::new(Inner {
                cache: Mutex::new(RegionCache::new()),
                loading: tokio::sync::Mutex::new(()),
                placement: Placement::new(endpoints),
                stores: Stores::new(options.connect_timeout),
                calls: AtomicU64::new(0),
                options,
            }),
        };
        client.retry(CallClass::Read, || client.inner.placement.discover()).await?;
        Ok(client)
    }

    /// Id of the cluster.
    pub fn cluster_id(&self) -> u64 {
        self.inner.placement.cluster_id()
    }

    /// All stores of the cluster as placement knows them.
    ///
    /// # Errors
    /// Placement did not answer within the budget.
    pub async fn stores(&self) -> Result<Vec<metapb::Store>> {
        self.retry(CallClass::Read, || self.inner.placement.all_stores()).await
    }

    /// All regions of the user key space in key order, as placement knows them now.
    ///
    /// # Errors
    /// Placement did not answer within the budget.
    pub async fn regions(&self) -> Result<Vec<pdpb::Region>> {
        const PAGE: i32 = 1024;
        let mut regions: Vec<pdpb::Region> = Vec::new();
        let mut start = bytes::Bytes::new();
        loop {
            let page = self
                .retry(CallClass::Read, || self.inner.placement.scan_regions(start.clone(), PAGE))
                .await?;
            let Some(end) = page.last().and_then(|r| r.region.as_ref()).map(|r| r.end_key.clone()) else {
                return Ok(regions);
            };
            regions.extend(page);
            if end.is_empty() || end <= start {
                return Ok(regions);
            }
            start = end;
        }
    }

    /// Number of regions in the cache.
    pub fn cached_regions(&self) -> usize {
        self.inner.cache.lock().len()
    }

    fn next_seed(&self) -> u64 {
        self.inner.options.seed.wrapping_add(self.inner.calls.fetch_add(1, Ordering::Relaxed))
    }
}
