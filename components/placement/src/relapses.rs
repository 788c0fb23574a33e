//! Stores on which replicas of a region are damaged again and again.
//!
//! A replica may be damaged by chance; its successor comes at once, on the same store if there is no other. If that one is
//! damaged too, the disk is at fault, and each further try would cost a snapshot: the store then gets none of this region
//! for a while.

use std::collections::BTreeMap;

use flotilla_region::{PeerId, RegionId, StoreId};

use crate::StoreInfo;

#[derive(Clone, Copy, Debug)]
struct Damage {
    /// The latest damaged replica.
    peer: PeerId,
    /// Replicas that were damaged one after the other.
    times: u32,
    seen_ms: u64,
}

/// Damage that was seen of late, by region and store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relapses(BTreeMap<(RegionId, StoreId), Damage>);

impl Relapses {
    /// Takes over what stores say; forgets what was not heard of for `wait_ms`.
    pub(crate) fn learn<'a>(
        &mut self,
        stores: impl Iterator<Item = &'a StoreInfo>,
        wait_ms: u64,
        now_ms: u64,
    ) {
        for store in stores {
            for (region, peer) in &store.damaged {
                let new = Damage { peer: *peer, times: 0, seen_ms: now_ms };
                let known = self.0.entry((*region, store.record.id)).or_insert(new);
                // Peer 0 is one whose id is not known, perhaps the same.
                let are_known = !known.peer.is_zero() && !peer.is_zero();
                let is_another = known.times == 0 || (are_known && known.peer != *peer);
                let times = known.times + u32::from(is_another);
                *known = Damage { times, ..new };
            }
        }
        self.0.retain(|_, damage| now_ms.saturating_sub(damage.seen_ms) < wait_ms);
    }

    /// Whether a replica of the region was damaged on the store, and so was its successor.
    pub(crate) fn has(&self, region: RegionId, store: StoreId) -> bool {
        self.0.get(&(region, store)).is_some_and(|damage| damage.times > 1)
    }

    /// Whether there are any whose time will be over.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.values().all(|damage| damage.times < 2)
    }
}
