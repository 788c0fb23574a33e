//! Fortified leaders: a follower promises its leader neither to campaign nor to vote for others while its store supports
//! the leader's. The promise is on disk before it is told. (CockroachDB's leader leases; Raft's own promise, by ticks
//! since the leader was heard from, costs messages of every region all the time.)
//!
//! Invariant: a leader is counted on by its followers' promises only in the term of the promise, and for a store's
//! support only in the epoch of the promise.
//! Invariant: a promise holds whatever terms come, until the epoch is withdrawn, the leader says that it leads in that
//! term no more, or a leader of a later term is known (it was elected by a quorum that was free to do so).

use std::sync::Arc;

use bytes::Bytes;
use flotilla_raft::{PeerSet, Role};
use flotilla_region::{Peer as PeerInfo, PeerId, Region, StoreId, Term};

use super::{Peer, Phase};
use crate::codec::{get_u64, put_u64};
use crate::liveness::Support;
use crate::local_reader::{SupportLease, are_enough};
use crate::msg::LogTask;
use crate::outbox::raft_message;
use crate::shared::worker_of;
use crate::time::Time;
use crate::wire::pb;
use crate::wire::pb::FortifyKind;
use crate::worker::Env;

/// To whom a peer gave its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    /// Term of the leadership.
    pub term: Term,
    /// The leader.
    pub leader: PeerId,
    /// Its store.
    pub store: StoreId,
    /// Epoch of that store towards this one.
    pub epoch: u64,
}

impl Promise {
    /// Serialised form.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        [self.term.0, self.leader.0, self.store.0, self.epoch].into_iter().for_each(|n| put_u64(&mut out, n));
        out
    }

    /// Reads the serialised form.
    pub(crate) fn decode(mut data: Bytes) -> Option<Self> {
        Some(Self {
            term: Term(get_u64(&mut data)?),
            leader: PeerId(get_u64(&mut data)?),
            store: StoreId(get_u64(&mut data)?),
            epoch: get_u64(&mut data)?,
        })
    }
}

/// What a leader knows of its followers' promises.
#[derive(Debug, Default)]
pub(crate) struct Leading {
    term: Term,
    /// Who was asked, by id. A list, for a handful in each of many regions.
    followers: Vec<Follower>,
}

/// A follower that was asked for its promise.
#[derive(Debug)]
struct Follower {
    peer: PeerInfo,
    /// Epoch and moment of the last question.
    epoch: u64,
    asked_at: Time,
    /// If it has promised, the support that the promise hangs on.
    promised: Option<Arc<Support>>,
}

impl Leading {
    fn find(&self, id: PeerId) -> Option<&Follower> {
        self.followers.iter().find(|follower| follower.peer.id == id)
    }

    /// Whether a follower holds to its promise.
    fn is_held_by(&self, id: PeerId, now: Time) -> bool {
        let promised = self.find(id).and_then(|follower| follower.promised.as_ref());
        promised.is_some_and(|support| support.holds(now))
    }

    /// Notes a question. True if it is the first one to this follower.
    fn note_asked(&mut self, peer: PeerInfo, epoch: u64, asked_at: Time) -> bool {
        match self.followers.binary_search_by_key(&peer.id, |follower| follower.peer.id) {
            Ok(at) => {
                let follower = &mut self.followers[at];
                (follower.peer, follower.epoch, follower.asked_at) = (peer, epoch, asked_at);
                false
            }
            Err(at) => {
                self.followers.reserve_exact(1);
                self.followers.insert(at, Follower { peer, epoch, asked_at, promised: None });
                true
            }
        }
    }
}

/// A follower that may hold a promise to somebody here who does not lead any more. The worker repeats it until it is
/// acknowledged, or the epoch is over.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    /// The region as it was.
    pub region: Arc<Region>,
    /// Who led.
    pub from: PeerInfo,
    /// Who was asked.
    pub to: PeerInfo,
    /// In which term.
    pub term: Term,
    /// In which epoch.
    pub epoch: u64,
}

impl Peer {
    // ---- the leader's part ----

