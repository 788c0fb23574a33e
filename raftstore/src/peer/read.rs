//! Reads that need a round to a quorum: ReadIndex (Raft thesis 6.4), batched per turn.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::EngineSnapshot;
use flotilla_raft::ReadState;
use flotilla_region::{Index, PeerId};

use super::{Peer, Phase};
use crate::error::RequestError;
use crate::msg::{ReadGrant, ReadRequest};
use crate::shared::Counters;
use crate::time::Time;
use crate::worker::Env;

/// Reads of one region that could not be served under the lease.
#[derive(Default)]
pub(crate) struct Reads {
    next_round: u64,
    /// Not yet part of a round.
    waiting: Vec<ReadRequest>,
    /// Rounds under way, oldest first.
    asked: VecDeque<Round>,
    /// Confirmed, waiting until the index is applied.
    confirmed: Vec<(Index, Vec<ReadRequest>)>,
    /// Waiting for a leader to appear.
    parked: VecDeque<(Time, ReadRequest)>,
}

struct Round {
    id: u64,
    asked_at: Time,
    requests: Vec<ReadRequest>,
}

impl Reads {
    /// Goes on after so many rounds.
    pub(crate) fn after(rounds: u64) -> Self {
        Self { next_round: rounds, ..Self::default() }
    }

    /// Rounds so far.
    pub(crate) fn rounds(&self) -> u64 {
        self.next_round
    }

    /// Whether requests wait to become a round.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether nobody waits here.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.asked.is_empty()
            && self.confirmed.is_empty()
            && self.parked.is_empty()
    }

    fn take_all(&mut self) -> Vec<ReadRequest> {
        let mut all = std::mem::take(&mut self.waiting);
        all.extend(self.asked.drain(..).flat_map(|round| round.requests));
        all.extend(self.confirmed.drain(..).flat_map(|(_, requests)| requests));
        all
    }

    /// Ends everything with the same error.
    pub(crate) fn fail_all(&mut self, error: &RequestError) {
        let parked = self.parked.drain(..).map(|(_, request)| request).collect::<Vec<_>>();
        for request in self.take_all().into_iter().chain(parked) {
            (request.done)(Err(error.clone()));
        }
    }

    /// Asks again for rounds whose messages were probably lost, and answers parked reads whose time is over.
    pub(crate) fn retry(&mut self, now: Time, timeout_ms: u64) {
        while self.asked.front().is_some_and(|round| now.ms_since(round.asked_at) >= timeout_ms) {
            if let Some(round) = self.asked.pop_front() {
                self.waiting.extend(round.requests);
            }
        }
        while self.parked.front().is_some_and(|(deadline, _)| *deadline <= now) {
            if let Some((_, request)) = self.parked.pop_front() {
                let region = request.context.region;
                (request.done)(Err(RequestError::NotLeader { region, leader: None }));
            }
        }
    }
}

impl Peer {
    /// Takes a read that the caller's thread could not serve.
    pub(crate) fn read(&mut self, request: ReadRequest, env: &mut Env) {
        match self.check_context(&request.context, !request.replica) {
            Ok(()) => self.reads.waiting.push(request),
            Err(RequestError::NotLeader { leader: None, .. }) => {
                let deadline = env.now.plus_ms(env.shared.config.leader_wait_ms);
                self.reads.parked.push_back((deadline, request));
            }
            Err(error) => (request.done)(Err(error)),
        }
    }

    /// Role, term or shape of the region changed: requests under way are checked again, and lost rounds repeated.
    pub(crate) fn recheck_reads(&mut self, env: &mut Env) {
        let parked = std::mem::take(&mut self.reads.parked).into_iter().map(|(_, request)| request);
        let mut all: Vec<ReadRequest> = parked.collect();
        all.extend(self.reads.take_all());
        all.into_iter().for_each(|request| self.read(request, env));
    }

