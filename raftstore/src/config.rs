//! What a user may tune in a store, and the constants that would corrupt data if changed.

use crate::load::samples::SAMPLES_MAX;
use crate::snapshot::WINDOW_PARTS;

/// Tunables of one store. Defaults suit production; tests and the simulator draw their own.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Raft workers; regions are spread by id. One keeps two cores busy: a second one pays where a store has more than
    /// four to itself, and costs wake-ups where it has not.
    pub raft_workers: usize,
    /// Apply workers; regions are spread by id. See `raft_workers`.
    pub apply_workers: usize,
    /// Length of a tick.
    pub tick_ms: u64,
    /// Ticks without a leader before a campaign; drawn from `[election_ticks, 2 * election_ticks]`.
    pub election_ticks: usize,
    /// Ticks between heartbeats of a leader. Heartbeats of all regions leave together on this grid.
    pub heartbeat_ticks: usize,
    /// Length of a leader's lease. Invariant: at least one tick shorter than the shortest election timeout.
    pub lease_ms: u64,
    /// Largest entry; a larger command or batch is refused.
    pub entry_bytes_max: usize,
    /// Largest append message.
    pub append_bytes_max: u64,
    /// Append messages in flight to one follower.
    pub inflight_messages_max: usize,
    /// Bytes in flight to one follower.
    pub inflight_bytes_max: u64,
    /// Bytes in flight to one store, of all regions led here together, beyond which regions send to it in turn; each raft
    /// worker has its share. 0 = no limit.
    pub store_inflight_bytes_max: u64,
    /// Uncommitted bytes of one region, beyond which proposals wait or are refused.
    pub uncommitted_bytes_max: u64,
    /// Bytes of committed entries handed to apply at a time, per region.
    pub committed_bytes_max: u64,
    /// Entries that a leader applies, and answers, before its own disk has them; a quorum of others has. 0 = none. A
    /// restart then finds `data` ahead of the log (rule W8).
    pub apply_ahead_entries: u32,
    /// Bytes of requests that the store holds, beyond which `ServerIsBusy` is answered.
    pub pending_bytes_max: u64,
    /// How long a request may wait for a leader to appear before it is answered without a hint.
    pub leader_wait_ms: u64,
    /// Bytes of log entries that the store keeps in memory for followers that lack them.
    pub entry_cache_bytes: u64,
    /// Messages that a raft worker takes, and peers that it ticks, per turn.
    pub turn_messages_max: usize,
    /// Bytes that the log writer puts into one batch.
    pub log_batch_bytes_max: usize,
    /// Bytes that an apply worker puts into one batch.
    pub apply_batch_bytes_max: usize,
    /// Records of many regions' applied positions that an apply worker writes before each region gets its own anew.
    pub position_records_max: u16,
    /// Longest time between checkpoints (flush of `data`, publication of durable indexes, log truncation).
    pub checkpoint_interval_ms: u64,
    /// Bytes of `log` that start a checkpoint at once; bounds replay after a restart. Less than the write buffer of `log`
    /// holds: else RocksDB writes entries to files that the checkpoint would have dropped.
    pub checkpoint_log_bytes: u64,
    /// Entries that a follower's peer keeps below the durable index, should it lead and others be behind.
    pub log_keep_entries: u64,
    /// The same in bytes, for all peers with new entries together. What is kept is written once more, into a file.
    pub log_keep_bytes: u64,
    /// Entries above which the log of a region is truncated even though a follower needs them.
    pub log_force_entries: u64,
    /// The same in bytes. A snapshot of a region is cheaper than more of its log.
    pub log_force_bytes: u64,
    /// When a living follower lacks more entries than these, the heir of a leader reads them into memory before it takes
    /// over.
    pub transfer_lag_entries: u64,
    /// Region size above which it is split; 0 = never by size.
    pub split_bytes: u64,
    /// Number of keys above which a region is split; 0 = never by keys.
    pub split_keys: u64,
    /// Most new regions that one split creates.
    pub split_keys_max: usize,
    /// How often sizes are checked.
    pub split_check_ms: u64,
    /// Region size from which on its writes are answered `ServerIsBusy` until it is split, if it can be; 0 = never. A
    /// region that cannot be cut (one huge key, or mere remains of deleted ones) goes on taking writes.
    pub split_busy_bytes: u64,
    /// Requests per second, reads and writes, at which a region counts as busy; 0 = never by requests. A region that is
    /// busy for some time is split where its load divides.
    pub load_split_requests: u64,
    /// Bytes per second, read and written, at which a region counts as busy; 0 = never by bytes.
    pub load_split_bytes: u64,
    /// Processor time per second, in ms, that reads take at which a region counts as busy; 0 = never by time.
    pub load_split_cpu_ms: u64,
    /// Length of an interval in which load is measured.
    pub load_interval_ms: u64,
    /// Intervals for which a region must be busy, one after the other.
    pub load_split_intervals: usize,
    /// Least number of sampled requests by which a key is chosen; at most 20 an interval are kept.
    pub load_split_samples_min: usize,
    /// Largest difference in load between the sides of a key, in percent of what lies on one of them.
    pub load_split_imbalance_percent: u64,
    /// Most requests, in percent, that a key may cut in two.
    pub load_split_contained_percent: u64,
    /// A peer that its leader has not heard of for so long is reported as down.
    pub peer_down_ms: u64,
    /// Pause between comparisons of the replicas of regions led here that were written to since their last one, one region
    /// at a time; 0 = none are made.
    pub check_interval_ms: u64,
    /// The same for all regions led here: what nobody writes to rots, too.
    pub check_unchanged_interval_ms: u64,
    /// Snapshots sent at a time.
    pub snapshot_send_max: usize,
    /// Snapshots received at a time.
    pub snapshot_receive_max: usize,
    /// Bytes of one snapshot chunk.
    pub snapshot_chunk_bytes: usize,
    /// Bytes of snapshots that the store sends per second, all of them together; 0 = no limit.
    pub snapshot_send_bytes_per_s: u64,
    /// Bytes of snapshots that the store takes per second, all of them together; 0 = no limit.
    pub snapshot_receive_bytes_per_s: u64,
    /// A snapshot transfer without progress for so long is given up.
    pub snapshot_timeout_ms: u64,
    /// A peer without a leader for so long asks the others whether it is still a member.
    pub stale_peer_ms: u64,
    /// Reports to placement and heartbeats to stores leave on this grid.
    pub report_ms: u64,
    /// How long until every region led here was reported again, news or not; 0 = only news is.
    pub report_refresh_ms: u64,
    /// Facts of the placement driver.
    pub placement: flotilla_placement::PlacementConfig,
    /// Whether stores support each other, so that idle regions sleep and leases cost nothing per region (ARCHITECTURE.md
    /// "Store liveness"). Off, every leader sends heartbeats of its own.
    pub store_liveness: bool,
    /// Time between heartbeats to each other store. An answer travels with the next heartbeat of the other side, so that
    /// support is renewed up to two intervals after it was asked for.
    pub liveness_interval_ms: u64,
    /// For how long a heartbeat is good. Followers of a dead store's leaders wait for so long before they elect others.
    /// Invariant: less the drift of clocks longer than two intervals.
    pub liveness_duration_ms: u64,
    /// By how many percent the rates of two stores' clocks may differ, at most.
    pub clock_drift_percent: u64,
    /// An idle region sleeps after so many ticks.
    pub sleep_ticks: u32,
    /// Seeds every random choice of the store, and names this life of its process: no two lives have the same.
    pub seed: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            raft_workers: 1,
            apply_workers: 1,
            tick_ms: 100,
            election_ticks: 6,
            heartbeat_ticks: 2,
            lease_ms: 450,
            entry_bytes_max: 8 << 20,
            append_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            inflight_bytes_max: 32 << 20,
            store_inflight_bytes_max: 24 << 20,
            uncommitted_bytes_max: 64 << 20,
            committed_bytes_max: 16 << 20,
            apply_ahead_entries: 0,
            pending_bytes_max: 256 << 20,
            leader_wait_ms: 800,
            entry_cache_bytes: 64 << 20,
            turn_messages_max: 4096,
            log_batch_bytes_max: 4 << 20,
            apply_batch_bytes_max: 4 << 20,
            position_records_max: 4_096,
            checkpoint_interval_ms: 60_000,
            checkpoint_log_bytes: 96 << 20,
            log_keep_entries: 256,
            log_keep_bytes: 8 << 20,
            log_force_entries: 100_000,
            log_force_bytes: 192 << 20,
            transfer_lag_entries: 256,
            split_bytes: 96 << 20,
            split_keys: 960_000,
            split_keys_max: 16,
            split_check_ms: 2_000,
            split_busy_bytes: 768 << 20,
            load_split_requests: 3_000,
            load_split_bytes: 30 << 20,
            load_split_cpu_ms: 500,
            load_interval_ms: 1_000,
            load_split_intervals: 10,
            load_split_samples_min: 100,
            load_split_imbalance_percent: 25,
            load_split_contained_percent: 50,
            peer_down_ms: 10_000,
            check_interval_ms: 10_000,
            check_unchanged_interval_ms: 60_000,
            snapshot_send_max: 4,
            snapshot_receive_max: 4,
            snapshot_chunk_bytes: 1 << 20,
            snapshot_send_bytes_per_s: 100 << 20,
            snapshot_receive_bytes_per_s: 100 << 20,
            snapshot_timeout_ms: 30_000,
            stale_peer_ms: 60_000,
            report_ms: 250,
            report_refresh_ms: 600_000,
            placement: flotilla_placement::PlacementConfig::default(),
            store_liveness: true,
            liveness_interval_ms: 330,
            liveness_duration_ms: 800,
            clock_drift_percent: 5,
            sleep_ticks: 10,
            seed: 1,
        }
    }
}

