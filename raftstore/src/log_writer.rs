//! The one writer of `log`: group commit across all regions of the store.
//!
//! Invariant: nothing that a task makes true leaves before a sync that began after the task's write returned.
//! Invariant: tasks are written in the order in which they were sent, so a parent's commit index that covers a split
//! is never behind the child's first entries (rule W6).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::wire::pb;
use flotilla_engine::WriteBatch;
use flotilla_region::{Index, PeerId, RegionId, StoreId, keys};

use crate::error::StoreError;
use crate::liveness::LivenessMsg;
use crate::mailbox::{Address, Mailbox, Turn};
use crate::msg::{LogFacts, LogMsg, LogTask, Outgoing, Persisted, RaftMsg};
use crate::outbox::raft_message;
use crate::shared::{Counters, Shared, worker_of};
use crate::state::{encode_entry, encode_hard_state};
use crate::time::Time;
use crate::transport::Transport;

/// A stale tail longer than this is deleted by range.
const POINT_DELETES_MAX: u64 = 64;
/// What a task adds to a batch beside its entries, roughly.
const TASK_BYTES: usize = 64;
/// A synced batch that nothing follows for so long is sealed by one that says so: rot of it then shows at the next open
/// instead of looking like a tail that was never synced.
const SEAL_MS: u64 = 200;

/// The log writer of a store.
pub(crate) struct LogWriter {
    shared: Arc<Shared>,
    transport: Arc<dyn Transport>,
    mailbox: Mailbox<LogMsg>,
    batch: WriteBatch,
    value: Vec<u8>,
    /// Of the present batch, in the order in which they were sent.
    tasks: Vec<LogTask>,
    /// Of the present batch, as they are written: region, peer, place in `tasks`.
    order: Vec<(RegionId, PeerId, usize)>,
    /// For later batches.
    waiting: VecDeque<LogTask>,
    /// The next batch ends with this.
    barrier: Option<Box<dyn FnOnce() + Send>>,
    facts: Vec<LogFacts>,
    /// Number of the batch; part of every batch, so that rot can be told from a torn tail.
    round: u64,
    synced_round: u64,
    /// When the last batch is to be sealed.
    seal_at: Option<Time>,
}

impl LogWriter {
    pub(crate) fn new(
        shared: Arc<Shared>,
        transport: Arc<dyn Transport>,
        mailbox: Mailbox<LogMsg>,
        round: u64,
    ) -> Self {
        Self {
            shared,
            transport,
            mailbox,
            batch: WriteBatch::new(),
            value: Vec::new(),
            tasks: Vec::new(),
            order: Vec::new(),
            waiting: VecDeque::new(),
            barrier: None,
            facts: Vec::new(),
            round,
            synced_round: 0,
            seal_at: None,
        }
    }

    /// Takes the tasks of the next batch. True if everything up to the barrier is among them.
    fn collect(&mut self) -> bool {
        let bytes_max = self.shared.config.log_batch_bytes_max;
        let mut bytes = 0;
        while bytes < bytes_max {
            if let Some(task) = self.waiting.pop_front() {
                bytes += TASK_BYTES + task.entries.iter().map(|e| e.data.len()).sum::<usize>();
                self.tasks.push(task);
            } else if self.barrier.is_some() {
                return true;
            } else {
                match self.mailbox.pop() {
                    Some(LogMsg::Tasks(tasks)) => self.waiting.extend(tasks),
                    Some(LogMsg::Barrier(done)) => self.barrier = Some(done),
                    Some(LogMsg::Facts(facts)) => {
                        bytes += TASK_BYTES;
                        self.facts.push(facts);
                    }
                    None => break,
                }
            }
        }
        self.barrier.is_some() && self.waiting.is_empty()
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        // A memtable takes neighbours faster than strangers. Tasks of one region keep their order, and the batch is
        // all or nothing.
        self.order.clear();
        self.order.extend(self.tasks.iter().enumerate().map(|(n, task)| (task.region, task.peer, n)));
        self.order.sort_unstable();
        for (_, _, n) in &self.order {
            encode_task(&mut self.batch, &mut self.value, &self.tasks[*n]);
        }
        for LogFacts { put: (key, value), .. } in &self.facts {
            self.batch.put(key, value);
        }
        if !self.batch.is_empty() {
            self.round += 1;
            self.batch.put(keys::LOG_ROUND, &round_record(self.round, self.synced_round));
            self.shared.engine.log_write(&self.batch)?;
            self.batch.clear();
            let entries: usize = self.tasks.iter().map(|t| t.entries.len()).sum();
            Counters::add(&self.shared.counters.log_batches, 1);
            Counters::add(&self.shared.counters.log_entries, entries as u64);
            let bytes = self.tasks.iter().flat_map(|t| &t.entries).map(|e| e.data.len() as u64).sum();
            Counters::add(&self.shared.counters.log_entry_bytes, bytes);
        }
        let must_sync = !self.facts.is_empty() || self.tasks.iter().any(|task| task.must_sync);
        if must_sync && !planted!(AckBeforeSync) {
            self.shared.engine.log_sync()?;
            self.synced_round = self.round;
            Counters::add(&self.shared.counters.log_syncs, 1);
        }
        Ok(())
    }

    /// Says on disk that the last batch was synced. Needs no sync of its own: a power cut that loses it may also have
    /// torn the batch, as far as anybody can tell.
    fn seal(&mut self) -> Result<(), StoreError> {
        self.seal_at = None;
        self.round += 1;
        self.batch.put(keys::LOG_ROUND, &round_record(self.round, self.synced_round));
        self.shared.engine.log_write(&self.batch)?;
        self.batch.clear();
        Ok(())
    }

