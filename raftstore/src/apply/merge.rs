//! What the steps of a merge change.

use std::sync::Arc;

use flotilla_engine::WriteBatch;
use flotilla_raft::Entry;
use flotilla_region::{Region, RegionEpoch, RegionId, keys};

use super::Round;
use super::applier::{Applier, Outcome};
use crate::admin::merge::{MergeState, Prepared, is_expected, merged_region, prepared_epoch};
use crate::entry::{CommitMerge, PrepareMerge};
use crate::error::{RequestError, StoreError};
use crate::history::RegionEvent;
use crate::msg::Effect;
use crate::shared::Shared;
use crate::state::{LogId, RegionState};

impl Applier {
    /// From now on the shape is frozen.
    pub(super) fn apply_expect(&mut self, round: &mut Round, source: Region) -> Outcome {
        self.set_merge(&mut round.batch, Some(MergeState::Expecting(source.clone())));
        Outcome::Effect(Box::new(move |done| Effect::Expecting { source, done }))
    }

    /// From now on nothing changes until the target takes over.
    pub(super) fn apply_prepare(
        &mut self,
        round: &mut Round,
        entry: &Entry,
        command: &PrepareMerge,
    ) -> Outcome {
        let at = LogId { index: entry.index, term: entry.term };
        let prepared = Prepared { target: command.target, at, data: entry.data.clone() };
        let epoch = prepared_epoch(self.region.epoch);
        self.set_region(&mut round.batch, Region { epoch, ..(*self.region).clone() });
        self.set_merge(&mut round.batch, Some(MergeState::Prepared(prepared.clone())));
        let region = (*self.region).clone();
        Outcome::Effect(Box::new(move |_| Effect::Prepared { region, prepared }))
    }

    /// The source's range, and with it its data, becomes this region's. Descriptor, tombstone and states change in the
    /// round's one batch (rule W5); the raft workers saw to it that the source is applied up to its end.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn apply_commit(
        &mut self,
        shared: &Shared,
        round: &mut Round,
        commit: CommitMerge,
    ) -> Result<Outcome, StoreError> {
        let CommitMerge { source, at, time_ms, .. } = commit;
        let expected = match self.merge.as_deref() {
            Some(MergeState::Expecting(expected)) => is_expected(expected, &source),
            _ => false,
        };
        let Some(merged) = merged_region(&self.region, &source).filter(|_| expected) else {
            return Ok(Outcome::Refused(RequestError::Refused("the merge is over")));
        };
        if !planted!(MergeBeforeCaughtUp) {
            check_caught_up(shared, &source, at)?;
        }
        self.set_region(&mut round.batch, merged);
        self.set_merge(&mut round.batch, None);
        let peer = source.peer_on(shared.origin.store).map(|p| p.id).unwrap_or_default();
        let merged = Some((self.region.id, self.region.epoch.version));
        let tombstone = RegionState::tombstone(peer, &source, merged);
        round.batch.put(&keys::region_state(source.id), &tombstone.encode());
        round.batch.delete(&keys::apply_state(source.id));
        round.batch.delete(&keys::merge_state(source.id));
        round.batch.delete(&keys::history(source.id));
        let event = RegionEvent::merged(&self.region, &source, time_ms);
        round.remember(shared, self.region.id, &event)?;
        shared.machine(self.region.space).on_region_change(&self.region);
        let region = (*self.region).clone();
        Ok(Outcome::Effect(Box::new(move |_| Effect::Merged { region, source })))
    }

    /// The expected source has another fate.
    pub(super) fn apply_rollback(
        &mut self,
        round: &mut Round,
        source: RegionId,
        epoch: RegionEpoch,
    ) -> Outcome {
        match self.merge.as_deref() {
            Some(MergeState::Expecting(expected)) if (expected.id, expected.epoch) == (source, epoch) => {
                self.set_merge(&mut round.batch, None);
                Outcome::Effect(Box::new(|_| Effect::RolledBack))
            }
            _ => Outcome::Refused(RequestError::Refused("the merge is over")),
        }
    }

    /// Whoever expects the present shape expects it no more.
    pub(super) fn apply_void(&mut self, round: &mut Round) -> Outcome {
        let RegionEpoch { conf_ver, version } = self.region.epoch;
        let epoch = RegionEpoch { conf_ver, version: version + 1 };
        if planted!(RollbackAfterPrepare) && matches!(self.merge.as_deref(), Some(MergeState::Prepared(_))) {
            self.set_merge(&mut round.batch, None);
        }
        self.set_region(&mut round.batch, Region { epoch, ..(*self.region).clone() });
        let region = (*self.region).clone();
        Outcome::Effect(Box::new(move |_| Effect::Voided { region }))
    }

    fn set_region(&mut self, batch: &mut WriteBatch, region: Region) {
        batch.put(&keys::region_state(region.id), &RegionState::Normal(region.clone()).encode());
        self.region = Arc::new(region);
    }

    fn set_merge(&mut self, batch: &mut WriteBatch, state: Option<MergeState>) {
        let key = keys::merge_state(self.region.id);
        match &state {
            Some(state) => batch.put(&key, &state.encode()),
            None => batch.delete(&key),
        }
        self.merge = state.map(Box::new);
    }
}

/// Asserts that what is about to be taken over is whole (trap T14).
fn check_caught_up(shared: &Shared, source: &Region, at: LogId) -> Result<(), StoreError> {
    let state = shared.engine.get(&keys::merge_state(source.id))?.and_then(MergeState::decode);
    // Its worker gave it its own record when it retired.
    let applied = shared.engine.get(&keys::apply_state(source.id))?.and_then(LogId::decode);
    let is_final = matches!(&state, Some(MergeState::Prepared(prepared)) if prepared.at == at);
    let is_whole = is_final && applied.is_some_and(|applied| applied.index >= at.index);
    assert!(is_whole, "region {} is merged at {at:?} but applied at {applied:?}", source.id);
    Ok(())
}
