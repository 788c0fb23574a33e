//! The store as its embedder sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::wire::pb;
use bytes::Bytes;
use flotilla_engine::{Engine, WriteBatch};
use flotilla_placement::meta::{self, FactWrite};
use flotilla_placement::{MoveOrder, StoreRecord, StoreState, StoreStats};
use flotilla_region::{ClusterId, Region, RegionEpoch, RegionId, Space, StoreId, keys};

use parking_lot::RwLock;

use crate::admin::check::CheckDone;
use crate::admin::split::INIT_LOG;
use crate::apply::ApplyWorker;
use crate::background::{Background, BackgroundMsg};
use crate::config::{FORMAT, FORMAT_READ_MIN, FORMAT_READER_MIN, StoreConfig, WIRE_VERSION};
use crate::error::{Damage, Quarantined, RequestError, StoreError};
use crate::founding::{PreSplit, first_regions};
use crate::history::{self, RegionEvent};
use crate::liveness::{self, Liveness, LivenessMsg};
use crate::local_reader::LocalRead;
use crate::log_writer::LogWriter;
use crate::machine::StateMachine;
use crate::mailbox::{Mailbox, Turn};
use crate::msg::{
    AdminCommand, AdminDone, AdminRequest, ApplyMsg, LogMsg, PeerStatus, Quota, RaftMsg, ReadDone,
    ReadRequest, RegionContext, WriteDone, WriteRequest,
};
use crate::outbox::{FrameOrigin, Outbox};
use crate::placement::{Directory, JoinDone, MoveDone, Placement, PlacementMsg, StoreStateDone};
use crate::recovery;
use crate::shared::{Counters, FatalHook, Links, Shared, worker_of};
use crate::snapshot::{SnapshotMsg, SnapshotWorker};
use crate::state::{RegionState, StoreIdent};
use crate::time::Clock;
use crate::transport::{SnapshotEvent, Transport};
use crate::wire;
use crate::worker::{Env, RaftWorker};

/// Id of the store that founds a cluster.
const FOUNDER: StoreId = StoreId(1);

/// What an embedder provides to a store besides its configuration.
pub struct Seams {
    /// The disk.
    pub engine: Arc<dyn Engine>,
    /// The network.
    pub transport: Arc<dyn Transport>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The state machine of user regions.
    pub machine: Arc<dyn StateMachine>,
    /// Told the error that ends the store.
    pub fatal: FatalHook,
}

/// A handle on a running store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    directory: Arc<RwLock<Directory>>,
}

/// What requests and snapshots under way hold of a store: nothing while it is at rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes of requests that are not answered.
    pub request_bytes: u64,
    /// Key ranges reserved for snapshots.
    pub reserved_ranges: usize,
    /// Bytes of log entries in memory beyond what is allowed.
    pub cached_beyond: u64,
    /// Bytes of entries that leaders here sent and nobody acknowledged.
    pub inflight_bytes: u64,
}

/// The state machines of an open store. The wiring gives each a thread that loops around `turn`; a simulator takes
/// turns itself.
pub struct Workers {
    /// All of them, in a fixed order.
    pub turns: Vec<Box<dyn Turn>>,
}

impl Store {
    /// Who the store on this disk is; `None` for an empty disk.
    ///
    /// # Errors
    /// The format is not readable by this version, or the record is damaged.
    pub fn ident(engine: &dyn Engine) -> Result<Option<StoreIdent>, StoreError> {
        let Some(value) = engine.get(keys::STORE_IDENT)? else { return Ok(None) };
        let ident = StoreIdent::decode(value).ok_or(StoreError::Damaged("store identity"))?;
        if ident.format_read_min > FORMAT || ident.format < FORMAT_READ_MIN {
            return Err(StoreError::Format { found: ident.format, oldest: FORMAT_READ_MIN, newest: FORMAT });
        }
        Ok(Some(ident))
    }

    /// Makes an empty disk a store of an existing cluster. Durable when this returns.
    ///
    /// # Errors
    /// I/O.
    pub fn init(
        engine: &dyn Engine,
        cluster: ClusterId,
        store: StoreId,
        uuid: Bytes,
    ) -> Result<StoreIdent, StoreError> {
        let ident = StoreIdent { format: FORMAT, format_read_min: FORMAT_READER_MIN, cluster, store, uuid };
        put_ident(engine, &ident)?;
        Ok(ident)
    }

