//! Clients: one operation at a time each, routed by the product's route table, which the errors of stores teach, and
//! repeated as the product's retry plan decides. A write of unknown outcome is never repeated here: a first attempt that
//! was delayed on its way could take effect after the second.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::Prng;
use flotilla_raftstore::{RegionContext, RequestError};
use flotilla_region::{KeyRange, PeerId, StoreId, Term};
use flotilla_router::{Asked, Decision, FailureKind, RetryPlan, RetryPolicy, bounded};

use super::effects::{Answer, CallId, Life};
use super::kv::{Value, Written};
use super::profile::Profile;
use super::questions::{Question, Routed};
use super::routes::Routes;
use super::wishes::{Walk, Wish, key_bytes, key_number};
use super::world::{Event, World};
use crate::check::expiry::Expiries;
use crate::check::history::{Action, History, Operation};

/// For how long an operation is repeated, and nothing that may have happened.
const POLICY: RetryPolicy = RetryPolicy { budget_ms: 20_000, retry_undetermined_writes: false };

/// An attempt on its way.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its client.
    pub client: usize,
    /// What is asked.
    pub wish: Wish,
    /// Whom.
    pub store: StoreId,
    /// The same for the route table.
    pub asked: Asked,
    /// For which region.
    pub context: RegionContext,
    /// The region's range as the client knows it.
    pub range: KeyRange,
    /// The command, for writes.
    pub command: Bytes,
    /// Whether the lease is tried first.
    pub by_lease: bool,
    /// Whether a follower may answer.
    pub replica: bool,
    /// The store's wall clock when the attempt arrived. A read hides what has expired by it: a clock that is read after
    /// the view was taken could hide a value that another one replaced in between.
    pub arrived_ms: u64,
}

/// How an attempt ended, as the client sees it.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// A write was applied, with this reply.
    Written(Bytes),
    /// What was read: keys with values.
    Read(KeyRange, Vec<(Bytes, Bytes)>),
    /// Surely not carried out.
    Refused(RequestError),
    /// Nobody listens there: surely not carried out.
    Unreachable,
    /// Nobody can tell.
    Unknown,
}

/// Something that happens to a client, or to its request on a store.
pub enum ClientEvent {
    /// Begin an operation.
    Next(usize),
    /// Try the operation (again).
    Try(usize),
    /// An attempt arrives at its store.
    Arrive(CallId),
    /// A read on a store goes on.
    ReadOn(CallId, Life),
    /// The outcome arrives at the client.
    Told(CallId, Outcome),
    /// The client waits no longer.
    TimeOut(CallId),
    /// A question for routes is at its store.
    Question(CallId),
    /// The answer arrives at the client.
    Routed(CallId, Routed),
    /// A value that a client set for a time may be gone from now on.
    Expire(usize, Value),
}

/// An operation under way.
struct Underway {
    wish: Wish,
    called: u64,
    began_us: u64,
    plan: RetryPlan,
    /// It reads what the run leaves, at rest: it must succeed.
    is_last: bool,
}

/// One client.
struct Client {
    routes: Routes,
    underway: Option<Underway>,
    /// What follows at once, in other regions; whether it reads what the run leaves.
    rest: Option<(Wish, bool)>,
    /// Values last seen.
    seen: BTreeMap<usize, Value>,
}

/// All clients.
pub struct Clients {
    list: Vec<Client>,
    rng: Prng,
    /// For what is drawn only with [`super::extras::Extras`].
    pub(super) extra: Prng,
    /// Whether operations reach over several regions.
    wide: bool,
    keys: usize,
    /// Every key whose number is a multiple is set for a time now and then, and never swapped; 0 = none is.
    expiring: usize,
    next_value: u64,
    next_call: u64,
    /// Position in the order of calls and returns.
    order: u64,
    /// Attempts that clients wait for.
    attempts: BTreeMap<CallId, Attempt>,
    /// Questions for routes, to stores.
    pub(super) questions: BTreeMap<CallId, Question>,
    /// Callbacks that stores have not called yet, and which life of which store holds them.
    pub open: BTreeMap<CallId, (StoreId, Life)>,
    /// What clients were told.
    pub history: History,
    /// Until when values live.
    expiries: Expiries,
    /// No new operations begin.
    pub stopped: bool,
    /// Keys that are still to be read at the end.
    pub final_reads: Vec<usize>,
    /// What they found.
    pub final_values: BTreeMap<usize, Value>,
    /// Full scans that are still to be made at the end.
    final_scans: Vec<Walk>,
    /// How often the full scans, forwards and backwards, met each key.
    pub scanned: [BTreeMap<usize, u32>; 2],
}

