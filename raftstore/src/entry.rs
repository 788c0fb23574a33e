//! What the data of a normal log entry says.
//!
//! ```text
//! 0x01 | 0x00 | version u64 | time_ms u64 | { len u32 | command }*     commands for the state machine
//! 0x01 | 0x01 | conf_ver u64 | version u64 | kind u8 | ...             administrative command
//! ```
//! The first byte is the format: a replica that meets one it does not know stops the region instead of skipping.
//! Empty data is the entry that a new leader appends.

use bytes::Bytes;
use flotilla_raft::Entry;
use flotilla_region::{Index, Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, StoreId, Term};

use crate::codec::{get_bytes, get_key, get_u8, get_u32, get_u64, put_bytes, put_u64};
use crate::state::{LogId, decode_entry, encode_entry, get_region, put_region};

const FORMAT: u8 = 1;
const COMMANDS: u8 = 0;
const ADMIN: u8 = 1;
const ADMIN_SPLIT: u8 = 1;
const ADMIN_EXPECT_MERGE: u8 = 2;
const ADMIN_PREPARE_MERGE: u8 = 3;
const ADMIN_COMMIT_MERGE: u8 = 4;
const ADMIN_ROLLBACK_MERGE: u8 = 5;
const ADMIN_VOID_MERGE: u8 = 6;
/// Position of an administrative command's kind, behind format, kind of entry and epoch.
const ADMIN_KIND_AT: usize = 18;
const ADMIN_CHECK: u8 = 16;
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
    /// Cut the region; the rightmost part keeps the id. With the proposer's wall clock; 0 = not known.
    Split(Vec<SplitPart>, u64),
    /// The region's shape is frozen until it is known what becomes of this neighbour, in this shape.
    ExpectMerge(Region),
    /// The region becomes part of the target; final.
    PrepareMerge(PrepareMerge),
    /// The expected neighbour becomes part of the region.
    CommitMerge(CommitMerge),
    /// The expected neighbour, named with the expected shape, has another fate.
    RollbackMerge(RegionId, RegionEpoch),
    /// Moves the version, so that nobody expects the region any more.
    VoidMerge,
    /// Changes nothing: replicas are compared as of here.
    Check,
}

/// What makes a region part of another one, with all that the slowest of its peers may lack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrepareMerge {
    /// The region that takes it over.
    pub target: RegionId,
    /// A position that every peer's log has.
    pub from: LogId,
    /// All entries between it and this one.
    pub entries: Vec<Entry>,
}

/// A neighbour that is ready to be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommitMerge {
    /// Its last shape.
    pub source: Region,
    /// Position of its last entry.
    pub at: LogId,
    /// Data of that entry: [`AdminCommand::PrepareMerge`].
    pub prepare: Bytes,
    /// Proposer's wall clock; 0 = not known.
    pub time_ms: u64,
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
                Some(Self::Admin { epoch, command: decode_admin(&mut data)? })
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
        AdminCommand::Split(parts, time_ms) => {
            out.push(ADMIN_SPLIT);
            put_split(&mut out, parts);
            put_u64(&mut out, *time_ms);
        }
        AdminCommand::ExpectMerge(source) => {
            out.push(ADMIN_EXPECT_MERGE);
            put_region(&mut out, source);
        }
        AdminCommand::PrepareMerge(prepare) => {
            out.push(ADMIN_PREPARE_MERGE);
            put_u64(&mut out, prepare.target.0);
            out.extend_from_slice(&prepare.from.encode());
            put_entries(&mut out, &prepare.entries);
        }
        AdminCommand::CommitMerge(commit) => {
            out.push(ADMIN_COMMIT_MERGE);
            put_region(&mut out, &commit.source);
            out.extend_from_slice(&commit.at.encode());
            put_bytes(&mut out, &commit.prepare);
            put_u64(&mut out, commit.time_ms);
        }
        AdminCommand::RollbackMerge(source, expected) => {
            out.push(ADMIN_ROLLBACK_MERGE);
            put_u64(&mut out, source.0);
            put_u64(&mut out, expected.conf_ver);
            put_u64(&mut out, expected.version);
        }
        AdminCommand::VoidMerge => out.push(ADMIN_VOID_MERGE),
        AdminCommand::Check => out.push(ADMIN_CHECK),
    }
    Bytes::from(out)
}

/// Whether an entry's data is [`AdminCommand::CommitMerge`], without decoding it.
pub(crate) fn is_commit_merge(data: &[u8]) -> bool {
    data.starts_with(&[FORMAT, ADMIN]) && data.get(ADMIN_KIND_AT) == Some(&ADMIN_COMMIT_MERGE)
}

