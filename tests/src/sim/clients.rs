//! Clients: one operation at a time each, routed by a cache that store errors teach, repeated only while the store says
//! that it was surely not carried out.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::Prng;
use flotilla_raftstore::{RegionContext, RequestError};
use flotilla_region::{KeyRange, PeerId, Region, StoreId, Term};

use super::effects::{Answer, CallId, Life};
use super::kv::{Command, Value};
use super::profile::Profile;
use super::routes::Routes;
use super::world::{Event, World};
use crate::check::history::{Action, History, Operation};

/// An attempt without an answer for so long is given up; a write's outcome is unknown then.
const ATTEMPT_US: u64 = 4_000_000;
/// An operation that was surely not carried out is repeated for so long.
const OPERATION_US: u64 = 20_000_000;

/// What a client wants.
#[derive(Clone, Debug)]
pub enum Wish {
    /// Read a key.
    Get(usize),
    /// Read keys `[from, to)`, as far as one region holds them.
    Scan(usize, usize),
    /// Set a key.
    Put(usize, Value),
    /// Remove a key.
    Delete(usize),
    /// Set a key if it has the first value.
    Swap(usize, Value, Value),
}

impl Wish {
    /// The key by which the operation is routed.
    pub fn key(&self) -> usize {
        match self {
            Self::Get(key)
            | Self::Scan(key, _)
            | Self::Put(key, _)
            | Self::Delete(key)
            | Self::Swap(key, ..) => *key,
        }
    }

    /// Whether it changes anything.
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Get(_) | Self::Scan(..))
    }
}

/// An attempt on its way.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its client.
    pub client: usize,
    /// What is asked.
    pub wish: Wish,
    /// Whom.
    pub store: StoreId,
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
}

/// An operation under way.
struct Underway {
    wish: Wish,
    called: u64,
    began_us: u64,
}

/// One client.
struct Client {
    routes: Routes,
    underway: Option<Underway>,
    /// Values last seen.
    seen: BTreeMap<usize, Value>,
}

/// All clients.
pub struct Clients {
    list: Vec<Client>,
    rng: Prng,
    keys: usize,
    next_value: u64,
    next_call: u64,
    /// Position in the order of calls and returns.
    order: u64,
    /// Attempts that clients wait for.
    attempts: BTreeMap<CallId, Attempt>,
    /// Callbacks that stores have not called yet, and which life of which store holds them.
    pub open: BTreeMap<CallId, (StoreId, Life)>,
    /// What clients were told.
    pub history: History,
    /// No new operations begin.
    pub stopped: bool,
    /// Keys that are still to be read at the end.
    pub final_reads: Vec<usize>,
}

/// The bytes of a key.
pub fn key_bytes(key: usize) -> Bytes {
    Bytes::from(format!("k{key:03}"))
}

fn key_number(bytes: &[u8]) -> Option<usize> {
    std::str::from_utf8(bytes).ok()?.strip_prefix('k')?.parse().ok()
}

impl Clients {
    /// The clients of a profile.
    pub fn new(profile: &Profile, rng: Prng) -> Self {
        let client = || Client { routes: Routes::default(), underway: None, seen: BTreeMap::new() };
        Self {
            list: (0..profile.clients).map(|_| client()).collect(),
            rng,
            keys: profile.keys,
            next_value: 1,
            next_call: 1,
            order: 0,
            attempts: BTreeMap::new(),
            open: BTreeMap::new(),
            history: History::default(),
            stopped: false,
            final_reads: Vec::new(),
        }
    }

