//! The source's part: become final or void, catch up when the target commits, be retired.

use flotilla_placement::RegionInfo;
use flotilla_raft::{Entry, EntryKind, ProgressState};
use flotilla_region::{Peer as PeerInfo, Region, RegionId, keys};

use super::{Asked, MergeState, Prepared, Retire, prepared_epoch};
use crate::entry::{AdminCommand, CommitMerge, Payload, PrepareMerge, encode_admin};
use crate::error::RequestError;
use crate::msg::{ApplyMsg, RaftMsg};
use crate::outbox::raft_message;
use crate::peer::log::PeerLog;
use crate::peer::{Peer, Phase};
use crate::state::{LogId, RegionState};
use crate::wire::{self, pb};
use crate::worker::Env;

/// A source that cannot become final for so many election timeouts makes itself void.
const PATIENCE_ELECTIONS: u64 = 4;

impl Peer {
    /// A target's leader asks what becomes of this region.
    pub(crate) fn on_merge_ask(&mut self, by: PeerInfo, ask: &pb::MergeAsk, env: &mut Env) {
        if self.phase != Phase::Live {
            return;
        }
        let target = RegionId(ask.target);
        let expected = ask.source.as_ref().map(wire::region_from_wire).unwrap_or_default();
        let final_for = match &self.merge.state {
            Some(MergeState::Prepared(prepared)) => Some(prepared.target),
            _ => None,
        };
        let is_final = prepared_epoch(expected.epoch) == self.region.epoch && final_for == Some(target);
        // It may be expected in its final shape, by one that came too late.
        let is_taken = final_for.is_some_and(|other| other != target);
        if is_final || is_taken || expected.epoch.is_stale_against(&self.region.epoch) {
            return self.answer_merge(by, target, &expected, !is_final, env);
        }
        if expected.epoch != self.region.epoch || !self.has_applied_own_term() {
            return;
        }
        let patience =
            PATIENCE_ELECTIONS * env.shared.config.election_ticks as u64 * env.shared.config.tick_ms;
        // Whoever asks: two neighbours may wait for each other, and a third one for one of them.
        let known = self.merge.asked.as_ref().filter(|a| env.now.ms_since(a.last) < patience);
        let since = known.map_or(env.now, |a| a.since);
        self.merge.asked = Some(Box::new(Asked { target, by, since, last: env.now }));
        if self.merge.proposed.is_some_and(|index| index > self.applied.index) {
            return;
        }
        if !is_same_shape(&self.region, &expected) || env.now.ms_since(since) >= patience {
            tracing::info!(
                region = self.id().0,
                target = target.0,
                "source moves its version to undo a merge"
            );
            self.propose_step(&AdminCommand::VoidMerge, env);
        } else if self.merge.state.is_none() && self.check_calm().is_ok() {
            self.prepare(target, env);
        }
    }

    /// Proposes to become final, if no peer is far behind.
    fn prepare(&mut self, target: RegionId, env: &mut Env) {
        // Commands gathered so far were checked against the present shape: they go first.
        self.propose_gathered(env);
        let is_known =
            |p: &flotilla_raft::Progress| p.state == ProgressState::Replicate && !p.matched.is_zero();
        let all_known = self.node.progress_iter().all(|(id, p)| id == self.me.id || is_known(p));
        let mut least = self.node.progress_iter().map(|(_, p)| p.matched).min().unwrap_or_default();
        if !all_known || least < self.gc.base() {
            return;
        }
        if planted!(MergeWithoutEntries) {
            least = self.node.last_index();
        }
        let bytes_max = env.shared.config.entry_bytes_max as u64 / 2;
        let Ok(entries) = self.node.entries(least.next(), bytes_max) else { return };
        let is_all = least.0 + entries.len() as u64 == self.node.last_index().0;
        let (true, Some(term)) = (is_all, self.node.term_at(least)) else { return };
        let from = LogId { index: least, term };
        let command = AdminCommand::PrepareMerge(PrepareMerge { target, from, entries });
        // Before anybody can learn that it is committed.
        if !planted!(LeaseThroughMerge) {
            self.lease.revoke(&env.shared.delegates, self.id());
        }
        if self.propose_step(&command, env) {
            self.merge.preparing = self.merge.proposed;
        }
    }

    /// Takes the one decision back.
    #[cfg(feature = "planted")]
    pub(super) fn tick_planted(&mut self, env: &mut Env) {
        let is_prepared = matches!(self.merge.state, Some(MergeState::Prepared(_)));
        let undecided = self.merge.proposed.is_some_and(|index| index > self.applied.index);
        if planted!(RollbackAfterPrepare) && is_prepared && !undecided && self.has_applied_own_term() {
            self.propose_step(&AdminCommand::VoidMerge, env);
        }
    }

    fn propose_step(&mut self, command: &AdminCommand, env: &mut Env) -> bool {
        self.propose_gathered(env);
        let proposed = self.node.propose(encode_admin(self.region.epoch, command)).is_ok();
        if proposed {
            self.note_step();
        }
        proposed
    }

