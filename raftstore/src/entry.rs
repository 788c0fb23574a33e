//! What the data of a normal log entry says.
//!
//! ```text
//! 0x01 | 0x00 | version u64 | time_ms u64 | { len u32 | command }*     commands for the state machine
//! 0x01 | 0x01 | conf_ver u64 | version u64 | kind u8 | ...             administrative command
//! ```
//! The first byte is the format: a replica that meets one it does not know stops the region instead of skipping.
//! Empty data is the entry that a new leader appends.

use bytes::Bytes;
use flotilla_region::{Peer, PeerId, PeerRole, RegionEpoch, RegionId, StoreId};

use crate::codec::{get_bytes, get_u8, get_u32, get_u64, put_bytes, put_u64};

const FORMAT: u8 = 1;
const COMMANDS: u8 = 0;
const ADMIN: u8 = 1;
const ADMIN_SPLIT: u8 = 1;
/// Bytes of an entry of commands before the first command.
pub(crate) const COMMANDS_HEADER_BYTES: usize = 18;

/// Decoded data of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Nothing: appended by a new leader.
    Empty,
    /// Commands for the state machine, proposed together.
    Commands {
        /// Version of the region for which they were checked.
        version: u64,
        /// Proposer's wall clock.
        time_ms: u64,
        /// The commands, one after the other, each length-prefixed.
        commands: Bytes,
    },
    /// A command for the region itself.
    Admin {
        /// Epoch for which it was checked.
        epoch: RegionEpoch,
        /// The command.
        command: AdminCommand,
    },
}

/// A logged command that changes the region itself. Membership changes are conf change entries instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AdminCommand {
    /// Cut the region; the rightmost part keeps the id.
    Split(Vec<SplitPart>),
}

/// A region that a split creates; it ends at `end_key`, where the next begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SplitPart {
    /// Exclusive end of the new region.
    pub end_key: Bytes,
    /// Its id.
    pub region: RegionId,
    /// Ids of its peers, in the order of the parent's peers.
    pub peers: Vec<PeerId>,
}

impl Payload {
    /// Reads an entry's data; `None` if this version does not know it.
    pub(crate) fn decode(mut data: Bytes) -> Option<Self> {
        if data.is_empty() {
            return Some(Self::Empty);
        }
        if get_u8(&mut data)? != FORMAT {
            return None;
        }
        match get_u8(&mut data)? {
            COMMANDS => Some(Self::Commands {
                version: get_u64(&mut data)?,
                time_ms: get_u64(&mut data)?,
                commands: data,
            }),
            ADMIN => {
                let epoch = RegionEpoch { conf_ver: get_u64(&mut data)?, version: get_u64(&mut data)? };
                let command = match get_u8(&mut data)? {
                    ADMIN_SPLIT => AdminCommand::Split(decode_split(&mut data)?),
                    _ => return None,
                };
                Some(Self::Admin { epoch, command })
            }
            _ => None,
        }
    }
}

/// Collects commands into one entry.
#[derive(Debug, Default)]
pub(crate) struct CommandsEncoder {
    data: Vec<u8>,
}

impl CommandsEncoder {
    /// Bytes so far.
    pub(crate) fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Adds a command.
    pub(crate) fn push(&mut self, command: &[u8]) {
        if self.data.is_empty() {
            self.data.reserve(COMMANDS_HEADER_BYTES + 4 + command.len());
            self.data.resize(COMMANDS_HEADER_BYTES, 0);
        }
        put_bytes(&mut self.data, command);
    }

    /// Data of the entry; the encoder starts anew.
    pub(crate) fn finish(&mut self, version: u64, time_ms: u64) -> Bytes {
        let mut data = std::mem::take(&mut self.data);
        data[0] = FORMAT;
        data[1] = COMMANDS;
        data[2..10].copy_from_slice(&version.to_le_bytes());
        data[10..18].copy_from_slice(&time_ms.to_le_bytes());
        Bytes::from(data)
    }
}

/// The commands of [`Payload::Commands`], in order. `None` items mean that the entry is damaged.
pub(crate) fn commands(mut rest: Bytes) -> impl Iterator<Item = Option<Bytes>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let command = get_bytes(&mut rest);
        if command.is_none() {
            rest.clear();
        }
        Some(command)
    })
}

/// Data of an administrative entry.
pub(crate) fn encode_admin(epoch: RegionEpoch, command: &AdminCommand) -> Bytes {
    let mut out = vec![FORMAT, ADMIN];
    put_u64(&mut out, epoch.conf_ver);
    put_u64(&mut out, epoch.version);
    match command {
        AdminCommand::Split(parts) => {
            out.push(ADMIN_SPLIT);
            out.extend_from_slice(&(parts.len() as u32).to_le_bytes());
            for part in parts {
                put_bytes(&mut out, &part.end_key);
                put_u64(&mut out, part.region.0);
                out.extend_from_slice(&(part.peers.len() as u32).to_le_bytes());
                part.peers.iter().for_each(|p| put_u64(&mut out, p.0));
            }
        }
    }
    Bytes::from(out)
}

