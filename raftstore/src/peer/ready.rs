//! Stepping the core and carrying out what it decides.

use std::sync::Arc;

use flotilla_raft::{
    EntryKind, HardState, Message, MessageKind, ProgressState, Role, SoftState, Storing, Work,
};
use flotilla_region::{PeerId, StoreId};

use super::{Peer, Phase};
use crate::error::{Damage, RequestError};
use crate::msg::{Applied, Effect, InstallSnapshot, LogTask, Outgoing, ReceivedSnapshot};
use crate::shared::Counters;
use crate::snapshot::SnapshotMsg;
use crate::state::LogId;
use crate::wire;
use crate::worker::Env;

/// Context that the core puts into the votes of a leadership transfer; such votes override the promise.
const TRANSFER_CONTEXT: &[u8] = b"CampaignTransfer";

impl Peer {
    /// A message that `peer` on `store` sent, possibly on behalf of another one.
    pub(crate) fn step(&mut self, (store, peer): (StoreId, PeerId), message: Message, env: &mut Env) {
        let is_forged = peer == self.me.id || (message.from != peer && !is_passed_on(message.kind));
        if is_forged || self.phase.is_over() || self.breaks_promise(&message, env) {
            return;
        }
        if self.region.peer(peer).is_none() {
            self.senders.insert(peer, store);
        }
        if matches!(message.kind, MessageKind::Append | MessageKind::Heartbeat | MessageKind::Snapshot) {
            self.heard_at = env.now;
        }
        if message.kind == MessageKind::ReadIndex {
            self.lease.share(self.node.term());
        }
        // Refusals are the core's answers to stale or impossible messages; there is nothing to do about them.
        let _ = self.node.step(message);
        self.outgrow_promise(env);
    }

    /// Whether answering this vote request could break the promise to a fortified leader, or one made before the process
    /// restarted (trap T22).
    fn breaks_promise(&mut self, message: &Message, env: &Env) -> bool {
        if !matches!(message.kind, MessageKind::Vote | MessageKind::PreVote)
            || message.context == TRANSFER_CONTEXT
        {
            return false;
        }
        self.settle_promise(env);
        let is_for_another = self.promise.is_some_and(|promise| promise.leader != message.from);
        env.now < self.silent_until || (is_for_another && self.is_bound(env))
    }

    /// End of a turn: proposes what was gathered and carries out everything that the core decides.
    pub(crate) fn drive(&mut self, env: &mut Env) {
        self.is_touched = false;
        self.handle_ready(env);
        loop {
            self.flush_writes(env);
            self.flush_reads(env);
            if !self.node.has_ready() || !matches!(self.phase, Phase::Live | Phase::Uninitialised) {
                break;
            }
            self.handle_ready(env);
        }
        self.wait_for_room(env);
        self.report(env);
    }

    /// Has the region taken out of service if a read of its log met damage.
    pub(crate) fn look_for_damage(&mut self) {
        if self.node.storage().is_damaged() {
            self.condemn(Damage::Record("log entry"));
        }
    }

    /// Carries out everything that the core has decided.
    pub(crate) fn handle_ready(&mut self, env: &mut Env) {
        while matches!(self.phase, Phase::Live | Phase::Uninitialised) && self.node.has_ready() {
            let mut work = env.work.take().unwrap_or_default();
            self.node.take_work(&mut work);
            self.carry_out(&mut work, env);
            env.work = Some(work);
        }
    }

    fn carry_out(&mut self, work: &mut Work, env: &mut Env) {
        if let Some(soft) = work.ready.soft_state {
            self.on_soft_state(soft, env);
        }
        self.lease.advance(self.node.commit(), self.applied.index);
        let members_change = work.ready.committed_entries.iter().any(|entry| entry.kind != EntryKind::Normal);
        for message in work.ready.messages.drain(..) {
            self.send(message, env);
        }
        if let Some(storing) = work.storing.take() {
            self.persist(work, storing, env);
        }
        if !work.ready.committed_entries.is_empty() {
            let entries = work.ready.committed_entries.drain(..).collect();
            self.hand_to_apply(entries, work.applying.take(), env);
        }
        if members_change {
            // Before anything that the new membership decides: `data` may fall back behind the change, and only the
            // commit index then keeps this peer from campaigning among those who were members before.
            self.log_commit(env);
        }
        for state in work.ready.read_states.drain(..) {
            self.on_read_state(&state, env);
        }
    }

