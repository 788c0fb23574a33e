//! What a run did, so that one that did too little is not taken for a pass.

/// So many seeds together must have done everything that can be counted at least once.
const SEEDS_FOR_ALL: u64 = 200;
/// But for these: some must not happen, and the others need a moment that few runs have.
const RARE: [&str; 4] = ["needless snapshots", "crowded writes", "births", "failed reads"];

/// Counts of one run, or of many together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Turns of workers.
    pub turns: u64,
    /// Frames sent.
    pub frames: u64,
    /// Heartbeats of regions that arrived.
    pub heartbeats: u64,
    /// Client operations with a known outcome.
    pub operations: u64,
    /// Client operations whose outcome nobody knows.
    pub unknown: u64,
    /// Attempts that were refused and made again.
    pub retries: u64,
    /// Questions for routes to stores.
    pub route_questions: u64,
    /// Reads served under a lease.
    pub lease_reads: u64,
    /// Reads served by ReadIndex.
    pub index_reads: u64,
    /// Elections won.
    pub elections: u64,
    /// Splits.
    pub splits: u64,
    /// Children whose first leader was waited for while nothing was in the way.
    pub births: u64,
    /// Regions that were to be split because of their load.
    pub load_splits: u64,
    /// Writes refused because their region was too large.
    pub crowded_writes: u64,
    /// Merges.
    pub merges: u64,
    /// Snapshots installed.
    pub snapshots: u64,
    /// Membership changes that the operator or the nemesis brought through.
    pub changes: u64,
    /// Moves of replicas that were asked of placement.
    pub ordered_moves: u64,
    /// Processes killed.
    pub kills: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Pauses and stalls.
    pub pauses: u64,
    /// Pauses of a second or more.
    pub long_pauses: u64,
    /// Cuts of the network.
    pub cuts: u64,
    /// Machines lost for good.
    pub lost: u64,
    /// Machines that joined later.
    pub added: u64,
    /// Strikes at the leader of placement.
    pub placement_strikes: u64,
    /// Stores that stopped because their disk failed.
    pub fatal: u64,
    /// Disks that reported an error.
    pub disk_errors: u64,
    /// Disks that were full.
    pub full_disks: u64,
    /// Disks that stayed full for some time.
    pub full_spells: u64,
    /// Disks that failed to read.
    pub failed_reads: u64,
    /// Disks that were slow.
    pub slow_disks: u64,
    /// Stores whose data took no writes any more.
    pub background_errors: u64,
    /// Records that could be read no more.
    pub rots: u64,
    /// Stores to be emptied.
    pub drains: u64,
    /// Stores that were removed once they were empty.
    pub removed: u64,
    /// Clocks that jumped.
    pub clock_jumps: u64,
    /// Compactions.
    pub compactions: u64,
    /// Regions that went to sleep on a store.
    pub sleeps: u64,
    /// Entries applied before the own log had them.
    pub applied_ahead: u64,
    /// Transfers of leadership before which the heir read what others lacked.
    pub warm_transfers: u64,
    /// Times that entries waited for room to their store.
    pub held_back: u64,
    /// Snapshots of regions that a split was about to bring to the receiver.
    pub needless_snapshots: u64,
}

impl Stats {
    /// All counts with their names.
    pub fn list(&self) -> [(&'static str, u64); 43] {
        [
            ("turns", self.turns),
            ("frames", self.frames),
            ("heartbeats", self.heartbeats),
            ("operations", self.operations),
            ("unknown", self.unknown),
            ("retries", self.retries),
            ("route questions", self.route_questions),
            ("lease reads", self.lease_reads),
            ("index reads", self.index_reads),
            ("elections", self.elections),
            ("splits", self.splits),
            ("births", self.births),
            ("load splits", self.load_splits),
            ("crowded writes", self.crowded_writes),
            ("merges", self.merges),
            ("snapshots", self.snapshots),
            ("changes", self.changes),
            ("ordered moves", self.ordered_moves),
            ("kills", self.kills),
            ("power cuts", self.power_cuts),
            ("pauses", self.pauses),
            ("long pauses", self.long_pauses),
            ("cuts", self.cuts),
            ("lost", self.lost),
            ("added", self.added),
            ("placement strikes", self.placement_strikes),
            ("fatal", self.fatal),
            ("disk errors", self.disk_errors),
            ("full disks", self.full_disks),
            ("full spells", self.full_spells),
            ("failed reads", self.failed_reads),
            ("slow disks", self.slow_disks),
            ("background errors", self.background_errors),
            ("rots", self.rots),
            ("drains", self.drains),
            ("removed", self.removed),
            ("clock jumps", self.clock_jumps),
            ("compactions", self.compactions),
            ("sleeps", self.sleeps),
            ("applied ahead", self.applied_ahead),
            ("warm transfers", self.warm_transfers),
            ("held back", self.held_back),
            ("needless snapshots", self.needless_snapshots),
        ]
    }

    /// Whether `seeds` short runs together did what they are for; limits are far below what is usual.
    pub fn did_enough(&self, seeds: u64) -> bool {
        self.operations >= 20 * seeds
            && self.elections >= 3 * seeds
            && self.snapshots >= seeds
            && self.lease_reads >= seeds
            && self.index_reads >= seeds
            && self.kills + self.power_cuts >= seeds
            && self.splits * 10 >= seeds
            && self.merges * 20 >= seeds
            && (seeds < SEEDS_FOR_ALL
                || self.list().iter().all(|(name, count)| *count > 0 || RARE.contains(name)))
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        self.turns += other.turns;
        self.frames += other.frames;
        self.heartbeats += other.heartbeats;
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.retries += other.retries;
        self.route_questions += other.route_questions;
        self.lease_reads += other.lease_reads;
        self.index_reads += other.index_reads;
        self.elections += other.elections;
        self.splits += other.splits;
        self.births += other.births;
        self.load_splits += other.load_splits;
        self.crowded_writes += other.crowded_writes;
        self.merges += other.merges;
        self.snapshots += other.snapshots;
        self.changes += other.changes;
        self.ordered_moves += other.ordered_moves;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.pauses += other.pauses;
        self.long_pauses += other.long_pauses;
        self.cuts += other.cuts;
        self.lost += other.lost;
        self.added += other.added;
        self.placement_strikes += other.placement_strikes;
        self.fatal += other.fatal;
        self.disk_errors += other.disk_errors;
        self.full_disks += other.full_disks;
        self.full_spells += other.full_spells;
        self.failed_reads += other.failed_reads;
        self.slow_disks += other.slow_disks;
        self.background_errors += other.background_errors;
        self.rots += other.rots;
        self.drains += other.drains;
        self.removed += other.removed;
        self.clock_jumps += other.clock_jumps;
        self.compactions += other.compactions;
        self.sleeps += other.sleeps;
        self.applied_ahead += other.applied_ahead;
        self.warm_transfers += other.warm_transfers;
        self.held_back += other.held_back;
        self.needless_snapshots += other.needless_snapshots;
    }
}
