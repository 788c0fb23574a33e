//! The target's part: expect, ask, commit or roll back, and hold apply until the source on this store is retired.

use std::collections::BTreeSet;
use std::sync::Arc;

use flotilla_raft::{Applying, Entry, ProgressState};
use flotilla_region::{Index, PeerId, PeerRole, Region, RegionEpoch, RegionId, Space, StoreId, Term};

use super::{Held, MergeState, Retire, Swallowing, commit_of, is_expected, merged_region};
use crate::entry::{AdminCommand, CommitMerge, encode_admin};
use crate::error::RequestError;
use crate::msg::{AdminDone, ApplyMsg, ApplyTask, Callers, Few, InstallSnapshot, RaftMsg};
use crate::outbox::raft_message;
use crate::peer::{Peer, Phase};
use crate::shared::Counters;
use crate::state::LogId;
use crate::wire::{self, pb};
use crate::worker::Env;

impl Peer {
    /// Checks and proposes that `source` shall become part of this region.
    pub(crate) fn propose_merge(&mut self, source: Region, done: AdminDone, env: &mut Env) {
        if let Err(why) = check_merge(&self.region, &source).and_then(|()| self.check_calm()) {
            return done(Err(RequestError::Refused(why)));
        }
        if self.is_in_merge() {
            return done(Err(RequestError::Merging(self.id())));
        }
        let is_well = |p: &flotilla_raft::Progress| {
            p.state == ProgressState::Replicate && p.is_alive() && p.matched >= self.gc.base()
        };
        let ill = self.node.progress_iter().any(|(id, p)| id != self.me.id && !is_well(p));
        if ill {
            return done(Err(RequestError::Refused("a replica is not well")));
        }
        self.propose_gathered(env);
        let data = encode_admin(self.region.epoch, &AdminCommand::ExpectMerge(source));
        match self.propose(data, Callers::Admin(done), env.now) {
            Ok(()) => self.note_step(),
            Err(callers) => callers.fail(&self.not_leader()),
        }
    }