    fn on_soft_state(&mut self, soft: SoftState, env: &mut Env) {
        if soft.role != Role::Leader {
            self.lease.revoke(&env.shared.delegates, self.region.id);
            self.on_lost_leadership();
            self.merge.forget_proposals();
            self.give_check_up();
            self.end_leading(env);
        } else {
            Counters::add(&env.shared.counters.elections_won, 1);
            self.join_flow(env);
            self.outgrow_promise(env);
        }
        if soft.role == Role::Leader || !soft.lead.is_zero() {
            self.unpark_writes(env);
        }
        self.recheck_reads(env);
    }

    fn send(&mut self, message: Message, env: &mut Env) {
        let Some(to) = self.find_peer(message.to) else { return };
        match message.kind {
            MessageKind::Snapshot => {
                let (region, from) = (self.region.clone(), self.me);
                self.sends_snapshots = true;
                env.shared.links.snapshot.send(SnapshotMsg::Send { region, from, to, message });
            }
            kind => {
                if kind == MessageKind::TimeoutNow && !planted!(LeaseThroughTransfer) {
                    self.lease.offer(&env.shared.delegates, self.region.id, self.node.term());
                }
                let may_create = self.may_create(&message);
                env.outbox.send(&self.region, self.me, to, message, may_create);
            }
        }
    }

    /// Nothing is sent any more to the peer, which is gone, or to anybody, because this one does not lead.
    pub(crate) fn stop_snapshots(&mut self, only: Option<PeerId>, env: &Env) {
        if self.sends_snapshots {
            self.sends_snapshots = only.is_some();
            env.shared.links.snapshot.send(SnapshotMsg::Stop { region: self.region.id, only });
        }
    }

    /// Whether the receiver may need to create its peer for this message.
    fn may_create(&self, message: &Message) -> bool {
        match message.kind {
            MessageKind::Vote | MessageKind::PreVote => true,
            MessageKind::Append => {
                self.node.progress(message.to).is_some_and(|p| p.state != ProgressState::Replicate)
            }
            MessageKind::Heartbeat => self.node.progress(message.to).is_some_and(|p| p.matched.is_zero()),
            _ => false,
        }
    }

    /// Hands hard state and entries to the log writer, with the answers that they make true.
    fn persist(&mut self, work: &mut Work, storing: Storing, env: &mut Env) {
        let Work { ready, answers, .. } = work;
        let mut hard_state = ready.hard_state.and_then(|state| self.must_log(state));
        let has_change = ready.entries.iter().any(|entry| entry.kind != EntryKind::Normal);
        if has_change && !planted!(CommitApart) {
            // A change of membership is proposed when the one before it is applied. Who has it on disk, and not that the
            // one before is committed, would campaign among members who have had no say since. A commit index that was
            // logged before need not be there after a power cut: it was not synced for its own sake.
            self.unlogged_commit = None;
            hard_state = Some(self.node.hard_state());
        }
        let storing = Some(storing).filter(|storing| !storing.is_empty());
        let is_empty = hard_state.is_none() && ready.entries.is_empty() && ready.snapshot.is_none();
        if is_empty && answers.is_empty() && storing.is_none() {
            return;
        }
        if let Some(state) = hard_state.as_mut().filter(|_| planted!(VoteNotPersisted)) {
            state.vote = PeerId::ZERO;
        }
        let outgoing = answers
            .drain(..)
            .filter_map(|message| {
                let to = self.find_peer(message.to)?;
                Some(Outgoing { region: self.region.clone(), from: self.me, to, message })
            })
            .collect();
        let log = self.node.storage_mut();
        let stale_tail = log.append(&ready.entries);
        if log.list_cache() {
            env.cached.push_back(self.region.id);
        }
        let task = LogTask {
            region: self.region.id,
            peer: self.me.id,
            incarnation: self.incarnation,
            hard_state,
            entries: ready.entries.drain(..).collect(),
            stale_tail,
            must_sync: ready.must_sync || ready.snapshot.is_some(),
            outgoing,
            storing,
            ..LogTask::default()
        };
        match ready.snapshot.take() {
            Some(snapshot) => self.install(*snapshot, task, env),
            None => env.log(task),
        }
    }

