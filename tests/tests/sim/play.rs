//! Lets time pass in a world that nothing is wrong with.

use flotilla_tests::sim::world::World;

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
