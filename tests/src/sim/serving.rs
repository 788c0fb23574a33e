//! Client requests on a store: what a service around [`flotilla_raftstore::Store`] does. Reads under the lease are
//! three steps with room between them: check, take the view, check again.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::Engine;
use flotilla_kv::{Scan, View};
use flotilla_raftstore::{Clock, LocalRead, ReadGrant, RegionContext, RegionLoad, RequestError};
use flotilla_region::{KeyRange, Region, StoreId};

use super::clients::{Attempt, ClientEvent, Outcome};
use super::effects::{Answer, CallId, Callback, Life};
use super::host::Reading;
use super::wishes::{Position, Wish, key_bytes};
use super::world::{Event, World};

impl World {
    /// An attempt arrives at its store.
    pub(super) fn on_arrival(&mut self, call: CallId) {
        let Some(attempt) = self.attempt_of(call) else { return };
        let now = self.now_us();
        let Some(host) = self.hosts.get(&attempt.store).filter(|h| h.running.is_some()) else {
            return self.tell(call, Outcome::Unreachable);
        };
        if host.paused_until_us > now {
            let after = host.paused_until_us - now;
            return self.plan(after, Event::Client(ClientEvent::Arrive(call)));
        }
        let attempt = Attempt { arrived_ms: host.clock.unix_ms(), ..attempt };
        self.clients.arrived(call, attempt.arrived_ms);
        self.trace.note(now, &[13, call.0, attempt.store.0], || {
            let (store, region) = (attempt.store, attempt.context.region);
            let how = if attempt.replica { " by any replica" } else { "" };
            format!(
                "call {} of client {} asks store {store} for region {region}{how}",
                call.0, attempt.client
            )
        });
        if attempt.wish.is_write() {
            self.ask_write(call, &attempt);
        } else if attempt.by_lease && !attempt.replica {
            self.begin_lease_read(call, &attempt);
        } else {
            self.ask_read(call, attempt.store, attempt.context, attempt.replica);
        }
        self.plan_turns(attempt.store, now);
    }

    fn callback(&mut self, call: CallId, store: StoreId) -> Callback {
        let life = self.hosts[&store].life;
        self.clients.open.insert(call, (store, life));
        Callback::new(&self.effects, store, life, call)
    }

    fn ask_write(&mut self, call: CallId, attempt: &Attempt) {
        let callback = self.callback(call, attempt.store);
        let done = Box::new(move |result| callback.answer(Answer::Written(result)));
        if let Some(store) = self.hosts[&attempt.store].store() {
            store.write(attempt.context, attempt.command.clone(), done);
        }
    }

    fn ask_read(&mut self, call: CallId, store: StoreId, context: RegionContext, replica: bool) {
        let callback = self.callback(call, store);
        let done = Box::new(move |result| callback.answer(Answer::Granted(result)));
        if let Some(store) = self.hosts[&store].store() {
            store.read(context, replica, done);
        }
    }

    fn begin_lease_read(&mut self, call: CallId, attempt: &Attempt) {
        let host = self.hosts.get_mut(&attempt.store).expect("the caller found it");
        let begun = host.store().and_then(|store| store.begin_local_read(&attempt.context));
        match begun {
            Some(read) => {
                let life = host.life;
                host.readings.insert(call, Reading::Begun(read));
                self.go_on(call, life);
            }
            None => self.ask_read(call, attempt.store, attempt.context, false),
        }
    }

    /// The next step of a read follows soon, or, rarely, after the thread was descheduled for long.
    fn go_on(&mut self, call: CallId, life: Life) {
        let long = self.rng.chance(1, 50);
        let after = self.rng.below(if long { 1_500_000 } else { 300 });
        self.plan(after, Event::Client(ClientEvent::ReadOn(call, life)));
    }

    /// The raft worker granted a read.
    pub(super) fn on_granted(&mut self, call: CallId, store: StoreId, grant: ReadGrant) {
        let Some(host) = self.hosts.get_mut(&store) else { return };
        let life = host.life;
        host.readings.insert(call, Reading::Granted(grant));
        self.go_on(call, life);
    }

