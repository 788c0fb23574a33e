//! Lease reads on the caller's own thread: a map look-up, two comparisons, the read, and the comparisons again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dashmap::DashMap;
use flotilla_region::{Index, PeerId, Region, RegionId, Term};

use crate::liveness::Support;
use crate::load::RegionLoad;
use crate::msg::RegionContext;
use crate::time::{Clock, Time};

/// A leader's permission for callers' threads to read. Published by the raft worker only while the leader has
/// applied an entry of its own term; withdrawn before the state change that ends it becomes visible to anyone.
pub(crate) struct ReadDelegate {
    region: Arc<Region>,
    load: Arc<RegionLoad>,
    peer: PeerId,
    term: Term,
    /// End of the lease in microseconds of the store's clock; only grows, except to 0.
    lease_until: AtomicU64,
    /// Stores whose support is a lease as well.
    support: Option<SupportLease>,
    /// That lease does not count for now.
    is_suspended: AtomicBool,
    valid: AtomicBool,
    /// Followers serve reads in this term. They may have applied what this leader has not, so that a read here is
    /// only served when everything that anybody was told is committed is applied.
    shared: AtomicBool,
    /// Commit index that other peers may know.
    commit: AtomicU64,
    /// Index applied here.
    applied: AtomicU64,
}

impl ReadDelegate {
    pub(crate) fn new(
        region: Arc<Region>,
        load: Arc<RegionLoad>,
        peer: PeerId,
        term: Term,
        support: Option<SupportLease>,
    ) -> Self {
        Self {
            region,
            load,
            peer,
            term,
            lease_until: AtomicU64::new(0),
            support,
            is_suspended: AtomicBool::new(false),
            valid: AtomicBool::new(true),
            shared: AtomicBool::new(false),
            commit: AtomicU64::new(0),
            applied: AtomicU64::new(0),
        }
    }

    /// Followers serve reads from now on. Told before the first of them may.
    pub(crate) fn share(&self) {
        self.shared.store(true, Ordering::SeqCst);
    }

    /// Positions of this leader. The commit index is told before it leaves for other peers.
    pub(crate) fn advance(&self, commit: Index, applied: Index) {
        self.commit.fetch_max(commit.0, Ordering::SeqCst);
        self.applied.fetch_max(applied.0, Ordering::SeqCst);
    }

    /// Whether no follower can have served a read of something that is not applied here.
    fn is_ahead(&self) -> bool {
        !self.shared.load(Ordering::SeqCst)
            || self.applied.load(Ordering::SeqCst) >= self.commit.load(Ordering::SeqCst)
    }

    /// Extends the lease.
    pub(crate) fn extend(&self, until: Time) {
        self.lease_until.fetch_max(until.0, Ordering::Release);
    }

    /// Takes back what was extended.
    pub(crate) fn void(&self) {
        self.lease_until.store(0, Ordering::SeqCst);
    }

    /// The support of stores is no lease any more.
    pub(crate) fn suspend(&self) {
        self.is_suspended.store(true, Ordering::SeqCst);
    }

    /// Whether the support of stores does not count.
    pub(crate) fn is_suspended(&self) -> bool {
        self.is_suspended.load(Ordering::SeqCst)
    }

    /// Ends everything, for good.
    pub(crate) fn revoke(&self) {
        self.valid.store(false, Ordering::SeqCst);
    }

    /// Its term.
    pub(crate) fn term(&self) -> Term {
        self.term
    }

    /// What the lease was extended to.
    pub(crate) fn lease_until(&self) -> Time {
        Time(self.lease_until.load(Ordering::SeqCst))
    }

    /// Whether the delegate stands for this shape of the region and this term.
    pub(crate) fn is_for(&self, region: &Region, term: Term) -> bool {
        self.region.epoch == region.epoch && self.term == term
    }

    fn holds(&self, now: Time) -> bool {
        let by_support =
            || !self.is_suspended() && self.support.as_ref().is_some_and(|support| support.holds(now));
        self.valid.load(Ordering::SeqCst)
            && (now.0 < self.lease_until.load(Ordering::Acquire) || by_support())
    }
}

/// The voters that have promised a leader to give no vote while their stores support its own.
#[derive(Debug, Default)]
pub(crate) struct SupportLease {
    /// One of each half of the configuration.
    halves: Vec<Half>,
}

#[derive(Debug)]
struct Half {
    /// Voters of a quorum besides the leader.
    needed: usize,
    promised: Vec<Arc<Support>>,
}

impl SupportLease {
    /// Adds a half of the configuration: how many promises a quorum needs besides the leader's, and those there are.
    pub(crate) fn add(&mut self, needed: usize, promised: Vec<Arc<Support>>) {
        self.halves.push(Half { needed, promised });
    }

    /// Whether a quorum of each half is supported at `now`.
    pub(crate) fn holds(&self, now: Time) -> bool {
        let is_held = |half: &Half| are_enough(half.needed, half.promised.iter(), now);
        !self.halves.is_empty() && self.halves.iter().all(is_held)
    }
}

/// Whether so many of the promises hold at `now`.
pub(crate) fn are_enough<'a>(
    needed: usize,
    promised: impl Iterator<Item = &'a Arc<Support>>,
    now: Time,
) -> bool {
    promised.filter(|support| support.holds(now)).count() >= needed
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
        (fits && delegate.is_ahead() && delegate.holds(clock.now())).then_some(Self { delegate })
    }

    /// The region to read.
    pub fn region(&self) -> &Arc<Region> {
        &self.delegate.region
    }

    /// Where to tell what was read.
    pub fn load(&self) -> &Arc<RegionLoad> {
        &self.delegate.load
    }

    /// Second check, after the data was read or the engine snapshot was taken: only if it holds may the result be
    /// used. Between the checks no other leader can have acknowledged a write to the region.
    pub fn still_holds(&self, clock: &dyn Clock) -> bool {
        self.delegate.holds(clock.now())
    }
}
