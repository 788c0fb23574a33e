//! The apply worker: committed entries in, one `data` batch over all regions of the round out.
//!
//! Invariant: a batch holds, for each of its regions, the data, the descriptor and the applied index of one and the same
//! position, so a memtable flush is always a consistent prefix of the store's apply history (rule W1).
//! Invariant: nothing about a round is told to anybody before its write returned.

mod applier;
mod install;
mod merge;
mod ring;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_engine::WriteBatch;
use flotilla_raft::EntryKind;
use flotilla_region::{DenseMap, PeerId, Region, RegionId, keys};

use crate::admin::check::DigestTask;
use crate::background::BackgroundMsg;
use crate::error::{RequestError, StoreError, readable};
use crate::history::{self, RegionEvent};
use crate::machine::Overlay;
use crate::mailbox::{Mailbox, Turn};
use crate::msg::{
    AdminDone, Applied, ApplyMsg, ApplyTask, Callers, Effect, Few, Incarnation, Quota, RaftMsg, WriteDone,
};
use crate::positions::{POSITION_BYTES, Position};
use crate::shared::{Counters, Shared, worker_of};
use crate::state::{LogId, RegionState};
use crate::time::Time;

use applier::Applier;
use ring::Ring;

/// Applies the regions with `worker_of(region, apply_workers) == number`.
pub(crate) struct ApplyWorker {
    number: usize,
    shared: Arc<Shared>,
    mailbox: Mailbox<Vec<ApplyMsg>>,
    /// Taken from the mailbox, for later rounds.
    waiting: VecDeque<ApplyMsg>,
    appliers: DenseMap<RegionId, Applier>,
    /// Where the applied positions of large rounds go.
    ring: Ring,
    round: Round,
    /// Last round of proofs in which the worker showed that it lives.
    proven: u64,
}

/// What becomes true when the batch is written.
#[derive(Default)]
pub(crate) struct Round {
    batch: WriteBatch,
    overlay: Overlay,
    replies: Vec<Reply>,
    /// Of the commands of the entry that is being applied.
    results: Vec<Result<Bytes, RequestError>>,
    applied: Vec<Applied>,
    /// Of the regions in the batch; the last one of a region counts.
    positions: Vec<Position>,
    destroyed: Vec<(RegionId, PeerId, Incarnation)>,
    /// Regions that are to become part of another one.
    retired: Vec<(RegionId, Incarnation)>,
    entries: u64,
    commands: u64,
}

/// An answer that waits for the write.
pub(crate) enum Reply {
    Write(WriteDone, Quota, Result<Bytes, RequestError>),
    Admin(AdminDone, RequestError),
}

impl Reply {
    fn send(self) {
        match self {
            Self::Write(done, _quota, result) => done(result),
            Self::Admin(done, error) => done(Err(error)),
        }
    }
}

impl ApplyWorker {
    pub(crate) fn new(number: usize, shared: Arc<Shared>, mailbox: Mailbox<Vec<ApplyMsg>>) -> Self {
        let ring = Ring::new(number, shared.config.position_records_max);
        Self {
            number,
            shared,
            mailbox,
            waiting: VecDeque::new(),
            appliers: DenseMap::new(),
            ring,
            round: Round::default(),
            proven: 0,
        }
    }

    fn on_task(&mut self, task: ApplyTask) -> Result<(), StoreError> {
        let mut rest = Some(task);
        while let Some(task) = rest {
            rest = self.apply_up_to_check(task)?;
        }
        Ok(())
    }

