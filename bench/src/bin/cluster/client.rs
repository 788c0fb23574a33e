//! A client light enough to measure with: a table of regions, a few connections per store, unary raw calls to the
//! leaders, and one more try after whatever a region error teaches. The protocol is TiKV's raw one.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_proto::errorpb;
use flotilla_proto::flotilla::cluster_service_client::ClusterServiceClient;
use flotilla_proto::flotilla::{AdminRequest, SplitKeys, admin_request};
use flotilla_proto::kvrpcpb::{
    Context, KvPair, RawBatchPutRequest, RawGetRequest, RawPutRequest, RawScanRequest,
};
use flotilla_proto::metapb;
use flotilla_proto::pdpb::pd_client::PdClient;
use flotilla_proto::pdpb::{
    self, GetAllStoresRequest, GetMembersRequest, GetRegionRequest, ScanRegionsRequest,
};
use flotilla_proto::tikvpb::tikv_client::TikvClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::link::{Answered, Asked, Link};

/// How long one call may take on the wire.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one operation is tried again.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);
/// Pause before the second try; doubles up to the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// Regions of a large cluster come in one answer.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// One operation on one region.
#[derive(Clone, Debug)]
pub enum Request {
    /// Writes one pair.
    Put(Bytes, Bytes),
    /// Reads one key.
    Get(Bytes),
    /// Writes pairs that lie in one region, as far as the client knows.
    BatchPut(Vec<(Bytes, Bytes)>),
    /// Reads so many pairs from a key on, within its region.
    Scan(Bytes, usize),
}

impl Request {
    /// The key that decides the region.
    fn key(&self) -> &Bytes {
        match self {
            Request::Put(key, _) | Request::Get(key) | Request::Scan(key, _) => key,
            Request::BatchPut(pairs) => &pairs[0].0,
        }
    }
}

/// What became of an operation.
#[derive(Clone, Debug)]
pub struct Done {
    /// The value read; `None` after a write, or where there is none.
    pub value: Option<Bytes>,
    /// Pairs that a scan found.
    pub pairs: usize,
    /// Tries before the one that succeeded.
    pub retries: u64,
}

/// One region as the client knows it.
#[derive(Clone, Debug)]
pub struct Route {
    /// The region with its epoch and range.
    pub region: metapb::Region,
    /// The peer to ask.
    pub leader: metapb::Peer,
}

/// What a store answered.
struct Answer {
    value: Option<Bytes>,
    pairs: usize,
    /// End of the region that answered.
    end: Bytes,
}

/// Why a try failed, by what to do next.
enum Failed {
    /// The store named another leader.
    OtherLeader(metapb::Peer),
    /// The route is wrong or the store is in trouble: pause, and ask placement again.
    AskAgain(String),
    /// No further try helps.
    Refused(String),
}

#[derive(Default)]
struct Table {
    /// By start key; ranges do not overlap.
    routes: BTreeMap<Bytes, Arc<Route>>,
    links: BTreeMap<u64, Arc<Link>>,
}

/// The cluster as one load generator sees it. Shared by all its clients.
pub struct Cluster {
    placement: Vec<PdClient<Channel>>,
    operations: Vec<ClusterServiceClient<Channel>>,
    placement_turn: AtomicUsize,
    cluster_id: u64,
    connections: usize,
    is_streamed: bool,
    table: RwLock<Table>,
}

fn endpoint(address: &str) -> Result<Endpoint, String> {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|error| format!("{address}: {error}"))?;
    Ok(endpoint.connect_timeout(Duration::from_secs(1)).timeout(CALL_TIMEOUT))
}

impl Cluster {
    /// Finds the cluster behind any of `addresses` and learns its stores and regions.
    ///
    /// # Errors
    /// A sentence, when none of the addresses answers.
    pub async fn connect(addresses: &[String], connections: usize) -> Result<Cluster, String> {
        Self::connect_by(addresses, connections, false).await
    }