fn decode_admin(data: &mut Bytes) -> Option<AdminCommand> {
    Some(match get_u8(data)? {
        ADMIN_SPLIT => AdminCommand::Split(decode_split(data)?, get_time(data)),
        ADMIN_EXPECT_MERGE => AdminCommand::ExpectMerge(get_region(data)?),
        ADMIN_PREPARE_MERGE => AdminCommand::PrepareMerge(PrepareMerge {
            target: RegionId(get_u64(data)?),
            from: get_log_id(data)?,
            entries: get_entries(data)?,
        }),
        ADMIN_COMMIT_MERGE => AdminCommand::CommitMerge(CommitMerge {
            source: get_region(data)?,
            at: get_log_id(data)?,
            prepare: get_bytes(data)?,
            time_ms: get_time(data),
        }),
        ADMIN_ROLLBACK_MERGE => AdminCommand::RollbackMerge(
            RegionId(get_u64(data)?),
            RegionEpoch { conf_ver: get_u64(data)?, version: get_u64(data)? },
        ),
        ADMIN_VOID_MERGE => AdminCommand::VoidMerge,
        ADMIN_CHECK => AdminCommand::Check,
        _ => return None,
    })
}

/// Takes the time off the end of a command; entries that were written before there was one have none.
fn get_time(data: &mut Bytes) -> u64 {
    get_u64(data).unwrap_or(0)
}

/// Takes a position off the front.
pub(crate) fn get_log_id(data: &mut Bytes) -> Option<LogId> {
    Some(LogId { index: Index(get_u64(data)?), term: Term(get_u64(data)?) })
}

fn put_entries(out: &mut Vec<u8>, entries: &[Entry]) {
    out.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    let mut value = Vec::new();
    for entry in entries {
        put_u64(out, entry.index.0);
        encode_entry(entry, &mut value);
        put_bytes(out, &value);
    }
}

fn get_entries(data: &mut Bytes) -> Option<Vec<Entry>> {
    let count = get_u32(data)?;
    (0..count)
        .map(|_| {
            let index = Index(get_u64(data)?);
            decode_entry(index, get_bytes(data)?)
        })
        .collect()
}

fn put_split(out: &mut Vec<u8>, parts: &[SplitPart]) {
    out.extend_from_slice(&(parts.len() as u32).to_le_bytes());
    for part in parts {
        put_bytes(out, &part.end_key);
        put_u64(out, part.region.0);
        out.extend_from_slice(&(part.peers.len() as u32).to_le_bytes());
        part.peers.iter().for_each(|p| put_u64(out, p.0));
    }
}

fn decode_split(data: &mut Bytes) -> Option<Vec<SplitPart>> {
    let count = get_u32(data)?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let end_key = get_key(data)?;
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

    fn command_of(data: Bytes) -> AdminCommand {
        match Payload::decode(data) {
            Some(Payload::Admin { command, .. }) => command,
            other => panic!("{other:?}"),
        }
    }

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
    fn the_steps_of_a_merge_survive_encoding() {
        let epoch = RegionEpoch { conf_ver: 2, version: 3 };
        let source = Region { id: RegionId(7), epoch, ..Region::default() };
        let at = LogId { index: Index(9), term: Term(6) };
        let entry = Entry { term: Term(6), index: Index(8), data: "x".into(), ..Entry::default() };
        let prepare = PrepareMerge { target: RegionId(8), from: at, entries: vec![entry] };
        let prepare = AdminCommand::PrepareMerge(prepare);
        let data = encode_admin(epoch, &prepare);
        for command in [
            AdminCommand::ExpectMerge(source.clone()),
            prepare,
            AdminCommand::CommitMerge(CommitMerge { source, at, prepare: data, time_ms: 5 }),
            AdminCommand::RollbackMerge(RegionId(7), epoch),
            AdminCommand::VoidMerge,
        ] {
            let decoded = Payload::decode(encode_admin(epoch, &command));
            assert_eq!(decoded, Some(Payload::Admin { epoch, command }));
        }
    }

    #[test]
    fn a_split_and_a_membership_change_survive_encoding() {
        let parts = vec![SplitPart {
            end_key: Bytes::from_static(b"k"),
            region: RegionId(9),
            peers: vec![PeerId(1)],
        }];
        let epoch = RegionEpoch { conf_ver: 2, version: 3 };
        let command = AdminCommand::Split(parts, 77);
        let older = encode_admin(epoch, &command);
        let older = older.slice(..older.len() - 8);
        assert_eq!(Payload::decode(encode_admin(epoch, &command)), Some(Payload::Admin { epoch, command }));
        let AdminCommand::Split(parts, _) = command_of(older) else { panic!("a split") };
        assert_eq!(parts[0].region, RegionId(9), "an entry without a time");
        let command = AdminCommand::Check;
        assert_eq!(Payload::decode(encode_admin(epoch, &command)), Some(Payload::Admin { epoch, command }));
        let peers = vec![Peer { id: PeerId(4), store: StoreId(5), role: PeerRole::DemotingVoter }];
        let change = MembershipChange { epoch, changed: 1, peers };
        assert_eq!(MembershipChange::decode(change.encode()), Some(change));
        assert_eq!(Payload::decode(Bytes::from_static(&[2, 0])), None, "a newer format is not guessed at");
    }
}