    /// What forbids any step of a merge for now.
    pub(super) fn check_calm(&self) -> Result<(), &'static str> {
        if self.split_in_flight() {
            return Err("a split is under way");
        }
        if self.node.pending_conf_index() > self.applied.index || self.region.is_joint() {
            return Err("another membership change is under way");
        }
        if !self.node.lead_transferee().is_zero() {
            return Err("leadership is being handed over");
        }
        Ok(())
    }

    /// Whether a merge changes or freezes the region, or a step of one proposed here is not decided.
    pub(crate) fn is_in_merge(&self) -> bool {
        self.merge.state.is_some() || self.merge.proposed.is_some_and(|index| index > self.applied.index)
    }

    /// The expectation is applied: the source is asked from now on.
    pub(crate) fn on_expecting(&mut self, source: Region, done: Option<AdminDone>, env: &mut Env) {
        self.merge.state = Some(MergeState::Expecting(source));
        self.merge.caller = done;
        self.ask_source(env);
    }

    /// The expectation ended without a merge.
    pub(crate) fn on_rolled_back(&mut self) {
        self.merge.state = None;
        if let Some(done) = self.merge.caller.take() {
            done(Err(RequestError::Refused("the source changed its shape: merge undone")));
        }
    }

    /// Once a tick: asks all peers of the source, and the sources that must be retired here.
    pub(crate) fn tick_merge(&mut self, env: &mut Env) {
        if self.phase == Phase::Live {
            self.ask_source(env);
            #[cfg(feature = "planted")]
            self.tick_planted(env);
        }
        self.pump_apply(env);
        self.pump_install(env);
    }

    fn ask_source(&mut self, env: &mut Env) {
        let Some(MergeState::Expecting(source)) = &self.merge.state else { return };
        let undecided = self.merge.proposed.is_some_and(|index| index > self.applied.index);
        if undecided || !self.has_applied_own_term() {
            return;
        }
        for peer in &source.peers {
            let mut message = raft_message(source, self.me, *peer, None, false);
            let ask = pb::MergeAsk {
                target: self.id().0,
                source: Some(wire::region_to_wire(source)),
                target_version: self.region.epoch.version,
            };
            message.merge = wire::merge_to_wire(pb::merge_message::Message::Ask(ask));
            env.post(peer.store, message);
        }
    }

    /// A peer of the source tells what became of it.
    pub(crate) fn on_merge_answer(&mut self, answer: pb::MergeAnswer, env: &mut Env) {
        let Some(MergeState::Expecting(expected)) = &self.merge.state else { return };
        let asked = answer.source_epoch.as_ref().map(wire::epoch_from_wire).unwrap_or_default();
        let undecided = self.merge.proposed.is_some_and(|index| index > self.applied.index);
        let fits = RegionId(answer.source) == expected.id && asked == expected.epoch;
        if !fits || undecided || !self.has_applied_own_term() {
            return;
        }
        let command = if answer.is_void {
            AdminCommand::RollbackMerge(expected.id, expected.epoch)
        } else {
            let source = answer.region.as_ref().map(wire::region_from_wire).unwrap_or_default();
            if !is_expected(expected, &source) {
                return;
            }
            let at = LogId { index: Index(answer.index), term: Term(answer.term) };
            let time_ms = env.shared.clock.unix_ms();
            AdminCommand::CommitMerge(CommitMerge { source, at, prepare: answer.prepare, time_ms })
        };
        self.propose_gathered(env);
        if self.node.propose(encode_admin(self.region.epoch, &command)).is_ok() {
            self.note_step();
        }
    }

    /// A step was proposed. All peers shall learn at once when it is committed: they have to do it before they serve.
    pub(super) fn note_step(&mut self) {
        self.merge.proposed = Some(self.node.last_index());
        self.node.set_skip_commit_broadcast(false);
    }

    // ---- holding apply ----

    /// Gives committed entries to the apply worker, up to a merge that has to wait for its source.
    pub(crate) fn hand_to_apply(&mut self, entries: Few<Entry>, applying: Option<Applying>, env: &mut Env) {
        let ahead = entries.last().map_or(0, |last| last.index.0.saturating_sub(self.node.stable().0));
        Counters::add(&env.shared.counters.applied_ahead, ahead.min(entries.len() as u64));
        self.merge.held.push_back(Held { entries, applying });
        self.pump_apply(env);
    }

    /// Goes on with held entries as far as possible.
    pub(crate) fn pump_apply(&mut self, env: &mut Env) {
        while self.phase == Phase::Live
            && let Some(mut held) = self.merge.held.pop_front()
        {
            match held.entries.iter().position(|e| commit_of(e).is_some()) {
                None => self.send_to_apply(held, env),
                Some(0) => {
                    if self.must_wait(&held, env) {
                        return self.merge.held.push_front(held);
                    }
                    if held.entries.len() > 1 {
                        self.merge.held.push_front(held.split_off(1));
                    }
                    self.send_to_apply(held, env);
                }
                Some(at) => {
                    self.merge.held.push_front(held.split_off(at));
                    self.send_to_apply(held, env);
                }
            }
        }
    }

    /// Whether the `CommitMerge` at the front cannot be applied yet. It can at once if it will have no effect.
    fn must_wait(&mut self, held: &Held, env: &mut Env) -> bool {
        let Some((first, commit)) = held.entries.first().and_then(|e| Some((e.index, commit_of(e)?))) else {
            return false;
        };
        if self.applied.index.next() < first {
            return true;
        }
        let Some(MergeState::Expecting(expected)) = &self.merge.state else { return false };
        if !is_expected(expected, &commit.source) || merged_region(&self.region, &commit.source).is_none() {
            return false;
        }
        if std::mem::take(&mut self.merge.is_source_retired) {
            return false;
        }
        let source = commit.source.id;
        let peer = commit.source.peer_on(env.shared.origin.store).map(|p| p.id);
        let retire = Retire { source, peer, target: self.id(), commit: Some(commit) };
        env.tell(source, RaftMsg::Retire(Box::new(retire)));
        true
    }

    fn send_to_apply(&mut self, held: Held, env: &mut Env) {
        let Some(last) = held.entries.last() else { return };
        let waiting = self.writes.take_up_to(last.index);
        if self.writes.in_flight() > 0 {
            self.writes.fail_overtaken(last.term);
        }
        let term = self.node.term();
        if self.is_leader() && !self.shape_in_question() {
            // A quorum acknowledged these entries after they were proposed.
            let newest = waiting.iter().rev().find(|w| w.term == term);
            if let Some(waiting) = newest {
                self.lease.confirm(waiting.proposed_at, env.shared.config.lease_ms);
            }
        }
        let task = ApplyTask {
            region: self.region.id,
            incarnation: self.incarnation,
            entries: held.entries,
            waiting,
            applying: held.applying,
        };
        env.apply(self.region.id, ApplyMsg::Task(task));
    }

    /// A source on this store is retired.
    pub(crate) fn on_retired(&mut self, source: RegionId, env: &mut Env) {
        if let Some(swallowing) = &mut self.merge.install {
            swallowing.retired.insert(source);
            return self.pump_install(env);
        }
        let front = self.merge.held_merge();
        if front.is_some_and(|commit| commit.source.id == source) {
            self.merge.is_source_retired = true;
            self.pump_apply(env);
        }
    }

    /// The source is part of this region now.
    pub(crate) fn on_merged(&mut self, region: Region, source: &Region, env: &mut Env) {
        self.lease.revoke(&env.shared.delegates, self.id());
        self.region = Arc::new(region);
        {
            let mut ranges = env.shared.ranges.lock();
            ranges.release(source.id);
            ranges.take(&self.region);
        }
        self.load.reshape();
        self.merge.state = None;
        self.siblings.clear();
        self.refuse_gathered();
        if self.is_leader() {
            Counters::add(&env.shared.counters.merges, 1);
        }
        if let Some(peer) = source.peer_on(env.shared.origin.store) {
            let gone = RaftMsg::Merged { region: source.id, peer: peer.id };
            env.tell(source.id, gone);
        }
        if let Some(done) = self.merge.caller.take() {
            done(Ok(vec![(*self.region).clone()]));
        }
        self.recheck_reads(env);
    }

    // ---- snapshots that swallow sources ----

    /// Installs a snapshot when every region in its place is retired.
    pub(crate) fn begin_install(&mut self, install: Box<InstallSnapshot>, env: &mut Env) {
        self.merge.installing = install.merge.clone().map(Box::new);
        self.merge.install = Some(Swallowing { install, retired: BTreeSet::new() });
        self.pump_install(env);
    }

    fn pump_install(&mut self, env: &mut Env) {
        let Some(swallowing) = &mut self.merge.install else { return };
        let region = &swallowing.install.region;
        let in_place = env.shared.ranges.lock().overlapping(region.space, &region.range, region.id);
        let alive: Vec<RegionId> =
            in_place.iter().filter(|id| !swallowing.retired.contains(id)).copied().collect();
        for source in &alive {
            let retire = Retire { source: *source, peer: None, target: region.id, commit: None };
            env.tell(*source, RaftMsg::Retire(Box::new(retire)));
        }
        if alive.is_empty()
            && let Some(Swallowing { mut install, .. }) = self.merge.install.take()
        {
            install.swallowed = in_place;
            env.apply(self.region.id, ApplyMsg::Snapshot(install));
        }
    }

    /// A snapshot of this `version` took the place of everything that was held and of these regions.
    pub(crate) fn end_install(&mut self, version: u64, swallowed: &[(RegionId, PeerId)], env: &mut Env) {
        let front = self.merge.held_merge();
        if let Some(source) = front.map(|commit| commit.source.id)
            && swallowed.iter().all(|(id, _)| *id != source)
        {
            let target = self.id();
            env.tell(source, RaftMsg::Abandoned { source, target, version });
        }
        for (region, peer) in swallowed {
            env.shared.ranges.lock().release(*region);
            let gone = RaftMsg::Merged { region: *region, peer: *peer };
            env.tell(*region, gone);
        }
        self.merge.state = self.merge.installing.take().map(|state| *state);
        self.merge.is_source_retired = false;
        for held in std::mem::take(&mut self.merge.held) {
            if let Some(applying) = held.applying {
                self.node.on_applied(applying);
            }
        }
        self.fail_merge_caller();
    }

    /// The peer goes away: sources that were retired for it must find their end without it.
    pub(crate) fn abandon_sources(&mut self, env: &mut Env) {
        self.fail_merge_caller();
        let target = self.id();
        if let Some(swallowing) = self.merge.install.take() {
            for source in swallowing.retired {
                env.tell(source, RaftMsg::Abandoned { source, target, version: 0 });
            }
        }
        let front = self.merge.held_merge();
        if let Some(commit) = front
            && let Some(merged) = merged_region(&self.region, &commit.source)
        {
            let (source, version) = (commit.source.id, merged.epoch.version);
            env.tell(source, RaftMsg::Abandoned { source, target, version });
        }
        self.merge.held.clear();
    }

    pub(super) fn fail_merge_caller(&mut self) {
        if let Some(done) = self.merge.caller.take() {
            done(Err(RequestError::Undetermined));
        }
    }
}

/// What two regions must have in common to be merged.
fn check_merge(target: &Region, source: &Region) -> Result<(), &'static str> {
    let is_apart = |r: &Region| r.space == Space::Meta || r.id == RegionId::SENTINEL;
    if is_apart(target) || is_apart(source) {
        return Err("the region is never merged");
    }
    if target.id == source.id || source.epoch == RegionEpoch::default() {
        return Err("a region merges with a neighbour");
    }
    if merged_region(target, source).is_none() {
        return Err("the regions are no neighbours");
    }
    let voters = |r: &Region| -> Option<BTreeSet<StoreId>> {
        r.peers.iter().map(|p| (p.role == PeerRole::Voter).then_some(p.store)).collect()
    };
    match (voters(target), voters(source)) {
        (Some(a), Some(b)) if a == b => Ok(()),
        (Some(_), Some(_)) => Err("the regions live on different stores"),
        _ => Err("membership is changing"),
    }
}
