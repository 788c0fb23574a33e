//! What an empty disk becomes: a store of the cluster that the listed addresses belong to, or the first one of a new
//! cluster; and what a store says to its cluster at every start.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_engine::{Engine, WriteBatch};
use flotilla_placement::{StoreRecord, StoreUuid};
use flotilla_proto::flotilla as pb;
use flotilla_proto::flotilla::cluster_service_client::ClusterServiceClient;
use flotilla_raftstore::{FORMAT, PreSplit, Store, StoreError, StoreIdent};
use flotilla_region::{ClusterId, StoreId, keys};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::Request;

use crate::error::StartError;
use crate::node::{Node, VERSION};
use crate::threads::random_bytes;
use crate::transport;

/// Longest wait for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest wait for a joining store's answer, which takes a write to the meta region.
const JOIN_TIMEOUT: Duration = Duration::from_secs(6);
/// Pause between rounds of questions.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// Leaders that are asked in a row before the next round.
const HOPS_MAX: usize = 3;

/// Name of the fact that keeps the uuid of a disk that is not a store yet.
const UUID_FACT: &[u8] = b"uuid";
/// Cluster ids stay exact in programs that know only floating point numbers.
const CLUSTER_ID_BITS: u32 = 53;

/// The identity of this disk: drawn at its first start and never again, so that joining twice is joining once.
///
/// # Errors
/// The disk failed, or holds a newer format.
pub fn disk_uuid(engine: &dyn Engine, dir: &Path) -> Result<Bytes, StartError> {
    let data_error = |error: StoreError| data_error(dir, &error);
    if let Some(ident) = Store::ident(engine).map_err(data_error)? {
        return Ok(ident.uuid);
    }
    let key = keys::store_fact(UUID_FACT);
    let stored = engine.get(&key).map_err(|error| data_error(error.into()))?;
    if let Some(uuid) = stored {
        return Ok(uuid);
    }
    let uuid = random::<16>()?;
    let mut batch = WriteBatch::new();
    batch.put(&key, &uuid);
    let written = engine.write(&batch).and_then(|()| engine.flush());
    written.map_err(|error| data_error(error.into()))?;
    Ok(Bytes::copy_from_slice(&uuid))
}

fn random<const N: usize>() -> Result<[u8; N], StartError> {
    random_bytes().map_err(|error| StartError::System { what: "random bytes", error })
}

/// An error of the disk, with its directory.
pub fn data_error(dir: &Path, error: &StoreError) -> StartError {
    StartError::Data { path: dir.display().to_string(), why: error.to_string() }
}

/// A disk on its way to becoming a store.
pub struct Bootstrap<'a> {
    /// This process.
    pub node: &'a Node,
    /// Its disk.
    pub engine: &'a dyn Engine,
    /// Where that is.
    pub dir: &'a Path,
    /// Addresses to ask.
    pub cluster: &'a [String],
    /// Where the first region is cut, if this disk founds a cluster.
    pub pre_split: &'a PreSplit,
}

/// What a listed address answered.
struct Answer {
    address: String,
    reply: Option<pb::IdentifyReply>,
}

/// What the answers say an empty disk must do.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Ask these, they know a cluster.
    Join(Vec<String>),
    /// Nobody has a cluster, and this store is the first listed.
    Found,
    /// Wait for these: they do not answer, or they are the ones that will found the cluster.
    Wait(Vec<String>),
}

