//! What a seed draws before a run begins: sizes, limits, delays, which faults and which features (swarm testing:
//! Groce et al., "Swarm Testing", ISSTA 2012).

use flotilla_engine::Prng;
use flotilla_placement::PlacementConfig;
use flotilla_raftstore::StoreConfig;

use super::extras::Extras;

/// Delays and faults of the network.
#[derive(Clone, Debug)]
pub struct NetProfile {
    /// Delay of a frame, `[low, high)`.
    pub delay_us: (u64, u64),
    /// Share of messages that take twenty times as long.
    pub slow_permille: u64,
    /// Share of frames that arrive twice.
    pub duplicate_permille: u64,
    /// Share of frames that may overtake earlier ones.
    pub reorder_permille: u64,
    /// Share of stream parts at which the stream breaks.
    pub break_permille: u64,
    /// Loss of frames while faults are on.
    pub loss_permille: u64,
}

/// A kind of action that the nemesis may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A process is killed: `data` falls back.
    Kill,
    /// A machine loses power: `log` loses what was not synced, too.
    PowerCut,
    /// All machines lose power at once.
    Blackout,
    /// All machines but one lose power and start again at once, and that one stands still or hears nobody meanwhile: what
    /// they promised it still holds. Only with store liveness.
    Amnesia,
    /// One voter after the other hears its leader no more until it does not support it, and the leader's store stands
    /// still when all do again. Only with store liveness.
    Relapse,
    /// A process stands still.
    Pause,
    /// A process stands still for 1 to 30 seconds, as after a laptop's sleep.
    LongPause,
    /// One worker of a process stands still.
    Stall,
    /// A store is cut off.
    Isolate,
    /// One direction between two stores is cut.
    OneWay,
    /// The stores fall into two halves that do not hear each other.
    Partition,
    /// One direction between two stores takes up to half a second longer.
    SlowLink,
    /// Whoever leads the meta region, and so placement, is killed, cut off or stands still.
    PlacementLeader,
    /// A machine more joins the cluster.
    AddStore,
    /// A disk becomes slow.
    SlowDisk,
    /// A disk fails.
    FailDisk,
    /// A store's data takes no writes any more, after a failure in the background.
    BackgroundError,
    /// A record of a store's disk can be read no more.
    Rot,
    /// A machine is lost with its disk; the same one, or another, joins as a new store.
    LoseStore,
    /// A store is to be emptied, or to be used again.
    Drain,
    /// A clock jumps. Only where clocks lie.
    ClockJump,
    /// A store's data is compacted.
    Compact,
    /// A region is split.
    Split,
    /// A region is merged into a neighbour, or asked to where it must be refused.
    Merge,
    /// A replica is removed or moved.
    Move,
    /// Leadership is handed over.
    Transfer,
    /// A store makes its data durable and truncates its logs.
    Checkpoint,
}

/// Every fault, with the share of seeds that have it, of 100.
const FAULTS: [(Fault, u64); 25] = [
    (Fault::Kill, 50),
    (Fault::PowerCut, 50),
    (Fault::Blackout, 15),
    (Fault::Pause, 40),
    (Fault::LongPause, 5),
    (Fault::Stall, 40),
    (Fault::Isolate, 50),
    (Fault::OneWay, 30),
    (Fault::Partition, 30),
    (Fault::SlowLink, 30),
    (Fault::PlacementLeader, 25),
    (Fault::AddStore, 10),
    (Fault::SlowDisk, 25),
    (Fault::FailDisk, 15),
    (Fault::BackgroundError, 10),
    (Fault::Rot, 15),
    (Fault::LoseStore, 15),
    (Fault::Drain, 30),
    (Fault::ClockJump, 100),
    (Fault::Compact, 20),
    (Fault::Split, 50),
    (Fault::Move, 50),
    (Fault::Transfer, 50),
    (Fault::Checkpoint, 50),
    (Fault::Merge, 50),
];

/// Clocks that keep the law gain or lose so much at most: two of them, less than `clock_drift_percent`.
pub const LAWFUL_DRIFT_PPM: u64 = 40_000;

/// Time with faults in which there is room for pauses of up to 30 seconds.
const LONG_US: u64 = 60_000_000;

/// Entries that no log of a run reaches.
const LOG_FORCE_NEVER: u64 = 100_000;

