//! The event loop: hosts, network, clients, operator and nemesis on one heap of events, drawn from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use flotilla_engine::Prng;
use flotilla_proto::flotilla as pb;
use flotilla_proto::flotilla::snapshot_chunk::Part;
use flotilla_raftstore::{SnapshotEvent, StreamId};
use flotilla_region::{RegionId, StoreId};
use prost::Message;

use super::clients::{ClientEvent, Clients};
use super::clock::GlobalTime;
use super::effects::{Answer, Cause, Effect, Effects, Life};
use super::extras::stream;
use super::host::{FOUNDER, Host, address_of, join_request};
use super::nemesis::Nemesis;
use super::network::{Delivery, Network, StreamNews};
use super::operator::{Operator, Swap};
use super::profile::Profile;
use super::stats::Stats;
use super::trace::Trace;
use super::watch::Watch;
use crate::check::agreement::Agreement;
use crate::check::knowledge::check_knowledge;

/// Pause between attempts to join.
const JOIN_US: u64 = 100_000;

/// Pause before a store starts again whose disk failed as it started.
const RESTART_US: u64 = 100_000;

/// Something that happens at a moment.
pub enum Event {
    /// A worker has a turn.
    Turn {
        /// Store.
        store: StoreId,
        /// Its life.
        life: Life,
        /// Number of the worker.
        worker: usize,
        /// The plan that this turn belongs to.
        plan: u64,
    },
    /// The network delivers.
    Deliver(Delivery),
    /// A client acts or learns something.
    Client(ClientEvent),
    /// The operator looks at the cluster.
    Operate,
    /// The nemesis acts.
    Nemesis,
    /// A process starts again.
    Restart(StoreId),
    /// A region is to take over another one.
    Merge(RegionId, RegionId),
    /// Some clients begin anew.
    Newcomers,
    /// All cuts of the network are mended.
    Mend,
    /// A leader's store comes nearer to a relapse of its support, by these voters' stores.
    Relapse(StoreId, Vec<StoreId>),
    /// A disk becomes healthy.
    RepairDisk(StoreId),
    /// A process stands still for so many microseconds.
    Pause(StoreId, u64),
    /// A process is killed.
    Kill(StoreId),
    /// A store makes its data durable.
    Checkpoint(StoreId),
    /// A region gets a voter in the place of another, which some member does not hear of.
    Swap(Swap),
    /// A damaged disk is taken away.
    Replace(StoreId),
    /// Machines that are not part of the cluster ask to join it.
    Join,
    /// The checkers look at the cluster.
    Watch,
}

/// Compared field by field.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Planned {
    at_us: u64,
    /// Drawn: the order of what happens at the same moment is the seed's.
    lot: u64,
    number: u64,
    /// Place of the event among the planned ones.
    place: usize,
}

/// Events that are to happen, first things first. The events themselves stay where they are: they are large.
#[derive(Default)]
struct Agenda {
    heap: BinaryHeap<Reverse<Planned>>,
    events: Vec<Option<Event>>,
    /// Places of no event.
    free: Vec<usize>,
    planned: u64,
}

impl Agenda {
    fn plan(&mut self, at_us: u64, lot: u64, event: Event) {
        self.planned += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.heap.push(Reverse(Planned { at_us, lot, number: self.planned, place }));
    }

    /// The next event and its moment, if that is not after `end_us`.
    fn next(&mut self, end_us: u64) -> Option<(u64, Event)> {
        self.heap.peek().filter(|Reverse(next)| next.at_us <= end_us)?;
        let Reverse(next) = self.heap.pop()?;
        self.free.push(next.place);
        Some((next.at_us, self.events[next.place].take()?))
    }
}

/// A whole simulated cluster.
pub struct World {
    /// Everything that was drawn beforehand.
    pub profile: Profile,
    /// For everything that has no generator of its own.
    pub rng: Prng,
    /// Global time.
    pub global: GlobalTime,
    agenda: Agenda,
    /// What stores did and nobody has carried out yet.
    pub effects: Effects,
    /// Machines by store id.
    pub hosts: BTreeMap<StoreId, Host>,
    /// Machines that ever were part of the cluster.
    machines: u64,
    /// Addresses of machines whose disk was lost, and which come back with an empty one.
    pub vacant: Vec<String>,
    /// The network.
    pub network: Network,
    /// Clients and their history.
    pub clients: Clients,
    /// Plays placement.
    pub operator: Operator,
    /// Makes faults.
    pub nemesis: Nemesis,
    /// Looks on.
    pub watch: Watch,
    /// What was applied where.
    pub agreement: Arc<Mutex<Agreement>>,
    /// What happened, as a hash and for people.
    pub trace: Trace,
    /// Counts.
    pub stats: Stats,
    /// Mailboxes that were not empty at rest, and at how many looks in a row.
    pub(super) unread: BTreeMap<(StoreId, usize), u32>,
    violation: Option<String>,
}

