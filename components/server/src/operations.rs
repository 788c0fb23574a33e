//! What an operator asks of the cluster besides changes of single regions: comparing replicas, draining stores, moving
//! replicas, compaction. Each is carried out by one store, to which the others forward it once.

use std::time::Duration;

use flotilla_placement::{MoveOrder, MovePhase, StoreState};
use flotilla_proto::flotilla as pb;
use flotilla_proto::flotilla::cluster_service_client::ClusterServiceClient;
use flotilla_raftstore::placement::{MoveError, StateError};
use flotilla_raftstore::{CheckReport, CheckedReplica, RequestError, Store, wire};
use flotilla_region::{RegionId, StoreId, keys};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::Request;
use tonic::transport::Channel;

use crate::transport;

/// How long an answer that should come by itself is waited for.
const PASSING_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Longest that a store that was asked instead may take.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(60);

/// Why an operation was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// Nobody knows it.
    #[error("region {0} does not exist")]
    NoRegion(RegionId),
    /// Nobody knows it.
    #[error("store {0} does not exist")]
    NoStore(StoreId),
    /// It is not known where the store is.
    #[error("store {0} has no known address")]
    NoAddress(StoreId),
    /// The store that should do it is not known, or was not the one asked.
    #[error("the {0} is changing: try again")]
    Changing(&'static str),
    /// The region's own words.
    #[error(transparent)]
    Region(#[from] RequestError),
    /// Placement's own words.
    #[error(transparent)]
    State(#[from] StateError),
    /// Placement's own words.
    #[error(transparent)]
    Move(#[from] MoveError),
    /// The disk's own words.
    #[error(transparent)]
    Engine(#[from] flotilla_engine::Error),
    /// Another store's words.
    #[error("{0}")]
    Elsewhere(String),
    /// Another store gave no answer.
    #[error("store {store}: {why}")]
    Forward {
        /// Which one.
        store: StoreId,
        /// The connection's words.
        why: String,
    },
}

impl OperationError {
    /// Whether trying again shortly may help.
    fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Changing(_)
                | Self::State(StateError::NotLeader)
                | Self::Move(MoveError::NotLeader)
                | Self::Region(
                    RequestError::NotLeader { .. } | RequestError::Stale | RequestError::RegionNotFound(_)
                )
        )
    }
}

/// Tries again while the reason is one that passes.
async fn patiently<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, OperationError>
where
    F: Future<Output = Result<T, OperationError>>,
{
    let give_up = Instant::now() + PASSING_TIMEOUT;
    loop {
        match attempt().await {
            Err(error) if error.is_passing() && Instant::now() < give_up => {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            result => return result,
        }
    }
}

async fn connect(store: &Store, to: StoreId) -> Result<ClusterServiceClient<Channel>, OperationError> {
    let address = store.directory().read().address(to).map(str::to_string);
    let address = address.ok_or(OperationError::NoAddress(to))?;
    let channel = transport::connect(&address).await;
    channel
        .map(ClusterServiceClient::new)
        .map_err(|error| OperationError::Forward { store: to, why: error.to_string() })
}

fn forwarded<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(FORWARD_TIMEOUT);
    request
}

/// The answer of a store that was asked instead, unless it says that it could not.
fn answer<R>(
    store: StoreId,
    answered: Result<tonic::Response<R>, tonic::Status>,
    error_of: impl Fn(&R) -> &str,
) -> Result<R, OperationError> {
    match answered.map(tonic::Response::into_inner) {
        Ok(reply) if error_of(&reply).is_empty() => Ok(reply),
        Ok(reply) => Err(OperationError::Elsewhere(error_of(&reply).to_string())),
        Err(status) => Err(OperationError::Forward { store, why: status.message().to_string() }),
    }
}

// ---- comparing replicas ----

/// Compares the replicas of a region.
pub async fn check(store: &Store, request: pb::CheckRequest) -> Result<pb::CheckReply, OperationError> {
    patiently(|| check_once(store, request)).await
}

async fn check_once(store: &Store, request: pb::CheckRequest) -> Result<pb::CheckReply, OperationError> {
    let id = RegionId(request.region_id);
    let info = store.directory().read().routes.by_id(id).cloned().ok_or(OperationError::NoRegion(id))?;
    match info.leader_store() {
        Some(leader) if leader == store.id().1 || request.forwarded => {
            let (tell, told) = oneshot::channel();
            store.check(id, Box::new(move |report| drop(tell.send(report))));
            let report = told.await.unwrap_or(Err(RequestError::Stale))?;
            Ok(check_reply(&report))
        }
        Some(leader) => {
            let mut client = connect(store, leader).await?;
            let request = forwarded(pb::CheckRequest { forwarded: true, ..request });
            answer(leader, client.check(request).await, |reply| &reply.error)
        }
        None => Err(OperationError::Changing("leader of the region")),
    }
}

fn check_reply(report: &CheckReport) -> pb::CheckReply {
    let replica = |replica: &CheckedReplica| {
        let digest = replica.digest.unwrap_or_default();
        pb::CheckedReplica {
            peer: Some(wire::peer_to_wire(&replica.peer)),
            has_digest: replica.digest.is_some(),
            crc: digest.crc,
            keys: digest.keys,
            bytes: digest.bytes,
            is_odd: replica.is_odd,
        }
    };
    pb::CheckReply {
        error: String::new(),
        index: report.index.0,
        replicas: report.replicas.iter().map(replica).collect(),
    }
}

// ---- draining stores ----

/// Has a store drained and removed, or lets it stay after all.
pub async fn set_store_state(store: &Store, request: pb::StoreStateRequest) -> Result<(), OperationError> {
    patiently(|| set_state_once(store, request)).await
}

async fn set_state_once(store: &Store, request: pb::StoreStateRequest) -> Result<(), OperationError> {
    let id = StoreId(request.store_id);
    if !store.directory().read().stores.contains_key(&id) {
        return Err(OperationError::NoStore(id));
    }
    let leader = store.directory().read().meta_leader();
    match leader {
        Some(leader) if leader == store.id().1 || request.forwarded => {
            let (tell, told) = oneshot::channel();
            let state = if request.drain { StoreState::Offline } else { StoreState::Up };
            // A caller that went away needs no answer.
            let done = Box::new(move |result| tell.send(result).unwrap_or(()));
            store.set_store_state(id, state, done);
            Ok(told.await.unwrap_or(Err(StateError::NotLeader))?)
        }
        Some(leader) => {
            let mut client = connect(store, leader).await?;
            let request = forwarded(pb::StoreStateRequest { forwarded: true, ..request });
            answer(leader, client.store_state(request).await, |reply| &reply.error).map(drop)
        }
        None => Err(OperationError::Changing("placement leader")),
    }
}

// ---- moving replicas ----

/// Has a replica moved, or tells how far that is.
pub async fn move_peer(store: &Store, request: pb::MoveRequest) -> pb::MoveReply {
    match patiently(|| move_once(store, request)).await {
        Ok(reply) => reply,
        Err(error) => {
            let is_passing = error.is_passing() || matches!(error, OperationError::Forward { .. });
            pb::MoveReply { error: error.to_string(), is_passing, ..Default::default() }
        }
    }
}

async fn move_once(store: &Store, request: pb::MoveRequest) -> Result<pb::MoveReply, OperationError> {
    let leader = store.directory().read().meta_leader();
    match leader {
        Some(leader) if leader == store.id().1 || request.forwarded => {
            let order = MoveOrder {
                region: RegionId(request.region_id),
                from: StoreId(request.from_store),
                to: StoreId(request.to_store),
            };
            let (tell, told) = oneshot::channel();
            // A caller that went away needs no answer.
            store.move_peer(order, Box::new(move |result| tell.send(result).map_or((), |()| ())));
            let phase = told.await.unwrap_or(Err(MoveError::NotLeader))?;
            let is_done = phase == MovePhase::Done;
            Ok(pb::MoveReply { phase: phase.to_string(), is_done, ..Default::default() })
        }
        Some(leader) => {
            let mut client = connect(store, leader).await?;
            let moved = client.r#move(forwarded(pb::MoveRequest { forwarded: true, ..request })).await;
            // What is wrong with the order itself is part of the answer.
            answer(leader, moved, |_| "")
        }
        None => Err(OperationError::Changing("placement leader")),
    }
}

// ---- compaction ----

/// Compacts a store's files, or those of one region.
pub async fn compact(store: &Store, request: pb::CompactRequest) -> Result<(), OperationError> {
    let to = StoreId(request.store_id);
    if to != StoreId::ZERO && to != store.id().1 && !request.forwarded {
        let mut client = connect(store, to).await?;
        let request = forwarded(pb::CompactRequest { forwarded: true, ..request });
        return answer(to, client.compact(request).await, |reply| &reply.error).map(drop);
    }
    let (start, end) = match RegionId(request.region_id) {
        RegionId::ZERO => (vec![0], vec![0xFF]),
        id => {
            let directory = store.directory().read();
            let info = directory.routes.by_id(id).ok_or(OperationError::NoRegion(id))?;
            keys::data_bounds(info.region.space, &info.region.range)
        }
    };
    let engine = store.engine().clone();
    let work = tokio::task::spawn_blocking(move || engine.compact(&start, &end));
    Ok(work.await.unwrap_or(Ok(()))?)
}