    /// Whether no client waits for anything.
    pub fn are_idle(&self) -> bool {
        self.final_reads.is_empty() && self.list.iter().all(|c| c.underway.is_none())
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

    fn draw_wish(&mut self, client: usize) -> Wish {
        let key = self.rng.index(self.keys);
        let value = Value(self.next_value);
        match self.rng.below(10) {
            0..=3 => Wish::Get(key),
            4 => Wish::Scan(key, (key + 1 + self.rng.index(self.keys)).min(self.keys)),
            5 | 6 => {
                self.next_value += 1;
                Wish::Put(key, value)
            }
            7 if self.rng.chance(1, 2) => Wish::Delete(key),
            _ => {
                self.next_value += 1;
                let seen = self.list[client].seen.get(&key).copied().unwrap_or_default();
                Wish::Swap(key, seen, value)
            }
        }
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

    /// Client 0 reads every key once more.
    pub fn read_everything(&mut self) {
        self.clients.final_reads = (0..self.clients.keys).collect();
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
        }
    }

    fn begin(&mut self, client: usize) {
        let clients = &mut self.clients;
        if clients.list[client].underway.is_some() {
            return;
        }
        let wish = match clients.final_reads.pop() {
            Some(key) => Wish::Get(key),
            None if clients.stopped => return,
            None => clients.draw_wish(client),
        };
        let (called, began_us) = (clients.next_order(), self.global.now_us());
        self.trace.note(began_us, &[10, client as u64, called], || format!("client {client} wants {wish:?}"));
        self.clients.list[client].underway = Some(Underway { wish, called, began_us });
        self.attempt(client);
    }

    fn attempt(&mut self, client: usize) {
        let Some(underway) = &self.clients.list[client].underway else { return };
        let wish = underway.wish.clone();
        if self.now_us() - underway.began_us > OPERATION_US {
            // Every attempt was surely not carried out, so the operation never happened.
            return self.end(client, None);
        }
        let Some(attempt) = self.address(client, wish) else {
            let after = 20_000 + self.clients.rng.below(50_000);
            return self.plan(after, Event::Client(ClientEvent::Try(client)));
        };
        let call = self.clients.next_call();
        self.clients.attempts.insert(call, attempt);
        self.plan(ATTEMPT_US, Event::Client(ClientEvent::TimeOut(call)));
        if !self.clients.rng.chance(self.network.loss_permille, 2_000) {
            let after = self.network.delay_us();
            self.plan(after, Event::Client(ClientEvent::Arrive(call)));
        }
    }

    /// Decides whom to ask, by the client's cache or by what the operator knows.
    fn address(&mut self, client: usize, wish: Wish) -> Option<Attempt> {
        let key = key_bytes(wish.key());
        if self.clients.list[client].routes.find(&key).is_none() {
            let (region, leader) = self.operator.find(&key)?;
            self.clients.list[client].routes.learn(region, leader);
        }
        let clients = &mut self.clients;
        let route = clients.list[client].routes.find(&key)?.clone();
        let replica = !wish.is_write() && clients.rng.chance(self.profile.replica_read_percent, 100);
        let leader = route.leader.and_then(|id| route.region.peer(id));
        let peer = match leader {
            Some(peer) if !replica => *peer,
            _ => *clients.rng.pick(&route.region.peers),
        };
        let padding = self.profile.value_bytes_max;
        let command = match &wish {
            Wish::Put(_, value) | Wish::Swap(_, _, value) => {
                let stored = value.encode((value.0.wrapping_mul(7_919) % padding) as usize);
                match &wish {
                    Wish::Swap(_, expected, _) => Command::Swap(key, *expected, stored).encode(),
                    _ => Command::Put(key, stored).encode(),
                }
            }
            Wish::Delete(_) => Command::Delete(key).encode(),
            Wish::Get(_) | Wish::Scan(..) => Bytes::new(),
        };
        let named = if clients.rng.chance(1, 2) { peer.id } else { PeerId::ZERO };
        let context = RegionContext {
            region: route.region.id,
            epoch: route.region.epoch,
            peer: named,
            term: Term::ZERO,
        };
        let (by_lease, range) = (clients.rng.chance(3, 4), route.region.range);
        Some(Attempt { client, wish, store: peer.store, context, range, command, by_lease, replica })
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
            Outcome::Unknown if attempt.wish.is_write() => self.end(client, Some((attempt, outcome))),
            Outcome::Refused(error) => {
                let now = self.now_us();
                let (store, region) = (attempt.store, attempt.context.region);
                self.trace.note(now, &[11, client as u64], || {
                    format!("client {client}: store {store} refuses region {region}: {error}")
                });
                self.learn_from(&attempt, &error);
                self.retry(client);
            }
            Outcome::Unreachable | Outcome::Unknown => {
                let forget = self.clients.rng.chance(1, 2);
                let (routes, region) = (&mut self.clients.list[client].routes, attempt.context.region);
                routes.set_leader(region, None);
                if forget {
                    routes.forget(region);
                }
                self.retry(client);
            }
        }
    }

