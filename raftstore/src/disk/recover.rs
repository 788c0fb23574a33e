//! What is left of regions whose quorum is lost, and how to go on with it.
//!
//! Of the replicas that survive, one becomes its region's only member: the one with the newest shape, and of those the
//! one with the longest log. It keeps all that it has, entries included of which nobody can tell any more whether they
//! were committed. Whatever only the lost replicas had is lost. The other survivors are removed, and placement fills
//! the region up again. A lost store must never come back with its old disk: it would still believe in the old group.
//!
//! The plan follows from what all surviving stores say, so that it is the same wherever it is made. (TiKV's
//! `unsafe-recover remove-fail-stores` is the idea; it leaves it to the operator that all stores are told the same.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::{Engine, WriteBatch};
use flotilla_raft::EntryKind;
use flotilla_region::{
    Index, KeyRange, Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, Space, StoreId, keys,
};

use super::{LocalRegion, regions, scan_log};
use crate::config::StoreConfig;
use crate::entry::{AdminCommand, Payload};
use crate::error::StoreError;
use crate::machine::StateMachine;
use crate::state::{LogId, RegionState};
use crate::store::{Seams, Store};
use crate::time::Clock;
use crate::transport::{StreamId, Transport};
use crate::wire::{StoreFrame, pb};

/// A replica that survives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    /// Its store.
    pub store: StoreId,
    /// Its peer id.
    pub peer: PeerId,
    /// The region as the replica knows it.
    pub region: Region,
    /// What it has applied.
    pub applied: LogId,
    /// The end of its log.
    pub last: LogId,
    /// What it knows to be committed.
    pub commit: Index,
    /// Position of a split in its log that is not applied and will be refused: what was written after it is lost.
    pub split_at: Option<Index>,
    /// It is damaged: no region can go on with it, alone or with others.
    pub is_unusable: bool,
    /// It is in the middle of a merge, which cannot be cut short: a member as good as any other, but no region can go on
    /// with it alone.
    pub is_merging: bool,
}

/// A region that goes on with one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The replica.
    pub survivor: Survivor,
    /// The region as it will be.
    pub after: Region,
    /// Members that are lost.
    pub lost: Vec<Peer>,
}

/// What is to be done, and what cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Regions that go on with one replica.
    pub keep: Vec<Kept>,
    /// Replicas that are removed, with the epoch of the region that goes on without them.
    pub bury: Vec<(Survivor, RegionEpoch)>,
    /// Regions that have lost their quorum and cannot be helped, with the reason.
    pub refused: Vec<(RegionId, String)>,
    /// Regions that still have a quorum.
    pub healthy: usize,
    /// Keys that no surviving replica covers: they are lost, as far as all surviving stores were asked.
    pub gaps: Vec<(Space, KeyRange)>,
}

/// A store that hears nobody.
struct Nowhere;

impl Transport for Nowhere {
    fn send(&self, _: StoreId, _: StoreFrame) {}
    fn snapshot_open(&self, _: StreamId, _: StoreId, _: pb::SnapshotChunk) {}
    fn snapshot_send(&self, _: StreamId, _: pb::SnapshotChunk) {}
    fn snapshot_close(&self, _: StreamId) {}
}

/// Applies what a stopped store's log is known to have committed and its data lost at the stop, as the next start would.
/// A split among it would be impossible later, and what was written after it lost.
///
/// # Errors
/// As [`Store::open`].
pub fn replay(
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Clock>,
    machine: Arc<dyn StateMachine>,
) -> Result<(), StoreError> {
    let seams = Seams {
        engine: engine.clone(),
        transport: Arc::new(Nowhere),
        clock: clock.clone(),
        machine,
        fatal: Arc::new(|error| tracing::error!(%error, "replay ends")),
    };
    let (store, mut workers) = Store::open(StoreConfig::default(), seams)?;
    loop {
        let mut is_busy = false;
        for worker in &mut workers.turns {
            is_busy |= worker.turn(clock.now()) || worker.has_messages();
        }
        if store.has_failed() {
            return Err(StoreError::Damaged("log"));
        }
        if !is_busy {
            break;
        }
    }
    Ok(engine.flush()?)
}