impl Bootstrap<'_> {
    /// Makes the disk a store, if it is none yet. Waits as long as that takes.
    ///
    /// # Errors
    /// The disk failed or belongs to another cluster, or the cluster refuses the store.
    pub async fn run(&self) -> Result<StoreIdent, StartError> {
        if let Some(ident) = Store::ident(self.engine).map_err(|error| data_error(self.dir, &error))? {
            self.check_cluster(&ident).await?;
            return Ok(ident);
        }
        if self.cluster.is_empty() {
            return self.found();
        }
        let mut said = Vec::new();
        loop {
            match judge(&self.node.uuid, self.ask_all().await) {
                Verdict::Found => return self.found(),
                Verdict::Join(members) => {
                    if let Some(ident) = self.join(members).await? {
                        return Ok(ident);
                    }
                }
                Verdict::Wait(missing) if missing != said => {
                    tracing::info!(stores = missing.join(", "), "waiting for stores before the first start");
                    said = missing;
                }
                Verdict::Wait(_) => {}
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    async fn ask_all(&self) -> Vec<Answer> {
        let mut asked = JoinSet::new();
        for (number, address) in self.cluster.iter().cloned().enumerate() {
            asked.spawn(async move {
                let reply = identify(&address).await;
                (number, Answer { address, reply })
            });
        }
        let mut answers = asked.join_all().await;
        answers.sort_by_key(|(number, _)| *number);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// The stores listed for a disk that is a store already must be of its cluster.
    async fn check_cluster(&self, ident: &StoreIdent) -> Result<(), StartError> {
        for answer in self.ask_all().await {
            let other = answer.reply.map_or(0, |reply| reply.cluster_id);
            if other != 0 && other != ident.cluster.0 {
                let path = self.dir.display().to_string();
                let own = ident.cluster;
                return Err(StartError::OtherCluster { path, own, member: answer.address, other });
            }
        }
        Ok(())
    }

    fn found(&self) -> Result<StoreIdent, StartError> {
        let mask = (1 << CLUSTER_ID_BITS) - 1;
        let cluster = ClusterId((u64::from_le_bytes(random()?) & mask).max(1));
        let request = self.node.join_request();
        let uuid = request.uuid[..].try_into().map_err(|_| StartError::Data {
            path: self.dir.display().to_string(),
            why: "the stored uuid has another length".to_string(),
        })?;
        let founder = StoreRecord {
            uuid: StoreUuid(uuid),
            address: request.address,
            status_address: request.status_address,
            labels: request.labels.into_iter().map(|label| (label.key, label.value)).collect(),
            version: VERSION.to_string(),
            format_max: FORMAT,
            ..StoreRecord::default()
        };
        let ident = Store::bootstrap(self.engine, cluster, founder, self.pre_split);
        let ident = ident.map_err(|error| data_error(self.dir, &error))?;
        let cuts = self.pre_split.keys().len();
        tracing::info!(cluster = cluster.0, cuts, "founded a cluster");
        Ok(ident)
    }

    /// Asks members, and the leaders they name, to take this store in. `None`: nobody could, now.
    async fn join(&self, members: Vec<String>) -> Result<Option<StoreIdent>, StartError> {
        for member in members {
            if let Some(reply) = join_through(member, &self.node.join_request()).await? {
                let (cluster, store) = (ClusterId(reply.cluster_id), StoreId(reply.store_id));
                let ident = Store::init(self.engine, cluster, store, self.node.uuid.clone());
                tracing::info!(cluster = cluster.0, store = store.0, "joined a cluster");
                return ident.map(Some).map_err(|error| data_error(self.dir, &error));
            }
        }
        Ok(None)
    }
}

/// What an empty disk with this uuid must do, given what the listed stores say, in the order in which they are listed.
fn judge(uuid: &Bytes, answers: Vec<Answer>) -> Verdict {
    let is_me = |answer: &Answer| answer.reply.as_ref().is_some_and(|reply| reply.uuid == *uuid);
    let has_cluster = |answer: &&Answer| answer.reply.as_ref().is_some_and(|reply| reply.cluster_id != 0);
    let members: Vec<String> = answers.iter().filter(has_cluster).map(|a| a.address.clone()).collect();
    if !members.is_empty() {
        return Verdict::Join(members);
    }
    let silent: Vec<String> =
        answers.iter().filter(|a| a.reply.is_none()).map(|a| a.address.clone()).collect();
    match answers.first() {
        Some(first) if is_me(first) && silent.is_empty() => Verdict::Found,
        Some(first) if silent.is_empty() => Verdict::Wait(vec![first.address.clone()]),
        _ => Verdict::Wait(silent),
    }
}

async fn identify(address: &str) -> Option<pb::IdentifyReply> {
    let work = async {
        let channel = transport::connect(address).await.ok()?;
        let reply = ClusterServiceClient::new(channel).identify(pb::IdentifyRequest {}).await;
        Some(reply.ok()?.into_inner())
    };
    tokio::time::timeout(ANSWER_TIMEOUT, work).await.ok().flatten()
}

/// Asks a store, then the leader it names. `None`: nobody could, now.
async fn join_through(
    member: String,
    request: &pb::JoinRequest,
) -> Result<Option<pb::JoinReply>, StartError> {
    let mut address = member;
    for _ in 0..HOPS_MAX {
        let Some(reply) = ask_to_join(&address, request).await else { return Ok(None) };
        if !reply.refused.is_empty() {
            return Err(StartError::Refused { member: address, why: reply.refused });
        }
        if reply.retry.is_empty() {
            return Ok(Some(reply));
        }
        match reply.stores.into_iter().find(|store| !store.address.is_empty()) {
            Some(leader) if leader.address != address => address = leader.address,
            _ => return Ok(None),
        }
    }
    Ok(None)
}

async fn ask_to_join(address: &str, request: &pb::JoinRequest) -> Option<pb::JoinReply> {
    let work = async {
        let channel = transport::connect(address).await.ok()?;
        let reply = ClusterServiceClient::new(channel).join(Request::new(request.clone())).await;
        Some(reply.ok()?.into_inner())
    };
    tokio::time::timeout(JOIN_TIMEOUT, work).await.ok().flatten()
}

/// Tells the cluster what this store is now (its address may have changed), until the placement leader has it.
///
/// # Errors
/// `Refused`: the store was removed from the cluster, or is too old for it.
pub async fn announce(node: Arc<Node>, store: Store, cluster: Vec<String>) -> Result<(), StartError> {
    loop {
        let request = node.join_request();
        let (tell, told) = oneshot::channel();
        store.join(request.clone(), Box::new(move |reply| drop(tell.send(reply))));
        let reply = told.await.unwrap_or_default();
        if !reply.refused.is_empty() {
            return Err(StartError::Refused { member: "the cluster".to_string(), why: reply.refused });
        }
        if reply.retry.is_empty() && reply.store_id != 0 {
            return Ok(());
        }
        for member in candidates(&node, &store, &reply, &cluster) {
            if join_through(member, &request).await?.is_some() {
                return Ok(());
            }
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

/// Stores that may know the placement leader, the likeliest first.
fn candidates(node: &Node, store: &Store, reply: &pb::JoinReply, cluster: &[String]) -> Vec<String> {
    let directory = store.directory().read();
    let leader = reply.stores.iter().map(|store| &store.address);
    let stores = directory.stores.values().map(|store| &store.address);
    let mut members = Vec::new();
    for member in leader.chain(stores).chain(cluster) {
        if !member.is_empty() && *member != node.address && !members.contains(member) {
            members.push(member.clone());
        }
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(address: &str, uuid: &'static [u8], cluster_id: u64) -> Answer {
        let reply = pb::IdentifyReply {
            cluster_id,
            uuid: Bytes::from_static(uuid),
            address: address.to_string(),
            ..Default::default()
        };
        Answer { address: address.to_string(), reply: Some(reply) }
    }

    fn silent(address: &str) -> Answer {
        Answer { address: address.to_string(), reply: None }
    }

    const ME: Bytes = Bytes::from_static(b"me");

    fn list(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(|address| address.to_string()).collect()
    }

    #[test]
    fn the_first_listed_store_founds_when_all_others_are_empty() {
        let answers = vec![answer("a", b"me", 0), answer("b", b"x", 0), answer("c", b"y", 0)];
        assert_eq!(judge(&ME, answers), Verdict::Found);
        assert_eq!(judge(&ME, vec![answer("a", b"me", 0)]), Verdict::Found);
    }

    #[test]
    fn the_first_listed_store_waits_for_silent_ones() {
        let answers = vec![answer("a", b"me", 0), silent("b"), answer("c", b"y", 0)];
        assert_eq!(judge(&ME, answers), Verdict::Wait(list(&["b"])));
        let answers = vec![silent("a"), answer("b", b"x", 0)];
        assert_eq!(judge(&ME, answers), Verdict::Wait(list(&["a"])), "its own address is not reachable yet");
    }

    #[test]
    fn a_later_store_never_founds() {
        let answers = vec![answer("a", b"x", 0), answer("b", b"me", 0)];
        assert_eq!(judge(&ME, answers), Verdict::Wait(list(&["a"])));
        let answers = vec![answer("a", b"x", 0), answer("b", b"y", 0)];
        assert_eq!(judge(&ME, answers), Verdict::Wait(list(&["a"])), "not listed at all");
    }

    #[test]
    fn any_initialised_store_is_joined_even_by_the_first_listed() {
        let answers = vec![answer("a", b"me", 0), silent("b"), answer("c", b"y", 7)];
        assert_eq!(judge(&ME, answers), Verdict::Join(list(&["c"])));
    }
}
