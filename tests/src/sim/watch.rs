//! Looks at the running cluster: what must hold at every moment is checked at drawn moments.

use std::collections::BTreeMap;

use flotilla_proto::flotilla as pb;
use flotilla_raftstore::{PeerStatus, RegionContext, wire};
use flotilla_region::{KeyRange, PeerId, Region, RegionId, Space, StoreId, Term};

use super::effects::Life;
use super::world::{Event, World};
use crate::check::elections::Elections;
use crate::check::gaps::Gaps;
use crate::check::graves::Graves;
use crate::check::identities::Identities;
use crate::check::knowledge::check_knowledge;
use crate::check::leases::{Lease, check_leases};
use crate::check::log_matching::LogMatching;
use crate::check::needless::check_needed;
use crate::check::positions::Positions;
use crate::check::promises::Promises;
use crate::check::replicas::Replicas;
use crate::check::tiling::{Disks, regions_on};

/// Longest pause between looks.
const LOOK_US_MAX: u64 = 40_000;

/// A worker that is busy for longer is stalled.
const STALL_US: u64 = 5_000;

/// Log batches of so many bytes hold one task each.
pub(super) const SINGLE_BYTES: usize = 64;

/// Of so many turns of log writers, one is followed by a look at the log.
const LOG_TURNS: u64 = 8;

/// Shapes of one region that leases are asked for.
const SHAPES_MAX: usize = 4;

/// Shapes of regions, by version.
type Shapes = BTreeMap<RegionId, BTreeMap<u64, RegionContext>>;

/// What the checkers remember between looks.
#[derive(Default)]
pub struct Watch {
    /// Positions of every peer in the present life of its store.
    pub positions: Positions,
    /// Who led in which term.
    elections: Elections,
    /// What peers have told others.
    pub promises: Promises,
    /// Peers that had data.
    graves: Graves,
    /// Uses of peer ids.
    identities: Identities,
    /// Entries on all disks.
    pub logs: LogMatching,
    /// Shapes of regions that were seen, for asking after leases.
    shapes: Shapes,
    /// Regions on all disks.
    disks: Disks,
    /// Contents by position.
    pub replicas: Replicas,
    /// Children that nobody leads yet.
    pub gaps: Gaps,
    /// The life in which each store was last seen.
    lives: BTreeMap<StoreId, Life>,
    /// Looks so far.
    pub looks: u64,
    /// Turns of log writers after which the log may have been looked at.
    log_turns: u64,
    /// Disks are damaged on purpose: what is on them proves nothing.
    pub expects_damage: bool,
}

impl Watch {
    /// A store's process ended: what it had in memory may fall back.
    pub fn on_death(&mut self, store: StoreId) {
        self.positions.forget(store);
        self.graves.forget(store);
    }
}

fn remember_shape(shapes: &mut Shapes, region: &Region) {
    let shapes = shapes.entry(region.id).or_default();
    if shapes.contains_key(&region.epoch.version) {
        return;
    }
    let (peer, term) = (PeerId::ZERO, Term::ZERO);
    let context = RegionContext { region: region.id, epoch: region.epoch, peer, term };
    shapes.insert(region.epoch.version, context);
    if shapes.len() > SHAPES_MAX {
        shapes.pop_first();
    }
}

impl World {
    /// One look at everything.
    pub(super) fn look(&mut self) {
        let pause = 1 + self.rng.below(LOOK_US_MAX);
        self.plan(pause, Event::Watch);
        self.watch.looks += 1;
        let found =
            self.look_at_leases().and_then(|()| self.look_at_disks()).and_then(|()| self.look_at_births());
        if let Err(what) = found {
            self.violate(what);
        }
    }

    /// A peer told its state.
    pub(super) fn check_status(&mut self, store: StoreId, status: &PeerStatus) {
        let region = &status.region;
        let watch = &mut self.watch;
        remember_shape(&mut watch.shapes, region);
        let checked = watch
            .elections
            .check(status)
            .and_then(|()| watch.positions.check(store, status))
            .and_then(|()| watch.promises.check(status))
            .and_then(|()| watch.graves.check(store, status))
            .and_then(|()| watch.identities.check(region));
        if status.is_leader {
            watch.gaps.on_leader(region.id, self.global.now_us());
        } else {
            watch.gaps.on_follower(store, region.id);
        }
        if let Err(what) = checked {
            self.violate(what);
        }
    }

    /// A frame arrived: what its messages promise is remembered.
    pub(super) fn check_frame(&mut self, frame: &pb::StoreFrame) {
        for raft in &frame.messages {
            let Some(message) = raft.message.clone().and_then(wire::message_from_wire) else { continue };
            self.watch.elections.on_message(RegionId(raft.region_id), &message);
            if let Err(what) = self.watch.promises.on_message(RegionId(raft.region_id), &message) {
                self.violate(what);
            }
        }
    }

