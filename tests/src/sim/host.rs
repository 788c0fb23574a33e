//! One machine of the simulated cluster: a disk, a clock, and, while the process lives, a real store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use flotilla_engine::{EngineSnapshot, MemEngine, Prng};
use flotilla_placement::{StoreRecord, StoreUuid};
use flotilla_proto::flotilla as pb;
use flotilla_raftstore::{
    FORMAT, LocalRead, PreSplit, ReadGrant, Seams, Store, StoreConfig, StoreError, Time, Turn, Workers,
};
use flotilla_region::{ClusterId, StoreId};

use super::clock::{GlobalTime, SimClock};
use super::disks::in_order;
use super::effects::{CallId, Effect, Effects, Life};
use super::kv::KvMachine;
use super::network::SimTransport;
use super::profile::Profile;
use super::wishes::key_bytes;
use crate::check::agreement::Agreement;

/// The cluster of every run.
pub const CLUSTER: ClusterId = ClusterId(77);

/// The store of the machine that founds the cluster.
pub const FOUNDER: StoreId = StoreId(1);

/// Identity of a machine's disk.
fn uuid_of(machine: u64) -> [u8; 16] {
    u128::from(machine).to_be_bytes()
}

/// The address of a machine that has no other one's.
pub fn address_of(machine: u64) -> String {
    format!("machine-{machine}:1")
}

/// What a machine says to join a cluster.
pub fn join_request(machine: u64, address: String) -> pb::JoinRequest {
    pb::JoinRequest {
        uuid: Bytes::copy_from_slice(&uuid_of(machine)),
        address,
        format_max: FORMAT,
        ..pb::JoinRequest::default()
    }
}

/// A worker and when it has its next turn.
pub struct Worker {
    /// The state machine.
    pub turn: Box<dyn Turn>,
    /// Its name, for traces.
    pub name: String,
    /// Global time of the next turn; `u64::MAX` = none planned.
    pub due_us: u64,
    /// Names the planned turn, so that an older plan is ignored.
    pub plan: u64,
    /// Until when it is busy with the last one, or stalled.
    pub busy_until_us: u64,
}

/// A running store.
pub struct Running {
    /// The handle.
    pub store: Store,
    /// Its workers, in the order of [`Workers::turns`].
    pub workers: Vec<Worker>,
}

/// A read between its steps on the store.
pub enum Reading {
    /// Under the lease, checked once.
    Begun(LocalRead),
    /// Under the lease, with the view taken.
    Viewed(LocalRead, Arc<dyn EngineSnapshot>),
    /// Granted by the raft worker.
    Granted(ReadGrant),
}

/// A machine.
pub struct Host {
    /// The store's id.
    pub id: StoreId,
    /// By which placement knows it. A machine that comes back with an empty disk keeps it.
    pub address: String,
    /// Its disk.
    pub engine: Arc<MemEngine>,
    /// Its clock.
    pub clock: Arc<SimClock>,
    /// Its configuration.
    pub config: StoreConfig,
    /// Number of the present life, or of the last one.
    pub life: Life,
    /// The process, if it lives.
    pub running: Option<Running>,
    /// Nothing happens in the process before.
    pub paused_until_us: u64,
    /// Reads that clients have under way here. They hold views of the disk, so they end with the process.
    pub readings: BTreeMap<CallId, Reading>,
}

impl Host {
    /// The first machine, which founds the cluster.
    pub fn found(profile: &Profile, global: &GlobalTime, rng: &mut Prng) -> Self {
        let host = Self::new((FOUNDER, address_of(1)), profile, global, rng);
        let founder = StoreRecord {
            uuid: StoreUuid(uuid_of(1)),
            address: address_of(1),
            format_max: FORMAT,
            ..StoreRecord::default()
        };
        let cuts = (1..=profile.pre_split).map(|n| n * profile.keys / (profile.pre_split + 1));
        let mut cuts: Vec<Bytes> = cuts.map(key_bytes).collect();
        cuts.dedup();
        let cuts = PreSplit::new(cuts).expect("keys ascend");
        Store::bootstrap(&*host.engine, CLUSTER, founder, &cuts).expect("the disk is healthy");
        host
    }