    /// Applies the task's entries, as far as to one that asks for a view of the region; returns what is left.
    fn apply_up_to_check(&mut self, task: ApplyTask) -> Result<Option<ApplyTask>, StoreError> {
        let ApplyTask { region, incarnation, entries, waiting, mut applying } = task;
        let applier = self
            .appliers
            .get_mut(&region)
            .filter(|a| a.incarnation == incarnation && a.stopped.is_none() && !a.is_retired);
        let Some(applier) = applier else {
            waiting.into_iter().for_each(|w| w.callers.fail(&RequestError::Undetermined));
            return Ok(None);
        };
        let (mut written_bytes, mut effects) = (0, Vec::new());
        let mut waiting = waiting.into_iter().peekable();
        let mut entries = entries.into_iter();
        for entry in entries.by_ref() {
            let callers = waiting.next_if(|w| w.index == entry.index).map(|w| (w.term, w.callers));
            let callers = match callers {
                Some((term, callers)) if term == entry.term => Some(callers),
                Some((_, callers)) => {
                    self.round.fail(callers, &RequestError::Stale);
                    None
                }
                None => None,
            };
            if applier.stopped.is_some() {
                self.round.fail_optional(callers, &RequestError::Undetermined);
                continue;
            }
            let bytes_before = self.round.batch.bytes();
            applier.apply_entry(&self.shared, &mut self.round, &entry, callers, &mut effects)?;
            if entry.kind == EntryKind::Normal {
                // What a membership change writes is no load.
                written_bytes += self.round.batch.bytes().saturating_sub(bytes_before) as u64;
            }
            if applier.is_checked {
                break;
            }
        }
        let entries: Few<_> = entries.collect();
        let rest = if entries.is_empty() {
            waiting.for_each(|w| self.round.fail(w.callers, &RequestError::Undetermined));
            None
        } else {
            let waiting = waiting.collect();
            Some(ApplyTask { region, incarnation, entries, waiting, applying: applying.take() })
        };
        if planted!(AppliedIndexApart) {
            let mut apart = WriteBatch::new();
            apart.put(&keys::apply_state(region), &applier.applied.encode());
            self.shared.engine.write(&apart)?;
        } else {
            self.round.arrive(Position { region, peer: applier.peer, at: applier.applied });
        }
        let (applied, stopped) = (applier.applied, applier.stopped.as_deref().cloned());
        self.round.applied.push(Applied {
            region,
            incarnation,
            applied,
            written_bytes,
            effects,
            applying,
            stopped,
        });
        self.maybe_view(region)?;
        Ok(rest)
    }

    /// If a comparison of the replicas is asked for: ends the round here, so that a view shows this very position.
    fn maybe_view(&mut self, region: RegionId) -> Result<(), StoreError> {
        let Some(applier) = self.appliers.get_mut(&region) else { return Ok(()) };
        if !std::mem::take(&mut applier.is_checked) || applier.stopped.is_some() {
            return Ok(());
        }
        let (region, incarnation, at) = (applier.region.clone(), applier.incarnation, applier.applied);
        self.commit()?;
        let view = self.shared.engine.snapshot();
        let task = DigestTask { region, incarnation, at, view };
        self.shared.links.background.send(BackgroundMsg::Digest(task));
        Ok(())
    }

    /// Removes a region: a tombstone takes the place of its descriptor, its data goes. All of it is in the memtable,
    /// so it is ordered with everything before and after (no file deletion, rule W2).
    fn on_destroy(
        &mut self,
        descriptor: &Region,
        peer: PeerId,
        incarnation: Incarnation,
        merged: Option<(RegionId, u64)>,
    ) -> Result<(), StoreError> {
        let region = descriptor.id;
        if let Some(applier) = self.appliers.remove(&region) {
            let (start, end) = keys::data_bounds(applier.region.space, &applier.region.range);
            self.round.batch.delete_range(&start, &end);
            self.round.batch.delete(&keys::apply_state(region));
            self.round.batch.delete(&keys::merge_state(region));
            self.round.batch.delete(&keys::history(region));
            self.shared.machine(applier.region.space).on_region_change(&applier.region);
        }
        let stored = readable(self.shared.engine.get(&keys::region_state(region)))?;
        self.put_tombstone(descriptor, stored.and_then(RegionState::decode), peer, incarnation, merged);
        Ok(())
    }

    /// Removes a peer that has no data. A split may give it its data at the same moment, by another worker: then it lives,
    /// and is told again that it was removed. One of the two is written first, and what a split made is never hidden by
    /// the tombstone of what was there before.
    fn on_destroy_early(
        &mut self,
        descriptor: &Region,
        peer: PeerId,
        incarnation: Incarnation,
        merged: Option<(RegionId, u64)>,
    ) -> Result<(), StoreError> {
        self.commit()?;
        let shared = self.shared.clone();
        let _births = shared.births.lock();
        let stored = readable(shared.engine.get(&keys::region_state(descriptor.id)))?;
        let stored = stored.and_then(RegionState::decode);
        if matches!(stored, Some(RegionState::Normal(_))) {
            return Ok(());
        }
        self.put_tombstone(descriptor, stored, peer, incarnation, merged);
        self.write_round()
    }

