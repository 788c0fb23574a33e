//! What happens to machines and stores as wholes: clocks that lie, records that rot, machines that are lost with their
//! disks, stores that are drained.
//!
//! A machine is lost, or its disk found damaged and taken away, only while every region has three voters on machines
//! that exist: two replicas hold everything then that was ever acknowledged, and no more may be demanded of a cluster.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::Engine;
use flotilla_placement::StoreState;
use flotilla_placement::meta::MetaCommand;
use flotilla_raft::EntryKind;
use flotilla_raftstore::{LogId, RegionContext, decode_entry, positions};
use flotilla_region::{KeyRange, PeerId, PeerRole, Region, RegionId, Space, StoreId, Term, keys};

use super::effects::{Answer, Callback};
use super::host::Host;
use super::world::{Event, World};
use crate::check::tiling::regions_on;

/// For how much longer a damaged disk may stay.
const ROT_KEPT_US_MAX: u64 = 20_000_000;

/// Whether a store's log holds a change of membership that its data does not have yet.
fn changes_membership(host: &Host) -> bool {
    let view = host.engine_snapshot();
    let (start, end) = keys::log_bounds();
    let mut applied: (RegionId, LogId) = Default::default();
    let mut pending = false;
    let scanned = host.engine.log_scan(&start, &end, &mut |key, value| {
        let Some(keys::LogKey::Entry(region, peer, index)) = keys::parse_log_key(key) else { return true };
        if applied.0 != region {
            let stored = positions::applied(&*view, region, peer).ok().flatten();
            applied = (region, stored.unwrap_or_default());
        }
        let entry = decode_entry(index, Bytes::copy_from_slice(value));
        pending |= index > applied.1.index && entry.is_none_or(|entry| entry.kind != EntryKind::Normal);
        !pending
    });
    pending || scanned.is_err()
}

/// Voters of every region while a machine may be lost.
const VOTERS_MIN: usize = 3;

impl World {
    // ---- clocks ----

    /// Somebody sets a store's wall clock.
    pub(super) fn set_wall_clock(&mut self, id: StoreId) {
        let wall_ms = self.nemesis.extra.below(20_001) as i64 - 10_000;
        self.hosts[&id].clock.jump(0, wall_ms);
        self.stats.clock_jumps += 1;
        let now = self.now_us();
        self.trace.note(now, &[50, id.0], || format!("the wall clock of store {id} is set by {wall_ms} ms"));
    }

    /// A store's clock jumps forward, and its wall clock anywhere. Only where the profile says that clocks lie: a lease
    /// need not exclude others then.
    pub(super) fn jump_clock(&mut self, id: StoreId) {
        let rng = &mut self.nemesis.rng;
        let us_max = if rng.chance(1, 3) { 5_000_000 } else { 300_000 };
        let us = 1_000 + rng.below(us_max);
        let wall_ms = rng.below(20_001) as i64 - 10_000;
        self.hosts[&id].clock.jump(us, wall_ms);
        self.stats.clock_jumps += 1;
        let now = self.now_us();
        self.trace
            .note(now, &[40, id.0, us], || format!("the clock of store {id} jumps by {} ms", us / 1_000));
        self.wake(id);
    }

    // ---- machines ----

    /// Whether the cluster can lose a machine without losing anything else: every region lives on machines that exist, one
    /// with a replica there has three voters, all its replicas have this membership, durably, and no other one is on its
    /// way. (A peer that falls back to an older membership may need just the vote that is lost, and one that comes may be
    /// lost before it is.)
    fn may_lose(&self, id: StoreId) -> bool {
        let mut found: BTreeMap<RegionId, Vec<Region>> = BTreeMap::new();
        for host in self.hosts.values().filter(|host| !self.nemesis.is_rotten(host.id)) {
            let Ok(regions) = regions_on(&*host.engine_snapshot()) else { return false };
            if host.id != id && changes_membership(host) {
                return false;
            }
            regions.into_iter().for_each(|region| found.entry(region.id).or_default().push(region));
        }
        let is_whole = |replicas: &Vec<Region>| {
            let region = &replicas[0];
            let voters = region.peers.iter().filter(|peer| peer.role == PeerRole::Voter).count();
            let others = region.peers.iter().filter(|peer| peer.store != id).count();
            let here = replicas.iter().filter(|replica| replica.epoch == region.epoch).count();
            (voters >= VOTERS_MIN || region.peer_on(id).is_none())
                && !region.is_joint()
                && here == replicas.len()
                && here >= others
                && region.peers.iter().all(|peer| self.hosts.contains_key(&peer.store))
        };
        found.values().all(is_whole) && self.hosts.values().all(|host| host.engine.flush().is_ok())
    }

