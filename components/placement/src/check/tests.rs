//! What one pass decides, scenario by scenario.

use std::sync::Arc;

use flotilla_region::{KeyRange, Peer, PeerId, PeerRole, Region, RegionEpoch, Term};

use super::*;
use crate::{
    PeerChange, PeerChangeKind, Reason, RegionInfo, Step, StoreRecord, StoreStats, after_change, after_leave,
};

const NOW: u64 = 1_000_000;

/// A cluster view under construction, and what a placement leader keeps beside it.
struct World {
    view: ClusterView,
    config: PlacementConfig,
    flight: InFlight,
    ids: IdPool,
    now_ms: u64,
}

impl World {
    /// Stores 1 to `stores`, all up, heard from, reported and settled.
    fn new(stores: u64) -> Self {
        let mut ids = IdPool::new();
        ids.add(5_000, 1_000);
        let config = PlacementConfig::default();
        let mut world =
            Self { view: ClusterView::new(Term(7), NOW), config, flight: InFlight::new(), ids, now_ms: NOW };
        (1..=stores).for_each(|id| world.join(id));
        world.pass(10_000);
        world
    }

    fn join(&mut self, id: u64) {
        self.view.put_store(StoreRecord { id: StoreId(id), ..StoreRecord::default() });
        self.hear(id);
        self.view.reported(StoreId(id), 1);
    }

    fn hear(&mut self, id: u64) {
        assert!(self.view.heartbeat(StoreId(id), 1, StoreStats::default(), self.now_ms, &self.config));
    }

    /// Lets time pass with heartbeats from all stores but `silent`.
    fn pass_without(&mut self, ms: u64, silent: &[u64]) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.now_ms = (self.now_ms + 10_000).min(end);
            let ids: Vec<u64> = self.view.stores().map(|s| s.record.id.get()).collect();
            ids.iter().filter(|id| !silent.contains(id)).for_each(|id| self.hear(*id));
        }
    }

    fn pass(&mut self, ms: u64) {
        self.pass_without(ms, &[]);
    }

    fn drain(&mut self, id: u64) {
        let record = self.view.store(StoreId(id)).unwrap().record.clone();
        self.view.put_store(StoreRecord { state: StoreState::Offline, ..record });
    }

    fn report(&mut self, info: &RegionInfo) {
        assert_ne!(self.view.report(info.clone()), crate::Learned::Stale);
    }

    fn check(&mut self) -> Vec<Operator> {
        let operators = check(&self.view, &self.config, &mut self.flight, &mut self.ids, self.now_ms);
        self.view.check_invariants();
        operators
    }

    /// The only operator of a pass, which must concern `info`.
    fn only(&mut self, info: &RegionInfo) -> (Reason, Step) {
        let mut operators = self.check();
        assert_eq!(operators.len(), 1, "{operators:?}");
        let operator = operators.remove(0);
        assert_eq!((operator.region, operator.epoch), (info.region.id, info.region.epoch));
        assert_eq!(Some(operator.leader.id), info.leader);
        (operator.reason, operator.step)
    }

    /// Takes the only operator of a pass as the region's leader would, and reports the result.
    fn take(&mut self, info: &mut RegionInfo) -> (Reason, Step) {
        let (reason, step) = self.only(info);
        let peers = match &step {
            Step::TransferLeader(to) => {
                info.leader = Some(to.id);
                info.term = Term(info.term.get() + 1);
                info.region.peers.clone()
            }
            Step::ChangePeers(changes) => {
                Arc::make_mut(&mut info.region).epoch.conf_ver += changes.len() as u64;
                after_change(&info.region, changes)
            }
            Step::LeaveJoint => {
                Arc::make_mut(&mut info.region).epoch.conf_ver += 1;
                after_leave(&info.region)
            }
            Step::Merge(source) => {
                let version = info.region.epoch.version.max(source.epoch.version) + 1;
                Arc::make_mut(&mut info.region).epoch.version = version;
                let (range, other) = (&mut Arc::make_mut(&mut info.region).range, &source.range);
                if range.start == other.end {
                    range.start = other.start.clone();
                } else {
                    range.end = other.end.clone();
                }
                info.region.peers.clone()
            }
        };
        Arc::make_mut(&mut info.region).peers = peers;
        self.report(info);
        (reason, step)
    }
}