    /// A read on a store takes its next step.
    pub(super) fn read_on(&mut self, call: CallId, life: Life) {
        let now = self.now_us();
        let holder = self.hosts.values_mut().find(|h| h.readings.contains_key(&call));
        let Some(host) = holder.filter(|h| h.life == life) else {
            // The process died under the read: the client sees a broken connection.
            return self.tell(call, Outcome::Unknown);
        };
        if host.paused_until_us > now {
            let after = host.paused_until_us - now;
            return self.plan(after, Event::Client(ClientEvent::ReadOn(call, life)));
        }
        let (id, reading) = (host.id, host.readings.remove(&call));
        let Some(attempt) = self.attempt_of(call) else { return };
        match reading {
            Some(Reading::Begun(read)) => {
                let view = self.hosts[&id].engine.snapshot();
                let host = self.hosts.get_mut(&id).expect("found above");
                host.readings.insert(call, Reading::Viewed(read, view));
                self.go_on(call, life);
            }
            Some(Reading::Viewed(read, view)) => self.end_lease_read(call, &attempt, read, &*view),
            Some(Reading::Granted(grant)) => {
                self.stats.index_reads += 1;
                let outcome = self.read_view(&attempt, &grant.region, &*grant.snapshot);
                count(&grant.load, &outcome);
                self.tell(call, outcome);
            }
            None => {}
        }
    }

    fn end_lease_read(
        &mut self,
        call: CallId,
        attempt: &Attempt,
        read: LocalRead,
        view: &dyn flotilla_engine::EngineSnapshot,
    ) {
        if read.still_holds(&*self.hosts[&attempt.store].clock) {
            self.stats.lease_reads += 1;
            let outcome = self.read_view(attempt, read.region(), view);
            count(read.load(), &outcome);
            return self.tell(call, outcome);
        }
        self.ask_read(call, attempt.store, attempt.context, false);
        self.plan_turns(attempt.store, self.now_us());
    }

    fn read_view(
        &mut self,
        attempt: &Attempt,
        region: &Region,
        view: &dyn flotilla_engine::EngineSnapshot,
    ) -> Outcome {
        let single = |key: Bytes| KeyRange::new(key.clone(), [&key[..], &[0]].concat());
        let (wanted, reverse, limit) = match (&attempt.wish, attempt.wish.position()) {
            (Wish::Scan(from, to), _) => (KeyRange::new(key_bytes(*from), key_bytes(*to)), false, usize::MAX),
            (Wish::Walk(walk), _) => (walk.left.clone(), walk.reverse, walk.page_pairs),
            (_, Position::At(key) | Position::Before(key)) => (single(key), false, usize::MAX),
        };
        let range = wanted.intersect(&region.range).intersect(&attempt.range);
        if range.is_empty() {
            return Outcome::Refused(RequestError::KeyNotInRegion {
                key: wanted.start,
                region: attempt.context.region,
                range: region.range.clone(),
            });
        }
        let view = View::new(view, region, attempt.arrived_ms);
        let scan = Scan { range: range.clone(), reverse, limit, key_only: false };
        let read = match &attempt.wish {
            Wish::BatchGet(keys) => {
                view.batch_get(&keys.iter().map(|key| key_bytes(*key)).collect::<Vec<_>>())
            }
            _ => view.scan(&scan),
        };
        let Ok(pairs) = read else { return Outcome::Unknown };
        let last = pairs.last().filter(|_| pairs.len() >= limit).map(|pair| &pair.key);
        // A full page ends with its last pair.
        let range = match last {
            Some(last) if reverse => KeyRange::new(last.clone(), range.end),
            Some(last) => KeyRange::new(range.start, single(last.clone()).end),
            None => range,
        };
        Outcome::Read(range, pairs.into_iter().map(|pair| (pair.key, pair.value)).collect())
    }
}

/// Tells a region's load what was read.
fn count(load: &Arc<RegionLoad>, outcome: &Outcome) {
    let Outcome::Read(range, pairs) = outcome else { return };
    let bytes = pairs.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
    match (pairs.first(), pairs.last()) {
        (Some((first, _)), Some((last, _))) => load.scanned(first, last, bytes),
        _ => load.read_key(&range.start, bytes),
    }
}
