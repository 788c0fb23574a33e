//! Records that a store keeps besides user data: descriptors, apply states, hard states, log bases, its identity.

use bytes::Bytes;
use flotilla_raft::{Entry, EntryKind, HardState};
use flotilla_region::{
    ClusterId, Index, KeyRange, PeerId, Region, RegionEpoch, RegionId, Space, StoreId, Term,
};

use crate::codec::{get_bytes, get_key, get_u8, get_u32, get_u64, put_bytes, put_u64};
use crate::entry::{get_peers, put_peers};

const NORMAL: u8 = 0;
const TOMBSTONE: u8 = 1;
const MERGED: u8 = 2;

/// What `data` says of a region on this store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionState {
    /// It lives here.
    Normal(Region),
    /// It was removed: neither `peer` nor any peer of a membership up to `epoch` may come back. (Peer ids come from
    /// windows of many stores, so their order says nothing about age.)
    Tombstone {
        /// The last peer of the region that this store had.
        peer: PeerId,
        /// Latest epoch of the region that this store knew of.
        epoch: RegionEpoch,
        /// The region that it became a part of, with that one's version after the merge: the group is gone on all
        /// stores, or will be.
        merged: Option<(RegionId, u64)>,
        /// The peers by that epoch; empty = not known. Whoever belonged to an earlier membership only is gone, too.
        members: Vec<PeerId>,
    },
}

impl RegionState {
    /// The record of a removal: `region` as this store knew it last.
    pub(crate) fn tombstone(peer: PeerId, region: &Region, merged: Option<(RegionId, u64)>) -> Self {
        let members = region.peers.iter().map(|p| p.id).collect();
        Self::Tombstone { peer, epoch: region.epoch, merged, members }
    }

    /// Serialised form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Normal(region) => {
                out.push(NORMAL);
                put_region(&mut out, region);
            }
            Self::Tombstone { peer, epoch, merged, members } => {
                out.push(if merged.is_some() { MERGED } else { TOMBSTONE });
                put_u64(&mut out, peer.0);
                put_u64(&mut out, epoch.conf_ver);
                put_u64(&mut out, epoch.version);
                if let Some((target, version)) = merged {
                    put_u64(&mut out, target.0);
                    put_u64(&mut out, *version);
                }
                members.iter().for_each(|member| put_u64(&mut out, member.0));
            }
        }
        out
    }

    /// Reads the serialised form.
    pub fn decode(mut data: Bytes) -> Option<Self> {
        match get_u8(&mut data)? {
            NORMAL => Some(Self::Normal(get_region(&mut data)?)),
            kind @ (TOMBSTONE | MERGED) => Some(Self::Tombstone {
                peer: PeerId(get_u64(&mut data)?),
                epoch: RegionEpoch { conf_ver: get_u64(&mut data)?, version: get_u64(&mut data)? },
                merged: match kind {
                    MERGED => Some((RegionId(get_u64(&mut data)?), get_u64(&mut data)?)),
                    _ => None,
                },
                members: get_members(&mut data)?,
            }),
            _ => None,
        }
    }
}

/// Whether `known` is a later membership than one of `conf_ver`, and without the peer that has told of that one. A peer
/// that waits for its first data, or is just taking it in, has an epoch, and knows no members: it proves nothing.
pub(crate) fn is_without(known: &Region, conf_ver: u64, peer: PeerId) -> bool {
    !known.peers.is_empty() && conf_ver < known.epoch.conf_ver && known.peer(peer).is_none()
}

/// The rest of a tombstone: earlier versions wrote none.
fn get_members(data: &mut Bytes) -> Option<Vec<PeerId>> {
    let mut members = Vec::with_capacity(data.len() / 8);
    while !data.is_empty() {
        members.push(PeerId(get_u64(data)?));
    }
    Some(members)
}

/// Appends a descriptor.
pub(crate) fn put_region(out: &mut Vec<u8>, region: &Region) {
    put_u64(out, region.id.0);
    out.push(match region.space {
        Space::User => 0,
        Space::Meta => 1,
    });
    put_bytes(out, &region.range.start);
    put_bytes(out, &region.range.end);
    put_u64(out, region.epoch.conf_ver);
    put_u64(out, region.epoch.version);
    put_peers(out, &region.peers);
}

/// Takes a descriptor off the front.
pub(crate) fn get_region(data: &mut Bytes) -> Option<Region> {
    let id = RegionId(get_u64(data)?);
    let space = match get_u8(data)? {
        0 => Space::User,
        1 => Space::Meta,
        _ => return None,
    };
    let range = KeyRange::new(get_key(data)?, get_key(data)?);
    let epoch = RegionEpoch { conf_ver: get_u64(data)?, version: get_u64(data)? };
    Some(Region { id, space, range, epoch, peers: get_peers(data)? })
}

/// A log position and its term; pairs of them are everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogId {
    /// Position.
    pub index: Index,
    /// Term of the entry there.
    pub term: Term,
}