/// A user region with a voter on each store, the first one leading. Ranges follow ids.
fn region(id: u64, stores: &[u64]) -> RegionInfo {
    let peer =
        |store: &u64| Peer { id: PeerId(id * 10 + store), store: StoreId(*store), role: PeerRole::Voter };
    let peers: Vec<Peer> = stores.iter().map(peer).collect();
    let leader = peers.first().map(|p| p.id);
    let key = |id: u64| id.to_be_bytes().to_vec();
    let region = Region {
        id: RegionId(id),
        space: Space::User,
        range: KeyRange::new(key(id), key(id + 1)),
        epoch: RegionEpoch::INITIAL,
        peers,
    };
    RegionInfo { region: region.into(), leader, term: Term(6), ready: true, ..RegionInfo::default() }
}

fn change(kind: PeerChangeKind, id: u64, store: u64) -> PeerChange {
    let peer = Peer { id: PeerId(id), store: StoreId(store), role: PeerRole::Voter };
    match kind {
        PeerChangeKind::AddVoter => PeerChange::add_voter(peer),
        PeerChangeKind::AddLearner => PeerChange::add_learner(peer),
        PeerChangeKind::Remove => PeerChange::remove(Peer { role: PeerRole::Learner, ..peer }),
    }
}

fn stores_of(info: &RegionInfo) -> Vec<u64> {
    let mut stores: Vec<u64> = info.region.peers.iter().map(|p| p.store.get()).collect();
    stores.sort_unstable();
    stores
}

use PeerChangeKind::{AddLearner, AddVoter, Remove};

#[path = "damage_tests.rs"]
mod damage;

#[path = "leave_tests.rs"]
mod leave;

#[path = "merge_tests.rs"]
mod merges;

#[path = "ordered_tests.rs"]
mod ordered;

#[test]
fn nothing_is_scheduled_before_all_stores_reported_or_had_time_to() {
    let mut world = World::new(3);
    world.view.put_store(StoreRecord { id: StoreId(4), ..StoreRecord::default() });
    world.report(&region(100, &[1, 2]));
    assert!(!is_report_complete(&world.view, &world.config, world.now_ms));
    assert_eq!(world.check(), []);
    world.pass_without(10_000, &[4]);
    assert!(is_report_complete(&world.view, &world.config, world.now_ms));
    assert_eq!(world.check().len(), 1);
}

#[test]
fn a_restarted_store_must_report_again_and_leads_nothing_until_then() {
    let mut world = World::new(3);
    let info = region(100, &[1, 2, 3]);
    world.report(&info);
    assert!(world.view.heartbeat(StoreId(1), 2, StoreStats::default(), world.now_ms, &world.config));
    assert!(!is_report_complete(&world.view, &world.config, world.now_ms));
    assert_eq!(world.view.regions().by_id(info.region.id).unwrap().leader, None);
    world.view.reported(StoreId(1), 1);
    assert!(!world.view.store(StoreId(1)).unwrap().has_reported, "a report of the old incarnation");
    world.view.reported(StoreId(1), 2);
    assert!(is_report_complete(&world.view, &world.config, world.now_ms));
}

#[test]
fn a_joining_store_gets_a_learner_which_is_promoted_once_it_caught_up() {
    let mut world = World::new(3);
    let mut info = region(100, &[1, 2]);
    world.report(&info);
    let (_, step) = world.take(&mut info);
    assert_eq!(step, Step::ChangePeers(vec![change(AddLearner, 5_000, 3)]));
    info.pending.insert(PeerId(5_000));
    world.report(&info);
    assert_eq!(world.check(), []);
    info.pending.clear();
    world.report(&info);
    let (reason, step) = world.take(&mut info);
    assert_eq!((reason, step), (Reason::Repair, Step::ChangePeers(vec![change(AddVoter, 5_000, 3)])));
    assert_eq!(world.check(), []);
}

#[test]
fn both_missing_replicas_are_filled_at_the_same_time() {
    let mut world = World::new(3);
    let mut info = region(100, &[1]);
    world.report(&info);
    for (id, store) in [(5_000, 2), (5_001, 3)] {
        let (_, step) = world.take(&mut info);
        assert_eq!(step, Step::ChangePeers(vec![change(AddLearner, id, store)]));
        info.pending.insert(PeerId(id));
        world.report(&info);
    }
    assert_eq!(world.check(), []);
}