    fn answer_merge(&self, by: PeerInfo, target: RegionId, expected: &Region, is_void: bool, env: &mut Env) {
        let mut answer = pb::MergeAnswer {
            source: self.id().0,
            source_epoch: Some(wire::epoch_to_wire(expected.epoch)),
            is_void,
            ..Default::default()
        };
        if let Some(MergeState::Prepared(Prepared { at, data, .. })) = &self.merge.state {
            answer.region = Some(wire::region_to_wire(&self.region));
            (answer.index, answer.term) = (at.index.0, at.term.0);
            answer.prepare = data.clone();
        }
        let mut message = raft_message(&self.region, self.me, by, None, false);
        message.region_id = target.0;
        message.merge = wire::merge_to_wire(pb::merge_message::Message::Answer(answer));
        env.post(by.store, message);
    }

    /// Whether the region is final, or may be without this leader knowing it: it serves nothing.
    pub(crate) fn is_prepared(&self) -> bool {
        let undecided = self.merge.preparing.is_some_and(|index| index > self.applied.index);
        matches!(self.merge.state, Some(MergeState::Prepared(_))) || undecided
    }

    /// The region is final: it waits to become part of the target.
    pub(crate) fn on_prepared(&mut self, region: Region, prepared: Prepared, env: &mut Env) {
        let (expected, target) = ((*self.region).clone(), prepared.target);
        if !planted!(LeaseThroughMerge) {
            self.lease.revoke(&env.shared.delegates, self.id());
        }
        self.region = std::sync::Arc::new(region);
        self.merge.state = Some(MergeState::Prepared(prepared));
        self.siblings.clear();
        env.shared.ranges.lock().doom(self.id(), target);
        self.refuse_gathered();
        self.recheck_reads(env);
        if let Some(asked) = self.merge.asked.take().filter(|a| a.target == target) {
            self.answer_merge(asked.by, target, &expected, false, env);
        }
    }

    /// The version moved, so that nobody expects the region any more.
    pub(crate) fn on_voided(&mut self, region: Region, env: &mut Env) {
        let (expected, asked) = ((*self.region).clone(), self.merge.asked.take());
        self.lease.revoke(&env.shared.delegates, self.id());
        self.region = std::sync::Arc::new(region);
        if planted!(RollbackAfterPrepare) && matches!(self.merge.state, Some(MergeState::Prepared(_))) {
            self.merge.state = None;
        }
        self.siblings.clear();
        self.refuse_gathered();
        self.recheck_reads(env);
        if let Some(asked) = asked {
            self.answer_merge(asked.by, asked.target, &expected, true, env);
        }
    }

    // ---- the end ----

    /// The target takes this region over as soon as it is applied up to its end, or at once where a snapshot does.
    pub(crate) fn on_retire(&mut self, retire: Retire, env: &mut Env) {
        if retire.peer.is_some_and(|peer| peer != self.me.id) {
            return;
        }
        match (&retire.commit, self.phase) {
            (_, Phase::Retired) => {
                self.merge.retire_for = Some((retire.target, None));
                self.send_retire(env);
            }
            (Some(commit), Phase::Live) => {
                let late = planted!(MergeBeforeCaughtUp);
                if !late && !self.catch_up(commit) {
                    tracing::error!(region = self.id().0, "log contradicts the merge");
                    return;
                }
                self.merge.retire_for = Some((retire.target, (!late).then_some(commit.at.index)));
                self.maybe_retire(env);
            }
            (Some(commit), Phase::Orphaned) => {
                self.merge.retire_for = Some((retire.target, Some(commit.at.index)));
                self.maybe_retire(env);
            }
            // A snapshot of the target; only what is known to be merged is in its way.
            (None, Phase::Live | Phase::Orphaned)
                if env.shared.ranges.lock().is_doomed(self.id(), retire.target) =>
            {
                // A split that is known to be committed gives birth first: what its children logged waits for it.
                let known = (self.phase == Phase::Live).then(|| self.node.commit());
                self.merge.retire_for = Some((retire.target, known));
                self.maybe_retire(env);
            }
            _ => {}
        }
    }

    /// Takes over what the target's log says of this region's log.
    fn catch_up(&mut self, commit: &CommitMerge) -> bool {
        let Some(Payload::Admin { command: AdminCommand::PrepareMerge(prepare), .. }) =
            Payload::decode(commit.prepare.clone())
        else {
            return false;
        };
        let mut entries = prepare.entries;
        if self.node.commit() < commit.at.index {
            let (region, from, to) = (self.id().0, self.node.commit().0, commit.at.index.0);
            tracing::info!(region, from, to, "source catches up by its target's log");
        }
        let (index, term) = (commit.at.index, commit.at.term);
        entries.push(Entry { index, term, kind: EntryKind::Normal, data: commit.prepare.clone() });
        self.node.learn_committed(prepare.from.index, prepare.from.term, entries)
    }

