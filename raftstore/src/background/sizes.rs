//! Size checks: which led regions have outgrown a limit, of bytes or of keys, and where to cut them.
//!
//! The engine's estimate comes first; keys are scanned only near a limit.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_engine::Size;
use flotilla_region::{RegionId, Space, keys};

use super::BackgroundMsg;
use crate::msg::{AdminCommand, AdminRequest, PeerStatus, RaftMsg};
use crate::placement::{PlacementMsg, RegionSize};
use crate::shared::Shared;
use crate::time::Time;

/// A region is looked at again when it has written this fraction of the limit.
const LOOK_AGAIN_DIVISOR: u64 = 16;

/// So many checks look at all regions once, and as many times as many as there are thousands of regions.
const ASK_ALL: u64 = 30;
const ASK_ALL_REGIONS: u64 = 1_000;

/// A region is hot that writes this fraction of the limit between two checks.
const HOT_DIVISOR: u64 = 1_024;

/// What was seen of a region.
#[derive(Clone, Copy)]
struct Seen {
    /// Its version when it was last looked at.
    version: u64,
    /// Bytes it had written when it was last looked at.
    looked_at: u64,
    /// Bytes it had written at the last check.
    written: u64,
    size: Size,
    is_hot: bool,
}

/// What was seen of the regions led here.
#[derive(Default)]
pub(super) struct Sizes {
    seen: BTreeMap<RegionId, Seen>,
    /// Checks until all regions are asked for.
    until_all: u64,
}

impl Sizes {
    /// Asks every raft worker for its peers to which something happened, and now and then for all of them.
    pub(super) fn ask(&mut self, shared: &Shared) {
        let all = self.until_all == 0;
        self.until_all = self.until_all.checked_sub(1).unwrap_or_else(|| {
            let thousands = (shared.ranges.lock().count() as u64 / ASK_ALL_REGIONS).max(1);
            ASK_ALL * thousands - 1
        });
        for worker in &shared.links.raft {
            let back = shared.links.background.clone();
            let tell = Box::new(move |list| back.send(BackgroundMsg::Statuses(list)));
            worker.send(if all { RaftMsg::Inspect(tell) } else { RaftMsg::InspectRecent(tell) });
        }
    }

    /// Looks at the led regions among `statuses`; splits what is too large.
    pub(super) fn check(&mut self, shared: &Arc<Shared>, statuses: Vec<PeerStatus>, now: Time) {
        let limit = shared.config.split_bytes;
        let mut sizes = Vec::new();
        for status in statuses {
            let id = status.region.id;
            if !status.is_leader {
                self.seen.remove(&id);
                continue;
            }
            let (version, written) = (status.region.epoch.version, status.written_bytes);
            let known = self.seen.get_mut(&id).filter(|k| k.version == version && k.looked_at <= written);
            let step = (limit / LOOK_AGAIN_DIVISOR).max(1);
            let is_hot = limit > 0
                && known.as_ref().is_some_and(|known| written - known.written > limit / HOT_DIVISOR);
            if let Some(known) = known.filter(|known| written - known.looked_at < step) {
                known.written = written;
                known.is_hot = is_hot;
                // Told again each time: placement may not have known then that the region is led here.
                sizes.push(RegionSize { region: id, version, size: known.size, is_hot });
                continue;
            }
            let (start, end) = keys::data_bounds(status.region.space, &status.region.range);
            let found = shared.engine.approximate_size(&start, &end);
            // Nothing at all is a size, too.
            let size = Size { bytes: found.bytes.max(1), ..found };
            self.seen.insert(id, Seen { version, looked_at: written, written, size, is_hot });
            sizes.push(RegionSize { region: id, version, size, is_hot });
            let splittable = status.region.space == Space::User && id != RegionId::SENTINEL;
            let is_large = limit > 0 && found.bytes > limit;
            let has_many = shared.config.split_keys > 0 && found.keys > shared.config.split_keys;
            if splittable && (is_large || has_many) {
                self.split(shared, &status, found.bytes, now);
            }
        }
        if !sizes.is_empty() {
            shared.links.placement.send(PlacementMsg::Sizes(sizes));
        }
    }

    fn split(&mut self, shared: &Arc<Shared>, status: &PeerStatus, bytes: u64, now: Time) {
        let region = &status.region;
        let snapshot = shared.engine.snapshot();
        let most = shared.config.split_keys_max;
        let (piece, pair) = piece(shared.config.split_bytes, shared.config.split_keys);
        let keys = shared.machine(region.space).split_keys(region, &*snapshot, piece, pair, most);
        if keys.is_empty() {
            return;
        }
        // The next look is a fresh one: what remains may still be too large.
        self.seen.remove(&region.id);
        let busy_bytes = shared.config.split_busy_bytes;
        if busy_bytes > 0 && bytes >= busy_bytes {
            // Until the split is there, or the next look but one: what cannot be cut must not refuse writes for ever.
            let until = now.plus_ms(2 * shared.config.split_check_ms);
            let (region, version) = (region.id, region.epoch.version);
            tracing::warn!(region = region.0, bytes, "region takes no writes until it is split");
            shared.links.raft_of(region).send(RaftMsg::Crowded { region, version, until });
        }
        shared.links.raft_of(region.id).send(RaftMsg::Admin(AdminRequest {
            region: region.id,
            epoch: Some(region.epoch),
            command: AdminCommand::Split { keys },
            done: Box::new(|_| {}),
        }));
    }
}

/// Size of a piece, two thirds of a region's limits, and what a pair counts as at least. A limit of 0 is none.
fn piece(bytes_max: u64, keys_max: u64) -> (u64, u64) {
    let keys = keys_max * 2 / 3;
    let bytes = if bytes_max > 0 { bytes_max * 2 / 3 } else { keys << PAIR_BITS };
    (bytes.max(1), bytes.checked_div(keys).unwrap_or(0))
}

/// Where only the number of keys counts, no pair is larger than two to this power.
const PAIR_BITS: u32 = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_has_two_thirds_of_either_limit() {
        assert_eq!(piece(96 << 20, 0), (64 << 20, 0));
        let (bytes, pair) = piece(96 << 20, 960_000);
        assert_eq!((bytes, bytes / pair), (64 << 20, 645_277));
        let (bytes, pair) = piece(0, 300);
        assert_eq!((bytes / pair, pair), (200, 1 << 24));
    }
}