    /// Founds a cluster: this store alone holds the meta region, one user region, cut at `cuts`, and the sentinel.
    /// Durable when this returns, and harmless to repeat after a crash in between. `founder`'s id is set here.
    ///
    /// # Errors
    /// I/O.
    pub fn bootstrap(
        engine: &dyn Engine,
        cluster: ClusterId,
        founder: StoreRecord,
        cuts: &PreSplit,
    ) -> Result<StoreIdent, StoreError> {
        let founder = StoreRecord { id: FOUNDER, ..founder };
        let mut batch = WriteBatch::new();
        for region in first_regions(founder.id, cuts) {
            batch.put(&keys::region_state(region.id), &RegionState::Normal(region.clone()).encode());
            batch.put(&keys::apply_state(region.id), &INIT_LOG.encode());
        }
        for FactWrite { key, value } in meta::bootstrap(cluster, &founder) {
            if let Some(value) = value {
                batch.put(&keys::data_key(Space::Meta, &key), &value);
            }
        }
        engine.write(&batch)?;
        Self::init(engine, cluster, founder.id, Bytes::copy_from_slice(&founder.uuid.0))
    }

    /// Opens an initialised disk: loads every region, and returns the handle and the workers that must run for it to
    /// do anything. Committed entries that `data` lost are applied again by the ordinary workers; until a region has
    /// caught up it serves nothing.
    ///
    /// # Errors
    /// `Uninitialised`, a contradictory configuration, damage that concerns the whole store, or I/O.
    pub fn open(config: StoreConfig, seams: Seams) -> Result<(Self, Workers), StoreError> {
        config.check().map_err(StoreError::Config)?;
        let ident = Self::ident(&*seams.engine)?.ok_or(StoreError::Uninitialised)?;
        if ident.format < FORMAT {
            // From here on, older software must leave the disk alone.
            let marked = StoreIdent { format: FORMAT, format_read_min: FORMAT_READER_MIN, ..ident.clone() };
            put_ident(&*seams.engine, &marked)?;
        }
        let boxes = Mailboxes::new(&config);
        let origin = FrameOrigin { cluster: ident.cluster, store: ident.store };
        let Seams { engine, transport, clock, machine, fatal } = seams;
        let meta = Arc::new(crate::placement::MetaMachine);
        let links = boxes.links.clone();
        let shared = Arc::new(Shared::new(config, origin, engine, clock, machine, meta, links, fatal));
        let directory = shared.directory.clone();
        directory.write().load_book(&*shared.engine)?;
        let workers = build_workers(&shared, &transport, boxes, &directory)?;
        Ok((Self { shared, directory }, workers))
    }

    /// Cluster and store.
    pub fn id(&self) -> (ClusterId, StoreId) {
        (self.shared.origin.cluster, self.shared.origin.store)
    }

    /// The store's configuration.
    pub fn config(&self) -> &StoreConfig {
        &self.shared.config
    }

