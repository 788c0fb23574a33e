//! Stores that are to be left, and one that is to lead nothing.

use super::*;

#[test]
fn replicas_of_two_draining_stores_are_exchanged_in_one_change() {
    let mut world = World::new(5);
    let mut info = region(100, &[1, 2, 3]);
    world.report(&info);
    world.drain(2);
    world.drain(3);
    let swap = |step: &Step| matches!(step, Step::ChangePeers(changes) if changes.len() > 1);
    let mut steps = Vec::new();
    // Both learners are asked for before the first of them is full.
    for _ in 0..2 {
        steps.push(world.take(&mut info).1);
        info.pending =
            info.region.peers.iter().filter(|p| p.role == PeerRole::Learner).map(|p| p.id).collect();
        world.report(&info);
    }
    info.pending.clear();
    world.report(&info);
    while stores_of(&info) != [1, 4, 5] {
        steps.push(world.take(&mut info).1);
    }
    let swaps: Vec<_> = steps.iter().filter(|step| swap(step)).collect();
    assert!(matches!(swaps[..], [Step::ChangePeers(changes)] if changes.len() == 4), "{steps:?}");
    assert_eq!(steps.len(), 6, "two learners, the swap, leave, two removals");
    assert_eq!(world.check(), []);
}

#[test]
fn a_store_with_a_slow_disk_gives_its_leaderships_away_and_gets_none() {
    let mut world = World::new(3);
    world.config.transfers_max = 1;
    let orders = [[1, 2, 3], [2, 3, 1], [3, 1, 2]];
    let mut regions: Vec<RegionInfo> = (100..106).map(|id| region(id, &orders[id as usize % 3])).collect();
    regions.iter().for_each(|info| world.report(info));
    let led = |regions: &[RegionInfo]| {
        let by = |store| regions.iter().filter(|info| info.leader_store() == Some(StoreId(store))).count();
        [by(1), by(2), by(3)]
    };
    assert_eq!(led(&regions), [2, 2, 2]);
    for _ in 0..40 {
        for store in 1..=3 {
            let log_sync_us = if store == 2 { 20_000 } else { 1_000 };
            let stats = StoreStats { log_sync_us, ..StoreStats::default() };
            assert!(world.view.heartbeat(StoreId(store), 1, stats, world.now_ms, &world.config));
        }
        world.view.judge_disks(&world.config, world.now_ms);
        let operators = world.check();
        assert!(operators.len() <= 1);
        for operator in operators {
            let info =
                regions.iter_mut().find(|info| info.region.id == operator.region).expect("one of them");
            let Step::TransferLeader(heir) = operator.step else { panic!("{operator:?}") };
            assert_eq!(operator.reason, Reason::SlowDisk);
            info.leader = Some(heir.id);
            info.term = Term(info.term.get() + 1);
            world.report(info);
        }
        world.now_ms += 1_000;
    }
    assert_eq!(led(&regions), [3, 0, 3]);
}

#[test]
fn draining_a_store_moves_its_leader_first_and_then_its_replica() {
    let mut world = World::new(4);
    let mut info = region(100, &[1, 2, 3]);
    world.report(&info);
    world.drain(1);
    assert_eq!(world.take(&mut info).0, Reason::EvictLeader);
    assert_ne!(info.leader, Some(PeerId(1_001)));
    let mut steps = 0;
    while stores_of(&info) != [2, 3, 4] {
        world.take(&mut info);
        steps += 1;
    }
    assert_eq!(steps, 4, "learner, swap, leave, remove");
    assert_eq!(world.check(), []);
}

#[test]
fn a_leader_on_a_draining_store_with_no_heir_gets_one_promoted() {
    let mut world = World::new(2);
    (world.config.replicas, world.config.meta_replicas) = (1, 1);
    let mut info = region(100, &[1]);
    world.report(&info);
    world.drain(1);
    let mut reasons = Vec::new();
    while stores_of(&info) != [2] {
        reasons.push(world.take(&mut info).0);
    }
    use Reason::{EvictLeader, Repair, Surplus};
    assert_eq!(reasons, [Repair, Repair, EvictLeader, Surplus, Surplus]);
}

#[test]
fn a_draining_store_that_dies_is_replaced_without_waiting() {
    let mut world = World::new(4);
    let info = region(100, &[1, 2, 3]);
    world.drain(3);
    world.pass_without(20_000, &[3]);
    world.report(&info);
    assert_eq!(world.only(&info).0, Reason::Repair);
}
