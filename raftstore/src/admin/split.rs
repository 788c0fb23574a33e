//! Split: one entry cuts a region into n + 1; the rightmost part keeps the id, so that appends at the end of the key
//! space stay with their leader.
//!
//! All new descriptors, and the apply states at which the children's logs begin, change in one `data` batch (rule W5);
//! nothing is written to `log`: a child without a hard state *is* (term 5, commit 5, no vote).

use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::{Engine, WriteBatch};
use flotilla_raft::Entry;
use flotilla_region::{
    INIT_LOG_INDEX, INIT_LOG_TERM, KeyRange, Peer as PeerInfo, PeerId, Region, RegionEpoch, RegionId, Space,
    keys,
};

use crate::entry::{AdminCommand, Payload, SplitPart, encode_admin};
use crate::error::RequestError;
use crate::msg::{AdminDone, Callers, CreatePeer, RaftMsg};
use crate::peer::log::PeerLog;
use crate::peer::{Peer, Phase};
use crate::placement::PlacementMsg;
use crate::shared::{Counters, Shared};
use crate::state::{LogId, RegionState, decode_entry};
use crate::worker::Env;

/// Where the log of a new region begins.
pub(crate) const INIT_LOG: LogId = LogId { index: INIT_LOG_INDEX, term: INIT_LOG_TERM };

impl Peer {
    /// Checks and proposes a split at `keys`.
    pub(crate) fn propose_split(&mut self, keys: Vec<Bytes>, done: AdminDone, env: &mut Env) {
        if let Err(error) = check_split(&self.region, &keys) {
            return done(Err(error));
        }
        if self.is_in_merge() {
            return done(Err(RequestError::Merging(self.id())));
        }
        if self.split_in_flight() {
            return done(Err(RequestError::Refused("a split is under way")));
        }
        let peers = self.region.peers.len();
        let Some(mut ids) = env.shared.ids.lock().take_many(keys.len() * (1 + peers)) else {
            env.shared.links.placement.send(PlacementMsg::IdsLow);
            return done(Err(RequestError::Refused("no region ids at hand: try again")));
        };
        let parts = keys
            .into_iter()
            .map(|end_key| {
                let mut own = ids.drain(..=peers);
                let region = RegionId(own.next().unwrap_or_default());
                SplitPart { end_key, region, peers: own.map(PeerId).collect() }
            })
            .collect();
        // Commands gathered so far were checked against the present shape: they go first.
        self.propose_gathered(env);
        let time_ms = env.shared.clock.unix_ms();
        let data = encode_admin(self.region.epoch, &AdminCommand::Split(parts, time_ms));
        match self.propose(data, Callers::Admin(done), env.now) {
            Ok(()) => {
                self.pending_split = Some(self.node.last_index());
                if !planted!(ChildServedByParent) {
                    self.lease.suspend();
                }
                // The children's voters shall exist as soon as the children ask for votes.
                self.node.set_skip_commit_broadcast(false);
            }
            Err(callers) => callers.fail(&self.not_leader()),
        }
        env.shared.links.placement.send(PlacementMsg::IdsLow);
    }

    /// Whether a split is committed here and not applied yet though a child has a log: the store applied it in an earlier
    /// life. Only that split gives the child its data (rule W6): until then nothing may end this peer's log.
    pub(crate) fn has_child_to_bear(&self, env: &Env) -> bool {
        const PAGE_BYTES: u64 = 1024 * 1024;
        let commit = self.node.commit();
        let mut next = self.applied.index.next();
        while self.phase == Phase::Live && next <= commit {
            let page = self.node.entries(next, PAGE_BYTES).unwrap_or_default();
            let Some(last) = page.last() else { return true };
            let mut known = page.iter().take_while(|entry| entry.index <= commit);
            if known.any(|entry| has_log_of_child(entry, env)) {
                return true;
            }
            next = last.index.next();
        }
        false
    }

