//! A cluster in this process for tests of clients: placement and raw service on loopback over one shared map, with
//! regions, epochs and leaders checked as a store checks them, and faults on demand. Behind the feature `testing`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests' own wiring: sockets and runtimes"
)]

mod admin;
mod placement;
mod raw;
mod state;

use std::sync::Arc;

use flotilla_proto::errorpb;
use flotilla_proto::flotilla::cluster_service_server::ClusterServiceServer;
use flotilla_proto::pdpb::pd_server::PdServer;
use flotilla_proto::tikvpb::tikv_server::TikvServer;
use parking_lot::{Mutex, MutexGuard};
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;

pub use state::{Fault, State};

/// A cluster of stores that share their data. Stores end with the value.
#[derive(Debug)]
pub struct FakeCluster {
    state: Arc<Mutex<State>>,
    stores: Vec<Option<Runtime>>,
}

/// The services of one store.
#[derive(Clone, Debug)]
struct Service {
    store: u64,
    state: Arc<Mutex<State>>,
}

impl FakeCluster {
    /// Starts `count` stores on free ports of 127.0.0.1 with one region over everything below the sentinel.
    ///
    /// # Panics
    /// If no port can be had.
    pub fn start(count: u64) -> Self {
        let mut cluster = Self { state: Arc::new(Mutex::new(State::default())), stores: Vec::new() };
        for store in 1..=count {
            let address = cluster.serve(store, "127.0.0.1:0");
            cluster.state.lock().add_store(store, address);
        }
        cluster.state.lock().bootstrap();
        cluster
    }

    fn serve(&mut self, store: u64, address: &str) -> String {
        let listener = std::net::TcpListener::bind(address).expect("a free port");
        listener.set_nonblocking(true).expect("a socket option");
        let address = listener.local_addr().expect("it is bound").to_string();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let service = Service { store, state: self.state.clone() };
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let limit = 64 * 1024 * 1024;
            let served = tonic::transport::Server::builder()
                .add_service(PdServer::new(service.clone()))
                .add_service(TikvServer::new(service.clone()).max_decoding_message_size(limit))
                .add_service(ClusterServiceServer::new(service))
                .serve_with_incoming(TcpIncoming::from(listener))
                .await;
            served.expect("the server runs");
        });
        self.stores.push(Some(runtime));
        address
    }

    /// Addresses of all stores, in order of id.
    pub fn addresses(&self) -> Vec<String> {
        self.state().stores.values().map(|store| store.address.clone()).collect()
    }

    /// The cluster's facts and data, to look at or to change.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Makes the next `times` raw requests that would succeed fail with `error`, unapplied.
    pub fn inject(&self, error: errorpb::Error, times: usize) {
        self.state().faults.extend(std::iter::repeat_n(Fault::Refuse(Box::new(error)), times));
    }

    /// Ends a store: its connections break, its address refuses. Its regions get another leader if `elect`.
    pub fn kill(&mut self, store: u64, elect: bool) {
        if let Some(runtime) = self.stores[usize::try_from(store).expect("small") - 1].take() {
            runtime.shutdown_background();
        }
        if elect {
            self.state().move_leaders_from(store);
        }
    }

    /// Starts a killed store again at a new port.
    pub fn restart(&mut self, store: u64) {
        let address = self.serve(store, "127.0.0.1:0");
        let runtime = self.stores.pop().expect("pushed by serve");
        self.stores[usize::try_from(store).expect("small") - 1] = runtime;
        self.state().add_store(store, address);
    }
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        for runtime in self.stores.iter_mut().filter_map(Option::take) {
            runtime.shutdown_background();
        }
    }
}
