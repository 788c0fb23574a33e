//! What a store knows of the cluster: who holds which keys, and where the stores are. Every store answers routing
//! questions from its own.

use std::collections::BTreeMap;

use crate::wire::metapb;
use bytes::Bytes;
use flotilla_engine::{Engine, WriteBatch};
use flotilla_placement::{RouteTable, StoreRecord, StoreState, StoreUuid};
use flotilla_region::{PeerId, Region, RegionId, StoreId, Term, keys};
use prost::Message;

use crate::state::is_without;
use crate::time::Time;

const BOOK_FACT: &[u8] = b"book";

/// Routes and the address book. Knowledge only grows newer: an older epoch, term or book never replaces a newer one.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// Regions and their leaders.
    pub routes: RouteTable,
    /// Registered stores.
    pub stores: BTreeMap<StoreId, StoreRecord>,
    /// When a store was last heard from, by this store's clock.
    pub last_heard: BTreeMap<StoreId, Time>,
    /// Region and leader counts and disk sizes, from heartbeats.
    pub loads: BTreeMap<StoreId, flotilla_placement::StoreStats>,
    /// Replicas that are out of service, from heartbeats.
    pub damaged: BTreeMap<StoreId, Vec<crate::wire::pb::DamagedPeer>>,
    /// Term of the meta leader whose book this is.
    pub book_term: Term,
}

impl Directory {
    /// The store that leads the meta region, as far as known.
    pub fn meta_leader(&self) -> Option<StoreId> {
        self.routes.by_id(RegionId::META)?.leader_store()
    }

    /// Where a store listens.
    pub fn address(&self, store: StoreId) -> Option<&str> {
        self.stores.get(&store).map(|s| s.address.as_str()).filter(|a| !a.is_empty())
    }

    /// Whether `peer`, of which `region` is the last that its store knows, is surely no member any more: a later
    /// membership is known, and without it. An older or equal one proves nothing.
    pub(crate) fn has_left(&self, region: &Region, peer: PeerId) -> bool {
        let known = self.routes.by_id(region.id);
        known.is_some_and(|known| is_without(&known.region, region.epoch.conf_ver, peer))
    }

    /// Whether another region seems to have the keys now, or the region has none here yet and nobody knows it.
    pub(crate) fn seems_merged(&self, region: &Region) -> bool {
        let is_overtaken = || {
            let owner = self.routes.by_key(region.space, &region.range.start);
            owner.is_some_and(|owner| owner.region.epoch.version > region.epoch.version)
        };
        self.routes.by_id(region.id).is_none() && (region.peers.is_empty() || is_overtaken())
    }

    /// Takes over what a store says of itself.
    pub(crate) fn learn_heartbeat(&mut self, from: StoreId, beat: &crate::wire::pb::StoreHeartbeat) {
        self.loads.insert(from, super::driver::stats_of(beat));
        self.damaged.insert(from, beat.damaged.clone());
    }

    /// Whether a store was removed from the cluster for good. One that the book does not have may be newer than the book:
    /// a process that starts again knows an old one at first.
    pub(crate) fn is_removed(&self, store: StoreId) -> bool {
        self.stores.get(&store).is_some_and(|record| record.state == StoreState::Tombstone)
    }

    /// Takes over a book of the meta leader in `term`. Returns whether anything changed.
    pub(crate) fn learn_book(&mut self, term: Term, stores: Vec<StoreRecord>) -> bool {
        if term < self.book_term {
            return false;
        }
        self.book_term = term;
        let book: BTreeMap<StoreId, StoreRecord> = stores.into_iter().map(|s| (s.id, s)).collect();
        let changed = book != self.stores;
        self.stores = book;
        changed
    }

    /// Reads the address book that was stored last; empty if there is none.
    pub(crate) fn load_book(&mut self, engine: &dyn Engine) -> Result<(), flotilla_engine::Error> {
        let Some(value) = engine.get(&keys::store_fact(BOOK_FACT))? else { return Ok(()) };
        if let Ok(book) = crate::wire::pb::StoreBook::decode(value) {
            self.stores = book.stores.iter().filter_map(record_from_wire).map(|s| (s.id, s)).collect();
        }
        Ok(())
    }

    /// Stores the address book. It becomes durable with the next flush; an older one does as well.
    pub(crate) fn save_book(&self, engine: &dyn Engine) -> Result<(), flotilla_engine::Error> {
        let stores = self.stores.values().map(record_to_wire).collect();
        let book = crate::wire::pb::StoreBook { stores, ..Default::default() };
        let mut batch = WriteBatch::new();
        batch.put(&keys::store_fact(BOOK_FACT), &book.encode_to_vec());
        engine.write(&batch)
    }
}

/// Label under which a store's uuid travels in [`metapb::Store`].
const UUID_LABEL: &str = "flotilla-uuid";
/// Label under which the newest understood format travels.
const FORMAT_LABEL: &str = "flotilla-format";

