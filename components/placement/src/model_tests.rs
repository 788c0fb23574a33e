//! The checkers against a model of a cluster: stores join, die, return and are drained, regions elect and split,
//! heartbeats and operators get lost or late, the placement leader loses its memory. In the end everything must be
//! where it belongs, and stay there.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_region::{
    KeyRange, Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, Space, StoreId, Term,
};
use proptest::prelude::*;

use crate::{
    ClusterView, IdPool, InFlight, Operator, PeerChangeKind, PlacementConfig, RegionInfo, Step, StoreRecord,
    StoreState, StoreStats, after_change, after_leave, check, drained_stores,
};

const STEP_MS: u64 = 1_000;
/// Longer than anything the configuration waits for.
const QUIET_STEPS: u64 = 80;

#[derive(Clone, Debug)]
enum Event {
    Join,
    Kill(prop::sample::Index),
    Revive(prop::sample::Index),
    Drain(prop::sample::Index),
    Split(prop::sample::Index),
    ForgetAll,
}

struct Store {
    is_alive: bool,
    boot_id: u64,
    state: StoreState,
    heard_ms: u64,
    silent_since_ms: u64,
}

/// One region as it really is.
struct Group {
    region: Region,
    leader: Option<PeerId>,
    term: Term,
    /// Steps until a peer has caught up.
    behind: BTreeMap<PeerId, u64>,
    bytes: u64,
}

impl Group {
    fn halves(&self) -> [Vec<&Peer>; 2] {
        let half =
            |roles: [PeerRole; 2]| self.region.peers.iter().filter(|p| roles.contains(&p.role)).collect();
        let incoming = half([PeerRole::Voter, PeerRole::IncomingVoter]);
        let outgoing = half([PeerRole::Voter, PeerRole::DemotingVoter]);
        if self.region.is_joint() { [incoming, outgoing] } else { [incoming.clone(), incoming] }
    }

    fn has_quorum(&self, is_live: impl Fn(&Peer) -> bool) -> bool {
        self.halves().iter().all(|half| half.iter().filter(|p| is_live(p)).count() > half.len() / 2)
    }
}

struct Model {
    stores: BTreeMap<StoreId, Store>,
    groups: BTreeMap<RegionId, Group>,
    late: Vec<(u64, Operator)>,
    used_ids: BTreeSet<u64>,
    next_id: u64,
    random: u64,
    now_ms: u64,
    config: PlacementConfig,
    view: ClusterView,
    flight: InFlight,
    ids: IdPool,
    asked: u64,
    merged: u64,
}

impl Model {
    /// A cluster as it is founded: one store with everything on it.
    fn new(seed: u64) -> Self {
        let config = PlacementConfig {
            store_gone_ms: 30_000,
            store_silent_ms: 5_000,
            store_settle_ms: 2_000,
            report_wait_ms: 10_000,
            operator_expire_ms: 5_000,
            learner_stuck_ms: 40_000,
            filling_per_store_max: 4,
            sending_per_store_max: 6,
            transfers_max: 3,
            moves_max: 3,
            merge_bytes: 30,
            merge_wait_ms: 15_000,
            merges_max: 2,
            ..PlacementConfig::default()
        };
        config.check().unwrap();
        let mut model = Self {
            stores: BTreeMap::new(),
            groups: BTreeMap::new(),
            late: Vec::new(),
            used_ids: BTreeSet::new(),
            next_id: RegionId::FIRST_FREE.get(),
            random: seed | 1,
            now_ms: 0,
            view: ClusterView::new(Term(1), 0),
            flight: InFlight::new(),
            ids: IdPool::new(),
            config,
            asked: 0,
            merged: 0,
        };
        model.join();
        let border = vec![0xFF];
        model.found(RegionId::META, Space::Meta, KeyRange::ALL);
        model.found(RegionId::FIRST_USER, Space::User, KeyRange::new(vec![], border.clone()));
        model.found(RegionId::SENTINEL, Space::User, KeyRange::new(border, vec![]));
        model
    }

