//! The network between stores: one long-lived stream of frames for each pair and direction, and a stream of its own for
//! each snapshot, over TCP connections of its own, so that it delays nothing else.
//!
//! A link's queue is bounded and drops what does not fit: Raft sends again. Connections come and go behind it.

mod link;
mod snapshot;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flotilla_proto::flotilla as pb;
use flotilla_raftstore::wire::StoreFrame;
use flotilla_raftstore::{SnapshotEvent, Store, StreamId, Transport};
use flotilla_region::StoreId;
use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};

use crate::metrics::Metrics;
use link::Link;

/// Largest message of any service.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How long a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// All connections from this store to others; cheap to clone.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Handle,
    metrics: Arc<Metrics>,
    queue_bytes_max: usize,
    store: OnceLock<Store>,
    links: RwLock<BTreeMap<StoreId, Arc<Link>>>,
    /// Parts of own snapshot streams on their way to the streams' tasks.
    snapshots: Mutex<BTreeMap<StreamId, mpsc::UnboundedSender<pb::SnapshotChunk>>>,
}

impl Network {
    /// No connections yet. `queue_bytes_max` bounds what waits for one other store.
    pub fn new(runtime: Handle, metrics: Arc<Metrics>, queue_bytes_max: usize) -> Self {
        let inner = Inner {
            runtime,
            metrics,
            queue_bytes_max,
            store: OnceLock::new(),
            links: RwLock::default(),
            snapshots: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Addresses come from this store from now on, and news go to it. Until then frames wait.
    pub fn attach(&self, store: Store) {
        // Called once, by the start.
        let _ = self.inner.store.set(store);
    }

    /// Whether the last attempt to reach a store failed and none has succeeded since.
    pub fn is_down(&self, store: StoreId) -> bool {
        self.inner.links.read().get(&store).is_some_and(|link| link.is_down())
    }

    fn link(&self, to: StoreId) -> Arc<Link> {
        if let Some(link) = self.inner.links.read().get(&to) {
            return link.clone();
        }
        let mut links = self.inner.links.write();
        let inner = self.inner.clone();
        let new = || {
            let link = Arc::new(Link::new(to, inner.queue_bytes_max));
            inner.runtime.spawn(link::run(inner.clone(), link.clone()));
            link
        };
        links.entry(to).or_insert_with(new).clone()
    }
}

impl Inner {
    fn address(&self, store: StoreId) -> Option<String> {
        self.store.get()?.directory().read().address(store).map(str::to_string)
    }

    fn tell(&self, event: SnapshotEvent) {
        if let Some(store) = self.store.get() {
            store.on_snapshot_event(event);
        }
    }
}

impl Transport for Network {
    fn send(&self, to: StoreId, frame: StoreFrame) {
        if !self.link(to).push(frame) {
            self.inner.metrics.frames_dropped.inc();
        }
    }

    fn snapshot_open(&self, stream: StreamId, to: StoreId, header: pb::SnapshotChunk) {
        let (send, parts) = mpsc::unbounded_channel();
        self.inner.snapshots.lock().insert(stream, send);
        self.inner.runtime.spawn(snapshot::run(self.inner.clone(), stream, to, header, parts));
    }

    fn snapshot_send(&self, stream: StreamId, chunk: pb::SnapshotChunk) {
        // A stream that broke meanwhile has said so.
        if let Some(parts) = self.inner.snapshots.lock().get(&stream) {
            let _ = parts.send(chunk);
        }
    }

    fn snapshot_close(&self, stream: StreamId) {
        self.inner.snapshots.lock().remove(&stream);
    }
}

/// Connects to the store at `address`.
///
/// # Errors
/// It does not answer, or the address is malformed.
pub async fn connect(address: &str) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true)
        .connect()
        .await
}