    /// The same; if `is_streamed`, requests of many clients share a stream on each connection.
    ///
    /// # Errors
    /// As [`Cluster::connect`].
    pub async fn connect_by(
        addresses: &[String],
        connections: usize,
        is_streamed: bool,
    ) -> Result<Cluster, String> {
        let (mut placement, mut operations) = (Vec::new(), Vec::new());
        for address in addresses {
            let channel = endpoint(address)?.connect_lazy();
            operations.push(ClusterServiceClient::new(channel.clone()));
            placement.push(PdClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX));
        }
        let mut cluster_id = Err("no address given".to_string());
        for client in &mut placement {
            match client.get_members(GetMembersRequest::default()).await {
                Ok(reply) => cluster_id = Ok(reply.into_inner().header.unwrap_or_default().cluster_id),
                Err(status) => cluster_id = cluster_id.or(Err(format!("no store answers: {status}"))),
            }
        }
        let cluster = Cluster {
            placement,
            operations,
            placement_turn: AtomicUsize::new(0),
            cluster_id: cluster_id?,
            connections: connections.max(1),
            is_streamed,
            table: RwLock::default(),
        };
        cluster.reload().await?;
        Ok(cluster)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn header(&self) -> Option<pdpb::RequestHeader> {
        Some(pdpb::RequestHeader { cluster_id: self.cluster_id, ..Default::default() })
    }

    /// The placement client to ask now; a failure moves on to the next.
    fn placement(&self) -> PdClient<Channel> {
        let turn = self.placement_turn.load(Ordering::Relaxed);
        self.placement[turn % self.placement.len()].clone()
    }

    fn placement_failed(&self, status: &Status) -> String {
        self.placement_turn.fetch_add(1, Ordering::Relaxed);
        format!("placement: {status}")
    }

    /// Learns every store and region anew.
    ///
    /// # Errors
    /// A sentence, when placement does not answer.
    pub async fn reload(&self) -> Result<(), String> {
        let request = GetAllStoresRequest { header: self.header(), exclude_tombstone_stores: true };
        let stores = self
            .placement()
            .get_all_stores(request)
            .await
            .map_err(|status| self.placement_failed(&status))?;
        let request = ScanRegionsRequest { header: self.header(), ..Default::default() };
        let regions =
            self.placement().scan_regions(request).await.map_err(|status| self.placement_failed(&status))?;
        for store in stores.into_inner().stores {
            self.learn_store(&store)?;
        }
        let mut table = self.write();
        table.routes.clear();
        for found in regions.into_inner().regions {
            let Some(region) = found.region else { continue };
            insert(&mut table.routes, region, found.leader.unwrap_or_default());
        }
        Ok(())
    }

