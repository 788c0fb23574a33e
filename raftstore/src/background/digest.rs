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

/// A region led here.
#[derive(Clone, Copy, Default)]
struct Led {
    /// When it was last asked for.
    asked: Time,
    /// Bytes that were written to it, and how many of them before it was asked for.
    written: u64,
    compared: u64,
}

/// The store's part in consistency checks.
#[derive(Default)]
pub(super) struct Digests {
    waiting: VecDeque<DigestTask>,
    job: Option<Job>,
    led: BTreeMap<RegionId, Led>,
    /// When the next region is asked for, and the next one whether it was written to or not.
    next: Time,
    next_unchanged: Time,
}

impl Digests {
    /// Views that are to be hashed.
    pub(super) fn held(&self) -> usize {
        self.waiting.len() + usize::from(self.job.is_some())
    }

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
                let led = self.led.entry(status.region.id).or_default();
                led.written = status.written_bytes;
                led.compared = led.compared.min(led.written);
            } else {
                self.led.remove(&status.region.id);
            }
        }
    }

    /// Asks for a check, if it is time, of the region that was asked for longest ago.
    pub(super) fn maybe_ask(&mut self, shared: &Shared, now: Time) {
        let (changed_ms, any_ms) =
            (shared.config.check_interval_ms, shared.config.check_unchanged_interval_ms);
        if changed_ms == 0 || now < self.next {
            return;
        }
        self.next = now.plus_ms(changed_ms);
        if self.is_busy() {
            return;
        }
        let is_any = now >= self.next_unchanged;
        if is_any {
            self.next_unchanged = now.plus_ms(any_ms);
        }
        let Some((id, led)) = next_of(&mut self.led, is_any) else { return };
        (led.asked, led.compared) = (now, led.written);
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

/// The region that was asked for longest ago: of those that were written to since, or of all.
fn next_of(led: &mut BTreeMap<RegionId, Led>, is_any: bool) -> Option<(RegionId, &mut Led)> {
    let candidates = led.iter_mut().filter(|(_, led)| is_any || led.written > led.compared);
    candidates.min_by_key(|(id, led)| (led.asked, **id)).map(|(id, led)| (*id, led))
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
        self.task.view.scan_once(&self.next, &self.end, &mut |key, value| {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_that_were_written_to_come_first_and_all_others_in_turn() {
        let led = |asked, written, compared| Led { asked: Time(asked), written, compared };
        let mut all: BTreeMap<RegionId, Led> =
            [(RegionId(1), led(1, 5, 5)), (RegionId(2), led(3, 9, 5)), (RegionId(3), led(2, 6, 5))].into();
        let mut now = 9;
        let mut next = |is_any| {
            let (id, led) = next_of(&mut all, is_any)?;
            now += 1;
            (led.asked, led.compared) = (Time(now), led.written);
            Some(id.0)
        };
        assert_eq!([next(false), next(false), next(false)], [Some(3), Some(2), None]);
        assert_eq!([next(true), next(true), next(true), next(true)], [Some(1), Some(3), Some(2), Some(1)]);
    }
}
