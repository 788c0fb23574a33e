//! Regions that sleep, under the simulator's stores.

use flotilla_placement::RegionInfo;
use flotilla_raftstore::{Counters, StoreConfig};
use flotilla_region::{RegionId, StoreId};
use flotilla_tests::sim::world::World;

use crate::play::{self, run_for};

/// Simulated time in which a cluster has to get over something.
const PATIENCE_US: u64 = 40_000_000;
const USER: RegionId = RegionId::FIRST_USER;
const PEER_DOWN_MS: u64 = 2_000;

/// Three stores that support each other, without faults, clients or comparisons, whose regions sleep.
fn sleeping_world(seed: u64) -> World {
    world_with(seed, |config| config.sleep_ticks = 3)
}

fn world_with(seed: u64, change: impl Fn(&mut StoreConfig)) -> World {
    let mut profile = play::calm(seed, 3);
    let config = &mut profile.config;
    config.store_liveness = true;
    (config.liveness_duration_ms, config.liveness_interval_ms) = (1_000, 375);
    config.peer_down_ms = PEER_DOWN_MS;
    change(config);
    let mut world = World::new(seed, profile, false);
    wait(&mut world, "every region has three replicas and a leader", |world| {
        let known = |id| world.operator.leader_of(id).is_some_and(|leader| leader.region.peers.len() == 3);
        known(RegionId::META) && known(USER)
    });
    run_for(&mut world, 5_000_000);
    world
}

fn leader_of(world: &World, region: RegionId) -> StoreId {
    world.operator.leader_of(region).expect("led").peer.store
}

/// What a store says of the clients' region.
fn known(world: &World, store: StoreId) -> RegionInfo {
    let store = world.hosts[&store].store().expect("it runs");
    store.directory().read().routes.by_id(USER).expect("known").clone()
}

fn wakes(world: &World, store: StoreId) -> u64 {
    let count = |counters: &Counters| counters.wakes.load(std::sync::atomic::Ordering::Relaxed);
    count(world.hosts[&store].store().expect("it runs").counters())
}

/// Whether all stores run, and all their peers are packed.
fn is_packed(world: &World) -> bool {
    let mut stores = world.hosts.values().map(|host| host.store());
    stores.all(|store| store.is_some_and(|store| store.packed_peers() == store.region_count() as u64))
}

fn wait(world: &mut World, what: &str, is_done: impl FnMut(&World) -> bool) {
    play::wait(world, PATIENCE_US, what, is_done);
}

#[test]
fn peers_that_sleep_are_packed_all_of_them() {
    for seed in 0..5 {
        let mut world = sleeping_world(seed);
        wait(&mut world, "all peers are packed", is_packed);
        let (leader, before) = (leader_of(&world, USER), wakes(&world, leader_of(&world, USER)));
        let other = *world.hosts.keys().find(|id| **id != leader).expect("three stores");
        world.network.cut(leader, other);
        world.network.cut(other, leader);
        run_for(&mut world, 2_000_000);
        world.network.heal();
        wait(&mut world, "they are again", is_packed);
        run_for(&mut world, 3_000_000);
        assert!(is_packed(&world) && wakes(&world, leader) > before, "seed {seed}");
    }
}

#[test]
fn all_peers_sleep_again_after_the_death_and_the_return_of_a_store() {
    for seed in 0..20 {
        let mut world = sleeping_world(seed);
        wait(&mut world, "all peers are packed", is_packed);
        let leader = leader_of(&world, USER);
        for down_us in [300_000, 3_000_000, 8_000_000] {
            world.stop(leader, "test");
            run_for(&mut world, down_us);
            world.start(leader);
            wait(&mut world, "all peers are packed again", is_packed);
        }
    }
}

#[test]
fn a_leader_that_sleeps_tells_of_a_follower_whose_store_it_cannot_reach_and_of_its_return() {
    for seed in 0..20 {
        let mut world = sleeping_world(seed);
        let leader = leader_of(&world, USER);
        let meta = leader_of(&world, RegionId::META);
        let lost = *world.hosts.keys().find(|id| **id != leader && **id != meta).expect("three stores");
        let peer = known(&world, leader).region.peer_on(lost).expect("a replica").id;
        world.network.cut(leader, lost);
        world.network.cut(lost, leader);
        run_for(&mut world, 1_500_000);
        let before = wakes(&world, leader);
        assert!(known(&world, leader).down.is_empty(), "seed {seed}: too early");
        wait(&mut world, "the follower is down", |world| {
            known(world, leader).down.get(&peer).is_some_and(|ms| *ms >= 2 * PEER_DOWN_MS)
        });
        assert_eq!(wakes(&world, leader), before, "seed {seed}: nobody had to wake for it");
        world.network.heal();
        wait(&mut world, "the follower is back", |world| {
            known(world, leader_of(world, USER)).down.is_empty()
        });
    }
}

#[test]
fn regions_that_are_awake_send_heartbeats_where_these_tell_something() {
    const ELECTION_US: u64 = 600_000;
    for seed in 0..10 {
        let mut world = world_with(seed, |config| {
            (config.tick_ms, config.election_ticks, config.heartbeat_ticks) = (100, 6, 2);
            config.lease_ms = 400;
            config.sleep_ticks = u32::MAX;
            config.placement.merge_regions = false;
            (config.split_bytes, config.split_keys, config.split_busy_bytes) = (0, 0, 0);
            (config.load_split_requests, config.load_split_bytes, config.load_split_cpu_ms) = (0, 0, 0);
        });
        let rate = |world: &mut World, us: u64| {
            let before = world.stats.heartbeats;
            run_for(world, us);
            world.stats.heartbeats - before
        };
        world.start_clients();
        run_for(&mut world, 3_000_000);
        world.clients.stopped = true;
        run_for(&mut world, 2_000_000);
        // Each leader asks each follower once for each of its quorum checks, or twice if the answer takes its time, and not
        // three times; in some worlds ticks are slow.
        let regions = world.hosts[&StoreId(1)].store().expect("it runs").region_count() as u64;
        let checks = regions * 2 * 30_000_000 / ELECTION_US;
        let at_rest = rate(&mut world, 30_000_000);
        let few = checks / 2..checks * 3 / 2;
        assert!(few.contains(&at_rest), "seed {seed}: {at_rest} of {checks}");

        let (leader, meta) = (leader_of(&world, USER), leader_of(&world, RegionId::META));
        let other = *world.hosts.keys().find(|id| **id != leader && **id != meta).expect("three stores");
        // Only answers are lost, so that heartbeats arrive: the leader cannot count on that follower's promise.
        world.network.cut(other, leader);
        run_for(&mut world, 2_000_000);
        let cut = rate(&mut world, 30_000_000);
        assert!(cut >= at_rest + checks / regions / 2, "seed {seed}: {cut} after {at_rest}");
        world.network.heal();
        run_for(&mut world, 5_000_000);
        let healed = rate(&mut world, 30_000_000);
        assert!(few.contains(&healed), "seed {seed}: {healed} of {checks}");
    }
}