    /// A new commit index alone may be logged late: it is learned anew after a restart. Not so where it covers a change
    /// of membership (`carry_out`), beside a later one (`persist`), or a split (rule W6).
    fn must_log(&mut self, state: HardState) -> Option<HardState> {
        if self.logged_vote == Some((state.term, state.vote)) {
            self.unlogged_commit = Some(state);
            return None;
        }
        self.logged_vote = Some((state.term, state.vote));
        self.unlogged_commit = None;
        Some(state)
    }

    /// Logs the commit index if that was put off.
    pub(crate) fn log_commit(&mut self, env: &mut Env) {
        let Some(hard_state) = self.unlogged_commit.take() else { return };
        env.log(LogTask {
            region: self.region.id,
            peer: self.me.id,
            incarnation: self.incarnation,
            hard_state: Some(hard_state),
            ..LogTask::default()
        });
    }

    /// Starts the installation of a snapshot that the core accepted (rule W7). Until it is done the core's Ready is
    /// not taken, so nothing can be logged or answered on top of it.
    fn install(&mut self, snapshot: flotilla_raft::Snapshot, mut log: LogTask, env: &mut Env) {
        let Some(received) = self.snapshot.take().map(|r| *r).filter(|r| r.meta == snapshot.meta) else {
            // The core only accepts what `on_snapshot` stepped in the same call.
            self.phase = Phase::Stopped;
            self.damage = Some(Box::new(Damage::Record("snapshot")));
            return;
        };
        self.phase = Phase::Installing;
        self.lease.revoke(&env.shared.delegates, self.region.id);
        let at = LogId { index: snapshot.meta.index, term: snapshot.meta.term };
        log.clear = true;
        let state = self.node.hard_state();
        log.hard_state = Some(state);
        self.logged_vote = Some((state.term, state.vote));
        self.unlogged_commit = None;
        log.base = Some(at);
        log.delete_from = at.index.next();
        log.promise = self.promise.map(Some);
        log.installed = Some(Box::new((received.descriptor.clone(), at)));
        let install = InstallSnapshot {
            region: received.descriptor,
            peer: self.me.id,
            incarnation: self.incarnation,
            meta: snapshot.meta,
            merge: received.merge,
            files: received.files,
            swallowed: Vec::new(),
            history: received.history,
            log,
        };
        self.begin_install(Box::new(install), env);
    }

    /// A snapshot arrived in full: offers it to the core, which may refuse it as stale. The leader sends another one if it
    /// comes too early.
    pub(crate) fn on_snapshot(&mut self, received: Box<ReceivedSnapshot>, env: &mut Env) {
        let usable = matches!(self.phase, Phase::Live | Phase::Uninitialised)
            && received.meta.index > self.applied.index
            && received.descriptor.peer(self.me.id).is_some()
            && received.raft.to_peer.as_ref().is_some_and(|to| to.id == self.me.id.0)
            && !self.has_child_to_bear(env);
        let header = received.raft.message.clone();
        let message = header.and_then(|m| wire::snapshot_message(m, received.meta.clone()));
        let (Some(message), true) = (message, usable) else {
            env.shared.ranges.lock().unreserve(self.region.id);
            return;
        };
        self.handle_ready(env);
        self.snapshot = Some(received);
        let from_store = self.snapshot.as_ref().map_or(StoreId::ZERO, |s| s.from_store);
        self.step((from_store, message.from), message, env);
        self.handle_ready(env);
        if self.snapshot.take().is_some() {
            env.shared.ranges.lock().unreserve(self.region.id);
        }
    }

