//! Sleep: an idle region whose leader is fortified is not ticked and sends nothing, on any of its stores.
//!
//! Invariant: a leader sleeps only when every follower that it can reach has said that it knows the whole log to be
//! committed. A follower sleeps only when its leader has told it so, and it is bound to that leader: when it is freed, it
//! wakes.
//!
//! Whatever is asked of a sleeping peer wakes it (`RaftWorker::touch`).

use flotilla_raft::{Message, MessageKind, ProgressState, Role};
use flotilla_region::{Index, Peer as PeerInfo, PeerId, StoreId, Term};

use super::{Peer, Phase};
use crate::shared::Counters;
use crate::time::Time;
use crate::wire::pb;
use crate::wire::pb::FortifyKind;
use crate::worker::Env;

/// How far a peer is from sleep.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    pub is_asleep: bool,
    /// Ticks for which nothing was to be done.
    quiet_ticks: u32,
    /// As a follower: the leader of this term has told that this is the last index, and committed.
    told: Option<(Term, Index)>,
    /// As a leader: followers that know the log to be committed up to this index.
    knowing: (Term, Index, Vec<PeerId>),
    asked_at: Time,
    /// As a sleeping leader: when placement is told more of peers that do not answer.
    pub look_at: Option<Time>,
}

impl Rest {
    /// Of a sleeping peer; `told` by its leader, if it follows one.
    pub(super) fn asleep(told: Option<(Term, Index)>) -> Self {
        Self { is_asleep: true, told, ..Self::default() }
    }

    /// Without room that nobody needs now.
    pub(super) fn shrunk(mut self) -> Self {
        self.knowing.2.shrink_to_fit();
        self
    }
}

impl Peer {
    /// Before a tick: whether the peer sleeps from now on.
    pub(crate) fn may_sleep(&mut self, env: &mut Env) -> bool {
        if !env.shared.config.store_liveness || !self.is_quiet(env) {
            self.rest.quiet_ticks = 0;
            return false;
        }
        self.rest.quiet_ticks = self.rest.quiet_ticks.saturating_add(1);
        let at = (self.node.term(), self.node.last_index());
        let may = if self.is_leader() {
            self.rest.quiet_ticks >= env.shared.config.sleep_ticks && self.everybody_knows(env)
        } else {
            self.rest.told == Some(at)
        };
        if may {
            self.log_commit(env);
            self.report_in_full(env);
            self.shed_memory(env.now);
            self.rest.is_asleep = true;
            self.plan_look(env);
            Counters::add(&env.shared.counters.sleeps, 1);
        }
        may
    }

    /// Gives back what only a peer at work needs.
    pub(crate) fn shed_memory(&mut self, now: Time) {
        if self.node.stable() == self.node.last_index() {
            self.node.storage_mut().forget_entries();
        }
        // All that was said is settled.
        self.senders.clear();
        self.give_up_unanswered();
        self.node.release_buffers();
        self.merge.shrink();
        self.writes.shrink(now);
    }

    /// Nothing but a comparison woke the region: it may sleep as soon as everybody knows its log.
    pub(crate) fn rest_soon(&mut self, env: &Env) {
        self.rest.quiet_ticks = env.shared.config.sleep_ticks;
    }

    /// Something is to be done again.
    pub(crate) fn wake(&mut self, env: &mut Env) {
        self.rest.is_asleep = false;
        self.rest.look_at = None;
        self.rest.quiet_ticks = 0;
        Counters::add(&env.shared.counters.wakes, 1);
        if self.is_leader() {
            // Nobody was heard from; whose store lives has had no reason to say anything. The others have the time of a
            // leader that never slept: a network that failed for a moment costs no leader.
            self.node.restart_quorum_check();
            let region = self.region.clone();
            for peer in region.peers.iter().filter(|peer| peer.id != self.me.id) {
                let lives = env.shared.supports.held_by(peer.store, env.now).is_some();
                self.node.set_active(peer.id, lives);
            }
        }
    }

    /// Whether a heartbeat, or an answer to one, tells a sleeping peer nothing.
    pub(crate) fn is_routine(&self, message: &Message) -> bool {
        let is_answer = message.kind == MessageKind::HeartbeatResponse;
        let is_known = message.from == self.node.leader() && message.commit <= self.node.commit();
        self.rest.is_asleep
            && message.context.is_empty()
            && message.term == self.node.term()
            && (is_answer || is_known)
    }

    /// Whether nothing is to be done here, and nobody waits for anything.
    fn is_quiet(&self, env: &Env) -> bool {
        let (commit, last) = (self.node.commit(), self.node.last_index());
        let is_done = self.applied.index == last && commit == last && !self.node.has_ready();
        is_done && self.phase == Phase::Live && self.is_unasked() && self.is_in_order(env)
    }

