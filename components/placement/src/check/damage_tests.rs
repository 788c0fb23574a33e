//! What becomes of replicas that their stores say are damaged, and of those whose store is lost.

use std::sync::Arc;

use super::*;

#[test]
fn a_damaged_replica_is_swapped_for_one_elsewhere_where_there_is_room() {
    let mut world = World::new(4);
    let mut info = region(1, &[1, 2, 3]);
    world.report(&info);
    world.view.damaged(StoreId(2), [(info.region.id, PeerId(12))].into());
    let (reason, step) = world.take(&mut info);
    let Step::ChangePeers(changes) = step else { panic!("{step:?}") };
    assert_eq!((reason, changes[0].kind, changes[0].peer.store), (Reason::Repair, AddLearner, StoreId(4)));
    while stores_of(&info) != [1, 3, 4] {
        world.take(&mut info);
    }
    assert_eq!(world.check(), []);
}

#[test]
fn a_damaged_replica_makes_room_for_its_successor_on_the_same_store() {
    let mut world = World::new(3);
    let mut info = region(1, &[1, 2, 3]);
    world.report(&info);
    // Its id is not known: the descriptor cannot be read.
    world.view.damaged(StoreId(2), [(info.region.id, PeerId::ZERO)].into());
    let (_, step) = world.take(&mut info);
    assert_eq!(step, Step::ChangePeers(vec![change(AddLearner, 12, 2)]));
    assert_eq!(world.take(&mut info).1, Step::ChangePeers(vec![change(Remove, 12, 2)]));
    // The store has removed what it had.
    world.view.damaged(StoreId(2), [].into());
    let (_, step) = world.take(&mut info);
    let Step::ChangePeers(changes) = step else { panic!("{step:?}") };
    assert_eq!((changes[0].kind, changes[0].peer.store), (AddLearner, StoreId(2)));
    assert_ne!(changes[0].peer.id, PeerId(12));
    world.take(&mut info);
    assert_eq!((stores_of(&info), world.check()), (vec![1, 2, 3], Vec::new()));
}

#[test]
fn a_store_that_damages_a_region_again_does_not_get_it_at_once() {
    let mut world = World::new(3);
    let mut info = region(1, &[1, 2, 3]);
    world.report(&info);
    let damage = |world: &mut World, info: &RegionInfo| {
        let peer = info.region.peer_on(StoreId(2)).unwrap().id;
        world.view.damaged(StoreId(2), [(info.region.id, peer)].into());
    };
    damage(&mut world, &info);
    while info.region.peer_on(StoreId(2)).is_some() {
        world.take(&mut info);
    }
    world.view.damaged(StoreId(2), [].into());
    assert!(matches!(world.take(&mut info).1, Step::ChangePeers(_)), "its successor comes at once");
    damage(&mut world, &info);
    assert_eq!(world.take(&mut info).0, Reason::Surplus, "a damaged learner goes");
    assert_eq!((world.check(), world.flight.is_idle()), (Vec::new(), false), "no other one comes");
    world.view.damaged(StoreId(2), [].into());
    world.pass(world.config.damage_wait_ms - 10_000);
    assert_eq!(world.check(), []);
    world.pass(10_000);
    assert_eq!(world.take(&mut info).0, Reason::Repair, "it is tried again");
    // A voter that cannot be replaced stays.
    Arc::make_mut(&mut info.region).peers.iter_mut().for_each(|peer| peer.role = PeerRole::Voter);
    Arc::make_mut(&mut info.region).epoch.conf_ver += 1;
    world.report(&info);
    assert_eq!(world.check(), []);
    for id in [777, 778] {
        world.view.damaged(StoreId(2), [(info.region.id, PeerId(id))].into());
        assert_eq!(world.check(), []);
    }
    damage(&mut world, &info);
    assert_eq!(world.check(), []);
}

#[test]
fn a_damaged_replica_stays_while_the_others_are_no_quorum_without_it() {
    let mut world = World::new(3);
    let info = region(1, &[1, 2, 3]);
    world.report(&info);
    world.view.damaged(StoreId(2), [(info.region.id, PeerId(12))].into());
    world.pass_without(60_000, &[3]);
    assert_eq!(world.check(), []);
}

#[test]
fn a_lost_store_does_not_use_up_the_slots_that_its_replacement_needs() {
    let mut world = World::new(4);
    world.config.sending_per_store_max = 3;
    for id in 100..110 {
        let mut info = region(id, &[1, 2, 3]);
        info.pending = [PeerId(id * 10 + 3)].into();
        world.report(&info);
    }
    world.pass_without(2 * world.config.store_gone_ms, &[3]);
    let operators = world.check();
    let repairs = operators.iter().filter(|o| o.reason == Reason::Repair).count();
    assert_eq!(repairs, 3, "{operators:?}");
}