    fn retry(&mut self, client: usize) {
        self.stats.retries += 1;
        let after = 2_000 + self.clients.rng.below(60_000);
        self.plan(after, Event::Client(ClientEvent::Try(client)));
    }

    fn learn_from(&mut self, attempt: &Attempt, error: &RequestError) {
        let (store, region) = (attempt.store, attempt.context.region);
        let forget = self.clients.rng.chance(1, 2);
        let routes = &mut self.clients.list[attempt.client].routes;
        match error {
            RequestError::NotLeader { leader, .. } => routes.set_leader(region, *leader),
            RequestError::EpochNotMatch(regions) => {
                let newer: &[Region] = regions;
                if newer.iter().all(|r| r.epoch.version <= attempt.context.epoch.version) {
                    routes.forget(region);
                }
                for region in newer {
                    routes.learn(region.clone(), region.peer_on(store).map(|p| p.id));
                }
            }
            RequestError::RegionNotFound(_) | RequestError::PeerMismatch { .. } => {
                routes.set_leader(region, None);
                if forget {
                    routes.forget(region);
                }
            }
            _ => {}
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
            match self.observed(client, &attempt, outcome) {
                Ok(seen) => {
                    for (key, action) in seen {
                        self.clients.history.add(key, operation(action));
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
        let final_ones = !self.clients.final_reads.is_empty();
        let pause = if final_ones { 1 } else { 1 + self.clients.rng.below(self.profile.think_us_max) };
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
        match (&attempt.wish, outcome) {
            (Wish::Put(key, value), _) => {
                seen.insert(*key, *value);
                Ok(vec![(*key, Action::Write(*value))])
            }
            (Wish::Delete(key), _) => {
                seen.insert(*key, Value(0));
                Ok(vec![(*key, Action::Write(Value(0)))])
            }
            (Wish::Swap(key, expected, value), Outcome::Written(reply)) => match reply.first() {
                Some(1) => {
                    seen.insert(*key, *value);
                    Ok(vec![(*key, Action::Swap(*expected, *value))])
                }
                _ => {
                    let number = reply.get(1..9).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
                    let current = Value(number.ok_or("a compare-and-swap got a malformed reply")?);
                    if current == *expected {
                        return Err(format!("a compare-and-swap of key {key} failed on the expected value"));
                    }
                    seen.insert(*key, current);
                    Ok(vec![(*key, Action::Read(current))])
                }
            },
            (Wish::Swap(key, expected, value), _) => Ok(vec![(*key, Action::Swap(*expected, *value))]),
            (Wish::Get(_) | Wish::Scan(..), Outcome::Read(range, pairs)) => {
                let found = read_actions(&range, &pairs, self.clients.keys)?;
                for (key, action) in &found {
                    if let Action::Read(value) = action {
                        seen.insert(*key, *value);
                    }
                }
                Ok(found)
            }
            (Wish::Get(_) | Wish::Scan(..), _) => Ok(Vec::new()),
        }
    }
}

/// Every key of the range was read, those that are missing too.
fn read_actions(
    range: &KeyRange,
    pairs: &[(Bytes, Bytes)],
    keys: usize,
) -> Result<Vec<(usize, Action)>, String> {
    let mut found: BTreeMap<usize, Value> =
        (0..keys).filter(|key| range.contains(&key_bytes(*key))).map(|key| (key, Value(0))).collect();
    for (key, value) in pairs {
        let slot = key_number(key).and_then(|number| found.get_mut(&number));
        match (slot, Value::decode(value)) {
            (Some(slot), Some(value)) => *slot = value,
            _ => return Err(format!("a read returned the strange pair {key:?} = {value:?}")),
        }
    }
    Ok(found.into_iter().map(|(key, value)| (key, Action::Read(value))).collect())
}
