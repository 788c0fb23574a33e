//! Damaged replicas under the simulator's stores: out of service here, replaced from the others, the rest served.

use bytes::Bytes;
use flotilla_engine::{Call, Engine, Fault, FaultKind, Faults, Prng, WriteBatch};
use flotilla_raftstore::disk::recover;
use flotilla_raftstore::{
    AdminCommand, FORMAT, LogId, RegionState, Store, StoreConfig, StoreIdent, positions,
};
use flotilla_region::{Index, PeerRole, Region, RegionId, Space, StoreId, keys};
use flotilla_tests::check::tiling::regions_on;
use flotilla_tests::sim::profile::Profile;
use flotilla_tests::sim::world::World;

use crate::play::{self, run_for};

/// Simulated time in which a cluster has to get over something.
const PATIENCE_US: u64 = 40_000_000;
/// The clients' region at the end of their keys.
const USER: RegionId = RegionId::FIRST_USER;

/// Three stores without faults and some data, with the settings that the seed draws.
fn world(seed: u64) -> World {
    world_with(seed, |_| {})
}

fn world_with(seed: u64, change: impl FnOnce(&mut StoreConfig)) -> World {
    let mut profile = Profile::draw(&mut Prng::new(seed ^ 0x5eed_5eed)).calm();
    profile.stores = 3;
    profile.replicas = 3;
    profile.wipe = false;
    profile.config.placement.replicas = 3;
    profile.config.placement.meta_replicas = 3;
    profile.config.check_interval_ms = 300;
    profile.config.check_unchanged_interval_ms = 0;
    change(&mut profile.config);
    let mut world = World::new(seed, profile, false);
    world.watch.expects_damage = true;
    wait(&mut world, "three replicas of every region", |world| {
        let ids: Vec<StoreId> = world.hosts.keys().copied().collect();
        ids.len() == 3 && ids.iter().all(|id| is_replicated(world, *id))
    });
    world.start_clients();
    run_for(&mut world, 1_500_000);
    world.clients.stopped = true;
    run_for(&mut world, 1_000_000);
    world
}

/// Whether a store has the first regions, each with three voters.
fn is_replicated(world: &World, id: StoreId) -> bool {
    let regions = regions_on(&*world.hosts[&id].engine_snapshot()).unwrap_or_default();
    let has = |id: RegionId| regions.iter().any(|r| r.id == id);
    let is_full = |r: &Region| r.peers.iter().filter(|p| p.role == PeerRole::Voter).count() == 3;
    has(RegionId::META) && has(USER) && regions.iter().all(is_full)
}

fn region_on(world: &World, store: StoreId, id: RegionId) -> Option<Region> {
    let state = world.hosts[&store].engine.get(&keys::region_state(id)).ok()?;
    match state.and_then(RegionState::decode) {
        Some(RegionState::Normal(region)) => Some(region),
        _ => None,
    }
}

fn is_quarantined(world: &World, store: StoreId, id: RegionId) -> bool {
    let bad = world.hosts[&store].store().map(|store| store.quarantined()).unwrap_or_default();
    bad.iter().any(|bad| bad.region == id)
}

/// Waits until the store has a voter of the region that is not `old`, and that is of use.
fn wait_replaced(world: &mut World, store: StoreId, id: RegionId, old: u64) {
    wait(world, "the damaged replica is replaced", |world| {
        let me = region_on(world, store, id).and_then(|region| region.peer_on(store).copied());
        let status = world.operator.peers.get(&store).and_then(|peers| peers.get(&id));
        me.is_some_and(|me| me.id.0 != old && me.role == PeerRole::Voter)
            && status.is_some_and(|status| status.peer.id.0 != old && status.commit.0 > 0)
            && !is_quarantined(world, store, id)
    });
}