impl StoreConfig {
    /// The shortest election timeout, in milliseconds.
    pub(crate) fn election_ms(&self) -> u64 {
        self.election_ticks as u64 * self.tick_ms
    }

    /// Checks relations between values that safety depends on.
    ///
    /// # Errors
    /// A sentence that names the value.
    pub fn check(&self) -> Result<(), &'static str> {
        let shortest_election_ms = self.election_ms();
        if self.raft_workers == 0 || self.apply_workers == 0 {
            return Err("raft_workers and apply_workers must be at least 1");
        }
        if self.apply_workers > usize::from(u16::MAX) || self.position_records_max == 0 {
            return Err("apply_workers must be below 65,536, position_records_max at least 1");
        }
        if self.turn_messages_max == 0 {
            return Err("turn_messages_max must be at least 1");
        }
        if self.lease_ms + self.tick_ms > shortest_election_ms {
            return Err("lease_ms must be at least one tick shorter than election_ticks * tick_ms");
        }
        if self.heartbeat_ticks == 0 || self.heartbeat_ticks * 2 >= self.election_ticks {
            return Err("heartbeat_ticks must be at least 1 and less than half of election_ticks");
        }
        if self.split_busy_bytes > 0 && self.split_busy_bytes < 2 * self.split_bytes {
            return Err("split_busy_bytes must be at least twice split_bytes, or 0");
        }
        if self.load_interval_ms == 0 || self.load_split_intervals == 0 {
            return Err("load_interval_ms and load_split_intervals must be at least 1");
        }
        if self.load_split_samples_min > self.load_split_intervals * SAMPLES_MAX {
            return Err("load_split_samples_min must be at most 20 times load_split_intervals");
        }
        if self.load_split_imbalance_percent > 100 || self.load_split_contained_percent > 100 {
            return Err("load_split_imbalance_percent and load_split_contained_percent must be at most 100");
        }
        if self.clock_drift_percent >= 50 {
            return Err("clock_drift_percent must be less than 50");
        }
        let good_ms = self.liveness_duration_ms * (100 - self.clock_drift_percent) / 100;
        if self.liveness_interval_ms == 0 || good_ms <= 2 * self.liveness_interval_ms {
            return Err(
                "liveness_duration_ms, less drift, must be longer than two times liveness_interval_ms",
            );
        }
        let window_bytes = (self.snapshot_chunk_bytes * WINDOW_PARTS as usize) as u64;
        let is_slow = |bytes_per_s: u64, streams: usize| {
            bytes_per_s > 0
                && bytes_per_s * self.snapshot_timeout_ms / 1_000 < 2 * streams as u64 * window_bytes
        };
        if is_slow(self.snapshot_send_bytes_per_s, self.snapshot_send_max)
            || is_slow(self.snapshot_receive_bytes_per_s, self.snapshot_receive_max)
        {
            return Err(
                "snapshot_send_bytes_per_s and snapshot_receive_bytes_per_s must, unless 0, let eight chunks of every \
                 snapshot pass within snapshot_timeout_ms",
            );
        }
        if self.entry_bytes_max as u64 > self.uncommitted_bytes_max {
            return Err("entry_bytes_max must not exceed uncommitted_bytes_max");
        }
        Ok(())
    }
}

/// Format of the data directory that this version writes.
pub const FORMAT: u32 = 2;
/// Oldest version of the software, by the format that it writes, that may read what this one writes: earlier ones do
/// not know lists of applied positions.
pub(crate) const FORMAT_READER_MIN: u32 = 2;
/// Oldest format that this version reads.
pub const FORMAT_READ_MIN: u32 = 1;
/// Version of the store-to-store frames.
pub const WIRE_VERSION: u32 = 1;
