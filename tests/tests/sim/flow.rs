//! Entries under way to a slow or silent store, with room for few of them: nobody else waits.

use std::sync::atomic::Ordering;

use flotilla_region::{RegionId, StoreId};
use flotilla_tests::sim::world::World;

use crate::play::{self, run_for};

/// Simulated time in which a cluster has to get over something.
const PATIENCE_US: u64 = 40_000_000;
/// For how long clients are counted.
const LONG_US: u64 = 4_000_000;
const USER: RegionId = RegionId::FIRST_USER;

/// Three stores without faults, and a region that clients write to, with room for one append under way to each store.
fn world(seed: u64) -> World {
    let mut profile = play::calm(seed, 3);
    let config = &mut profile.config;
    config.store_inflight_bytes_max = 1;
    (config.split_bytes, config.split_keys) = (0, 0);
    (config.load_split_requests, config.load_split_bytes, config.load_split_cpu_ms) = (0, 0, 0);
    let mut world = World::new(seed, profile, false);
    wait(&mut world, "every region has three replicas and a leader", |world| {
        let known = |id| world.operator.leader_of(id).is_some_and(|leader| leader.region.peers.len() == 3);
        known(RegionId::META) && known(USER)
    });
    run_for(&mut world, 2_000_000);
    world.start_clients();
    run_for(&mut world, 1_000_000);
    world
}

fn leader_of(world: &World, region: RegionId) -> Option<StoreId> {
    world.operator.leader_of(region).map(|leader| leader.peer.store)
}

/// A store that leads neither of the regions that matter, and the others.
fn follower(world: &mut World) -> (StoreId, Vec<StoreId>) {
    let leaders = |world: &World| Some([leader_of(world, USER)?, leader_of(world, RegionId::META)?]);
    wait(world, "both are led", |world| leaders(world).is_some());
    let leaders = leaders(world).expect("just seen");
    let store = *world.hosts.keys().find(|id| !leaders.contains(id)).expect("three stores");
    (store, world.hosts.keys().copied().filter(|id| *id != store).collect())
}

fn held_back(world: &World) -> u64 {
    let stores = world.hosts.values().filter_map(|host| host.store());
    stores.map(|store| store.counters().appends_held_back.load(Ordering::Relaxed)).sum()
}

/// Operations with an outcome in the next while.
fn served(world: &mut World) -> usize {
    let count = |world: &World| world.clients.history.counts().0;
    let before = count(world);
    run_for(world, LONG_US);
    count(world) - before
}

/// Clients end; whatever was held back is sent in the end, and acknowledged.
fn come_to_rest(world: &mut World) {
    world.clients.stopped = true;
    wait(world, "nothing is under way", |world| {
        let is_all_there = |store: &flotilla_raftstore::Store| store.held().inflight_bytes == 0;
        let last = |id: &StoreId| world.operator.peers.get(id)?.get(&USER).map(|peer| peer.commit);
        let commits: Vec<_> = world.hosts.keys().map(last).collect();
        world.hosts.values().filter_map(|host| host.store()).all(is_all_there)
            && commits.iter().all(|commit| commit.is_some() && *commit == commits[0])
            && world
                .hosts
                .values()
                .flat_map(|h| &h.running)
                .flat_map(|r| &r.workers)
                .all(|w| w.turn.held() == 0)
    });
}

fn wait(world: &mut World, what: &str, is_done: impl FnMut(&World) -> bool) {
    play::wait(world, PATIENCE_US, what, is_done);
}

#[test]
fn a_slow_store_keeps_nobody_waiting_but_itself() {
    for seed in 0..4 {
        let mut world = world(seed);
        let usual = served(&mut world);
        let (slow, others) = follower(&mut world);
        let before = held_back(&world);
        for other in others {
            world.network.slow_down(slow, other, 100_000);
            world.network.slow_down(other, slow, 100_000);
        }
        let now = served(&mut world);
        assert!(held_back(&world) > before, "seed {seed}: the store is slow");
        assert!(now * 2 > usual, "seed {seed}: {now} operations instead of {usual}");
        come_to_rest(&mut world);
    }
}

#[test]
fn a_store_that_answers_nothing_keeps_nobody_waiting_and_gets_everything_when_it_is_back() {
    for seed in 0..4 {
        let mut world = world(seed);
        let (silent, others) = follower(&mut world);
        for other in &others {
            world.network.swallow(silent, *other);
            world.network.swallow(*other, silent);
        }
        run_for(&mut world, 2_000_000);
        assert!(served(&mut world) > 50, "seed {seed}");
        let under_way = |world: &World| -> u64 {
            let of = |id: &StoreId| world.hosts[id].store().map(|store| store.inflight_bytes());
            others.iter().filter_map(|id| of(id)?.get(&silent).copied()).sum()
        };
        assert_eq!(under_way(&world), 0, "seed {seed}: what was under way counts as lost");
        world.network.heal();
        come_to_rest(&mut world);
    }
}
