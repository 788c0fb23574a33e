//! Moves that somebody asked for by hand, and what balance leaves to a merge.

use std::sync::Arc;

use super::merges::small_neighbours;
use super::*;
use crate::{MoveOrder, MovePhase, MoveRefusal, OrderWait, order_move};

impl World {
    fn order(&mut self, region: u64, from: u64, to: u64) -> Result<MovePhase, MoveRefusal> {
        let order = MoveOrder { region: RegionId(region), from: StoreId(from), to: StoreId(to) };
        order_move(&self.view, &self.config, &mut self.flight, order, self.now_ms)
    }
}

const WAITING: Result<MovePhase, MoveRefusal> = Ok(MovePhase::Waiting(OrderWait::Region));

/// Four stores, balance off: what happens was ordered.
fn quiet() -> World {
    let mut world = World::new(4);
    world.config.balance_leaders = false;
    world.config.balance_regions = false;
    world
}

#[test]
fn an_ordered_move_fills_a_learner_hands_over_exchanges_and_removes() {
    let mut world = quiet();
    let mut info = region(100, &[1, 2, 3]);
    world.report(&info);
    assert_eq!(world.order(100, 1, 4), WAITING);
    assert_eq!(
        world.take(&mut info),
        (Reason::Ordered, Step::ChangePeers(vec![change(AddLearner, 5_000, 4)]))
    );
    info.pending.insert(PeerId(5_000));
    world.report(&info);
    assert_eq!(world.check(), [], "not promoted before it has caught up");
    assert_eq!(world.order(100, 1, 4), Ok(MovePhase::Filling));
    info.pending.clear();
    world.report(&info);
    assert_eq!(world.order(100, 1, 4), Ok(MovePhase::HandingOver));
    let heir = info.region.peers[1];
    assert_eq!(world.take(&mut info), (Reason::EvictLeader, Step::TransferLeader(heir)));
    let swap = vec![change(AddVoter, 5_000, 4), change(AddLearner, 1_001, 1)];
    assert_eq!(world.take(&mut info), (Reason::Ordered, Step::ChangePeers(swap)));
    assert_eq!(world.order(100, 1, 4), Ok(MovePhase::Swapping));
    assert_eq!(world.take(&mut info), (Reason::LeaveJoint, Step::LeaveJoint));
    assert_eq!(world.order(100, 1, 4), Ok(MovePhase::Removing));
    let gone = vec![change(Remove, 1_001, 1)];
    assert_eq!(world.take(&mut info), (Reason::Ordered, Step::ChangePeers(gone)));
    assert_eq!(world.check(), []);
    assert_eq!(stores_of(&info), [2, 3, 4]);
    assert_eq!(world.order(100, 1, 4), Ok(MovePhase::Done), "the outcome");
    assert_eq!(world.order(100, 1, 4), Ok(MovePhase::Done), "asked for again: it is so already");
    assert_eq!(world.check(), []);
}

#[test]
fn the_next_order_may_follow_at_once() {
    let mut world = quiet();
    let mut info = region(100, &[1, 2, 3]);
    world.report(&info);
    assert_eq!(world.order(100, 3, 4), WAITING);
    let added = (Reason::Ordered, Step::ChangePeers(vec![change(AddLearner, 5_000, 4)]));
    assert_eq!(world.take(&mut info), added);
    while !matches!(world.take(&mut info).1, Step::ChangePeers(c) if c[0].kind == Remove) {}
    // Reported, but no pass since.
    let taken = MoveRefusal::HasPeer { region: RegionId(100), store: StoreId(2) };
    assert_eq!(world.order(100, 3, 5), Err(MoveRefusal::NoStore(StoreId(5))), "not: it is being moved");
    assert_eq!(world.order(100, 3, 3), Err(MoveRefusal::SameStore(StoreId(3))));
    assert_eq!(world.order(100, 1, 2), Err(taken));
    assert_eq!(world.order(100, 4, 3), WAITING);
    let back = (Reason::Ordered, Step::ChangePeers(vec![change(AddLearner, 5_001, 3)]));
    assert_eq!(world.take(&mut info), back);
}

#[test]
fn what_cannot_be_moved_is_refused_with_a_reason() {
    let mut world = quiet();
    world.join(5);
    world.join(6);
    let mut info = region(100, &[1, 2, 3]);
    world.report(&info);
    let (id, peerless) = (RegionId(100), |store| MoveRefusal::NoPeer { region: RegionId(100), store });
    assert_eq!(world.order(7, 1, 4), Err(MoveRefusal::NoRegion(RegionId(7))));
    assert_eq!(world.order(100, 1, 1), Err(MoveRefusal::SameStore(StoreId(1))));
    assert_eq!(world.order(100, 1, 9), Err(MoveRefusal::NoStore(StoreId(9))));
    assert_eq!(world.order(100, 4, 5), Err(peerless(StoreId(4))));
    assert_eq!(world.order(100, 1, 2), Err(MoveRefusal::HasPeer { region: id, store: StoreId(2) }));
    world.drain(5);
    assert_eq!(world.order(100, 1, 5), Err(MoveRefusal::StoreNotUp(StoreId(5))));
    world.pass_without(20_000, &[6]);
    assert_eq!(world.order(100, 1, 6), Err(MoveRefusal::StoreSilent(StoreId(6))));
    assert_eq!(world.order(100, 1, 4), WAITING);
    let other = MoveRefusal::OtherMove { region: id, from: StoreId(1), to: StoreId(4) };
    assert_eq!(world.order(100, 2, 4), Err(other));
    info.ready = false;
    world.report(&info);
    assert_eq!(world.check(), []);
    let leaderless = OrderWait::Leader;
    assert_eq!(world.order(100, 1, 4), Ok(MovePhase::Waiting(leaderless)));
    world.pass(60_000);
    assert_eq!(world.check(), []);
    assert_eq!(world.order(100, 1, 4), Err(MoveRefusal::NotBegun(leaderless)));
}