    /// Asks those followers for their promise whose stores support this one, and that have not given it.
    pub(crate) fn fortify(&mut self, env: &mut Env) {
        if !env.shared.config.store_liveness || !self.has_applied_own_term() {
            return;
        }
        let term = self.node.term();
        let again_ms = 2 * env.shared.config.tick_ms;
        let region = self.region.clone();
        for to in region.peers.iter().filter(|to| to.id != self.me.id) {
            let Some(support) = env.shared.supports.held_by(to.store, env.now) else { continue };
            let leading = self.leading.get_or_insert_default();
            if leading.term != term {
                debug_assert!(leading.followers.is_empty(), "an earlier leadership was not ended");
                **leading = Leading { term, ..Leading::default() };
            }
            let is_settled = leading.find(to.id).is_some_and(|follower| {
                let has_promised = follower.promised.as_ref().is_some_and(|s| s.epoch == support.epoch);
                has_promised
                    || (follower.epoch == support.epoch && env.now.ms_since(follower.asked_at) < again_ms)
            });
            if is_settled {
                continue;
            }
            if leading.note_asked(*to, support.epoch, env.now) {
                self.lease.count_support(term);
            }
            let ask = self.note(FortifyKind::Fortify, term, support.epoch);
            env.post_note(&self.region, self.me, *to, ask);
        }
    }

    /// Ticks the core. Who has promised to hold to this leader gets heartbeats only where these tell something.
    pub(crate) fn tick_core(&mut self, env: &Env) {
        let Self { node, leading, .. } = self;
        let leading = leading.as_ref().filter(|leading| leading.term == node.term());
        node.tick_beside(|id| leading.is_some_and(|leading| leading.is_held_by(id, env.now)));
    }

    /// Whether nobody was asked for a promise in this term.
    pub(crate) fn is_unfortified(&self) -> bool {
        self.leading.as_ref().is_none_or(|leading| leading.term != self.node.term())
    }

    fn note(&self, kind: FortifyKind, term: Term, epoch: u64) -> pb::Fortification {
        pb::Fortification { kind: kind as i32, term: term.0, epoch, index: 0 }
    }

    /// A follower has promised, and it is on its disk.
    pub(crate) fn on_fortified(&mut self, from: PeerInfo, note: &pb::Fortification, env: &mut Env) {
        let term = Term(note.term);
        if !self.is_leader() || self.node.term() != term {
            // It gave its word to a leadership that is over.
            return self.answer_not_leader(from, term, env);
        }
        let support = env.shared.supports.of(from.store).filter(|support| support.epoch == note.epoch);
        let Some(leading) = self.leading.as_mut().filter(|leading| leading.term == term) else { return };
        let asked = leading.followers.iter_mut().find(|follower| follower.peer.id == from.id);
        let (Some(support), Some(follower)) = (support, asked) else { return };
        follower.promised = Some(support);
        self.publish_lease(true, env);
    }

    /// Lets callers' threads read under what is known now, if they may at all. Without `is_news` a delegate that is
    /// good stays.
    pub(crate) fn publish_lease(&mut self, is_news: bool, env: &mut Env) {
        let term = self.node.term();
        if !self.has_applied_own_term()
            || self.shape_in_question()
            || (!is_news && self.lease.is_published(&self.region, term))
        {
            return;
        }
        let at = (self.node.commit(), self.applied.index);
        let support = self.support_lease(env);
        let whom = (&self.region, self.me.id);
        self.lease.publish(&env.shared.delegates, whom, &self.load, term, at, support);
    }

    /// Promises by halves of the applied configuration.
    fn support_lease(&self, env: &Env) -> Option<SupportLease> {
        if !env.shared.config.store_liveness {
            return None;
        }
        let mut lease = SupportLease::default();
        for half in self.halves() {
            let promised = half.iter().filter_map(|id| self.promise_of(id).cloned());
            lease.add(self.promises_needed(half), promised.collect());
        }
        Some(lease)
    }