/// A store's record for the wire.
pub fn record_to_wire(record: &StoreRecord) -> metapb::Store {
    let label = |key: &str, value: String| metapb::StoreLabel { key: key.into(), value };
    let mut labels: Vec<_> = record.labels.iter().map(|(k, v)| label(k, v.clone())).collect();
    labels.push(label(UUID_LABEL, record.uuid.0.iter().map(|b| format!("{b:02x}")).collect()));
    labels.push(label(FORMAT_LABEL, record.format_max.to_string()));
    let (state, node_state) = match record.state {
        StoreState::Up => (metapb::StoreState::Up, metapb::NodeState::Serving),
        StoreState::Offline => (metapb::StoreState::Offline, metapb::NodeState::Removing),
        StoreState::Tombstone => (metapb::StoreState::Tombstone, metapb::NodeState::Removed),
    };
    metapb::Store {
        id: record.id.0,
        address: record.address.clone(),
        state: state as i32,
        labels,
        version: record.version.clone(),
        status_address: record.status_address.clone(),
        node_state: node_state as i32,
        ..Default::default()
    }
}

/// A store's record from the wire; `None` without a readable uuid.
pub fn record_from_wire(store: &metapb::Store) -> Option<StoreRecord> {
    let label = |key: &str| store.labels.iter().find(|l| l.key == key).map(|l| l.value.as_str());
    let state = match store.state() {
        metapb::StoreState::Up => StoreState::Up,
        metapb::StoreState::Offline => StoreState::Offline,
        metapb::StoreState::Tombstone => StoreState::Tombstone,
    };
    let own = |l: &&metapb::StoreLabel| l.key != UUID_LABEL && l.key != FORMAT_LABEL;
    Some(StoreRecord {
        id: StoreId(store.id),
        uuid: parse_uuid(label(UUID_LABEL)?)?,
        address: store.address.clone(),
        status_address: store.status_address.clone(),
        labels: store.labels.iter().filter(own).map(|l| (l.key.clone(), l.value.clone())).collect(),
        version: store.version.clone(),
        format_max: label(FORMAT_LABEL)?.parse().ok()?,
        state,
    })
}

fn parse_uuid(text: &str) -> Option<StoreUuid> {
    let mut uuid = [0; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (i, byte) in uuid.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(StoreUuid(uuid))
}

/// A uuid out of raw bytes; `None` unless there are sixteen.
pub(crate) fn uuid_of(bytes: &Bytes) -> Option<StoreUuid> {
    bytes[..].try_into().ok().map(StoreUuid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_placement::RegionInfo;
    use flotilla_region::{KeyRange, Peer, RegionEpoch};

    #[test]
    fn a_record_survives_the_wire_and_an_older_book_is_ignored() {
        let record = StoreRecord {
            id: StoreId(7),
            uuid: StoreUuid([0xAB; 16]),
            address: "127.0.0.1:1".into(),
            labels: [("zone".to_string(), "a".to_string())].into(),
            format_max: 3,
            state: StoreState::Offline,
            ..StoreRecord::default()
        };
        assert_eq!(record_from_wire(&record_to_wire(&record)), Some(record.clone()));
        let mut directory = Directory::default();
        assert!(directory.learn_book(Term(5), vec![record.clone()]));
        assert!(!directory.learn_book(Term(4), Vec::new()));
        assert_eq!(directory.address(StoreId(7)), Some("127.0.0.1:1"));
    }
    #[test]
    fn only_a_later_membership_without_the_peer_proves_that_it_left() {
        let region = |conf_ver, version, peers: &[u64]| Region {
            id: RegionId(9),
            range: KeyRange::new("b", "d"),
            epoch: RegionEpoch { conf_ver, version },
            peers: peers.iter().map(|id| Peer { id: PeerId(*id), ..Peer::default() }).collect(),
            ..Region::default()
        };
        let mut directory = Directory::default();
        let mine = region(5, 1, &[1, 2]);
        assert!(!directory.has_left(&mine, PeerId(1)), "nothing is known");
        for (known, has_left) in [
            (region(4, 1, &[2, 3]), false),
            (region(5, 3, &[2, 3]), false),
            (region(6, 3, &[1, 3]), false),
            (region(7, 3, &[]), false),
            (region(8, 3, &[2, 3]), true),
        ] {
            directory.routes.report(RegionInfo { region: known.clone().into(), ..RegionInfo::default() });
            assert_eq!(directory.has_left(&mine, PeerId(1)), has_left, "{known:?}");
            assert!(!directory.seems_merged(&mine));
        }
        let other = Region { id: RegionId(8), range: KeyRange::new("a", "z"), ..region(2, 9, &[7]) };
        directory.routes.report(RegionInfo { region: other.into(), ..RegionInfo::default() });
        assert!(!directory.has_left(&mine, PeerId(1)), "it may live on elsewhere");
        assert!(directory.seems_merged(&mine));
        assert!(!directory.seems_merged(&region(5, 9, &[1])), "it may have the keys since then");
    }
}
