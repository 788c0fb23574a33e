//! Election safety and leader completeness (Raft thesis, figure 3.2; PITFALLS.md I3): a term has at most one leader, and
//! the log of a leader reaches at least as far as everything that was committed anywhere in earlier terms. What an entry
//! of an earlier term was committed *in* is known from those who say that it is.

use std::collections::BTreeMap;

use flotilla_raft::{Message, MessageKind};
use flotilla_raftstore::PeerStatus;
use flotilla_region::{Index, PeerId, RegionId, Term};

/// Who led in which term, and what was committed by when.
#[derive(Default)]
pub struct Elections {
    leaders: BTreeMap<(RegionId, Term), PeerId>,
    /// Greatest index known to be committed in a term or before; both rise together.
    committed: BTreeMap<RegionId, BTreeMap<Term, Index>>,
}

impl Elections {
    /// A message that tells a commit index of the sender's term left.
    pub fn on_message(&mut self, region: RegionId, message: &Message) {
        if matches!(message.kind, MessageKind::Append | MessageKind::Heartbeat) {
            self.note(region, message.term, message.commit);
        }
    }

    fn note(&mut self, region: RegionId, term: Term, commit: Index) {
        let known = self.committed.entry(region).or_default();
        if known.range(..=term).next_back().is_none_or(|(_, index)| *index < commit) {
            known.retain(|later, index| *later < term || *index > commit);
            known.insert(term, commit);
        }
    }

    /// Checks a peer.
    ///
    /// # Errors
    /// A sentence that names both leaders, or the entry that a leader lacks.
    pub fn check(&mut self, status: &PeerStatus) -> Result<(), String> {
        let (region, term, peer) = (status.region.id, status.term, status.peer.id);
        self.note(region, term, status.commit);
        if !status.is_leader {
            return Ok(());
        }
        let first = *self.leaders.entry((region, term)).or_insert(peer);
        if first != peer {
            return Err(format!("region {region} has two leaders in term {}: {first} and {peer}", term.0));
        }
        match self.committed[&region].range(..term).next_back() {
            Some((earlier, index)) if *index > status.last_index => Err(format!(
                "leader {peer} of region {region} in term {} has entries up to {}; {} was committed by term {}",
                term.0, status.last_index.0, index.0, earlier.0
            )),
            _ => Ok(()),
        }
    }
}
