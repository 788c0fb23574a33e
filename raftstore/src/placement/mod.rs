//! The placement driver's runtime on one store: heartbeats and reports to the other stores, the route table, and, on
//! the store that leads the meta region, the checkers and schedulers of `flotilla-placement`.
//!
//! Every store reports the regions it leads to every other store, as acknowledged deltas; so each of them can answer
//! routing questions, with or without a placement leader. Only ids, the registry and operators need that leader.

mod directory;
mod driver;
mod machine;
mod reports;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::wire::pb;
use crate::wire::pb::placement_message::Message as Placed;
use bytes::Bytes;
use flotilla_engine::Size;
use flotilla_placement::meta::{MetaCommand, MetaReply, Refusal, StoreProposal};
use flotilla_placement::{MoveOrder, MovePhase, MoveRefusal, Rates, RegionInfo, StoreState};
use flotilla_region::{Peer, PeerId, Region, RegionEpoch, RegionId, StoreId, Term};
use parking_lot::RwLock;

use crate::error::RequestError;
use crate::liveness::LivenessMsg;
use crate::mailbox::{Address, Mailbox, Turn};
use crate::msg::{AdminRequest, Quota, RaftMsg, RegionContext, WriteRequest};
use crate::shared::Shared;
use crate::time::Time;
use crate::transport::Transport;
use crate::wire;

pub use directory::{Directory, record_from_wire, record_to_wire};
use driver::Driver;
pub(crate) use machine::MetaMachine;
use reports::Reports;

/// Time between heartbeats to each other store.
const HEARTBEAT_MS: u64 = 1_000;
/// The address book is sent again so often.
const BOOK_MS: u64 = 5_000;
/// Ids asked for at a time.
const ID_WINDOW: u64 = 1_000;
/// Descriptors that are looked up while the taken ranges are locked.
const SHARED_AT_ONCE: usize = 256;
/// A new window is asked for when fewer ids are left.
const IDS_LOW: u64 = 300;

/// A region led on this store, as its raft worker tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedRegion {
    /// Descriptor.
    pub region: Arc<Region>,
    /// This store's peer.
    pub leader: Peer,
    /// Term in which it leads.
    pub term: Term,
    /// Followers that need a snapshot or much log before they can help.
    pub pending: Vec<PeerId>,
    /// Peers that the leader has not heard of for long, with about how many seconds.
    pub down: Vec<(PeerId, u64)>,
}

/// What a region led on this store measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionSize {
    /// Region.
    pub region: RegionId,
    /// Its version when it was measured.
    pub version: u64,
    /// About how much it holds: at least one byte.
    pub size: Size,
    /// It is written to more than a little.
    pub is_hot: bool,
}

/// Answers a store that wants to join.
pub type JoinDone = Box<dyn FnOnce(pb::JoinReply) + Send>;

/// Told what became of a store's new state.
pub type StoreStateDone = Box<dyn FnOnce(Result<(), StateError>) + Send>;

/// Why a store did not change its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Ask the store that leads placement.
    #[error("not the placement leader")]
    NotLeader,
    /// The cluster does not allow it.
    #[error("{0}")]
    Refused(&'static str),
}

/// Told how far a move is.
pub type MoveDone = Box<dyn FnOnce(Result<MovePhase, MoveError>) + Send>;

/// Why a replica is not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// Ask the store that leads placement.
    #[error("not the placement leader")]
    NotLeader,
    /// Placement does not do it, or gave it up.
    #[error(transparent)]
    Refused(#[from] MoveRefusal),
}

/// To the placement runtime.
pub(crate) enum PlacementMsg {
    /// A region is led here, or what is known of a led one changed.
    Led(LedRegion),
    /// A region is not led here (any more).
    NotLed(RegionId),
    /// What led regions measure.
    Sizes(Vec<RegionSize>),
    /// What clients do to regions here.
    Rates(Vec<(RegionId, Rates)>),
    /// Number of keys of a led region, as counted lately.
    Keys(RegionId, u64),
    /// Region ids were taken from the store's window: see whether it must be refilled.
    IdsLow,
    /// From other stores.
    Frame(StoreId, Vec<pb::PlacementMessage>),
    /// A store wants to join, or says at a start what it is now.
    Join(pb::JoinRequest, JoinDone),
    /// A store is to be drained, or not to be after all.
    SetStoreState(StoreId, StoreState, StoreStateDone),
    /// A replica is to be moved; asked again to learn how far it is.
    Move(MoveOrder, MoveDone),
    /// A command of the meta region was carried out, or was not.
    Proposed(Ticket, Result<Bytes, RequestError>),
    /// An operator that this store carried out itself was refused.
    OperatorFailed(RegionId, RegionEpoch),
    /// Disk space and peers of this store, for its heartbeats.
    Load(flotilla_placement::StoreStats),
}