    fn put_tombstone(
        &mut self,
        descriptor: &Region,
        stored: Option<RegionState>,
        peer: PeerId,
        incarnation: Incarnation,
        merged: Option<(RegionId, u64)>,
    ) {
        let region = descriptor.id;
        self.round.batch.delete(&keys::quarantine(region));
        let key = keys::region_state(region);
        let tombstone = match stored {
            Some(RegionState::Tombstone { epoch: older, members, .. })
                if older.conf_ver > descriptor.epoch.conf_ver =>
            {
                RegionState::Tombstone { peer, epoch: older, merged, members }
            }
            _ => RegionState::tombstone(peer, descriptor, merged),
        };
        if planted!(NoTombstone) {
            self.round.batch.delete(&key);
        } else {
            self.round.batch.put(&key, &tombstone.encode());
        }
        self.round.destroyed.push((region, peer, incarnation));
    }

    /// Writes the round, then tells everybody.
    fn commit(&mut self) -> Result<(), StoreError> {
        let splits = |applied: &Applied| applied.effects.iter().any(|e| matches!(e, Effect::Split { .. }));
        let shared = self.shared.clone();
        let _births = self.round.applied.iter().any(splits).then(|| shared.births.lock());
        self.write_round()
    }

    fn write_round(&mut self) -> Result<(), StoreError> {
        self.ring.stage(&mut self.round, &mut self.appliers);
        if !self.round.batch.is_empty() {
            self.shared.engine.write(&self.round.batch)?;
            Counters::add(&self.shared.counters.apply_batches, 1);
            Counters::add(&self.shared.counters.applied_entries, self.round.entries);
            Counters::add(&self.shared.counters.applied_commands, self.round.commands);
        }
        let mut round = std::mem::take(&mut self.round);
        round.replies.drain(..).for_each(Reply::send);
        if !round.applied.is_empty() || !round.destroyed.is_empty() {
            let shared = self.shared.clone();
            // Held, so that no raft worker hears that a removal is durable before it hears of the removal.
            let mut dirty = shared.dirty.lock();
            for applied in &round.applied {
                if let Some(applier) = self.appliers.get(&applied.region) {
                    dirty.insert((applied.region, applier.peer), applied.applied);
                }
            }
            dirty
                .extend(round.destroyed.iter().map(|(region, peer, _)| ((*region, *peer), LogId::default())));
            self.tell_applied(round.applied);
            for (region, _, incarnation) in round.destroyed {
                shared.links.raft_of(region).send(RaftMsg::Destroyed { region, incarnation });
            }
        }
        for (region, incarnation) in round.retired {
            self.shared.links.raft_of(region).send(RaftMsg::Quiet { region, incarnation });
        }
        round.batch.clear();
        // The buffers of what is drained serve the next round.
        let Round { batch, replies, results, positions, .. } = round;
        self.round = Round { batch, replies, results, positions, ..Round::default() };
        Ok(())
    }

    /// One message for each raft worker, however many regions took part.
    fn tell_applied(&self, applied: Vec<Applied>) {
        let raft = &self.shared.links.raft;
        if let ([worker], false) = (&raft[..], applied.is_empty()) {
            return worker.send(RaftMsg::Applied(applied));
        }
        let mut lists: Vec<Vec<Applied>> = Vec::new();
        lists.resize_with(raft.len(), Vec::new);
        for applied in applied {
            lists[worker_of(applied.region, raft.len())].push(applied);
        }
        for (worker, list) in raft.iter().zip(lists) {
            if !list.is_empty() {
                worker.send(RaftMsg::Applied(list));
            }
        }
    }

