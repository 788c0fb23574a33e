//! Makes faults, of the kinds that the profile allows, and orders splits, moves and transfers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flotilla_engine::{Engine, Prng};
use flotilla_placement::{MoveOrder, StoreState};
use flotilla_raftstore::{AdminCommand, PeerChange, PeerStatus};
use flotilla_region::{Peer, PeerRole, RegionId, Space, StoreId};

use super::ambush::Letters;
use super::operator::Swap;
use super::profile::{Fault, LAWFUL_DRIFT_PPM};
use super::wishes::key_bytes;
use super::world::{Event, World};

/// The nemesis.
pub struct Nemesis {
    pub(super) rng: Prng,
    /// For what is drawn only with [`super::extras::Extras`].
    pub(super) extra: Prng,
    active: bool,
    /// Stores whose disk it has broken.
    broken: BTreeSet<StoreId>,
    /// Stores whose disk is slow or fails, and until when.
    pub(super) spoiled_until_us: BTreeMap<StoreId, u64>,
    /// Stores whose disk is full, and until when.
    pub(super) full_until_us: BTreeMap<StoreId, u64>,
    /// Stores with a damaged record on their disk.
    rotten: BTreeSet<StoreId>,
    /// What may arrive late.
    pub(super) letters: Letters,
    /// It draws no strikes before.
    rests_until_us: u64,
}

impl Nemesis {
    /// A nemesis that waits.
    pub fn new(rng: Prng, extra: Prng) -> Self {
        let (broken, rotten) = (BTreeSet::new(), BTreeSet::new());
        Self {
            rng,
            extra,
            active: false,
            broken,
            spoiled_until_us: BTreeMap::new(),
            full_until_us: BTreeMap::new(),
            rotten,
            letters: Letters::default(),
            rests_until_us: 0,
        }
    }

    /// Whether faults are made at present.
    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    /// Whether it has broken a store's disk.
    pub fn has_broken(&self, store: StoreId) -> bool {
        self.broken.contains(&store)
    }

    /// Whether some record of a store's disk is damaged.
    pub fn is_rotten(&self, store: StoreId) -> bool {
        self.rotten.contains(&store)
    }

    pub(super) fn has_rotten(&self) -> bool {
        !self.rotten.is_empty()
    }

    /// It has broken a store's disk, which may end the process.
    pub(super) fn has_spoiled(&mut self, store: StoreId) {
        self.broken.insert(store);
    }

    /// It has damaged a record, for good.
    pub(super) fn has_rotted(&mut self, store: StoreId) {
        self.broken.insert(store);
        self.rotten.insert(store);
    }

    /// Whether a store's disk is slow or fails.
    pub(super) fn is_spoiled(&self, store: StoreId, now_us: u64) -> bool {
        self.is_full(store, now_us) || self.spoiled_until_us.get(&store).is_some_and(|until| now_us < *until)
    }

    /// Whether nobody has made room on a store's full disk yet.
    pub(super) fn is_full(&self, store: StoreId, now_us: u64) -> bool {
        self.full_until_us.get(&store).is_some_and(|until| now_us < *until)
    }

    /// The store is no more.
    pub(super) fn forget(&mut self, store: StoreId) {
        self.full_until_us.remove(&store);
        self.broken.remove(&store);
        self.rotten.remove(&store);
    }
}

impl World {
    /// Faults begin.
    pub fn begin_chaos(&mut self) {
        self.nemesis.active = !self.profile.faults.is_empty();
        self.network.loss_permille = self.profile.net.loss_permille;
        self.plan(0, Event::Nemesis);
    }

    /// Faults end: everything runs again, on healthy disks and a whole network, by clocks that keep the law: under ones
    /// that do not, support between stores runs out before it can be renewed, and no leader lasts.
    pub fn end_chaos(&mut self) {
        self.nemesis.active = false;
        self.nemesis.full_until_us.clear();
        self.network.heal();
        for drained in self.operator.wanted.values_mut() {
            if self.nemesis.rng.chance(1, 2) {
                *drained = StoreState::Up;
            }
        }
        let now = self.now_us();
        self.trace.note(now, &[30], || "faults end".into());
        for id in self.hosts.keys().copied().collect::<Vec<_>>() {
            self.repair_disk(id);
            if self.hosts.get(&id).is_some_and(|host| host.engine.flush().is_err()) {
                // It takes no writes until it is opened again, and may have none to make that would tell.
                self.strike_down(id, false);
            }
            if let Some(host) = self.hosts.get_mut(&id) {
                host.clock.keep_within(LAWFUL_DRIFT_PPM as i64);
                host.paused_until_us = host.paused_until_us.min(now);
                if let Some(running) = &mut host.running {
                    running.workers.iter_mut().for_each(|w| w.busy_until_us = w.busy_until_us.min(now));
                }
            }
            self.start(id);
            self.wake(id);
        }
    }