/// Who waits for a command of the meta region.
pub(crate) enum Ticket {
    /// Ids for a store, itself included.
    Ids { to: StoreId, request: u64 },
    /// A joining store.
    Join(JoinDone),
    /// An operator, of a store's new state.
    State(StoreStateDone),
    /// Nobody: a store that holds nothing any more is removed.
    Removal,
}

/// The placement runtime of a store.
pub(crate) struct Placement {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    mailbox: Mailbox<PlacementMsg>,
    address: Address<PlacementMsg>,
    directory: Arc<RwLock<Directory>>,
    boot_id: u64,
    reports: Reports,
    /// (boot id, sequence) up to which each store's reports are known here.
    known: BTreeMap<StoreId, (u64, u64)>,
    meta: Option<LedRegion>,
    driver: Option<Driver>,
    load: flotilla_placement::StoreStats,
    next_report: Time,
    next_heartbeat: Time,
    next_book: Time,
    ids_asked: Option<(u64, Time)>,
    requests: u64,
    outgoing: BTreeMap<StoreId, Vec<pb::PlacementMessage>>,
}

impl Placement {
    pub(crate) fn new(
        shared: Arc<Shared>,
        transport: Arc<dyn Transport>,
        mailbox: Mailbox<PlacementMsg>,
        directory: Arc<RwLock<Directory>>,
    ) -> Self {
        let boot_id = shared.clock.unix_ms().max(1);
        let address = shared.links.placement.clone();
        Self {
            shared,
            transport,
            mailbox,
            address,
            directory,
            boot_id,
            reports: Reports::new(boot_id),
            known: BTreeMap::new(),
            meta: None,
            driver: None,
            load: flotilla_placement::StoreStats::default(),
            next_report: Time::default(),
            next_heartbeat: Time::default(),
            next_book: Time::default(),
            ids_asked: None,
            requests: 0,
            outgoing: BTreeMap::new(),
        }
    }

    fn me(&self) -> StoreId {
        self.shared.origin.store
    }

    fn post(&mut self, to: StoreId, message: Placed) {
        self.outgoing.entry(to).or_default().push(pb::PlacementMessage { message: Some(message) });
    }

    fn flush(&mut self) {
        let may_ride = |m: &pb::PlacementMessage| {
            matches!(m.message, Some(Placed::Heartbeat(_) | Placed::Ack(_) | Placed::Book(_)))
        };
        for (to, placement) in std::mem::take(&mut self.outgoing) {
            if self.shared.config.store_liveness && placement.iter().all(may_ride) {
                self.shared.links.liveness.send(LivenessMsg::Ride(to, placement));
                continue;
            }
            let mut frame = self.shared.origin.frame(to);
            frame.placement = placement;
            self.transport.send(to, frame);
        }
    }

    fn handle(&mut self, message: PlacementMsg, now: Time) {
        match message {
            PlacementMsg::Led(led) => self.on_led(led, now),
            PlacementMsg::NotLed(id) => self.on_not_led(id),
            PlacementMsg::Sizes(sizes) => {
                for info in self.reports.sizes(&sizes) {
                    self.learn(info);
                }
            }
            PlacementMsg::Rates(rates) => {
                for info in self.reports.rates(&rates) {
                    self.learn(info);
                }
            }
            PlacementMsg::Keys(id, keys) => {
                if let Some(info) = self.reports.keys(id, keys) {
                    self.learn(info);
                }
            }
            PlacementMsg::IdsLow => self.ask_for_ids(now),
            PlacementMsg::Frame(from, messages) => {
                self.directory.write().last_heard.insert(from, now);
                messages.into_iter().filter_map(|m| m.message).for_each(|m| self.on_message(from, m, now));
            }
            PlacementMsg::Join(request, done) => self.on_join(request, done),
            PlacementMsg::SetStoreState(store, state, done) => {
                if self.driver.is_none() {
                    return done(Err(StateError::NotLeader));
                }
                self.propose(&MetaCommand::SetStoreState { store, state }, Ticket::State(done));
            }
            PlacementMsg::Move(order, done) => {
                let driver = self.driver.as_mut().ok_or(MoveError::NotLeader);
                done(driver.and_then(|driver| Ok(driver.order(order, now)?)));
            }
            PlacementMsg::Proposed(ticket, result) => self.on_proposed(ticket, result, now),
            PlacementMsg::OperatorFailed(region, epoch) => {
                if let Some(driver) = &mut self.driver {
                    driver.failed(region, epoch);
                }
            }
            PlacementMsg::Load(load) => self.load = load,
        }
    }

