//! The peers of a raft worker: those that do something as they are, those that sleep packed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use flotilla_region::{DenseMap, RegionId, StoreId};

use crate::msg::PeerStatus;
use crate::peer::Peer;
use crate::peer::packed::PackedPeer;
use crate::shared::Shared;
use crate::time::Time;

/// A peer of each region that has one here. Whoever asks for one gets it whole.
///
/// Invariant: a packed peer sleeps.
pub(super) struct Peers {
    shared: Arc<Shared>,
    places: DenseMap<RegionId, Place>,
    /// Whole ones that are to be looked at: they fell asleep, or were made whole and may sleep on.
    loose: Vec<RegionId>,
    /// Those that sleep and had something about them that a packed one does not remember.
    stubborn: BTreeSet<RegionId>,
}

/// Invariant: one of the two. Both are boxed: a look-up shall not drag its neighbours through the caches.
#[derive(Default)]
struct Place {
    whole: Option<Box<Peer>>,
    packed: Option<Box<PackedPeer>>,
}

impl Place {
    /// The peer; whether it was packed.
    fn unpack(&mut self, shared: &Arc<Shared>) -> (&mut Box<Peer>, bool) {
        let packed = self.packed.take();
        let was_packed = packed.is_some();
        if let Some(packed) = packed {
            shared.packed_peers.fetch_sub(1, Ordering::Relaxed);
            self.whole = Some(Box::new(packed.unpack(shared)));
        }
        (self.whole.as_mut().expect("whole if it is not packed"), was_packed)
    }

    fn is_leader(&self) -> bool {
        match (&self.whole, &self.packed) {
            (Some(peer), _) => peer.is_leader(),
            (None, packed) => packed.as_ref().is_some_and(|peer| peer.is_leader()),
        }
    }
}

impl Peers {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, places: DenseMap::new(), loose: Vec::new(), stubborn: BTreeSet::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The peer of a region, for whatever there is to do with it. If it sleeps on it is packed again at the turn's end.
    pub(super) fn get(&mut self, id: &RegionId) -> Option<&mut Peer> {
        let (peer, was_packed) = self.places.get_mut(id)?.unpack(&self.shared);
        if was_packed {
            self.loose.push(*id);
        }
        Some(peer)
    }

    pub(super) fn insert(&mut self, peer: Box<Peer>) {
        self.places.insert(peer.id(), Place { whole: Some(peer), packed: None });
    }

    pub(super) fn remove(&mut self, id: &RegionId) -> Option<Box<Peer>> {
        let mut place = self.places.remove(id)?;
        place.unpack(&self.shared);
        place.whole
    }

    /// All peers that are whole: all that are awake, and maybe some that sleep.
    pub(super) fn whole(&self) -> impl Iterator<Item = &Peer> {
        self.places.values().filter_map(|place| place.whole.as_deref())
    }

    /// The same, with their ids, from a region on, to be changed.
    pub(super) fn whole_from(&mut self, from: RegionId) -> impl Iterator<Item = (&RegionId, &mut Peer)> {
        self.places.range_mut(from..).filter_map(|(id, place)| Some((id, place.whole.as_deref_mut()?)))
    }

    /// Regions that are led here.
    pub(super) fn led(&self) -> Vec<RegionId> {
        self.places.iter().filter(|(_, place)| place.is_leader()).map(|(id, _)| *id).collect()
    }

    /// Regions that are led here by a peer that sleeps, and have another peer on `store`: among the next `most` from a
    /// region on; and where to go on, if that was not all.
    pub(super) fn asleep_beside(
        &self,
        store: StoreId,
        from: RegionId,
        most: usize,
    ) -> (Vec<RegionId>, Option<RegionId>) {
        let is_one = |place: &Place| match (&place.whole, &place.packed) {
            (Some(peer), _) => {
                peer.rest.is_asleep && peer.is_leader() && peer.region.peer_on(store).is_some()
            }
            (None, packed) => packed.as_ref().is_some_and(|peer| peer.leads_one_on(store)),
        };
        let next = self.places.range(from..).nth(most).map(|(id, _)| *id);
        let looked_at = self.places.range(from..).take(most);
        (looked_at.filter(|(_, place)| is_one(place)).map(|(id, _)| *id).collect(), next)
    }

    /// What there is to know about a peer, without waking or changing it.
    pub(super) fn status(&self, id: &RegionId) -> Option<PeerStatus> {
        status(self.places.get(id)?)
    }

    /// The same of all.
    pub(super) fn statuses(&self) -> Vec<PeerStatus> {
        self.places.values().filter_map(status).collect()
    }

    /// Has a peer give up entries that it keeps in memory. Returns whether it keeps some still.
    pub(super) fn shed_entries(&mut self, id: &RegionId, needed_too: bool) -> bool {
        let Some(place) = self.places.get_mut(id) else { return false };
        if let Some(packed) = &mut place.packed {
            packed.unlist_cache();
            return false;
        }
        place.whole.as_mut().is_some_and(|peer| peer.shed_entries(needed_too))
    }

    /// A peer fell asleep.
    pub(super) fn fell_asleep(&mut self, id: RegionId) {
        self.loose.push(id);
    }

    /// Packs a peer if it sleeps and can be packed.
    pub(super) fn pack(&mut self, id: RegionId) {
        let Some(place) = self.places.get_mut(&id) else { return };
        match place.whole.take_if(|peer| peer.is_packable()) {
            Some(peer) => {
                place.packed = Some(Box::new(peer.pack()));
                self.shared.packed_peers.fetch_add(1, Ordering::Relaxed);
            }
            None => {
                if place.whole.as_ref().is_some_and(|peer| peer.rest.is_asleep) {
                    self.stubborn.insert(id);
                }
            }
        }
    }

    /// Packs those that sleep, at the end of a turn.
    pub(super) fn pack_loose(&mut self) {
        let mut loose = std::mem::take(&mut self.loose);
        loose.drain(..).for_each(|id| self.pack(id));
        self.loose = loose;
        // A burst is rare, and leaves a long list.
        self.loose.shrink_to(LOOSE_KEPT);
    }

    /// Has those looked at once more that could not be packed.
    pub(super) fn retry_stubborn(&mut self, now: Time) {
        for id in std::mem::take(&mut self.stubborn) {
            if let Some(peer) = self.get(&id).filter(|peer| peer.rest.is_asleep) {
                peer.shed_memory(now);
                self.loose.push(id);
            }
        }
    }
}

/// Room that is kept for peers to look at.
const LOOSE_KEPT: usize = 1_024;

fn status(place: &Place) -> Option<PeerStatus> {
    match (&place.whole, &place.packed) {
        (Some(peer), _) => peer.status(),
        (None, packed) => packed.as_ref().map(|peer| peer.status()),
    }
}
