//! The regions that writes go to: cut at even keys, replicated on all stores, leaders spread.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_raftstore::{AdminCommand, RegionContext, Store};
use flotilla_region::{PeerId, Region, Space, StoreId, Term};

/// Bytes of a key: eight digits of the region's number, eight of the key's.
pub const KEY_BYTES: usize = 16;

/// Longest time for the cluster to do what it was asked for.
const PATIENCE: Duration = Duration::from_secs(300);
/// Cuts in one split.
const CUTS: usize = 15;
/// Leaders asked to move at a time.
const MOVES: usize = 256;

/// Where the keys of one number live.
#[derive(Clone)]
pub struct Place {
    pub region: Region,
    pub leader: StoreId,
}

impl Place {
    /// What a request to the region says of it.
    pub fn context(&self) -> RegionContext {
        let Region { id, epoch, .. } = self.region;
        RegionContext { region: id, epoch, peer: PeerId::ZERO, term: Term::ZERO }
    }
}

/// Regions numbered from 0; region `n` holds the keys that begin with [`start_key`]`(n)`.
pub struct Regions {
    pub stores: BTreeMap<StoreId, Store>,
    pub places: Vec<Place>,
}

/// First key of a region.
pub fn start_key(number: usize) -> Bytes {
    format!("{number:08}").into()
}

impl Regions {
    /// Waits until the first region is on all stores.
    ///
    /// # Errors
    /// A sentence, after [`PATIENCE`].
    pub fn found(stores: BTreeMap<StoreId, Store>) -> Result<Regions, String> {
        let mut regions = Regions { stores, places: Vec::new() };
        let first = regions.wait("three replicas", |regions| {
            let place = regions.find(b"")?;
            (place.region.peers.len() == regions.stores.len() && !place.region.is_joint()).then_some(place)
        })?;
        regions.places.push(first);
        Ok(regions)
    }

    /// What the stores know of the region that holds `key`.
    pub fn find(&self, key: &[u8]) -> Option<Place> {
        let directory = self.stores.values().next()?.directory().read();
        let info = directory.routes.by_key(Space::User, key)?;
        Some(Place { region: (*info.region).clone(), leader: info.leader_store()? })
    }

    fn wait<T>(&self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> Result<T, String> {
        let started = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return Ok(found);
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("no {what} after {} s", PATIENCE.as_secs()));
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Cuts until there are `total` regions, and spreads their leaders over the stores in turn.
    ///
    /// # Errors
    /// A sentence: what was not done within [`PATIENCE`].
    pub fn cut_into(&mut self, total: usize) -> Result<(), String> {
        let have = self.places.len();
        let cuts: Vec<Bytes> = (have..total).map(start_key).collect();
        for keys in cuts.chunks(CUTS) {
            self.wait("split", |regions| regions.split(keys))?;
        }
        self.places = self.wait("leaders in their places", |regions| regions.spread(total))?;
        Ok(())
    }

    /// All places once the regions are led from all stores in turn; until then some are asked to move.
    fn spread(&self, total: usize) -> Option<Vec<Place>> {
        let stores: Vec<StoreId> = self.stores.keys().copied().collect();
        let (mut places, mut asked) = (Vec::with_capacity(total), 0);
        for number in 0..total {
            let key = if number == 0 { Bytes::new() } else { start_key(number) };
            let place = self.find(&key).filter(|place| place.region.range.start == key)?;
            let wanted = stores[number % stores.len()];
            if place.leader != wanted {
                let to = place.region.peer_on(wanted)?.id;
                let (id, epoch) = (place.region.id, place.region.epoch);
                let transfer = AdminCommand::TransferLeader(to);
                self.stores[&place.leader].admin(id, Some(epoch), transfer, Box::new(drop));
                asked += 1;
            }
            if asked == MOVES {
                return None;
            }
            places.push(place);
        }
        (asked == 0).then_some(places)
    }

    /// Cuts the last region at `keys`, unless it begins there already.
    fn split(&self, keys: &[Bytes]) -> Option<()> {
        let last = keys.last()?;
        let place = self.find(last)?;
        if place.region.range.start == *last {
            return Some(());
        }
        let (tell, told) = channel();
        let split = AdminCommand::Split { keys: keys.to_vec() };
        let done = Box::new(move |result| drop(tell.send(result)));
        self.stores[&place.leader].admin(place.region.id, Some(place.region.epoch), split, done);
        // Whether it was done is seen in the routes.
        let _ = told.recv();
        None
    }
}