    // ---- regions led here ----

    fn on_led(&mut self, led: LedRegion, now: Time) {
        let info = self.reports.led(&led);
        self.learn(info);
        if led.region.id == RegionId::META {
            let new_term = self.meta.as_ref().is_none_or(|known| known.term != led.term);
            self.meta = Some(led);
            if new_term {
                self.begin_leadership(now);
            }
        }
    }

    fn on_not_led(&mut self, id: RegionId) {
        let me = self.me();
        if self.reports.not_led(id) {
            self.directory.write().routes.forget_leader(id, me);
            if let Some(driver) = &mut self.driver {
                driver.view.dropped(id, me);
            }
        }
        if id == RegionId::META {
            self.meta = None;
            self.driver = None;
        }
    }

    /// What this store knows first hand.
    fn learn(&mut self, info: RegionInfo) {
        self.directory.write().routes.report(info.clone());
        if let Some(driver) = &mut self.driver {
            driver.view.report(info);
        }
    }

    fn begin_leadership(&mut self, now: Time) {
        let Some(term) = self.meta.as_ref().map(|m| m.term) else { return };
        let mut driver = Driver::new(&self.shared, term, now);
        let beat = self.heartbeat();
        driver.on_heartbeat(self.me(), &beat, now);
        driver.on_reports(self.me(), self.reports.all().cloned(), &[], (self.boot_id, 0));
        self.driver = Some(driver);
        // The book tells who the others are: what this store had on disk may be older.
        self.publish_book(now);
        self.others().into_iter().for_each(|store| self.ask_for_everything(store));
    }

    /// A view is built from full reports of this leadership only.
    fn ask_for_everything(&mut self, store: StoreId) {
        self.known.remove(&store);
        self.post(store, Placed::Ack(pb::RegionAck { boot_id: 0, sequence: 0 }));
    }

    // ---- messages of other stores ----

    fn on_message(&mut self, from: StoreId, message: Placed, now: Time) {
        match message {
            Placed::Heartbeat(beat) => self.on_heartbeat(from, &beat, now),
            Placed::Regions(reports) => self.on_reports(from, &reports),
            Placed::Ack(ack) => self.reports.on_ack(from, ack.boot_id, ack.sequence),
            Placed::Operator(operator) => self.on_operator(&operator, false),
            Placed::AllocIds(ask) => {
                let count = ask.count.clamp(1, ID_WINDOW);
                self.propose(
                    &MetaCommand::AllocIds { count },
                    Ticket::Ids { to: from, request: ask.request_id },
                );
            }
            Placed::IdWindow(window) => self.on_id_window(&window),
            Placed::Book(book) => self.on_book(&book),
        }
    }

    fn on_heartbeat(&mut self, from: StoreId, beat: &pb::StoreHeartbeat, now: Time) {
        self.directory.write().learn_heartbeat(from, beat);
        if let Some(driver) = &mut self.driver {
            driver.on_heartbeat(from, beat, now);
            if driver.view.store(from).is_some_and(|store| !store.has_reported) {
                // The question or the answer may have been lost.
                self.ask_for_everything(from);
            }
        }
    }