impl World {
    /// A cluster of fresh stores, all running.
    pub fn new(seed: u64, profile: Profile, print: bool) -> Self {
        let mut rng = Prng::new(seed);
        let global = GlobalTime::default();
        let founder = Host::found(&profile, &global, &mut rng);
        let hosts = BTreeMap::from([(founder.id, founder)]);
        let mut world = Self {
            network: Network::new(rng.fork(), profile.net.clone()),
            clients: Clients::new(&profile, rng.fork(), stream(seed, 2)),
            operator: Operator::new(rng.fork()),
            nemesis: Nemesis::new(rng.fork(), stream(seed, 1)),
            watch: Watch::default(),
            rng,
            global,
            agenda: Agenda::default(),
            effects: Effects::default(),
            hosts,
            machines: 1,
            vacant: Vec::new(),
            agreement: Arc::default(),
            trace: Trace::new(print),
            stats: Stats::default(),
            unread: BTreeMap::new(),
            violation: None,
            profile,
        };
        world.start(FOUNDER);
        world.plan(1_000, Event::Operate);
        world.plan(1_000, Event::Join);
        world.plan(5_000, Event::Watch);
        world
    }

    /// Global time in microseconds.
    pub fn now_us(&self) -> u64 {
        self.global.now_us()
    }

    /// Plans an event `after_us` from now.
    pub fn plan(&mut self, after_us: u64, event: Event) {
        self.plan_at(self.now_us() + after_us, event);
    }

    fn plan_at(&mut self, at_us: u64, event: Event) {
        let lot = self.rng.next_u64();
        self.agenda.plan(at_us, lot, event);
    }

    /// Ends the run with a violation; the first one counts.
    pub fn violate(&mut self, what: String) {
        let now = self.now_us();
        self.trace.note(now, &[99], || format!("VIOLATION {what}"));
        self.violation.get_or_insert(what);
    }

    /// The violation that ended the run.
    pub fn violation(&self) -> Option<&String> {
        self.violation.as_ref()
    }