    /// Gives every worker of a store a turn soon.
    pub(super) fn wake(&mut self, id: StoreId) {
        let now = self.now_us();
        let count = self.hosts.get(&id).and_then(|h| h.running.as_ref()).map_or(0, |r| r.workers.len());
        (0..count).for_each(|worker| self.plan_soon(id, worker, now));
    }

    /// The nemesis acts once.
    pub(super) fn strike(&mut self) {
        if !self.nemesis.active {
            return;
        }
        let pause = 10_000 + self.nemesis.rng.below(self.profile.nemesis_us_max);
        self.plan(pause, Event::Nemesis);
        if self.now_us() < self.nemesis.rests_until_us {
            return;
        }
        let fault = *self.nemesis.rng.pick(&self.profile.faults);
        let all: Vec<StoreId> = self.hosts.keys().copied().collect();
        let store = *self.nemesis.rng.pick(&all);
        if self.profile.extras.wall_jumps && self.profile.expiring == 0 && self.nemesis.extra.chance(1, 8) {
            self.set_wall_clock(store);
        }
        match fault {
            Fault::Kill | Fault::PowerCut => self.strike_down(store, fault == Fault::PowerCut),
            Fault::Blackout => {
                if self.nemesis.rng.chance(1, 3) {
                    all.into_iter().for_each(|id| self.strike_down(id, true));
                }
            }
            Fault::Amnesia => self.leave_alone(store, &all),
            Fault::Relapse => self.begin_relapse(),
            Fault::Pause => self.pause(store, 50_000, 2_550_000),
            Fault::LongPause => self.pause(store, 1_000_000, 30_000_000),
            Fault::Stall => self.stall(store),
            Fault::Isolate | Fault::OneWay => self.cut(store, fault == Fault::OneWay),
            Fault::Partition => self.partition(&all),
            Fault::SlowLink => self.slow_link(&all),
            Fault::PlacementLeader => self.strike_placement(),
            Fault::AddStore => self.add_store(),
            Fault::SlowDisk | Fault::FailDisk => self.spoil_disk(store, fault == Fault::FailDisk),
            Fault::Checkpoint => self.checkpoint(store),
            Fault::BackgroundError => self.refuse_writes(store),
            Fault::ClockJump => self.jump_clock(store),
            Fault::LoseStore => self.maybe_lose(store),
            Fault::Rot => self.maybe_rot(store),
            Fault::Drain => self.drain(store),
            Fault::Compact => self.compact(store),
            Fault::Split | Fault::Merge | Fault::Move | Fault::Transfer => self.disturb_region(fault),
        }
    }

    // ---- processes and machines ----

    /// Ends a process, or cuts a machine's power; it starts again later.
    pub(super) fn strike_down(&mut self, id: StoreId, power_cut: bool) {
        if self.hosts[&id].running.is_none() {
            return;
        }
        self.stop(id, if power_cut { "power cut" } else { "kill -9" });
        let engine = &self.hosts[&id].engine;
        let report = if power_cut { engine.crash() } else { engine.kill() };
        if power_cut {
            self.stats.power_cuts += 1;
        } else {
            self.stats.kills += 1;
        }
        let now = self.now_us();
        self.trace.note(now, &[31, id.0], || format!("disk of store {id}: {report:?}"));
        let long = self.nemesis.rng.chance(1, 4);
        let after = 20_000 + self.nemesis.rng.below(if long { 5_000_000 } else { 800_000 });
        self.plan(after, Event::Restart(id));
    }

    /// A process is killed, if faults are still made.
    pub(super) fn kill(&mut self, id: StoreId) {
        if self.nemesis.active && self.hosts.contains_key(&id) {
            self.strike_down(id, false);
        }
    }