    fn found(&mut self, id: RegionId, space: Space, range: KeyRange) {
        let peer = Peer { id: PeerId(self.next_id), store: StoreId(1), role: PeerRole::Voter };
        self.next_id += 1;
        self.used_ids.insert(peer.id.get());
        let region = Region { id, space, range, epoch: RegionEpoch::INITIAL, peers: vec![peer] };
        self.groups
            .insert(id, Group { region, leader: None, term: Term(5), behind: BTreeMap::new(), bytes: 100 });
    }

    /// A number below `bound`, drawn by the seed.
    fn draw(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn is_alive(&self, store: StoreId) -> bool {
        self.stores[&store].is_alive
    }

    fn serving(&self) -> Vec<StoreId> {
        let is_serving = |s: &Store| s.is_alive && s.state == StoreState::Up;
        self.stores.iter().filter(|(_, s)| is_serving(s)).map(|(id, _)| *id).collect()
    }

    // ---- events ----

    fn run(&mut self, event: &Event) {
        match event {
            Event::Join => self.join(),
            Event::Kill(pick) => self.kill(*pick.get(&self.ids_of_stores())),
            Event::Revive(pick) => self.revive(*pick.get(&self.ids_of_stores())),
            Event::Drain(pick) => self.drain(*pick.get(&self.ids_of_stores())),
            Event::Split(pick) => {
                let all: Vec<RegionId> = self.groups.keys().copied().collect();
                self.split(*pick.get(&all));
            }
            Event::ForgetAll => self.forget_all(),
        }
    }

    fn ids_of_stores(&self) -> Vec<StoreId> {
        self.stores.keys().copied().collect()
    }

    fn join(&mut self) {
        let id = StoreId(self.stores.len() as u64 + 1);
        let store = Store {
            is_alive: true,
            boot_id: 1,
            state: StoreState::Up,
            heard_ms: self.now_ms,
            silent_since_ms: 0,
        };
        self.stores.insert(id, store);
        self.register(id);
    }

    fn register(&mut self, id: StoreId) {
        let state = self.stores[&id].state;
        self.view.put_store(StoreRecord { id, state, ..StoreRecord::default() });
    }

    /// Kills a store unless a region would lose the quorum of caught-up voters: placement can do nothing then.
    fn kill(&mut self, id: StoreId) {
        let would_live = |store: StoreId| self.is_alive(store) && store != id;
        let survives = |g: &Group| g.has_quorum(|p| would_live(p.store) && !g.behind.contains_key(&p.id));
        if self.is_alive(id) && self.groups.values().all(survives) {
            let now_ms = self.now_ms;
            let store = self.stores.get_mut(&id).unwrap();
            store.is_alive = false;
            store.silent_since_ms = now_ms;
        }
    }

    fn revive(&mut self, id: StoreId) {
        let store = self.stores.get_mut(&id).unwrap();
        if store.is_alive || store.state == StoreState::Tombstone {
            return;
        }
        store.is_alive = true;
        store.boot_id += 1;
        for group in self.groups.values_mut() {
            if let Some(peer) = group.region.peer_on(id) {
                group.behind.insert(peer.id, 3);
            }
        }
    }

    fn drain(&mut self, id: StoreId) {
        if self.serving().len() > 3 && self.stores[&id].state == StoreState::Up {
            self.stores.get_mut(&id).unwrap().state = StoreState::Offline;
            self.register(id);
        }
    }

    fn split(&mut self, id: RegionId) {
        let Some(leader) = self.groups[&id].leader else { return };
        if id == RegionId::META || id == RegionId::SENTINEL || self.groups.len() > 24 {
            return;
        }
        let group = self.groups.get_mut(&id).unwrap();
        let leader_store = group.region.peer(leader).unwrap().store;
        let mut key = group.region.range.start.to_vec();
        key.push(if group.region.range.end.starts_with(&[&key[..], &[1]].concat()) { 0 } else { 1 });
        if !group.region.range.contains(&key) || group.region.range.start == key {
            return;
        }
        group.region.epoch.version += 1;
        group.bytes = (group.bytes / 2).max(1);
        let bytes = group.bytes;
        let mut child = group.region.clone();
        child.id = RegionId(self.next_id);
        self.next_id += 1;
        child.range.end = key.clone().into();
        group.region.range.start = key.into();
        let mut behind = BTreeMap::new();
        for peer in &mut child.peers {
            if let Some(steps) = group.behind.get(&peer.id) {
                behind.insert(PeerId(self.next_id), *steps);
            }
            peer.id = PeerId(self.next_id);
            assert!(self.used_ids.insert(self.next_id));
            self.next_id += 1;
        }
        let leader = child.peer_on(leader_store).map(|p| p.id);
        self.groups.insert(child.id, Group { region: child, leader, term: Term(6), behind, bytes });
    }

    /// The placement leader changes: an empty view, nothing remembered, ids lost.
    fn forget_all(&mut self) {
        self.view = ClusterView::new(Term(self.view.meta_term().get() + 1), self.now_ms);
        self.flight = InFlight::new();
        self.ids = IdPool::new();
        self.ids_of_stores().into_iter().for_each(|id| self.register(id));
    }

    // ---- one second ----

    fn step(&mut self) {
        self.now_ms += STEP_MS;
        self.elect_and_catch_up();
        self.heartbeats();
        self.reports();
        if self.ids.remaining() < 50 {
            self.ids.add(self.next_id, 100);
            self.next_id += 100;
        }
        self.bury_drained();
        let operators = check(&self.view, &self.config, &mut self.flight, &mut self.ids, self.now_ms);
        self.view.check_invariants();
        self.asked += operators.len() as u64;
        for operator in operators {
            self.check_operator(&operator);
            if self.draw(10) > 0 {
                let delay_ms = self.draw(3) * STEP_MS;
                self.late.push((self.now_ms + delay_ms, operator));
            }
        }
        let (due, late) = std::mem::take(&mut self.late).into_iter().partition(|(at, _)| *at <= self.now_ms);
        self.late = late;
        let due: Vec<(u64, Operator)> = due;
        due.iter().for_each(|(_, operator)| self.take(operator));
    }

    fn elect_and_catch_up(&mut self) {
        let stores = &self.stores;
        for group in self.groups.values_mut() {
            let is_live = |p: &Peer| stores[&p.store].is_alive;
            let leads = |p: &Peer| is_live(p) && !matches!(p.role, PeerRole::Learner);
            let has_leader = group.leader.and_then(|id| group.region.peer(id)).is_some_and(leads);
            if !group.has_quorum(is_live) {
                group.leader = None;
            } else if !has_leader {
                let is_electable = |p: &&Peer| {
                    is_live(p)
                        && matches!(p.role, PeerRole::Voter | PeerRole::IncomingVoter)
                        && !group.behind.contains_key(&p.id)
                };
                group.leader = group.region.peers.iter().find(is_electable).map(|p| p.id);
                group.term = Term(group.term.get() + 1);
            }
            let is_led = group.leader.is_some();
            let region = &group.region;
            group.behind.retain(|id, steps| {
                let Some(peer) = region.peer(*id) else { return false };
                *steps -= u64::from(is_led && is_live(peer) && *steps > 0);
                *steps > 0
            });
        }
    }

    fn heartbeats(&mut self) {
        for id in self.ids_of_stores() {
            if self.is_alive(id) && self.stores[&id].state != StoreState::Tombstone && self.draw(10) > 0 {
                let boot_id = self.stores[&id].boot_id;
                assert!(self.view.heartbeat(id, boot_id, StoreStats::default(), self.now_ms, &self.config));
                self.stores.get_mut(&id).unwrap().heard_ms = self.now_ms;
            }
        }
    }

    fn reports(&mut self) {
        for id in self.ids_of_stores() {
            let Some(info) = self.view.store(id) else { continue };
            let boot_id = self.stores[&id].boot_id;
            let is_full = !info.has_reported && info.boot_id == boot_id;
            let led = |g: &&Group| g.leader.and_then(|l| g.region.peer(l)).is_some_and(|p| p.store == id);
            let reports: Vec<RegionInfo> =
                self.groups.values().filter(led).map(|g| self.report_of(g)).collect();
            for report in reports {
                if is_full || self.draw(5) > 0 {
                    self.view.report(report);
                }
            }
            if is_full && self.is_alive(id) {
                self.view.reported(id, boot_id);
            }
        }
    }

    fn report_of(&self, group: &Group) -> RegionInfo {
        let dead = group.region.peers.iter().filter(|p| !self.is_alive(p.store));
        RegionInfo {
            region: group.region.clone().into(),
            leader: group.leader,
            term: group.term,
            down: dead.map(|p| (p.id, self.now_ms - self.stores[&p.store].silent_since_ms)).collect(),
            pending: group.behind.keys().copied().collect(),
            ready: true,
            bytes: group.bytes,
            ..RegionInfo::default()
        }
    }

    fn bury_drained(&mut self) {
        for id in drained_stores(&self.view, &self.config, self.now_ms) {
            let holds = |g: &Group| g.region.peer_on(id).is_some();
            assert!(!self.groups.values().any(holds), "store {id} is removed with a replica on it");
            self.stores.get_mut(&id).unwrap().state = StoreState::Tombstone;
            self.register(id);
        }
    }

    /// What must hold of an operator the moment it is decided, as far as the view can know.
    fn check_operator(&self, operator: &Operator) {
        let info = self.view.regions().by_id(operator.region).expect("an operator for a known region");
        let gap_ms = |p: &Peer| self.now_ms - self.stores[&p.store].heard_ms;
        let is_live = |p: &Peer| gap_ms(p) < self.config.store_silent_ms && !info.down.contains_key(&p.id);
        let group = |peers| Group {
            region: Region { peers, ..(*info.region).clone() },
            leader: info.leader,
            term: info.term,
            behind: BTreeMap::new(),
            bytes: 0,
        };
        match &operator.step {
            Step::TransferLeader(to) => {
                assert!(
                    is_live(to) && !info.pending.contains(&to.id),
                    "{operator:?} to a peer that cannot lead"
                );
                assert_eq!(self.stores[&to.store].state, StoreState::Up);
            }
            Step::LeaveJoint => assert!(info.region.is_joint()),
            Step::Merge(source) => {
                let (a, b) = (&info.region.range, &source.range);
                assert!(a.start == b.end || a.end == b.start, "{operator:?}: no neighbours");
                assert_eq!(stores_of(&info.region), stores_of(source), "{operator:?}: other stores");
                assert!(![RegionId::META, RegionId::SENTINEL].contains(&source.id), "{operator:?}");
                assert!(![RegionId::META, RegionId::SENTINEL].contains(&info.region.id), "{operator:?}");
            }
            Step::ChangePeers(changes) => {
                assert!(!info.region.is_joint(), "{operator:?} inside a joint state");
                let during = group(after_change(&info.region, changes));
                let after = group(after_leave(&during.region));
                assert!(group(info.region.peers.clone()).has_quorum(is_live), "{operator:?} cannot commit");
                assert!(
                    during.has_quorum(is_live) && after.has_quorum(is_live),
                    "{operator:?} loses the quorum"
                );
                for change in changes {
                    let known = info.region.peer(change.peer.id).map(|p| p.role);
                    let is_leader = info.leader == Some(change.peer.id);
                    match change.kind {
                        PeerChangeKind::AddVoter => {
                            assert_eq!(known, Some(PeerRole::Learner));
                            assert!(
                                !info.pending.contains(&change.peer.id),
                                "{operator:?} promotes an empty peer"
                            );
                        }
                        PeerChangeKind::AddLearner => assert!(!is_leader, "{operator:?} demotes the leader"),
                        PeerChangeKind::Remove => assert_eq!(known, Some(PeerRole::Learner)),
                    }
                }
            }
        }
    }

    /// A region's leader takes a step, or refuses it.
    fn take(&mut self, operator: &Operator) {
        if let Step::Merge(source) = &operator.step {
            return self.merge(operator, source);
        }
        // It may have become part of another one.
        let Some(group) = self.groups.get_mut(&operator.region) else { return };
        let stores = &self.stores;
        let is_asked = group.leader == Some(operator.leader.id) && stores[&operator.leader.store].is_alive;
        let has_quorum = |g: &Group| g.has_quorum(|p| stores[&p.store].is_alive);
        if !is_asked || group.region.epoch != operator.epoch || !has_quorum(group) {
            if self.random.is_multiple_of(2) {
                self.flight.failed(operator.region, operator.epoch);
            }
            return;
        }
        match &operator.step {
            Step::TransferLeader(to) => {
                if stores[&to.store].is_alive && !group.behind.contains_key(&to.id) {
                    group.leader = Some(to.id);
                    group.term = Term(group.term.get() + 1);
                }
            }
            Step::LeaveJoint => {
                group.region.epoch.conf_ver += 1;
                group.region.peers = after_leave(&group.region);
            }
            Step::Merge(_) => {}
            Step::ChangePeers(changes) => {
                let before = std::mem::take(&mut group.region.peers);
                group.region.peers = before.clone();
                group.region.peers = after_change(&group.region, changes);
                if !has_quorum(group) {
                    // Something died since: the leader itself knows better.
                    group.region.peers = before;
                    return;
                }
                group.region.epoch.conf_ver += changes.len() as u64;
                for change in changes.iter().filter(|c| group.region.peer(c.peer.id).is_some()) {
                    if before.iter().all(|p| p.id != change.peer.id) {
                        assert!(self.used_ids.insert(change.peer.id.get()), "peer id used twice");
                        group.behind.insert(change.peer.id, 2 + change.peer.id.get() % 5);
                    }
                }
                let holders: BTreeSet<StoreId> = group.region.peers.iter().map(|p| p.store).collect();
                assert_eq!(holders.len(), group.region.peers.len(), "two peers on one store");
            }
        }
    }

    /// The source becomes part of the target, if both still have the shapes that were meant.
    fn merge(&mut self, operator: &Operator, source: &Region) {
        let is_able = |g: &Group| g.leader.is_some() && g.has_quorum(|p| self.stores[&p.store].is_alive);
        let is_meant = |id: RegionId, epoch| {
            self.groups.get(&id).is_some_and(|g| g.region.epoch == epoch && is_able(g) && g.behind.is_empty())
        };
        if !is_meant(operator.region, operator.epoch) || !is_meant(source.id, source.epoch) {
            return;
        }
        let gone = self.groups.remove(&source.id).unwrap();
        let target = self.groups.get_mut(&operator.region).unwrap();
        assert_eq!(stores_of(&target.region), stores_of(&gone.region));
        let range = &mut target.region.range;
        if range.start == gone.region.range.end {
            range.start = gone.region.range.start;
        } else {
            range.end = gone.region.range.end;
        }
        let version = target.region.epoch.version.max(gone.region.epoch.version) + 1;
        target.region.epoch.version = version;
        target.bytes += gone.bytes;
        self.merged += 1;
    }

    // ---- the end ----

    /// Lets time pass until nothing was asked for in a long while.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..4_000 {
            let before = self.asked;
            self.step();
            quiet = if self.asked == before { quiet + 1 } else { 0 };
            if quiet == QUIET_STEPS {
                return;
            }
        }
        panic!("still asking for steps: {:?}", self.flight.operators().collect::<Vec<_>>());
    }

    /// No two neighbours are left of which one is small and that together are not large.
    fn check_merged(&self) {
        let mut users: Vec<&Group> = self.groups.values().collect();
        users.retain(|g| g.region.space == Space::User && g.region.id != RegionId::SENTINEL);
        users.sort_by_key(|g| g.region.range.start.clone());
        for pair in users.windows(2) {
            let is_small = pair.iter().any(|g| g.bytes < self.config.merge_bytes);
            let is_large = pair[0].bytes + pair[1].bytes > 2 * self.config.merge_bytes;
            assert!(!is_small || is_large, "{:?} and {:?} stay apart", pair[0].region, pair[1].region);
        }
    }

    fn check_converged(&self) {
        let serving: BTreeSet<StoreId> = self.serving().into_iter().collect();
        let mut peers: BTreeMap<StoreId, u64> = serving.iter().map(|s| (*s, 0)).collect();
        let mut leaders = peers.clone();
        for group in self.groups.values() {
            let region = &group.region;
            assert_eq!(region.peers.len(), 3, "{region:?}");
            assert!(region.peers.iter().all(|p| p.role == PeerRole::Voter), "{region:?}");
            assert!(region.peers.iter().all(|p| serving.contains(&p.store)), "{region:?} not on {serving:?}");
            if region.space == Space::User && region.id != RegionId::SENTINEL {
                region.peers.iter().for_each(|p| *peers.get_mut(&p.store).unwrap() += 1);
                let leader = region.peer(group.leader.unwrap()).unwrap();
                *leaders.get_mut(&leader.store).unwrap() += 1;
            }
        }
        let spread =
            |counts: &BTreeMap<StoreId, u64>| counts.values().max().unwrap() - counts.values().min().unwrap();
        assert!(spread(&peers) < self.config.region_tolerance, "replicas {peers:?}");
        for group in self.groups.values().filter(|g| g.region.id != RegionId::META) {
            let leader = group.region.peer(group.leader.unwrap()).unwrap();
            for peer in group.region.peers.iter().filter(|_| group.region.id != RegionId::SENTINEL) {
                let gain = leaders[&leader.store].saturating_sub(leaders[&peer.store]);
                assert!(gain < self.config.leader_tolerance, "leaders {leaders:?}, {:?}", group.region);
            }
        }
        self.check_merged();
        let drained = self.stores.values().filter(|s| s.is_alive && s.state == StoreState::Offline);
        assert_eq!(drained.count(), 0, "a drained store is not removed");
    }
}