    /// Whether a quorum of promises holds now, in each half of the applied configuration.
    pub(crate) fn is_fortified(&self, env: &Env) -> bool {
        let is_held = |half: &PeerSet| {
            let promised = half.iter().filter_map(|id| self.promise_of(id));
            are_enough(self.promises_needed(half), promised, env.now)
        };
        env.shared.config.store_liveness && self.halves().next().is_some() && self.halves().all(is_held)
    }

    /// Voters of each half of the applied configuration.
    fn halves(&self) -> impl Iterator<Item = &PeerSet> {
        let voters = &self.node.configuration().voters;
        [&voters.incoming, &voters.outgoing].into_iter().filter(|half| !half.is_empty())
    }

    /// How many promises a quorum of a half needs besides this peer's own.
    fn promises_needed(&self, half: &PeerSet) -> usize {
        let own = usize::from(half.iter().any(|id| id == self.me.id));
        (half.iter().count() / 2 + 1).saturating_sub(own)
    }

    /// The support on which a follower's promise of this term hangs.
    fn promise_of(&self, id: PeerId) -> Option<&Arc<Support>> {
        let leading = self.leading.as_ref().filter(|leading| leading.term == self.node.term())?;
        leading.find(id)?.promised.as_ref()
    }

    /// Whether a follower has promised in the present epoch of its store.
    pub(crate) fn has_promise_of(&self, id: PeerId, epoch: u64) -> bool {
        self.promise_of(id).is_some_and(|support| support.epoch == epoch)
    }

    /// This peer leads no more, or will be gone: whoever was asked must be released. The lease has ended before.
    pub(crate) fn end_leading(&mut self, env: &mut Env) {
        self.stop_snapshots(None, env);
        self.leave_flow();
        let Some(leading) = self.leading.take() else { return };
        for Follower { peer: to, epoch, .. } in leading.followers {
            let (region, from, term) = (self.region.clone(), self.me, leading.term);
            env.releases.push(Release { region, from, to, term, epoch });
        }
    }

    /// A follower is no member any more.
    pub(crate) fn release_removed(&mut self, gone: PeerId, env: &mut Env) {
        let Some(leading) = self.leading.as_mut() else { return };
        let at = leading.followers.iter().position(|follower| follower.peer.id == gone);
        if let Some(Follower { peer: to, epoch, .. }) = at.map(|at| leading.followers.remove(at)) {
            let (region, from, term) = (self.region.clone(), self.me, leading.term);
            env.releases.push(Release { region, from, to, term, epoch });
        }
    }

    /// A follower asks whether this peer still leads in the term of its promise.
    pub(crate) fn on_wake(&mut self, from: PeerInfo, term: Term, env: &mut Env) {
        if self.is_leader() && self.node.term() == term {
            // It has forgotten what it was told, too.
            self.forget_knowing(from.id);
            self.node.broadcast_heartbeat();
        } else {
            self.answer_not_leader(from, term, env);
        }
    }

    fn answer_not_leader(&mut self, to: PeerInfo, term: Term, env: &mut Env) {
        if self.is_leader() && self.node.term() <= term {
            return;
        }
        if !self.is_leader() {
            // The core may have stepped down in this very turn.
            self.lease.revoke(&env.shared.delegates, self.region.id);
        }
        let release = self.note(FortifyKind::Defortify, term, 0);
        env.post_note(&self.region, self.me, to, release);
    }

    // ---- the follower's part ----

    /// Whether this peer may neither campaign nor vote for others than its leader.
    pub(crate) fn is_bound(&self, env: &Env) -> bool {
        self.promise.is_some_and(|promise| env.supporting.get(&promise.store) == Some(&promise.epoch))
    }

