//! Leadership transfer. What other followers lack the heir shall not have to read from its disk once it leads: it is asked
//! to do so before, while the old leader goes on (TiKV: `raftstore.max-entry-cache-warmup-duration`).

use flotilla_region::{Index, Peer as PeerInfo, PeerId, Term};

use crate::outbox::raft_message;
use crate::peer::Peer;
use crate::shared::Counters;
use crate::time::Time;
use crate::wire::pb;
use crate::worker::Env;

/// A transfer that waits for its heir. Invariant: the region's leader of this term is here.
#[derive(Debug)]
pub(crate) struct Handover {
    heir: PeerId,
    term: Term,
    /// When it takes place in any case.
    pub until: Time,
}

impl Peer {
    /// Hands leadership to a voter: at once, or when it has read what living followers lack.
    pub(crate) fn transfer(&mut self, heir: PeerId, env: &mut Env) {
        let config = &env.shared.config;
        let (me, last) = (self.me.id, self.node.last_index().0);
        let known = self.known_to_living(heir).map_or(last, |index| index.0);
        let to = self.region.peer(heir).copied().filter(|_| heir != me);
        let Some(to) = to.filter(|_| last - known.min(last) > config.transfer_lag_entries) else {
            return self.node.transfer_leader(heir);
        };
        // Half of what the core gives a transfer.
        let until = env.now.plus_ms(config.election_ms() / 2);
        let term = self.node.term();
        let handover = Handover { heir, term, until };
        if env
            .handovers
            .insert(self.region.id, handover)
            .is_none_or(|old| (old.heir, old.term) != (heir, term))
        {
            self.post_transfer_note(to, known, false, env);
        }
    }

    /// The heir is ready, or it has taken too long.
    pub(crate) fn finish_transfer(&mut self, handover: &Handover) {
        if self.is_leader() && self.node.term() == handover.term {
            self.node.transfer_leader(handover.heir);
        }
    }

    /// The leader is about to hand over to this peer; or the heir is ready.
    pub(crate) fn on_transfer_note(&mut self, from: PeerInfo, note: &pb::TransferNote, env: &mut Env) {
        if note.term != self.node.term().0 {
            return;
        }
        if !note.is_ready {
            let bytes_max = env.shared.config.entry_cache_bytes / 4;
            self.warm(Index(note.known), bytes_max, env);
            Counters::add(&env.shared.counters.warm_transfers, 1);
            return self.post_transfer_note(from, note.known, true, env);
        }
        let is_meant = |handover: &Handover| handover.heir == from.id && handover.term.0 == note.term;
        if env.handovers.get(&self.region.id).is_some_and(is_meant)
            && let Some(handover) = env.handovers.remove(&self.region.id)
        {
            self.finish_transfer(&handover);
        }
    }

    fn post_transfer_note(&self, to: PeerInfo, known: u64, is_ready: bool, env: &mut Env) {
        let mut message = raft_message(&self.region, self.me, to, None, false);
        message.transfer = Some(pb::TransferNote { term: self.node.term().0, known, is_ready });
        env.outbox.push(to.store, message);
    }
}
