//! What is known about stores.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use flotilla_region::{PeerId, RegionId, StoreId};

use crate::Disk;

/// Identity of a store's disk, drawn when it was first formatted. A wiped disk has a new one.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreUuid(pub [u8; 16]);

impl fmt::Debug for StoreUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Where a store stands in the cluster's plans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StoreState {
    /// Holds and receives replicas.
    #[default]
    Up,
    /// Being drained: serves what it holds, receives nothing, its replicas are moved away.
    Offline,
    /// Removed for good; its id and uuid are never accepted again.
    Tombstone,
}

/// What the meta region's registry holds about a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreRecord {
    /// Identity in the cluster, never reused.
    pub id: StoreId,
    /// Identity of its disk.
    pub uuid: StoreUuid,
    /// `host:port` of all its services; empty once another disk has taken the address over.
    pub address: String,
    /// `host:port` of its status page; empty = none.
    pub status_address: String,
    /// Where it is and what it is, as its operator labelled it.
    pub labels: BTreeMap<String, String>,
    /// Version of its program, for people.
    pub version: String,
    /// Newest command and frame format it understands.
    pub format_max: u32,
    /// State.
    pub state: StoreState,
}

/// What a store says about itself in a heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Size of its disk in bytes; 0 = unknown.
    pub capacity_bytes: u64,
    /// Free bytes of its disk.
    pub available_bytes: u64,
    /// Peers it holds.
    pub region_count: u32,
    /// Regions it leads.
    pub leader_count: u32,
    /// Snapshots it is sending.
    pub sending_snapshots: u32,
    /// Snapshots it is receiving.
    pub receiving_snapshots: u32,
    /// How long its log takes to become durable, on average, in microseconds; 0 = there was nothing to log.
    pub log_sync_us: u64,
}

/// A store as the placement leader sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreInfo {
    /// Its durable facts.
    pub record: StoreRecord,
    /// When it was last heard from in this leadership, ms.
    pub last_heard_ms: Option<u64>,
    /// Since when it has been heard from without a gap or a restart, ms.
    pub settled_since_ms: u64,
    /// Incarnation of its process; 0 = not heard yet.
    pub boot_id: u64,
    /// Whether this incarnation reported all regions it leads in this leadership.
    pub has_reported: bool,
    /// From its last heartbeat.
    pub stats: StoreStats,
    /// What is thought of its disk.
    pub disk: Disk,
    /// Replicas that it says are out of service for good; peer 0 stands for whichever peer of the region it has.
    pub damaged: BTreeSet<(RegionId, PeerId)>,
}

impl StoreInfo {
    /// Whether a peer of its is out of service for good.
    pub fn is_damaged(&self, region: RegionId, peer: PeerId) -> bool {
        self.damaged.contains(&(region, peer)) || self.damaged.contains(&(region, PeerId::ZERO))
    }

    /// Whether its disk is nearly full.
    pub fn is_low_on_space(&self, low_space_percent: u64) -> bool {
        let capacity = u128::from(self.stats.capacity_bytes);
        capacity > 0
            && u128::from(self.stats.available_bytes) * 100 < capacity * u128::from(low_space_percent)
    }
}

/// How long a store has been silent, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StoreHealth {
    /// Heard from.
    Live,
    /// Silent, but not for long enough to give it up.
    Silent,
    /// Given up.
    Gone,
}

/// What a store carries, counted over the view's regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreLoad {
    /// Peers of regions that count for balance (user regions but the sentinel).
    pub peers: u64,
    /// Leaders of those regions.
    pub leaders: u64,
    /// Peers of any region that are being filled: learners and lagging voters.
    pub filling: u64,
    /// Peers anywhere that leaders on this store are filling.
    pub sending: u64,
    /// Peers of any region, counted for balance or not.
    pub all_peers: u64,
}
