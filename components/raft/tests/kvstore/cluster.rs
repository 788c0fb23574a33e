//! Several processes of one group.

use std::collections::BTreeMap;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Answer, Process, request, wait_for};

/// Processes by id, and the folder with everything they have.
pub struct Cluster {
    pub peers: BTreeMap<u64, Process>,
    snapshot_entries: u64,
    folder: TempDir,
}

impl Cluster {
    /// A new group of `size` that makes a snapshot every `snapshot_entries`, with a leader.
    pub fn start(size: u64, snapshot_entries: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut peers: BTreeMap<u64, Process> =
            (1..=size).map(|id| (id, Process::new(folder.path(), id))).collect();
        let group: Vec<String> =
            peers.iter().map(|(id, peer)| format!("{id}={}", peer.addresses())).collect();
        let mut cluster = Self { peers: BTreeMap::new(), snapshot_entries, folder };
        for peer in peers.values_mut() {
            peer.arguments.extend(["--group".into(), group.join(",")]);
            peer.arguments.extend(cluster.pace());
            peer.spawn();
        }
        cluster.peers = peers;
        cluster.wait_leader();
        cluster
    }

    /// A process with an empty folder that waits to be added.
    pub fn spawn_newcomer(&mut self, id: u64) {
        let mut peer = Process::new(self.folder.path(), id);
        peer.arguments.extend(["--join".into(), peer.addresses()]);
        peer.arguments.extend(self.pace());
        peer.spawn();
        self.peers.insert(id, peer);
    }

    fn pace(&self) -> [String; 4] {
        let count = self.snapshot_entries.to_string();
        ["--snapshot-entries".into(), count, "--tick-ms".into(), "30".into()]
    }

    pub fn peer(&self, id: u64) -> &Process {
        &self.peers[&id]
    }

    pub fn peer_mut(&mut self, id: u64) -> &mut Process {
        self.peers.get_mut(&id).expect("a peer of the group")
    }

    /// Processes that run.
    pub fn running(&self) -> impl Iterator<Item = (u64, &Process)> {
        self.peers.iter().filter(|(_, peer)| peer.is_running()).map(|(id, peer)| (*id, peer))
    }

    /// The peer that leads, once every running peer says the same.
    pub fn wait_leader(&self) -> u64 {
        wait_for("one leader", || {
            let mut leaders = Vec::new();
            for (_, peer) in self.running() {
                leaders.push(peer.status()?["leader"].as_u64().unwrap_or_default());
            }
            let first = leaders[0];
            let is_agreed = leaders.iter().all(|leader| *leader == first);
            let is_up = self.peers.get(&first).is_some_and(Process::is_running);
            if is_agreed && is_up { Ok(first) } else { Err(format!("{leaders:?}")) }
        })
    }

    /// Running peers other than `id`.
    pub fn others(&self, id: u64) -> Vec<u64> {
        self.running().map(|(other, _)| other).filter(|other| *other != id).collect()
    }

    /// One membership change asked of `via`, following a redirect to the leader; its final answer.
    pub fn change(&self, via: u64, method: &str, id: u64) -> Result<Answer, String> {
        let path = format!("/members/{id}");
        let body = match method {
            "PUT" => {
                let peer = self.peer(id);
                format!(r#"{{"raft": "{}", "http": "{}"}}"#, peer.raft, peer.http)
            }
            _ => String::new(),
        };
        let answer = self.peer(via).request(method, &path, &body)?;
        let Some(location) = answer.location.filter(|_| answer.code == 307) else {
            return Ok(Answer { location: None, ..answer });
        };
        let (address, rest) = location
            .strip_prefix("http://")
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(|| format!("redirected to {location}"))?;
        assert_eq!(format!("/{rest}"), path);
        let address = address.parse().map_err(|error| format!("{location}: {error}"))?;
        request(address, method, &path, &body)
    }

    /// Ids of the voters and of the learners, as `via` has applied them.
    pub fn members(&self, via: u64) -> Result<(Vec<u64>, Vec<u64>), String> {
        let status = self.peer(via).status()?;
        let members = status["members"].as_array().ok_or("no members")?;
        let ids = |is_voter: bool| {
            let picked = members.iter().filter(|member| member["is_voter"] == Value::Bool(is_voter));
            picked.filter_map(|member| member["id"].as_u64()).collect()
        };
        Ok((ids(true), ids(false)))
    }

    /// Waits until `via` has applied a membership of exactly these voters and no learners.
    pub fn wait_members(&self, via: u64, voters: &[u64]) {
        wait_for(&format!("the voters are {voters:?}"), || match self.members(via)? {
            (found, learners) if found == voters && learners.is_empty() => Ok(()),
            found => Err(format!("{found:?}")),
        });
    }
}
