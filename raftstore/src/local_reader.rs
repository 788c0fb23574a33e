//! Lease reads on the caller's own thread: a map look-up, two comparisons, the read, and the comparisons again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dashmap::DashMap;
use flotilla_region::{PeerId, Region, RegionId, Term};

use crate::msg::RegionContext;
use crate::time::{Clock, Time};

/// A leader's permission for callers' threads to read. Published by the raft worker only while the leader has
/// applied an entry of its own term; withdrawn before the state change that ends it becomes visible to anyone.
pub(crate) struct ReadDelegate {
    region: Arc<Region>,
    peer: PeerId,
    term: Term,
    /// End of the lease in microseconds of the store's clock; only grows, except to 0.
    lease_until: AtomicU64,
    valid: AtomicBool,
}

impl ReadDelegate {
    pub(crate) fn new(region: Arc<Region>, peer: PeerId, term: Term) -> Self {
        Self { region, peer, term, lease_until: AtomicU64::new(0), valid: AtomicBool::new(true) }
    }

    /// Extends the lease.
    pub(crate) fn extend(&self, until: Time) {
        self.lease_until.fetch_max(until.0, Ordering::Release);
    }

    /// Ends everything, for good.
    pub(crate) fn revoke(&self) {
        self.valid.store(false, Ordering::SeqCst);
    }

    /// Whether the delegate stands for this shape of the region and this term.
    pub(crate) fn is_for(&self, region: &Region, term: Term) -> bool {
        self.region.epoch == region.epoch && self.term == term
    }

    fn holds(&self, now: Time) -> bool {
        self.valid.load(Ordering::SeqCst) && now.0 < self.lease_until.load(Ordering::Acquire)
    }
}

/// The read delegates of a store. Never iterated.
#[derive(Clone, Default)]
pub(crate) struct Delegates(Arc<DashMap<RegionId, Arc<ReadDelegate>>>);

impl Delegates {
    pub(crate) fn publish(&self, region: RegionId, delegate: Arc<ReadDelegate>) {
        self.0.insert(region, delegate);
    }

    pub(crate) fn remove(&self, region: RegionId) {
        self.0.remove(&region);
    }
}

/// A read in progress on the caller's thread, between its two checks.
pub struct LocalRead {
    delegate: Arc<ReadDelegate>,
}

impl LocalRead {
    /// First check. `None` means: ask the raft worker, which also knows the exact error.
    pub(crate) fn begin(delegates: &Delegates, clock: &dyn Clock, context: &RegionContext) -> Option<Self> {
        let delegate = delegates.0.get(&context.region)?.value().clone();
        let fits = delegate.region.epoch.version == context.epoch.version
            && (context.peer.is_zero() || context.peer == delegate.peer)
            && (context.term.is_zero() || context.term == delegate.term);
        (fits && delegate.holds(clock.now())).then_some(Self { delegate })
    }

    /// The region to read.
    pub fn region(&self) -> &Arc<Region> {
        &self.delegate.region
    }

    /// Second check, after the data was read or the engine snapshot was taken: only if it holds may the result be
    /// used. Between the checks no other leader can have acknowledged a write to the region.
    pub fn still_holds(&self, clock: &dyn Clock) -> bool {
        self.delegate.holds(clock.now())
    }
}
