//! Peers that were removed while they heard nobody: they end, whoever is left to tell them.

use flotilla_engine::Engine;
use flotilla_placement::{RegionInfo, StoreState};
use flotilla_raftstore::RegionState;
use flotilla_region::{PeerRole, Region, RegionId, StoreId, keys};
use flotilla_tests::sim::world::World;

use crate::play::{self, run_for};

/// Simulated time in which a cluster has to get over something.
const PATIENCE_US: u64 = 90_000_000;
const USER: RegionId = RegionId::FIRST_USER;
/// Several times the profile's `stale_peer_ms`.
const LONG_US: u64 = 15_000_000;

/// So many stores without faults, clients or comparisons, and three replicas of every region.
fn world(seed: u64, stores: u64) -> World {
    world_with(seed, stores, 3_000)
}

fn world_with(seed: u64, stores: u64, stale_peer_ms: u64) -> World {
    let mut profile = play::calm(seed, stores);
    let config = &mut profile.config;
    config.split_bytes = 0;
    config.stale_peer_ms = stale_peer_ms;
    let mut world = World::new(seed, profile, false);
    wait(&mut world, "every region has three voters", |world| {
        let full = |id| world.operator.leader_of(id).is_some_and(|leader| leader.region.peers.len() == 3);
        full(RegionId::META) && full(USER) && world.hosts.len() as u64 == stores
    });
    run_for(&mut world, 2_000_000);
    world
}

fn region_on(world: &World, store: StoreId, id: RegionId) -> Option<Region> {
    let state = world.hosts[&store].engine.get(&keys::region_state(id)).ok()?;
    match state.and_then(RegionState::decode) {
        Some(RegionState::Normal(region)) => Some(region),
        _ => None,
    }
}

fn holders(world: &World) -> Vec<StoreId> {
    let leader = world.operator.leader_of(USER).expect("led");
    leader.region.peers.iter().map(|peer| peer.store).collect()
}

/// Cuts a follower's store off and moves all else of the region to other stores. Returns that store, and the two that had
/// the region with it.
fn forsaken(world: &mut World) -> (StoreId, Vec<StoreId>) {
    let leader = world.operator.leader_of(USER).expect("led").peer.store;
    let meta = world.operator.leader_of(RegionId::META).expect("led").peer.store;
    let mut before = holders(world);
    let lost = *before.iter().find(|id| **id != leader && **id != meta).expect("three replicas");
    for other in world.hosts.keys().copied().filter(|id| *id != lost).collect::<Vec<_>>() {
        world.network.cut(lost, other);
        world.network.cut(other, lost);
    }
    for id in &before {
        world.operator.wanted.insert(*id, StoreState::Offline);
    }
    wait(world, "the region has moved away", |world| {
        holders(world).iter().all(|id| !before.contains(id))
            && before.iter().all(|id| *id == lost || region_on(world, *id, USER).is_none())
    });
    assert!(region_on(world, lost, USER).is_some(), "it heard of nothing");
    before.retain(|id| *id != lost);
    (lost, before)
}

/// A replica that hears of its demotion, and then nobody any more while it is removed.
fn removed_unheard(world: &mut World) -> StoreId {
    let leader = world.operator.leader_of(USER).expect("led").peer.store;
    let meta = world.operator.leader_of(RegionId::META).expect("led").peer.store;
    let mut here = holders(world).into_iter();
    let store = here.find(|id| *id != leader && *id != meta).expect("three replicas");
    world.operator.wanted.insert(store, StoreState::Offline);
    let limit = world.now_us() + PATIENCE_US;
    let is_learner =
        |region: Region| region.peer_on(store).is_some_and(|peer| peer.role == PeerRole::Learner);
    while !region_on(world, store, USER).is_some_and(is_learner) {
        assert!(world.now_us() < limit, "no demotion");
        run_for(world, 1_000);
    }
    for other in world.hosts.keys().copied().filter(|id| *id != store).collect::<Vec<_>>() {
        world.network.swallow(other, store);
    }
    wait(world, "it is removed", |world| !holders(world).contains(&store));
    run_for(world, 1_000_000);
    store
}

