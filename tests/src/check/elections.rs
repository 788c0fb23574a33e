//! Election safety and leader completeness (Raft thesis, figure 3.2; PITFALLS.md I3): a term has at most one leader, and
//! the log of a leader reaches at least as far as everything that was applied anywhere in earlier terms.

use std::collections::BTreeMap;

use flotilla_raftstore::PeerStatus;
use flotilla_region::{PeerId, RegionId, Term};

use super::agreement::Agreement;

/// Who led in which term.
#[derive(Default)]
pub struct Elections {
    leaders: BTreeMap<(RegionId, Term), PeerId>,
}

impl Elections {
    /// Checks a peer that leads.
    ///
    /// # Errors
    /// A sentence that names both leaders, or the entry that a leader lacks.
    pub fn check(&mut self, status: &PeerStatus, agreement: &Agreement) -> Result<(), String> {
        let (region, term, peer) = (status.region.id, status.term, status.peer.id);
        let first = *self.leaders.entry((region, term)).or_insert(peer);
        if first != peer {
            return Err(format!("region {region} has two leaders in term {}: {first} and {peer}", term.0));
        }
        match agreement.last_before(region, term) {
            Some(index) if index > status.last_index => Err(format!(
                "leader {peer} of region {region} in term {} has entries up to {}; {} was applied in an earlier term",
                term.0, status.last_index.0, index.0
            )),
            _ => Ok(()),
        }
    }
}