    /// A machine is lost with its disk, if the cluster can do without.
    pub(super) fn maybe_lose(&mut self, id: StoreId) {
        if self.is_whole() && self.may_lose(id) {
            self.replace(id, "the machine is lost");
        }
    }

    /// Whether no other machine is lost at present.
    fn is_whole(&self) -> bool {
        !self.nemesis.has_rotten() && self.hosts.len() as u64 >= self.profile.stores
    }

    /// A damaged disk is taken away, once the cluster can do without.
    pub(super) fn replace_rotten(&mut self, id: StoreId) {
        if !self.nemesis.is_rotten(id) {
            return;
        }
        if self.may_lose(id) {
            self.replace(id, "its disk is damaged");
        } else {
            self.plan(200_000, Event::Replace(id));
        }
    }

    /// Loses a store for good. Another machine asks to join in its place, or the same one with an empty disk.
    pub(super) fn replace(&mut self, id: StoreId, why: &str) {
        self.stop(id, why);
        let Some(host) = self.hosts.remove(&id) else { return };
        self.nemesis.forget(id);
        self.operator.forget(id);
        if self.nemesis.rng.chance(1, 2) {
            self.vacant.push(host.address);
        }
        self.stats.lost += 1;
        self.plan(0, Event::Join);
    }

    /// A record on a store's disk can be read no more. Sooner or later somebody takes the disk away.
    pub(super) fn maybe_rot(&mut self, id: StoreId) {
        if !self.is_whole() || !self.may_lose(id) {
            return;
        }
        let engine = self.hosts[&id].engine.clone();
        let in_log = self.nemesis.rng.chance(1, 3);
        let mut all: Vec<Vec<u8>> = Vec::new();
        let mut collect = |key: &[u8], _: &[u8]| {
            all.push(key.to_vec());
            true
        };
        let scanned = if in_log {
            let (start, end) = keys::log_bounds();
            engine.log_scan(&start, &end, &mut collect)
        } else {
            let (start, end) = match self.nemesis.rng.below(4) {
                0 if self.nemesis.extra.chance(1, 4) => {
                    let (start, end) = keys::positions_bounds()[self.nemesis.extra.index(2)];
                    (start.to_vec(), end.to_vec())
                }
                0 => keys::region_bounds(),
                1 => keys::data_bounds(Space::Meta, &KeyRange::default()),
                _ => keys::data_bounds(Space::User, &KeyRange::default()),
            };
            engine.snapshot().scan(&start, &end, &mut collect)
        };
        if scanned.is_err() || all.is_empty() {
            return;
        }
        let key = self.nemesis.rng.pick(&all);
        if in_log {
            engine.rot_log(key);
        } else {
            engine.rot(key);
        }
        self.nemesis.has_rotted(id);
        self.stats.rots += 1;
        let (now, name) = (self.now_us(), key.escape_ascii().to_string());
        self.trace.note(now, &[41, id.0, u64::from(in_log)], || {
            format!("{} of store {id} rots at {name}", if in_log { "the log" } else { "the data" })
        });
        if in_log {
            // Nobody reads a log that is in memory.
            self.strike_down(id, false);
        }
        let mut after = 300_000 + self.nemesis.rng.below(5_000_000);
        if self.profile.extras.kept_rot {
            after += self.nemesis.extra.below(ROT_KEPT_US_MAX);
        }
        self.plan(after, Event::Replace(id));
    }

    /// The disk of a store fails in the background: it takes no writes any more.
    pub(super) fn refuse_writes(&mut self, id: StoreId) {
        if self.hosts[&id].running.is_none() {
            // It does when it is opened again.
            return;
        }
        let now = self.now_us();
        self.trace.note(now, &[42, id.0], || format!("the data of store {id} takes no writes any more"));
        self.nemesis.has_spoiled(id);
        self.stats.background_errors += 1;
        self.hosts[&id].engine.refuse_writes();
    }

