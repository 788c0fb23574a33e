//! A stopped store's disk, for people: what is on it, whether it can be read, and what to do for regions that have lost
//! their quorum. Nothing here needs a running store, and nothing but [`recover::execute`] writes.

pub mod recover;

use std::collections::BTreeSet;

use bytes::Bytes;
use flotilla_engine::{Engine, Error};
use flotilla_raft::{ConfChangeV2, Entry, EntryKind, HardState};
use flotilla_region::{Index, PeerId, Region, RegionId, keys};

use crate::entry::{MembershipChange, Payload, commands};
use crate::error::StoreError;
use crate::positions::Positions;
use crate::quarantine::decode_note;
use crate::recovery::log_peers;
use crate::state::{LogId, RegionState, StoreIdent, decode_entry, decode_hard_state};

/// What a store has of a region.
#[derive(Clone, Debug)]
pub struct LocalRegion {
    /// Its id.
    pub id: RegionId,
    /// Descriptor or tombstone; `Err` = why it cannot be read; `None` = there is only a log.
    pub state: Result<Option<RegionState>, String>,
    /// Position up to which `data` holds what the log says; `Err` = why it cannot be read.
    pub applied: Result<Option<LogId>, String>,
    /// Why it is out of service on the store, if it is, with the peer.
    pub quarantine: Option<(PeerId, String)>,
    /// It is in the middle of a merge.
    pub is_merging: bool,
    /// Estimated bytes of its range.
    pub bytes: u64,
    /// The log of each peer that ever was here and is not forgotten.
    pub logs: Vec<LocalLog>,
}

/// One peer's log.
#[derive(Clone, Debug)]
pub struct LocalLog {
    /// The peer.
    pub peer: PeerId,
    /// Term, vote, commit index; `None` = never written.
    pub hard_state: Option<HardState>,
    /// Position before the first entry; `None` = never written.
    pub base: Option<LogId>,
    /// Last entry; the base or nothing if there is none.
    pub last: LogId,
    /// Number of entries.
    pub entries: u64,
    /// Bytes of their data.
    pub bytes: u64,
    /// What of it cannot be read.
    pub damage: Option<String>,
}

/// An entry in words.
#[derive(Clone, Debug)]
pub struct LocalEntry {
    /// Position.
    pub at: LogId,
    /// Bytes of its data.
    pub bytes: usize,
    /// What it does.
    pub what: String,
}

/// What reading all of a region showed.
#[derive(Clone, Debug, Default)]
pub struct Checkup {
    /// Keys that could be read.
    pub keys: u64,
    /// Bytes of those and their values.
    pub bytes: u64,
    /// Everything that is wrong.
    pub damage: Vec<String>,
}

impl LocalRegion {
    /// The descriptor, if the region lives here and it can be read.
    pub fn region(&self) -> Option<&Region> {
        match &self.state {
            Ok(Some(RegionState::Normal(region))) => Some(region),
            _ => None,
        }
    }
}

/// A read whose damage is told, not fatal.
fn told<T>(read: Result<T, Error>) -> Result<Result<T, String>, StoreError> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(Error::Corruption(why)) => Ok(Err(why)),
        Err(error) => Err(error.into()),
    }
}

/// Everything that the disk knows of regions, by id; tombstones too.
///
/// # Errors
/// I/O. Damage is part of the answer.
pub fn regions(engine: &dyn Engine) -> Result<Vec<LocalRegion>, StoreError> {
    let view = engine.snapshot();
    let ident = told(engine.get(keys::STORE_IDENT))?.ok().flatten().and_then(StoreIdent::decode);
    let mine = ident.map(|ident| ident.store).unwrap_or_default();
    let positions = told(Positions::load(&*view))?;
    let logged = log_peers(engine)?;
    let mut ids: BTreeSet<RegionId> = logged.iter().map(|(region, _)| *region).collect();
    let (start, end) = keys::region_bounds();
    // Damage shows again where the record is read.
    told(view.scan(&start, &end, &mut |key, _| {
        ids.extend(keys::parse_data_region(key));
        true
    }))?
    .unwrap_or_default();
    let peers = |id| logged.iter().filter(move |(region, _)| *region == id).map(|(_, peer)| *peer);
    let read = |id| {
        let mut local = local_region(engine, id, peers(id))?;
        let me = local.region().and_then(|region| region.peer_on(mine)).map(|me| me.id);
        if let (Ok(Some(own)), Some(me)) = (&local.applied, me) {
            local.applied =
                positions.as_ref().map(|all| Some(all.applied(id, me, *own))).map_err(Clone::clone);
        }
        Ok(local)
    };
    ids.into_iter().map(read).collect()
}

fn local_region(
    engine: &dyn Engine,
    id: RegionId,
    peers: impl Iterator<Item = PeerId>,
) -> Result<LocalRegion, StoreError> {
    let state = told(engine.get(&keys::region_state(id)))?.and_then(|value| match value {
        Some(value) => RegionState::decode(value).map(Some).ok_or("not a descriptor".to_owned()),
        None => Ok(None),
    });
    let applied = told(engine.get(&keys::apply_state(id)))?.and_then(|value| match value {
        Some(value) => LogId::decode(value).map(Some).ok_or("not a position".to_owned()),
        None => Ok(None),
    });
    let bytes = match &state {
        Ok(Some(RegionState::Normal(region))) => {
            let (start, end) = keys::data_bounds(region.space, &region.range);
            engine.approximate_size(&start, &end).bytes
        }
        _ => 0,
    };
    let note = told(engine.get(&keys::quarantine(id)))?;
    let quarantine = note.ok().flatten().and_then(decode_note);
    let is_merging = !matches!(told(engine.get(&keys::merge_state(id)))?, Ok(None));
    let logs = peers.map(|peer| local_log(engine, id, peer)).collect::<Result<_, _>>()?;
    Ok(LocalRegion { id, state, applied, quarantine, is_merging, bytes, logs })
}

