//! Positions of a peer (PITFALLS.md I2, I4): within one life of a process, term, commit, applied index and epoch never
//! go back, and base ≤ applied ≤ commit ≤ last.

use std::collections::BTreeMap;

use flotilla_raftstore::PeerStatus;
use flotilla_region::{PeerId, RegionEpoch, RegionId, StoreId};

#[derive(Clone, Copy, Debug)]
struct Seen {
    term: u64,
    commit: u64,
    applied: u64,
    epoch: RegionEpoch,
}

/// The last positions seen of every peer.
#[derive(Default)]
pub struct Positions {
    seen: BTreeMap<(StoreId, RegionId, PeerId), Seen>,
}

impl Positions {
    /// Forgets a store's peers: its process ended.
    pub fn forget(&mut self, store: StoreId) {
        self.seen.retain(|(id, ..), _| *id != store);
    }

    /// Checks a peer's present positions.
    ///
    /// # Errors
    /// A sentence that names peer and positions.
    pub fn check(&mut self, store: StoreId, status: &PeerStatus) -> Result<(), String> {
        let (region, peer) = (status.region.id, status.peer.id);
        let now = Seen {
            term: status.term.0,
            commit: status.commit.0,
            applied: status.applied.index.0,
            epoch: status.region.epoch,
        };
        let whom = || format!("region {region} peer {peer} on store {store}");
        let initialised = !status.region.peers.is_empty();
        let (base, last) = (status.base.index.0, status.last_index.0);
        let ordered = base <= now.applied && now.applied <= now.commit && now.commit <= last;
        if initialised && !ordered {
            let Seen { applied, commit, .. } = now;
            return Err(format!(
                "{}: not base {base} <= applied {applied} <= commit {commit} <= last {last}",
                whom()
            ));
        }
        if !initialised {
            // Its epoch is a message's; the split that brings it to life may be older.
            return Ok(());
        }
        if let Some(before) = self.seen.insert((store, region, peer), now) {
            let back = now.term < before.term
                || now.commit < before.commit
                || now.applied < before.applied
                || now.epoch.is_stale_against(&before.epoch);
            if back {
                return Err(format!("{} went back: {before:?}, then {now:?}", whom()));
            }
        }
        Ok(())
    }
}