fn stores_of(region: &Region) -> BTreeSet<StoreId> {
    region.peers.iter().map(|p| p.store).collect()
}

fn any_event() -> impl Strategy<Value = (Event, u64)> {
    let event = prop_oneof![
        2 => Just(Event::Join),
        3 => any::<prop::sample::Index>().prop_map(Event::Kill),
        3 => any::<prop::sample::Index>().prop_map(Event::Revive),
        1 => any::<prop::sample::Index>().prop_map(Event::Drain),
        6 => any::<prop::sample::Index>().prop_map(Event::Split),
        1 => Just(Event::ForgetAll),
    ];
    (event, 0..30u64)
}

#[test]
fn a_founded_cluster_that_three_stores_join_and_whose_regions_split_is_balanced() {
    let mut model = Model::new(7);
    (0..12).for_each(|_| model.step());
    for nth in 0..15 {
        let all: Vec<RegionId> = model.groups.keys().copied().collect();
        model.split(all[1 + nth % (all.len() - 1)]);
        model.step();
    }
    assert!(model.groups.len() > 10);
    (0..3).for_each(|_| model.join());
    model.settle();
    model.check_converged();
    assert!(model.merged > 3, "small neighbours merge");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happened_every_region_ends_with_three_healthy_replicas_and_nothing_moves_any_more(
        seed in any::<u64>(),
        events in prop::collection::vec(any_event(), 0..24),
    ) {
        let mut model = Model::new(seed);
        for (event, steps) in &events {
            model.run(event);
            (0..*steps).for_each(|_| model.step());
        }
        while model.serving().len() < 3 {
            model.join();
        }
        model.settle();
        model.check_converged();
        let asked = model.asked;
        model.forget_all();
        (0..QUIET_STEPS).for_each(|_| model.step());
        prop_assert_eq!(model.asked, asked, "a new placement leader finds nothing to do");
    }
}
