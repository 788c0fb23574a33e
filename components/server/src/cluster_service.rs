//! The cluster's own administration: who is who, joining, and what `flotilla ctl` asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flotilla_placement::{Rates, RegionInfo, RouteTable};
use flotilla_proto::flotilla as pb;
use flotilla_proto::flotilla::admin_request::Command;
use flotilla_proto::flotilla::cluster_service_client::ClusterServiceClient;
use flotilla_proto::flotilla::cluster_service_server::ClusterService;
use flotilla_raftstore::placement::record_to_wire;
use flotilla_raftstore::{
    AdminCommand, EventKind, PeerChange, PeerStatus, RegionEvent, RequestError, Store, wire,
};
use flotilla_region::{Peer, PeerId, PeerRole, Region, RegionId, StoreId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use crate::node::Node;
use crate::operations::{self, OperationError};
use crate::transport;

/// Longest time that a command may take, a new replica's snapshot included.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(28);
/// A refusal that should end by itself is believed after so long.
const PASSING_TIMEOUT: Duration = Duration::from_secs(5);
/// A leader that hands over gives up after one election timeout; then there is the report of the new one.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(4);
/// How long another store's word on a region is waited for.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause before a step that was refused for now is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for the placement runtime to answer a store that joins.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Answered to a store that forwarded a command to one that does not lead the region.
const NOT_HERE: Code = Code::FailedPrecondition;

/// Refusals of a region's leader that end by themselves.
const PASSING_REFUSALS: [&str; 9] = [
    "a replica is not well",
    "leadership is being handed over",
    "the source changed its shape: merge undone",
    "the leader is new: try again",
    "a split is under way",
    "another membership change is under way",
    "no region ids at hand: try again",
    "the learner has not caught up",
    "the region would lose its quorum of healthy voters",
];

/// The service.
pub struct ClusterAdmin {
    node: Arc<Node>,
}

impl ClusterAdmin {
    /// Of this process.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    /// Other stores of which this one has heard nothing for so long that placement would take them for dead. A process
    /// that has just started has not heard of anybody.
    fn silent_stores(&self, store: &Store) -> BTreeSet<StoreId> {
        let limit = store.config().placement.store_silent_ms;
        let up_ms = u64::try_from(self.node.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (now, me) = (store.clock().now(), store.id().1);
        let directory = store.directory().read();
        let is_silent = |id: &StoreId| {
            *id != me && directory.last_heard.get(id).map_or(up_ms, |at| now.ms_since(*at)) >= limit
        };
        directory.stores.keys().copied().filter(is_silent).collect()
    }

    /// Carries a command out on the region's leader: here, or by asking the leader's store, once.
    async fn admin(&self, store: &Store, request: pb::AdminRequest) -> Result<Vec<Region>, AdminError> {
        let id = RegionId(request.region_id);
        let give_up = Instant::now() + PASSING_TIMEOUT;
        for attempt in 0.. {
            let info = store.directory().read().routes.by_id(id).cloned().ok_or(AdminError::NoRegion(id))?;
            let result = match info.leader_store() {
                Some(leader) if leader == store.id().1 => {
                    run(store, &info.region, request.command.as_ref(), attempt > 0).await
                }
                // Whoever forwarded it looks again who leads.
                _ if request.forwarded => return Err(AdminError::NotHere(id)),
                Some(leader) => self.forward(store, leader, request.clone()).await,
                None => Err(RequestError::NotLeader { region: id, leader: None }.into()),
            };
            match result {
                Err(AdminError::Region(RequestError::NotLeader { .. })) if request.forwarded => {
                    return Err(AdminError::NotHere(id));
                }
                Err(error) if error.is_passing() && Instant::now() < give_up => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                result => return result,
            }
        }
        Err(AdminError::NotHere(id))
    }

    async fn forward(
        &self,
        store: &Store,
        leader: StoreId,
        request: pb::AdminRequest,
    ) -> Result<Vec<Region>, AdminError> {
        let id = RegionId(request.region_id);
        let address = store.directory().read().address(leader).map(str::to_string);
        let address = address.ok_or(AdminError::NoAddress(leader))?;
        let failed = |why: String| AdminError::Forward { store: leader, why };
        let channel = transport::connect(&address).await.map_err(|error| failed(error.to_string()))?;
        let mut request = Request::new(pb::AdminRequest { forwarded: true, ..request });
        request.set_timeout(ADMIN_TIMEOUT);
        let reply = match ClusterServiceClient::new(channel).admin(request).await {
            Ok(reply) => reply.into_inner(),
            Err(status) if status.code() == NOT_HERE => return Err(AdminError::NotHere(id)),
            Err(status) => return Err(failed(status.message().to_string())),
        };
        if reply.error.is_empty() {
            Ok(reply.regions.iter().map(wire::region_from_wire).collect())
        } else {
            Err(AdminError::Elsewhere(reply.error))
        }
    }
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
enum AdminError {
    #[error("region {0} does not exist")]
    NoRegion(RegionId),
    #[error("the request names no command")]
    NoCommand,
    #[error("region {region} has no peer on store {store}")]
    NoPeer { region: RegionId, store: StoreId },
    #[error("region {region} has a peer on store {store} already")]
    HasPeer { region: RegionId, store: StoreId },
    #[error("store {store} did not take region {region} over")]
    NotTakenOver { region: RegionId, store: StoreId },
    #[error("store {0} does not exist")]
    NoStore(StoreId),
    #[error("store {0} has no known address")]
    NoAddress(StoreId),
    #[error("store {store}: {why}")]
    Forward { store: StoreId, why: String },
    #[error("{0}")]
    Elsewhere(String),
    #[error("no ids at hand: the placement leader does not answer")]
    NoIds,
    /// A forwarded command reached a store that does not lead the region: surely not carried out.
    #[error("the leader of region {0} is changing")]
    NotHere(RegionId),
    #[error("{}", reason(.0))]
    Region(#[from] RequestError),
}

/// A region's refusal without the word that says that it is one: the client command says that.
fn reason(error: &RequestError) -> String {
    match error {
        RequestError::Refused(why) => (*why).to_string(),
        other => other.to_string(),
    }
}

impl AdminError {
    /// Whether trying again shortly may help.
    fn is_passing(&self) -> bool {
        match self {
            Self::NoIds | Self::NotHere(_) => true,
            Self::Region(error) => {
                matches!(
                    error,
                    RequestError::NotLeader { .. }
                        | RequestError::EpochNotMatch(_)
                        | RequestError::Stale
                        | RequestError::Busy
                        | RequestError::Merging(_)
                ) || matches!(error, RequestError::Refused(why) if PASSING_REFUSALS.contains(why))
            }
            _ => false,
        }
    }
}

/// Carries a command out on a region that this store leads; `again` if an earlier attempt may have been carried out.
async fn run(
    store: &Store,
    region: &Region,
    command: Option<&Command>,
    again: bool,
) -> Result<Vec<Region>, AdminError> {
    let peer_on = |id: u64| {
        let store = StoreId(id);
        region.peer_on(store).copied().ok_or(AdminError::NoPeer { region: region.id, store })
    };
    match command.ok_or(AdminError::NoCommand)? {
        Command::Split(split) => ask(store, region, AdminCommand::Split { keys: split.keys.clone() }).await,
        Command::TransferLeaderToStore(to) => {
            let to = peer_on(*to)?;
            transfer(store, region, to).await
        }
        Command::AddPeerOnStore(to) => add_peer(store, region, StoreId(*to)).await,
        Command::MergeSource(source) => merge(store, region, RegionId(*source), again).await,
        Command::RemovePeerOnStore(from) => remove_peer(store, region, peer_on(*from)?).await,
    }
}

async fn ask(store: &Store, region: &Region, command: AdminCommand) -> Result<Vec<Region>, AdminError> {
    let (tell, told) = oneshot::channel();
    let done = Box::new(move |result| drop(tell.send(result)));
    store.admin(region.id, Some(region.epoch), command, done);
    Ok(told.await.unwrap_or(Err(RequestError::Undetermined))?)
}

/// Hands leadership over and waits until the other store has it: a hand-over that does not come about is forgotten by
/// the region within an election timeout.
async fn transfer(store: &Store, region: &Region, to: Peer) -> Result<Vec<Region>, AdminError> {
    ask(store, region, AdminCommand::TransferLeader(to.id)).await?;
    let give_up = Instant::now() + TRANSFER_TIMEOUT;
    loop {
        let info = store.directory().read().routes.by_id(region.id).cloned();
        let info = info.ok_or(AdminError::NoRegion(region.id))?;
        match info.leader_store() {
            Some(leader) if leader == to.store => return Ok(vec![Arc::unwrap_or_clone(info.region)]),
            _ if Instant::now() >= give_up => {
                return Err(AdminError::NotTakenOver { region: region.id, store: to.store });
            }
            _ => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

/// A new replica begins as a learner and votes once it has caught up.
async fn add_peer(store: &Store, region: &Region, to: StoreId) -> Result<Vec<Region>, AdminError> {
    let give_up = Instant::now() + ADMIN_TIMEOUT;
    if !store.directory().read().stores.contains_key(&to) {
        return Err(AdminError::NoStore(to));
    }
    let learner = match region.peer_on(to) {
        Some(peer) if peer.role == PeerRole::Learner => *peer,
        Some(_) => return Err(AdminError::HasPeer { region: region.id, store: to }),
        None => {
            let id = store.take_ids(1).and_then(|ids| ids.first().copied()).ok_or(AdminError::NoIds)?;
            let learner = Peer { id: PeerId(id), store: to, role: PeerRole::Learner };
            ask(store, region, change(PeerChange::AddLearner(learner))).await?;
            learner
        }
    };
    loop {
        let now = store.directory().read().routes.by_id(region.id).map(|info| (*info.region).clone());
        let now = now.ok_or(AdminError::NoRegion(region.id))?;
        match now.peer(learner.id).map(|peer| peer.role) {
            // Placement may have been faster.
            Some(PeerRole::Voter) => return Ok(vec![now]),
            Some(PeerRole::Learner) => match ask(store, &now, change(PeerChange::AddVoter(learner))).await {
                Err(error) if error.is_passing() && Instant::now() < give_up => {}
                result => return result,
            },
            _ if Instant::now() < give_up => {}
            _ => return Err(AdminError::NoPeer { region: region.id, store: to }),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// The source in the shape that this store knows; if it has another one, the merge is undone and may be asked for again.
async fn merge(
    store: &Store,
    region: &Region,
    source: RegionId,
    again: bool,
) -> Result<Vec<Region>, AdminError> {
    let known = store.directory().read().routes.by_id(source).map(|info| (*info.region).clone());
    if known.is_none() && again && store.merged_into(source).ok().flatten() == Some(region.id) {
        // The earlier attempt was, though its answer said that the outcome was not known.
        return Ok(vec![region.clone()]);
    }
    let source = known.ok_or(AdminError::NoRegion(source))?;
    ask(store, region, AdminCommand::Merge(Box::new(source))).await
}

/// Who should lead instead of `peer`, if that is the leader's own: a leader does not remove itself.
fn heir_of(store: &Store, region: &Region, peer: Peer) -> Option<Peer> {
    let directory = store.directory().read();
    let info = directory.routes.by_id(region.id)?;
    if peer.store != store.id().1 || info.leader != Some(peer.id) {
        return None;
    }
    let is_well = |p: &&Peer| !info.pending.contains(&p.id) && !info.down.contains_key(&p.id);
    let voters = region.peers.iter().filter(|p| p.id != peer.id && p.role == PeerRole::Voter);
    voters.clone().find(is_well).or_else(|| voters.clone().next()).copied()
}

/// A voter is demoted, the joint membership left, and the learner removed.
async fn remove_peer(store: &Store, region: &Region, peer: Peer) -> Result<Vec<Region>, AdminError> {
    if let Some(heir) = heir_of(store, region, peer) {
        transfer(store, region, heir).await?;
        // The new leader does the rest.
        return Err(AdminError::NotHere(region.id));
    }
    let give_up = Instant::now() + ADMIN_TIMEOUT;
    let mut now = region.clone();
    loop {
        let step = match now.peer(peer.id).map(|peer| peer.role) {
            None => return Ok(vec![now]),
            Some(PeerRole::Voter) => change(PeerChange::AddLearner(Peer { role: PeerRole::Learner, ..peer })),
            Some(PeerRole::Learner) => change(PeerChange::Remove(peer.id)),
            Some(PeerRole::IncomingVoter | PeerRole::DemotingVoter) => AdminCommand::LeaveJoint,
        };
        match ask(store, &now, step).await {
            Ok(regions) => match regions.into_iter().find(|changed| changed.id == region.id) {
                Some(changed) => now = changed,
                None => return Err(AdminError::NoRegion(region.id)),
            },
            // Placement may have been faster.
            Err(error) if error.is_passing() && Instant::now() < give_up => {
                tokio::time::sleep(RETRY_PAUSE).await;
                let known =
                    store.directory().read().routes.by_id(region.id).map(|info| (*info.region).clone());
                now = known.ok_or(AdminError::NoRegion(region.id))?;
            }
            Err(error) => return Err(error),
        }
    }
}

fn change(change: PeerChange) -> AdminCommand {
    AdminCommand::ChangePeers(vec![change])
}

/// The state of every peer on this store.
pub async fn statuses(store: &Store) -> Vec<PeerStatus> {
    let (tell, mut told) = mpsc::unbounded_channel();
    // Every worker answers once; a worker that stopped drops its sender.
    store.inspect(move |list| drop(tell.send(list)));
    let mut all = Vec::new();
    while let Some(list) = told.recv().await {
        all.extend(list);
    }
    all.sort_by_key(|status| status.region.id);
    all
}

fn region_info(info: &RegionInfo) -> pb::RegionInfo {
    pb::RegionInfo {
        region: Some(wire::region_to_wire(&info.region)),
        leader: info.leader_peer().map(wire::peer_to_wire),
        term: info.term.0,
        approximate_bytes: info.bytes,
        approximate_keys: info.keys,
        down_peers: info.down.keys().map(|peer| peer.0).collect(),
        pending_peers: info.pending.iter().map(|peer| peer.0).collect(),
        down_seconds: info.down.values().map(|ms| ms / 1_000).collect(),
        reads: info.rates.reads,
        read_bytes: info.rates.read_bytes,
        writes: info.rates.writes,
        write_bytes: info.rates.write_bytes,
        ..Default::default()
    }
}

/// The regions that this store knows of, or one of them: the meta region first, then in key order.
fn known_regions(store: &Store, wanted: RegionId, replicas: &[PeerStatus]) -> Vec<pb::RegionInfo> {
    let is_wanted = |id: RegionId| wanted == RegionId::ZERO || wanted == id;
    let directory = store.directory().read();
    let known: BTreeSet<RegionId> = directory.routes.iter().map(|r| r.region.id).collect();
    let reported = directory.routes.iter().filter(|r| is_wanted(r.region.id)).map(region_info);
    let only_here = replicas.iter().filter(|s| {
        let id = s.region.id;
        is_wanted(id) && !known.contains(&id) && !s.region.peers.is_empty()
    });
    let mut regions: Vec<pb::RegionInfo> = reported.chain(only_here.map(replica_info)).collect();
    regions.sort_by(|a, b| sort_key(a).cmp(&sort_key(b)));
    regions
}

/// What of the regions a store has.
#[derive(Clone, Copy, Default)]
struct Share {
    regions: u32,
    leaders: u32,
    bytes: u64,
    keys: u64,
    pending: u32,
    down: u32,
    rates: Rates,
}

fn shares(routes: &RouteTable) -> BTreeMap<StoreId, Share> {
    let mut shares: BTreeMap<StoreId, Share> = BTreeMap::new();
    for info in routes.iter() {
        for peer in &info.region.peers {
            let share = shares.entry(peer.store).or_default();
            share.regions += 1;
            share.bytes += info.bytes;
            share.keys += info.keys;
            share.pending += u32::from(info.pending.contains(&peer.id));
            share.down += u32::from(info.down.contains_key(&peer.id));
            if info.leader == Some(peer.id) {
                share.leaders += 1;
                share.rates = share.rates.plus(info.rates);
            }
        }
    }
    shares
}

/// The region's splits and merges: as its leader's store knows them, or else as this one does, if it has a replica.
async fn history(
    store: &Store,
    request: pb::RegionsRequest,
    info: &pb::RegionInfo,
) -> Result<Vec<pb::RegionEvent>, Status> {
    let leader =
        info.leader.as_ref().map(|leader| StoreId(leader.store_id)).filter(|id| *id != StoreId::ZERO);
    if let Some(leader) = leader.filter(|leader| !request.forwarded && *leader != store.id().1)
        && let Ok(regions) = regions_of(store, leader, request).await
        && let Some(known) = regions.into_iter().next()
    {
        return Ok(known.history);
    }
    let events = store.history(RegionId(request.id)).map_err(|error| Status::internal(error.to_string()))?;
    Ok(events.iter().map(event_to_wire).collect())
}

/// A region that nobody has any more: what became of it, if this store or another one has seen it.
async fn merged(store: &Store, request: pb::RegionsRequest) -> Result<Option<pb::RegionInfo>, Status> {
    let here =
        store.merged_into(RegionId(request.id)).map_err(|error| Status::internal(error.to_string()))?;
    if let Some(target) = here {
        let region = Some(flotilla_proto::metapb::Region { id: request.id, ..Default::default() });
        return Ok(Some(pb::RegionInfo { region, merged_into: target.0, ..Default::default() }));
    }
    if request.forwarded {
        return Ok(None);
    }
    let me = store.id().1;
    let others: Vec<StoreId> = {
        let directory = store.directory().read();
        directory.stores.values().filter(|s| s.id != me && !s.address.is_empty()).map(|s| s.id).collect()
    };
    for other in others {
        if let Ok(regions) = regions_of(store, other, request).await
            && let Some(info) = regions.into_iter().next()
        {
            return Ok(Some(info));
        }
    }
    Ok(None)
}

/// What another store says of a region.
async fn regions_of(
    store: &Store,
    other: StoreId,
    request: pb::RegionsRequest,
) -> Result<Vec<pb::RegionInfo>, AdminError> {
    let address = store.directory().read().address(other).map(str::to_string);
    let address = address.ok_or(AdminError::NoAddress(other))?;
    let failed = |why: String| AdminError::Forward { store: other, why };
    let ask = async {
        let channel = transport::connect(&address).await.map_err(|error| failed(error.to_string()))?;
        let request = pb::RegionsRequest { forwarded: true, ..request };
        let reply = ClusterServiceClient::new(channel).regions(request).await;
        reply.map_err(|status| failed(status.message().to_string()))
    };
    match tokio::time::timeout(LOOK_TIMEOUT, ask).await {
        Ok(reply) => Ok(reply?.into_inner().regions),
        Err(_) => Err(failed("no answer".to_string())),
    }
}

fn event_to_wire(event: &RegionEvent) -> pb::RegionEvent {
    use pb::region_event::Kind;
    let kind = match event.kind {
        EventKind::Split => Kind::Split,
        EventKind::SplitFrom => Kind::SplitFrom,
        EventKind::Merged => Kind::Merged,
    };
    pb::RegionEvent {
        kind: kind as i32,
        regions: event.regions.iter().map(|id| id.0).collect(),
        keys: event.keys.clone(),
        epoch: Some(wire::epoch_to_wire(event.epoch)),
        time_ms: event.time_ms,
    }
}

/// A region that only a replica here knows of.
fn replica_info(status: &PeerStatus) -> pb::RegionInfo {
    pb::RegionInfo {
        region: Some(wire::region_to_wire(&status.region)),
        leader: status.region.peer(status.leader).map(wire::peer_to_wire),
        term: status.term.0,
        ..Default::default()
    }
}

#[tonic::async_trait]
impl ClusterService for ClusterAdmin {
    async fn identify(&self, _: Request<pb::IdentifyRequest>) -> Result<Response<pb::IdentifyReply>, Status> {
        Ok(Response::new(self.node.identity()))
    }

    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::JoinReply>, Status> {
        let store = self.node.store()?;
        let (tell, told) = oneshot::channel();
        store.join(request.into_inner(), Box::new(move |reply| drop(tell.send(reply))));
        match tokio::time::timeout(JOIN_TIMEOUT, told).await {
            Ok(Ok(reply)) => Ok(Response::new(reply)),
            _ => Err(Status::unavailable("the placement leader does not answer")),
        }
    }

    async fn stores(&self, _: Request<pb::StoresRequest>) -> Result<Response<pb::StoresReply>, Status> {
        let store = self.node.store()?;
        let silent = self.silent_stores(store);
        let (now, me) = (store.clock().now(), store.id().1);
        let directory = store.directory().read();
        let shares = shares(&directory.routes);
        let stores = directory.stores.values().map(|record| {
            let id = record.id;
            let load = directory.loads.get(&id).copied().unwrap_or_default();
            let share = shares.get(&id).copied().unwrap_or_default();
            let heard = directory.last_heard.get(&id).map_or(u64::MAX, |at| now.ms_since(*at));
            pb::StoreInfo {
                store: Some(record_to_wire(record)),
                region_count: share.regions,
                leader_count: share.leaders,
                capacity_bytes: load.capacity_bytes,
                available_bytes: load.available_bytes,
                last_heard_ms: if id == me { 0 } else { heard },
                damaged: directory.damaged.get(&id).cloned().unwrap_or_default(),
                region_bytes: share.bytes,
                region_keys: share.keys,
                pending_peers: share.pending,
                down_peers: share.down,
                reads: share.rates.reads,
                read_bytes: share.rates.read_bytes,
                writes: share.rates.writes,
                write_bytes: share.rates.write_bytes,
                log_sync_us: load.log_sync_us,
                is_silent: silent.contains(&id),
            }
        });
        Ok(Response::new(pb::StoresReply { stores: stores.collect() }))
    }

    async fn regions(
        &self,
        request: Request<pb::RegionsRequest>,
    ) -> Result<Response<pb::RegionsReply>, Status> {
        let store = self.node.store()?;
        let request = request.into_inner();
        let wanted = RegionId(request.id);
        let mut regions = known_regions(store, wanted, &statuses(store).await);
        let silent = self.silent_stores(store);
        for info in &mut regions {
            let peers = info.region.iter().flat_map(|region| &region.peers);
            let is_silent = |peer: &&flotilla_proto::metapb::Peer| silent.contains(&StoreId(peer.store_id));
            info.silent_peers = peers.filter(is_silent).map(|peer| peer.id).collect();
        }
        if wanted != RegionId::ZERO {
            match regions.first_mut() {
                Some(info) => info.history = history(store, request, info).await?,
                None => regions.extend(merged(store, request).await?),
            }
        }
        Ok(Response::new(pb::RegionsReply { regions }))
    }

    async fn admin(&self, request: Request<pb::AdminRequest>) -> Result<Response<pb::AdminReply>, Status> {
        let store = self.node.store()?;
        let request = request.into_inner();
        let forwarded = request.forwarded;
        let work = self.admin(store, request);
        let result = tokio::time::timeout(ADMIN_TIMEOUT, work).await;
        let reply = match result {
            Ok(Ok(regions)) => pb::AdminReply {
                regions: regions.iter().map(wire::region_to_wire).collect(),
                ..Default::default()
            },
            Ok(Err(error @ AdminError::NotHere(_))) if forwarded => {
                return Err(Status::new(NOT_HERE, error.to_string()));
            }
            Ok(Err(error)) => pb::AdminReply { error: error.to_string(), ..Default::default() },
            Err(_) => pb::AdminReply { error: "not done in time".to_string(), ..Default::default() },
        };
        Ok(Response::new(reply))
    }

    async fn check(&self, request: Request<pb::CheckRequest>) -> Result<Response<pb::CheckReply>, Status> {
        let checked = operations::check(self.node.store()?, request.into_inner()).await;
        let refused =
            |error: OperationError| pb::CheckReply { error: error.to_string(), ..Default::default() };
        Ok(Response::new(checked.unwrap_or_else(refused)))
    }

    async fn store_state(
        &self,
        request: Request<pb::StoreStateRequest>,
    ) -> Result<Response<pb::StoreStateReply>, Status> {
        let done = operations::set_store_state(self.node.store()?, request.into_inner()).await;
        let error = done.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(Response::new(pb::StoreStateReply { error }))
    }

    async fn r#move(&self, request: Request<pb::MoveRequest>) -> Result<Response<pb::MoveReply>, Status> {
        Ok(Response::new(operations::move_peer(self.node.store()?, request.into_inner()).await))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactRequest>,
    ) -> Result<Response<pb::CompactReply>, Status> {
        let done = operations::compact(self.node.store()?, request.into_inner()).await;
        let error = done.err().map(|error| error.to_string()).unwrap_or_default();
        Ok(Response::new(pb::CompactReply { error }))
    }
}

/// The meta region first, then in key order.
fn sort_key(info: &pb::RegionInfo) -> (bool, &[u8]) {
    let region = info.region.as_ref();
    (!region.is_some_and(|r| r.meta_space), region.map_or(&[], |r| &r.start_key))
}
