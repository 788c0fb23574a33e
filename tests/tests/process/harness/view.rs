//! Stores and regions as `flotilla ctl --output json` shows them.

use serde_json::Value;

/// A region.
#[derive(Clone, Debug)]
pub struct RegionView {
    /// Id.
    pub id: u64,
    /// Whether it is the meta region, whose keys clients never see.
    pub is_meta: bool,
    /// First key.
    pub start: Vec<u8>,
    /// First key after it; empty = none.
    pub end: Vec<u8>,
    /// Epoch: changes of membership.
    pub conf_ver: u64,
    /// Epoch: splits and merges.
    pub version: u64,
    /// (peer, store) of each voter.
    pub voters: Vec<(u64, u64)>,
    /// Peers that do not vote, or are on the way in or out.
    pub others: usize,
    /// (peer, store) of the leader.
    pub leader: Option<(u64, u64)>,
    /// Peers that the leader has not heard from, or that have not caught up.
    pub troubled: usize,
}

/// A store.
#[derive(Clone, Debug)]
pub struct StoreView {
    /// Id.
    pub id: u64,
    /// Where it listens; empty once another disk took the address over.
    pub address: String,
    /// Regions with a peer there.
    pub regions: u64,
}

impl RegionView {
    /// From one object of `ctl regions`.
    ///
    /// # Panics
    /// A documented field is missing.
    pub fn parse(value: &Value) -> Self {
        let peers = value["peers"].as_array().expect("peers");
        let is_voter = |peer: &&Value| peer["role"] == "Voter";
        let voters: Vec<_> = peers.iter().filter(is_voter).map(peer).collect();
        let count = |field: &str| value[field].as_array().map_or(0, Vec::len);
        Self {
            id: number(&value["id"]),
            is_meta: value["meta_space"].as_bool().expect("meta_space"),
            start: hex(&value["start_key"]),
            end: hex(&value["end_key"]),
            conf_ver: number(&value["epoch"]["conf_ver"]),
            version: number(&value["epoch"]["version"]),
            others: peers.len() - voters.len(),
            voters,
            leader: Some(&value["leader"]).filter(|leader| leader.is_object()).map(peer),
            troubled: count("down_peers") + count("pending_peers"),
        }
    }

    /// Whether a key of clients belongs to it.
    pub fn holds(&self, key: &[u8]) -> bool {
        !self.is_meta && &self.start[..] <= key && (self.end.is_empty() || key < &self.end[..])
    }

    /// Stores with a voter, in ascending order.
    pub fn stores(&self) -> Vec<u64> {
        let mut stores: Vec<u64> = self.voters.iter().map(|(_, store)| *store).collect();
        stores.sort_unstable();
        stores
    }
}

impl StoreView {
    /// From one object of `ctl stores`.
    ///
    /// # Panics
    /// A documented field is missing.
    pub fn parse(value: &Value) -> Self {
        Self {
            id: number(&value["id"]),
            address: value["address"].as_str().expect("address").to_owned(),
            regions: number(&value["region_count"]),
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

fn peer(value: &Value) -> (u64, u64) {
    (number(&value["id"]), number(&value["store_id"]))
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a key in hex");
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex digits");
    (0..text.len()).step_by(2).map(digits).collect()
}