fn decode_split(data: &mut Bytes) -> Option<Vec<SplitPart>> {
    let count = get_u32(data)?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let end_key = get_bytes(data)?;
        let region = RegionId(get_u64(data)?);
        let peers = (0..get_u32(data)?).map(|_| get_u64(data).map(PeerId)).collect::<Option<_>>()?;
        parts.push(SplitPart { end_key, region, peers });
    }
    Some(parts)
}

/// Context of a conf change entry: the epoch it was checked for and the peers as they will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MembershipChange {
    /// Epoch for which it was checked.
    pub epoch: RegionEpoch,
    /// Number of peers that change; added to conf_ver.
    pub changed: u64,
    /// All peers after the change.
    pub peers: Vec<Peer>,
}

impl MembershipChange {
    /// Serialised form.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = vec![FORMAT];
        put_u64(&mut out, self.epoch.conf_ver);
        put_u64(&mut out, self.epoch.version);
        put_u64(&mut out, self.changed);
        put_peers(&mut out, &self.peers);
        Bytes::from(out)
    }

    /// Reads the serialised form; `None` if this version does not know it.
    pub(crate) fn decode(mut data: Bytes) -> Option<Self> {
        if get_u8(&mut data)? != FORMAT {
            return None;
        }
        Some(Self {
            epoch: RegionEpoch { conf_ver: get_u64(&mut data)?, version: get_u64(&mut data)? },
            changed: get_u64(&mut data)?,
            peers: get_peers(&mut data)?,
        })
    }
}

/// Appends a list of peers.
pub(crate) fn put_peers(out: &mut Vec<u8>, peers: &[Peer]) {
    out.extend_from_slice(&(peers.len() as u32).to_le_bytes());
    for peer in peers {
        put_u64(out, peer.id.0);
        put_u64(out, peer.store.0);
        out.push(match peer.role {
            PeerRole::Voter => 0,
            PeerRole::Learner => 1,
            PeerRole::IncomingVoter => 2,
            PeerRole::DemotingVoter => 3,
        });
    }
}

/// Takes a list of peers off the front.
pub(crate) fn get_peers(data: &mut Bytes) -> Option<Vec<Peer>> {
    let count = get_u32(data)?;
    (0..count)
        .map(|_| {
            let (id, store) = (PeerId(get_u64(data)?), StoreId(get_u64(data)?));
            let role = match get_u8(data)? {
                0 => PeerRole::Voter,
                1 => PeerRole::Learner,
                2 => PeerRole::IncomingVoter,
                3 => PeerRole::DemotingVoter,
                _ => return None,
            };
            Some(Peer { id, store, role })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_one_entry_come_back_in_order() {
        let mut encoder = CommandsEncoder::default();
        encoder.push(b"one");
        encoder.push(b"");
        encoder.push(b"three");
        let data = encoder.finish(7, 99);
        let Some(Payload::Commands { version: 7, time_ms: 99, commands: rest }) =
            Payload::decode(data.clone())
        else {
            panic!("not commands")
        };
        let got: Vec<_> = commands(rest).map(|c| c.expect("whole")).collect();
        assert_eq!(got, [&b"one"[..], b"", b"three"]);
        let cut = data.slice(..data.len() - 1);
        let Some(Payload::Commands { commands: rest, .. }) = Payload::decode(cut) else {
            panic!("not commands")
        };
        assert_eq!(commands(rest).last(), Some(None), "a damaged entry is noticed");
    }

    #[test]
    fn a_split_and_a_membership_change_survive_encoding() {
        let parts = vec![SplitPart {
            end_key: Bytes::from_static(b"k"),
            region: RegionId(9),
            peers: vec![PeerId(1)],
        }];
        let epoch = RegionEpoch { conf_ver: 2, version: 3 };
        let command = AdminCommand::Split(parts);
        assert_eq!(Payload::decode(encode_admin(epoch, &command)), Some(Payload::Admin { epoch, command }));
        let peers = vec![Peer { id: PeerId(4), store: StoreId(5), role: PeerRole::DemotingVoter }];
        let change = MembershipChange { epoch, changed: 1, peers };
        assert_eq!(MembershipChange::decode(change.encode()), Some(change));
        assert_eq!(Payload::decode(Bytes::from_static(&[2, 0])), None, "a newer format is not guessed at");
    }
}