/// Replicas on a stopped store's disk.
///
/// # Errors
/// The disk is no store's, or I/O.
pub fn survivors(engine: &dyn Engine) -> Result<Vec<Survivor>, StoreError> {
    let store = Store::ident(engine)?.ok_or(StoreError::Uninitialised)?.store;
    let mut found = Vec::new();
    for local in regions(engine)? {
        if let Some(mut survivor) = survivor(store, &local) {
            survivor.split_at = split_after(engine, &survivor)?;
            found.push(survivor);
        }
    }
    Ok(found)
}

/// The first split behind what is applied. A region of one replica cannot make it: it names peers for all members.
fn split_after(engine: &dyn Engine, survivor: &Survivor) -> Result<Option<Index>, StoreError> {
    let mut found = None;
    let range = (survivor.applied.index.next(), Index(u64::MAX));
    let read = scan_log(engine, survivor.region.id, survivor.peer, range, &mut |entry| {
        let command = match Payload::decode(entry.data) {
            Some(Payload::Admin { command, .. }) if entry.kind == EntryKind::Normal => command,
            _ => return,
        };
        if matches!(command, AdminCommand::Split(..)) && found.is_none() {
            found = Some(entry.index);
        }
    })?;
    // Damage makes the survivor unusable already.
    Ok(read.ok().and(found))
}

fn survivor(store: StoreId, local: &LocalRegion) -> Option<Survivor> {
    let region = local.region()?.clone();
    let peer = region.peer_on(store)?.id;
    let applied = local.applied.clone().ok().flatten();
    let log = local.logs.iter().find(|log| log.peer == peer);
    let is_damaged = log.is_some_and(|log| log.damage.is_some());
    let is_quarantined = local.quarantine.as_ref().is_some_and(|(bad, _)| *bad == peer);
    let at = applied.unwrap_or_default();
    Some(Survivor {
        store,
        peer,
        region,
        applied: at,
        // What does not continue what is applied is cut at the next start (rule W8).
        last: log
            .map(|log| log.last)
            .filter(|last| (last.term, last.index) > (at.term, at.index))
            .unwrap_or(at),
        commit: log.and_then(|log| log.hard_state).map_or(at.index, |state| state.commit.max(at.index)),
        split_at: None,
        is_unusable: is_damaged || is_quarantined || applied.is_none(),
        is_merging: local.is_merging,
    })
}

/// Decides what to do when the stores `failed` will never come back. `stores` are those that were asked.
pub fn plan(survivors: &[Survivor], stores: &BTreeSet<StoreId>, failed: &BTreeSet<StoreId>) -> Plan {
    let mut by_region: BTreeMap<RegionId, Vec<&Survivor>> = BTreeMap::new();
    for survivor in survivors.iter().filter(|s| !failed.contains(&s.store)) {
        by_region.entry(survivor.region.id).or_default().push(survivor);
    }
    let mut plan = Plan::default();
    let mut shapes: Vec<Region> = Vec::new();
    for (id, replicas) in by_region {
        match judge(&replicas, stores, failed) {
            Verdict::Healthy(region) => {
                plan.healthy += 1;
                shapes.push(region);
            }
            Verdict::Refused(region, why) => {
                plan.refused.push((id, why));
                shapes.push(region);
            }
            Verdict::Keep(kept) => {
                shapes.push(kept.after.clone());
                let others = replicas.iter().filter(|s| s.store != kept.survivor.store);
                plan.bury.extend(others.map(|s| ((*s).clone(), kept.after.epoch)));
                plan.keep.push(*kept);
            }
        }
    }
    refuse_overlaps(&mut plan, &shapes);
    plan.gaps = gaps(&shapes);
    plan
}

