//! Questions of clients for routes to the stores, each of which answers from its own table as the server's placement
//! service does: with what it knows as soon as that is settled, and after a short wait in any case. A leader whose store
//! looks dead is not named.

use flotilla_placement::RegionInfo;
use flotilla_region::{KeyRange, PeerId, Region, Space, StoreId};
use flotilla_router::FailureKind;

use super::clients::ClientEvent;
use super::effects::CallId;
use super::wishes::Position;
use super::world::{Event, World};

/// Longest wait of a store for news.
const WAIT_US_MAX: u64 = 500_000;
/// How often it looks at its routes meanwhile.
const WAIT_STEP_US: u64 = 10_000;
/// Regions that a client asks for at once.
const REGIONS_MAX: usize = 32;

/// A question on its way, or at its store.
#[derive(Clone, Debug)]
pub struct Question {
    client: usize,
    store: StoreId,
    position: Position,
    /// When the store answers whatever it knows; 0 before it has the question.
    waits_until_us: u64,
}

/// Regions with their leaders, as far as they are known.
pub type Routed = Vec<(Region, Option<PeerId>)>;

impl World {
    /// A client asks any store for the routes from a position on.
    pub(super) fn ask_for_routes(&mut self, client: usize, position: Position) {
        let stores: Vec<StoreId> = self.hosts.keys().copied().collect();
        let store = *self.clients.extra.pick(&stores);
        let call = self.clients.next_call();
        let question = Question { client, store, position, waits_until_us: 0 };
        self.clients.questions.insert(call, question);
        self.stats.route_questions += 1;
        self.plan(self.profile.patience_us, Event::Client(ClientEvent::Routed(call, Vec::new())));
        if !self.clients.extra.chance(self.network.loss_permille, 2_000) {
            let after = self.network.delay_us();
            self.plan(after, Event::Client(ClientEvent::Question(call)));
        }
    }

    /// A question is at its store.
    pub(super) fn on_question(&mut self, call: CallId) {
        let Some(question) = self.clients.questions.get(&call).cloned() else { return };
        let now = self.now_us();
        let host = self.hosts.get(&question.store);
        let Some((host, store)) = host.and_then(|host| Some((host, host.store()?))) else {
            return self.answer_question(call, Vec::new());
        };
        if host.paused_until_us > now {
            let after = host.paused_until_us - now;
            return self.plan(after, Event::Client(ClientEvent::Question(call)));
        }
        let until_us = if question.waits_until_us == 0 { now + WAIT_US_MAX } else { question.waits_until_us };
        let directory = store.directory().read();
        let routes = &directory.routes;
        let found = match &question.position {
            Position::At(key) => {
                let range = KeyRange { start: key.clone(), ..KeyRange::default() };
                routes.scan(Space::User, &range, REGIONS_MAX)
            }
            Position::Before(bound) => {
                let at = routes.by_key(Space::User, bound).filter(|info| info.region.range.start < *bound);
                at.or_else(|| routes.before_key(Space::User, bound)).into_iter().collect()
            }
        };
        let is_settled = |info: &RegionInfo| self.is_settled(question.store, info);
        if now < until_us && (found.is_empty() || !found.iter().all(|info| is_settled(info))) {
            drop(directory);
            self.clients.questions.insert(call, Question { waits_until_us: until_us, ..question });
            return self.plan(WAIT_STEP_US, Event::Client(ClientEvent::Question(call)));
        }
        let told = found.iter().map(|info| {
            let leader = info.leader_peer().filter(|_| is_settled(info)).map(|peer| peer.id);
            ((*info.region).clone(), leader)
        });
        let told = told.collect();
        drop(directory);
        self.answer_question(call, told);
    }

    /// Whether a region's leader is known and its store does not look dead.
    fn is_settled(&self, asked: StoreId, info: &RegionInfo) -> bool {
        info.leader_store().is_some_and(|store| {
            let runs = self.hosts.get(&store).is_some_and(|host| host.running.is_some());
            store == asked || runs && !self.network.is_cut(asked, store)
        })
    }

    fn answer_question(&mut self, call: CallId, told: Routed) {
        if !self.clients.extra.chance(self.network.loss_permille, 2_000) {
            let after = self.network.delay_us();
            self.plan(after, Event::Client(ClientEvent::Routed(call, told)));
        }
    }

    /// A client hears of routes, or waits no longer for them.
    pub(super) fn on_routed(&mut self, call: CallId, told: Routed) {
        let Some(Question { client, position, .. }) = self.clients.questions.remove(&call) else { return };
        for (region, leader) in told {
            if let Err(what) = self.clients.routes(client).insert(region, leader) {
                return self.violate(what);
            }
        }
        if self.clients.routes(client).find(&position).is_some() {
            self.attempt_routed(client);
        } else {
            self.after_failure(client, FailureKind::NoPlacement, 0, None);
        }
    }
}