fn local_log(engine: &dyn Engine, id: RegionId, peer: PeerId) -> Result<LocalLog, StoreError> {
    let hard_state = told(engine.log_get(&keys::log_hard_state(id, peer)))?;
    let base = told(engine.log_get(&keys::log_base(id, peer)))?;
    let base_at = base.as_ref().ok().cloned().flatten().and_then(LogId::decode);
    let mut log = LocalLog {
        peer,
        hard_state: hard_state.as_ref().ok().cloned().flatten().and_then(decode_hard_state),
        base: base_at,
        last: base_at.unwrap_or_default(),
        entries: 0,
        bytes: 0,
        damage: hard_state.err().or(base.err()),
    };
    let read = scan_log(engine, id, peer, (Index::ZERO, Index(u64::MAX)), &mut |entry| {
        log.last = LogId { index: entry.index, term: entry.term };
        log.entries += 1;
        log.bytes += entry.data.len() as u64;
    })?;
    log.damage = log.damage.or(read.err());
    Ok(log)
}

/// Visits readable entries of `[from, to)`; the inner error says what could not be read.
fn scan_log(
    engine: &dyn Engine,
    id: RegionId,
    peer: PeerId,
    (from, to): (Index, Index),
    visit: &mut dyn FnMut(Entry),
) -> Result<Result<(), String>, StoreError> {
    let (start, end) = (keys::log_entry(id, peer, from), keys::log_entry(id, peer, to));
    let mut bad = None;
    let scanned = engine.log_scan(&start, &end, &mut |key, value| {
        let entry = match keys::parse_log_key(key) {
            Some(keys::LogKey::Entry(_, _, index)) => decode_entry(index, Bytes::copy_from_slice(value)),
            _ => None,
        };
        match entry {
            Some(entry) => visit(entry),
            None => bad = Some(format!("the entry at key {} is none", key.escape_ascii())),
        }
        true
    });
    Ok(told(scanned)?.and(bad.map_or(Ok(()), Err)))
}

/// Entries `[from, to)` of a peer's log in words, and what of them cannot be read.
///
/// # Errors
/// I/O.
pub fn log_entries(
    engine: &dyn Engine,
    id: RegionId,
    peer: PeerId,
    (from, to): (Index, Index),
) -> Result<(Vec<LocalEntry>, Option<String>), StoreError> {
    let mut entries = Vec::new();
    let read = scan_log(engine, id, peer, (from, to), &mut |entry| {
        let at = LogId { index: entry.index, term: entry.term };
        entries.push(LocalEntry { at, bytes: entry.data.len(), what: describe(&entry) });
    })?;
    Ok((entries, read.err()))
}

/// What an entry does, in words.
fn describe(entry: &Entry) -> String {
    if entry.kind != EntryKind::Normal {
        let change = ConfChangeV2::decode(&entry.data);
        return match change.ok().and_then(|change| MembershipChange::decode(change.context)) {
            Some(change) => {
                let peers: Vec<String> =
                    change.peers.iter().map(|p| format!("{}@{} {:?}", p.id, p.store, p.role)).collect();
                format!("membership at {}: {}", change.epoch.conf_ver, peers.join(", "))
            }
            None => "membership change that cannot be read".to_owned(),
        };
    }
    match Payload::decode(entry.data.clone()) {
        Some(Payload::Empty) => "begin of a leadership".to_owned(),
        Some(Payload::Commands { version, commands: list, .. }) => {
            let (good, bad): (Vec<_>, Vec<_>) = commands(list).partition(Option::is_some);
            let damaged = if bad.is_empty() { "" } else { ", cut short" };
            format!("{} commands at version {version}{damaged}", good.len())
        }
        Some(Payload::Admin { epoch, command }) => {
            format!("{command:?} at {}/{}", epoch.conf_ver, epoch.version)
        }
        None => "entry that cannot be read".to_owned(),
    }
}

/// Reads everything that the store has of a region.
///
/// # Errors
/// I/O. Damage is part of the answer.
pub fn verify(engine: &dyn Engine, local: &LocalRegion) -> Result<Checkup, StoreError> {
    let mut checkup = Checkup::default();
    let mut note = |what: &str, why: &String| checkup.damage.push(format!("{what}: {why}"));
    if let Err(why) = &local.state {
        note("descriptor", why);
    }
    if let Err(why) = &local.applied {
        note("apply state", why);
    }
    if let Some((peer, why)) = &local.quarantine {
        note(&format!("peer {peer} out of service"), why);
    }
    for log in &local.logs {
        if let Some(why) = &log.damage {
            note(&format!("log of peer {}", log.peer), why);
        }
    }
    if let (Some(_), Ok(None)) = (local.region(), &local.applied) {
        checkup.damage.push("apply state: missing".to_owned());
    }
    if let Some(region) = local.region() {
        let (start, end) = keys::data_bounds(region.space, &region.range);
        let read = engine.snapshot().scan(&start, &end, &mut |key, value| {
            checkup.keys += 1;
            checkup.bytes += (key.len() - 1 + value.len()) as u64;
            true
        });
        if let Err(why) = told(read)? {
            checkup.damage.push(format!("data: {why}"));
        }
    }
    Ok(checkup)
}
