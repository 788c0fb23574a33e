//! Installing a snapshot (rule W7): flush, one atomic ingestion, then one synced log batch, only then an answer.

use std::sync::Arc;

use flotilla_region::keys;

use super::{Applier, ApplyWorker};
use crate::error::StoreError;
use crate::msg::{InstallSnapshot, LogMsg};
use crate::state::{LogId, RegionState};

impl ApplyWorker {
    /// Everything applied before is written (the caller saw to it); the region's applier is this worker's, so nothing
    /// of the region is applied meanwhile.
    pub(super) fn on_install(&mut self, install: InstallSnapshot) -> Result<(), StoreError> {
        let InstallSnapshot { region, peer, incarnation, meta, mut files, log } = install;
        let applied = LogId { index: meta.index, term: meta.term };
        self.shared.engine.flush()?;
        let mut all = Vec::with_capacity(files.len() + 2);
        if let Some(old) = self.appliers.get(&region.id) {
            // What the region had beyond its new range is no longer its own. First in the list, so that it hides
            // nothing of the snapshot.
            let (start, end) = keys::data_bounds(old.region.space, &old.region.range);
            let mut clearing = self.shared.engine.sst_writer()?;
            clearing.clear(&start, &end)?;
            all.push(clearing.finish()?);
        }
        all.append(&mut files);
        let mut states = self.shared.engine.sst_writer()?;
        states.put(&keys::region_state(region.id), &RegionState::Normal(region.clone()).encode())?;
        states.put(&keys::apply_state(region.id), &applied.encode())?;
        all.push(states.finish()?);
        self.shared.engine.ingest(all)?;
        self.shared.dirty.lock().insert((region.id, peer), applied);
        let region = Arc::new(region);
        self.appliers.insert(region.id, Applier::new(region, peer, incarnation, applied));
        self.shared.links.log.send(LogMsg::Task(log));
        Ok(())
    }
}