    /// The leader asks for a promise.
    pub(crate) fn on_fortify(&mut self, from: PeerInfo, note: &pb::Fortification, env: &mut Env) {
        let (term, epoch) = (Term(note.term), note.epoch);
        let is_led = self.phase == Phase::Live && self.node.term() == term && self.node.leader() == from.id;
        if !is_led || env.supporting.get(&from.store) != Some(&epoch) {
            return;
        }
        let promise = Promise { term, leader: from.id, store: from.store, epoch };
        let is_new = self.promise != Some(promise);
        if let Some(earlier) = self.promise.replace(promise) {
            env.released(earlier.store, self.id());
        }
        env.promised(from.store, self.id());
        let answer = self.note(FortifyKind::Fortified, term, epoch);
        if planted!(PromiseBeforeSync) {
            env.post_note(&self.region, self.me, from, answer);
            return;
        }
        let mut told = raft_message(&self.region, self.me, from, None, false);
        told.fortification = Some(answer);
        env.log(LogTask {
            region: self.id(),
            peer: self.me.id,
            incarnation: self.incarnation,
            promise: is_new.then_some(Some(promise)),
            // Told again, it waits for the sync of the first time.
            must_sync: true,
            notes: vec![(from.store, told)],
            ..LogTask::default()
        });
    }

    /// Somebody does not lead in `term`, or not any more.
    pub(crate) fn on_defortify(&mut self, from: PeerInfo, term: Term, env: &mut Env) {
        if self.promise.is_some_and(|promise| promise.leader == from.id && promise.term <= term) {
            self.drop_promise(env);
        }
        if self.node.role() == Role::Follower && self.node.leader() == from.id && self.node.term() <= term {
            self.node.forget_leader();
        }
    }

    /// The promise is void. That need not be durable: one that comes back is asked about.
    pub(crate) fn drop_promise(&mut self, env: &mut Env) {
        let Some(promise) = self.promise.take() else { return };
        env.released(promise.store, self.id());
        env.log(LogTask {
            region: self.id(),
            peer: self.me.id,
            incarnation: self.incarnation,
            promise: Some(None),
            ..LogTask::default()
        });
    }

    /// A leader of a later term than that of the promise is known.
    pub(crate) fn outgrow_promise(&mut self, env: &mut Env) {
        let term = self.node.term();
        let is_led = !self.node.leader().is_zero();
        if is_led && self.promise.is_some_and(|promise| promise.term < term) {
            self.drop_promise(env);
        }
    }

    /// If the store that the promise hangs on is supported no more: the peer is free, and campaigns soon. Those that
    /// share the region take turns, so that they do not split the votes.
    pub(crate) fn settle_promise(&mut self, env: &Env) {
        let Some(promise) = self.promise.filter(|_| !self.is_bound(env)) else { return };
        self.promise = None;
        let is_led_by = self.node.leader() == promise.leader && self.node.term() == promise.term;
        if self.node.role() != Role::Follower || !is_led_by {
            return;
        }
        self.node.forget_leader();
        let mut others: Vec<PeerId> =
            self.region.peers.iter().map(|peer| peer.id).filter(|id| *id != promise.leader).collect();
        others.sort_unstable();
        let count = others.len().max(1);
        let place = others.iter().position(|id| *id == self.me.id).unwrap_or_default();
        // Ids come in steps: spread, or one store would be the first in all regions.
        let turn = (place + worker_of(self.id(), count)) % count;
        self.node.campaign_after(1 + 2 * turn);
    }

    /// A tick of a peer that may not campaign: if it does not know the leader to whom it is bound (its process started
    /// again), or hears nothing of it that would let it sleep, it asks.
    pub(crate) fn tick_bound(&mut self, env: &mut Env) {
        let Some(promise) = self.promise else { return };
        self.bound_ticks += 1;
        let pause = if self.node.leader().is_zero() {
            env.shared.config.election_ticks as u32 / 2
        } else if self.is_left_awake(env) {
            env.shared.config.sleep_ticks.saturating_mul(4)
        } else {
            return;
        };
        if !self.bound_ticks.is_multiple_of(pause.max(1)) {
            return;
        }
        let to = PeerInfo { id: promise.leader, store: promise.store, ..PeerInfo::default() };
        let ask = self.note(FortifyKind::Wake, promise.term, promise.epoch);
        env.post_note(&self.region, self.me, to, ask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_survives_encoding() {
        let promise = Promise { term: Term(1), leader: PeerId(2), store: StoreId(3), epoch: 4 };
        assert_eq!(Promise::decode(promise.encode().into()), Some(promise));
    }
}
