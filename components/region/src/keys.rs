//! On-disk keys of both RocksDB instances. Ids are big-endian, so byte order is id order.
//!
//! `log` (one prefix byte per kind, 25 bytes for entries):
//! ```text
//! 0x01                                            round record {round, last synced round}
//! 0x02 | region u64 | peer u64 | 0x01             hard state
//! 0x02 | region u64 | peer u64 | 0x02             base: (index, term) before the first entry
//! 0x02 | region u64 | peer u64 | 0x03 | index u64 entry
//! 0x02 | region u64 | peer u64 | 0x04             promise to a fortified leader
//! 0x03 | 0x01                                     latest epoch in which this store asked others for support
//! 0x03 | 0x02                                     number of the last proof that the log writer lives
//! 0x03 | 0x03 | store u64                         support of another store
//! ```
//! `data`:
//! ```text
//! 0x01                                store identity and format
//! 0x02 | region u64 | 0x01            region state: descriptor or tombstone
//! 0x02 | region u64 | 0x02            apply state
//! 0x02 | region u64 | 0x03            merge under way, if there is one
//! 0x02 | region u64 | 0x04            why the region is out of service on this store, if it is
//! 0x02 | region u64 | 0x05            its splits and merges
//! 0x03 | name                         facts of this store (address book, id windows)
//! 0x04 | worker u16 | slot u16        applied positions of many regions, in a ring of each apply worker
//! 0x10 | key                          keys of the meta space
//! 0x20 | key                          keys of the user space
//! 0x30 | worker u16 | slot u16        the same positions again, with the users' keys between: they share no block
//! ```

use flotilla_raft::{Index, PeerId};

use crate::{KeyRange, RegionId, Space, StoreId};

/// `log`: the round record, part of every log batch.
pub const LOG_ROUND: &[u8] = &[0x01];
/// `log`: latest epoch in which this store asked others for support.
pub const OWN_EPOCH: &[u8] = &[LOG_LIVENESS, 0x01];
/// `log`: number of the last proof that the log writer lives.
pub const LOG_PROOF: &[u8] = &[LOG_LIVENESS, 0x02];
/// `data`: identity and format of the store.
pub const STORE_IDENT: &[u8] = &[0x01];

const LOG_PEER: u8 = 0x02;
const HARD_STATE: u8 = 0x01;
const BASE: u8 = 0x02;
const ENTRY: u8 = 0x03;
const PROMISE: u8 = 0x04;
const LOG_LIVENESS: u8 = 0x03;
const SUPPORTED: u8 = 0x03;
const DATA_REGION: u8 = 0x02;
const REGION_STATE: u8 = 0x01;
const APPLY_STATE: u8 = 0x02;
const MERGE_STATE: u8 = 0x03;
const QUARANTINE: u8 = 0x04;
const HISTORY: u8 = 0x05;
const STORE_FACT: u8 = 0x03;
const POSITIONS: [u8; 2] = [0x04, 0x30];
const META_SPACE: u8 = 0x10;
const USER_SPACE: u8 = 0x20;

/// What a key of `log` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKey {
    /// [`LOG_ROUND`].
    Round,
    /// Hard state of a peer.
    HardState(RegionId, PeerId),
    /// Base of a peer's log.
    Base(RegionId, PeerId),
    /// One entry of a peer's log.
    Entry(RegionId, PeerId, Index),
    /// Promise of a peer to its leader.
    Promise(RegionId, PeerId),
    /// [`OWN_EPOCH`].
    OwnEpoch,
    /// [`LOG_PROOF`].
    Proof,
    /// Support of another store.
    Supported(StoreId),
}

fn log_prefix(region: RegionId, peer: PeerId, kind: u8) -> [u8; 18] {
    let mut key = [0; 18];
    key[0] = LOG_PEER;
    key[1..9].copy_from_slice(&region.0.to_be_bytes());
    key[9..17].copy_from_slice(&peer.0.to_be_bytes());
    key[17] = kind;
    key
}

/// `log`: hard state of a peer.
pub fn log_hard_state(region: RegionId, peer: PeerId) -> [u8; 18] {
    log_prefix(region, peer, HARD_STATE)
}

/// `log`: base of a peer's log.
pub fn log_base(region: RegionId, peer: PeerId) -> [u8; 18] {
    log_prefix(region, peer, BASE)
}

/// `log`: promise of a peer to its leader.
pub fn log_promise(region: RegionId, peer: PeerId) -> [u8; 18] {
    log_prefix(region, peer, PROMISE)
}

/// `log`: support of another store.
pub fn supported(store: StoreId) -> [u8; 10] {
    let mut key = [LOG_LIVENESS; 10];
    key[1] = SUPPORTED;
    key[2..].copy_from_slice(&store.0.to_be_bytes());
    key
}

/// `log`: bounds `[start, end)` of the support of all other stores.
pub fn supported_bounds() -> ([u8; 2], [u8; 2]) {
    ([LOG_LIVENESS, SUPPORTED], [LOG_LIVENESS, SUPPORTED + 1])
}

/// `log`: one entry of a peer's log.
pub fn log_entry(region: RegionId, peer: PeerId, index: Index) -> [u8; 26] {
    let mut key = [0; 26];
    key[..18].copy_from_slice(&log_prefix(region, peer, ENTRY));
    key[18..].copy_from_slice(&index.0.to_be_bytes());
    key
}

