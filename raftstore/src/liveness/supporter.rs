//! The supporter's side: which stores this one supports, and until when.

use std::collections::BTreeMap;

use flotilla_region::StoreId;

use crate::codec::{get_u8, get_u64, put_u64};
use crate::time::Time;

/// What is on disk of the support of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The other store's epoch towards this one.
    pub epoch: u64,
    /// Supported; otherwise the epoch is withdrawn for good.
    pub is_held: bool,
    /// For how long a request holds from its receipt on.
    pub duration_ms: u64,
}

impl Record {
    /// Serialised form.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(17);
        put_u64(&mut out, self.epoch);
        out.push(u8::from(self.is_held));
        put_u64(&mut out, self.duration_ms);
        out
    }

    /// Reads the serialised form.
    pub(crate) fn decode(mut data: bytes::Bytes) -> Option<Self> {
        let (epoch, is_held) = (get_u64(&mut data)?, get_u8(&mut data)? != 0);
        Some(Self { epoch, is_held, duration_ms: get_u64(&mut data)? })
    }
}

/// A request for support as it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The other store's epoch.
    pub epoch: u64,
    /// Names the request.
    pub round: u64,
    /// For how long.
    pub duration_ms: u64,
}

/// What the other store is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Supported epoch; 0 = none.
    pub epoch: u64,
    /// Its last request in that epoch.
    pub round: u64,
    /// Epochs up to this one are supported no more.
    pub refused: u64,
}

/// What must be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Write the record and sync; [`Supporter::on_written`] is told then.
    Write(StoreId, Record),
    /// The store is supported at this epoch from now on.
    Granted(StoreId, u64),
    /// Support at this epoch is over, and will never come back.
    Withdrawn(StoreId, u64),
}

struct Supported {
    /// What is on disk.
    durable: Option<Record>,
    /// What shall be there.
    wanted: Record,
    /// A write is under way.
    writing: Option<Record>,
    /// Not withdrawn before.
    until: Time,
    /// Last request in the wanted epoch; 0 = none since the process started.
    round: u64,
}

/// The support of all other stores.
///
/// Invariant: an answer of (epoch, round) leaves only while the record of that epoch is on disk and held, and the
/// support is not withdrawn before the receipt of that round plus its duration.
/// Invariant: regions learn of a withdrawal only when it is on disk; nothing is answered in that epoch after it was
/// decided.
#[derive(Default)]
pub(crate) struct Supporter {
    stores: BTreeMap<StoreId, Supported>,
}

impl Supporter {
    /// What the disk remembers. When the last request came nobody knows, so that every support that was held holds for a
    /// full duration from `started` on.
    pub(crate) fn restore(records: &BTreeMap<StoreId, Record>, started: Time) -> Self {
        let supported = |record: &Record| Supported {
            durable: Some(*record),
            wanted: *record,
            writing: None,
            until: started.plus_ms(record.duration_ms),
            round: 0,
        };
        Self { stores: records.iter().map(|(store, record)| (*store, supported(record))).collect() }
    }

    /// A request arrived at `received`, by a fresh look at the clock.
    pub(crate) fn on_request(&mut self, from: StoreId, request: Request, received: Time) -> Vec<Step> {
        let Request { epoch, round, duration_ms } = request;
        let fresh = Record { epoch, is_held: true, duration_ms };
        let until = received.plus_ms(duration_ms);
        let known = self.stores.entry(from).or_insert(Supported {
            durable: None,
            wanted: Record { epoch: 0, is_held: false, duration_ms: 0 },
            writing: None,
            until: Time::default(),
            round: 0,
        });
        if epoch > known.wanted.epoch {
            // Whoever raises its epoch has given up what it had of the one before.
            known.wanted = fresh;
            known.until = until;
            known.round = round;
        } else if epoch == known.wanted.epoch && known.wanted.is_held {
            known.wanted.duration_ms = known.wanted.duration_ms.max(duration_ms);
            known.until = known.until.max(until);
            known.round = known.round.max(round);
        }
        write_if_needed(from, known).into_iter().collect()
    }

    /// Withdraws what has run out.
    pub(crate) fn on_time(&mut self, now: Time) -> Vec<Step> {
        let mut steps = Vec::new();
        for (store, known) in &mut self.stores {
            if known.wanted.is_held && now >= known.until {
                if planted!(WithdrawnBeforeSync) {
                    known.until = now.plus_ms(known.wanted.duration_ms);
                    steps.push(Step::Withdrawn(*store, known.wanted.epoch));
                    continue;
                }
                known.wanted.is_held = false;
                steps.extend(write_if_needed(*store, known));
            }
        }
        steps
    }

    /// The write for `store` is synced.
    pub(crate) fn on_written(&mut self, store: StoreId) -> Vec<Step> {
        let Some(known) = self.stores.get_mut(&store) else { return Vec::new() };
        let Some(written) = known.writing.take() else { return Vec::new() };
        let before = known.durable.replace(written).filter(|record| record.is_held);
        let mut steps = Vec::new();
        if let Some(before) = before.filter(|b| b.epoch != written.epoch || !written.is_held) {
            steps.push(Step::Withdrawn(store, before.epoch));
        }
        if written.is_held && before.is_none_or(|b| b.epoch != written.epoch) {
            steps.push(Step::Granted(store, written.epoch));
        }
        steps.extend(write_if_needed(store, known));
        steps
    }

    /// What to answer `store` now.
    pub(crate) fn answer(&self, store: StoreId) -> Answer {
        let Some(known) = self.stores.get(&store) else { return Answer::default() };
        let Record { epoch, is_held, .. } = known.wanted;
        if !is_held {
            return Answer { refused: epoch, ..Answer::default() };
        }
        let is_durable = known.durable == Some(known.wanted) && known.round > 0;
        if is_durable { Answer { epoch, round: known.round, refused: 0 } } else { Answer::default() }
    }

    /// Stores that have asked.
    pub(crate) fn stores(&self) -> impl Iterator<Item = StoreId> {
        self.stores.keys().copied()
    }

    /// When the next support runs out.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.stores.values().filter(|s| s.wanted.is_held).map(|s| s.until).min()
    }
}

fn write_if_needed(store: StoreId, known: &mut Supported) -> Option<Step> {
    if known.writing.is_some() || known.durable == Some(known.wanted) || known.wanted.epoch == 0 {
        return None;
    }
    known.writing = Some(known.wanted);
    Some(Step::Write(store, known.wanted))
}