    /// A snapshot is announced to a store.
    pub(super) fn check_snapshot(&mut self, to: StoreId, header: &pb::SnapshotHeader) {
        let Some(raft) = header.message.as_ref() else { return };
        let child = Region {
            id: RegionId(raft.region_id),
            space: if raft.meta_space { Space::Meta } else { Space::User },
            range: KeyRange { start: raft.start_key.clone(), end: raft.end_key.clone() },
            epoch: raft.epoch.as_ref().map(wire::epoch_from_wire).unwrap_or_default(),
            ..Region::default()
        };
        // A damaged disk is nobody's word.
        let Ok(disk) = regions_on(&*self.hosts[&to].engine_snapshot()) else { return };
        if let Err(what) = check_needed(&child, to, &disk) {
            self.stats.needless_snapshots += 1;
            if self.profile.loses_nothing() {
                self.violate(what);
            }
        }
    }

    fn look_at_leases(&mut self) -> Result<(), String> {
        if self.profile.clocks_lie {
            return Ok(());
        }
        let mut held = Vec::new();
        for host in self.hosts.values() {
            let Some(store) = host.store() else { continue };
            for context in self.watch.shapes.values().flat_map(|shapes| shapes.values()) {
                if let Some(read) = store.begin_local_read(context) {
                    held.push(Lease { store: host.id, region: read.region().clone() });
                }
            }
        }
        check_leases(&held)
    }

    fn look_at_disks(&mut self) -> Result<(), String> {
        if self.watch.expects_damage {
            return Ok(());
        }
        let ids: Vec<StoreId> = self.hosts.keys().copied().collect();
        let awaits_births = self.awaits_births();
        // What is on a damaged disk is nobody's word.
        let sound = |id: StoreId| !self.nemesis.is_rotten(id);
        for host in self.hosts.values().filter(|h| h.running.is_some() && sound(h.id)) {
            let bad = host.store().map(flotilla_raftstore::Store::quarantined).unwrap_or_default();
            if let Some(bad) = bad.first() {
                return Err(format!(
                    "store {} takes a region of a sound disk out of service: {bad:?}",
                    host.id
                ));
            }
            let view = host.engine_snapshot();
            let regions = self.watch.disks.check(host.id, &*view)?;
            regions.iter().for_each(|region| remember_shape(&mut self.watch.shapes, region));
            for region in regions {
                if !self.watch.gaps.is_new(region.id) {
                    continue;
                }
                let parent = self.operator.leads_keys_of(host.id, region).filter(|_| awaits_births);
                self.watch.gaps.on_seen(host.id, region, parent, self.global.now_us());
            }
            if !regions.is_empty() {
                let region = self.rng.pick(regions);
                self.watch.replicas.check(host.id, region, &*view)?;
            }
        }
        let host = self.rng.pick(&ids);
        self.watch.logs.check_news(*host, &self.hosts[host].engine)
    }

    /// After a turn of a log writer that may have left half of what belongs together for its next one.
    pub(super) fn look_at_log(&mut self, store: StoreId, worker: usize) {
        let host = &self.hosts[&store];
        let writes =
            host.running.as_ref().is_some_and(|running| running.workers[worker].name == "log-writer");
        if !writes || host.config.log_batch_bytes_max > SINGLE_BYTES || self.nemesis.is_rotten(store) {
            return;
        }
        self.watch.log_turns += 1;
        if !self.watch.log_turns.is_multiple_of(LOG_TURNS) {
            return;
        }
        if let Err(what) = check_knowledge(store, &*host.engine) {
            self.violate(what);
        }
    }

    /// Whether the time without a leader after a split can be bounded.
    fn awaits_births(&self) -> bool {
        self.profile.extras.births && !self.profile.clocks_lie && self.profile.net.slow_permille == 0
    }

    /// Looks for children without a leader.
    fn look_at_births(&mut self) -> Result<(), String> {
        if !self.awaits_births() {
            return Ok(());
        }
        let now = self.now_us();
        let mut troubled = self.network.take_troubled();
        for host in self.hosts.values() {
            let lives_on = self.watch.lives.insert(host.id, host.life).is_none_or(|life| life == host.life);
            let stands = host.paused_until_us > now
                || host.running.iter().flat_map(|r| &r.workers).any(|w| w.busy_until_us > now + STALL_US);
            let is_spoiled = self.nemesis.is_spoiled(host.id, now) || self.nemesis.is_rotten(host.id);
            if self.network.loss_permille > 0 || !lives_on || stands || is_spoiled || host.running.is_none() {
                troubled.insert(host.id);
            }
        }
        troubled.into_iter().for_each(|store| self.watch.gaps.on_trouble(store, now));
        self.watch.gaps.check(now, self.profile.prompt_us_max())?;
        for id in self.watch.gaps.awaited() {
            self.inspect(id);
        }
        Ok(())
    }
}