    /// The store's disk, for reads under a [`LocalRead`].
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.shared.engine
    }

    /// The store's clock.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// Event counts.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// What is not given back yet.
    pub fn held(&self) -> Held {
        Held {
            request_bytes: self.request_bytes(),
            reserved_ranges: self.shared.ranges.lock().reserved(),
            cached_beyond: self.cached_bytes().saturating_sub(self.shared.config.entry_cache_bytes),
            inflight_bytes: self.inflight_bytes().values().sum(),
        }
    }

    /// Bytes of entries under way to each store that leaders here have sent some to; nothing without a limit.
    pub fn inflight_bytes(&self) -> BTreeMap<StoreId, u64> {
        let mut bytes = BTreeMap::new();
        for (store, meter) in self.shared.meters.lock().iter() {
            *bytes.entry(*store).or_default() += meter.bytes();
        }
        bytes
    }

    /// Peers that sleep, as far as they are kept packed; nearly all of a store at rest.
    pub fn packed_peers(&self) -> u64 {
        self.shared.packed_peers.load(Ordering::Relaxed)
    }

    /// Bytes of log entries in memory.
    pub fn cached_bytes(&self) -> u64 {
        self.shared.cached_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of requests under way.
    pub fn request_bytes(&self) -> u64 {
        self.shared.pending_bytes.load(Ordering::Relaxed)
    }

    /// Number of regions here.
    pub fn region_count(&self) -> usize {
        self.shared.ranges.lock().count()
    }

    /// Regions that are out of service on this store because what it has of them is damaged.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        self.shared.quarantine.lock().values().flatten().cloned().collect()
    }

    /// Splits and merges of a region that lives here, oldest first.
    ///
    /// # Errors
    /// The disk failed.
    pub fn history(&self, region: RegionId) -> Result<Vec<RegionEvent>, StoreError> {
        Ok(history::read(self.shared.engine.get(&keys::history(region)))?)
    }

    /// The region that one which lived here became part of.
    ///
    /// # Errors
    /// The disk failed.
    pub fn merged_into(&self, region: RegionId) -> Result<Option<RegionId>, StoreError> {
        let stored = self.shared.engine.get(&keys::region_state(region))?.and_then(RegionState::decode);
        Ok(match stored {
            Some(RegionState::Tombstone { merged: Some((target, _)), .. }) => Some(target),
            _ => None,
        })
    }

    /// A reader met bytes of `region` that are not what was written: the region goes out of service here.
    pub fn report_damage(&self, region: &Region, why: &str) {
        let peer = region.peer_on(self.shared.origin.store).map(|peer| peer.id).unwrap_or_default();
        let damage = Damage::Bytes(why.to_owned());
        self.shared.links.raft_of(region.id).send(RaftMsg::Damaged { region: region.id, peer, damage });
    }

    /// Whether the store has met a fatal error.
    pub fn has_failed(&self) -> bool {
        self.shared.has_failed()
    }

    // ---- from the network ----

    /// Takes a frame from another store. A stranger's is refused: another cluster, meant for another store, or of a
    /// newer format.
    ///
    /// # Errors
    /// A word on why it was refused.
    pub fn on_frame(&self, frame: pb::StoreFrame) -> Result<(), &'static str> {
        let origin = self.shared.origin;
        if frame.version > WIRE_VERSION {
            return Err("newer wire format");
        }
        if frame.cluster_id != origin.cluster.0 {
            return Err("another cluster");
        }
        if frame.to_store != origin.store.0 || frame.from_store == 0 {
            return Err("meant for another store");
        }
        let from = StoreId(frame.from_store);
        self.spread_messages(frame.messages);
        for (columns, response) in [(frame.heartbeats, false), (frame.heartbeat_responses, true)] {
            if let Some(columns) = columns {
                let cells = wire::heartbeat_cells(columns, response).ok_or("malformed heartbeats")?;
                self.spread_heartbeats(from, cells);
            }
        }
        if let Some(liveness) = frame.liveness {
            self.shared.links.liveness.send(LivenessMsg::Frame(from, liveness));
        }
        if !frame.placement.is_empty() {
            self.shared.links.placement.send(PlacementMsg::Frame(from, frame.placement));
        }
        Ok(())
    }

    fn spread_messages(&self, messages: Vec<pb::RaftMessage>) {
        let workers = &self.shared.links.raft;
        if let ([worker], false) = (&workers[..], messages.is_empty()) {
            return worker.send(RaftMsg::Network(messages));
        }
        let mut lists: Vec<Vec<pb::RaftMessage>> = Vec::new();
        lists.resize_with(workers.len(), Vec::new);
        for message in messages {
            lists[worker_of(RegionId(message.region_id), workers.len())].push(message);
        }
        for (worker, list) in workers.iter().zip(lists) {
            if !list.is_empty() {
                worker.send(RaftMsg::Network(list));
            }
        }
    }

    fn spread_heartbeats(&self, from: StoreId, cells: Vec<wire::HeartbeatCell>) {
        let workers = &self.shared.links.raft;
        let mut lists: Vec<Vec<wire::HeartbeatCell>> = Vec::new();
        lists.resize_with(workers.len(), Vec::new);
        for cell in cells {
            lists[worker_of(cell.region, workers.len())].push(cell);
        }
        for (worker, list) in workers.iter().zip(lists) {
            if !list.is_empty() {
                worker.send(RaftMsg::Heartbeats(from, list));
            }
        }
    }

    /// News of a snapshot stream.
    pub fn on_snapshot_event(&self, event: SnapshotEvent) {
        self.shared.links.snapshot.send(SnapshotMsg::Event(event));
    }

    /// A store cannot be reached.
    pub fn on_unreachable(&self, store: StoreId) {
        self.shared.links.raft.iter().for_each(|worker| worker.send(RaftMsg::Unreachable(store)));
    }

    // ---- from clients ----

    /// Replicates a command. `done` is called exactly once: with the state machine's reply after it was applied, or
    /// with the reason why it was not, or is not known to have been.
    pub fn write(&self, context: RegionContext, command: Bytes, done: WriteDone) {
        let bytes = command.len() as u64;
        let limit = self.shared.config.pending_bytes_max;
        match Quota::take(&self.shared.pending_bytes, bytes, limit) {
            Some(quota) => {
                let request = WriteRequest { context, command, done, quota };
                self.shared.links.raft_of(context.region).send(RaftMsg::Write(request));
            }
            None => done(Err(RequestError::Busy)),
        }
    }

    /// Starts a read on the caller's thread, under the leader's lease. `None`: use [`Store::read`].
    pub fn begin_local_read(&self, context: &RegionContext) -> Option<LocalRead> {
        LocalRead::begin(&self.shared.delegates, &*self.shared.clock, context)
    }

    /// Asks for a linearizable view of a region; with `replica`, of a follower.
    pub fn read(&self, context: RegionContext, replica: bool, done: ReadDone) {
        let request = ReadRequest { context, replica, done };
        self.shared.links.raft_of(context.region).send(RaftMsg::Read(request));
    }

    // ---- from operators ----

    /// Changes a region itself. Only its leader can.
    pub fn admin(
        &self,
        region: RegionId,
        epoch: Option<RegionEpoch>,
        command: AdminCommand,
        done: AdminDone,
    ) {
        let request = AdminRequest { region, epoch, command, done };
        self.shared.links.raft_of(region).send(RaftMsg::Admin(request));
    }

    /// Compares the replicas of a region. Only its leader can.
    pub fn check(&self, region: RegionId, done: CheckDone) {
        self.shared.links.raft_of(region).send(RaftMsg::Check { region, done: Some(done) });
    }

    /// Takes region or peer ids from the window that this store holds; `None` until the placement leader refills it.
    pub fn take_ids(&self, n: usize) -> Option<Vec<u64>> {
        let ids = self.shared.ids.lock().take_many(n);
        self.shared.links.placement.send(PlacementMsg::IdsLow);
        ids
    }

    /// Adds ids `[first, first + count)` to the window that this store holds; nobody else may ever use them.
    pub fn add_ids(&self, first: u64, count: u64) {
        self.shared.ids.lock().add(first, count);
    }

    /// Tells the state of every peer, one call per raft worker.
    pub fn inspect(&self, tell: impl Fn(Vec<PeerStatus>) + Send + Sync + 'static) {
        let tell = Arc::new(tell);
        for worker in &self.shared.links.raft {
            let tell = tell.clone();
            worker.send(RaftMsg::Inspect(Box::new(move |list| tell(list))));
        }
    }

    /// Hands leadership of every region to another store, as far as there is one.
    pub fn shed_leaders(&self) {
        self.shared.links.raft.iter().for_each(|worker| worker.send(RaftMsg::ShedLeaders));
    }

    /// Makes applied data durable and drops what the log no longer needs; `done` is called afterwards.
    pub fn checkpoint(&self, done: Box<dyn FnOnce() + Send>) {
        self.shared.links.background.send(BackgroundMsg::Checkpoint(done));
    }

    /// Calls `done` when everything that the log writer was given before is durable.
    pub fn drain_log(&self, done: Box<dyn FnOnce() + Send>) {
        self.shared.links.log.send(LogMsg::Barrier(done));
    }

    // ---- placement ----

    /// Routes and addresses as this store knows them. Held briefly; writers wait for readers.
    pub fn directory(&self) -> &RwLock<Directory> {
        &self.directory
    }

    /// Registers a store, or what a registered one now says about itself. Only the placement leader can; others answer
    /// `retry` and name it.
    pub fn join(&self, request: pb::JoinRequest, done: JoinDone) {
        self.shared.links.placement.send(PlacementMsg::Join(request, done));
    }

    /// Asks for a store to be drained (`Offline`), or to stay after all (`Up`). Only the placement leader can.
    pub fn set_store_state(&self, store: StoreId, state: StoreState, done: StoreStateDone) {
        self.shared.links.placement.send(PlacementMsg::SetStoreState(store, state, done));
    }

    /// Has a replica moved, or tells how far that is: ask until it has ended. Only the placement leader can.
    pub fn move_peer(&self, order: MoveOrder, done: MoveDone) {
        self.shared.links.placement.send(PlacementMsg::Move(order, done));
    }

    /// Tells placement how full this store is.
    pub fn set_load(&self, load: StoreStats) {
        self.shared.links.placement.send(PlacementMsg::Load(load));
    }
}