impl Clients {
    /// The clients of a profile.
    pub fn new(profile: &Profile, rng: Prng, extra: Prng) -> Self {
        let client =
            || Client { routes: Routes::default(), underway: None, rest: None, seen: BTreeMap::new() };
        Self {
            list: (0..profile.clients).map(|_| client()).collect(),
            rng,
            extra,
            wide: profile.extras.wide,
            keys: profile.keys,
            expiring: profile.expiring,
            next_value: 1,
            next_call: 1,
            order: 0,
            attempts: BTreeMap::new(),
            questions: BTreeMap::new(),
            open: BTreeMap::new(),
            history: History::default(),
            expiries: Expiries::default(),
            stopped: false,
            final_reads: Vec::new(),
            final_values: BTreeMap::new(),
            final_scans: Vec::new(),
            scanned: Default::default(),
        }
    }

    /// Whether no client waits for anything.
    pub fn are_idle(&self) -> bool {
        let is_read = self.final_reads.is_empty() && self.final_scans.is_empty();
        is_read && self.list.iter().all(|c| c.underway.is_none() && c.rest.is_none())
    }

    /// An attempt arrived when its store's wall clock showed this.
    pub(super) fn arrived(&mut self, call: CallId, unix_ms: u64) {
        if let Some(attempt) = self.attempts.get_mut(&call) {
            attempt.arrived_ms = unix_ms;
        }
    }

    /// What a client knows of routes.
    pub(super) fn routes(&mut self, client: usize) -> &mut Routes {
        &mut self.list[client].routes
    }

    /// A client forgets who leads what.
    pub(super) fn forget_routes(&mut self, client: usize) {
        self.list[client].routes = Routes::default();
    }

    /// A name for a call.
    pub fn next_call(&mut self) -> CallId {
        self.next_call += 1;
        CallId(self.next_call)
    }

    /// Clients that wait, for messages.
    pub fn waiting(&self) -> Vec<String> {
        let wishes = self.list.iter().enumerate().filter_map(|(i, c)| Some((i, &c.underway.as_ref()?.wish)));
        wishes.map(|(i, wish)| format!("client {i}: {wish:?}")).collect()
    }

    /// What is still to be read at the end.
    fn next_last(&mut self) -> Option<Wish> {
        let key = self.final_reads.pop();
        key.map(Wish::Get).or_else(|| self.final_scans.pop().map(Wish::Walk))
    }

    /// What is left at the end was read.
    fn read_last(&mut self, wish: &Wish, found: &[(usize, Action)], pairs: &[(Bytes, Bytes)]) {
        match (wish, found) {
            (Wish::Get(key), [(_, Action::Read(value))]) => {
                self.final_values.insert(*key, *value);
            }
            (Wish::Walk(walk), _) => {
                let scanned = &mut self.scanned[usize::from(walk.reverse)];
                let keys = pairs.iter().map(|(key, _)| key_number(key).unwrap_or(usize::MAX));
                keys.for_each(|key| *scanned.entry(key).or_default() += 1);
            }
            _ => {}
        }
    }