/// Runs clients again until they have been served.
fn assert_serves(world: &mut World) {
    let count = |world: &World| world.clients.history.counts().0;
    let before = count(world);
    world.clients.stopped = false;
    world.start_clients();
    wait(world, "operations of clients", |world| count(world) > before + 20);
    world.clients.stopped = true;
}

/// A store that follows, with its peer.
fn follower(world: &World, id: RegionId) -> (StoreId, u64) {
    let leader = world.operator.leaders().find(|s| s.region.id == id).expect("it is led").clone();
    let other = leader.region.peers.iter().find(|p| p.id != leader.peer.id).expect("three peers");
    (other.store, other.id.0)
}

fn false_key() -> Vec<u8> {
    keys::data_key(Space::User, b"zz nobody wrote this")
}

/// Changes one replica's data behind its back, as rot would that no checksum covers.
fn falsify(world: &World, store: StoreId) {
    let mut batch = WriteBatch::new();
    batch.put(&false_key(), b"\x00value");
    world.hosts[&store].engine.write(&batch).expect("a healthy disk");
}

fn wait(world: &mut World, what: &str, is_done: impl FnMut(&World) -> bool) {
    play::wait(world, PATIENCE_US, what, is_done);
}

#[test]
fn a_replica_that_differs_is_told_from_the_right_ones_and_replaced() {
    for seed in [1, 2, 5] {
        let mut world = world(seed);
        let (store, old) = follower(&world, USER);
        falsify(&world, store);
        wait(&mut world, "the comparison finds it", |world| is_quarantined(world, store, USER));
        let mut others = world.hosts.keys().filter(|id| **id != store);
        assert!(others.all(|id| !is_quarantined(&world, *id, USER)), "seed {seed}");
        wait_replaced(&mut world, store, USER, old);
        assert_eq!(world.hosts[&store].engine.get(&false_key()).expect("healthy"), None, "seed {seed}");
        assert_serves(&mut world);
    }
}

#[test]
fn a_leader_that_differs_condemns_itself() {
    let mut world = world(3);
    let leader = world.operator.leaders().find(|s| s.region.id == USER).expect("led").clone();
    falsify(&world, leader.peer.store);
    wait_replaced(&mut world, leader.peer.store, USER, leader.peer.id.0);
    assert_eq!(world.hosts[&leader.peer.store].engine.get(&false_key()).expect("healthy"), None);
    assert_serves(&mut world);
}

#[test]
fn what_is_known_to_be_wrong_does_not_come_back_with_a_restart() {
    let mut world = world(4);
    let (store, old) = follower(&world, USER);
    // Nobody replaces it meanwhile.
    for host in world.hosts.values_mut().filter(|host| host.id != store) {
        host.paused_until_us = u64::MAX;
    }
    let running = world.hosts[&store].store().expect("it runs").clone();
    let region = region_on(&world, store, USER).expect("it is here");
    running.report_damage(&region, "a test says so");
    wait(&mut world, "it is out of service", |world| is_quarantined(world, store, USER));
    drop(running);
    run_for(&mut world, 100_000);
    world.stop(store, "power cut");
    world.hosts[&store].engine.crash();
    world.start(store);
    assert!(is_quarantined(&world, store, USER), "it serves again");
    let now = world.now_us();
    let others: Vec<StoreId> = world.hosts.keys().copied().filter(|id| *id != store).collect();
    for id in others {
        world.stop(id, "kill -9");
        world.hosts[&id].engine.kill();
        world.hosts.get_mut(&id).expect("a host").paused_until_us = now;
        world.start(id);
    }
    wait_replaced(&mut world, store, USER, old);
    assert_serves(&mut world);
}