struct Mailboxes {
    links: Links,
    raft: Vec<Mailbox<RaftMsg>>,
    apply: Vec<Mailbox<Vec<ApplyMsg>>>,
    log: Mailbox<LogMsg>,
    snapshot: Mailbox<SnapshotMsg>,
    placement: Mailbox<PlacementMsg>,
    background: Mailbox<BackgroundMsg>,
    liveness: Mailbox<LivenessMsg>,
}

impl Mailboxes {
    fn new(config: &StoreConfig) -> Self {
        let (raft_links, raft) = (0..config.raft_workers).map(|_| Mailbox::new()).unzip();
        let (apply_links, apply) = (0..config.apply_workers).map(|_| Mailbox::new()).unzip();
        let (log_link, log) = Mailbox::new();
        let (snapshot_link, snapshot) = Mailbox::new();
        let (placement_link, placement) = Mailbox::new();
        let (background_link, background) = Mailbox::new();
        let (liveness_link, liveness) = Mailbox::new();
        let links = Links {
            raft: raft_links,
            apply: apply_links,
            log: log_link,
            snapshot: snapshot_link,
            placement: placement_link,
            background: background_link,
            liveness: liveness_link,
        };
        Self { links, raft, apply, log, snapshot, placement, background, liveness }
    }
}

