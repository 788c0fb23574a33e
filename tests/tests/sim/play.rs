//! A world that nothing is wrong with, and time that passes in it.

use flotilla_engine::Prng;
use flotilla_tests::sim::profile::Profile;
use flotilla_tests::sim::world::World;

/// So many stores without faults or comparisons, and three replicas of every region.
pub fn calm(seed: u64, stores: u64) -> Profile {
    let mut profile = Profile::draw(&mut Prng::new(seed ^ 0x5eed_5eed)).calm();
    profile.stores = stores;
    profile.replicas = 3;
    profile.wipe = false;
    profile.pre_split = 0;
    let config = &mut profile.config;
    config.placement.replicas = 3;
    config.placement.meta_replicas = 3;
    config.check_interval_ms = 0;
    profile
}

/// Runs for so long.
pub fn run_for(world: &mut World, us: u64) {
    let end = world.now_us() + us;
    world.run_until(end);
    assert_eq!(world.violation(), None);
}

/// Runs until it is done, which must not take longer than `patience_us`.
pub fn wait(world: &mut World, patience_us: u64, what: &str, mut is_done: impl FnMut(&World) -> bool) {
    let limit = world.now_us() + patience_us;
    while !is_done(world) {
        assert_eq!(world.violation(), None, "while waiting for {what}");
        assert!(world.now_us() < limit, "{what}: not within {} s", patience_us / 1_000_000);
        run_for(world, 50_000);
    }
}
