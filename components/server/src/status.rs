//! The status address: metrics, a summary for people and machines, and readiness.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use flotilla_placement::StoreStats;
use flotilla_raftstore::{PeerStatus, Store};
use serde_json::json;

use crate::cluster_service::statuses;
use crate::node::{COMMIT, Node, VERSION};
use crate::watchdog::Pulse;

/// How often readiness is looked at until it is reached.
const READY_STEP: Duration = Duration::from_millis(50);
/// How often placement is told how full the disk is.
const LOAD_INTERVAL: Duration = Duration::from_secs(5);

/// The pages.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/ready", get(ready))
        .with_state(node)
}

async fn metrics(State(node): State<Arc<Node>>) -> String {
    node.metrics.page(node.open_store())
}

async fn ready(State(node): State<Arc<Node>>) -> (StatusCode, &'static str) {
    if node.is_ready() { (StatusCode::OK, "true\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "false\n") }
}

async fn status(State(node): State<Arc<Node>>) -> Json<serde_json::Value> {
    let replicas = match node.open_store() {
        Some(store) => statuses(store).await,
        None => Vec::new(),
    };
    let (cluster, store) = node.open_store().map(Store::id).unwrap_or_default();
    Json(json!({
        "version": VERSION,
        "commit": COMMIT,
        "cluster_id": cluster.0,
        "store_id": store.0,
        "address": node.address,
        "ready": node.is_ready(),
        "regions": replicas.len(),
        "leaders": replicas.iter().filter(|replica| replica.is_leader).count(),
        "uptime_seconds": node.started.elapsed().as_secs(),
    }))
}

/// Waits until every replica found on disk serves or follows a leader with everything committed applied, and the routes
/// say who leads it; then says so.
pub async fn watch_ready(node: Arc<Node>, store: Store) {
    loop {
        let asked = Instant::now();
        let replicas = statuses(&store).await;
        let is_routed = |replica: &PeerStatus| {
            let directory = store.directory().read();
            directory.routes.by_id(replica.region.id).is_some_and(|known| known.leader.is_some())
        };
        if replicas.iter().all(|replica| is_new(replica) || (has_caught_up(replica) && is_routed(replica))) {
            node.set_ready();
            return;
        }
        // With many replicas a look takes its time, from the workers that get them ready.
        tokio::time::sleep(READY_STEP.max(asked.elapsed() * 4)).await;
    }
}

/// A replica that still waits for its first snapshot was not here at the start.
fn is_new(replica: &PeerStatus) -> bool {
    replica.region.peers.is_empty()
}

fn has_caught_up(replica: &PeerStatus) -> bool {
    let leads = replica.is_leader && replica.applied.term == replica.term;
    let follows = !replica.is_leader && !replica.leader.is_zero() && replica.applied.index >= replica.commit;
    leads || follows
}

/// Tells placement how full the store is and how fast its log, for as long as the process lives.
pub async fn report_load(store: Store, dir: std::path::PathBuf, log: Pulse) {
    let syncs = || store.counters().log_syncs.load(Ordering::Relaxed);
    let mut before = (log.busy_us(), syncs());
    loop {
        let now = (log.busy_us(), syncs());
        let log_sync_us = (now.0 - before.0).checked_div(now.1 - before.1).unwrap_or(0);
        before = now;
        let disk = rustix::fs::statvfs(&dir).ok();
        store.set_load(StoreStats {
            capacity_bytes: disk.as_ref().map_or(0, |disk| disk.f_blocks * disk.f_frsize),
            available_bytes: disk.as_ref().map_or(0, |disk| disk.f_bavail * disk.f_frsize),
            region_count: store.region_count() as u32,
            log_sync_us,
            ..StoreStats::default()
        });
        tokio::time::sleep(LOAD_INTERVAL).await;
    }
}