    fn draw_wish(&mut self, client: usize) -> Wish {
        if self.wide && self.extra.chance(1, 5) {
            return self.draw_wide();
        }
        let key = self.rng.index(self.keys);
        let value = Value(self.next_value);
        match self.rng.below(10) {
            0..=3 => Wish::Get(key),
            4 => Wish::Scan(key, (key + 1 + self.rng.index(self.keys)).min(self.keys)),
            5 | 6 => self.draw_put(key),
            7 if self.rng.chance(1, 3) => Wish::Delete(key),
            7 if self.rng.chance(1, 8) => {
                Wish::DeleteRange(key, (key + 1 + self.rng.index(4)).min(self.keys))
            }
            _ if self.expires(key) => self.draw_put(key),
            _ => {
                self.next_value += 1;
                let seen = self.list[client].seen.get(&key).copied().unwrap_or_default();
                Wish::Swap(key, seen, value)
            }
        }
    }

    /// Whether values of a key may live for a time. A compare-and-swap goes by the time of its entry and a read by
    /// the reader's, so that such keys are never swapped: no single order of both need exist.
    pub fn expires(&self, key: usize) -> bool {
        self.expiring > 0 && key.is_multiple_of(self.expiring)
    }

    /// Something about keys of several regions.
    fn draw_wide(&mut self) -> Wish {
        let rng = &mut self.extra;
        let from = rng.index(self.keys);
        let to = (from + 1 + rng.index(self.keys)).min(self.keys);
        let mut keys: Vec<usize> = (0..1 + rng.below(6)).map(|_| rng.index(self.keys)).collect();
        keys.sort_unstable();
        keys.dedup();
        match rng.below(20) {
            0 => Wish::DeleteRange(from, to),
            1..=6 => Wish::BatchGet(keys),
            7..=12 => {
                let pairs = keys.into_iter().map(|key| {
                    self.next_value += 1;
                    (key, Value(self.next_value - 1))
                });
                Wish::Put(pairs.collect(), 0)
            }
            _ => {
                let all = rng.chance(1, 3);
                let range = KeyRange::new(key_bytes(from), key_bytes(to));
                let left = bounded(&if all { KeyRange::default() } else { range });
                let (reverse, page_pairs) = (rng.chance(1, 2), *rng.pick(&[1, 2, 5, usize::MAX]));
                Wish::Walk(Walk { left, reverse, page_pairs })
            }
        }
    }

    /// One pair, or a few of neighbouring keys.
    fn draw_put(&mut self, key: usize) -> Wish {
        let for_a_time = self.expires(key) && self.rng.chance(3, 4);
        let ttl_s = if for_a_time { 1 + self.rng.below(2) } else { 0 };
        let count = if !for_a_time && self.rng.chance(1, 4) { 1 + self.rng.index(4) } else { 1 };
        let pairs = (key..(key + count).min(self.keys)).map(|key| {
            self.next_value += 1;
            (key, Value(self.next_value - 1))
        });
        Wish::Put(pairs.collect(), ttl_s)
    }

    fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }
}

impl World {
    /// Lets every client begin.
    pub fn start_clients(&mut self) {
        for client in 0..self.clients.list.len() {
            let after = self.rng.below(50_000);
            self.plan(after, Event::Client(ClientEvent::Next(client)));
        }
    }

    /// Client 0 reads every key once more, and then scans them all, in either direction.
    pub fn read_everything(&mut self) {
        self.clients.final_reads = (0..self.clients.keys).collect();
        let rng = &mut self.clients.extra;
        let scan = |reverse| Walk {
            left: bounded(&KeyRange::default()),
            reverse,
            page_pairs: *rng.pick(&[1, 3, usize::MAX]),
        };
        self.clients.final_scans = [false, true].map(scan).into();
        self.plan(0, Event::Client(ClientEvent::Next(0)));
    }