/// `log`: bounds `[start, end)` of everything that belongs to a peer.
pub fn log_peer_bounds(region: RegionId, peer: PeerId) -> ([u8; 18], [u8; 18]) {
    (log_prefix(region, peer, 0), log_prefix(region, peer, 0xFF))
}

/// `log`: bounds `[start, end)` of everything that belongs to any peer.
pub fn log_bounds() -> (Vec<u8>, Vec<u8>) {
    (vec![LOG_PEER], vec![LOG_PEER + 1])
}

/// Reads a key of `log`; `None` if it is none of ours.
pub fn parse_log_key(key: &[u8]) -> Option<LogKey> {
    if key == LOG_ROUND {
        return Some(LogKey::Round);
    }
    match (key, key.len()) {
        (OWN_EPOCH, _) => return Some(LogKey::OwnEpoch),
        (LOG_PROOF, _) => return Some(LogKey::Proof),
        ([LOG_LIVENESS, SUPPORTED, store @ ..], 10) => {
            return read_u64(store).map(|store| LogKey::Supported(StoreId(store)));
        }
        _ => {}
    }
    if key.len() < 18 || key[0] != LOG_PEER {
        return None;
    }
    let region = RegionId(read_u64(&key[1..9])?);
    let peer = PeerId(read_u64(&key[9..17])?);
    match (key[17], key.len()) {
        (HARD_STATE, 18) => Some(LogKey::HardState(region, peer)),
        (BASE, 18) => Some(LogKey::Base(region, peer)),
        (PROMISE, 18) => Some(LogKey::Promise(region, peer)),
        (ENTRY, 26) => Some(LogKey::Entry(region, peer, Index(read_u64(&key[18..])?))),
        _ => None,
    }
}

/// `data`: descriptor or tombstone of a region.
pub fn region_state(region: RegionId) -> [u8; 10] {
    data_region(region, REGION_STATE)
}

/// `data`: apply state of a region.
pub fn apply_state(region: RegionId) -> [u8; 10] {
    data_region(region, APPLY_STATE)
}

/// `data`: what a region has to do with a merge under way.
pub fn merge_state(region: RegionId) -> [u8; 10] {
    data_region(region, MERGE_STATE)
}

/// `data`: both places of a list of many regions' applied positions.
pub fn positions(worker: u16, slot: u16) -> [[u8; 5]; 2] {
    let (worker, slot) = (worker.to_be_bytes(), slot.to_be_bytes());
    POSITIONS.map(|place| [place, worker[0], worker[1], slot[0], slot[1]])
}

/// `data`: bounds `[start, end)` of all those lists, of each place.
pub fn positions_bounds() -> [([u8; 1], [u8; 1]); 2] {
    POSITIONS.map(|place| ([place], [place + 1]))
}

/// `data`: end of everything that a store keeps of a region besides its data.
pub fn data_region_end(region: RegionId) -> [u8; 10] {
    data_region(region, 0xFF)
}

/// `data`: why a region is out of service on this store.
pub fn quarantine(region: RegionId) -> [u8; 10] {
    data_region(region, QUARANTINE)
}

/// `data`: splits and merges of a region.
pub fn history(region: RegionId) -> [u8; 10] {
    data_region(region, HISTORY)
}

fn data_region(region: RegionId, kind: u8) -> [u8; 10] {
    let mut key = [0; 10];
    key[0] = DATA_REGION;
    key[1..9].copy_from_slice(&region.0.to_be_bytes());
    key[9] = kind;
    key
}

/// `data`: bounds `[start, end)` of all region, apply and merge states.
pub fn region_bounds() -> (Vec<u8>, Vec<u8>) {
    (vec![DATA_REGION], vec![DATA_REGION + 1])
}

/// Region of a `data` key within [`region_bounds`].
pub fn parse_data_region(key: &[u8]) -> Option<RegionId> {
    (key.len() == 10 && key[0] == DATA_REGION).then(|| read_u64(&key[1..9]).map(RegionId)).flatten()
}

/// Region of a `data` key made by [`region_state`]; `None` for any other key.
pub fn parse_region_state(key: &[u8]) -> Option<RegionId> {
    (key.len() == 10 && key[0] == DATA_REGION && key[9] == REGION_STATE)
        .then(|| read_u64(&key[1..9]).map(RegionId))
        .flatten()
}

/// `data`: a fact of this store.
pub fn store_fact(name: &[u8]) -> Vec<u8> {
    prefixed(STORE_FACT, name)
}

/// Prefix byte of a key space in `data`.
pub const fn space_prefix(space: Space) -> u8 {
    match space {
        Space::Meta => META_SPACE,
        Space::User => USER_SPACE,
    }
}

/// `data`: a key of a space.
pub fn data_key(space: Space, key: &[u8]) -> Vec<u8> {
    prefixed(space_prefix(space), key)
}

/// `data`: bounds `[start, end)` of a range of a space.
pub fn data_bounds(space: Space, range: &KeyRange) -> (Vec<u8>, Vec<u8>) {
    let prefix = space_prefix(space);
    let end = if range.end.is_empty() { vec![prefix + 1] } else { prefixed(prefix, &range.end) };
    (prefixed(prefix, &range.start), end)
}

fn prefixed(prefix: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(prefix);
    key.extend_from_slice(rest);
    key
}

fn read_u64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}