    /// The region was cut: the children start, callers learn the new shapes.
    pub(crate) fn on_split(&mut self, regions: Vec<Arc<Region>>, done: Option<AdminDone>, env: &mut Env) {
        let led = self.is_leader();
        // Before any entry of a child (rule W6).
        self.log_commit(env);
        self.lease.revoke(&env.shared.delegates, self.region.id);
        self.pending_split = None;
        env.shared.ranges.lock().split(&regions);
        for region in &regions {
            if region.id == self.region.id {
                self.region = region.clone();
            } else {
                let create = CreatePeer { region: region.clone(), campaign: led };
                env.tell(region.id, RaftMsg::Create(Box::new(create)));
            }
        }
        self.siblings = regions.iter().filter(|r| r.id != self.region.id).cloned().collect();
        self.refuse_gathered();
        self.load.reshape();
        self.written_bytes = 0;
        if led {
            Counters::add(&env.shared.counters.splits, 1);
        }
        if let Some(done) = done {
            done(Ok(regions.iter().map(|region| (**region).clone()).collect()));
        }
        self.recheck_reads(env);
    }
}

fn check_split(region: &Region, keys: &[Bytes]) -> Result<(), RequestError> {
    if region.space == Space::Meta || region.id == RegionId::SENTINEL {
        return Err(RequestError::Refused("the region is never split"));
    }
    if region.is_joint() {
        return Err(RequestError::Refused("membership is changing"));
    }
    if keys.is_empty() {
        return Err(RequestError::Refused("no split key"));
    }
    for (i, key) in keys.iter().enumerate() {
        if !region.range.contains(key) {
            let (region, range) = (region.id, region.range.clone());
            return Err(RequestError::KeyNotInRegion { key: key.clone(), region, range });
        }
        let low = if i == 0 { &region.range.start } else { &keys[i - 1] };
        if key <= low {
            return Err(RequestError::Refused(
                "split keys must ascend and be greater than the region's start",
            ));
        }
    }
    Ok(())
}

/// The regions that a split of `region` makes, the remaining one last; `None` if the command does not fit it.
pub(crate) fn split_regions(region: &Region, parts: &[SplitPart]) -> Option<Vec<Region>> {
    let version = region.epoch.version + parts.len() as u64;
    let epoch = RegionEpoch { version, ..region.epoch };
    let mut start = region.range.start.clone();
    let mut regions = Vec::with_capacity(parts.len() + 1);
    for part in parts {
        if part.peers.len() != region.peers.len()
            || part.end_key <= start
            || !region.range.contains(&part.end_key)
        {
            return None;
        }
        let peers =
            region.peers.iter().zip(&part.peers).map(|(old, id)| PeerInfo { id: *id, ..*old }).collect();
        let range = KeyRange { start, end: part.end_key.clone() };
        regions.push(Region { id: part.region, space: region.space, range, epoch, peers });
        start = part.end_key.clone();
    }
    let range = KeyRange { start, end: region.range.end.clone() };
    regions.push(Region { range, epoch, ..region.clone() });
    Some(regions)
}

/// Writes what a split changes. A child that this store has already seen removed is not brought back: its part of the
/// data goes instead. Returns the regions that live here.
///
/// # Errors
/// The disk failed.
pub(crate) fn apply_split(
    shared: &Shared,
    batch: &mut WriteBatch,
    parent: &Region,
    regions: Vec<Region>,
) -> Result<Vec<Region>, flotilla_engine::Error> {
    let mut living = Vec::with_capacity(regions.len());
    for region in regions {
        let key = keys::region_state(region.id);
        if region.id != parent.id {
            let stored = shared.engine.get(&key)?.and_then(RegionState::decode);
            // The child's peers by the split are the first that it ever had: whatever was removed here was they or
            // came after them.
            if matches!(stored, Some(RegionState::Tombstone { .. })) {
                let (start, end) = keys::data_bounds(region.space, &region.range);
                batch.delete_range(&start, &end);
                continue;
            }
            batch.put(&keys::apply_state(region.id), &INIT_LOG.encode());
            if planted!(ChildForgotten) {
                living.push(region);
                continue;
            }
        }
        batch.put(&key, &RegionState::Normal(region.clone()).encode());
        living.push(region);
    }
    Ok(living)
}

