//! Applied positions, as `data` has them.
//!
//! Each region has a record of its own. An apply batch over many regions does not write all of theirs, which would be
//! as many insertions into RocksDB's memtable as the users' writes are: it writes one record that lists them, in a ring
//! of slots that each apply worker has. Before a ring begins anew, the regions' own records are written. Whatever
//! suffix of batches a crash loses, a region's position is the highest that its own record or any list names for its
//! peer: positions of a peer only grow, and a new peer has a new id.
//!
//! Lists are written twice, far apart, since the damage of one would put all its regions in doubt.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::{EngineSnapshot, Error};
use flotilla_region::{Index, PeerId, RegionId, Term, keys};

use crate::codec::{get_u64, put_u64};
use crate::state::LogId;

/// Copies of each list.
pub(crate) const COPIES: u8 = 2;

/// Where a region's peer has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub region: RegionId,
    pub peer: PeerId,
    pub at: LogId,
}

impl Position {
    /// Serialised form of a list: {region, peer, index, term}, 32 bytes each.
    pub(crate) fn encode(list: &[Self]) -> Vec<u8> {
        let mut out = Vec::with_capacity(list.len() * 32);
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

    fn load_of(view: &dyn EngineSnapshot, wanted: Option<(RegionId, PeerId)>) -> Result<Self, Error> {
        let mut read = Self::load_copy(view, 0, wanted);
        for copy in 1..COPIES {
            let Err(Error::Corruption(error)) = &read else { break };
            tracing::error!(%error, "applied positions are damaged; there is another copy");
            read = Self::load_copy(view, copy, wanted);
        }
        read
    }

    fn load_copy(
        view: &dyn EngineSnapshot,
        copy: u8,
        wanted: Option<(RegionId, PeerId)>,
    ) -> Result<Self, Error> {
        let mut known = BTreeMap::new();
        let mut is_sound = true;
        let (start, end) = keys::positions_bounds(copy);
        view.scan(&start, &end, &mut |_, list| {
            let mut list = Bytes::copy_from_slice(list);
            while !list.is_empty() {
                let Some(Position { region, peer, at }) = Position::decode(&mut list) else {
                    is_sound = false;
                    return false;
                };
                if wanted.is_none_or(|wanted| wanted == (region, peer)) {
                    let highest: &mut LogId = known.entry((region, peer)).or_default();
                    *highest = later(*highest, at);
                }
            }
            true
        })?;
        if is_sound { Ok(Self(known)) } else { Err(Error::Corruption("a list of applied positions".into())) }
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
    Ok(Some(Positions::load_of(view, Some((region, peer)))?.applied(region, peer, own)))
}

fn later(one: LogId, other: LogId) -> LogId {
    if other.index > one.index { other } else { one }
}