#[test]
fn a_region_has_one_unfinished_operator_until_it_expires_or_fails() {
    let mut world = World::new(3);
    let info = region(100, &[1, 2]);
    world.report(&info);
    assert_eq!(world.check().len(), 1);
    assert_eq!(world.check(), []);
    world.pass(9_999);
    assert_eq!(world.check(), []);
    world.pass(1);
    assert_eq!(world.check().len(), 1);
    world.flight.failed(info.region.id, RegionEpoch::default());
    assert_eq!(world.check(), []);
    world.flight.failed(info.region.id, info.region.epoch);
    assert_eq!(world.check().len(), 1);
}

#[test]
fn replicas_of_a_gone_store_are_replaced_by_one_joint_change_and_the_old_one_goes_last() {
    let mut world = World::new(4);
    let mut info = region(100, &[1, 2, 3]);
    world.report(&info);
    world.pass_without(30 * 60 * 1000 - 1, &[3]);
    assert_eq!(world.check(), [], "silent, but not for long enough");
    world.pass_without(1, &[3]);
    let (_, step) = world.take(&mut info);
    assert_eq!(step, Step::ChangePeers(vec![change(AddLearner, 5_000, 4)]));
    let (_, step) = world.take(&mut info);
    assert_eq!(step, Step::ChangePeers(vec![change(AddVoter, 5_000, 4), change(AddLearner, 1_003, 3)]));
    assert!(info.region.is_joint());
    assert_eq!(world.take(&mut info), (Reason::LeaveJoint, Step::LeaveJoint));
    let (_, step) = world.take(&mut info);
    assert_eq!(step, Step::ChangePeers(vec![change(Remove, 1_003, 3)]));
    assert_eq!(stores_of(&info), [1, 2, 4]);
    assert_eq!(world.check(), []);
}

#[test]
fn silence_counts_from_the_start_of_the_leadership_at_the_earliest() {
    let mut world = World::new(3);
    world.view.put_store(StoreRecord { id: StoreId(4), ..StoreRecord::default() });
    let health = |world: &World, now| world.view.health(StoreId(4), &world.config, now);
    assert_eq!(health(&world, NOW), StoreHealth::Silent);
    assert_eq!(health(&world, NOW + world.config.store_gone_ms - 1), StoreHealth::Silent);
    assert_eq!(health(&world, NOW + world.config.store_gone_ms), StoreHealth::Gone);
    assert_eq!(world.view.health(StoreId(9), &world.config, NOW), StoreHealth::Gone);
}

#[test]
fn a_store_that_returns_in_time_keeps_its_replica_and_the_spare_learner_goes() {
    let mut world = World::new(4);
    let mut info = region(100, &[1, 2, 3]);
    world.report(&info);
    world.pass_without(30 * 60 * 1000, &[3]);
    world.take(&mut info);
    world.hear(3);
    let (reason, step) = world.take(&mut info);
    assert_eq!((reason, step), (Reason::Surplus, Step::ChangePeers(vec![change(Remove, 5_000, 4)])));
    assert_eq!(stores_of(&info), [1, 2, 3]);
}

#[test]
fn without_a_fourth_store_a_gone_replica_stays_as_it_is() {
    let mut world = World::new(3);
    world.report(&region(100, &[1, 2, 3]));
    world.pass_without(40 * 60 * 1000, &[3]);
    assert_eq!(world.check(), []);
}

#[test]
fn a_region_without_a_live_quorum_is_left_alone() {
    let mut world = World::new(5);
    world.report(&region(100, &[1, 2, 3]));
    world.pass_without(40 * 60 * 1000, &[2, 3]);
    assert_eq!(world.check(), []);
    assert_eq!(world.ids.remaining(), 1_000, "no id is spent on what cannot commit");
}

