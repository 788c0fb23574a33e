//! Store liveness: one exchange of heartbeats per pair of stores, in the place of one per region.
//!
//! A store asks each other one to *support* it for a duration ([`requester`]); the other answers once the epoch is on its
//! disk ([`supporter`]). The requester counts from the moment it sent the request, less what clocks may differ by; the
//! supporter from the moment it received it. No moment crosses the wire. Followers promise their leader to give no vote
//! while their store supports the leader's (`peer/fortify.rs`), so the support of a quorum of stores is a lease for all
//! regions that are led here. ARCHITECTURE.md "Store liveness" has the argument.
//!
//! Invariant: raft workers compare no clocks. They learn that support is withdrawn by a message, which is sent after the
//! withdrawal was synced (otherwise one could vote while the answer that prolongs the support is on its way).
//!
//! A store asks only while every raft worker, every apply worker and the log writer (by a synced write) have shown that
//! they live since it asked last: a hung worker must not keep its regions leaderless under healthy heartbeats.

mod requester;
mod supporter;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use flotilla_engine::Engine;
use flotilla_region::{StoreId, keys};
use parking_lot::RwLock;

use crate::error::StoreError;
use crate::mailbox::{Mailbox, Turn};
use crate::msg::{LogFacts, LogMsg, RaftMsg};
use crate::placement::Directory;
use crate::shared::{Counters, Shared};
use crate::time::Time;
use crate::transport::Transport;
use crate::wire::pb;

pub(crate) use requester::{Support, Supports};
pub(crate) use supporter::Record;

use requester::{News, Requester};
use supporter::{Request, Step, Supporter};

/// To the liveness worker.
pub(crate) enum LivenessMsg {
    /// From another store.
    Frame(StoreId, pb::StoreLiveness),
    /// A worker had a turn since it was asked for this round's proof.
    Proof(u64),
    /// A write is synced.
    Written(Written),
    /// News of placement that may wait for the next heartbeat to that store.
    Ride(StoreId, Vec<pb::PlacementMessage>),
}

/// What is on disk now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The record of a store.
    Record(StoreId),
    /// The own epoch.
    Epoch(u64),
    /// Proof of a round that the log writer lives.
    Proof(u64),
}

/// What `log` remembers of earlier lives.
#[derive(Default)]
pub(crate) struct Remembered {
    /// Support of other stores.
    pub records: BTreeMap<StoreId, Record>,
    /// The epoch of this life.
    pub epoch: u64,
}

impl Remembered {
    /// Epochs that are supported as far as regions are concerned.
    pub(crate) fn held(&self) -> BTreeMap<StoreId, u64> {
        let held = self.records.iter().filter(|(_, record)| record.is_held);
        held.map(|(store, record)| (*store, record.epoch)).collect()
    }
}

/// Reads what is remembered.
///
/// # Errors
/// I/O, or a record that cannot be read.
pub(crate) fn recall(engine: &dyn Engine) -> Result<Remembered, StoreError> {
    let mut remembered = Remembered::default();
    let mut is_damaged = false;
    let (start, end) = keys::supported_bounds();
    engine.log_scan(&start, &end, &mut |key, value| {
        match (keys::parse_log_key(key), Record::decode(Bytes::copy_from_slice(value))) {
            (Some(keys::LogKey::Supported(store)), Some(record)) => {
                remembered.records.insert(store, record);
            }
            _ => is_damaged = true,
        }
        true
    })?;
    let epoch = match engine.log_get(keys::OWN_EPOCH)? {
        Some(value) => value.as_ref().try_into().map(u64::from_be_bytes).ok(),
        None => Some(0),
    };
    let Some(epoch) = epoch.filter(|_| !is_damaged) else {
        return Err(StoreError::Damaged("store liveness"));
    };
    if planted!(SupportForgotten) {
        remembered.records.clear();
    }
    remembered.epoch = epoch + 1;
    Ok(remembered)
}