    fn on_reports(&mut self, from: StoreId, reports: &pb::RegionReports) {
        let known = self.known.get(&from).copied().unwrap_or_default();
        if known.0 == reports.boot_id && reports.sequence < known.1 {
            // A late letter: what it says was overtaken. Or a new process, begun at the same moment of a clock set back.
            if reports.since == 0 {
                self.ask_for_everything(from);
            }
            return;
        }
        let continues = reports.since == 0 || (known.0 == reports.boot_id && reports.since <= known.1);
        if !continues {
            self.post(from, Placed::Ack(pb::RegionAck { boot_id: reports.boot_id, sequence: 0 }));
            return;
        }
        let mut infos: Vec<RegionInfo> = reports.regions.iter().filter_map(driver::info_of).collect();
        // Most regions have a peer here, which knows the same: one descriptor is enough for both.
        for some in infos.chunks_mut(SHARED_AT_ONCE) {
            let ranges = self.shared.ranges.lock();
            some.iter_mut().for_each(|info| ranges.share(&mut info.region));
        }
        {
            let mut directory = self.directory.write();
            for info in &infos {
                directory.routes.report(info.clone());
            }
            for id in &reports.dropped {
                directory.routes.forget_leader(RegionId(*id), from);
            }
        }
        if let Some(driver) = &mut self.driver {
            driver.on_reports(from, infos, &reports.dropped, (reports.boot_id, reports.since));
        }
        self.known.insert(from, (reports.boot_id, reports.sequence));
        if reports.boot_id < known.0 {
            // A late letter of an earlier process, or its clock went back. The one that lives tells again.
            self.ask_for_everything(from);
        }
        if reports.sequence > 0 {
            let ack = pb::RegionAck { boot_id: reports.boot_id, sequence: reports.sequence };
            self.post(from, Placed::Ack(ack));
        }
    }

    fn on_book(&mut self, book: &pb::StoreBook) {
        let stores = book.stores.iter().filter_map(record_from_wire).collect();
        self.learn_book(Term(book.meta_term), stores);
    }

    fn learn_book(&mut self, term: Term, stores: Vec<flotilla_placement::StoreRecord>) {
        let mut directory = self.directory.write();
        if directory.learn_book(term, stores)
            && let Err(error) = directory.save_book(&*self.shared.engine)
        {
            self.shared.fail(&error.into());
        }
    }

    // ---- ids ----

    fn ask_for_ids(&mut self, now: Time) {
        let waiting = self.ids_asked.is_some_and(|(_, at)| now.ms_since(at) < 2 * HEARTBEAT_MS);
        if waiting || self.shared.ids.lock().remaining() >= IDS_LOW {
            return;
        }
        self.requests += 1;
        let request = self.requests;
        if self.driver.is_some() {
            self.ids_asked = Some((request, now));
            let to = self.me();
            self.propose(&MetaCommand::AllocIds { count: ID_WINDOW }, Ticket::Ids { to, request });
        } else if let Some(leader) = self.meta_leader_elsewhere() {
            self.ids_asked = Some((request, now));
            self.post(leader, Placed::AllocIds(pb::AllocIds { request_id: request, count: ID_WINDOW }));
        }
    }

    fn on_id_window(&mut self, window: &pb::IdWindow) {
        // A repeated or late answer must not be taken twice.
        if self.ids_asked.is_some_and(|(request, _)| request == window.request_id) {
            self.ids_asked = None;
            self.shared.ids.lock().add(window.first, window.count);
        }
    }

    fn meta_leader_elsewhere(&self) -> Option<StoreId> {
        self.directory.read().meta_leader().filter(|store| *store != self.me())
    }

    // ---- commands of the meta region ----

    fn propose(&self, command: &MetaCommand, ticket: Ticket) {
        let address = self.address.clone();
        let Some(meta) = &self.meta else {
            let error = RequestError::NotLeader { region: RegionId::META, leader: None };
            return address.send(PlacementMsg::Proposed(ticket, Err(error)));
        };
        let context = RegionContext {
            region: RegionId::META,
            epoch: meta.region.epoch,
            peer: meta.leader.id,
            term: Term::ZERO,
        };
        self.shared.links.raft_of(RegionId::META).send(RaftMsg::Write(WriteRequest {
            context,
            command: command.encode(),
            done: Box::new(move |result| address.send(PlacementMsg::Proposed(ticket, result))),
            quota: Quota::default(),
        }));
    }