#[test]
fn a_region_whose_data_cannot_be_read_comes_back_from_the_others() {
    for seed in [1, 7] {
        let mut world = world(seed);
        let (store, old) = follower(&world, USER);
        let region = region_on(&world, store, USER).expect("it is here");
        let (start, end) = keys::data_bounds(region.space, &region.range);
        falsify(&world, store);
        world.hosts[&store].engine.set_faults(Faults::none().corrupt(&start, &end));
        wait(&mut world, "it is noticed", |world| is_quarantined(world, store, USER));
        assert!(!is_quarantined(&world, store, RegionId::META), "seed {seed}: the rest is served");
        assert!(!world.hosts[&store].store().expect("it runs").has_failed());
        // What is written anew can be read.
        world.hosts[&store].engine.set_faults(Faults::none());
        wait_replaced(&mut world, store, USER, old);
        assert_serves(&mut world);
    }
}

#[test]
fn a_store_with_damaged_records_of_a_region_starts_and_serves_the_others() {
    type Bounds = fn() -> (Vec<u8>, Vec<u8>);
    let records: [(&str, Bounds); 2] = [
        ("descriptor", || (keys::region_state(USER).to_vec(), keys::apply_state(USER).to_vec())),
        ("apply state", || (keys::apply_state(USER).to_vec(), keys::quarantine(USER).to_vec())),
    ];
    for (what, bounds) in records {
        let mut world = world(6);
        let (store, old) = follower(&world, USER);
        world.stop(store, "stopped");
        let (start, end) = bounds();
        world.hosts[&store].engine.set_faults(Faults::none().corrupt(&start, &end));
        world.start(store);
        assert_eq!(world.violation(), None, "{what}: it starts");
        assert!(is_quarantined(&world, store, USER), "{what}");
        world.hosts[&store].engine.set_faults(Faults::none());
        wait_replaced(&mut world, store, USER, old);
        assert_serves(&mut world);
    }
    let mut world = world(8);
    let (store, old) = follower(&world, USER);
    world.stop(store, "stopped");
    let mut batch = WriteBatch::new();
    batch.put(&keys::apply_state(USER), b"short");
    world.hosts[&store].engine.write(&batch).expect("a healthy disk");
    world.start(store);
    assert!(is_quarantined(&world, store, USER), "a record that is none");
    wait_replaced(&mut world, store, USER, old);
}

/// The split is in the parent's log only, and the parent is given up: nothing gives the child its data any more, while its
/// log is that of a voter, which must not begin anew.
#[test]
fn a_child_whose_parent_was_damaged_before_it_gave_birth_again_is_replaced_too() {
    for seed in [20, 21, 22] {
        let mut world = world_with(seed, |config| {
            config.checkpoint_interval_ms = 3_600_000;
            (config.split_bytes, config.placement.merge_wait_ms) = (0, 3_600_000);
        });
        let (store, old) = follower(&world, USER);
        let status = world.operator.leader_of(USER).expect("led").clone();
        let cut = Bytes::from([&status.region.range.start[..], b"m"].concat());
        let keys = vec![cut.clone()];
        assert!(world.administer(&status, AdminCommand::Split { keys }).is_some());
        let logged = |world: &World, child: &Region| {
            let peer = child.peer_on(store).expect("a replica").id;
            world.hosts[&store].engine.log_get(&keys::log_entry(child.id, peer, Index(6)))
        };
        let child_on = |world: &World| {
            let regions = regions_on(&*world.hosts[&store].engine_snapshot()).unwrap_or_default();
            let is_child = |r: &Region| r.space == Space::User && r.range.end == cut;
            regions.into_iter().find(is_child)
        };
        wait(&mut world, "the child has a log", |world| {
            child_on(world).is_some_and(|child| matches!(logged(world, &child), Ok(Some(_))))
        });
        let child = child_on(&world).expect("just seen");
        world.stop(store, "power cut");
        let engine = world.hosts[&store].engine.clone();
        engine.crash();
        assert!(matches!(logged(&world, &child), Ok(Some(_))), "seed {seed}: the log is on disk");
        assert_eq!(child_on(&world), None, "seed {seed}: the data is not");
        let mut batch = WriteBatch::new();
        batch.put(&keys::apply_state(USER), b"short");
        engine.write(&batch).expect("a healthy disk");
        world.start(store);
        assert!(is_quarantined(&world, store, USER), "seed {seed}");
        wait_replaced(&mut world, store, USER, old);
        let old_child = child.peer_on(store).expect("a replica").id.0;
        wait_replaced(&mut world, store, child.id, old_child);
        assert_serves(&mut world);
    }
}

