//! What a peer has told others is on its disk (Raft thesis, figure 3.1: a server updates term, vote and log on stable
//! storage before it responds; PITFALLS.md T1, T2, T22, T25). Told here means: an answer arrived somewhere.

use std::collections::BTreeMap;

use flotilla_raft::{Message, MessageKind};
use flotilla_raftstore::PeerStatus;
use flotilla_region::{Index, PeerId, RegionId, Term};

#[derive(Clone, Copy, Debug, Default)]
struct Promise {
    term: Term,
    /// Term, and to whom the vote went.
    vote: (Term, PeerId),
    /// Term, and up to where the log was acknowledged in it.
    log: (Term, Index),
}

/// What every peer has promised since the run began.
#[derive(Default)]
pub struct Promises {
    told: BTreeMap<(RegionId, PeerId), Promise>,
}

impl Promises {
    /// A message of a peer arrived.
    ///
    /// # Errors
    /// The peer voted twice in a term.
    pub fn on_message(&mut self, region: RegionId, message: &Message) -> Result<(), String> {
        let Message { from, to, term, .. } = *message;
        if !matches!(message.kind, MessageKind::VoteResponse | MessageKind::AppendResponse) {
            return Ok(());
        }
        let promise = self.told.entry((region, from)).or_default();
        promise.term = promise.term.max(term);
        if message.reject {
            return Ok(());
        }
        if message.kind == MessageKind::VoteResponse {
            if promise.vote.0 == term && promise.vote.1 != to {
                let first = promise.vote.1;
                return Err(format!(
                    "peer {from} of region {region} voted for {first} and {to} in term {}",
                    term.0
                ));
            }
            if promise.vote.0 < term {
                promise.vote = (term, to);
            }
        } else {
            promise.log = promise.log.max((term, message.index));
        }
        Ok(())
    }

    /// Checks what a peer says of itself, in this life of its store or in a later one.
    ///
    /// # Errors
    /// A sentence that names what was forgotten.
    pub fn check(&self, status: &PeerStatus) -> Result<(), String> {
        let (region, peer) = (status.region.id, status.peer.id);
        let Some(promise) = self.told.get(&(region, peer)) else { return Ok(()) };
        let forgot = |what: String| Err(format!("peer {peer} of region {region} forgot {what}"));
        if status.term < promise.term {
            return forgot(format!("term {}: it is in {}", promise.term.0, status.term.0));
        }
        if status.term == promise.vote.0 && status.vote != promise.vote.1 {
            let (term, to) = promise.vote;
            return forgot(format!("its vote for {to} in term {}: it says {}", term.0, status.vote));
        }
        if status.term == promise.log.0 && status.last_index < promise.log.1 {
            let (term, acked) = promise.log;
            let last = status.last_index.0;
            return forgot(format!("entries up to {} of term {}: it has {last}", acked.0, term.0));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: MessageKind, to: u64, term: u64) -> Message {
        Message { kind, from: PeerId(1), to: PeerId(to), term: Term(term), ..Message::default() }
    }

    #[test]
    fn a_second_vote_in_a_term_is_found() {
        let mut promises = Promises::default();
        let vote = |to, term| answer(MessageKind::VoteResponse, to, term);
        assert_eq!(promises.on_message(RegionId(7), &vote(2, 5)), Ok(()));
        assert_eq!(promises.on_message(RegionId(7), &vote(2, 5)), Ok(()), "a repeated answer");
        assert_eq!(promises.on_message(RegionId(7), &vote(3, 6)), Ok(()));
        assert_eq!(promises.on_message(RegionId(7), &vote(2, 5)), Ok(()), "a late one");
        assert!(promises.on_message(RegionId(7), &vote(2, 6)).is_err());
    }
}