    /// A store met an error that it cannot go on from: its process ends, and starts again on a healthy disk.
    pub(super) fn on_fatal(&mut self, id: StoreId, error: &str) {
        let why = format!("fatal error: {error}");
        self.stop(id, &why);
        let host = &self.hosts[&id];
        if self.nemesis.rng.chance(1, 2) {
            host.engine.crash()
        } else {
            host.engine.kill()
        };
        self.repair_disk(id);
        let after = 20_000 + self.nemesis.rng.below(1_500_000);
        self.plan(after, Event::Restart(id));
    }

    /// All but one store forget what they had in memory, and that one does not notice.
    fn leave_alone(&mut self, id: StoreId, all: &[StoreId]) {
        if self.nemesis.rng.chance(1, 2) {
            self.pause(id, 1_000_000, 3_000_000);
        } else {
            self.deafen(id);
        }
        for other in all.iter().copied().filter(|other| *other != id) {
            if self.hosts[&other].running.is_none() {
                continue;
            }
            self.stop(other, "power cut");
            self.hosts[&other].engine.crash();
            self.stats.power_cuts += 1;
            let after = 1_000 + self.nemesis.rng.below(30_000);
            self.plan(after, Event::Restart(other));
        }
    }

    /// One after the other, a leader's voters do not hear it until their stores support it no more. It never lacks a quorum,
    /// and all support it again in the end, when it stands still: they have been free to elect another one, each from the
    /// moment on when it withdrew its support, whatever the leader was told since.
    fn begin_relapse(&mut self) {
        let voters = |status: &PeerStatus| {
            let voters = status.region.peers.iter().filter(|peer| peer.role == PeerRole::Voter);
            voters.map(|peer| peer.store).filter(|store| *store != status.peer.store).collect()
        };
        let led: Vec<(StoreId, Vec<StoreId>)> =
            self.operator.leaders().map(|status| (status.peer.store, voters(status))).collect();
        if led.is_empty() {
            return;
        }
        let (leader, others) = self.nemesis.rng.pick(&led).clone();
        if self.nemesis.rng.chance(3, 4) {
            // And nothing else happens meanwhile.
            let lasts_us = self.profile.config.liveness_duration_ms * 1_000;
            self.nemesis.rests_until_us = self.now_us() + (others.len() as u64 + 2) * lasts_us;
        }
        self.relapse(leader, others);
    }

    /// The next voter hears the leader no more, or the leader stands still.
    pub(super) fn relapse(&mut self, leader: StoreId, mut others: Vec<StoreId>) {
        if !self.nemesis.active {
            return;
        }
        let config = &self.profile.config;
        let (lasts_us, beat_us) = (config.liveness_duration_ms * 1_000, config.liveness_interval_ms * 1_000);
        self.network.mend();
        match others.pop() {
            Some(other) => {
                let after = lasts_us + self.nemesis.rng.below(60_000);
                self.network.cut(leader, other);
                self.network.cut(other, leader);
                let now = self.now_us();
                self.trace.note(now, &[48, leader.0, other.0], || {
                    format!("store {other} is to support {leader} no more")
                });
                self.stats.cuts += 1;
                self.plan(after, Event::Relapse(leader, others));
            }
            None => {
                let after = beat_us + self.nemesis.rng.range(20_000..80_000);
                self.plan(after, Event::Pause(leader, lasts_us));
            }
        }
    }

    /// A store stands still from now on, if faults are still made.
    pub(super) fn stand_still(&mut self, id: StoreId, us: u64) {
        if self.nemesis.active {
            self.pause(id, us, us + 1);
        }
    }

    fn pause(&mut self, id: StoreId, us_min: u64, us_max: u64) {
        let now = self.now_us();
        let us = self.nemesis.rng.range(us_min..us_max);
        let Some(host) = self.hosts.get_mut(&id).filter(|h| h.running.is_some()) else { return };
        host.paused_until_us = host.paused_until_us.max(now + us);
        self.stats.pauses += 1;
        self.stats.long_pauses += u64::from(us >= 1_000_000);
        self.trace.note(now, &[32, id.0, us], || format!("store {id} stands still for {} ms", us / 1_000));
    }