    /// End of a turn: all waiting reads share one round. Held back while a split or the end of the
    /// region may be committed and is not applied: until then
    /// this leader cannot know what it still leads (trap T4).
    pub(crate) fn flush_reads(&mut self, env: &mut Env) {
        if !self.reads.has_waiting() || self.shape_in_question() || self.phase != Phase::Live {
            return;
        }
        let id = self.reads.next_round;
        self.reads.next_round += 1;
        let requests = std::mem::take(&mut self.reads.waiting);
        let life = (env.shared.config.seed, self.incarnation.0);
        self.node.read_index(Bytes::copy_from_slice(&round_context(self.me.id, life, id)));
        self.reads.asked.push_back(Round { id, asked_at: env.now, requests });
    }

    /// The core answered a round; earlier rounds are answered with it.
    pub(crate) fn on_read_state(&mut self, state: &ReadState, env: &mut Env) {
        let life = (env.shared.config.seed, self.incarnation.0);
        let Some(id) = round_id(self.me.id, life, &state.context) else { return };
        while self.reads.asked.front().is_some_and(|round| round.id <= id) {
            let Some(round) = self.reads.asked.pop_front() else { return };
            if self.is_leader() && !self.shape_in_question() {
                self.lease.confirm(round.asked_at, env.shared.config.lease_ms);
            }
            self.reads.confirmed.push((state.index, round.requests));
        }
        self.grant_reads(env);
    }

    /// Grants confirmed reads whose index is applied. All of them share one view of the engine, taken here: before
    /// this worker learns of a split, so no child can have changed or lost its data yet.
    pub(crate) fn grant_reads(&mut self, env: &mut Env) {
        if self.reads.confirmed.is_empty() || self.phase != Phase::Live {
            return;
        }
        let applied = self.applied.index;
        let (ready, not_yet) =
            std::mem::take(&mut self.reads.confirmed).into_iter().partition(|(i, _)| *i <= applied);
        self.reads.confirmed = not_yet;
        let ready: Vec<(Index, Vec<ReadRequest>)> = ready;
        if ready.is_empty() {
            return;
        }
        let snapshot: Arc<dyn EngineSnapshot> = env.shared.engine.snapshot();
        for request in ready.into_iter().flat_map(|(_, requests)| requests) {
            // The shape may have changed while the round was under way.
            match self.check_context(&request.context, false) {
                Ok(()) => {
                    Counters::add(&env.shared.counters.read_index_grants, 1);
                    let (region, load) = (self.region.clone(), self.load.clone());
                    let grant = ReadGrant { region, snapshot: snapshot.clone(), load };
                    (request.done)(Ok(grant));
                }
                Err(error) => (request.done)(Err(error)),
            }
        }
    }
}

/// A life of a peer: (what this process drew at its start, incarnation in it). An answer to a round of an earlier
/// process may arrive late, and would tell an index that is long past.
type Life = (u64, u64);

/// Names a round to the core, uniquely in the group for ever: {peer u64, process u64, incarnation u64, round u64}.
fn round_context(peer: PeerId, life: Life, id: u64) -> [u8; 32] {
    let mut context = [0; 32];
    for (part, number) in context.chunks_exact_mut(8).zip([peer.0, life.0, life.1, id]) {
        part.copy_from_slice(&number.to_be_bytes());
    }
    context
}

fn round_id(peer: PeerId, life: Life, context: &[u8]) -> Option<u64> {
    let id = u64::from_be_bytes(context.get(24..32)?.try_into().ok()?);
    (context == round_context(peer, life, id)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_of_another_life_is_not_taken_for_ones_own() {
        let context = round_context(PeerId(3), (77, 5), 9);
        assert_eq!(round_id(PeerId(3), (77, 5), &context), Some(9));
        assert_eq!(round_id(PeerId(3), (78, 5), &context), None, "an earlier process");
        assert_eq!(round_id(PeerId(3), (77, 6), &context), None, "an earlier peer of this process");
        assert_eq!(round_id(PeerId(4), (77, 5), &context), None, "another peer");
    }
}