#[test]
fn a_second_voter_is_not_promoted_while_the_first_one_is_silent() {
    // One of two voters is silent: nothing commits, so nothing may be asked for.
    let mut world = World::new(3);
    let mut info = region(100, &[1, 2]);
    Arc::make_mut(&mut info.region).peers.push(Peer {
        id: PeerId(9),
        store: StoreId(3),
        role: PeerRole::Learner,
    });
    world.report(&info);
    world.pass_without(20_000, &[2]);
    assert_eq!(world.check(), []);
}

#[test]
fn a_swap_that_would_leave_fewer_live_voters_than_a_quorum_is_refused() {
    // Voters 1 and 2 live, 3 gone, 4 silent, 5 silent: a quorum of five is not live.
    let mut world = World::new(6);
    world.config.replicas = 5;
    world.config.meta_replicas = 5;
    let mut info = region(100, &[1, 2, 3, 4, 5]);
    Arc::make_mut(&mut info.region).peers.push(Peer {
        id: PeerId(9),
        store: StoreId(6),
        role: PeerRole::Learner,
    });
    world.report(&info);
    world.pass_without(29 * 60 * 1000, &[3]);
    world.pass_without(60_000, &[3, 4, 5]);
    assert_eq!(world.check(), []);
    world.hear(5);
    assert_eq!(world.check().len(), 1);
}

#[test]
fn a_voter_that_its_leader_reports_as_down_for_long_is_replaced_although_its_store_lives() {
    let mut world = World::new(4);
    let mut info = region(100, &[1, 2, 3]);
    info.down.insert(PeerId(1_002), 29 * 60 * 1000);
    world.report(&info);
    assert_eq!(world.check(), []);
    info.down.insert(PeerId(1_002), 30 * 60 * 1000);
    world.report(&info);
    let (reason, _) = world.take(&mut info);
    assert_eq!(reason, Reason::Repair);
    info.down.remove(&PeerId(1_002));
}

#[test]
fn a_drained_store_may_be_removed_only_when_everything_is_known_and_nothing_is_left_on_it() {
    let mut world = World::new(4);
    let whole = |id: u64, space, stores: &[u64]| {
        let mut info = region(id, stores);
        Arc::make_mut(&mut info.region).space = space;
        Arc::make_mut(&mut info.region).range = KeyRange::ALL;
        info
    };
    world.report(&whole(100, Space::User, &[1, 2, 3]));
    world.drain(4);
    let drained = |world: &World| drained_stores(&world.view, &world.config, world.now_ms);
    assert_eq!(drained(&world), [], "the meta region is not known");
    world.report(&whole(1, Space::Meta, &[1, 2, 3]));
    assert_eq!(drained(&world), [StoreId(4)]);
    world.drain(3);
    assert_eq!(drained(&world), [StoreId(4)]);
}