    /// A store's data is compacted.
    pub(super) fn compact(&mut self, id: StoreId) {
        let now = self.now_us();
        self.trace.note(now, &[43, id.0], || format!("the data of store {id} is compacted"));
        // A disk that is made to fail may fail here.
        if self.hosts[&id].engine.compact(&[], &[0xff]).is_ok() {
            self.stats.compactions += 1;
        }
    }

    // ---- drained stores ----

    /// A store is to be emptied, or to be used again.
    pub(super) fn drain(&mut self, id: StoreId) {
        let wanted = if self.operator.is_drained(id) {
            StoreState::Up
        } else if self.used_stores() > self.profile.config.placement.replicas {
            self.stats.drains += 1;
            StoreState::Offline
        } else {
            return;
        };
        let now = self.now_us();
        self.trace.note(now, &[44, id.0], || format!("store {id} is to be {wanted:?}"));
        self.operator.wanted.insert(id, wanted);
    }

    /// Machines that are not to be emptied.
    fn used_stores(&self) -> usize {
        self.hosts.keys().filter(|id| !self.operator.is_drained(**id)).count()
    }

    /// Machines whose stores placement has removed are switched off. Sometimes another one joins instead, or the same one
    /// with an empty disk; where too few are left, some that were to be emptied are not.
    pub(super) fn retire_removed(&mut self) {
        let is_removed = |id: &StoreId| self.state_of(*id) == Some(StoreState::Tombstone);
        for id in self.hosts.keys().copied().filter(is_removed).collect::<Vec<_>>() {
            self.stop(id, "the store is removed");
            let Some(host) = self.hosts.remove(&id) else { continue };
            self.nemesis.forget(id);
            self.operator.forget(id);
            self.stats.removed += 1;
            if self.nemesis.extra.chance(1, 2) {
                self.profile.stores -= 1;
                continue;
            }
            if self.nemesis.extra.chance(1, 2) {
                self.vacant.push(host.address);
            }
            self.plan(0, Event::Join);
        }
        let lacking = self.profile.config.placement.replicas.saturating_sub(self.used_stores());
        let drained = self.operator.wanted.values_mut().filter(|state| **state == StoreState::Offline);
        drained.take(lacking).for_each(|state| *state = StoreState::Up);
    }

    /// Tells the leader of placement what state stores are to be in, until it says so itself.
    pub(super) fn set_store_states(&mut self) {
        for (id, state) in self.operator.wanted.clone() {
            if self.state_of(id) != Some(state) && self.operator.rng.chance(1, 5) {
                self.set_store_state(id, state);
            }
        }
    }

    /// A store's state, as the leader of placement knows it.
    pub(super) fn state_of(&self, id: StoreId) -> Option<StoreState> {
        let leader = self.operator.leader_of(RegionId::META)?;
        let store = self.hosts.get(&leader.peer.store)?.store()?;
        let directory = store.directory().read();
        directory.stores.get(&id).map(|record| record.state)
    }

    fn set_store_state(&mut self, store: StoreId, state: StoreState) {
        let Some(leader) = self.operator.leader_of(RegionId::META).cloned() else { return };
        let Some(host) = self.hosts.get(&leader.peer.store).filter(|host| host.running.is_some()) else {
            return;
        };
        let (asked, life) = (host.id, host.life);
        let call = self.clients.next_call();
        let callback = Callback::new(&self.effects, asked, life, call);
        self.clients.open.insert(call, (asked, life));
        let context = RegionContext {
            region: RegionId::META,
            epoch: leader.region.epoch,
            peer: PeerId::ZERO,
            term: Term::ZERO,
        };
        let command = MetaCommand::SetStoreState { store, state }.encode();
        let done = Box::new(move |result| callback.answer(Answer::Written(result)));
        if let Some(store) = self.hosts[&asked].store() {
            store.write(context, command, done);
        }
        let now = self.now_us();
        self.plan_turns(asked, now);
    }
}
