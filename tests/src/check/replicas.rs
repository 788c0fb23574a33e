//! Replica agreement (PITFALLS.md I8): the content of a region follows from its applied index alone, so two replicas
//! at the same index have the same content. Descriptor, apply state and data are read from one view (rule W1).

use std::collections::BTreeMap;

use flotilla_engine::EngineSnapshot;
use flotilla_raftstore::{RegionState, positions};
use flotilla_region::{Region, StoreId, keys};

/// Content hashes by (region, applied index), with where they were seen first.
#[derive(Default)]
pub struct Replicas {
    seen: BTreeMap<(u64, u64), (StoreId, u32)>,
}

impl Replicas {
    /// Checks one replica of one region.
    ///
    /// # Errors
    /// A sentence that names two replicas that differ.
    pub fn check(
        &mut self,
        store: StoreId,
        region: &Region,
        view: &dyn EngineSnapshot,
    ) -> Result<(), String> {
        let me = region.peer_on(store).map(|me| me.id).unwrap_or_default();
        let Ok(Some(applied)) = positions::applied(view, region.id, me) else {
            return Err(format!("region {} on store {store} has no apply state", region.id));
        };
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&RegionState::Normal(region.clone()).encode());
        hasher.update(&applied.term.0.to_le_bytes());
        let (start, end) = keys::data_bounds(region.space, &region.range);
        let scanned = view.scan(&start, &end, &mut |key, value| {
            hasher.update(&(key.len() as u32).to_le_bytes());
            hasher.update(key);
            hasher.update(&(value.len() as u32).to_le_bytes());
            hasher.update(value);
            true
        });
        if scanned.is_err() {
            return Ok(());
        }
        let hash = hasher.finalize();
        let first = *self.seen.entry((region.id.0, applied.index.0)).or_insert((store, hash));
        if first.1 != hash {
            return Err(format!(
                "replicas of region {} differ at applied index {}: stores {} and {store}",
                region.id, applied.index.0, first.0
            ));
        }
        Ok(())
    }
}