#[test]
fn a_failed_sync_still_stops_the_store() {
    let mut world = world(9);
    let (store, _) = follower(&world, USER);
    let faults = Faults::none().fail(Call::LogSync, Fault::always(FaultKind::Io));
    world.hosts[&store].engine.set_faults(faults);
    world.clients.stopped = false;
    world.start_clients();
    let limit = world.now_us() + PATIENCE_US;
    // The simulator calls an error on a disk that it has not broken itself a violation.
    while world.violation().is_none() {
        assert!(world.now_us() < limit, "the store goes on");
        let next = world.now_us() + 50_000;
        world.run_until(next);
    }
    let what = world.violation().expect("just seen");
    assert!(what.contains(&format!("store {store} met a fatal error")), "{what}");
}

#[test]
fn a_cluster_that_lost_its_quorum_goes_on_with_what_the_last_store_has() {
    for seed in [10, 11, 12] {
        let mut world = world(seed);
        let survivor = StoreId(1);
        let lost: Vec<StoreId> = world.hosts.keys().copied().filter(|id| *id != survivor).collect();
        lost.iter().chain([&survivor]).for_each(|id| world.stop(*id, "kill -9"));
        for id in &lost {
            world.hosts.remove(id);
            world.operator.peers.remove(id);
        }
        let engine = world.hosts[&survivor].engine.clone();
        engine.kill();
        let survivors = recover::survivors(&*engine).expect("readable");
        let failed = lost.iter().copied().collect();
        let plan = recover::plan(&survivors, &[survivor].into(), &failed);
        assert_eq!((plan.healthy, plan.refused.len(), plan.gaps.len()), (0, 0, 0), "seed {seed}: {plan:?}");
        assert_eq!(plan.keep.len(), regions_on(&*engine.snapshot()).expect("readable").len());
        recover::execute(&*engine, &plan).expect("written");
        world.start(survivor);
        wait(&mut world, "every region has a leader that has applied all it has", |world| {
            plan.keep.iter().all(|kept| {
                let here = world.operator.peers.get(&survivor).and_then(|peers| peers.get(&kept.after.id));
                here.is_some_and(|s| s.is_leader && s.applied.index >= kept.survivor.last.index)
                    && applied(&*engine, survivor, kept.after.id).index > kept.survivor.last.index
            })
        });
        assert_eq!(world.violation(), None, "seed {seed}");
    }
}

fn applied(engine: &dyn Engine, store: StoreId, id: RegionId) -> LogId {
    let view = engine.snapshot();
    let regions = regions_on(&*view).expect("readable");
    let me = regions.iter().find(|region| region.id == id).and_then(|region| region.peer_on(store));
    positions::applied(&*view, id, me.expect("a replica").id).expect("readable").unwrap_or_default()
}

#[test]
fn a_disk_of_an_older_format_is_taken_over_and_marked() {
    let mut world = world(14);
    let (store, _) = follower(&world, USER);
    world.stop(store, "stopped");
    let engine = world.hosts[&store].engine.clone();
    let ident = Store::ident(&*engine).expect("readable").expect("has one");
    let mut batch = WriteBatch::new();
    batch.put(keys::STORE_IDENT, &StoreIdent { format: 1, format_read_min: 1, ..ident.clone() }.encode());
    engine.write(&batch).expect("a healthy disk");
    world.start(store);
    engine.crash();
    assert_eq!(ident.format, FORMAT);
    assert_eq!(
        Store::ident(&*engine).expect("readable"),
        Some(ident),
        "durable before anything else is written"
    );
}
