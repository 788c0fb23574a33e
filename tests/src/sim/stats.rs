//! What a run did, so that one that did too little is not taken for a pass.

/// Counts of one run, or of many together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Turns of workers.
    pub turns: u64,
    /// Frames sent.
    pub frames: u64,
    /// Client operations with a known outcome.
    pub operations: u64,
    /// Client operations whose outcome nobody knows.
    pub unknown: u64,
    /// Attempts that were refused and made again.
    pub retries: u64,
    /// Reads served under a lease.
    pub lease_reads: u64,
    /// Reads served by ReadIndex.
    pub index_reads: u64,
    /// Elections won.
    pub elections: u64,
    /// Splits.
    pub splits: u64,
    /// Merges.
    pub merges: u64,
    /// Snapshots installed.
    pub snapshots: u64,
    /// Membership changes that the operator or the nemesis brought through.
    pub changes: u64,
    /// Processes killed.
    pub kills: u64,
    /// Power cuts.
    pub power_cuts: u64,
    /// Pauses and stalls.
    pub pauses: u64,
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
}

impl Stats {
    /// All counts with their names.
    pub fn list(&self) -> [(&'static str, u64); 20] {
        [
            ("turns", self.turns),
            ("frames", self.frames),
            ("operations", self.operations),
            ("unknown", self.unknown),
            ("retries", self.retries),
            ("lease reads", self.lease_reads),
            ("index reads", self.index_reads),
            ("elections", self.elections),
            ("splits", self.splits),
            ("merges", self.merges),
            ("snapshots", self.snapshots),
            ("changes", self.changes),
            ("kills", self.kills),
            ("power cuts", self.power_cuts),
            ("pauses", self.pauses),
            ("cuts", self.cuts),
            ("lost", self.lost),
            ("added", self.added),
            ("placement strikes", self.placement_strikes),
            ("fatal", self.fatal),
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
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        self.turns += other.turns;
        self.frames += other.frames;
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.retries += other.retries;
        self.lease_reads += other.lease_reads;
        self.index_reads += other.index_reads;
        self.elections += other.elections;
        self.splits += other.splits;
        self.merges += other.merges;
        self.snapshots += other.snapshots;
        self.changes += other.changes;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.pauses += other.pauses;
        self.cuts += other.cuts;
        self.lost += other.lost;
        self.added += other.added;
        self.placement_strikes += other.placement_strikes;
        self.fatal += other.fatal;
    }
}