impl LogId {
    /// Serialised form.
    pub fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.index.0.to_le_bytes());
        out[8..].copy_from_slice(&self.term.0.to_le_bytes());
        out
    }

    /// Reads the serialised form.
    pub fn decode(mut data: Bytes) -> Option<Self> {
        Some(Self { index: Index(get_u64(&mut data)?), term: Term(get_u64(&mut data)?) })
    }
}

/// Serialised hard state.
pub fn encode_hard_state(state: &HardState) -> [u8; 24] {
    let mut out = [0; 24];
    out[..8].copy_from_slice(&state.term.0.to_le_bytes());
    out[8..16].copy_from_slice(&state.vote.0.to_le_bytes());
    out[16..].copy_from_slice(&state.commit.0.to_le_bytes());
    out
}

/// Reads a serialised hard state.
pub fn decode_hard_state(mut data: Bytes) -> Option<HardState> {
    Some(HardState {
        term: Term(get_u64(&mut data)?),
        vote: PeerId(get_u64(&mut data)?),
        commit: Index(get_u64(&mut data)?),
    })
}

/// Appends an entry's value in `log`: {term u64, kind u8, data}; the index is in the key.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    out.clear();
    put_u64(out, entry.term.0);
    out.push(match entry.kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::ConfChangeV2 => 2,
    });
    out.extend_from_slice(&entry.data);
}

/// Reads an entry's value in `log`.
pub fn decode_entry(index: Index, mut data: Bytes) -> Option<Entry> {
    let term = Term(get_u64(&mut data)?);
    let kind = entry_kind(u32::from(get_u8(&mut data)?))?;
    Some(Entry { term, index, kind, data })
}

/// Entry kind of a stored or sent number.
pub fn entry_kind(number: u32) -> Option<EntryKind> {
    match number {
        0 => Some(EntryKind::Normal),
        1 => Some(EntryKind::ConfChange),
        2 => Some(EntryKind::ConfChangeV2),
        _ => None,
    }
}

/// Who this store is. Written once, before it answers anybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreIdent {
    /// Format that wrote the directory.
    pub format: u32,
    /// Oldest version of the software that may read it.
    pub format_read_min: u32,
    /// Cluster.
    pub cluster: ClusterId,
    /// Store.
    pub store: StoreId,
    /// Drawn when the directory was made; binds the store id to this disk.
    pub uuid: Bytes,
}

impl StoreIdent {
    /// Serialised form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.format.to_le_bytes());
        out.extend_from_slice(&self.format_read_min.to_le_bytes());
        put_u64(&mut out, self.cluster.0);
        put_u64(&mut out, self.store.0);
        put_bytes(&mut out, &self.uuid);
        out
    }

    /// Reads the serialised form.
    pub fn decode(mut data: Bytes) -> Option<Self> {
        Some(Self {
            format: get_u32(&mut data)?,
            format_read_min: get_u32(&mut data)?,
            cluster: ClusterId(get_u64(&mut data)?),
            store: StoreId(get_u64(&mut data)?),
            uuid: get_bytes(&mut data)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_region::{Peer, PeerRole};

    #[test]
    fn every_record_survives_encoding() {
        let region = Region {
            id: RegionId(7),
            space: Space::Meta,
            range: KeyRange::new(&b"a"[..], &b"b"[..]),
            epoch: RegionEpoch { conf_ver: 3, version: 4 },
            peers: vec![Peer { id: PeerId(1), store: StoreId(2), role: PeerRole::Learner }],
        };
        for state in [
            RegionState::Normal(region),
            RegionState::Tombstone {
                peer: PeerId(9),
                epoch: RegionEpoch { conf_ver: 1, version: 2 },
                merged: None,
                members: Vec::new(),
            },
            RegionState::Tombstone {
                peer: PeerId(9),
                epoch: RegionEpoch { conf_ver: 1, version: 2 },
                merged: Some((RegionId(3), 9)),
                members: vec![PeerId(8), PeerId(9)],
            },
        ] {
            assert_eq!(RegionState::decode(state.encode().into()), Some(state));
        }
        let hard_state = HardState { term: Term(1), vote: PeerId(2), commit: Index(3) };
        assert_eq!(
            decode_hard_state(Bytes::copy_from_slice(&encode_hard_state(&hard_state))),
            Some(hard_state)
        );
        let entry = Entry { term: Term(5), index: Index(6), kind: EntryKind::ConfChangeV2, data: "x".into() };
        let mut out = Vec::new();
        encode_entry(&entry, &mut out);
        assert_eq!(decode_entry(Index(6), out.into()), Some(entry));
        let ident = StoreIdent {
            format: 1,
            format_read_min: 1,
            cluster: ClusterId(2),
            store: StoreId(3),
            uuid: Bytes::from_static(b"0123456789abcdef"),
        };
        assert_eq!(StoreIdent::decode(ident.encode().into()), Some(ident));
    }
}