fn restart(world: &mut World, stores: &[StoreId]) {
    for store in stores {
        world.stop(*store, "test");
        world.start(*store);
    }
}

fn wait(world: &mut World, what: &str, is_done: impl FnMut(&World) -> bool) {
    play::wait(world, PATIENCE_US, what, is_done);
}

#[test]
fn a_replica_whose_old_peers_are_all_gone_ends_by_what_placement_knows() {
    for seed in 0..4 {
        let mut world = world(seed, 7);
        let (lost, before) = forsaken(&mut world);
        before.iter().for_each(|id| world.stop(*id, "test"));
        world.network.heal();
        wait(&mut world, "the forsaken replica ends", |world| region_on(world, lost, USER).is_none());
        assert!(holders(&world).iter().all(|id| region_on(&world, *id, USER).is_some()), "seed {seed}");
    }
}

#[test]
fn a_tombstone_that_knows_a_later_membership_answers_for_the_region() {
    for seed in 10..14 {
        let mut world = world(seed, 7);
        let (lost, before) = forsaken(&mut world);
        // Nobody who has the region is left, and nobody who was told of it.
        let now_at = holders(&world);
        now_at.iter().for_each(|id| world.stop(*id, "test"));
        restart(&mut world, &before);
        world.network.heal();
        wait(&mut world, "the forsaken replica ends", |world| region_on(world, lost, USER).is_none());
    }
}

#[test]
fn a_voter_without_a_leader_is_not_ended_by_what_does_not_prove_that_it_left() {
    for seed in 20..24 {
        let mut world = world(seed, 3);
        let me = world.operator.leader_of(USER).expect("led").clone();
        let store = *world.hosts.keys().find(|id| **id != me.peer.store).expect("three stores");
        let others: Vec<StoreId> = world.hosts.keys().copied().filter(|id| *id != store).collect();
        others.iter().for_each(|id| world.stop(*id, "test"));
        restart(&mut world, &[store]);
        let here = region_on(&world, store, USER).expect("a replica");
        let told = |world: &World, conf_ver: u64| {
            let mut region = here.clone();
            region.epoch.conf_ver = conf_ver;
            region.epoch.version += 1;
            region.peers.retain(|peer| peer.store != store);
            let store = world.hosts[&store].store().expect("it runs");
            store
                .directory()
                .write()
                .routes
                .report(RegionInfo { region: region.into(), ..RegionInfo::default() });
        };
        for conf_ver in [here.epoch.conf_ver - 1, here.epoch.conf_ver] {
            told(&world, conf_ver);
            run_for(&mut world, LONG_US);
            assert_eq!(region_on(&world, store, USER).as_ref(), Some(&here), "seed {seed}: {conf_ver}");
        }
        if seed % 2 == 0 {
            others.iter().for_each(|id| world.start(*id));
            wait(&mut world, "it votes and follows again", |world| {
                world.operator.peers.get(&store).and_then(|peers| peers.get(&USER)).is_some_and(|status| {
                    !status.leader.is_zero() && world.operator.leader_of(USER).is_some()
                })
            });
            assert!(region_on(&world, store, USER).is_some(), "seed {seed}");
        } else {
            told(&world, here.epoch.conf_ver + 1);
            wait(&mut world, "a later membership ends it", |world| region_on(world, store, USER).is_none());
        }
    }
}

#[test]
fn a_removed_peer_is_told_until_it_has_heard_it_whoever_leads_by_then() {
    for seed in 30..36 {
        // It does not ask by itself, and being a learner it does not campaign.
        let mut world = world_with(seed, 4, 3_600_000);
        let lost = removed_unheard(&mut world);
        if seed % 2 == 0 {
            let leader = world.operator.leader_of(USER).expect("led").peer.store;
            world.stop(leader, "test");
            run_for(&mut world, 5_000_000);
        }
        assert!(region_on(&world, lost, USER).is_some(), "seed {seed}: it heard of nothing");
        world.network.heal();
        wait(&mut world, "the removed peer ends", |world| region_on(world, lost, USER).is_none());
    }
}
