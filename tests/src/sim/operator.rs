//! A person at the controls: looks at all stores now and then, and gives the administrative commands that the nemesis
//! draws. Placement itself is the stores' own.

use std::collections::BTreeMap;

use flotilla_engine::Prng;
use flotilla_placement::StoreState;
use flotilla_raftstore::{AdminCommand, PeerChange, PeerStatus, RequestError};
use flotilla_region::{Peer, PeerId, PeerRole, Region, RegionId, Space, StoreId};

use super::effects::{Answer, CallId, Callback, Effect};
use super::wishes::Position;
use super::world::{Event, World};

/// Pause between looks.
const LOOK_US: u64 = 150_000;

/// A learner that is to take the place of a voter.
#[derive(Clone, Copy, Debug)]
pub struct Swap {
    /// Where.
    pub region: RegionId,
    /// Who comes.
    pub learner: Peer,
    /// Who goes.
    pub gone: Peer,
}

/// What the operator knows and has under way.
pub struct Operator {
    pub(super) rng: Prng,
    /// The latest leader seen of each region.
    leaders: BTreeMap<RegionId, PeerStatus>,
    /// Every peer at the last look, by store.
    pub peers: BTreeMap<StoreId, BTreeMap<RegionId, PeerStatus>>,
    /// When each was seen last.
    seen_us: BTreeMap<(StoreId, RegionId), u64>,
    /// Commands under way, with their regions.
    underway: BTreeMap<CallId, RegionId>,
    /// What follows once a command under way has added a learner.
    swaps: BTreeMap<CallId, Swap>,
    /// Stores that are to be in a certain state.
    pub wanted: BTreeMap<StoreId, StoreState>,
}

impl Operator {
    /// An operator that knows nothing.
    pub fn new(rng: Prng) -> Self {
        Self {
            rng,
            leaders: BTreeMap::new(),
            peers: BTreeMap::new(),
            seen_us: BTreeMap::new(),
            underway: BTreeMap::new(),
            swaps: BTreeMap::new(),
            wanted: BTreeMap::new(),
        }
    }

    /// The latest leader seen of a region.
    pub fn leader_of(&self, region: RegionId) -> Option<&PeerStatus> {
        self.leaders.get(&region)
    }

    /// A peer that waits for data, on a store where it was seen of late.
    pub fn waiting_peer(&self, now_us: u64) -> Option<(StoreId, RegionId)> {
        let of_late = self.seen_us.iter().filter(|(_, at)| now_us - **at < 3 * LOOK_US).map(|(of, _)| *of);
        let waits = |(store, region): &(StoreId, RegionId)| {
            let status = self.peers.get(store).and_then(|peers| peers.get(region));
            status.is_some_and(|status| status.region.peers.is_empty())
        };
        of_late.into_iter().find(waits)
    }

    /// Whether a store is to be empty.
    pub fn is_drained(&self, store: StoreId) -> bool {
        self.wanted.get(&store) == Some(&StoreState::Offline)
    }

    /// A store is no more.
    pub(super) fn forget(&mut self, store: StoreId) {
        self.peers.remove(&store);
        self.seen_us.retain(|(of, _), _| *of != store);
        self.wanted.remove(&store);
    }

    /// The user region at a position, with its leader, as last seen.
    pub fn find(&self, position: &Position) -> Option<(Region, Option<PeerId>)> {
        let holds = |r: &Region| r.space == Space::User && position.is_in(r);
        let newest =
            self.leaders.values().filter(|s| holds(&s.region)).max_by_key(|s| s.region.epoch.version)?;
        Some(((*newest.region).clone(), Some(newest.leader)))
    }

    /// A region that a store leads, as far as is known, and that held keys of `region` when last seen.
    pub fn leads_keys_of(&self, store: StoreId, region: &Region) -> Option<RegionId> {
        let leads = |status: &&PeerStatus| status.peer.store == store && status.region.id != region.id;
        let mut others = self.leaders.values().filter(leads).map(|status| &status.region);
        let found = others.find(|o| o.space == region.space && o.range.overlaps(&region.range));
        found.map(|other| other.id)
    }

    /// The latest leader seen of every region that is not known to be gone.
    pub fn leaders(&self) -> impl Iterator<Item = &PeerStatus> {
        self.leaders.values()
    }
}