#[test]
fn surplus_voters_are_demoted_then_removed_and_never_the_leader() {
    let mut world = World::new(5);
    world.config.balance_leaders = false;
    let mut info = region(100, &[5, 1, 2, 3, 4]);
    world.report(&info);
    let mut kinds = Vec::new();
    while info.region.peers.len() > 3 {
        match world.take(&mut info) {
            (Reason::Surplus, Step::ChangePeers(changes)) => kinds.extend(changes.iter().map(|c| c.kind)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(kinds, [AddLearner, AddLearner, Remove, Remove]);
    assert_eq!(stores_of(&info), [1, 2, 5]);
    assert_eq!(world.check(), []);
}

#[test]
fn a_silent_voter_is_the_first_to_go_when_there_are_too_many() {
    let mut world = World::new(4);
    let mut info = region(100, &[1, 2, 3, 4]);
    world.report(&info);
    world.pass_without(20_000, &[2]);
    let (_, step) = world.take(&mut info);
    assert_eq!(step, Step::ChangePeers(vec![change(AddLearner, 1_002, 2)]));
}

#[test]
fn a_learner_that_never_catches_up_is_removed_and_another_one_added() {
    let mut world = World::new(4);
    let mut info = region(100, &[1, 2]);
    world.report(&info);
    world.take(&mut info);
    info.pending.insert(PeerId(5_000));
    world.report(&info);
    assert_eq!(world.check(), []);
    world.pass(world.config.learner_stuck_ms);
    let (reason, step) = world.take(&mut info);
    assert_eq!((reason, step), (Reason::Surplus, Step::ChangePeers(vec![change(Remove, 5_000, 3)])));
    assert_eq!(world.take(&mut info).0, Reason::Repair);
}

#[test]
fn a_learner_on_a_store_that_fell_silent_is_removed_at_once() {
    let mut world = World::new(4);
    let mut info = region(100, &[1, 2]);
    world.report(&info);
    world.take(&mut info);
    world.pass_without(20_000, &[3]);
    assert_eq!(world.take(&mut info).0, Reason::Surplus);
    let (_, step) = world.take(&mut info);
    assert_eq!(step, Step::ChangePeers(vec![change(AddLearner, 5_001, 4)]));
}

#[test]
fn a_joint_state_is_left_before_anything_else_and_a_demoted_leader_steps_aside_first() {
    let mut world = World::new(4);
    let mut info = region(100, &[1, 2, 3]);
    Arc::make_mut(&mut info.region).peers[0].role = PeerRole::DemotingVoter;
    Arc::make_mut(&mut info.region).peers.push(Peer {
        id: PeerId(9),
        store: StoreId(4),
        role: PeerRole::IncomingVoter,
    });
    world.report(&info);
    assert_eq!(world.take(&mut info).0, Reason::EvictLeader);
    assert_eq!(world.take(&mut info), (Reason::LeaveJoint, Step::LeaveJoint));
}

#[test]
fn a_region_whose_leader_is_unknown_silent_or_not_ready_is_left_alone() {
    let mut world = World::new(3);
    let info = region(100, &[1, 2]);
    for spoilt in [
        RegionInfo { leader: None, ..info.clone() },
        RegionInfo { ready: false, ..info.clone() },
        RegionInfo { leader: Some(PeerId(77)), ..info.clone() },
    ] {
        world.view = {
            let fresh = World::new(3);
            fresh.view
        };
        world.report(&spoilt);
        assert_eq!(world.check(), []);
    }
    world.view = World::new(3).view;
    world.report(&info);
    world.pass_without(20_000, &[1]);
    assert_eq!(world.check(), []);
}

#[test]
fn the_meta_region_is_first_knows_no_limits_and_has_ids_of_its_own() {
    let mut world = World::new(3);
    world.config.filling_per_store_max = 1;
    world.ids = IdPool::new();
    world.ids.add(1, crate::IDS_KEPT_FOR_META);
    let mut meta = region(1, &[1, 2]);
    Arc::make_mut(&mut meta.region).space = Space::Meta;
    world.report(&region(100, &[1, 2]));
    world.report(&meta);
    assert_eq!(world.take(&mut meta).0, Reason::Repair);
    world.ids.add(100, 100);
    world.flight = InFlight::new();
    assert_eq!(world.check().iter().map(|o| o.region).collect::<Vec<_>>(), [RegionId::META], "slot taken");
}

#[test]
fn the_meta_region_gets_five_replicas_when_asked_for_and_five_stores_are_up() {
    let mut world = World::new(4);
    world.config.meta_replicas = 5;
    let mut meta = region(1, &[1, 2, 3]);
    Arc::make_mut(&mut meta.region).space = Space::Meta;
    world.report(&meta);
    assert_eq!(world.check(), []);
    world.join(5);
    assert_eq!(world.take(&mut meta).0, Reason::Repair);
}

#[test]
fn the_sentinel_gets_replicas_but_weighs_nothing() {
    let mut world = World::new(3);
    let info = region(RegionId::SENTINEL.get(), &[1, 2]);
    world.report(&info);
    assert_eq!(world.view.load(StoreId(1)).peers, 0);
    assert_eq!(world.view.load(StoreId(1)).all_peers, 1);
    assert_eq!(world.only(&info).0, Reason::Repair);
}

#[test]
fn limits_per_store_bound_how_much_is_filled_at_once() {
    let mut world = World::new(3);
    world.config.filling_per_store_max = 4;
    (100..120).for_each(|id| world.report(&region(id, &[1 + id % 2, 2 - id % 2])));
    assert_eq!(world.check().len(), 4);
    world.pass(world.config.operator_expire_ms);
    world.config.filling_per_store_max = 16;
    world.config.sending_per_store_max = 3;
    assert_eq!(world.check().len(), 6);
}

#[test]
fn a_region_that_lost_a_voter_is_repaired_before_one_that_has_a_spare() {
    let mut world = World::new(5);
    world.config.filling_per_store_max = 1;
    world.config.balance_leaders = false;
    world.drain(4);
    world.report(&region(100, &[1, 2, 4]));
    world.report(&region(101, &[1, 2]));
    world.view.put_store(StoreRecord {
        id: StoreId(3),
        state: StoreState::Offline,
        ..StoreRecord::default()
    });
    let regions: Vec<u64> = world.check().iter().map(|o| o.region.get()).collect();
    assert_eq!(regions, [101]);
}

#[test]
fn leaders_move_to_stores_with_fewer_until_the_difference_is_small() {
    let mut world = World::new(3);
    (100..109).for_each(|id| world.report(&region(id, &[1, 2, 3])));
    let operators = world.check();
    assert_eq!(operators.len(), 6);
    assert!(operators.iter().all(|o| o.reason == Reason::BalanceLeaders));
    let to = |store| {
        let is_to = |o: &&Operator| matches!(&o.step, Step::TransferLeader(p) if p.store == StoreId(store));
        operators.iter().filter(is_to).count()
    };
    assert_eq!((to(2), to(3)), (3, 3));
}

#[test]
fn as_many_leaders_move_at_a_time_as_the_limit_and_the_number_of_regions_allow() {
    for (regions, expected) in [(30, 3), (1_000, 4), (2_000, 8)] {
        let mut world = World::new(3);
        world.config.transfers_max = 3;
        let mut regions: Vec<RegionInfo> = (100..100 + regions).map(|id| region(id, &[1, 2, 3])).collect();
        regions.iter().for_each(|info| world.report(info));
        let operators = world.check();
        assert_eq!(operators.len(), expected);
        assert_eq!(world.check(), [], "all are under way");
        let moved = operators.into_iter().take(2);
        for operator in moved {
            let info =
                regions.iter_mut().find(|info| info.region.id == operator.region).expect("one of them");
            let Step::TransferLeader(heir) = operator.step else { panic!("{operator:?}") };
            (info.leader, info.term) = (Some(heir.id), Term(info.term.get() + 1));
            world.report(info);
        }
        assert_eq!(world.check().len(), 2, "two have made room");
    }
}

#[test]
fn leaders_stay_where_the_difference_is_within_tolerance() {
    let mut world = World::new(3);
    for (id, stores) in [(100, [1, 2, 3]), (101, [1, 2, 3]), (102, [2, 1, 3]), (103, [3, 1, 2])] {
        world.report(&region(id, &stores));
    }
    assert_eq!(world.check(), []);
}

#[test]
fn no_leader_moves_to_a_lagging_replica_or_to_a_store_that_has_just_come_back() {
    let mut world = World::new(2);
    (world.config.replicas, world.config.meta_replicas) = (1, 1);
    world.config.replicas = 3;
    world.config.meta_replicas = 3;
    let infos: Vec<RegionInfo> = (100..104).map(|id| region(id, &[1, 2])).collect();
    for info in &infos {
        let pending = [PeerId(info.region.id.get() * 10 + 2)].into();
        world.report(&RegionInfo { pending, ..info.clone() });
    }
    assert_eq!(world.check(), []);
    infos.iter().for_each(|info| world.report(info));
    world.pass_without(30_000, &[2]);
    world.pass(1_000);
    assert_eq!(world.check(), [], "store 2 has just come back");
    world.pass(world.config.store_settle_ms);
    assert_eq!(world.check().len(), 2);
}

#[test]
fn replicas_move_to_an_empty_store_without_overshooting() {
    let mut world = World::new(3);
    world.config.balance_leaders = false;
    (100..112).for_each(|id| world.report(&region(id, &[1 + id % 3, 1 + (id + 1) % 3, 1 + (id + 2) % 3])));
    world.join(4);
    let operators = world.check();
    assert!(operators.iter().all(|o| o.reason == Reason::BalanceRegions));
    // 36 replicas over 4 stores: 9 each, and a difference of 2 is left alone.
    assert!((7..=9).contains(&operators.len()), "{}", operators.len());
    assert_eq!(world.flight.moves().count(), operators.len());
    world.pass(world.config.operator_expire_ms);
    assert_eq!(world.check().len(), operators.len(), "expired moves are started anew, not added");
}

#[test]
fn a_move_is_carried_through_and_takes_leadership_along_first() {
    let mut world = World::new(3);
    world.config.balance_leaders = false;
    (100..103).for_each(|id| world.report(&region(id, &[1, 2, 3])));
    let mut info = region(200, &[1, 2, 3]);
    (100..103).for_each(|id| drop(world.view.report(RegionInfo { ready: false, ..region(id, &[1, 2, 3]) })));
    world.report(&info);
    world.join(4);
    world.config.moves_max = 1;
    let (reason, _) = world.take(&mut info);
    assert_eq!(reason, Reason::BalanceRegions);
    let from = world.flight.planned(info.region.id).unwrap().from;
    assert_ne!(Some(from), info.leader, "followers go first");
    // Leadership went to the replica that is to leave.
    info.leader = Some(from);
    info.term = Term(9);
    world.report(&info);
    assert_eq!(world.take(&mut info).0, Reason::EvictLeader);
    assert_eq!(world.take(&mut info).0, Reason::BalanceRegions);
    assert_eq!(world.take(&mut info).0, Reason::LeaveJoint);
    assert_eq!(world.take(&mut info).0, Reason::BalanceRegions);
    assert_eq!(info.region.peers.len(), 3);
    assert!(info.region.peer(from).is_none() && info.region.peer_on(StoreId(4)).is_some());
    world.check();
    assert_eq!(world.flight.moves().filter(|m| m.0 == info.region.id).count(), 0);
}

#[test]
fn a_new_placement_leader_cleans_up_the_learner_of_a_move_it_knows_nothing_of() {
    let mut world = World::new(3);
    world.config.balance_leaders = false;
    let mut info = region(200, &[1, 2, 3]);
    (100..103).for_each(|id| world.report(&RegionInfo { ready: false, ..region(id, &[1, 2, 3]) }));
    world.report(&info);
    world.join(4);
    world.config.moves_max = 1;
    world.take(&mut info);
    world.flight = InFlight::new();
    let (reason, _) = world.take(&mut info);
    assert_eq!(reason, Reason::Surplus);
    assert_eq!(stores_of(&info), [1, 2, 3]);
}

#[test]
fn nothing_is_balanced_while_a_region_is_repaired_or_onto_a_full_disk() {
    let mut world = World::new(3);
    world.config.balance_leaders = false;
    (100..110).for_each(|id| world.report(&region(id, &[1, 2, 3])));
    world.join(4);
    let full = StoreStats { capacity_bytes: 100, available_bytes: 9, ..StoreStats::default() };
    assert!(world.view.heartbeat(StoreId(4), 1, full, world.now_ms, &world.config));
    assert_eq!(world.check(), []);
    world.hear(4);
    let broken = region(200, &[1, 2]);
    world.report(&broken);
    assert_eq!(world.only(&broken).0, Reason::Repair);
}

#[test]
fn replicas_are_spread_over_locations_and_balance_does_not_undo_it() {
    let mut world = World::new(5);
    world.config.location_labels = vec!["zone".into(), "host".into()];
    for (store, zone) in [(1, "a"), (2, "b"), (3, "b"), (4, "c"), (5, "c")] {
        let labels = [("zone".to_string(), zone.to_string()), ("host".to_string(), store.to_string())].into();
        world.view.put_store(StoreRecord { id: StoreId(store), labels, ..StoreRecord::default() });
    }
    world.drain(5);
    (100..110).for_each(|id| world.report(&RegionInfo { ready: false, ..region(id, &[1, 3, 4]) }));
    let mut info = region(200, &[1, 2]);
    world.report(&info);
    let (_, step) = world.take(&mut info);
    assert_eq!(step, Step::ChangePeers(vec![change(AddLearner, 5_000, 4)]), "zone c, although it is fuller");
    world.take(&mut info);
    // Store 3 could take a replica from 4 by load, but would share zone b.
    let moved = world.check();
    assert!(
        !moved.iter().any(|o| o.region == info.region.id && matches!(&o.step, Step::ChangePeers(_))),
        "{moved:?}"
    );
}
