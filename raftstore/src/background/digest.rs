//! Consistency checks: which region is to be checked next, and the hashing of what apply workers took a view of.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use flotilla_region::{RegionId, keys};

use crate::admin::check::{Digest, DigestTask, digest_header};
use crate::msg::{PeerStatus, RaftMsg};
use crate::shared::Shared;
use crate::time::Time;

/// Bytes of keys and values hashed per turn.
const TURN_BYTES: u64 = 1 << 20;
/// Views that wait; each keeps old versions of keys on the disk.
const WAITING_MAX: usize = 8;

/// One region being hashed.
struct Job {
    task: DigestTask,
    hasher: crc32fast::Hasher,
    digest: Digest,
    /// Where to read on, and the end.
    next: Vec<u8>,
    end: Vec<u8>,
}

/// The store's part in consistency checks.
#[derive(Default)]
pub(super) struct Digests {
    waiting: VecDeque<DigestTask>,
    job: Option<Job>,
    /// Regions led here, with when they were last asked for.
    led: BTreeMap<RegionId, Time>,
}

impl Digests {
    /// A view to hash. Dropped if there are too many: the check is decided without this replica.
    pub(super) fn push(&mut self, task: DigestTask) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(task);
        }
    }

    /// Whether there is something to hash.
    pub(super) fn is_busy(&self) -> bool {
        self.job.is_some() || !self.waiting.is_empty()
    }

    /// Who leads here.
    pub(super) fn learn(&mut self, statuses: &[PeerStatus]) {
        for status in statuses {
            if status.is_leader {
                self.led.entry(status.region.id).or_default();
            } else {
                self.led.remove(&status.region.id);
            }
        }
    }

    /// Asks for a check of the region that was asked for longest ago.
    pub(super) fn ask_next(&mut self, shared: &Shared, now: Time) {
        let Some(id) = self.led.iter().min_by_key(|(id, at)| (**at, **id)).map(|(id, _)| *id) else { return };
        self.led.insert(id, now);
        shared.links.raft_of(id).send(RaftMsg::Check { region: id, done: None });
    }

    /// Hashes a bite.
    pub(super) fn work(&mut self, shared: &Arc<Shared>) {
        let Some(mut job) = self.job.take().or_else(|| self.waiting.pop_front().map(Job::new)) else {
            return;
        };
        let outcome = match job.bite() {
            Ok(false) => {
                self.job = Some(job);
                return;
            }
            Ok(true) => Ok(Digest { crc: job.hasher.finalize(), ..job.digest }),
            Err(flotilla_engine::Error::Corruption(why)) => Err(why),
            // The disk does not answer; that is for whoever writes to it to judge.
            Err(_) => return,
        };
        let DigestTask { region, incarnation, at, .. } = job.task;
        let region = region.id;
        shared.links.raft_of(region).send(RaftMsg::Digest { region, incarnation, at, digest: outcome });
    }
}

impl Job {
    fn new(task: DigestTask) -> Self {
        let (next, end) = keys::data_bounds(task.region.space, &task.region.range);
        let hasher = digest_header(&task.region, task.at);
        Self { task, hasher, digest: Digest::default(), next, end }
    }

    /// Reads on; says whether it is done.
    fn bite(&mut self) -> Result<bool, flotilla_engine::Error> {
        let mut bytes = 0;
        let mut last = None;
        let Self { hasher, digest, .. } = self;
        self.task.view.scan(&self.next, &self.end, &mut |key, value| {
            for part in [&key[1..], value] {
                hasher.update(&(part.len() as u32).to_le_bytes());
                hasher.update(part);
                bytes += part.len() as u64;
            }
            digest.keys += 1;
            if bytes < TURN_BYTES {
                return true;
            }
            last = Some(key.to_vec());
            false
        })?;
        digest.bytes += bytes;
        let Some(mut last) = last else { return Ok(true) };
        // The smallest key after the last one.
        last.push(0);
        self.next = last;
        Ok(false)
    }
}