    /// Lets everything happen up to a moment; stops early at a violation.
    pub fn run_until(&mut self, end_us: u64) {
        while self.violation.is_none() {
            let Some((at_us, event)) = self.agenda.next(end_us) else { break };
            self.global.advance_to(at_us);
            self.dispatch(event);
            self.carry_out(self.now_us(), usize::MAX);
            let disagreement = self.agreement.lock().expect("one thread").violation().cloned();
            if let Some(what) = disagreement {
                self.violate(what);
            }
        }
        if self.violation.is_none() && self.now_us() < end_us {
            self.global.advance_to(end_us);
        }
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Turn { store, life, worker, plan } => self.on_turn(store, life, worker, plan),
            Event::Deliver(delivery) => self.on_delivery(delivery),
            Event::Client(event) => self.on_client(event),
            Event::Operate => self.operate(),
            Event::Nemesis => self.strike(),
            Event::Restart(store) => self.start(store),
            Event::Merge(target, source) => self.ask_to_merge(target, source),
            Event::Newcomers => self.newcomers(),
            Event::Mend => self.network.mend(),
            Event::Relapse(leader, others) => self.relapse(leader, others),
            Event::RepairDisk(store) => self.repair_disk(store),
            Event::Pause(store, us) => self.stand_still(store, us),
            Event::Kill(store) => self.kill(store),
            Event::Checkpoint(store) => self.checkpoint(store),
            Event::Swap(swap) => self.swap_unheard(&swap),
            Event::Replace(store) => self.replace_rotten(store),
            Event::Join => self.ask_to_join(),
            Event::Watch => self.look(),
        }
    }

    // ---- processes ----

    /// Starts a store's process if it does not run.
    pub fn start(&mut self, id: StoreId) {
        let Some(host) = self.hosts.get_mut(&id).filter(|h| h.running.is_none()) else { return };
        if !self.nemesis.is_rotten(id)
            && let Err(what) = check_knowledge(id, &*host.engine)
        {
            return self.violate(what);
        }
        let started = host.start(&self.effects, &self.agreement, &mut self.rng);
        let life = host.life;
        let now = self.global.now_us();
        self.trace.note(now, &[1, id.0], || match &started {
            Ok(()) => format!("store {id} starts, life {}", life.0),
            Err(error) => format!("store {id} cannot start: {error}"),
        });
        match started {
            Ok(()) => {
                self.plan_turns(id, now);
                let count = self.hosts[&id].running.as_ref().map_or(0, |r| r.workers.len());
                (0..count).for_each(|worker| self.plan_soon(id, worker, now));
            }
            // It stays down until its disk is replaced.
            Err(_) if self.nemesis.is_rotten(id) => {}
            // Its disk is made to fail just now; the process ends, and starts again on a healthy one.
            Err(_) if self.nemesis.has_broken(id) => {
                self.stats.fatal += 1;
                self.hosts[&id].engine.kill();
                self.repair_disk(id);
                self.plan(RESTART_US, Event::Restart(id));
            }
            Err(error) => self.violate(format!("store {id} cannot start again: {error}")),
        }
    }

    /// A worker's turn, in a moment.
    pub(super) fn plan_soon(&mut self, store: StoreId, worker: usize, from_us: u64) {
        let after = 1 + self.rng.below(1_000);
        self.plan_turn(store, worker, from_us + after);
    }

    /// Adds what a living store has counted.
    pub(super) fn count_store(&mut self, id: StoreId) {
        let Some(store) = self.hosts.get(&id).and_then(|h| h.store()) else { return };
        let counters = store.counters();
        self.stats.elections += counters.elections_won.load(Ordering::Relaxed);
        self.stats.merges += counters.merges.load(Ordering::Relaxed);
        self.stats.load_splits += counters.load_splits.load(Ordering::Relaxed);
        self.stats.crowded_writes += counters.crowded_writes.load(Ordering::Relaxed);
        self.stats.sleeps += counters.sleeps.load(Ordering::Relaxed);
        self.stats.applied_ahead += counters.applied_ahead.load(Ordering::Relaxed);
        self.stats.warm_transfers += counters.warm_transfers.load(Ordering::Relaxed);
        self.stats.held_back += counters.appends_held_back.load(Ordering::Relaxed);
        self.stats.splits += counters.splits.load(Ordering::Relaxed);
        self.stats.snapshots += counters.snapshots_installed.load(Ordering::Relaxed);
    }

    /// Ends a store's process; what its disk makes of it is the caller's.
    pub fn stop(&mut self, id: StoreId, why: &str) {
        let now = self.now_us();
        self.count_store(id);
        let Some(host) = self.hosts.get_mut(&id).filter(|h| h.running.is_some()) else { return };
        host.stop();
        self.trace.note(now, &[2, id.0], || format!("store {id} stops: {why}"));
        for (at, delivery) in self.network.on_death(now, id) {
            self.plan_at(at, Event::Deliver(delivery));
        }
        self.watch.on_death(id);
    }

    /// Machines that have no store yet ask one that has; the answer says which store they are.
    fn ask_to_join(&mut self) {
        let (members, wanted) = (self.hosts.len() as u64, self.profile.stores);
        if members == wanted {
            return;
        }
        self.plan(JOIN_US, Event::Join);
        let running: Vec<StoreId> =
            self.hosts.values().filter(|h| h.running.is_some()).map(|h| h.id).collect();
        if running.is_empty() {
            return;
        }
        let asked = *self.rng.pick(&running);
        let machine = self.machines + 1;
        let (effects, life) = (self.effects.clone(), self.hosts[&asked].life);
        let address = self.vacant.last().cloned().unwrap_or_else(|| address_of(machine));
        let said = address.clone();
        let done = Box::new(move |reply| {
            effects.push(asked, life, Effect::Joined { machine, address: said, reply });
        });
        if let Some(store) = self.hosts[&asked].store() {
            store.join(join_request(machine, address), done);
        }
        self.plan_turns(asked, self.now_us());
    }

    fn on_joined(&mut self, machine: u64, address: String, reply: &pb::JoinReply) {
        let now = self.now_us();
        self.trace.note(now, &[6, machine, reply.store_id], || format!("machine {machine} hears {reply:?}"));
        let id = StoreId(reply.store_id);
        if !reply.refused.is_empty() {
            return self.violate(format!("machine {machine} may not join: {}", reply.refused));
        }
        if id == StoreId::ZERO || machine <= self.machines {
            return;
        }
        self.machines += 1;
        self.vacant.retain(|vacant| *vacant != address);
        let host = Host::join((id, address), machine, &self.profile, &self.global, &mut self.rng);
        self.hosts.insert(id, host);
        self.start(id);
    }

    /// Test only: no disk syncs `log` any more, from the founder's on.
    #[cfg(feature = "planted")]
    pub(super) fn skip_log_sync(&mut self) {
        self.profile.skip_log_sync = true;
        self.hosts.values().for_each(|host| host.engine.plant_skip_log_sync());
    }

    // ---- turns ----

    fn plan_turn(&mut self, store: StoreId, worker: usize, at_us: u64) {
        let Some(host) = self.hosts.get_mut(&store) else { return };
        let (life, paused_until) = (host.life, host.paused_until_us);
        let Some(running) = &mut host.running else { return };
        let slot = &mut running.workers[worker];
        let at_us = at_us.max(slot.busy_until_us).max(paused_until);
        if slot.due_us <= at_us {
            return;
        }
        slot.due_us = at_us;
        slot.plan += 1;
        let plan = slot.plan;
        self.plan_at(at_us, Event::Turn { store, life, worker, plan });
    }

    /// Plans a turn for every worker of a store that has mail.
    pub fn plan_turns(&mut self, store: StoreId, from_us: u64) {
        let Some(running) = self.hosts.get(&store).and_then(|h| h.running.as_ref()) else { return };
        let with_mail: Vec<usize> =
            (0..running.workers.len()).filter(|i| running.workers[*i].turn.has_messages()).collect();
        for worker in with_mail {
            let delay = self.rng.below(self.profile.turn_us_max) + 1;
            self.plan_turn(store, worker, from_us + delay);
        }
    }

    fn on_turn(&mut self, store: StoreId, life: Life, worker: usize, plan: u64) {
        let now = self.now_us();
        let Some(host) = self.hosts.get_mut(&store).filter(|h| h.life == life) else { return };
        let paused_until = host.paused_until_us;
        let Some(running) = &mut host.running else { return };
        let slot = &mut running.workers[worker];
        if slot.plan != plan {
            return;
        }
        slot.due_us = u64::MAX;
        let free_at = slot.busy_until_us.max(paused_until);
        if free_at > now {
            return self.plan_turn(store, worker, free_at);
        }
        let (more, deadline_us, took_us) = host.take_turn(worker, now);
        let done_at = now + took_us;
        if let Some(running) = &mut host.running {
            running.workers[worker].busy_until_us = done_at;
        }
        self.stats.turns += 1;
        self.trace.note(now, &[3, store.0, worker as u64, u64::from(more)], || {
            let name = self.hosts[&store].running.as_ref().map_or("", |r| &r.workers[worker].name);
            format!("turn {store}/{name}")
        });
        self.carry_out(done_at, worker);
        self.look_at_log(store, worker);
        if more {
            let delay = self.rng.below(self.profile.turn_us_max) + 1;
            self.plan_turn(store, worker, done_at + delay);
        } else if deadline_us != u64::MAX {
            self.plan_turn(store, worker, deadline_us.max(now + 1));
        }
        self.plan_turns(store, done_at);
    }

    // ---- effects ----

    /// Carries out what stores did, as of `at_us`; `worker` had the turn.
    fn carry_out(&mut self, at_us: u64, worker: usize) {
        loop {
            let causes = self.effects.take();
            if causes.is_empty() {
                return;
            }
            // A process that ends is not in time to keep back what else it did in the turn.
            let is_end = |cause: &Cause| matches!(cause.effect, Effect::Fatal(_));
            let (ends, others): (Vec<_>, Vec<_>) = causes.into_iter().partition(is_end);
            for cause in others.into_iter().chain(ends) {
                self.on_effect(cause, at_us, worker);
            }
        }
    }

    fn on_effect(&mut self, cause: Cause, at_us: u64, worker: usize) {
        let Cause { store, life, effect } = cause;
        let lives = self.hosts.get(&store).is_some_and(|h| h.life == life && h.running.is_some());
        if let Effect::Ended { call, answer } = effect {
            // A store that has met a fatal error ends with all that wait.
            let failed = self.hosts.get(&store).and_then(|h| h.store()).is_some_and(|s| s.has_failed());
            if lives && matches!(answer, Answer::Dropped) && !failed {
                return self.violate(format!("store {store} dropped the callback of call {}", call.0));
            }
            return self.on_answer(call, store, lives, answer);
        }
        if !lives {
            return;
        }
        let deliveries = match effect {
            Effect::Frame { to, bytes } => {
                self.stats.frames += 1;
                self.network.on_frame(at_us, (store, worker), to, bytes)
            }
            Effect::StreamOpen { stream, to, bytes } => self.network.on_open(at_us, store, stream, to, bytes),
            Effect::StreamSend { stream, bytes } => self.network.on_send(at_us, store, stream, bytes),
            Effect::StreamClose { stream } => self.network.on_close(at_us, store, stream),
            Effect::StreamReply { connection, bytes } => self.network.on_reply(at_us, connection, bytes),
            Effect::Joined { machine, address, reply } => return self.on_joined(machine, address, &reply),
            Effect::Statuses(list) => return self.on_statuses(store, list),
            Effect::Fatal(error) => {
                self.stats.fatal += 1;
                if !self.nemesis.has_broken(store) {
                    self.violate(format!("store {store} met a fatal error on a healthy disk: {error}"));
                }
                return self.on_fatal(store, &error);
            }
            Effect::Ended { .. } => return,
        };
        for (at, delivery) in deliveries {
            self.plan_at(at.max(self.now_us()), Event::Deliver(delivery));
        }
    }

    // ---- the network's end ----

    fn on_delivery(&mut self, delivery: Delivery) {
        let now = self.now_us();
        let to = match &delivery {
            Delivery::Frame { to, .. } | Delivery::Stream { to, .. } | Delivery::Unreachable { to, .. } => {
                *to
            }
        };
        let Some(host) = self.hosts.get(&to).filter(|h| h.running.is_some()) else {
            return self.on_undeliverable(delivery);
        };
        if host.paused_until_us > now {
            let at = host.paused_until_us;
            return self.plan_at(at, Event::Deliver(delivery));
        }
        match delivery {
            Delivery::Frame { from, to, bytes } => {
                let sum = u64::from(crc32fast::hash(&bytes));
                let frame =
                    pb::StoreFrame::decode(bytes.clone()).expect("the simulated network damages nothing");
                self.trace.note(now, &[4, from.0, to.0, sum], || super::describe::frame(&frame));
                self.check_frame(&frame);
                self.stats.heartbeats +=
                    frame.heartbeats.as_ref().map_or(0, |beats| beats.region_id.len() as u64);
                self.ambush((from, to), &frame, &bytes);
                let refused = self.hosts[&to].store().map(|store| store.on_frame(frame));
                if let Some(Err(why)) = refused {
                    self.violate(format!("store {to} refused a frame of store {from}: {why}"));
                }
            }
            Delivery::Stream { to, connection, news } => self.on_stream(to, connection, news),
            Delivery::Unreachable { to, peer } => {
                if let Some(store) = self.hosts[&to].store() {
                    store.on_unreachable(peer);
                }
            }
        }
        self.plan_turns(to, now);
    }

    /// Nobody lives at the receiving end: a sender on a stream learns that.
    fn on_undeliverable(&mut self, delivery: Delivery) {
        let now = self.now_us();
        if let Delivery::Stream { to, .. } = delivery {
            for (at, delivery) in self.network.on_death(now, to) {
                self.plan_at(at, Event::Deliver(delivery));
            }
        }
    }

    fn on_stream(&mut self, to: StoreId, connection: u64, news: StreamNews) {
        let now = self.now_us();
        self.trace.note(now, &[5, to.0, connection], || {
            format!("stream {connection} to {to}: {}", super::describe::news(&news))
        });
        let Some(event) = self.stream_event(to, connection, news) else { return };
        if let Some(store) = self.hosts[&to].store() {
            store.on_snapshot_event(event);
        }
    }

    fn stream_event(&mut self, to: StoreId, connection: u64, news: StreamNews) -> Option<SnapshotEvent> {
        let incoming = StreamId(connection);
        match news {
            StreamNews::Closed => return Some(SnapshotEvent::Closed(incoming)),
            StreamNews::Broken(id) => return Some(SnapshotEvent::Broken(id)),
            _ => {}
        }
        let stream = self.network.stream(connection)?.id;
        let chunk = |bytes| pb::SnapshotChunk::decode(bytes).expect("the network damages nothing");
        Some(match news {
            StreamNews::Opened(bytes) => {
                let Some(Part::Header(header)) = chunk(bytes).part else { return None };
                self.check_snapshot(to, &header);
                let (effects, life) = (self.effects.clone(), self.hosts[&to].life);
                let reply = Box::new(move |reply: pb::SnapshotReply| {
                    let bytes = reply.encode_to_vec();
                    effects.push(to, life, Effect::StreamReply { connection, bytes });
                });
                SnapshotEvent::Opened(incoming, header, reply)
            }
            StreamNews::Chunk(bytes) => SnapshotEvent::Chunk(incoming, chunk(bytes)),
            StreamNews::Reply(bytes) => {
                let reply = pb::SnapshotReply::decode(bytes).expect("the network damages nothing");
                SnapshotEvent::Reply(stream, reply)
            }
            StreamNews::Sent => SnapshotEvent::Sent(stream),
            StreamNews::Closed | StreamNews::Broken(_) => return None,
        })
    }
}
