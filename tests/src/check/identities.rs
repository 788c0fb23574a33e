//! A peer id names one replica of one region on one store, for ever (PITFALLS.md T18): it is given out once, and a
//! peer that left its region is never a member again.

use std::collections::BTreeMap;

use flotilla_region::{PeerId, Region, RegionId, StoreId};

/// What is known of every peer id.
#[derive(Default)]
pub struct Identities {
    homes: BTreeMap<PeerId, (RegionId, StoreId)>,
    members: BTreeMap<RegionId, Members>,
}

/// Peers of a region, with the newest membership that has each and the oldest later one that has it not.
#[derive(Default)]
struct Members {
    listed: BTreeMap<PeerId, u64>,
    gone: BTreeMap<PeerId, u64>,
}

impl Identities {
    /// Checks a descriptor, which may be older than one seen before.
    ///
    /// # Errors
    /// A sentence that names the id that was used again.
    pub fn check(&mut self, region: &Region) -> Result<(), String> {
        if region.peers.is_empty() {
            // A peer that waits for its data knows no members; its epoch is that of a message.
            return Ok(());
        }
        let version = region.epoch.conf_ver;
        for peer in &region.peers {
            let home = *self.homes.entry(peer.id).or_insert((region.id, peer.store));
            if home != (region.id, peer.store) {
                return Err(format!(
                    "peer id {} is used for region {} on store {} and for region {} on store {}",
                    peer.id, home.0, home.1, region.id, peer.store
                ));
            }
        }
        let members = self.members.entry(region.id).or_default();
        for peer in &region.peers {
            let newest = members.listed.entry(peer.id).or_insert(version);
            *newest = (*newest).max(version);
        }
        for (id, newest) in &members.listed {
            if *newest < version && region.peer(*id).is_none() {
                let oldest = members.gone.entry(*id).or_insert(version);
                *oldest = (*oldest).min(version);
            }
            if members.gone.get(id).is_some_and(|gone| gone < newest) {
                return Err(format!("peer {id} left region {} and is a member of it again", region.id));
            }
        }
        Ok(())
    }
}