    fn stall(&mut self, id: StoreId) {
        let Some(running) = self.hosts.get(&id).and_then(|h| h.running.as_ref()) else { return };
        let number = self.nemesis.rng.index(running.workers.len());
        let us = 50_000 + self.nemesis.rng.below(2_500_000);
        self.stall_worker(id, number, us);
    }

    /// A store makes its data durable, and may cut its logs.
    pub(super) fn checkpoint(&mut self, id: StoreId) {
        if let Some(store) = self.hosts.get(&id).and_then(|host| host.store()) {
            store.checkpoint(Box::new(|| {}));
        }
        self.plan_turns(id, self.now_us());
    }

    /// What a store commits is applied late.
    fn stall_apply(&mut self, id: StoreId) {
        let Some(running) = self.hosts.get(&id).and_then(|h| h.running.as_ref()) else { return };
        let workers = running.workers.iter().enumerate().filter(|(_, w)| w.name.starts_with("apply"));
        let numbers: Vec<usize> = workers.map(|(number, _)| number).collect();
        let us = 700_000 + self.nemesis.rng.below(3_000_000);
        numbers.into_iter().for_each(|number| self.stall_worker(id, number, us));
    }

    fn stall_worker(&mut self, id: StoreId, number: usize, us: u64) {
        let now = self.now_us();
        let Some(running) = self.hosts.get_mut(&id).and_then(|h| h.running.as_mut()) else { return };
        let worker = &mut running.workers[number];
        worker.busy_until_us = worker.busy_until_us.max(now + us);
        let name = worker.name.clone();
        self.stats.pauses += 1;
        self.trace.note(now, &[33, id.0, number as u64, us], || {
            format!("worker {name} of store {id} stands still for {} ms", us / 1_000)
        });
    }

    /// Loses a machine for good, with its disk; another one will ask to join in its place.
    pub fn lose_store(&mut self) {
        let all: Vec<StoreId> = self.hosts.keys().copied().collect();
        let id = *self.nemesis.rng.pick(&all);
        self.replace(id, "the machine is lost");
    }

    // ---- network and disks ----

    fn cut(&mut self, id: StoreId, one_way: bool) {
        let for_us = 100_000 + self.nemesis.rng.below(3_000_000);
        if !one_way {
            return self.isolate(id, for_us);
        }
        let others: Vec<StoreId> = self.hosts.keys().copied().filter(|o| *o != id).collect();
        if others.is_empty() {
            return;
        }
        let other = *self.nemesis.rng.pick(&others);
        let (from, to) = if self.nemesis.rng.chance(1, 2) { (id, other) } else { (other, id) };
        self.network.cut(from, to);
        let now = self.now_us();
        self.trace.note(now, &[34, from.0, to.0], || format!("no way from {from} to {to}"));
        self.stats.cuts += 1;
        self.plan(for_us, Event::Mend);
    }

    /// A store and the others do not hear each other.
    fn isolate(&mut self, id: StoreId, for_us: u64) {
        let others: Vec<StoreId> = self.hosts.keys().copied().filter(|o| *o != id).collect();
        if others.is_empty() {
            return;
        }
        for other in others {
            self.network.cut(id, other);
            self.network.cut(other, id);
        }
        let now = self.now_us();
        self.trace.note(now, &[35, id.0], || format!("store {id} is cut off"));
        self.stats.cuts += 1;
        self.plan(for_us, Event::Mend);
    }

    /// Nothing arrives at a store any more, for a moment.
    pub(super) fn deafen(&mut self, id: StoreId) {
        let now = self.now_us();
        let others: Vec<StoreId> = self.hosts.keys().copied().filter(|o| *o != id).collect();
        others.into_iter().for_each(|other| self.network.cut(other, id));
        self.trace.note(now, &[37, id.0], || format!("store {id} hears nobody"));
        self.stats.cuts += 1;
        let after = 100_000 + self.nemesis.rng.below(1_000_000);
        self.plan(after, Event::Mend);
    }

    /// Two stores do not hear each other, and everybody else does.
    pub(super) fn estrange(&mut self, (a, b): (StoreId, StoreId), for_us: u64) {
        let now = self.now_us();
        self.network.cut(a, b);
        self.network.cut(b, a);
        self.trace.note(now, &[29, a.0, b.0], || format!("stores {a} and {b} do not hear each other"));
        self.stats.cuts += 1;
        self.plan(for_us, Event::Mend);
    }