/// Everything that is drawn before a run.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Stores at the start.
    pub stores: u64,
    /// Replicas that every region shall have.
    pub replicas: usize,
    /// Clients.
    pub clients: usize,
    /// Share of reads for which any replica is asked.
    pub replica_read_percent: u64,
    /// Share of operations that go to a peer drawn at random, as of a client that knows an old leader, or a newer one
    /// than everybody else.
    pub stray_percent: u64,
    /// Share of operations before which a client forgets all routes, as one that begins.
    pub forget_percent: u64,
    /// Whether a store is lost for good, and another machine takes its place, after the faults.
    pub wipe: bool,
    /// Keys that clients use.
    pub keys: usize,
    /// Borders between these keys with which the cluster begins.
    pub pre_split: usize,
    /// Every key whose number is a multiple of this is set for a time now and then; 0 = none is.
    pub expiring: usize,
    /// Largest value in bytes.
    pub value_bytes_max: u64,
    /// For how long a client waits for an answer.
    pub patience_us: u64,
    /// Pause of a client between operations, at most.
    pub think_us_max: u64,
    /// How long faults go on.
    pub chaos_us: u64,
    /// Pause between the nemesis's actions, at most.
    pub nemesis_us_max: u64,
    /// Delay between a message for a worker and its turn, at most.
    pub turn_us_max: u64,
    /// Largest drift of a store's clock, in parts per million. Leases of 4.5 ticks are safe while an election timeout of
    /// 6 ticks, one of them not whole, is longer: up to 5 %.
    pub drift_ppm_max: u64,
    /// Clocks drift beyond that, and jump. Leases promise nothing then: clients read through ReadIndex alone, and no
    /// checker looks at leases.
    pub clocks_lie: bool,
    /// The network.
    pub net: NetProfile,
    /// What the nemesis may do.
    pub faults: Vec<Fault>,
    /// Test only: disks report a sync of `log` without doing it.
    #[cfg(feature = "planted")]
    pub skip_log_sync: bool,
    /// Draws that not every run knows.
    pub extras: Extras,
    /// What all stores have in common; each draws its own seed and workers.
    pub config: StoreConfig,
}

impl Profile {
    /// Draws a profile.
    pub fn draw(rng: &mut Prng) -> Self {
        let stores = *rng.pick(&[3, 3, 3, 3, 3, 3, 4, 5, 5, 1]);
        let mut faults: Vec<Fault> =
            FAULTS.iter().filter(|(_, share)| rng.chance(*share, 100)).map(|(f, _)| *f).collect();
        if faults.contains(&Fault::Merge) {
            // What shall be merged must have been split.
            faults.extend([Fault::Split, Fault::Split, Fault::Merge, Fault::Merge, Fault::Merge]);
        }
        let replicas = if stores >= 5 && rng.chance(1, 3) { 5 } else { 3 };
        let wipe = stores >= 3 && rng.chance(1, 6);
        let mut config = draw_config(rng, replicas);
        let clocks_lie = rng.chance(1, 10);
        faults.retain(|fault| clocks_lie || *fault != Fault::ClockJump);
        if wipe || faults.contains(&Fault::LoseStore) || faults.contains(&Fault::Rot) {
            config.placement.store_gone_ms = 6_000;
        }
        let mut profile = Self {
            stores,
            wipe,
            replicas: replicas.min(stores as usize),
            clients: if rng.chance(1, 4) { 12 } else { rng.range(1..7) as usize },
            replica_read_percent: *rng.pick(&[0, 10, 40]),
            stray_percent: *rng.pick(&[0, 5, 30]),
            forget_percent: *rng.pick(&[0, 5, 30]),
            keys: *rng.pick(&[2, 6, 12, 24, 60]),
            pre_split: 0,
            expiring: if clocks_lie { 0 } else { *rng.pick(&[0, 0, 1, 3]) },
            value_bytes_max: *rng.pick(&[16, 100, 600]),
            patience_us: *rng.pick(&[300_000, 1_000_000, 4_000_000]),
            think_us_max: *rng.pick(&[1_000, 5_000, 30_000, 100_000]),
            chaos_us: rng.range(2_000..7_000) * 1_000,
            nemesis_us_max: *rng.pick(&[100_000, 300_000, 800_000, 2_000_000]),
            turn_us_max: *rng.pick(&[10, 100, 1_000, 4_000]),
            drift_ppm_max: if clocks_lie { 300_000 } else { *rng.pick(&[0, 200, 5_000, LAWFUL_DRIFT_PPM]) },
            clocks_lie,
            net: draw_net(rng),
            faults,
            #[cfg(feature = "planted")]
            skip_log_sync: false,
            extras: Extras::none(),
            config,
        };
        profile.draw_load(rng);
        draw_liveness(rng, &mut profile);
        draw_limits(&mut Prng::new(rng.clone().next_u64()), &mut profile.config);
        profile
    }