    /// Stops the peer for good if it has applied what it must.
    pub(crate) fn maybe_retire(&mut self, env: &mut Env) {
        let Some((_, upto)) = self.merge.retire_for else { return };
        if upto.is_some_and(|index| self.applied.index < index)
            || !matches!(self.phase, Phase::Live | Phase::Orphaned)
        {
            return;
        }
        self.phase = Phase::Retired;
        self.lease.revoke(&env.shared.delegates, self.id());
        self.end_leading(env);
        self.writes.fail_all(self.region.id);
        self.reads.fail_all(&RequestError::RegionNotFound(self.region.id));
        self.fail_merge_caller();
        self.send_retire(env);
    }

    fn send_retire(&self, env: &mut Env) {
        let (region, incarnation) = (self.id(), self.incarnation);
        env.apply(region, ApplyMsg::Retire { region, incarnation });
    }

    /// The applier takes nothing more, and all it wrote has returned.
    pub(crate) fn on_quiet(&mut self, env: &mut Env) {
        if let (Phase::Retired, Some((target, _))) = (self.phase, self.merge.retire_for) {
            let source = self.id();
            env.tell(target, RaftMsg::Retired { target, source });
        }
    }

    /// The target's peer went away before it took this region over, or a snapshot has taken it past the merge and past a
    /// split that gave this range away again.
    pub(crate) fn on_abandoned(&mut self, target: RegionId, version: u64, env: &mut Env) {
        if self.merge.retire_for.is_none_or(|(by, _)| by != target) {
            // It was not asked to end: whether that merge takes effect is not known.
            return;
        }
        if self.phase == Phase::Retired {
            self.phase = Phase::Orphaned;
        }
        self.merge.retire_for = None;
        if version > 0 {
            self.on_told(target, version, env);
        }
    }

    /// Another store has seen the region become part of `target`, which had `version` then.
    pub(crate) fn on_told(&mut self, target: RegionId, version: u64, env: &mut Env) {
        let is_news = self.merge.told.is_none_or(|(_, known)| known < version);
        if !matches!(self.phase, Phase::Live | Phase::Orphaned | Phase::Uninitialised) || !is_news {
            return;
        }
        self.merge.told = Some((target, version));
        if self.phase == Phase::Uninitialised {
            // It has no range yet that a snapshot could take.
            return;
        }
        env.shared.ranges.lock().doom(self.id(), target);
    }

    /// What other peers of a merged region must be told: it became part of this one.
    pub(crate) fn told(&self) -> Option<(RegionId, u64)> {
        self.merge.told
    }

    /// Destroys a merged region that nothing on this store will ever ask for again.
    pub(crate) fn maybe_bury(&mut self, env: &mut Env) -> Result<(), flotilla_engine::Error> {
        let Some(told) = self.merge.told else { return Ok(()) };
        let is_empty = self.phase == Phase::Uninitialised;
        let may_end = is_empty || matches!(self.phase, Phase::Live | Phase::Orphaned);
        if may_end && !self.has_child_to_bear(env) && is_merge_over(&self.region, is_empty, told, env)? {
            tracing::info!(region = self.id().0, target = told.0.0, "merged region that missed it ends");
            self.close(env);
        }
        Ok(())
    }
}

/// Whether a region that is part of another one since that had a version, has nothing left to do on this store: the
/// target's peer here is past the merge, or was removed. An absent one may still be created, by a split that is to be
/// replayed (trap T16), unless those who have the keys since then have no peer here; or unless the target has none, and
/// no log that such a split would give a life to. A source that `is_empty` has no data.
pub(crate) fn is_merge_over(
    source: &Region,
    is_empty: bool,
    (target, version): (RegionId, u64),
    env: &Env,
) -> Result<bool, flotilla_engine::Error> {
    if planted!(SourceBuriedEarly) {
        return Ok(true);
    }
    match env.shared.engine.get(&keys::region_state(target))?.and_then(RegionState::decode) {
        Some(RegionState::Normal(here)) => {
            Ok(here.epoch.version >= version && (is_empty || !here.range.overlaps(&source.range)))
        }
        Some(RegionState::Tombstone { .. }) => Ok(true),
        None => {
            let me = env.shared.origin.store;
            let directory = env.shared.directory.read();
            let is_elsewhere = |known: &&RegionInfo| {
                known.region.epoch.version >= version && known.region.peer_on(me).is_none()
            };
            // Nobody knows here which range one without data would have.
            let owner = directory.routes.by_key(source.space, &source.range.start).filter(|_| !is_empty);
            if owner.filter(is_elsewhere).is_some() {
                return Ok(true);
            }
            let target_elsewhere = directory.routes.by_id(target).filter(is_elsewhere).is_some();
            Ok(target_elsewhere && !PeerLog::has_any(&*env.shared.engine, target)?)
        }
    }
}

/// Whether two descriptors of one epoch are of the same region.
fn is_same_shape(a: &Region, b: &Region) -> bool {
    let peers = |r: &Region| {
        let mut list: Vec<_> = r.peers.iter().map(|p| (p.id, p.store)).collect();
        list.sort_unstable();
        list
    };
    (a.id, a.space, &a.range) == (b.id, b.space, &b.range) && peers(a) == peers(b)
}