/// Whether `entry` is a split of which a child has a log here, or may have one.
fn has_log_of_child(entry: &Entry, env: &Env) -> bool {
    let Some(Payload::Admin { command: AdminCommand::Split(parts, _), .. }) =
        Payload::decode(entry.data.clone())
    else {
        return false;
    };
    let engine = &*env.shared.engine;
    let has_log =
        |region: RegionId, peer: &PeerId| PeerLog::has_entries(engine, region, *peer).unwrap_or(true);
    parts.iter().any(|part| part.peers.iter().any(|peer| has_log(part.region, peer)))
}

/// Peers that have a log on this disk and no data, though the log of this parent's peer gives them some: it is not going
/// to be applied any more. What cannot be read of that log tells nothing.
pub(crate) fn orphans(engine: &dyn Engine, parent: RegionId, peer: PeerId) -> Vec<(RegionId, PeerId)> {
    let mut children: Vec<(RegionId, PeerId)> = Vec::new();
    let (start, end) = keys::log_peer_bounds(parent, peer);
    let scanned = engine.log_scan(&start, &end, &mut |key, value| {
        if let Some(keys::LogKey::Entry(_, _, index)) = keys::parse_log_key(key)
            && let Some(entry) = decode_entry(index, Bytes::copy_from_slice(value))
            && let Some(Payload::Admin { command: AdminCommand::Split(parts, _), .. }) =
                Payload::decode(entry.data)
        {
            children.extend(parts.iter().flat_map(|part| part.peers.iter().map(|peer| (part.region, *peer))));
        }
        true
    });
    if let Err(error) = scanned {
        tracing::warn!(region = parent.0, %error, "log of a removed region cannot be read");
    }
    children.retain(|(region, peer)| {
        matches!(engine.get(&keys::region_state(*region)), Ok(None))
            && matches!(PeerLog::has_entries(engine, *region, *peer), Ok(true))
    });
    children
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_region::StoreId;

    fn region(start: &'static str, end: &'static str) -> Region {
        Region {
            id: RegionId(7),
            space: Space::User,
            range: KeyRange::new(start, end),
            epoch: RegionEpoch { conf_ver: 3, version: 5 },
            peers: vec![PeerInfo { id: PeerId(1), store: StoreId(1), ..PeerInfo::default() }],
        }
    }

    fn part(end: &'static str, id: u64) -> SplitPart {
        SplitPart { end_key: end.into(), region: RegionId(id), peers: vec![PeerId(id + 1)] }
    }

    #[test]
    fn the_parts_tile_the_parent_and_are_newer_than_it() {
        let parent = region("a", "z");
        let regions = split_regions(&parent, &[part("g", 20), part("m", 30)]).expect("fits");
        let ranges: Vec<_> = regions.iter().map(|r| (r.id.0, r.range.clone(), r.epoch.version)).collect();
        assert_eq!(ranges[0], (20, KeyRange::new("a", "g"), 7));
        assert_eq!(ranges[1], (30, KeyRange::new("g", "m"), 7));
        assert_eq!(ranges[2], (7, KeyRange::new("m", "z"), 7));
        assert!(split_regions(&parent, &[part("m", 20), part("g", 30)]).is_none(), "keys must ascend");
        assert!(split_regions(&parent, &[part("z", 20)]).is_none(), "keys must lie inside");
    }

    #[test]
    fn a_key_outside_or_at_the_start_is_refused() {
        let parent = region("a", "z");
        assert!(check_split(&parent, &["b".into(), "c".into()]).is_ok());
        assert!(check_split(&parent, &["a".into()]).is_err());
        assert!(check_split(&parent, &["z".into()]).is_err());
        assert!(check_split(&parent, &["c".into(), "c".into()]).is_err());
        assert!(check_split(&parent, &[]).is_err());
    }
}
