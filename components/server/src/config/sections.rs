//! Sections that mirror the settings of the parts of a store. Their defaults are taken from there.

use flotilla_engine::RocksConfig;
use flotilla_placement::PlacementConfig;
use flotilla_raftstore::StoreConfig;
use serde::{Deserialize, Serialize};

/// A section with the named fields of a settings type, their defaults, and the way back. Fields under `planted`
/// exist in builds that break a promise on purpose and in no others, and no example shows them.
macro_rules! section {
    (
        $(#[$doc:meta])*
        $name:ident for $target:ty { $($field:ident: $kind:ty,)* }
        $(planted { $($broken:ident: $how:ty,)* })?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct $name {
            $($field: $kind,)*
            $($(
                #[cfg(feature = "planted")]
                #[serde(skip_serializing)]
                $broken: $how,
            )*)?
        }

        impl Default for $name {
            fn default() -> Self {
                let target = <$target>::default();
                Self {
                    $($field: target.$field,)*
                    $($(
                        #[cfg(feature = "planted")]
                        $broken: target.$broken,
                    )*)?
                }
            }
        }

        impl $name {
            /// The settings that the section stands for.
            pub(super) fn build(&self) -> $target {
                let mut target = <$target>::default();
                $(target.$field.clone_from(&self.$field);)*
                $($(
                    #[cfg(feature = "planted")]
                    target.$broken.clone_from(&self.$broken);
                )*)?
                target
            }
        }
    };
}

section! {
    /// Regions and their workers.
    StoreSection for StoreConfig {
        raft_workers: usize,
        apply_workers: usize,
        tick_ms: u64,
        election_ticks: usize,
        heartbeat_ticks: usize,
        lease_ms: u64,
        entry_bytes_max: usize,
        append_bytes_max: u64,
        inflight_messages_max: usize,
        inflight_bytes_max: u64,
        store_inflight_bytes_max: u64,
        uncommitted_bytes_max: u64,
        committed_bytes_max: u64,
        apply_ahead_entries: u32,
        pending_bytes_max: u64,
        leader_wait_ms: u64,
        entry_cache_bytes: u64,
        turn_messages_max: usize,
        log_batch_bytes_max: usize,
        apply_batch_bytes_max: usize,
        position_records_max: u16,
        checkpoint_interval_ms: u64,
        checkpoint_log_bytes: u64,
        log_keep_entries: u64,
        log_keep_bytes: u64,
        log_force_entries: u64,
        log_force_bytes: u64,
        transfer_lag_entries: u64,
        split_bytes: u64,
        split_keys: u64,
        split_keys_max: usize,
        split_check_ms: u64,
        split_busy_bytes: u64,
        load_split_requests: u64,
        load_split_bytes: u64,
        load_split_cpu_ms: u64,
        load_interval_ms: u64,
        load_split_intervals: usize,
        load_split_samples_min: usize,
        load_split_imbalance_percent: u64,
        load_split_contained_percent: u64,
        peer_down_ms: u64,
        check_interval_ms: u64,
        check_unchanged_interval_ms: u64,
        snapshot_send_max: usize,
        snapshot_receive_max: usize,
        snapshot_chunk_bytes: usize,
        snapshot_send_bytes_per_s: u64,
        snapshot_receive_bytes_per_s: u64,
        snapshot_timeout_ms: u64,
        stale_peer_ms: u64,
        report_ms: u64,
        report_refresh_ms: u64,
        store_liveness: bool,
        liveness_interval_ms: u64,
        liveness_duration_ms: u64,
        clock_drift_percent: u64,
        sleep_ticks: u32,
    }
}

section! {
    /// The placement driver.
    PlacementSection for PlacementConfig {
        replicas: usize,
        meta_replicas: usize,
        store_gone_ms: u64,
        store_silent_ms: u64,
        store_settle_ms: u64,
        report_wait_ms: u64,
        operator_expire_ms: u64,
        learner_stuck_ms: u64,
        damage_wait_ms: u64,
        leader_tolerance: u64,
        region_tolerance: u64,
        tolerance_percent: u64,
        filling_per_store_max: u64,
        sending_per_store_max: u64,
        transfers_max: usize,
        moves_max: usize,
        low_space_percent: u64,
        location_labels: Vec<String>,
        balance_leaders: bool,
        balance_regions: bool,
        remove_drained: bool,
        slow_disk_us: u64,
        merge_regions: bool,
        merge_bytes: u64,
        merge_keys: u64,
        merge_wait_ms: u64,
        merge_requests_max: u64,
        merges_max: usize,
    }
}

section! {
    /// The disk.
    RocksSection for RocksConfig {
        log_write_buffer_bytes: usize,
        data_write_buffer_bytes: usize,
        block_cache_bytes: usize,
        background_jobs: i32,
        open_files_max: i32,
        record_synced_length: bool,
    }
    planted {
        planted_skip_log_sync: bool,
        planted_log_sync_delay_ms: u64,
    }
}