    /// The snapshot is durable in `data` and `log`.
    pub(crate) fn on_snapshot_installed(
        &mut self,
        region: flotilla_region::Region,
        at: LogId,
        swallowed: &[(flotilla_region::RegionId, PeerId)],
        env: &mut Env,
    ) {
        self.end_install(region.epoch.version, swallowed, env);
        if self.phase != Phase::Installing {
            return;
        }
        Counters::add(&env.shared.counters.snapshots_installed, 1);
        let conf_state = region.conf_state();
        let region = Arc::new(region);
        {
            let mut ranges = env.shared.ranges.lock();
            ranges.unreserve(region.id);
            ranges.take(&region);
        }
        if let Some(me) = region.peer(self.me.id) {
            self.me = *me;
        }
        self.region = region;
        self.load.reshape();
        self.siblings.clear();
        self.node.storage_mut().reset_to_snapshot(at, conf_state);
        self.applied = at;
        self.gc.reset(at.index);
        self.phase = Phase::Live;
        for waiting in self.writes.take_up_to(at.index) {
            waiting.callers.fail(&RequestError::Undetermined);
        }
        self.writes.fail_overtaken(at.term);
        self.grant_reads(env);
    }

    /// The apply worker finished a task of this life of the peer.
    pub(crate) fn on_applied(&mut self, applied: Applied, env: &mut Env) {
        if self.phase == Phase::Closing {
            return self.settle_others(applied.effects, env);
        }
        self.applied = applied.applied;
        self.node.set_skip_commit_broadcast(!self.split_in_flight() && !self.is_in_merge());
        self.written_bytes += applied.written_bytes;
        let is_member_change = |effect: &Effect| matches!(effect, Effect::Membership { .. });
        let members_changed = applied.effects.iter().any(is_member_change);
        for effect in applied.effects {
            self.on_effect(effect, env);
        }
        if self.phase == Phase::Closing {
            return;
        }
        if let Some(damage) =
            applied.stopped.filter(|_| !matches!(self.phase, Phase::Retired | Phase::Orphaned))
        {
            return self.condemn(damage);
        }
        let conf_state = members_changed.then(|| self.region.conf_state());
        self.node.storage_mut().set_applied(self.applied, conf_state);
        if let Some(applying) = applied.applying {
            self.node.on_applied(applying);
        }
        self.lease.advance(self.node.commit(), self.applied.index);
        self.publish_lease(false, env);
        if self.is_leader() && self.is_unfortified() {
            self.fortify(env);
        }
        self.grant_reads(env);
        self.maybe_retire(env);
        self.pump_apply(env);
    }

    /// What was applied before the end of this peer, and concerns others: regions on this store, and callers.
    fn settle_others(&mut self, effects: Vec<Effect>, env: &mut Env) {
        for effect in effects {
            match effect {
                Effect::Split { .. } | Effect::Merged { .. } => self.on_effect(effect, env),
                mut other => other.answer(),
            }
        }
    }

    fn on_effect(&mut self, effect: Effect, env: &mut Env) {
        match effect {
            Effect::Membership { change, region, done } => self.on_membership(&change, region, done, env),
            mut refused @ Effect::MembershipRefused { .. } => refused.answer(),
            Effect::Split { regions, done } => self.on_split(regions, done, env),
            Effect::Expecting { source, done } => self.on_expecting(source, done, env),
            Effect::Prepared { region, prepared } => self.on_prepared(region, prepared, env),
            Effect::Merged { region, source } => self.on_merged(region, &source, env),
            Effect::RolledBack => self.on_rolled_back(),
            Effect::Voided { region } => self.on_voided(region, env),
        }
    }
}

/// Whether peers pass such messages on in the name of others.
fn is_passed_on(kind: MessageKind) -> bool {
    matches!(kind, MessageKind::Propose | MessageKind::ReadIndex | MessageKind::TransferLeader)
}