enum Verdict {
    Healthy(Region),
    Keep(Box<Kept>),
    Refused(Region, String),
}

fn judge(replicas: &[&Survivor], stores: &BTreeSet<StoreId>, failed: &BTreeSet<StoreId>) -> Verdict {
    let age = |s: &&&Survivor| (s.region.epoch.version, s.region.epoch.conf_ver, s.last.term, s.last.index);
    let Some(newest) = replicas.iter().max_by_key(age) else { unreachable!("a region of no replica") };
    let region = &newest.region;
    let is_live = |peer: &Peer| {
        let here = replicas.iter().any(|s| s.peer == peer.id && s.store == peer.store && !s.is_unusable);
        let is_unknown = !failed.contains(&peer.store) && !stores.contains(&peer.store);
        here || is_unknown
    };
    if region.has_quorum(is_live) {
        return Verdict::Healthy(region.clone());
    }
    if let Some(peer) = region.peers.iter().find(|p| !failed.contains(&p.store) && !stores.contains(&p.store))
    {
        let why = format!("store {} has a replica: say that it failed, or let it speak", peer.store);
        return Verdict::Refused(region.clone(), why);
    }
    let votes = |s: &Survivor| s.region.peer(s.peer).is_some_and(|me| me.role != PeerRole::Learner);
    let is_usable = |s: &Survivor| !s.is_unusable && !s.is_merging;
    let best_of =
        |voters: bool| replicas.iter().filter(|s| is_usable(s) && (!voters || votes(s))).max_by_key(age);
    let best = best_of(true).or_else(|| best_of(false));
    let Some(best) = best else {
        return Verdict::Refused(region.clone(), "no replica is left that can be used".to_owned());
    };
    let has_more = |s: &&&Survivor| s.is_merging && !s.is_unusable && age(s) > age(&best);
    if let Some(merging) = replicas.iter().find(has_more) {
        let why = format!(
            "store {} has more of it than the others, and is in the middle of a merge",
            merging.store
        );
        return Verdict::Refused(region.clone(), why);
    }
    let conf_ver = replicas.iter().map(|s| s.region.epoch.conf_ver).max().unwrap_or(0);
    let after = Region {
        // Newer than whatever the lost replicas may still believe. The version stays: commands of the log that are not
        // applied yet were checked against it.
        epoch: RegionEpoch {
            conf_ver: conf_ver + region.peers.len() as u64 + 1,
            version: best.region.epoch.version,
        },
        peers: vec![Peer { id: best.peer, store: best.store, role: PeerRole::Voter }],
        ..best.region.clone()
    };
    let lost = region.peers.iter().filter(|p| failed.contains(&p.store)).copied().collect();
    Verdict::Keep(Box::new(Kept { survivor: (**best).clone(), after, lost }))
}

/// A survivor that has missed a split or a merge still has keys that another region has by now.
fn refuse_overlaps(plan: &mut Plan, shapes: &[Region]) {
    let overlaps = |kept: &Kept| {
        let after = &kept.after;
        shapes
            .iter()
            .find(|r| r.id != after.id && r.space == after.space && r.range.overlaps(&after.range))
            .map(|other| other.id)
    };
    let (keep, bad): (Vec<_>, Vec<_>) = std::mem::take(&mut plan.keep)
        .into_iter()
        .map(|kept| (overlaps(&kept), kept))
        .partition(|k| k.0.is_none());
    plan.keep = keep.into_iter().map(|(_, kept)| kept).collect();
    for (other, kept) in bad {
        let id = kept.after.id;
        plan.bury.retain(|(buried, _)| buried.region.id != id);
        let other = other.unwrap_or_default();
        plan.refused.push((id, format!("its survivor has not applied what made region {other} of its keys")));
    }
}