    fn handle(&mut self, message: ApplyMsg) -> Result<(), StoreError> {
        match message {
            ApplyMsg::Register { region, peer, incarnation, applied, merge } => {
                let mut applier = Applier::new(region.clone(), peer, incarnation, applied, merge);
                let known = self.appliers.get(&region.id).filter(|known| known.peer == peer);
                applier.is_in_ring = known.is_some_and(|known| known.is_in_ring);
                self.appliers.insert(region.id, applier);
                Ok(())
            }
            ApplyMsg::Claim { region, peer, incarnation } => {
                if !self.appliers.contains_key(&region.id) {
                    let unknown = Applier::new(region.clone(), peer, incarnation, LogId::default(), None);
                    self.appliers.insert(region.id, unknown);
                }
                Ok(())
            }
            ApplyMsg::Task(task) => self.on_task(task),
            ApplyMsg::Snapshot(install) => {
                self.commit()?;
                self.on_install(*install)
            }
            ApplyMsg::Destroy { descriptor, peer, incarnation, merged, early: true } => {
                self.on_destroy_early(&descriptor, peer, incarnation, merged)
            }
            ApplyMsg::Destroy { descriptor, peer, incarnation, merged, early: false } => {
                self.on_destroy(&descriptor, peer, incarnation, merged)
            }
            ApplyMsg::Retire { region, incarnation } => {
                if let Some(applier) = self.appliers.get_mut(&region) {
                    // The target's worker deletes it with the region's other records, and nothing may bring it back.
                    ring::settle(&mut self.round, applier);
                    applier.is_retired |= applier.incarnation == incarnation;
                }
                self.round.retired.push((region, incarnation));
                Ok(())
            }
            ApplyMsg::Forget { region, incarnation } => {
                if self.appliers.get(&region).is_some_and(|a| a.incarnation == incarnation) {
                    self.appliers.remove(&region);
                }
                Ok(())
            }
        }
    }

    fn bite(&mut self) -> Result<(), StoreError> {
        let bytes_max = self.shared.config.apply_batch_bytes_max;
        while self.round.bytes() < bytes_max {
            let Some(message) = self.waiting.pop_front() else {
                let Some(messages) = self.mailbox.pop() else { break };
                self.waiting.extend(messages);
                continue;
            };
            self.handle(message)?;
        }
        self.commit()
    }
}

impl Round {
    /// A region has come so far.
    fn arrive(&mut self, position: Position) {
        match self.positions.last_mut().filter(|last| last.region == position.region) {
            Some(last) => *last = position,
            None => self.positions.push(position),
        }
    }

    fn bytes(&self) -> usize {
        self.batch.bytes() + self.positions.len() * POSITION_BYTES
    }

    /// Adds to what is remembered of a region.
    fn remember(&mut self, shared: &Shared, region: RegionId, event: &RegionEvent) -> Result<(), StoreError> {
        let key = keys::history(region);
        let stored = match self.overlay.get(&self.batch, &key) {
            Some(value) => Ok(value),
            None => shared.engine.get(&key),
        };
        let record = history::with_event(stored, event)?;
        self.batch.put(&key, &record);
        Ok(())
    }

    fn fail(&mut self, callers: Callers, error: &RequestError) {
        match callers {
            Callers::Writes(writes) => self.replies.extend(
                writes.into_iter().map(|(done, quota)| Reply::Write(done, quota, Err(error.clone()))),
            ),
            Callers::Admin(done) => self.replies.push(Reply::Admin(done, error.clone())),
        }
    }

    fn fail_optional(&mut self, callers: Option<Callers>, error: &RequestError) {
        if let Some(callers) = callers {
            self.fail(callers, error);
        }
    }
}

impl Turn for ApplyWorker {
    fn name(&self) -> String {
        format!("apply-{}", self.number)
    }

    fn turn(&mut self, _: Time) -> bool {
        if self.shared.has_failed() {
            return false;
        }
        if let Err(error) = self.bite() {
            self.shared.fail(&error);
            return false;
        }
        self.shared.prove(&mut self.proven);
        self.has_messages()
    }

    fn has_messages(&self) -> bool {
        !self.waiting.is_empty() || !self.mailbox.is_empty()
    }

    fn held(&self) -> usize {
        self.waiting.len()
    }

    fn deadline(&self) -> Time {
        Time(u64::MAX)
    }

    fn wait(&mut self, timeout: Duration) {
        self.mailbox.wait(timeout);
    }
}