/// The liveness worker of a store. With the option off it asks for nothing and supports nobody anew, but keeps what was
/// promised before the restart.
pub(crate) struct Liveness {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    mailbox: Mailbox<LivenessMsg>,
    directory: Arc<RwLock<Directory>>,
    requester: Requester,
    supporter: Supporter,
    /// What travels with the next heartbeats.
    riders: BTreeMap<StoreId, Vec<pb::PlacementMessage>>,
    /// The epoch of this life is on its way to the disk, or there.
    has_begun: bool,
    next_beat: Time,
    /// Number of the last round of proofs, and how many of them are missing.
    round: u64,
    missing: usize,
}

impl Liveness {
    pub(crate) fn new(
        shared: Arc<Shared>,
        transport: Arc<dyn Transport>,
        mailbox: Mailbox<LivenessMsg>,
        directory: Arc<RwLock<Directory>>,
        remembered: &Remembered,
    ) -> Self {
        let config = &shared.config;
        let (duration, drift) = (config.liveness_duration_ms, config.clock_drift_percent);
        let requester = Requester::new(remembered.epoch, duration, drift, shared.supports.clone());
        let supporter = Supporter::restore(&remembered.records, shared.clock.now());
        Self {
            transport,
            mailbox,
            directory,
            requester,
            supporter,
            riders: BTreeMap::new(),
            has_begun: false,
            next_beat: Time::default(),
            round: 0,
            missing: 0,
            shared,
        }
    }

    fn is_on(&self) -> bool {
        self.shared.config.store_liveness
    }

    fn handle(&mut self, message: LivenessMsg) {
        match message {
            LivenessMsg::Ride(to, messages) => self.riders.entry(to).or_default().extend(messages),
            LivenessMsg::Frame(from, message) if self.is_on() => self.on_frame(from, &message),
            LivenessMsg::Frame(..) => {}
            LivenessMsg::Proof(round) | LivenessMsg::Written(Written::Proof(round)) => self.on_proof(round),
            LivenessMsg::Written(Written::Epoch(epoch)) => self.requester.on_written(epoch),
            LivenessMsg::Written(Written::Record(store)) => {
                let steps = self.supporter.on_written(store);
                self.carry_out(steps);
            }
        }
    }

    fn on_frame(&mut self, from: StoreId, message: &pb::StoreLiveness) {
        // The turn's time may be older than the request.
        let received = self.shared.clock.now();
        if message.epoch > 0 {
            let (epoch, round, duration_ms) = (message.epoch, message.round, message.duration_ms);
            let steps = self.supporter.on_request(from, Request { epoch, round, duration_ms }, received);
            self.carry_out(steps);
        }
        let mut news = News::Nothing;
        if message.support_epoch > 0 {
            news = self.requester.on_support(from, message.support_epoch, message.support_round, received);
        } else if message.refused_epoch > 0 {
            news = self.requester.on_refused(from, message.refused_epoch);
        }
        match news {
            News::Nothing => {}
            News::Gained => self.tell(|| RaftMsg::Support { store: from, is_held: true }),
            News::Raise(epoch) => self.write_epoch(epoch),
        }
    }

    fn carry_out(&mut self, steps: Vec<Step>) {
        for step in steps {
            match step {
                Step::Write(store, record) => {
                    self.write((keys::supported(store).to_vec(), record.encode()), Written::Record(store));
                }
                Step::Granted(store, epoch) => {
                    self.tell(|| RaftMsg::Supporting { store, epoch, is_held: true })
                }
                Step::Withdrawn(store, epoch) => {
                    tracing::info!(store = store.0, epoch, "support is withdrawn");
                    self.tell(|| RaftMsg::Supporting { store, epoch, is_held: false });
                }
            }
        }
    }

    fn write_epoch(&self, epoch: u64) {
        let put = (keys::OWN_EPOCH.to_vec(), epoch.to_be_bytes().to_vec());
        self.write(put, Written::Epoch(epoch));
    }

    fn write(&self, put: (Vec<u8>, Vec<u8>), written: Written) {
        self.shared.links.log.send(LogMsg::Facts(LogFacts { put, written }));
    }