fn gaps(shapes: &[Region]) -> Vec<(Space, KeyRange)> {
    let mut found = Vec::new();
    for space in [Space::User, Space::Meta] {
        let mut ranges: Vec<&KeyRange> =
            shapes.iter().filter(|r| r.space == space).map(|r| &r.range).collect();
        ranges.sort_by(|a, b| a.start.cmp(&b.start));
        // End of what is covered so far; `None` = everything.
        let mut covered = Some(Bytes::new());
        for range in ranges {
            let Some(end) = covered.clone() else { break };
            if range.start > end {
                found.push((space, KeyRange { start: end.clone(), end: range.start.clone() }));
            }
            covered = if range.end.is_empty() { None } else { Some(range.end.clone().max(end)) };
        }
        if let Some(end) = covered {
            found.push((space, KeyRange { start: end, end: Bytes::new() }));
        }
    }
    found
}

/// Carries out a plan's part for one store. Durable when this returns; harmless to repeat.
///
/// # Errors
/// I/O.
pub fn execute(engine: &dyn Engine, plan: &Plan) -> Result<(), StoreError> {
    let store = Store::ident(engine)?.ok_or(StoreError::Uninitialised)?.store;
    let mut batch = WriteBatch::new();
    for kept in plan.keep.iter().filter(|kept| kept.survivor.store == store) {
        let state = RegionState::Normal(kept.after.clone());
        batch.put(&keys::region_state(kept.after.id), &state.encode());
    }
    for (survivor, epoch) in plan.bury.iter().filter(|(survivor, _)| survivor.store == store) {
        let Region { id, space, range, .. } = &survivor.region;
        let (start, end) = keys::data_bounds(*space, range);
        batch.delete_range(&start, &end);
        batch.delete(&keys::apply_state(*id));
        batch.delete(&keys::merge_state(*id));
        batch.delete(&keys::quarantine(*id));
        let peer = survivor.peer;
        let tombstone = RegionState::Tombstone { peer, epoch: *epoch, merged: None, members: Vec::new() };
        batch.put(&keys::region_state(*id), &tombstone.encode());
    }
    if !batch.is_empty() {
        engine.write(&batch)?;
        engine.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_region::Term;

    fn region(id: u64, range: (&'static str, &'static str), version: u64, stores: &[u64]) -> Region {
        let peer = |s: &u64| Peer { id: PeerId(id * 10 + s), store: StoreId(*s), role: PeerRole::Voter };
        Region {
            id: RegionId(id),
            space: Space::User,
            range: KeyRange::new(range.0, range.1),
            epoch: RegionEpoch { conf_ver: 3, version },
            peers: stores.iter().map(peer).collect(),
        }
    }

    fn on(store: u64, region: &Region, last: u64) -> Survivor {
        let at = LogId { index: Index(last), term: Term(6) };
        let peer = region.peer_on(StoreId(store)).expect("a member").id;
        let region = region.clone();
        Survivor {
            store: StoreId(store),
            peer,
            region,
            applied: at,
            last: at,
            commit: at.index,
            split_at: None,
            is_unusable: false,
            is_merging: false,
        }
    }

    fn set(stores: &[u64]) -> BTreeSet<StoreId> {
        stores.iter().map(|s| StoreId(*s)).collect()
    }

    #[test]
    fn a_region_with_a_quorum_is_left_alone_and_one_without_goes_on_with_one() {
        let (whole, lost) = (region(20, ("", "m"), 1, &[1, 2, 3]), region(30, ("m", ""), 1, &[1, 4, 5]));
        let all = [on(1, &whole, 9), on(2, &whole, 9), on(1, &lost, 7)];
        let plan = plan(&all, &set(&[1, 2]), &set(&[3, 4, 5]));
        assert_eq!((plan.healthy, plan.keep.len(), plan.bury.len()), (1, 1, 0));
        let kept = &plan.keep[0];
        assert_eq!(kept.after.peers, [Peer { id: PeerId(301), store: StoreId(1), role: PeerRole::Voter }]);
        assert!(kept.after.epoch.conf_ver > 3);
        assert_eq!(kept.after.epoch.version, 1, "or what the log still holds would be refused");
        assert_eq!(kept.lost.len(), 2);
        let user: Vec<_> = plan.gaps.iter().filter(|(space, _)| *space == Space::User).collect();
        assert!(user.is_empty(), "{user:?}");
    }

    #[test]
    fn the_longest_log_of_the_newest_shape_wins_and_the_others_are_buried() {
        let old = region(20, ("", ""), 1, &[1, 2, 3, 4, 5]);
        let new = region(20, ("f", ""), 2, &[1, 2, 3, 4, 5]);
        let all = [on(1, &old, 99), on(2, &new, 50)];
        let made = plan(&all, &set(&[1, 2]), &set(&[3, 4, 5]));
        assert_eq!(made.keep[0].survivor.store, StoreId(2), "the newer shape has applied a split");
        assert_eq!(made.bury.len(), 1);
        let all = [on(1, &old, 99), on(2, &old, 50)];
        let made = plan(&all, &set(&[1, 2]), &set(&[3, 4, 5]));
        assert_eq!(made.keep[0].survivor.store, StoreId(1));
    }

    #[test]
    fn a_store_that_was_not_asked_may_hold_the_better_replica() {
        let region = region(20, ("", ""), 1, &[1, 2, 3, 4, 5]);
        let made = plan(&[on(1, &region, 9)], &set(&[1]), &set(&[3, 4, 5]));
        assert!(made.keep.is_empty() && made.refused[0].1.contains("store 2"), "{made:?}");
        let made = plan(&[on(1, &region, 9)], &set(&[1]), &set(&[4, 5]));
        assert_eq!(made.healthy, 1, "stores 2 and 3 may be well");
    }

    #[test]
    fn a_survivor_that_missed_a_split_is_refused_and_lost_ranges_are_named() {
        let old = region(20, ("", "m"), 1, &[1, 4, 5]);
        let child = region(30, ("c", "f"), 2, &[2, 4, 5]);
        let made = plan(&[on(1, &old, 9), on(2, &child, 9)], &set(&[1, 2]), &set(&[4, 5]));
        let refused: Vec<u64> = made.refused.iter().map(|(id, _)| id.0).collect();
        assert_eq!(refused, [20, 30], "{made:?}");
        let ranges: Vec<_> =
            made.gaps.iter().filter(|(s, _)| *s == Space::User).map(|g| g.1.clone()).collect();
        assert_eq!(ranges, [KeyRange::new("m", "")]);
    }

    #[test]
    fn a_damaged_survivor_is_no_help() {
        let region = region(20, ("", ""), 1, &[1, 2, 3]);
        let bad = Survivor { is_unusable: true, ..on(1, &region, 9) };
        let made = plan(&[bad], &set(&[1]), &set(&[2, 3]));
        assert!(made.keep.is_empty() && made.refused.len() == 1);
    }

    #[test]
    fn a_survivor_in_a_merge_counts_for_the_quorum_and_is_never_thrown_away_for_one_that_has_less() {
        let region = region(20, ("", ""), 1, &[1, 2, 3]);
        let merging = Survivor { is_merging: true, ..on(1, &region, 9) };
        let made = plan(&[merging.clone(), on(2, &region, 5)], &set(&[1, 2]), &set(&[3]));
        assert_eq!((made.healthy, made.keep.len(), made.bury.len()), (1, 0, 0), "{made:?}");
        let region = self::region(20, ("", ""), 1, &[1, 2, 3, 4, 5]);
        let merging = Survivor { region: region.clone(), ..merging };
        let made = plan(&[merging.clone(), on(2, &region, 5)], &set(&[1, 2]), &set(&[3, 4, 5]));
        assert!(made.keep.is_empty() && made.refused[0].1.contains("store 1"), "{made:?}");
        let made = plan(&[merging, on(2, &region, 12)], &set(&[1, 2]), &set(&[3, 4, 5]));
        assert_eq!(made.keep[0].survivor.store, StoreId(2));
    }
}
