//! One region's state machine as its apply worker owns it.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_raft::{ConfChange, ConfChangeV2, Entry, EntryKind};
use flotilla_region::{PeerId, Region, RegionEpoch, keys};

use super::{Reply, Round};
use crate::admin::membership::membership_after;
use crate::admin::merge::MergeState;
use crate::admin::split::{apply_split, split_regions};
use crate::entry::{AdminCommand, Payload, commands};
use crate::error::{Damage, RequestError, StoreError};
use crate::history::RegionEvent;
use crate::machine::{ApplyContext, ApplyView, MachineError};
use crate::msg::{AdminDone, Callers, Effect, Incarnation};
use crate::shared::Shared;
use crate::state::{LogId, RegionState};

/// Invariant: `applied` only grows; entries are applied in order, each once per life.
pub(crate) struct Applier {
    pub(crate) region: Arc<Region>,
    pub(crate) peer: PeerId,
    pub(crate) incarnation: Incarnation,
    pub(crate) applied: LogId,
    /// A merge under way.
    pub(crate) merge: Option<Box<MergeState>>,
    /// The last entry asks for a comparison of the replicas.
    pub(crate) is_checked: bool,
    /// The descriptor does not name the peer any more, so that a list that does would not be found.
    pub(crate) is_removed: bool,
    /// Takes nothing more: the region is to become part of another one.
    pub(crate) is_retired: bool,
    /// `data` has its position in the worker's ring only, or also there.
    pub(crate) is_in_ring: bool,
    /// Met something that it may not skip.
    pub(crate) stopped: Option<Box<Damage>>,
}

// One for each region, most of which are idle.
const _: () = assert!(size_of::<Applier>() <= 64);

/// What an entry did, before its callers are told.
pub(super) enum Outcome {
    /// A reply per command, in the round's list.
    Replies,
    /// A change of the region; the raft worker tells the caller.
    Effect(Box<dyn FnOnce(Option<AdminDone>) -> Effect>),
    /// Nothing, for this reason.
    Refused(RequestError),
    /// The region stops.
    Stop(Damage),
}

impl Applier {
    pub(crate) fn new(
        region: Arc<Region>,
        peer: PeerId,
        incarnation: Incarnation,
        applied: LogId,
        merge: Option<MergeState>,
    ) -> Self {
        Self {
            region,
            peer,
            incarnation,
            applied,
            merge: merge.map(Box::new),
            is_checked: false,
            is_removed: false,
            is_retired: false,
            is_in_ring: false,
            stopped: None,
        }
    }