#[test]
fn a_new_replica_that_does_not_catch_up_is_taken_back_and_the_order_fails() {
    let mut world = quiet();
    let mut info = region(100, &[1, 2, 3]);
    world.report(&info);
    assert_eq!(world.order(100, 2, 4), WAITING);
    world.take(&mut info);
    info.pending.insert(PeerId(5_000));
    world.report(&info);
    assert_eq!(world.check(), []);
    world.pass(world.config.learner_stuck_ms - 10_000);
    assert_eq!(world.check(), []);
    world.pass(10_000);
    let (reason, step) = world.take(&mut info);
    assert_eq!((reason, step), (Reason::Surplus, Step::ChangePeers(vec![change(Remove, 5_000, 4)])));
    assert_eq!(world.check(), []);
    assert_eq!(world.order(100, 2, 4), Err(MoveRefusal::LearnerGone(StoreId(4))));
    assert_eq!(world.order(100, 2, 4), WAITING, "another attempt");
}

#[test]
fn a_first_step_that_the_region_refused_is_asked_for_again() {
    let mut world = quiet();
    let mut info = region(100, &[1, 2, 3]);
    world.report(&info);
    assert_eq!(world.order(100, 2, 4), WAITING);
    let (_, first) = world.only(&info);
    assert_eq!(first, Step::ChangePeers(vec![change(AddLearner, 5_000, 4)]));
    world.flight.failed(info.region.id, info.region.epoch);
    Arc::make_mut(&mut info.region).epoch.version += 1;
    world.report(&info);
    let (_, second) = world.only(&info);
    assert_eq!(second, Step::ChangePeers(vec![change(AddLearner, 5_001, 4)]));
    assert_eq!(world.order(100, 2, 4), Ok(MovePhase::Adding));
}

#[test]
fn a_new_placement_leader_goes_on_with_the_learner_of_the_old_one() {
    let mut world = quiet();
    let mut info = region(100, &[1, 2, 3]);
    world.report(&info);
    assert_eq!(world.order(100, 2, 4), WAITING);
    world.take(&mut info);
    world.flight = InFlight::new();
    assert_eq!(world.order(100, 2, 4), WAITING);
    // The order is known before the pass that would remove a learner which nothing needs.
    let swap = vec![change(AddVoter, 5_000, 4), change(AddLearner, 1_002, 2)];
    assert_eq!(world.take(&mut info), (Reason::Ordered, Step::ChangePeers(swap)));
}

#[test]
fn the_only_voter_of_a_region_is_moved_by_way_of_two() {
    let mut world = quiet();
    (world.config.replicas, world.config.meta_replicas) = (1, 1);
    let mut info = region(100, &[1]);
    world.report(&info);
    assert_eq!(world.order(100, 1, 4), WAITING);
    world.take(&mut info);
    let promote = vec![change(AddVoter, 5_000, 4)];
    assert_eq!(world.take(&mut info), (Reason::Ordered, Step::ChangePeers(promote)));
    let (reason, _) = world.take(&mut info);
    assert_eq!((reason, info.leader), (Reason::Ordered, Some(PeerId(5_000))));
    let demote = vec![change(AddLearner, 1_001, 1)];
    assert_eq!(world.take(&mut info), (Reason::Ordered, Step::ChangePeers(demote)));
    let gone = vec![change(Remove, 1_001, 1)];
    assert_eq!(world.take(&mut info), (Reason::Ordered, Step::ChangePeers(gone)));
    assert_eq!(world.check(), []);
    assert_eq!(world.order(100, 1, 4), Ok(MovePhase::Done));
}

#[test]
fn an_order_for_a_region_that_is_merged_away_fails() {
    let mut world = quiet();
    let mut info = region(100, &[1, 2, 3]);
    world.report(&info);
    assert_eq!(world.order(100, 2, 4), WAITING);
    world.take(&mut info);
    let mut taker = region(99, &[1, 2, 3]);
    Arc::make_mut(&mut taker.region).range.end = info.region.range.end.clone();
    Arc::make_mut(&mut taker.region).epoch.version = info.region.epoch.version + 1;
    world.report(&taker);
    assert_eq!(world.check(), []);
    assert_eq!(world.order(100, 2, 4), Err(MoveRefusal::RegionGone(RegionId(100))));
}

#[test]
fn a_region_that_only_waits_for_its_merge_is_not_moved_away() {
    let mut world = World::new(4);
    (world.config.balance_leaders, world.config.merges_max) = (false, 0);
    let mut infos = small_neighbours(&mut world, &[&[1, 2, 3][..]; 3]);
    assert_eq!(world.check(), [], "its neighbour takes part in another merge");
    for info in &mut infos {
        info.is_hot = true;
        world.report(info);
    }
    assert_eq!(world.check()[0].reason, Reason::BalanceRegions, "there is no merge to wait for");
}