impl World {
    /// Looks at the cluster.
    pub fn operate(&mut self) {
        self.plan(LOOK_US, Event::Operate);
        self.set_store_states();
        if self.profile.extras.remove_drained {
            self.retire_removed();
        }
        let ids: Vec<StoreId> = self.hosts.keys().copied().collect();
        ids.into_iter().for_each(|id| self.inspect(id));
    }

    /// Asks a store for the state of its peers.
    pub(super) fn inspect(&mut self, id: StoreId) {
        let now = self.now_us();
        let Some(host) = self.hosts.get(&id) else { return };
        let Some(store) = host.store() else { return };
        let (effects, life) = (self.effects.clone(), host.life);
        store.inspect(move |list| effects.push(id, life, Effect::Statuses(list)));
        self.plan_turns(id, now);
    }

    /// A raft worker told the state of its peers.
    pub(super) fn on_statuses(&mut self, store: StoreId, list: Vec<PeerStatus>) {
        for status in list {
            self.check_status(store, &status);
            let id = status.region.id;
            if status.is_leader {
                let newer = self.operator.leaders.get(&id).is_none_or(|known| {
                    status.term > known.term
                        || status.term == known.term
                            && !status.region.epoch.is_stale_against(&known.region.epoch)
                });
                if newer {
                    // What became part of it is gone; along a key's history versions strictly increase.
                    let (region, leaders) = (&status.region, &mut self.operator.leaders);
                    leaders.retain(|id, known| {
                        *id == region.id
                            || known.region.epoch.version >= region.epoch.version
                            || known.region.space != region.space
                            || !known.region.range.overlaps(&region.range)
                    });
                    self.operator.leaders.insert(id, status.clone());
                }
            }
            let now = self.global.now_us();
            self.operator.seen_us.insert((store, id), now);
            self.operator.peers.entry(store).or_default().insert(id, status);
        }
    }

    /// A learner on a store that holds no peer of the region, with an id from a running store's window.
    pub(super) fn new_learner(&mut self, region: &Region) -> Option<PeerChange> {
        let running = self.hosts.values().filter(|h| h.running.is_some());
        let id = running.clone().find_map(|h| h.store()?.take_ids(1))?;
        let free: Vec<StoreId> = running.filter(|h| region.peer_on(h.id).is_none()).map(|h| h.id).collect();
        if free.is_empty() {
            return None;
        }
        let store = *self.operator.rng.pick(&free);
        Some(PeerChange::AddLearner(Peer { id: PeerId(id[0]), store, role: PeerRole::Learner }))
    }

    /// Adds a learner, which takes the voter's place later.
    pub(super) fn begin_swap(&mut self, status: &PeerStatus, gone: Peer) {
        let Some(change) = self.new_learner(&status.region) else { return };
        let PeerChange::AddLearner(learner) = change else { return };
        if let Some(call) = self.administer(status, AdminCommand::ChangePeers(vec![change])) {
            self.operator.swaps.insert(call, Swap { region: status.region.id, learner, gone });
        }
    }

    /// Gives an administrative command to the supposed leader of a region.
    pub fn administer(&mut self, status: &PeerStatus, command: AdminCommand) -> Option<CallId> {
        let (store, region, now) = (status.peer.store, status.region.id, self.now_us());
        let life = self.hosts.get(&store).filter(|host| host.running.is_some())?.life;
        let call = self.clients.next_call();
        self.trace.note(now, &[20, region.0, store.0], || {
            format!("operator asks store {store} of region {region}: {command:?}")
        });
        let callback = Callback::new(&self.effects, store, life, call);
        self.clients.open.insert(call, (store, life));
        self.operator.underway.insert(call, region);
        let done = Box::new(move |result| callback.answer(Answer::Administered(result)));
        if let Some(store) = self.hosts[&store].store() {
            store.admin(region, Some(status.region.epoch), command, done);
        }
        self.plan_turns(store, now);
        Some(call)
    }

    /// An administrative command has ended.
    pub(super) fn on_administered(&mut self, call: CallId, result: Result<Vec<Region>, RequestError>) {
        let Some(region) = self.operator.underway.remove(&call) else { return };
        let now = self.now_us();
        self.trace.note(now, &[21, region.0, u64::from(result.is_ok())], || {
            format!("operator hears of region {region}: {result:?}")
        });
        let swap = self.operator.swaps.remove(&call);
        if result.is_ok() {
            self.stats.changes += 1;
            if let Some(swap) = swap {
                let after = 200_000 + self.operator.rng.below(300_000);
                self.plan(after, Event::Swap(swap));
            }
        }
    }
}