    /// Whether nobody waits for anything, and no change of the region is under way.
    fn is_unasked(&self) -> bool {
        let nobody_waits = self.writes.is_idle() && self.reads.is_idle() && self.check.is_none();
        nobody_waits
            && !self.split_in_flight()
            && self.merge.is_calm()
            && self.node.pending_conf_index() <= self.applied.index
            && !self.region.is_joint()
            && self.snapshot.is_none()
    }

    /// Whether the peer leads or follows as one that may sleep does.
    fn is_in_order(&self, env: &Env) -> bool {
        if self.is_leader() {
            self.has_applied_own_term() && self.node.lead_transferee().is_zero() && self.is_fortified(env)
        } else {
            let leader = self.promise.filter(|promise| promise.term == self.node.term());
            self.node.role() == Role::Follower
                && leader.is_some_and(|promise| promise.leader == self.node.leader())
                && self.is_bound(env)
        }
    }

    /// Whether every follower that can be reached knows that all of the log is committed, and would notice if this store
    /// died. Those that do not know are told.
    fn everybody_knows(&mut self, env: &mut Env) -> bool {
        let at = (self.node.term(), self.node.last_index());
        if (self.rest.knowing.0, self.rest.knowing.1) != at {
            self.rest.knowing = (at.0, at.1, Vec::new());
        }
        if planted!(SleepBeforeTail) {
            return true;
        }
        let mut unaware: Vec<PeerInfo> = Vec::new();
        for (id, progress) in self.node.progress_iter().filter(|(id, _)| *id != self.me.id) {
            let Some(peer) = self.region.peer(id) else { return false };
            let Some(support) = env.shared.supports.held_by(peer.store, env.now) else {
                if progress.is_alive() {
                    // Its store does not take part in store liveness.
                    return false;
                }
                continue;
            };
            let has_all = progress.state == ProgressState::Replicate && progress.matched == at.1;
            if !has_all || !self.has_promise_of(id, support.epoch) {
                return false;
            }
            if !self.rest.knowing.2.contains(&id) {
                unaware.push(*peer);
            }
        }
        if unaware.is_empty() {
            return true;
        }
        if env.now.ms_since(self.rest.asked_at) >= 2 * env.shared.config.tick_ms {
            self.rest.asked_at = env.now;
            for peer in unaware {
                self.post_rest(FortifyKind::Rest, peer, at, env);
            }
        }
        false
    }

    fn post_rest(&self, kind: FortifyKind, to: PeerInfo, at: (Term, Index), env: &mut Env) {
        let note = pb::Fortification { kind: kind as i32, term: at.0.0, epoch: 0, index: at.1.0 };
        env.post_note(&self.region, self.me, to, note);
    }

    /// The leader is about to sleep: all of the log is committed.
    pub(crate) fn on_rest(&mut self, from: PeerInfo, note: &pb::Fortification, env: &mut Env) {
        let at = (Term(note.term), Index(note.index));
        let is_led = self.phase == Phase::Live && self.node.leader() == from.id;
        if !is_led || (self.node.term(), self.node.last_index()) != at {
            return;
        }
        // The leader knows this very log to match its own.
        let (to, term, commit) = (self.me.id, at.0, at.1);
        let kind = MessageKind::Heartbeat;
        self.step(
            (from.store, from.id),
            Message { kind, from: from.id, to, term, commit, ..Message::default() },
            env,
        );
        if self.node.commit() == at.1 {
            self.rest.told = Some(at);
            self.post_rest(FortifyKind::Rested, from, at, env);
        }
    }

    /// A follower does not know any more that all of the log is committed.
    pub(super) fn forget_knowing(&mut self, follower: PeerId) {
        self.rest.knowing.2.retain(|id| *id != follower);
    }

    /// Whether a follower has nothing to do for so long that its leader sleeps, or waits for somebody else.
    pub(super) fn is_left_awake(&self, env: &Env) -> bool {
        self.rest.quiet_ticks > env.shared.config.sleep_ticks.saturating_mul(2)
    }

    /// A follower knows that all of the log is committed.
    pub(crate) fn on_rested(&mut self, from: PeerId, note: &pb::Fortification) {
        let at = (Term(note.term), Index(note.index));
        let (term, index, knowing) = &mut self.rest.knowing;
        if (*term, *index) == at && !knowing.contains(&from) {
            knowing.push(from);
        }
    }

    /// A store began or ceased to support this one, in this epoch: whether a sleeping leader must look after its region.
    pub(crate) fn is_concerned(&self, store: StoreId, held: Option<u64>, env: &Env) -> bool {
        let Some(peer) = self.region.peer_on(store).filter(|_| self.rest.is_asleep && self.is_leader())
        else {
            return false;
        };
        match held {
            Some(epoch) => !self.has_promise_of(peer.id, epoch) || !self.rest.knowing.2.contains(&peer.id),
            None => !self.is_fortified(env),
        }
    }
}