    fn on_proposed(&mut self, ticket: Ticket, result: Result<Bytes, RequestError>, now: Time) {
        let reply = result.ok().and_then(|bytes| driver::decode_reply(&bytes));
        match (ticket, reply) {
            (Ticket::Ids { to, request }, Some(MetaReply::Ids { first, count })) => {
                let window = pb::IdWindow { request_id: request, first, count };
                if to == self.me() {
                    self.on_id_window(&window);
                } else {
                    self.post(to, Placed::IdWindow(window));
                }
            }
            (Ticket::Ids { .. }, _) => {}
            (Ticket::Join(done), Some(MetaReply::Store(record))) => {
                self.publish_book(now);
                let directory = self.directory.read();
                done(pb::JoinReply {
                    cluster_id: self.shared.origin.cluster.0,
                    store_id: record.id.0,
                    stores: directory.stores.values().map(record_to_wire).collect(),
                    ..Default::default()
                });
            }
            (Ticket::Join(done), Some(MetaReply::Refused(refusal))) => {
                done(pb::JoinReply { refused: refusal_text(refusal).into(), ..Default::default() });
            }
            (Ticket::State(done), Some(MetaReply::Store(_))) => {
                self.publish_book(now);
                done(Ok(()));
            }
            (Ticket::State(done), Some(MetaReply::Refused(refusal))) => {
                done(Err(StateError::Refused(refusal_text(refusal))));
            }
            (Ticket::State(done), _) => done(Err(StateError::NotLeader)),
            (Ticket::Removal, _) => self.publish_book(now),
            (Ticket::Join(done), _) => {
                done(pb::JoinReply {
                    retry: "the placement leader is changing".into(),
                    ..Default::default()
                });
            }
        }
    }

    fn on_join(&mut self, request: pb::JoinRequest, done: JoinDone) {
        let Some(uuid) = directory::uuid_of(&request.uuid) else {
            return done(pb::JoinReply {
                refused: "a store's uuid has 16 bytes".into(),
                ..Default::default()
            });
        };
        if self.driver.is_none() {
            // The caller goes to the leader itself; here is the way.
            let directory = self.directory.read();
            let leader = directory.meta_leader().and_then(|id| directory.stores.get(&id));
            return done(pb::JoinReply {
                retry: "not the placement leader".into(),
                stores: leader.map(record_to_wire).into_iter().collect(),
                ..Default::default()
            });
        }
        let command = MetaCommand::PutStore(StoreProposal {
            uuid,
            address: request.address,
            status_address: request.status_address,
            labels: request.labels.into_iter().map(|l| (l.key, l.value)).collect(),
            version: request.version,
            format_max: request.format_max,
        });
        self.propose(&command, Ticket::Join(done));
    }

    // ---- what the leader does ----

    fn publish_book(&mut self, now: Time) {
        self.next_book = now.plus_ms(BOOK_MS);
        let Some(driver) = &mut self.driver else { return };
        let Some(stores) = driver.reload_stores(&self.shared) else { return };
        let meta_term = driver.view.meta_term();
        let book = pb::StoreBook {
            meta_term: meta_term.0,
            stores: stores.iter().map(record_to_wire).collect(),
            leader_store: self.me().0,
        };
        self.learn_book(meta_term, stores);
        for store in self.others() {
            self.post(store, Placed::Book(book.clone()));
        }
    }

    fn schedule(&mut self, now: Time) {
        let Some(driver) = &mut self.driver else { return };
        let drained = driver.drained(&self.shared, now);
        let operators = driver.pass(&self.shared, now);
        for store in drained {
            tracing::info!(store = store.0, "store holds nothing any more and is removed");
            let command = MetaCommand::SetStoreState { store, state: StoreState::Tombstone };
            self.propose(&command, Ticket::Removal);
        }
        for operator in operators {
            tracing::info!(
                region = operator.region.0, reason = ?operator.reason, step = ?operator.step, "operator"
            );
            let wired = driver::operator_to_wire(&operator);
            if operator.leader.store == self.me() {
                self.on_operator(&wired, true);
            } else {
                self.post(operator.leader.store, Placed::Operator(wired));
            }
        }
    }

    /// Carries an operator out on a region led here. The region's epoch refuses one that is out of date.
    fn on_operator(&self, operator: &pb::Operator, own: bool) {
        let region = RegionId(operator.region_id);
        let (Some(command), Some(epoch)) = (driver::command_of(operator), operator.epoch.as_ref()) else {
            return;
        };
        let epoch = wire::epoch_from_wire(epoch);
        let address = self.address.clone();
        self.shared.links.raft_of(region).send(RaftMsg::Admin(AdminRequest {
            region,
            epoch: Some(epoch),
            command,
            done: Box::new(move |result| {
                if let Err(error) = result {
                    tracing::info!(region = region.0, %error, "operator refused");
                    if own {
                        address.send(PlacementMsg::OperatorFailed(region, epoch));
                    }
                }
            }),
        }));
    }

