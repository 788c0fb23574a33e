//! Applied positions, as `data` has them.
//!
//! Each region has a record of its own. An apply batch over many regions does not write all of theirs, which would be
//! as many insertions into RocksDB's memtable as the users' writes are: it writes one record that lists them, in a ring
//! of slots that each apply worker has. Before a ring begins anew, the regions' own records are written. Whatever
//! suffix of batches a crash loses, a region's position is the highest that its own record or any list names for its
//! peer: positions of a peer only grow, and a new peer has a new id.
//!
//! Lists are written in two places with all user data between, since damage to one puts all its regions in doubt. At load
//! they are folded into the regions' own records and deleted.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::{EngineSnapshot, Error};
use flotilla_region::{Index, PeerId, RegionId, Term, keys};

use crate::codec::{get_u64, put_u64};
use crate::state::LogId;

/// Where a region's peer has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub region: RegionId,
    pub peer: PeerId,
    pub at: LogId,
}

/// Of one position in a list.
pub(crate) const POSITION_BYTES: usize = 32;

impl Position {
    /// Serialised form of a list: {region, peer, index, term} of each.
    pub(crate) fn encode(list: &[Self]) -> Vec<u8> {
        let mut out = Vec::with_capacity(list.len() * POSITION_BYTES);
        for Self { region, peer, at } in list {
            [region.0, peer.0, at.index.0, at.term.0]
                .into_iter()
                .for_each(|number| put_u64(&mut out, number));
        }
        out
    }

    /// Takes one off the front of a list.
    fn decode(list: &mut Bytes) -> Option<Self> {
        Some(Self {
            region: RegionId(get_u64(list)?),
            peer: PeerId(get_u64(list)?),
            at: LogId { index: Index(get_u64(list)?), term: Term(get_u64(list)?) },
        })
    }
}

/// What the lists say.
#[derive(Debug, Default)]
pub struct Positions(BTreeMap<(RegionId, PeerId), LogId>);

impl Positions {
    /// Reads all lists of `view`.
    ///
    /// # Errors
    /// I/O, or damage to both copies.
    pub fn load(view: &dyn EngineSnapshot) -> Result<Self, Error> {
        Self::load_of(view, None)
    }

    /// Whether there is no list at all.
    ///
    /// # Errors
    /// I/O.
    pub(crate) fn are_none(view: &dyn EngineSnapshot) -> Result<bool, Error> {
        let mut are_none = true;
        for (start, end) in keys::positions_bounds() {
            let scanned = view.scan(&start, &end, &mut |_, _| {
                are_none = false;
                false
            });
            match scanned {
                Err(error) if is_damage(&error) => are_none = false,
                scanned => scanned?,
            }
        }
        Ok(are_none)
    }

    /// Reads what the lists of `view` say of one peer.
    ///
    /// # Errors
    /// I/O, or damage to both copies.
    pub(crate) fn load_one(view: &dyn EngineSnapshot, region: RegionId, peer: PeerId) -> Result<Self, Error> {
        Self::load_of(view, Some((region, peer)))
    }

    fn load_of(view: &dyn EngineSnapshot, wanted: Option<(RegionId, PeerId)>) -> Result<Self, Error> {
        let mut known = Self::default();
        for (start, end) in keys::positions_bounds() {
            let mut is_sound = true;
            let scanned = view.scan(&start, &end, &mut |_, list| {
                is_sound = known.add(Bytes::copy_from_slice(list), wanted);
                is_sound
            });
            match scanned {
                Ok(()) if is_sound => return Ok(known),
                Err(error) if !is_damage(&error) => return Err(error),
                _ => tracing::error!("applied positions are damaged; they are in another place, too"),
            }
        }
        // What is damaged in one place may be whole in the other. A worker's slots are used from the first on.
        for worker in 0..=u16::MAX {
            for slot in 0..=u16::MAX {
                let Some(list) = either(view, keys::positions(worker, slot))? else { break };
                if !known.add(list, wanted) {
                    return Err(Error::Corruption(format!("list {slot} of apply worker {worker}")));
                }
            }
        }
        Ok(known)
    }

    /// Takes up a list; whether it is one.
    fn add(&mut self, mut list: Bytes, wanted: Option<(RegionId, PeerId)>) -> bool {
        while !list.is_empty() {
            let Some(Position { region, peer, at }) = Position::decode(&mut list) else { return false };
            if wanted.is_none_or(|wanted| wanted == (region, peer)) {
                let highest = self.0.entry((region, peer)).or_default();
                *highest = later(*highest, at);
            }
        }
        true
    }

    /// Applied position of a peer with this record of its own.
    pub fn applied(&self, region: RegionId, peer: PeerId, own: LogId) -> LogId {
        self.0.get(&(region, peer)).map_or(own, |listed| later(*listed, own))
    }
}

/// Applied position of one peer; `None` if its region has none in `view`.
///
/// # Errors
/// I/O or damage.
pub fn applied(view: &dyn EngineSnapshot, region: RegionId, peer: PeerId) -> Result<Option<LogId>, Error> {
    let Some(own) = view.get(&keys::apply_state(region))? else { return Ok(None) };
    let own =
        LogId::decode(own).ok_or_else(|| Error::Corruption(format!("apply state of region {region}")))?;
    Ok(Some(Positions::load_one(view, region, peer)?.applied(region, peer, own)))
}

fn either(view: &dyn EngineSnapshot, [first, second]: [[u8; 5]; 2]) -> Result<Option<Bytes>, Error> {
    match view.get(&first) {
        Err(error) if is_damage(&error) => view.get(&second)?.ok_or(error).map(Some),
        read => read,
    }
}

fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Corruption(_))
}

fn later(one: LogId, other: LogId) -> LogId {
    if other.index > one.index { other } else { one }
}