fn put_ident(engine: &dyn Engine, ident: &StoreIdent) -> Result<(), StoreError> {
    let mut batch = WriteBatch::new();
    batch.put(keys::STORE_IDENT, &ident.encode());
    engine.write(&batch)?;
    engine.flush()?;
    Ok(())
}

fn build_workers(
    shared: &Arc<Shared>,
    transport: &Arc<dyn Transport>,
    boxes: Mailboxes,
    directory: &Arc<RwLock<Directory>>,
) -> Result<Workers, StoreError> {
    let heartbeat_ms = shared.config.heartbeat_ticks as u64 * shared.config.tick_ms;
    let remembered = liveness::recall(&*shared.engine)?;
    let mut rafts: Vec<RaftWorker> = boxes
        .raft
        .into_iter()
        .enumerate()
        .map(|(number, mailbox)| {
            let outbox = Outbox::new(transport.clone(), shared.origin, heartbeat_ms);
            let env = Env::new(shared.clone(), outbox, number as u64, remembered.held());
            RaftWorker::new(number, env, mailbox)
        })
        .collect();
    recovery::restore_regions(shared, &mut rafts)?;
    let round = recovery::clean_log(&*shared.engine, shared.origin.store)?;
    let mut turns: Vec<Box<dyn Turn>> = Vec::new();
    turns.extend(rafts.into_iter().map(|w| Box::new(w) as Box<dyn Turn>));
    turns.push(Box::new(LogWriter::new(shared.clone(), transport.clone(), boxes.log, round)));
    for (number, mailbox) in boxes.apply.into_iter().enumerate() {
        turns.push(Box::new(ApplyWorker::new(number, shared.clone(), mailbox)));
    }
    turns.push(Box::new(SnapshotWorker::new(shared.clone(), transport.clone(), boxes.snapshot)));
    turns.push(Box::new(Background::new(shared.clone(), boxes.background)));
    let (to_stores, book) = (transport.clone(), directory.clone());
    turns.push(Box::new(Liveness::new(shared.clone(), to_stores, boxes.liveness, book, &remembered)));
    let placement = Placement::new(shared.clone(), transport.clone(), boxes.placement, directory.clone());
    turns.push(Box::new(placement));
    Ok(Workers { turns })
}