    // ---- time ----

    fn others(&self) -> Vec<StoreId> {
        let me = self.me();
        let directory = self.directory.read();
        let listed = directory.stores.values().filter(|s| !s.address.is_empty()).map(|s| s.id);
        listed.filter(|id| *id != me).collect()
    }

    fn heartbeat(&self) -> pb::StoreHeartbeat {
        pb::StoreHeartbeat {
            store: None,
            capacity_bytes: self.load.capacity_bytes,
            available_bytes: self.load.available_bytes,
            region_count: self.load.region_count,
            leader_count: self.reports.led_count() as u32,
            sending_snapshots: 0,
            receiving_snapshots: 0,
            boot_id: self.boot_id,
            format_max: crate::config::FORMAT,
            damaged: self.damaged(),
            log_sync_us: self.load.log_sync_us,
        }
    }

    fn damaged(&self) -> Vec<pb::DamagedPeer> {
        let quarantine = self.shared.quarantine.lock();
        let bad = quarantine.values().flatten();
        bad.map(|bad| pb::DamagedPeer { region_id: bad.region.0, peer_id: bad.peer.0, why: bad.why.clone() })
            .collect()
    }

    fn on_time(&mut self, now: Time) {
        // On a grid that all workers share, so that what is sent on it leaves together.
        let grid = self.shared.config.report_ms * 1_000;
        self.next_report = Time((now.0 / grid + 1) * grid);
        let others = self.others();
        let beats = now >= self.next_heartbeat;
        if beats {
            self.next_heartbeat = now.plus_ms(HEARTBEAT_MS);
            self.reports.refresh(self.shared.config.report_refresh_ms, now);
            let (me, beat) = (self.me(), self.heartbeat());
            {
                let mut directory = self.directory.write();
                directory.last_heard.insert(me, now);
                directory.learn_heartbeat(me, &beat);
            }
            if let Some(driver) = &mut self.driver {
                driver.on_heartbeat(me, &beat, now);
                driver.view.reported(me, self.boot_id);
            }
            for store in &others {
                self.post(*store, Placed::Heartbeat(beat.clone()));
                if !self.known.contains_key(store) {
                    // It may believe that an earlier life of this store, or of this leadership, knows its regions.
                    self.post(*store, Placed::Ack(pb::RegionAck { boot_id: 0, sequence: 0 }));
                }
            }
        }
        for store in others {
            if let Some(reports) = self.reports.next_for(store, now) {
                if reports.since == 0 && !beats {
                    // A full report counts only for the incarnation that a heartbeat has named.
                    let beat = self.heartbeat();
                    self.post(store, Placed::Heartbeat(beat));
                }
                self.post(store, Placed::Regions(reports));
            }
        }
        if now >= self.next_book {
            self.publish_book(now);
        }
        self.ask_for_ids(now);
        self.schedule(now);
    }
}

fn refusal_text(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Invalid => "the request has no legal value",
        Refusal::UnknownStore => "no such store",
        Refusal::Removed => "the store was removed from the cluster; wipe its disk to join anew",
        Refusal::TooOld => "the store's version is older than the cluster's format",
        Refusal::BadTransition => "the store's state does not allow it",
        Refusal::LastStore => "it is the last store that is up",
        Refusal::Exhausted => "all ids are used up",
    }
}

impl Turn for Placement {
    fn name(&self) -> String {
        "placement".into()
    }

    fn turn(&mut self, now: Time) -> bool {
        if self.shared.has_failed() {
            return false;
        }
        for _ in 0..self.shared.config.turn_messages_max {
            let Some(message) = self.mailbox.pop() else { break };
            self.handle(message, now);
        }
        if now >= self.next_report {
            self.on_time(now);
        }
        self.flush();
        !self.mailbox.is_empty()
    }

    fn has_messages(&self) -> bool {
        !self.mailbox.is_empty()
    }

    fn deadline(&self) -> Time {
        self.next_report
    }

    fn wait(&mut self, timeout: Duration) {
        self.mailbox.wait(timeout);
    }
}
