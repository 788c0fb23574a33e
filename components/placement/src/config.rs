//! What may be tuned about placement.

use thiserror::Error;

/// Settings of the placement driver. Defaults follow PD's where it has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementConfig {
    /// Voters of every user region; odd.
    pub replicas: usize,
    /// Voters of the meta region once that many stores are up, else [`Self::replicas`]; odd.
    pub meta_replicas: usize,
    /// Silence after which a store is given up and its replicas are replaced.
    pub store_gone_ms: u64,
    /// Silence after which a store is sent no new replicas and no leaders.
    pub store_silent_ms: u64,
    /// Time a store must have been heard from without a gap before leaders are moved to it.
    pub store_settle_ms: u64,
    /// A new placement leader waits this long at most for the full reports of all stores.
    pub report_wait_ms: u64,
    /// An operator that shows no effect for this long is forgotten, and derived again if still needed.
    pub operator_expire_ms: u64,
    /// A learner that has not caught up for this long is removed.
    pub learner_stuck_ms: u64,
    /// A store on which a replica of a region was damaged, and its successor too, gets no other one for so long.
    pub damage_wait_ms: u64,
    /// Leaders are moved between stores whose counts differ by at least this; at least 2.
    pub leader_tolerance: u64,
    /// Replicas are moved between stores whose counts differ by at least this; at least 2.
    pub region_tolerance: u64,
    /// Both tolerances are at least this share of the mean count, in percent.
    pub tolerance_percent: u64,
    /// Replicas that may be filled (learners and lagging voters) on one store at once.
    pub filling_per_store_max: u64,
    /// Replicas that the leaders on one store may be filling at once.
    pub sending_per_store_max: u64,
    /// Leader transfers for balance, and off slow disks, under way at once; one for every 250 regions, if that is more.
    pub transfers_max: usize,
    /// Balance moves of replicas under way at once.
    pub moves_max: usize,
    /// A store with less free space than this gets no new replicas, in percent of its capacity.
    pub low_space_percent: u64,
    /// Label keys from the coarsest (such as `zone`) to the finest (`host`); replicas are spread over their values.
    pub location_labels: Vec<String>,
    /// Whether leaders are balanced.
    pub balance_leaders: bool,
    /// Whether replicas are balanced.
    pub balance_regions: bool,
    /// Whether a drained store that holds nothing any more is removed for good.
    pub remove_drained: bool,
    /// A disk is slow whose log takes so many microseconds to become durable, and four times as long as others': its store
    /// gives its leaderships away; 0 = none ever is.
    pub slow_disk_us: u64,
    /// Whether small neighbours are merged.
    pub merge_regions: bool,
    /// A region below this size is small; no merge makes one of more than twice that. A third of the size at which
    /// regions are split, at most.
    pub merge_bytes: u64,
    /// The same for its number of keys; 0 = keys do not count.
    pub merge_keys: u64,
    /// A region is merged only if it was neither split nor busy for so long: a split is not taken back at once.
    pub merge_wait_ms: u64,
    /// A region with so many requests per second is busy; 0 = however many.
    pub merge_requests_max: u64,
    /// Merges under way at once.
    pub merges_max: usize,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            replicas: 3,
            meta_replicas: 3,
            store_gone_ms: 30 * 60 * 1000,
            store_silent_ms: 20_000,
            store_settle_ms: 5_000,
            report_wait_ms: 20_000,
            operator_expire_ms: 10_000,
            learner_stuck_ms: 10 * 60 * 1000,
            damage_wait_ms: 10 * 60 * 1000,
            leader_tolerance: 2,
            region_tolerance: 3,
            tolerance_percent: 2,
            filling_per_store_max: 16,
            sending_per_store_max: 16,
            transfers_max: 16,
            moves_max: 16,
            low_space_percent: 10,
            location_labels: Vec::new(),
            balance_leaders: true,
            balance_regions: true,
            remove_drained: true,
            merge_regions: true,
            slow_disk_us: 5_000,
            merge_bytes: 32 << 20,
            merge_keys: 320_000,
            merge_wait_ms: 10 * 60 * 1000,
            merge_requests_max: 750,
            merges_max: 4,
        }
    }
}

/// A setting that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Zero or even: an even group survives no more failures than the odd one below it.
    #[error("the number of replicas must be odd")]
    ReplicasEven,
    /// The meta region may not have fewer replicas than the others.
    #[error("the meta region needs at least as many replicas as the others")]
    MetaReplicasLow,
    /// A tolerance below 2 would move things back and forth for ever.
    #[error("balance tolerances must be at least 2")]
    ToleranceLow,
    /// A store would be given up before it counts as silent.
    #[error("store_gone_ms must be above store_silent_ms")]
    GoneBeforeSilent,
    /// A limit of zero stops all repair.
    #[error("limits must be at least 1")]
    LimitZero,
}

impl PlacementConfig {
    /// Checks the relations between settings.
    ///
    /// # Errors
    /// The first relation that does not hold; refuse to start.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.replicas.is_multiple_of(2) || self.meta_replicas.is_multiple_of(2) {
            return Err(ConfigError::ReplicasEven);
        }
        if self.meta_replicas < self.replicas {
            return Err(ConfigError::MetaReplicasLow);
        }
        if self.leader_tolerance < 2 || self.region_tolerance < 2 {
            return Err(ConfigError::ToleranceLow);
        }
        if self.store_gone_ms <= self.store_silent_ms {
            return Err(ConfigError::GoneBeforeSilent);
        }
        let limits = [self.filling_per_store_max, self.sending_per_store_max];
        if limits.contains(&0) || [self.transfers_max, self.moves_max, self.merges_max].contains(&0) {
            return Err(ConfigError::LimitZero);
        }
        Ok(())
    }
}