    /// A client acts, or something happens to its request.
    pub fn on_client(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Next(client) => self.begin(client),
            ClientEvent::Try(client) => self.attempt(client),
            ClientEvent::Arrive(call) => self.on_arrival(call),
            ClientEvent::ReadOn(call, life) => self.read_on(call, life),
            ClientEvent::Told(call, outcome) => self.on_told(call, outcome),
            ClientEvent::TimeOut(call) => self.on_told(call, Outcome::Unknown),
            ClientEvent::Question(call) => self.on_question(call),
            ClientEvent::Routed(call, told) => self.on_routed(call, told),
            ClientEvent::Expire(key, value) => {
                let order = self.clients.next_order();
                self.clients.history.add(key, Expiries::operation(order, value));
            }
        }
    }

    fn begin(&mut self, client: usize) {
        let clients = &mut self.clients;
        if clients.list[client].underway.is_some() {
            return;
        }
        let rest = clients.list[client].rest.take();
        let last = rest.or_else(|| clients.next_last().map(|wish| (wish, true)));
        let (wish, is_last) = match last {
            Some(wish) => wish,
            None if clients.stopped => return,
            None => (clients.draw_wish(client), false),
        };
        if clients.rng.chance(self.profile.forget_percent, 100) {
            clients.forget_routes(client);
        }
        let plan = RetryPlan::new(wish.class(), POLICY, clients.rng.next_u64());
        let (called, began_us) = (clients.next_order(), self.global.now_us());
        self.trace.note(began_us, &[10, client as u64, called], || format!("client {client} wants {wish:?}"));
        if let Wish::Put(pairs, ttl_s @ 1..) = &wish {
            for (key, value) in pairs.clone() {
                // Stores count whole milliseconds, and the last one need not be over.
                self.plan(ttl_s * 1_000_000 - 1_000, Event::Client(ClientEvent::Expire(key, value)));
            }
        }
        self.clients.list[client].underway = Some(Underway { wish, called, began_us, plan, is_last });
        self.attempt(client);
    }

    fn attempt(&mut self, client: usize) {
        let Some(underway) = &self.clients.list[client].underway else { return };
        let position = underway.wish.position();
        let percent = self.profile.extras.asked_routes_percent;
        if percent > 0
            && self.clients.list[client].routes.find(&position).is_none()
            && self.clients.extra.chance(percent, 100)
        {
            return self.ask_for_routes(client, position);
        }
        self.attempt_routed(client);
    }

    /// An attempt of a client that knows a route, or gets one from the operator.
    pub(super) fn attempt_routed(&mut self, client: usize) {
        let Some(underway) = &self.clients.list[client].underway else { return };
        let wish = underway.wish.clone();
        let Some(attempt) = self.address(client, wish) else {
            return self.after_failure(client, FailureKind::NoPlacement, 0, None);
        };
        let call = self.clients.next_call();
        self.clients.attempts.insert(call, attempt);
        // A write's outcome is unknown then.
        self.plan(self.profile.patience_us, Event::Client(ClientEvent::TimeOut(call)));
        if !self.clients.rng.chance(self.network.loss_permille, 2_000) {
            let after = self.network.delay_us();
            self.plan(after, Event::Client(ClientEvent::Arrive(call)));
        }
    }

    /// Decides whom to ask, by the client's routes or by what the operator knows.
    fn address(&mut self, client: usize, wish: Wish) -> Option<Attempt> {
        let position = wish.position();
        if self.clients.list[client].routes.find(&position).is_none() {
            let (region, leader) = self.operator.find(&position)?;
            let learned = self.clients.list[client].routes.insert(region, leader);
            learned.unwrap_or_else(|what| self.violate(what));
        }
        let clients = &mut self.clients;
        let route = clients.list[client].routes.find(&position)?.clone();
        let replica = !wish.is_write() && clients.rng.chance(self.profile.replica_read_percent, 100);
        let strays = clients.rng.chance(self.profile.stray_percent, 100);
        let peer = if replica || strays { *clients.rng.pick(&route.region.peers) } else { route.target()? };
        let wish = wish.clipped(&route.region.range);
        let command = wish.command(&route.region.range, self.profile.value_bytes_max);
        let named = if clients.rng.chance(1, 2) { peer.id } else { PeerId::ZERO };
        let context = RegionContext {
            region: route.region.id,
            epoch: route.region.epoch,
            peer: named,
            term: Term::ZERO,
        };
        let asked = Asked { region: context.region, epoch: context.epoch, peer: peer.id, store: peer.store };
        let by_lease = !self.profile.clocks_lie && clients.rng.chance(3, 4);
        let range = route.region.range.clone();
        let (store, arrived_ms) = (peer.store, 0);
        Some(Attempt { client, wish, store, asked, context, range, command, by_lease, replica, arrived_ms })
    }

    /// Sends an outcome back to the client.
    pub(super) fn tell(&mut self, call: CallId, outcome: Outcome) {
        if self.clients.rng.chance(self.network.loss_permille, 2_000) {
            return;
        }
        let after = self.network.delay_us();
        self.plan(after, Event::Client(ClientEvent::Told(call, outcome)));
    }

    /// The attempt that a client still waits for.
    pub(super) fn attempt_of(&self, call: CallId) -> Option<Attempt> {
        self.clients.attempts.get(&call).cloned()
    }

    /// A store answered a call, or dropped it; `lives` says whether it still runs.
    pub(super) fn on_answer(&mut self, call: CallId, store: StoreId, lives: bool, answer: Answer) {
        self.clients.open.remove(&call);
        let outcome = match answer {
            Answer::Administered(result) => return self.on_administered(call, result),
            Answer::Dropped if self.clients.attempts.contains_key(&call) => Outcome::Unknown,
            Answer::Dropped => return self.on_administered(call, Err(RequestError::Undetermined)),
            Answer::Written(Ok(reply)) => Outcome::Written(reply),
            Answer::Written(Err(RequestError::Undetermined)) => Outcome::Unknown,
            Answer::Written(Err(error)) | Answer::Granted(Err(error)) => Outcome::Refused(error),
            Answer::Granted(Ok(grant)) if lives => return self.on_granted(call, store, grant),
            Answer::Granted(Ok(_)) => Outcome::Unknown,
        };
        self.tell(call, outcome);
    }

    fn on_told(&mut self, call: CallId, outcome: Outcome) {
        let Some(attempt) = self.clients.attempts.remove(&call) else { return };
        let client = attempt.client;
        match outcome {
            Outcome::Written(_) | Outcome::Read(..) => self.end(client, Some((attempt, outcome))),
            Outcome::Refused(error) => {
                let (now, asked) = (self.now_us(), attempt.asked);
                self.trace.note(now, &[11, client as u64], || {
                    format!("client {client}: store {} refuses region {}: {error}", asked.store, asked.region)
                });
                match self.clients.list[client].routes.learn(asked, &error) {
                    Ok(lesson) => self.after_failure(client, lesson.kind, lesson.pause_ms_min, Some(attempt)),
                    Err(what) => self.violate(what),
                }
            }
            Outcome::Unreachable | Outcome::Unknown => {
                self.clients.list[client].routes.failed(attempt.asked);
                let unreachable = matches!(outcome, Outcome::Unreachable);
                let kind = if unreachable { FailureKind::Unreachable } else { FailureKind::NoReply };
                self.after_failure(client, kind, 0, Some(attempt));
            }
        }
    }

    /// The retry plan decides what follows.
    pub(super) fn after_failure(
        &mut self,
        client: usize,
        kind: FailureKind,
        pause_ms_min: u64,
        attempt: Option<Attempt>,
    ) {
        let now = self.now_us();
        let Some(underway) = &mut self.clients.list[client].underway else { return };
        let elapsed_ms = (now - underway.began_us) / 1_000;
        match underway.plan.on_failure(kind, elapsed_ms, pause_ms_min) {
            Decision::RetryAfterMs(ms) => {
                self.stats.retries += 1;
                let after = ms * 1_000 + self.clients.rng.below(2_000);
                self.plan(after, Event::Client(ClientEvent::Try(client)));
            }
            Decision::Fail if underway.is_last => {
                let wish = underway.wish.clone();
                self.violate(format!("{wish:?} found no answer in a cluster at rest: {kind}"));
            }
            Decision::Fail => self.end(client, None),
            Decision::Undetermined => self.end(client, attempt.map(|attempt| (attempt, Outcome::Unknown))),
        }
    }

    /// Ends a client's operation; `None` = it surely never happened.
    fn end(&mut self, client: usize, ended: Option<(Attempt, Outcome)>) {
        let Some(underway) = self.clients.list[client].underway.take() else { return };
        let returned = self.clients.next_order();
        let now = self.now_us();
        self.trace.note(now, &[12, client as u64, returned], || {
            let outcome = ended.as_ref().map(|(_, outcome)| outcome);
            format!("client {client} ends {:?}: {outcome:?}", underway.wish)
        });
        if let Some((attempt, outcome)) = ended {
            let known = !matches!(outcome, Outcome::Unknown);
            let operation = |action| Operation {
                client,
                called: underway.called,
                returned: if known { returned } else { u64::MAX },
                action,
            };
            if let (Wish::Put(pairs, ttl_s @ 1..), true) = (&attempt.wish, known) {
                let gone_us = now + ttl_s * 1_000_000;
                pairs.iter().for_each(|(_, value)| self.clients.expiries.written(*value, gone_us));
            }
            let pairs = match &outcome {
                Outcome::Read(_, pairs) => pairs.clone(),
                _ => Vec::new(),
            };
            if known && (self.profile.extras.wide || underway.is_last) {
                let rest = underway.wish.rest(&attempt.range, &pairs);
                self.clients.list[client].rest = rest.map(|rest| (rest, underway.is_last));
            }
            match self.observed(client, &attempt, outcome) {
                Ok(seen) => {
                    if underway.is_last {
                        self.clients.read_last(&attempt.wish, &seen, &pairs);
                    }
                    for (key, action) in seen {
                        self.clients.history.add(key, operation(action));
                        let alive = self.clients.expiries.check(key, action, underway.began_us);
                        alive.unwrap_or_else(|what| self.violate(what));
                    }
                }
                Err(what) => self.violate(what),
            }
            if known {
                self.stats.operations += 1;
            } else {
                self.stats.unknown += 1;
            }
        }
        let goes_on = underway.is_last || self.clients.list[client].rest.is_some();
        let pause = if goes_on { 1 } else { 1 + self.clients.rng.below(self.profile.think_us_max) };
        self.plan(pause, Event::Client(ClientEvent::Next(client)));
    }

    /// What an outcome says of each key.
    fn observed(
        &mut self,
        client: usize,
        attempt: &Attempt,
        outcome: Outcome,
    ) -> Result<Vec<(usize, Action)>, String> {
        let seen = &mut self.clients.list[client].seen;
        let written = match &outcome {
            Outcome::Written(reply) => Some(Written::decode(reply.clone())?),
            _ => None,
        };
        match (&attempt.wish, outcome) {
            (Wish::Put(pairs, _), _) => {
                seen.extend(pairs.iter().copied());
                Ok(pairs.iter().map(|(key, value)| (*key, Action::Write(*value))).collect())
            }
            (Wish::Delete(key), _) => {
                seen.insert(*key, Value(0));
                Ok(vec![(*key, Action::Write(Value(0)))])
            }
            (Wish::DeleteRange(from, to), _) => {
                let held = (*from..*to).filter(|key| attempt.range.contains(&key_bytes(*key)));
                Ok(held.map(|key| (key, Action::Write(Value(0)))).collect())
            }
            (Wish::Swap(key, expected, value), Outcome::Written(_)) => match written {
                Some(Written::Swapped) => {
                    seen.insert(*key, *value);
                    Ok(vec![(*key, Action::Swap(*expected, *value))])
                }
                Some(Written::Found(current)) if current != *expected => {
                    seen.insert(*key, current);
                    Ok(vec![(*key, Action::Read(current))])
                }
                _ => Err(format!("a compare-and-swap of key {key} failed on the expected value")),
            },
            (Wish::Swap(key, expected, value), _) => Ok(vec![(*key, Action::Swap(*expected, *value))]),
            (wish, Outcome::Read(range, pairs)) => {
                let found = wish.found(&range, &pairs, self.clients.keys)?;
                for (key, action) in &found {
                    if let Action::Read(value) = action {
                        seen.insert(*key, *value);
                    }
                }
                Ok(found)
            }
            (Wish::Get(_) | Wish::BatchGet(_) | Wish::Scan(..) | Wish::Walk(_), _) => Ok(Vec::new()),
        }
    }
}
