//! etcd: three members on loopback, and as much of its client as puts and gets need.
//!
//! The messages are those of etcd's public API (`KV.Range` and `KV.Put` of `etcdserverpb`), field by field.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::process::{Child, Command};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::stores::free_port;

const MEMBERS: usize = 3;
/// How long the members may take to elect a leader.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone, PartialEq, prost::Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RangeResponse {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(bytes = "bytes", tag = "5")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// A running cluster of etcd and connections to it. Dropping it kills its processes.
pub struct Etcd {
    members: Vec<Child>,
    channels: Vec<Channel>,
    turn: AtomicUsize,
}

/// The version that a binary says it has.
///
/// # Errors
/// A sentence: there is none, or it does not run.
pub async fn version(binary: &Path) -> Result<String, String> {
    let output = Command::new(binary).arg("--version").output().await;
    let output = output.map_err(|error| format!("{}: {error}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    Ok(line.ok_or_else(|| format!("{} is not etcd", binary.display()))?.to_string())
}

impl Etcd {
    /// Starts three members with fresh disks in `folder` and waits until they answer.
    ///
    /// # Errors
    /// A sentence.
    pub async fn start(binary: &Path, folder: &Path, connections: usize) -> Result<Etcd, String> {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let (mut clients, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..MEMBERS {
            clients.push(format!("127.0.0.1:{}", free_port()?));
            peers.push(format!("127.0.0.1:{}", free_port()?));
        }
        let named = peers.iter().enumerate().map(|(n, address)| format!("m{n}=http://{address}"));
        let cluster = named.collect::<Vec<_>>().join(",");
        let mut members = Vec::new();
        for n in 0..MEMBERS {
            members.push(member(binary, folder, n, &clients[n], &peers[n], &cluster)?);
        }
        let mut channels = Vec::new();
        for _ in 0..connections.max(1) {
            for address in &clients {
                let endpoint = Endpoint::from_shared(format!("http://{address}"));
                let endpoint = endpoint.map_err(|error| format!("{address}: {error}"))?;
                channels.push(endpoint.timeout(CALL_TIMEOUT).connect_lazy());
            }
        }
        let etcd = Etcd { members, channels, turn: AtomicUsize::new(0) };
        etcd.wait_ready(folder).await?;
        Ok(etcd)
    }

    async fn wait_ready(&self, folder: &Path) -> Result<(), String> {
        let started = Instant::now();
        let mut answered = 0;
        // Every connection is used in turn: as many answers in a row as there are of them.
        while answered < self.channels.len() {
            match self.get(Bytes::from_static(b"ready")).await {
                Ok(_) => answered += 1,
                Err(why) if started.elapsed() > READY_TIMEOUT => {
                    return Err(format!("etcd is not ready: {why}; see {}", folder.display()));
                }
                Err(_) => {
                    answered = 0;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        Ok(())
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, String>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut grpc = Grpc::new(self.channels[turn % self.channels.len()].clone());
        grpc.ready().await.map_err(|error| error.to_string())?;
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let path = PathAndQuery::from_static(path);
        let reply = grpc.unary(tonic::Request::new(request), path, codec).await;
        reply.map(tonic::Response::into_inner).map_err(|status| status.to_string())
    }

    /// Writes a pair.
    ///
    /// # Errors
    /// A sentence.
    pub async fn put(&self, key: Bytes, value: Bytes) -> Result<(), String> {
        let reply: PutResponse = self.call("/etcdserverpb.KV/Put", PutRequest { key, value }).await?;
        let PutResponse {} = reply;
        Ok(())
    }

    /// Reads a key, linearizably: that is what a request without the flag `serializable` asks for.
    ///
    /// # Errors
    /// A sentence.
    pub async fn get(&self, key: Bytes) -> Result<Option<Bytes>, String> {
        let reply: RangeResponse = self.call("/etcdserverpb.KV/Range", RangeRequest { key }).await?;
        Ok(reply.kvs.into_iter().next().map(|pair| pair.value))
    }

    /// Process ids of the members.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(Child::id).collect()
    }
}

fn member(
    binary: &Path,
    folder: &Path,
    n: usize,
    client: &str,
    peer: &str,
    cluster: &str,
) -> Result<Child, String> {
    let path: PathBuf = folder.join(format!("member{n}.log"));
    let log = std::fs::File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let also = log.try_clone().map_err(|error| error.to_string())?;
    let url = |address: &str| format!("http://{address}");
    let mut command = Command::new(binary);
    command.args(["--name", &format!("m{n}"), "--data-dir"]).arg(folder.join(format!("member{n}")));
    command.args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)]);
    command.args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)]);
    command.args(["--initial-cluster", cluster, "--initial-cluster-state", "new"]);
    command.args(["--quota-backend-bytes", &(8_u64 << 30).to_string()]);
    command.stdin(Stdio::null()).stdout(log).stderr(also).kill_on_drop(true);
    command.spawn().map_err(|error| format!("{}: {error}", binary.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn messages_have_the_form_of_the_public_api() {
        let put = PutRequest { key: "k".into(), value: "v".into() };
        assert_eq!(put.encode_to_vec(), [0x0a, 1, b'k', 0x12, 1, b'v']);
        // {header (1), kvs (2): {key (1), create_revision (2), mod_revision (3), version (4), value (5)}, count (4)}
        let pair = [0x0a, 1, b'k', 0x10, 5, 0x18, 5, 0x20, 1, 0x2a, 1, b'v'];
        let reply = [&[0x0a, 2, 0x18, 5, 0x12, pair.len() as u8], &pair[..], &[0x20, 1]].concat();
        let reply = RangeResponse::decode(&reply[..]).expect("legal");
        assert_eq!(reply.kvs[0].value, "v");
    }
}