    fn tell(&self, message: impl Fn() -> RaftMsg) {
        self.shared.links.raft.iter().for_each(|worker| worker.send(message()));
    }

    /// Asks every worker to show that it lives.
    fn begin_round(&mut self) {
        let links = &self.shared.links;
        self.round += 1;
        self.missing = links.raft.len() + links.apply.len() + 1;
        self.shared.proof_round.store(self.round, Ordering::Release);
        links.raft.iter().for_each(|worker| worker.send(RaftMsg::Prove));
        links.apply.iter().for_each(|worker| worker.send(Vec::new()));
        let put = (keys::LOG_PROOF.to_vec(), self.round.to_be_bytes().to_vec());
        self.write(put, Written::Proof(self.round));
    }

    fn on_proof(&mut self, round: u64) {
        if round != self.round || self.missing == 0 {
            return;
        }
        self.missing -= 1;
        if self.missing == 0 {
            self.beat(true);
        }
    }

    /// Sends every store what it is owed: an answer, and a request if this store may ask.
    fn beat(&mut self, may_ask: bool) {
        let me = self.shared.origin.store;
        let mut riders = std::mem::take(&mut self.riders);
        let mut stores: BTreeSet<StoreId> = self.supporter.stores().chain(riders.keys().copied()).collect();
        if may_ask {
            let directory = self.directory.read();
            stores.extend(directory.stores.values().filter(|s| !s.address.is_empty()).map(|s| s.id));
        }
        stores.remove(&me);
        // Before anything leaves.
        let now = self.shared.clock.now();
        for store in stores {
            let answer = self.supporter.answer(store);
            let request = if may_ask { self.requester.ask(store, now) } else { None };
            let request = request.unwrap_or(Request { epoch: 0, round: 0, duration_ms: 0 });
            let placement = riders.remove(&store).unwrap_or_default();
            if request.epoch == 0 && answer == Default::default() && placement.is_empty() {
                continue;
            }
            let mut frame = self.shared.origin.frame(store);
            frame.placement = placement;
            frame.liveness = Some(pb::StoreLiveness {
                epoch: request.epoch,
                round: request.round,
                duration_ms: request.duration_ms,
                support_epoch: answer.epoch,
                support_round: answer.round,
                refused_epoch: answer.refused,
            });
            Counters::add(&self.shared.counters.liveness_frames, 1);
            self.transport.send(store, frame);
        }
    }

    fn on_time(&mut self) {
        let now = self.shared.clock.now();
        let steps = self.supporter.on_time(now);
        self.carry_out(steps);
        for store in self.requester.on_time(now) {
            self.tell(|| RaftMsg::Support { store, is_held: false });
        }
        if self.is_on() && !std::mem::replace(&mut self.has_begun, true) {
            self.write_epoch(self.requester.epoch());
        }
        if self.is_on() && now >= self.next_beat {
            let grid = self.shared.config.liveness_interval_ms * 1_000;
            self.next_beat = Time((now.0 / grid + 1) * grid);
            if self.missing == 0 {
                self.begin_round();
            } else {
                // Somebody here hangs: others go on being supported.
                self.beat(false);
            }
        }
    }
}

impl Turn for Liveness {
    fn name(&self) -> String {
        "liveness".into()
    }

    fn turn(&mut self, _: Time) -> bool {
        if self.shared.has_failed() {
            return false;
        }
        for _ in 0..self.shared.config.turn_messages_max {
            let Some(message) = self.mailbox.pop() else { break };
            self.handle(message);
        }
        self.on_time();
        !self.mailbox.is_empty()
    }

    fn has_messages(&self) -> bool {
        !self.mailbox.is_empty()
    }

    fn deadline(&self) -> Time {
        let beat = self.is_on().then_some(self.next_beat);
        let ends = [beat, self.supporter.deadline(), self.requester.deadline()];
        ends.into_iter().flatten().min().unwrap_or(Time(u64::MAX))
    }

    fn wait(&mut self, timeout: Duration) {
        self.mailbox.wait(timeout);
    }
}
