//! One run from seed to verdict.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use flotilla_engine::Prng;
use flotilla_raftstore::PeerStatus;
use flotilla_region::{PeerRole, Region, RegionId, StoreId, keys};

use super::extras::Extras;
use super::profile::{Fault, Profile};
use super::stats::Stats;
use super::world::World;
use crate::check::durability::check_kept;
use crate::check::knowledge::check_knowledge;
use crate::check::leaks::{check_held, check_log, check_member, check_table};
use crate::check::linear::{Verdict, check};
use crate::check::scan::check_scan;
use crate::check::tiling::{check_tiling, regions_on};

/// How long the cluster has before faults begin.
const WARM_UP_US: u64 = 1_500_000;
/// How long it may take to come to rest after the last fault.
const REST_US_MAX: u64 = 60_000_000;
/// How often it is asked whether it has.
const REST_LOOK_US: u64 = 200_000;
/// Looks in a row at which a mailbox at rest may have messages.
const UNREAD_LOOKS: u32 = 3;

/// How to run a seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Print every event.
    pub print: bool,
    /// No faults.
    pub calm: bool,
    /// These actions of the nemesis, on a network without faults, instead of what the seed draws.
    pub only: Option<&'static [Fault]>,
    /// Without what was added to the draws later, so that a seed means what it meant before.
    pub early: bool,
    /// Simulated seconds with faults; 0 = as the seed draws.
    pub seconds: u64,
    /// A bug that is to be found.
    #[cfg(feature = "planted")]
    pub planted: Option<super::planted::Planted>,
}

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What went wrong, if anything did.
    pub violation: Option<String>,
    /// Hash of everything that happened.
    pub hash: u64,
    /// Number of events.
    pub events: u64,
    /// Simulated time.
    pub simulated_us: u64,
    /// Counts.
    pub stats: Stats,
}