    /// Applies one entry into the round.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) fn apply_entry(
        &mut self,
        shared: &Shared,
        round: &mut Round,
        entry: &Entry,
        callers: Option<Callers>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), StoreError> {
        if entry.index != self.applied.index.next() {
            // The core hands entries out in order and without gaps; anything else is damage.
            if entry.index > self.applied.index {
                self.stopped = Some(Box::new(Damage::Gap(entry.index)));
            }
            round.fail_optional(callers, &RequestError::Undetermined);
            return Ok(());
        }
        let mark = round.batch.mark();
        let outcome = match self.try_entry(shared, round, entry) {
            Ok(outcome) => outcome,
            Err(error) => Outcome::Stop(error.into_damage()?),
        };
        if let Outcome::Stop(damage) = outcome {
            round.batch.rollback(mark);
            round.overlay.clear();
            round.results.clear();
            self.stopped = Some(Box::new(damage));
            round.fail_optional(callers, &RequestError::Undetermined);
            return Ok(());
        }
        self.applied = LogId { index: entry.index, term: entry.term };
        round.entries += 1;
        answer(round, callers, outcome, effects);
        Ok(())
    }

    fn try_entry(
        &mut self,
        shared: &Shared,
        round: &mut Round,
        entry: &Entry,
    ) -> Result<Outcome, StoreError> {
        let change = match entry.kind {
            EntryKind::Normal => return self.apply_normal(shared, round, entry),
            EntryKind::ConfChange => ConfChange::decode(&entry.data).map(ConfChange::into_v2),
            EntryKind::ConfChangeV2 => ConfChangeV2::decode(&entry.data),
        };
        Ok(match change {
            Ok(change) => self.apply_membership(shared, round, change),
            Err(_) => Outcome::Stop(Damage::Command(entry.index)),
        })
    }

    fn apply_normal(
        &mut self,
        shared: &Shared,
        round: &mut Round,
        entry: &Entry,
    ) -> Result<Outcome, StoreError> {
        match Payload::decode(entry.data.clone()) {
            Some(Payload::Empty) => Ok(Outcome::Refused(RequestError::Stale)),
            Some(Payload::Commands { version, time_ms, commands }) => {
                if matches!(self.merge.as_deref(), Some(MergeState::Prepared(_))) {
                    return Ok(Outcome::Refused(RequestError::Merging(self.region.id)));
                }
                if version != self.region.epoch.version && !planted!(StaleEpochApplied) {
                    return Ok(Outcome::Refused(RequestError::EpochNotMatch(vec![(*self.region).clone()])));
                }
                self.apply_commands(shared, round, entry, time_ms, commands)
            }
            Some(Payload::Admin { epoch, command }) => self.apply_admin(shared, round, entry, epoch, command),
            None => Ok(Outcome::Stop(Damage::Command(entry.index))),
        }
    }

    fn apply_commands(
        &self,
        shared: &Shared,
        round: &mut Round,
        entry: &Entry,
        time_ms: u64,
        list: Bytes,
    ) -> Result<Outcome, StoreError> {
        let machine = shared.machine(self.region.space);
        let context = ApplyContext { region: &self.region, index: entry.index, term: entry.term, time_ms };
        let mut view = ApplyView::new(&*shared.engine, &mut round.batch, &mut round.overlay, &self.region);
        for command in commands(list) {
            let Some(command) = command else { return Ok(Outcome::Stop(Damage::Command(entry.index))) };
            match machine.apply(&context, &command, &mut view) {
                Ok(reply) => round.results.push(Ok(reply)),
                Err(MachineError::UnknownCommand) => return Ok(Outcome::Stop(Damage::Command(entry.index))),
                Err(MachineError::Engine(error)) => return Err(error.into()),
            }
        }
        round.commands += round.results.len() as u64;
        Ok(Outcome::Replies)
    }

    fn apply_admin(
        &mut self,
        shared: &Shared,
        round: &mut Round,
        entry: &Entry,
        epoch: RegionEpoch,
        command: AdminCommand,
    ) -> Result<Outcome, StoreError> {
        // These end what an earlier entry began, and name it.
        let command = match command {
            AdminCommand::CommitMerge(commit) => return self.apply_commit(shared, round, commit),
            AdminCommand::RollbackMerge(source, expected) => {
                return Ok(self.apply_rollback(round, source, expected));
            }
            command => command,
        };
        if epoch != self.region.epoch {
            return Ok(Outcome::Refused(RequestError::EpochNotMatch(vec![(*self.region).clone()])));
        }
        let may_change = match (self.merge.as_deref(), &command) {
            (None, _) => true,
            (Some(MergeState::Expecting(_)), command) => *command == AdminCommand::VoidMerge,
            (Some(MergeState::Prepared(_)), command) => {
                planted!(RollbackAfterPrepare) && *command == AdminCommand::VoidMerge
            }
        };
        if !may_change {
            return Ok(Outcome::Refused(RequestError::Merging(self.region.id)));
        }
        match command {
            AdminCommand::ExpectMerge(source) => Ok(self.apply_expect(round, source)),
            AdminCommand::PrepareMerge(prepare) => Ok(self.apply_prepare(round, entry, &prepare)),
            AdminCommand::VoidMerge => Ok(self.apply_void(round)),
            AdminCommand::CommitMerge(_) | AdminCommand::RollbackMerge(..) => {
                Ok(Outcome::Stop(Damage::Command(entry.index)))
            }
            AdminCommand::Check => {
                self.is_checked = true;
                Ok(Outcome::Refused(RequestError::Stale))
            }
            AdminCommand::Split(parts, time_ms) => {
                let Some(regions) = split_regions(&self.region, &parts) else {
                    return Ok(Outcome::Refused(RequestError::Refused("split does not fit the region")));
                };
                let all = regions.clone();
                let living = apply_split(shared, &mut round.batch, &self.region, regions)?;
                let living: Vec<_> = living.into_iter().map(Arc::new).collect();
                if let Some(remaining) = living.last() {
                    self.region = remaining.clone();
                }
                let (id, parts) = (self.region.id, &all[..all.len() - 1]);
                for part in living.iter().filter(|region| region.id != id) {
                    round.remember(shared, part.id, &RegionEvent::split_from(part, id, time_ms))?;
                }
                round.remember(shared, id, &RegionEvent::split(&self.region, parts, time_ms))?;
                shared.machine(self.region.space).on_region_change(&self.region);
                Ok(Outcome::Effect(Box::new(move |done| Effect::Split { regions: living, done })))
            }
        }
    }

    fn apply_membership(&mut self, shared: &Shared, round: &mut Round, change: ConfChangeV2) -> Outcome {
        if self.merge.is_some() {
            let error = RequestError::Merging(self.region.id);
            return Outcome::Effect(Box::new(move |done| Effect::MembershipRefused { done, error }));
        }
        match membership_after(&self.region, &change) {
            Ok(after) => {
                round.batch.put(&keys::region_state(after.id), &RegionState::Normal(after.clone()).encode());
                self.region = Arc::new(after);
                self.is_removed = self.region.peer(self.peer).is_none();
                shared.machine(self.region.space).on_region_change(&self.region);
                let region = self.region.clone();
                Outcome::Effect(Box::new(move |done| Effect::Membership { change, region, done }))
            }
            Err(error) => Outcome::Effect(Box::new(move |done| Effect::MembershipRefused { done, error })),
        }
    }
}

/// Stages the answers to an entry's callers.
fn answer(round: &mut Round, callers: Option<Callers>, outcome: Outcome, effects: &mut Vec<Effect>) {
    match (outcome, callers) {
        (Outcome::Effect(effect), callers) => {
            let done = match callers {
                Some(Callers::Admin(done)) => Some(done),
                other => {
                    round.fail_optional(other, &RequestError::Undetermined);
                    None
                }
            };
            effects.push(effect(done));
        }
        (Outcome::Replies, Some(Callers::Writes(writes))) => {
            assert_eq!(round.results.len(), writes.len(), "a caller per command");
            let pairs = writes.into_iter().zip(round.results.drain(..));
            round.replies.extend(pairs.map(|((done, quota), result)| Reply::Write(done, quota, result)));
        }
        (Outcome::Refused(error), Some(callers)) => round.fail(callers, &error),
        (_, callers) => {
            round.results.clear();
            round.fail_optional(callers, &RequestError::Stale);
        }
    }
}