    /// Adds draws that not every run knows.
    pub fn add(&mut self, extras: Extras) {
        let config = &mut self.config;
        config.placement.remove_drained = extras.remove_drained;
        config.report_refresh_ms = extras.report_refresh_ms;
        config.apply_ahead_entries = extras.apply_ahead;
        if extras.store_inflight_bytes > 0 {
            config.store_inflight_bytes_max = extras.store_inflight_bytes;
        }
        if extras.position_records > 0 {
            config.position_records_max = extras.position_records;
        }
        if extras.load_split_bytes > 0 {
            if config.load_split_requests == StoreConfig::default().load_split_requests {
                // Nothing of it was drawn.
                config.load_split_requests = 0;
                config.load_interval_ms = 500;
                config.load_split_intervals = 2;
                config.load_split_samples_min = 4;
            }
            config.load_split_bytes = extras.load_split_bytes;
        }
        if extras.long_pauses && self.chaos_us >= LONG_US && !self.faults.contains(&Fault::LongPause) {
            self.faults.push(Fault::LongPause);
        }
        self.extras = extras;
    }

    /// Regions that are split because of what clients do to them, and those with which the cluster begins.
    fn draw_load(&mut self, rng: &mut Prng) {
        if rng.chance(1, 4) {
            let config = &mut self.config;
            config.load_split_requests = *rng.pick(&[5, 20, 60]);
            config.load_interval_ms = *rng.pick(&[200, 500]);
            config.load_split_intervals = *rng.pick(&[1, 2, 4]);
            config.load_split_samples_min = rng.range(2..12) as usize;
            config.load_split_imbalance_percent = *rng.pick(&[25, 60, 100]);
        }
        if rng.chance(1, 12) {
            // Much data between two looks at it: writes outrun the splits.
            (self.keys, self.value_bytes_max) = (60, 600);
            let config = &mut self.config;
            (config.split_bytes, config.split_busy_bytes, config.split_check_ms) = (1_000, 2_000, 1_500);
        }
        if rng.chance(1, if self.faults.contains(&Fault::Merge) { 2 } else { 6 }) {
            self.pre_split = rng.range(1..5) as usize;
        }
        self.config.peer_down_ms = *rng.pick(&[1_000, 4_000, 10_000]);
    }

    /// How long a child should have no leader where nothing is in the way: round trips for a vote before the vote and for the
    /// vote, and again for what they come too early for; the turns of workers between them; and the looks that tell.
    pub fn prompt_us_max(&self) -> u64 {
        let round_trip_us = 2 * self.net.delay_us.1;
        4 * round_trip_us + 40 * self.turn_us_max + 100_000
    }

    /// Whether machines are lost with their disks while others fail.
    pub fn may_lose(&self) -> bool {
        self.faults.contains(&Fault::LoseStore) || self.faults.contains(&Fault::Rot)
    }

    /// Whether nothing fails, no log is cut short, and so nobody needs a snapshot but a new replica.
    pub fn loses_nothing(&self) -> bool {
        self.faults.iter().all(|fault| *fault == Fault::Split)
            && self.net.loss_permille == 0
            && self.config.log_force_entries >= LOG_FORCE_NEVER
    }

    /// A run with these actions of the nemesis and no others, on a network without faults.
    pub fn only(mut self, faults: &[Fault]) -> Self {
        self = self.calm();
        self.faults = faults.to_vec();
        (self.config.load_split_requests, self.config.load_split_bytes) = (0, 0);
        self.config.log_force_entries = LOG_FORCE_NEVER;
        self
    }

    /// A quiet run for first steps: no faults at all.
    pub fn calm(mut self) -> Self {
        self.faults.clear();
        self.net.duplicate_permille = 0;
        self.net.reorder_permille = 0;
        self.net.break_permille = 0;
        self.net.loss_permille = 0;
        self
    }
}

/// Whether stores support each other, and how long. The bound on clocks is that of the fastest against the slowest of the
/// drawn ones, and a little more.
fn draw_liveness(rng: &mut Prng, profile: &mut Profile) {
    let config = &mut profile.config;
    config.store_liveness = rng.chance(1, 2);
    config.liveness_duration_ms = *rng.pick(&[400, 700, 1_000, 3_000]);
    config.liveness_interval_ms = config.liveness_duration_ms * 3 / 8;
    config.clock_drift_percent = 10;
    config.sleep_ticks = *rng.pick(&[1, 3, 10]);
    if !config.store_liveness {
        return;
    }
    if rng.chance(1, 2) {
        profile.faults.extend([Fault::Amnesia; 2]);
    }
    if rng.chance(1, 2) {
        profile.faults.extend([Fault::Relapse; 4]);
    }
    if rng.chance(1, 3) && !profile.faults.contains(&Fault::Rot) {
        // A comparison tells everybody everything, and finds what rots where nobody reads.
        config.check_interval_ms = 0;
    }
}