/// Runs one seed. A panic inside a store is a violation like any other.
pub fn run_seed(seed: u64, options: Options) -> Outcome {
    let mut profile = Profile::draw(&mut Prng::new(seed ^ 0x5eed_5eed));
    if options.seconds > 0 {
        profile.chaos_us = options.seconds * 1_000_000;
    }
    if !options.early {
        profile.add(Extras::draw(seed));
    }
    if options.calm {
        profile = profile.calm();
    }
    if let Some(faults) = options.only {
        profile = profile.only(faults);
    }
    #[cfg(feature = "planted")]
    super::planted::plant(options.planted);
    let mut world = World::new(seed, profile, options.print);
    #[cfg(feature = "planted")]
    if options.planted.is_some_and(|planted| planted.is_of_the_disk()) {
        world.skip_log_sync();
    }
    if options.print {
        println!("{:#?}", world.profile);
    }
    let ran = catch_unwind(AssertUnwindSafe(|| play(&mut world)));
    let violation = match ran {
        Ok(()) => world.violation().cloned(),
        Err(panic) => Some(format!("panic: {}", panic_text(&*panic))),
    };
    let stats = world.final_stats();
    let (hash, events) = (world.trace.hash(), world.trace.events());
    let simulated_us = world.now_us();
    // A world in which a store panicked may not be fit to be dropped in order.
    if violation.as_ref().is_some_and(|v| v.starts_with("panic")) {
        std::mem::forget(world);
    }
    Outcome { seed, violation, hash, events, simulated_us, stats }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

fn play(world: &mut World) {
    world.run_until(WARM_UP_US);
    world.start_clients();
    world.begin_chaos();
    let end = world.now_us() + world.profile.chaos_us;
    world.run_until(end);
    world.end_chaos();
    world.clients.stopped = true;
    if !world.come_to_rest() {
        return;
    }
    if world.profile.wipe {
        world.clients.stopped = false;
        world.start_clients();
        world.lose_store();
        let end = world.now_us() + WARM_UP_US;
        world.run_until(end);
        world.clients.stopped = true;
        if !world.come_to_rest() {
            return;
        }
    }
    world.read_everything();
    if world.come_to_rest() {
        let verdict = world.judge();
        if let Err(what) = verdict {
            world.violate(what);
        }
    }
}

impl World {
    /// Waits until nothing is left to do. `false` if the run has ended with a violation.
    fn come_to_rest(&mut self) -> bool {
        self.unread.clear();
        let limit = self.now_us() + REST_US_MAX;
        let mut calm_looks = 0;
        while self.violation().is_none() {
            let next = self.now_us() + REST_LOOK_US;
            self.run_until(next);
            let unrest = self.unrest().or_else(|| self.unread_mail());
            calm_looks = if unrest.is_none() { calm_looks + 1 } else { 0 };
            if calm_looks >= 3 {
                return self.violation().is_none();
            }
            if let Some(why) = unrest.filter(|_| self.now_us() > limit) {
                self.violate(format!("no rest {} s after the last fault: {why}", REST_US_MAX / 1_000_000));
            }
        }
        false
    }

    /// A worker whose mailbox was empty at none of the last looks. Periodic work puts messages there, which are soon read.
    fn unread_mail(&mut self) -> Option<String> {
        let workers = self.hosts.values().flat_map(|host| {
            let workers = host.running.iter().flat_map(|running| running.workers.iter());
            workers.enumerate().map(|(number, worker)| ((host.id, number), worker))
        });
        let with_mail = workers.filter(|(_, worker)| worker.turn.has_messages());
        let unread = with_mail.map(|(of, _)| (of, 1 + self.unread.get(&of).copied().unwrap_or(0)));
        self.unread = unread.collect();
        let ((store, worker), looks) = self.unread.iter().find(|(_, looks)| **looks >= UNREAD_LOOKS)?;
        Some(format!("worker {worker} of store {store} had mail at the last {looks} looks"))
    }

    /// Why the cluster is not at rest.
    fn unrest(&self) -> Option<String> {
        if (self.hosts.len() as u64) < self.profile.stores {
            return Some("a machine has not joined".into());
        }
        if self.nemesis.has_rotten() {
            return Some("a damaged disk is still in use".into());
        }
        for (id, state) in &self.operator.wanted {
            if self.state_of(*id) != Some(*state) {
                return Some(format!("store {id} is not {state:?} yet"));
            }
        }
        let drained = self.hosts.keys().find(|id| self.operator.is_drained(**id));
        if let Some(id) = drained.filter(|_| self.profile.extras.remove_drained) {
            return Some(format!("drained store {id} is not removed yet"));
        }
        if !self.clients.are_idle() {
            return Some(format!("clients wait: {}", self.clients.waiting().join(", ")));
        }
        let mut regions: BTreeMap<RegionId, Region> = BTreeMap::new();
        let mut replicas = Vec::new();
        if let Some((store, region)) = self.operator.waiting_peer(self.now_us()) {
            return Some(format!("store {store} has a peer of region {region} that waits for data"));
        }
        for host in self.hosts.values() {
            let (views, files) = (host.engine.views(), host.engine.files());
            let held = host.store().map(|store| check_held(host.id, &store.held(), views, files));
            if let Some(Err(why)) = held {
                return Some(why);
            }
            let workers = host.running.iter().flat_map(|running| &running.workers);
            if let Some(worker) = workers.clone().find(|worker| worker.turn.held() > 0) {
                return Some(format!("{} of store {} keeps {}", worker.name, host.id, worker.turn.held()));
            }
            for region in regions_on(&*host.engine_snapshot()).ok()? {
                if self.operator.is_drained(host.id) {
                    return Some(format!("drained store {} holds region {}", host.id, region.id));
                }
                let known = regions.entry(region.id).or_insert_with(|| region.clone());
                if known.epoch.is_stale_against(&region.epoch) {
                    *known = region.clone();
                }
                replicas.push((host.id, region));
            }
        }
        for host in self.hosts.values() {
            let view = host.engine_snapshot();
            let merging = regions.keys().find(|id| matches!(view.get(&keys::merge_state(**id)), Ok(Some(_))));
            if let Some(id) = merging {
                return Some(format!("region {id} merges on store {}", host.id));
            }
        }
        for host in self.hosts.values() {
            let Some(store) = host.store() else { continue };
            if let Err(why) = check_table(host.id, &store.directory().read().routes, &regions) {
                return Some(why);
            }
        }
        let left = |(store, found): &(_, Region)| check_member(*store, found, &regions[&found.id]).err();
        let unrest = regions.values().find_map(|region| self.unrest_of(region));
        unrest.or_else(|| replicas.iter().find_map(left)).or_else(|| self.unrest_of_logs(&replicas))
    }

    fn unrest_of_logs(&self, replicas: &[(StoreId, Region)]) -> Option<String> {
        self.hosts.values().find_map(|host| {
            let here = replicas.iter().filter(|(store, _)| *store == host.id);
            let peers = here.filter_map(|(store, region)| Some((region.id, region.peer_on(*store)?.id)));
            check_log(host.id, &*host.engine, &peers.collect()).err()
        })
    }

    fn unrest_of(&self, region: &Region) -> Option<String> {
        let id = region.id;
        let wanted = self.profile.replicas;
        if region.peers.len() != wanted || region.peers.iter().any(|p| p.role != PeerRole::Voter) {
            return Some(format!("region {id} has peers {:?}", region.peers));
        }
        let peers: Vec<&PeerStatus> =
            region.peers.iter().filter_map(|p| self.operator.peers.get(&p.store)?.get(&id)).collect();
        let Some(leader) = peers.iter().filter(|s| s.is_leader).max_by_key(|s| s.term) else {
            return Some(format!("region {id} has no leader"));
        };
        if peers.len() != wanted {
            return Some(format!("region {id} is seen on {} stores", peers.len()));
        }
        for peer in &peers {
            if peer.applied.index != leader.last_index || peer.region.epoch != region.epoch {
                return Some(format!(
                    "region {id}: store {} has applied {} of {}, epoch {:?} of {:?}",
                    peer.peer.store,
                    peer.applied.index.0,
                    leader.last_index.0,
                    peer.region.epoch,
                    region.epoch
                ));
            }
        }
        None
    }

    /// The verdict on a run that has come to rest.
    fn judge(&mut self) -> Result<(), String> {
        for host in self.hosts.values() {
            let view = host.engine_snapshot();
            for region in regions_on(&*view)? {
                self.watch.replicas.check(host.id, &region, &*view)?;
            }
            self.watch.logs.check_at_rest(host.id, &*host.engine)?;
            check_knowledge(host.id, &*host.engine)?;
        }
        check_tiling(self.operator.leaders().map(|s| &*s.region))?;
        let forgotten = self
            .clients
            .open
            .iter()
            .find(|(_, (id, life))| self.hosts.get(id).is_some_and(|host| host.life == *life));
        if let Some((call, (store, _))) = forgotten {
            return Err(format!("store {store} never answered call {}", call.0));
        }
        for met in &self.clients.scanned {
            check_scan(met, &self.clients.final_values, |key| self.clients.expires(key))?;
        }
        for (key, operations) in self.clients.history.keys() {
            check_kept(key, operations)?;
            match check(operations) {
                Verdict::Linearizable => {}
                Verdict::Violation => {
                    return Err(format!("the history of key {key} is not linearizable: {operations:?}"));
                }
                Verdict::Undecided => return Err(format!("the history of key {key} is too hard to decide")),
            }
        }
        Ok(())
    }

    /// Counts, those of living stores included.
    pub(super) fn final_stats(&mut self) -> Stats {
        let ids: Vec<_> = self.hosts.keys().copied().collect();
        ids.into_iter().for_each(|id| self.count_store(id));
        self.stats.births = self.watch.gaps.measured.0;
        self.stats
    }
}