    fn partition(&mut self, all: &[StoreId]) {
        let (here, there): (Vec<StoreId>, Vec<StoreId>) =
            all.iter().partition(|_| self.nemesis.rng.chance(1, 2));
        for a in &here {
            for b in &there {
                self.network.cut(*a, *b);
                self.network.cut(*b, *a);
            }
        }
        let now = self.now_us();
        self.trace.note(now, &[38], || format!("{here:?} and {there:?} do not hear each other"));
        self.stats.cuts += 1;
        let after = 100_000 + self.nemesis.rng.below(3_000_000);
        self.plan(after, Event::Mend);
    }

    fn slow_link(&mut self, all: &[StoreId]) {
        let (from, to) = (*self.nemesis.rng.pick(all), *self.nemesis.rng.pick(all));
        let more_us = 5_000 + self.nemesis.rng.below(500_000);
        self.network.slow_down(from, to, more_us);
        let now = self.now_us();
        self.trace.note(now, &[39, from.0, to.0], || {
            format!("the way from {from} to {to} takes {} ms longer", more_us / 1_000)
        });
        let after = 100_000 + self.nemesis.rng.below(3_000_000);
        self.plan(after, Event::Mend);
    }

    fn strike_placement(&mut self) {
        let led = self.operator.leaders().find(|status| status.region.id == RegionId::META);
        let Some(store) = led.map(|status| status.peer.store).filter(|id| self.hosts.contains_key(id)) else {
            return;
        };
        self.stats.placement_strikes += 1;
        match self.nemesis.rng.below(3) {
            0 => self.strike_down(store, true),
            1 => self.cut(store, false),
            _ => self.pause(store, 50_000, 2_550_000),
        }
    }

    /// One machine more, once a run.
    fn add_store(&mut self) {
        if self.hosts.len() as u64 == self.profile.stores && self.stats.added == 0 {
            self.profile.stores += 1;
            let wanted = self.profile.config.placement.replicas;
            self.profile.replicas = wanted.min(self.profile.stores as usize);
            self.stats.added += 1;
            self.plan(0, Event::Join);
        }
    }

    // ---- regions ----

    fn disturb_region(&mut self, fault: Fault) {
        let any = match fault {
            Fault::Split => false,
            Fault::Merge => self.nemesis.rng.chance(1, 10),
            _ => true,
        };
        let changes_shape =
            |s: &PeerStatus| s.region.space == Space::User && s.region.id != RegionId::SENTINEL;
        let wanted = |s: &&PeerStatus| any || changes_shape(s);
        let led: Vec<PeerStatus> = self.operator.leaders().filter(wanted).cloned().collect();
        if led.is_empty() {
            return;
        }
        let status = self.nemesis.rng.pick(&led).clone();
        match fault {
            Fault::Split => {
                self.split(&status);
                // The children may live elsewhere before the parent's leader has applied the split (trap T4).
                if self.nemesis.rng.chance(2, 3) {
                    self.stall_apply(status.peer.store);
                    self.send_newcomers();
                }
            }
            Fault::Move if self.hosts.len() > self.profile.replicas && self.nemesis.rng.chance(1, 3) => {
                self.order_move(&status);
            }
            Fault::Move if self.nemesis.rng.chance(1, 3) => {
                let voters = status.region.peers.iter().filter(|peer| peer.role == PeerRole::Voter);
                let others: Vec<Peer> = voters.filter(|peer| peer.id != status.peer.id).copied().collect();
                if others.len() >= 2 {
                    let gone = *self.nemesis.rng.pick(&others);
                    self.begin_swap(&status, gone);
                }
            }
            Fault::Move => self.move_replica(&status),
            Fault::Merge => self.merge(&status, &led),
            _ => {
                let voters: Vec<&Peer> =
                    status.region.peers.iter().filter(|p| p.role == PeerRole::Voter).collect();
                if !voters.is_empty() {
                    let to = self.nemesis.rng.pick(&voters).id;
                    self.administer(&status, AdminCommand::TransferLeader(to));
                }
            }
        }
    }