    /// Sends what the round made true: messages to other stores first, they have the longer way.
    fn release(&mut self) {
        let origin = self.shared.origin;
        let mut frames: BTreeMap<StoreId, pb::StoreFrame> = BTreeMap::new();
        for task in &mut self.tasks {
            for Outgoing { region, from, to, message } in task.outgoing.drain(..) {
                let frame = frames.entry(to.store).or_insert_with(|| origin.frame(to.store));
                frame.messages.push(raft_message(&region, from, to, Some(message), false));
            }
            for (to, note) in task.notes.drain(..) {
                frames.entry(to).or_insert_with(|| origin.frame(to)).messages.push(note);
            }
        }
        for (to, frame) in frames {
            self.transport.send(to, frame);
        }
        for LogFacts { written, .. } in self.facts.drain(..) {
            self.shared.links.liveness.send(LivenessMsg::Written(written));
        }
        let raft = &self.shared.links.raft;
        let mut persisted: Vec<Vec<Persisted>> = Vec::new();
        persisted.resize_with(raft.len(), Vec::new);
        for task in self.tasks.drain(..) {
            let (region, incarnation) = (task.region, task.incarnation);
            let worker = worker_of(region, raft.len());
            if let Some(installed) = task.installed {
                let (descriptor, applied) = *installed;
                let swallowed = task.swallowed;
                // What the peer was told before stays before.
                tell_persisted(&raft[worker], &mut persisted[worker]);
                raft[worker].send(RaftMsg::SnapshotInstalled {
                    region,
                    incarnation,
                    descriptor,
                    applied,
                    swallowed,
                });
            }
            if let Some(storing) = task.storing {
                persisted[worker].push(Persisted { region, incarnation, storing });
            }
        }
        for (worker, list) in raft.iter().zip(&mut persisted) {
            tell_persisted(worker, list);
        }
    }
}

fn tell_persisted(worker: &Address<RaftMsg>, list: &mut Vec<Persisted>) {
    if !list.is_empty() {
        worker.send(RaftMsg::Persisted(std::mem::take(list)));
    }
}

/// Value of the round record: {round u64, last synced round u64}, big-endian.
pub(crate) fn round_record(round: u64, synced: u64) -> [u8; 16] {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&round.to_be_bytes());
    value[8..].copy_from_slice(&synced.to_be_bytes());
    value
}

/// Adds a task's writes to a batch.
pub(crate) fn encode_task(batch: &mut WriteBatch, value: &mut Vec<u8>, task: &LogTask) {
    let (region, peer) = (task.region, task.peer);
    if task.clear {
        let (start, end) = keys::log_peer_bounds(region, peer);
        batch.delete_range(&start, &end);
    }
    if let Some(state) = &task.hard_state {
        batch.put(&keys::log_hard_state(region, peer), &encode_hard_state(state));
    }
    if let Some(base) = task.base {
        batch.put(&keys::log_base(region, peer), &base.encode());
        delete_entries(batch, task, task.delete_from, base.index);
    }
    match &task.promise {
        Some(Some(promise)) => batch.put(&keys::log_promise(region, peer), &promise.encode()),
        Some(None) => batch.delete(&keys::log_promise(region, peer)),
        None => {}
    }
    if let Some((from, to)) = task.stale_tail {
        delete_entries(batch, task, from, to);
    }
    for entry in &task.entries {
        encode_entry(entry, value);
        batch.put(&keys::log_entry(region, peer, entry.index), value);
    }
}

/// Deletes entries `[from, to]`.
fn delete_entries(batch: &mut WriteBatch, task: &LogTask, from: Index, to: Index) {
    let key = |index| keys::log_entry(task.region, task.peer, index);
    if to.0.saturating_sub(from.0) < POINT_DELETES_MAX {
        (from.0..=to.0).for_each(|i| batch.delete(&key(Index(i))));
    } else {
        batch.delete_range(&key(from), &key(to.next()));
    }
}

impl Turn for LogWriter {
    fn name(&self) -> String {
        "log-writer".into()
    }

    fn turn(&mut self, now: Time) -> bool {
        if self.shared.has_failed() {
            return false;
        }
        let reaches_barrier = self.collect();
        if !self.tasks.is_empty() || !self.facts.is_empty() {
            if let Err(error) = self.commit() {
                self.tasks.clear();
                self.facts.clear();
                self.shared.fail(&error);
                return false;
            }
            self.release();
            self.seal_at = (self.synced_round == self.round).then(|| now.plus_ms(SEAL_MS));
        }
        let ends = reaches_barrier && self.seal_at.is_some();
        if (ends || self.seal_at.is_some_and(|at| now >= at))
            && let Err(error) = self.seal()
        {
            self.shared.fail(&error);
            return false;
        }
        if reaches_barrier && let Some(done) = self.barrier.take() {
            done();
        }
        self.has_messages()
    }

    fn has_messages(&self) -> bool {
        !self.waiting.is_empty() || self.barrier.is_some() || !self.mailbox.is_empty()
    }

    fn held(&self) -> usize {
        self.waiting.len() + self.tasks.len() + self.facts.len()
    }

    fn deadline(&self) -> Time {
        self.seal_at.unwrap_or(Time(u64::MAX))
    }

    fn wait(&mut self, timeout: Duration) {
        self.mailbox.wait(timeout);
    }
}
