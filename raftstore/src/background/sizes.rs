//! Size checks: which led regions have outgrown the limit, and where to cut them.
//!
//! The engine's estimate comes first; keys are scanned only near the limit.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_region::{RegionId, Space, keys};

use super::BackgroundMsg;
use crate::mailbox::Address;
use crate::msg::{AdminCommand, AdminRequest, PeerStatus, RaftMsg};
use crate::placement::PlacementMsg;
use crate::shared::Shared;

/// A region is looked at again when it has written this fraction of the limit.
const LOOK_AGAIN_DIVISOR: u64 = 16;

/// What was seen at the last look.
#[derive(Default)]
pub(super) struct Sizes {
    /// Bytes written by a region when it was last looked at.
    looked_at: BTreeMap<RegionId, u64>,
}

impl Sizes {
    /// Asks every raft worker for its peers.
    pub(super) fn ask(&self, shared: &Shared, address: &Address<BackgroundMsg>) {
        for worker in &shared.links.raft {
            let back = address.clone();
            worker.send(RaftMsg::Inspect(Box::new(move |list| back.send(BackgroundMsg::Statuses(list)))));
        }
    }

    /// Looks at the led regions among `statuses`; splits what is too large.
    pub(super) fn check(&mut self, shared: &Arc<Shared>, statuses: Vec<PeerStatus>) {
        let limit = shared.config.split_bytes;
        let mut sizes = Vec::new();
        for status in statuses {
            let id = status.region.id;
            if !status.is_leader {
                self.looked_at.remove(&id);
                continue;
            }
            let new = self.looked_at.get(&id).copied();
            let grown = status.written_bytes.saturating_sub(new.unwrap_or(0));
            let step = (limit / LOOK_AGAIN_DIVISOR).max(1);
            if new.is_some_and(|seen| seen <= status.written_bytes) && grown < step {
                continue;
            }
            self.looked_at.insert(id, status.written_bytes);
            let (start, end) = keys::data_bounds(status.region.space, &status.region.range);
            let bytes = shared.engine.approximate_bytes(&start, &end);
            sizes.push((id, bytes));
            let splittable = status.region.space == Space::User && id != RegionId::SENTINEL;
            if limit > 0 && splittable && bytes > limit {
                self.split(shared, &status);
            }
        }
        if !sizes.is_empty() {
            shared.links.placement.send(PlacementMsg::Sizes(sizes));
        }
    }

    fn split(&mut self, shared: &Arc<Shared>, status: &PeerStatus) {
        let region = &status.region;
        let snapshot = shared.engine.snapshot();
        let (target, most) = (shared.config.split_bytes * 2 / 3, shared.config.split_keys_max);
        let keys = shared.machine(region.space).split_keys(region, &*snapshot, target.max(1), most);
        if keys.is_empty() {
            return;
        }
        // The next look is a fresh one: what remains may still be too large.
        self.looked_at.remove(&region.id);
        shared.links.raft_of(region.id).send(RaftMsg::Admin(AdminRequest {
            region: region.id,
            epoch: Some(region.epoch),
            command: AdminCommand::Split { keys },
            done: Box::new(|_| {}),
        }));
    }
}