    /// Asks placement for a move of a replica, and does not wait for it.
    fn order_move(&mut self, status: &PeerStatus) {
        let stores: Vec<StoreId> = self.hosts.keys().copied().collect();
        let from = self.nemesis.rng.pick(&status.region.peers).store;
        let order = MoveOrder { region: status.region.id, from, to: *self.nemesis.rng.pick(&stores) };
        let Some(leader) = self.operator.leader_of(RegionId::META).map(|leader| leader.peer.store) else {
            return;
        };
        let Some(store) = self.hosts.get(&leader).and_then(|host| host.store()) else { return };
        store.move_peer(order, Box::new(|_| {}));
        self.stats.ordered_moves += 1;
        let now = self.now_us();
        self.trace.note(now, &[46, order.region.0, order.from.0, order.to.0], || format!("{order:?}"));
        self.plan_turns(leader, now);
    }

    /// Some clients soon ask anew who leads what, while the others go on with what they know. A leader that nobody asks
    /// takes no lease.
    fn send_newcomers(&mut self) {
        for after in [500_000, 1_000_000, 1_800_000, 2_600_000] {
            let after = after + self.nemesis.rng.below(500_000);
            self.plan(after, Event::Newcomers);
        }
    }

    /// Every second client, more or less, begins without routes.
    pub(super) fn newcomers(&mut self) {
        if !self.nemesis.active {
            return;
        }
        let clients = 0..self.profile.clients;
        let new: Vec<usize> = clients.filter(|_| self.nemesis.rng.chance(1, 2)).collect();
        let now = self.now_us();
        self.trace.note(now, &[49, new.len() as u64], || format!("clients {new:?} forget all routes"));
        new.into_iter().for_each(|client| self.clients.forget_routes(client));
    }

    fn split(&mut self, status: &PeerStatus) {
        let range = &status.region.range;
        let inside = |key: &Bytes| range.contains(key) && *key > range.start;
        let all: Vec<Bytes> = (0..self.profile.keys).map(key_bytes).filter(inside).collect();
        if all.is_empty() {
            return;
        }
        let rng = &mut self.nemesis.rng;
        let mut keys: Vec<Bytes> = (0..1 + rng.below(2)).map(|_| rng.pick(&all).clone()).collect();
        keys.sort();
        keys.dedup();
        self.administer(status, AdminCommand::Split { keys });
    }

    /// Merges a neighbour, or, rarely, any region, into a region.
    fn merge(&mut self, target: &PeerStatus, led: &[PeerStatus]) {
        let range = &target.region.range;
        let is_near = |s: &&PeerStatus| {
            s.region.space == Space::User
                && (s.region.range.end == range.start && !range.start.is_empty()
                    || s.region.range.start == range.end && !range.end.is_empty())
        };
        let any = self.nemesis.rng.chance(1, 10);
        let sources: Vec<&PeerStatus> = led.iter().filter(|s| any || is_near(s)).collect();
        if sources.is_empty() {
            return;
        }
        let source = (*self.nemesis.rng.pick(&sources)).clone();
        let mut leads = source.peer.store;
        if source.peer.store == target.peer.store && self.nemesis.rng.chance(2, 3) {
            // Often one store leads both, and then nobody leads the source who does not know what became of it.
            let others = source.region.peers.iter().filter(|p| p.id != source.peer.id);
            let others: Vec<Peer> = others.copied().collect();
            if !others.is_empty() {
                let to = *self.nemesis.rng.pick(&others);
                leads = to.store;
                self.administer(&source, AdminCommand::TransferLeader(to.id));
            }
        }
        let after = self.disturb_merge(target, leads);
        self.plan(after, Event::Merge(target.region.id, source.region.id));
        self.send_newcomers();
    }

    /// A region is asked to take over another one, if both have leaders.
    pub(super) fn ask_to_merge(&mut self, target: RegionId, source: RegionId) {
        let (Some(target), Some(source)) = (self.operator.leader_of(target), self.operator.leader_of(source))
        else {
            return;
        };
        let (target, source) = (target.clone(), (*source.region).clone());
        if self.nemesis.active {
            self.administer(&target, AdminCommand::Merge(Box::new(source)));
        }
    }

