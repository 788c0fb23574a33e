//! Which neighbours merge, and when.

use std::sync::Arc;

use super::*;

/// Small neighbours 100 to `100 + stores.len() - 1` that have had their ranges for long.
pub(super) fn small_neighbours(world: &mut World, stores: &[&[u64]]) -> Vec<RegionInfo> {
    let regions = (100..).zip(stores).map(|(id, stores)| RegionInfo { bytes: 1 << 20, ..region(id, stores) });
    let regions: Vec<RegionInfo> = regions.collect();
    regions.iter().for_each(|info| world.report(info));
    assert!(world.check().iter().all(|o| o.reason != Reason::Merge), "their ranges are new");
    world.pass(world.config.merge_wait_ms);
    regions
}

fn merges(operators: &[Operator]) -> Vec<(u64, u64)> {
    let merge = |o: &Operator| match &o.step {
        Step::Merge(source) => Some((source.id.get(), o.region.get())),
        _ => None,
    };
    operators.iter().filter_map(merge).collect()
}

#[test]
fn small_neighbours_merge_once_they_have_had_their_ranges_for_long() {
    let mut world = World::new(3);
    let mut infos = small_neighbours(&mut world, &[&[1, 2, 3], &[2, 1, 3]]);
    let (reason, step) = world.take(&mut infos[1]);
    assert_eq!((reason, step), (Reason::Merge, Step::Merge(Box::new((*infos[0].region).clone()))));
    assert_eq!(infos[1].region.range.start, infos[0].region.range.start);
    assert_eq!(merges(&world.check()), [], "one region is left");
}

#[test]
fn what_a_merge_made_goes_on_merging_and_keeps_its_neighbours_near() {
    let mut world = World::new(3);
    world.config.balance_leaders = false;
    let mut infos = small_neighbours(&mut world, &[&[1, 2, 3][..]; 3]);
    world.take(&mut infos[1]);
    // A store that has nothing yet comes: what is about to merge does not go there.
    world.join(4);
    world.config.region_tolerance = 2;
    let asked = world.check();
    assert_eq!((asked.len(), merges(&asked).len()), (1, 1), "{asked:?}");
}

#[test]
fn a_region_merges_once_it_has_been_calm_for_long() {
    let mut world = World::new(3);
    let mut infos = small_neighbours(&mut world, &[&[1, 2, 3], &[2, 1, 3]]);
    infos[0].is_hot = true;
    world.report(&infos[0]);
    assert_eq!(merges(&world.check()), [], "it is hot");
    infos[0].is_hot = false;
    world.report(&infos[0]);
    assert_eq!(merges(&world.check()), [], "it was hot just now");
    world.pass(world.config.merge_wait_ms);
    assert_eq!(merges(&world.check()), [(100, 101)]);
}

#[test]
fn only_small_calm_measured_neighbours_of_the_user_space_merge() {
    type Spoil = fn(&mut RegionInfo);
    let spoil: [(&str, Spoil); 5] = [
        ("unknown size", |info| info.bytes = 0),
        ("too large together", |info| info.bytes = 64 << 20),
        ("hot", |info| info.is_hot = true),
        ("a lagging replica", |info| info.pending.extend([PeerId(1_002)])),
        ("the leader does not know its region", |info| info.ready = false),
    ];
    for (why, spoil) in spoil {
        let mut world = World::new(3);
        let mut infos = small_neighbours(&mut world, &[&[1, 2, 3], &[1, 2, 3]]);
        spoil(&mut infos[0]);
        world.report(&infos[0]);
        assert_eq!(merges(&world.check()), [], "{why}");
    }
    let mut world = World::new(3);
    world.config.balance_leaders = false;
    let mut infos = small_neighbours(&mut world, &[&[1, 2, 3], &[1, 2, 3]]);
    let mut child = RegionInfo { bytes: 1 << 20, ..region(200, &[1, 2, 3]) };
    let (cut, version) = (bytes::Bytes::from([infos[0].region.range.start.as_ref(), b"cut"].concat()), 2);
    let (left, right) = (Arc::make_mut(&mut infos[0].region), Arc::make_mut(&mut child.region));
    right.range.end = std::mem::replace(&mut left.range.end, cut.clone());
    right.range.start = cut;
    (right.epoch.version, left.epoch.version) = (version, version);
    [&infos[0], &child].into_iter().for_each(|info| world.report(info));
    assert_eq!(merges(&world.check()), [], "one was just split");
    world.pass(world.config.merge_wait_ms);
    assert_eq!(merges(&world.check()).len(), 1, "that was long ago");
    let mut world = World::new(3);
    let sentinel = RegionInfo { bytes: 1, ..region(RegionId::SENTINEL.get(), &[1, 2, 3]) };
    let before = RegionInfo { bytes: 1, ..region(RegionId::SENTINEL.get() - 1, &[1, 2, 3]) };
    [&sentinel, &before].into_iter().for_each(|info| world.report(info));
    world.check();
    world.pass(world.config.merge_wait_ms);
    assert_eq!(merges(&world.check()), [], "the sentinel is never merged");
}

#[test]
fn a_region_takes_part_in_one_merge_at_a_time_and_only_so_many_run() {
    let mut world = World::new(3);
    world.config.merges_max = 2;
    world.config.balance_leaders = false;
    small_neighbours(&mut world, &[&[1, 2, 3][..]; 9]);
    let asked = merges(&world.check());
    let parts: std::collections::BTreeSet<u64> = asked.iter().flat_map(|(a, b)| [*a, *b]).collect();
    assert_eq!((asked.len(), parts.len()), (2, 4), "{asked:?}");
    assert_eq!(merges(&world.check()), [], "they are under way");
}

#[test]
fn a_small_region_moves_onto_the_stores_of_its_neighbour_first() {
    let mut world = World::new(4);
    world.config.balance_leaders = false;
    let mut infos = small_neighbours(&mut world, &[&[1, 2, 3], &[2, 3, 4]]);
    let mut steps = Vec::new();
    for _ in 0..8 {
        let operator = world.check().remove(0);
        if let Step::Merge(source) = &operator.step {
            let target = infos.iter().find(|i| i.region.id == operator.region).expect("known");
            let source = infos.iter().find(|i| i.region.id == source.id).expect("known");
            assert_eq!(stores_of(source), stores_of(target));
            assert!(steps.len() >= 3, "{steps:?}");
            return;
        }
        // As the region's leader would.
        let info = infos.iter_mut().find(|i| i.region.id == operator.region).expect("known");
        match &operator.step {
            Step::TransferLeader(to) => {
                info.leader = Some(to.id);
                info.term = Term(info.term.get() + 1);
            }
            Step::ChangePeers(changes) => {
                Arc::make_mut(&mut info.region).epoch.conf_ver += changes.len() as u64;
                Arc::make_mut(&mut info.region).peers = after_change(&info.region, changes);
            }
            _ => {
                Arc::make_mut(&mut info.region).epoch.conf_ver += 1;
                Arc::make_mut(&mut info.region).peers = after_leave(&info.region);
            }
        }
        let info = info.clone();
        world.report(&info);
        steps.push(operator.step);
    }
    panic!("never merged: {steps:?}");
}
