//! A removed peer does not come back without its data (PITFALLS.md T18, T30): while a store's process lives, a peer that
//! had data there is never seen there again as one that waits for data. After a crash it may be: `data` may have lost
//! both the descriptor and the tombstone.

use std::collections::BTreeSet;

use flotilla_raftstore::PeerStatus;
use flotilla_region::{PeerId, RegionId, StoreId};

/// Peers that had data in the present life of their store.
#[derive(Default)]
pub struct Graves {
    had_data: BTreeSet<(StoreId, RegionId, PeerId)>,
}

impl Graves {
    /// A store's process ended.
    pub fn forget(&mut self, store: StoreId) {
        self.had_data.retain(|(id, ..)| *id != store);
    }

    /// Checks one peer.
    ///
    /// # Errors
    /// A sentence that names the peer that came back.
    pub fn check(&mut self, store: StoreId, status: &PeerStatus) -> Result<(), String> {
        let (region, peer) = (status.region.id, status.peer.id);
        if !status.region.peers.is_empty() {
            self.had_data.insert((store, region, peer));
        } else if self.had_data.contains(&(store, region, peer)) {
            return Err(format!(
                "removed peer {peer} of region {region} is back on store {store}, without data"
            ));
        }
        Ok(())
    }
}
