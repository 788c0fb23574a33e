//! What all services of the process share: who it is, and its store once that is open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_proto::{flotilla as pb, metapb};
use flotilla_raftstore::{FORMAT, Store};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Status;

use crate::config::ServerSection;
use crate::metrics::Metrics;
use crate::transport::Network;

/// Version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Commit that the program was built from.
pub const COMMIT: &str = env!("FLOTILLA_COMMIT");

/// Other stores wait so long for one that is opening: it has joined, so they know it before it can listen to them.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// One process.
pub struct Node {
    /// Where it listens, as others should know it.
    pub address: String,
    /// Where its status page is.
    pub status_address: String,
    /// Where it is and what it is.
    labels: Vec<metapb::StoreLabel>,
    /// Identity of its disk, drawn once.
    pub uuid: Bytes,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Connections to other stores.
    pub network: Network,
    /// When the process started.
    pub started: Instant,
    store: OnceLock<Store>,
    opened: watch::Sender<bool>,
    /// Set once everything that was here at the start serves.
    ready: AtomicBool,
    /// The process is on its way out.
    stopping: AtomicBool,
}

impl Node {
    /// A process whose store is not open yet.
    pub fn new(config: &ServerSection, uuid: Bytes, metrics: Arc<Metrics>, network: Network) -> Self {
        let label =
            |(key, value): (&String, &String)| metapb::StoreLabel { key: key.clone(), value: value.clone() };
        Self {
            address: config.advertised().to_string(),
            status_address: config.status_addr.clone(),
            labels: config.labels.iter().map(label).collect(),
            uuid,
            metrics,
            network,
            started: Instant::now(),
            store: OnceLock::new(),
            opened: watch::Sender::new(false),
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    /// The store is open: services answer from now on.
    pub fn attach(&self, store: Store) {
        self.network.attach(store.clone());
        // Called once, by the start.
        let _ = self.store.set(store);
        self.opened.send_replace(true);
    }

    /// The store, as soon as it is open.
    ///
    /// # Errors
    /// `UNAVAILABLE` if that takes too long.
    pub async fn wait_store(&self) -> Result<&Store, Status> {
        let mut opened = self.opened.subscribe();
        // Either way the store itself tells.
        let _ = timeout(OPEN_TIMEOUT, opened.wait_for(|is_open| *is_open)).await;
        self.store()
    }

    /// The store, if it is open.
    pub fn open_store(&self) -> Option<&Store> {
        self.store.get()
    }

    /// The store.
    ///
    /// # Errors
    /// `UNAVAILABLE` while it is not open.
    pub fn store(&self) -> Result<&Store, Status> {
        self.store.get().ok_or_else(|| Status::unavailable("the store is not initialised yet"))
    }

    /// What the process says about itself to the cluster.
    pub fn join_request(&self) -> pb::JoinRequest {
        pb::JoinRequest {
            uuid: self.uuid.clone(),
            address: self.address.clone(),
            status_address: self.status_address.clone(),
            labels: self.labels.clone(),
            version: VERSION.to_string(),
            format_max: FORMAT,
        }
    }

    /// What the process answers to whoever asks who it is.
    pub fn identity(&self) -> pb::IdentifyReply {
        let (cluster, store) = self.store.get().map(Store::id).unwrap_or_default();
        pb::IdentifyReply {
            cluster_id: cluster.0,
            store_id: store.0,
            address: self.address.clone(),
            uuid: self.uuid.clone(),
        }
    }

    /// Whether everything that was here at the start serves.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.stopping.load(Ordering::Acquire)
    }

    /// Everything serves.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// The process is on its way out.
    pub fn set_stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }
}