    /// A machine that the cluster has accepted as store `id`.
    pub fn join(
        (id, address): (StoreId, String),
        machine: u64,
        profile: &Profile,
        global: &GlobalTime,
        rng: &mut Prng,
    ) -> Self {
        let host = Self::new((id, address), profile, global, rng);
        let uuid = Bytes::copy_from_slice(&uuid_of(machine));
        Store::init(&*host.engine, CLUSTER, id, uuid).expect("the disk is healthy");
        host
    }

    fn new((id, address): (StoreId, String), profile: &Profile, global: &GlobalTime, rng: &mut Prng) -> Self {
        let engine = MemEngine::new(rng.next_u64());
        engine.set_faults(in_order(id, profile));
        #[cfg(feature = "planted")]
        if profile.skip_log_sync {
            engine.plant_skip_log_sync();
        }
        let drift_max = profile.drift_ppm_max;
        let drift_ppm = rng.below(2 * drift_max + 1) as i64 - drift_max as i64;
        let offset_us = rng.below(1_000_000_000);
        let clock = Arc::new(SimClock::new(global.clone(), engine.clone(), offset_us, drift_ppm));
        let config = StoreConfig { seed: rng.next_u64(), ..profile.config.clone() };
        Self {
            id,
            address,
            engine,
            clock,
            config,
            life: Life(0),
            running: None,
            paused_until_us: 0,
            readings: BTreeMap::new(),
        }
    }

    /// Starts the process on the disk as it is.
    ///
    /// # Errors
    /// The store refuses its disk.
    pub fn start(
        &mut self,
        effects: &Effects,
        agreement: &Arc<Mutex<Agreement>>,
        rng: &mut Prng,
    ) -> Result<(), StoreError> {
        assert!(self.running.is_none(), "store {} runs already", self.id);
        self.life = Life(self.life.0 + 1);
        let (store, life) = (self.id, self.life);
        self.config.seed = rng.next_u64();
        let told = effects.clone();
        let seams = Seams {
            engine: self.engine.clone(),
            transport: Arc::new(SimTransport { store, life, effects: effects.clone() }),
            clock: self.clock.clone(),
            machine: Arc::new(KvMachine::new(agreement.clone())),
            fatal: Arc::new(move |error| told.push(store, life, Effect::Fatal(error.to_string()))),
        };
        let (handle, Workers { turns, .. }) = Store::open(self.config.clone(), seams)?;
        let workers = turns.into_iter().map(|turn| {
            let name = turn.name();
            Worker { turn, name, due_us: u64::MAX, plan: 0, busy_until_us: 0 }
        });
        self.running = Some(Running { store: handle, workers: workers.collect() });
        self.paused_until_us = 0;
        Ok(())
    }

    /// Ends the process at once. Its callbacks are dropped in its next life, so nobody takes them for a bug.
    pub fn stop(&mut self) {
        self.life = Life(self.life.0 + 1);
        self.readings.clear();
        self.running = None;
    }

    /// The handle of the running store.
    pub fn store(&self) -> Option<&Store> {
        self.running.as_ref().map(|running| &running.store)
    }

    /// A checker's view of the disk's data now. What it shows is visited in place: visitors do not call the engine.
    pub fn engine_snapshot(&self) -> Arc<dyn EngineSnapshot> {
        self.engine.snapshot_in_place()
    }

    /// One turn of a worker at a global moment. Returns whether work is left, when the worker wants its next turn in
    /// any case, and how long the disk took.
    pub fn take_turn(&mut self, worker: usize, now_us: u64) -> (bool, u64, u64) {
        let local = Time(self.clock.local_us(now_us));
        let Some(running) = &mut self.running else { return (false, u64::MAX, 0) };
        let turn = &mut running.workers[worker].turn;
        self.clock.begin_turn();
        let more = turn.turn(local);
        let deadline = turn.deadline();
        let took_us = self.clock.end_turn();
        let deadline_us = if deadline == Time(u64::MAX) { u64::MAX } else { self.clock.global_us(deadline) };
        (more, deadline_us, took_us)
    }
}