/// Without a further number from the common sequence, so that earlier seeds mean what they did.
fn draw_limits(rng: &mut Prng, config: &mut StoreConfig) {
    config.transfer_lag_entries = *rng.pick(&[0, 2, 20, 256]);
    if config.split_bytes > 0 && rng.chance(1, 3) {
        (config.split_bytes, config.split_keys) = (0, rng.range(3..20));
    }
    if config.log_force_entries < LOG_FORCE_NEVER {
        config.log_force_bytes = *rng.pick(&[300, 3_000, 192 << 20]);
    }
}

fn draw_net(rng: &mut Prng) -> NetProfile {
    NetProfile {
        delay_us: *rng.pick(&[(50, 300), (200, 3_000), (1_000, 20_000)]),
        slow_permille: *rng.pick(&[0, 0, 5]),
        duplicate_permille: *rng.pick(&[0, 0, 5, 50]),
        reorder_permille: *rng.pick(&[0, 0, 20]),
        break_permille: *rng.pick(&[0, 0, 20, 150]),
        loss_permille: *rng.pick(&[0, 0, 10, 50, 200]),
    }
}

/// Relations that [`StoreConfig::check`] demands hold for every draw.
fn draw_config(rng: &mut Prng, replicas: usize) -> StoreConfig {
    let tick_ms = *rng.pick(&[50, 100]);
    let config = StoreConfig {
        raft_workers: rng.range(1..4) as usize,
        apply_workers: rng.range(1..4) as usize,
        tick_ms,
        election_ticks: 6,
        heartbeat_ticks: *rng.pick(&[1, 2]),
        lease_ms: tick_ms * 9 / 2,
        entry_bytes_max: 64 << 10,
        append_bytes_max: *rng.pick(&[300, 4_000, 1 << 20]),
        inflight_messages_max: *rng.pick(&[1, 4, 64]),
        inflight_bytes_max: 1 << 20,
        uncommitted_bytes_max: 1 << 20,
        committed_bytes_max: *rng.pick(&[500, 4_000, 1 << 20]),
        entry_cache_bytes: *rng.pick(&[0, 2_000, 1 << 20]),
        turn_messages_max: *rng.pick(&[1, 3, 20, 4_096]),
        log_batch_bytes_max: *rng.pick(&[16, 2_000, 1 << 20]),
        apply_batch_bytes_max: *rng.pick(&[16, 2_000, 1 << 20]),
        checkpoint_interval_ms: *rng.pick(&[500, 2_000, 10_000]),
        checkpoint_log_bytes: 1 << 30,
        log_keep_entries: *rng.pick(&[0, 5, 100]),
        log_keep_bytes: u64::MAX,
        report_refresh_ms: 0,
        log_force_entries: *rng.pick(&[10, 50, LOG_FORCE_NEVER]),
        split_bytes: *rng.pick(&[0, 0, 2_000, 10_000]),
        split_keys: 0,
        split_keys_max: *rng.pick(&[1, 3]),
        split_check_ms: 500,
        check_interval_ms: if tick_ms == 50 { 4_000 } else { 5_000 },
        check_unchanged_interval_ms: if tick_ms == 50 { 0 } else { 10_000 },
        snapshot_send_max: *rng.pick(&[1, 3]),
        snapshot_receive_max: *rng.pick(&[1, 3]),
        snapshot_chunk_bytes: *rng.pick(&[1, 500, 1 << 20]),
        snapshot_timeout_ms: 3_000,
        stale_peer_ms: 3_000,
        report_ms: *rng.pick(&[50, 200]),
        placement: PlacementConfig {
            replicas,
            meta_replicas: replicas,
            store_silent_ms: 3_000,
            store_settle_ms: 1_000,
            report_wait_ms: 3_000,
            operator_expire_ms: 3_000,
            learner_stuck_ms: 10_000,
            // A drained store may be wanted again; see also `Extras`.
            remove_drained: false,
            merge_wait_ms: *rng.pick(&[500, 3_000, 600_000, 600_000]),
            ..PlacementConfig::default()
        },
        ..StoreConfig::default()
    };
    // Not drawn anew, so that every seed stays what it was.
    let (snapshot_send_bytes_per_s, snapshot_receive_bytes_per_s) = match config.snapshot_chunk_bytes {
        1 => (20_000, 0),
        500 => (0, 30_000),
        _ => (0, 0),
    };
    StoreConfig { snapshot_send_bytes_per_s, snapshot_receive_bytes_per_s, ..config }
}
