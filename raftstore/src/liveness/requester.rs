//! The requester's side: which stores support this one, and until when.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_region::StoreId;
use parking_lot::Mutex;

use super::supporter::Request;
use crate::time::Time;

/// Requests whose answers are waited for; older ones are over anyway.
const ROUNDS_MAX: usize = 8;

/// The support that another store gives this one in one epoch.
#[derive(Debug)]
pub(crate) struct Support {
    /// This store's epoch towards it.
    pub epoch: u64,
    /// End, in microseconds of this store's clock; only grows, except to 0.
    until: AtomicU64,
}

impl Support {
    fn new(epoch: u64) -> Arc<Self> {
        Arc::new(Self { epoch, until: AtomicU64::new(0) })
    }

    /// Whether it holds at `now`, by a fresh look at the clock.
    pub(crate) fn holds(&self, now: Time) -> bool {
        now.0 < self.until.load(Ordering::SeqCst)
    }
}

/// The present support of every other store, for the workers. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct Supports(Arc<Mutex<BTreeMap<StoreId, Arc<Support>>>>);

impl Supports {
    /// The support of `store`, whether or not it holds.
    pub(crate) fn of(&self, store: StoreId) -> Option<Arc<Support>> {
        self.0.lock().get(&store).cloned()
    }

    /// The support of `store`, if it holds at `now`.
    pub(crate) fn held_by(&self, store: StoreId, now: Time) -> Option<Arc<Support>> {
        self.of(store).filter(|support| support.holds(now))
    }
}

/// One pair of stores.
struct Pair {
    support: Arc<Support>,
    /// A higher epoch is being written; nothing is asked before.
    is_raising: bool,
    /// Requests under way: round, and when they were sent.
    sent: VecDeque<(u64, Time)>,
    /// Others were told that it holds.
    is_held: bool,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing that others must know.
    Nothing,
    /// The store supports this one, which it did not before.
    Gained,
    /// This epoch must be on disk before the store is asked again.
    Raise(u64),
}

/// This store's requests.
///
/// Invariant: no request leaves in an epoch that is not on disk; an epoch is raised only after what others granted in
/// the one before is given up here.
pub(crate) struct Requester {
    /// Latest epoch on disk, or on its way there.
    epoch: u64,
    durable: u64,
    round: u64,
    duration_ms: u64,
    /// The duration less what clocks may differ by.
    lease_us: u64,
    pairs: BTreeMap<StoreId, Pair>,
    supports: Supports,
}

impl Requester {
    /// No earlier life of this store has used `epoch`, nor a higher one. Rates of clocks differ by at most
    /// `drift_percent` from each other.
    pub(crate) fn new(epoch: u64, duration_ms: u64, drift_percent: u64, supports: Supports) -> Self {
        let lease_us = duration_ms * 10 * (100 - drift_percent);
        let (durable, round, pairs) = (0, 0, BTreeMap::new());
        Self { epoch, durable, round, duration_ms, lease_us, pairs, supports }
    }

    /// Latest epoch on disk, or on its way there.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The next request to `store`, which leaves not before `now`.
    pub(crate) fn ask(&mut self, store: StoreId, now: Time) -> Option<Request> {
        if !self.pairs.contains_key(&store) {
            if self.durable < self.epoch {
                return None;
            }
            let support = self.begin(store, self.durable);
            self.pairs
                .insert(store, Pair { support, is_raising: false, sent: VecDeque::new(), is_held: false });
        }
        let pair = self.pairs.get_mut(&store).filter(|pair| !pair.is_raising)?;
        self.round += 1;
        pair.sent.push_back((self.round, now));
        if pair.sent.len() > ROUNDS_MAX {
            pair.sent.pop_front();
        }
        Some(Request { epoch: pair.support.epoch, round: self.round, duration_ms: self.duration_ms })
    }

    fn begin(&self, store: StoreId, epoch: u64) -> Arc<Support> {
        let support = Support::new(epoch);
        self.supports.0.lock().insert(store, support.clone());
        support
    }

    /// `store` supports this one since it received `round`; the answer arrived at `received`.
    pub(crate) fn on_support(&mut self, store: StoreId, epoch: u64, round: u64, received: Time) -> News {
        let lease_us = self.lease_us;
        let Some(pair) = self.pairs.get_mut(&store) else { return News::Nothing };
        if pair.is_raising || epoch != pair.support.epoch {
            return News::Nothing;
        }
        let Some((_, sent)) = pair.sent.iter().find(|(sent, _)| *sent == round).copied() else {
            return News::Nothing;
        };
        pair.sent.retain(|(sent, _)| *sent >= round);
        let from = if planted!(SupportFromReceipt) { received } else { sent };
        pair.support.until.fetch_max(from.0 + lease_us, Ordering::SeqCst);
        let holds = pair.support.holds(received);
        if holds && !std::mem::replace(&mut pair.is_held, true) {
            return News::Gained;
        }
        News::Nothing
    }

    /// `store` supports no epoch up to `refused`.
    pub(crate) fn on_refused(&mut self, store: StoreId, refused: u64) -> News {
        let Some(pair) = self.pairs.get_mut(&store) else { return News::Nothing };
        if pair.is_raising || pair.support.epoch > refused {
            return News::Nothing;
        }
        // Before anybody can hear of the new epoch.
        pair.support.until.store(0, Ordering::SeqCst);
        pair.is_raising = true;
        pair.sent.clear();
        self.epoch = self.epoch.max(refused) + 1;
        News::Raise(self.epoch)
    }

    /// The epoch is on disk.
    pub(crate) fn on_written(&mut self, epoch: u64) {
        self.durable = self.durable.max(epoch);
        if self.durable < self.epoch {
            return;
        }
        let raising: Vec<StoreId> =
            self.pairs.iter().filter(|(_, pair)| pair.is_raising).map(|(store, _)| *store).collect();
        for store in raising {
            let support = self.begin(store, self.durable);
            if let Some(pair) = self.pairs.get_mut(&store) {
                pair.support = support;
                pair.is_raising = false;
            }
        }
    }

    /// Stores whose support has run out.
    pub(crate) fn on_time(&mut self, now: Time) -> Vec<StoreId> {
        let mut lost = Vec::new();
        for (store, pair) in &mut self.pairs {
            if pair.is_held && !pair.support.holds(now) {
                pair.is_held = false;
                lost.push(*store);
            }
        }
        lost
    }

    /// When the next support runs out.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let ends = |pair: &Pair| Time(pair.support.until.load(Ordering::SeqCst));
        self.pairs.values().filter(|pair| pair.is_held).map(ends).min()
    }
}
