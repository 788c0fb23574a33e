//! Installing a snapshot (rule W7): flush, one atomic ingestion, then one synced log batch, only then an answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_engine::SstFile;
use flotilla_region::{PeerId, Region, RegionId, keys};

use super::{Applier, ApplyWorker};
use crate::error::StoreError;
use crate::msg::{InstallSnapshot, LogMsg};
use crate::state::{LogId, RegionState};

impl ApplyWorker {
    /// Everything applied before is written (the caller saw to it); the region's applier is this worker's, so nothing
    /// of the region is applied meanwhile.
    pub(super) fn on_install(&mut self, install: InstallSnapshot) -> Result<(), StoreError> {
        let InstallSnapshot {
            region,
            peer,
            incarnation,
            meta,
            merge,
            mut files,
            swallowed,
            history,
            mut log,
        } = install;
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
        let mut records = BTreeMap::from([
            (keys::region_state(region.id), RegionState::Normal(region.clone()).encode()),
            (keys::apply_state(region.id), applied.encode().to_vec()),
        ]);
        if let Some(state) = &merge {
            records.insert(keys::merge_state(region.id), state.encode());
        }
        if !history.is_empty() {
            records.insert(keys::history(region.id), history.to_vec());
        }
        let mut gone = vec![region.id];
        for id in swallowed {
            let Some(old) = self.swallow(id, &region, &mut records, &mut all)? else { continue };
            log.swallowed.push(old);
            gone.push(id);
        }
        all.append(&mut files);
        for id in gone {
            // Swallowed regions have no positions any more.
            let from = if id == region.id { keys::merge_state(id) } else { keys::apply_state(id) };
            let mut clearing = self.shared.engine.sst_writer()?;
            clearing.clear(&from, &keys::data_region_end(id))?;
            all.push(clearing.finish()?);
        }
        let mut states = self.shared.engine.sst_writer()?;
        for (key, record) in &records {
            states.put(key, record)?;
        }
        all.push(states.finish()?);
        self.shared.engine.ingest(all)?;
        self.shared.dirty.lock().insert((region.id, peer), applied);
        let region = Arc::new(region);
        self.appliers.insert(region.id, Applier::new(region, peer, incarnation, applied, merge));
        self.shared.links.log.send(LogMsg::Tasks(vec![log]));
        Ok(())
    }

    /// A retired region that became part of the snapshot's: its data goes, and its tombstone comes.
    fn swallow(
        &self,
        id: RegionId,
        target: &Region,
        records: &mut BTreeMap<[u8; 10], Vec<u8>>,
        files: &mut Vec<SstFile>,
    ) -> Result<Option<(RegionId, PeerId)>, StoreError> {
        let key = keys::region_state(id);
        let stored = self.shared.engine.get(&key)?.and_then(RegionState::decode);
        let Some(RegionState::Normal(old)) = stored else { return Ok(None) };
        let peer = old.peer_on(self.shared.origin.store).map(|p| p.id).unwrap_or_default();
        let (start, end) = keys::data_bounds(old.space, &old.range);
        let mut clearing = self.shared.engine.sst_writer()?;
        clearing.clear(&start, &end)?;
        files.push(clearing.finish()?);
        tracing::info!(region = id.0, target = target.id.0, "region gives way to a snapshot of its target");
        let merged = Some((target.id, target.epoch.version));
        records.insert(key, RegionState::tombstone(peer, &old, merged).encode());
        Ok(Some((id, peer)))
    }
}
