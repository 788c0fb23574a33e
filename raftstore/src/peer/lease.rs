//! A leader's lease: until when no other peer can have been elected.
//!
//! A quorum that acknowledged something sent at time `t` has promised (CheckQuorum's vote refusal) not to elect
//! another leader before one election timeout after `t` by its own ticks; the lease is shorter than that by at least
//! a tick. It is measured from the *send* time, by a clock that counts suspension (Raft thesis 6.4.1).

use std::sync::Arc;

use flotilla_region::{Index, PeerId, Region, RegionId, Term};

use crate::load::RegionLoad;
use crate::local_reader::{Delegates, ReadDelegate, SupportLease};
use crate::time::Time;

/// The lease of one leader and the delegate through which callers' threads use it.
#[derive(Default)]
pub(crate) struct Lease {
    delegate: Option<Arc<ReadDelegate>>,
    /// Term in which leadership was offered to another peer: the offer may arrive late and overrides the promise, so
    /// this leader never reads under a lease again in that term (trap T21).
    offered_in: Term,
    /// Term in which a follower asked for a read index.
    shared_in: Term,
    /// Term in which followers were asked to fortify this leader: once their stores support it no more they elect
    /// another one without waiting for an election timeout, so that only support counts in that term.
    supported_in: Term,
}

impl Lease {
    /// Whether nobody reads under it. What it knows of terms in which the peer led is void once it leads no more.
    pub(crate) fn is_blank(&self) -> bool {
        self.delegate.is_none()
    }

    /// A quorum confirmed what was sent at `sent`.
    pub(crate) fn confirm(&self, sent: Time, lease_ms: u64) {
        if let Some(delegate) = self.delegate.as_ref().filter(|d| d.term() != self.supported_in) {
            delegate.extend(sent.plus_ms(lease_ms));
        }
    }

    /// Lets callers' threads read, if they may: the leader has applied an entry of its own term.
    /// `at` is (commit, applied).
    pub(crate) fn publish(
        &mut self,
        delegates: &Delegates,
        (region, peer): (&Arc<Region>, PeerId),
        load: &Arc<RegionLoad>,
        term: Term,
        at: (Index, Index),
        support: Option<SupportLease>,
    ) {
        if self.offered_in == term {
            return;
        }
        let timed = self.delegate.as_ref().filter(|d| d.is_for(region, term)).map(|d| d.lease_until());
        self.revoke(delegates, region.id);
        let delegate = Arc::new(ReadDelegate::new(region.clone(), load.clone(), peer, term, support));
        delegate.extend(timed.unwrap_or_default());
        delegate.advance(at.0, at.1);
        if self.shared_in == term {
            delegate.share();
        }
        delegates.publish(region.id, delegate.clone());
        self.delegate = Some(delegate);
    }

    /// Whether callers' threads may read under this shape and term, by all that is known.
    pub(crate) fn is_published(&self, region: &Region, term: Term) -> bool {
        self.offered_in == term
            || self.delegate.as_ref().is_some_and(|d| d.is_for(region, term) && !d.is_suspended())
    }

    /// Followers are about to be asked to fortify this leader in `term`.
    pub(crate) fn count_support(&mut self, term: Term) {
        self.supported_in = term;
        if let Some(delegate) = &self.delegate {
            delegate.void();
        }
    }

    /// The support of stores does not count until the delegate is published again.
    pub(crate) fn suspend(&self) {
        if let Some(delegate) = &self.delegate {
            delegate.suspend();
        }
    }

    /// A follower asks for a read index: it will serve what it has applied.
    pub(crate) fn share(&mut self, term: Term) {
        self.shared_in = term;
        if let Some(delegate) = &self.delegate {
            delegate.share();
        }
    }

    /// Positions of this leader, before other peers learn of the commit index.
    pub(crate) fn advance(&self, commit: Index, applied: Index) {
        if let Some(delegate) = &self.delegate {
            delegate.advance(commit, applied);
        }
    }

    /// Ends the lease now: leadership, or the region's shape, is about to change.
    pub(crate) fn revoke(&mut self, delegates: &Delegates, region: RegionId) {
        if let Some(delegate) = self.delegate.take() {
            delegate.revoke();
            delegates.remove(region);
        }
    }

    /// Leadership is being offered to another peer.
    pub(crate) fn offer(&mut self, delegates: &Delegates, region: RegionId, term: Term) {
        self.offered_in = term;
        self.revoke(delegates, region);
    }
}