    /// A store that misses a merge has to be brought up by log or by snapshot. It may hear of it from others before its
    /// peer of the target does (traps T10, T16), or of the merge before it has what the source, led by that store, wrote
    /// last (traps T13, T14). Says in how many microseconds the merge may begin.
    fn disturb_merge(&mut self, target: &PeerStatus, leads: StoreId) -> u64 {
        let others = target.region.peers.iter().filter(|p| p.id != target.peer.id && p.store != leads);
        let stores: Vec<StoreId> = others.map(|p| p.store).filter(|id| self.hosts.contains_key(id)).collect();
        if stores.is_empty() {
            return 0;
        }
        let store = *self.nemesis.rng.pick(&stores);
        let for_us = 1_000_000 + self.nemesis.rng.below(5_000_000);
        match self.nemesis.rng.below(8) {
            0 | 1 => self.cut(store, false),
            2 => self.strike_down(store, false),
            3 => self.estrange((target.peer.store, store), for_us),
            4..=6 => {
                self.network.swallow(leads, store);
                self.estrange((leads, store), for_us);
                return self.nemesis.rng.range(20_000..200_000);
            }
            _ => {}
        }
        0
    }

    /// Adds a learner, removes one, demotes a voter (placement brings a new one), or swaps two in one joint step.
    fn move_replica(&mut self, status: &PeerStatus) {
        let region = &status.region;
        let others: Vec<Peer> = region.peers.iter().filter(|p| p.id != status.peer.id).copied().collect();
        if others.is_empty() {
            return;
        }
        let gone = *self.nemesis.rng.pick(&others);
        let learner = region.peers.iter().find(|p| p.role == PeerRole::Learner).copied();
        // A vote on a damaged disk may be lost any time: it does not take the place of a sound one.
        let heir = learner.filter(|learner| !self.nemesis.is_rotten(learner.store));
        let changes = match heir {
            Some(learner) if learner.id != gone.id => vec![
                PeerChange::AddVoter(Peer { role: PeerRole::Voter, ..learner }),
                PeerChange::AddLearner(Peer { role: PeerRole::Learner, ..gone }),
            ],
            // While a machine may be lost, a region keeps its voters.
            _ if self.profile.may_lose() && gone.role == PeerRole::Voter || self.nemesis.rng.chance(1, 2) => {
                match self.new_learner(region) {
                    Some(change) => vec![change],
                    None if self.profile.may_lose() => return,
                    None => vec![leave(gone)],
                }
            }
            _ => vec![leave(gone)],
        };
        self.administer(status, AdminCommand::ChangePeers(changes));
    }

    /// A voter leaves for good, and a member that does not hear of it goes on asking it for its vote (traps T20, T30):
    /// nothing but its tombstone keeps it away, once that is durable.
    pub(super) fn swap_unheard(&mut self, swap: &Swap) {
        let Some(status) = self.operator.leader_of(swap.region).cloned() else { return };
        let others = status.region.peers.iter().filter(|peer| peer.role == PeerRole::Voter);
        let unaware: Vec<StoreId> = others
            .filter(|peer| peer.id != status.peer.id && peer.id != swap.gone.id)
            .map(|peer| peer.store)
            .collect();
        // A learner that has left meanwhile must not come back: its id is used up.
        let is_there = |peer: &Peer| status.region.peer(peer.id).is_some_and(|now| now.role == peer.role);
        if unaware.is_empty()
            || status.peer.id == swap.gone.id
            || !is_there(&swap.learner)
            || !is_there(&swap.gone)
            || self.nemesis.is_rotten(swap.learner.store)
        {
            return;
        }
        let unaware = *self.nemesis.rng.pick(&unaware);
        let for_us = 1_000_000 + self.nemesis.rng.below(5_000_000);
        self.estrange((status.peer.store, unaware), for_us);
        let comes = PeerChange::AddVoter(Peer { role: PeerRole::Voter, ..swap.learner });
        let goes = PeerChange::AddLearner(Peer { role: PeerRole::Learner, ..swap.gone });
        self.administer(&status, AdminCommand::ChangePeers(vec![comes, goes]));
        for after in [1_000_000, 2_000_000, 3_000_000] {
            self.plan(after, Event::Checkpoint(swap.gone.store));
        }
    }
}

/// A voter is demoted, a learner removed.
fn leave(peer: Peer) -> PeerChange {
    match peer.role {
        PeerRole::Learner => PeerChange::Remove(peer.id),
        _ => PeerChange::AddLearner(Peer { role: PeerRole::Learner, ..peer }),
    }
}