    fn learn_store(&self, store: &metapb::Store) -> Result<(), String> {
        if self.read().links.contains_key(&store.id) {
            return Ok(());
        }
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            clients.push(TikvClient::new(endpoint(&store.address)?.connect_lazy()));
        }
        self.write().links.insert(store.id, Arc::new(Link::new(clients, self.is_streamed)));
        Ok(())
    }

    /// Every region known, in key order.
    pub fn routes(&self) -> Vec<Arc<Route>> {
        self.read().routes.values().cloned().collect()
    }

    /// The known region that holds `key`.
    pub fn route(&self, key: &Bytes) -> Option<Arc<Route>> {
        let table = self.read();
        let (_, route) =
            table.routes.range::<Bytes, _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        let end = &route.region.end_key;
        (end.is_empty() || key < end).then(|| route.clone())
    }

    /// Asks placement for the region of `key`, unless another client has replaced `failed` meanwhile.
    async fn refresh(&self, key: &Bytes, failed: Option<&Arc<Route>>) -> Result<(), String> {
        if let (Some(failed), Some(current)) = (failed, self.route(key))
            && !Arc::ptr_eq(failed, &current)
        {
            return Ok(());
        }
        let request =
            GetRegionRequest { header: self.header(), region_key: key.clone(), need_buckets: false };
        let reply =
            self.placement().get_region(request).await.map_err(|status| self.placement_failed(&status))?;
        let reply = reply.into_inner();
        let region = reply.region.ok_or("placement knows no region for a key")?;
        insert(&mut self.write().routes, region, reply.leader.unwrap_or_default());
        Ok(())
    }

    /// Cuts a region at `keys`, and learns its parts.
    ///
    /// # Errors
    /// A sentence: why it was refused, which may pass.
    pub async fn split(&self, route: &Route, keys: Vec<Bytes>) -> Result<(), String> {
        let command = Some(admin_request::Command::Split(SplitKeys { keys }));
        let request = AdminRequest { region_id: route.region.id, command, forwarded: false };
        let turn = self.placement_turn.load(Ordering::Relaxed) % self.operations.len();
        let reply = self.operations[turn].clone().admin(request).await;
        let reply = reply.map_err(|status| self.placement_failed(&status))?.into_inner();
        if !reply.error.is_empty() {
            return Err(reply.error);
        }
        let mut table = self.write();
        for region in reply.regions {
            // The parts are led where the whole was.
            let leader = region.peers.iter().find(|peer| peer.store_id == route.leader.store_id).copied();
            insert(&mut table.routes, region, leader.unwrap_or_default());
        }
        Ok(())
    }

    /// Reads `limit` pairs from `start` on, region by region.
    ///
    /// # Errors
    /// As [`Cluster::call`].
    pub async fn scan(&self, start: &Bytes, limit: usize) -> Result<Done, String> {
        let (mut at, mut done) = (start.clone(), Done { value: None, pairs: 0, retries: 0 });
        loop {
            let (answer, retries) = self.answer(&Request::Scan(at, limit - done.pairs)).await?;
            done.pairs += answer.pairs;
            done.retries += retries;
            if done.pairs >= limit || answer.end.is_empty() {
                return Ok(done);
            }
            at = answer.end;
        }
    }

    /// Carries out one operation, trying again after whatever the answers teach.
    ///
    /// # Errors
    /// A sentence: the last refusal, after the time for an operation has passed.
    pub async fn call(&self, request: &Request) -> Result<Done, String> {
        let (answer, retries) = self.answer(request).await?;
        Ok(Done { value: answer.value, pairs: answer.pairs, retries })
    }

    async fn answer(&self, request: &Request) -> Result<(Answer, u64), String> {
        let started = Instant::now();
        let (mut retries, mut pause) = (0, PAUSE_MIN);
        loop {
            let route = self.route(request.key());
            let failed = match &route {
                Some(route) => match self.attempt(route, request).await {
                    Ok(answer) => return Ok((answer, retries)),
                    Err(failed) => failed,
                },
                None => Failed::AskAgain("no region known".to_string()),
            };
            retries += 1;
            let reason = match failed {
                Failed::Refused(reason) => return Err(reason),
                Failed::OtherLeader(leader) => {
                    if let Some(route) = &route {
                        let mut table = self.write();
                        insert(&mut table.routes, route.region.clone(), leader);
                    }
                    "the leader moved".to_string()
                }
                Failed::AskAgain(reason) => {
                    tokio::time::sleep(pause).await;
                    self.refresh(request.key(), route.as_ref()).await.err().unwrap_or(reason)
                }
            };
            if started.elapsed() > OPERATION_TIMEOUT {
                return Err(reason);
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Writes as soon as the region has a leader, asking those of its peers in turn that are not on `dead`, which is
    /// how a client finds a new leader before placement has heard of it.
    ///
    /// # Errors
    /// A sentence: nobody took it in time.
    pub async fn write_past(
        &self,
        route: &Route,
        dead: u64,
        put: &Request,
        pause: Duration,
    ) -> Result<(), String> {
        let started = Instant::now();
        let living: Vec<_> =
            route.region.peers.iter().filter(|peer| peer.store_id != dead).copied().collect();
        let mut route = route.clone();
        for turn in 0.. {
            match self.attempt(&route, put).await {
                Ok(_) => return Ok(()),
                Err(Failed::Refused(reason)) => return Err(reason),
                Err(Failed::OtherLeader(leader)) if leader.store_id != dead => route.leader = leader,
                Err(_) => {
                    route.leader =
                        *living.get(turn % living.len().max(1)).ok_or("a region without another peer")?;
                    tokio::time::sleep(pause).await;
                }
            }
            if started.elapsed() > OPERATION_TIMEOUT {
                break;
            }
        }
        Err(format!("region {} takes no writes", route.region.id))
    }

    /// One try on the leader of `route`.
    async fn attempt(&self, route: &Route, request: &Request) -> Result<Answer, Failed> {
        let link = self.read().links.get(&route.leader.store_id).cloned();
        let Some(link) = link else {
            return Err(Failed::AskAgain("the leader's store is unknown".to_string()));
        };
        let context = Some(Context {
            region_id: route.region.id,
            region_epoch: route.region.region_epoch,
            peer: Some(route.leader),
            ..Default::default()
        });
        let answered = link.ask(asked(request, context)).await;
        let answered = answered.map_err(|status| Failed::AskAgain(status.to_string()))?;
        let mut answer = Answer { value: None, pairs: 0, end: route.region.end_key.clone() };
        match answered {
            Answered::RawPut(reply) => judge(reply.region_error, reply.error)?,
            Answered::RawBatchPut(reply) => {
                if let Some(error) = reply.region_error.as_ref().filter(|e| e.key_not_in_region.is_some()) {
                    return Err(Failed::Refused(format!("{error:?}")));
                }
                judge(reply.region_error, reply.error)?;
            }
            Answered::RawScan(reply) => {
                judge(reply.region_error, String::new())?;
                answer.pairs = reply.kvs.len();
            }
            Answered::RawGet(reply) => {
                judge(reply.region_error, reply.error)?;
                answer.value = (!reply.not_found).then_some(reply.value);
            }
            other => return Err(Failed::Refused(format!("another answer than was asked for: {other:?}"))),
        }
        Ok(answer)
    }
}

fn asked(request: &Request, context: Option<Context>) -> Asked {
    match request {
        Request::Put(key, value) => Asked::RawPut(RawPutRequest {
            context,
            key: key.clone(),
            value: value.clone(),
            ..Default::default()
        }),
        Request::BatchPut(pairs) => {
            let pair = |(key, value): &(Bytes, Bytes)| KvPair {
                key: key.clone(),
                value: value.clone(),
                ..Default::default()
            };
            let pairs = pairs.iter().map(pair).collect();
            Asked::RawBatchPut(RawBatchPutRequest { context, pairs, ..Default::default() })
        }
        Request::Scan(start, limit) => Asked::RawScan(RawScanRequest {
            context,
            start_key: start.clone(),
            limit: *limit as u32,
            ..Default::default()
        }),
        Request::Get(key) => Asked::RawGet(RawGetRequest { context, key: key.clone(), ..Default::default() }),
    }
}

/// Puts a region into the table in place of whatever overlaps it, unless some of that is newer: answers of a leader that
/// moved come late, and name the region as it was asked for.
fn insert(routes: &mut BTreeMap<Bytes, Arc<Route>>, region: metapb::Region, leader: metapb::Peer) {
    let (start, end) = (region.start_key.clone(), region.end_key.clone());
    let before = routes.range::<Bytes, _>((Bound::Unbounded, Bound::Excluded(&start))).next_back();
    let reaches_in =
        before.filter(|(_, known)| known.region.end_key.is_empty() || known.region.end_key > start);
    let mut overlapping: Vec<Bytes> = reaches_in.map(|(key, _)| key.clone()).into_iter().collect();
    let inside = routes.range::<Bytes, _>((Bound::Included(&start), Bound::Unbounded));
    let inside = inside.map(|(key, _)| key).take_while(|key| end.is_empty() || **key < end);
    overlapping.extend(inside.cloned());
    if overlapping.iter().any(|key| epoch(&routes[key].region) > epoch(&region)) {
        return;
    }
    overlapping.iter().for_each(|key| drop(routes.remove(key)));
    routes.insert(start, Arc::new(Route { region, leader }));
}

/// What of two regions with a common key is newer.
fn epoch(region: &metapb::Region) -> (u64, u64) {
    region.region_epoch.as_ref().map_or((0, 0), |epoch| (epoch.version, epoch.conf_ver))
}

/// What a reply's error fields say.
fn judge(region_error: Option<errorpb::Error>, error: String) -> Result<(), Failed> {
    if !error.is_empty() {
        return Err(Failed::Refused(error));
    }
    let Some(error) = region_error else { return Ok(()) };
    if error.raft_entry_too_large.is_some() {
        return Err(Failed::Refused(format!("{error:?}")));
    }
    match error.not_leader.as_ref().and_then(|not_leader| not_leader.leader) {
        Some(leader) => Err(Failed::OtherLeader(leader)),
        None => Err(Failed::AskAgain(format!("{error:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(id: u64, start: &'static str, end: &'static str) -> metapb::Region {
        let (start_key, end_key) = (Bytes::from_static(start.as_bytes()), Bytes::from_static(end.as_bytes()));
        metapb::Region { id, start_key, end_key, ..Default::default() }
    }

    fn ids(routes: &BTreeMap<Bytes, Arc<Route>>) -> Vec<u64> {
        routes.values().map(|route| route.region.id).collect()
    }

    #[test]
    fn a_region_replaces_what_it_overlaps() {
        let mut routes = BTreeMap::new();
        for (id, start, end) in [(1, "", "g"), (2, "g", "p"), (3, "p", "")] {
            insert(&mut routes, region(id, start, end), metapb::Peer::default());
        }
        assert_eq!(ids(&routes), [1, 2, 3]);
        insert(&mut routes, region(4, "g", "k"), metapb::Peer::default());
        assert_eq!(ids(&routes), [1, 4, 3]);
        insert(&mut routes, region(5, "h", ""), metapb::Peer::default());
        assert_eq!(ids(&routes), [1, 5], "the half that overlaps goes as a whole and is asked for again");
        insert(&mut routes, region(6, "", ""), metapb::Peer::default());
        assert_eq!(ids(&routes), [6]);
    }

    #[test]
    fn what_came_late_does_not_take_the_place_of_what_is_newer() {
        let mut routes = BTreeMap::new();
        for (id, start, end, version) in
            [(1, "a", "z", 1), (2, "a", "m", 2), (1, "m", "z", 2), (1, "a", "z", 1)]
        {
            let region_epoch = Some(metapb::RegionEpoch { conf_ver: 1, version });
            let region = metapb::Region { region_epoch, ..region(id, start, end) };
            insert(&mut routes, region, metapb::Peer::default());
        }
        assert_eq!(ids(&routes), [2, 1], "both halves of the split");
    }

    #[test]
    fn errors_teach_the_next_step() {
        assert!(judge(None, String::new()).is_ok());
        assert!(matches!(judge(None, "key too large".to_string()), Err(Failed::Refused(_))));
        let leader = metapb::Peer { id: 7, ..Default::default() };
        let not_leader = errorpb::NotLeader { region_id: 1, leader: Some(leader) };
        let error = errorpb::Error { not_leader: Some(not_leader), ..Default::default() };
        assert!(matches!(judge(Some(error), String::new()), Err(Failed::OtherLeader(peer)) if peer.id == 7));
        assert!(matches!(judge(Some(errorpb::Error::default()), String::new()), Err(Failed::AskAgain(_))));
    }
}
