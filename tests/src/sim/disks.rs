//! Disks that are slow, that fail, and that are full for some time.

use flotilla_engine::{Call, Fault as DiskFault, FaultKind, Faults};
use flotilla_region::StoreId;

use super::profile::Profile;
use super::watch::SINGLE_BYTES;
use super::world::{Event, World};

/// Calls that a full disk refuses.
const WRITES: [Call; 7] =
    [Call::LogWrite, Call::LogFlush, Call::Write, Call::Flush, Call::Ingest, Call::Sst, Call::Compact];

/// Calls that a disk may fail at.
const CALLS: [Call; 10] = [
    Call::LogWrite,
    Call::LogSync,
    Call::LogFlush,
    Call::LogRead,
    Call::Write,
    Call::Flush,
    Call::Read,
    Call::Ingest,
    Call::Sst,
    Call::Compact,
];

impl World {
    /// A disk fails or becomes slow, for a while.
    pub(super) fn spoil_disk(&mut self, id: StoreId, fail: bool) {
        let rng = &mut self.nemesis.rng;
        let calls = [Call::LogWrite, Call::LogSync, Call::LogFlush, Call::Write, Call::Flush, Call::Ingest];
        let call = *rng.pick(&calls);
        let mut faults = if fail {
            let kind = if rng.chance(1, 3) { FaultKind::NoSpace } else { FaultKind::Io };
            match kind {
                FaultKind::NoSpace => self.stats.full_disks += 1,
                FaultKind::Io => self.stats.disk_errors += 1,
            }
            Faults::none().fail(call, DiskFault { kind, after: rng.below(20), times: 1 })
        } else {
            self.stats.slow_disks += 1;
            let us = *rng.pick(&[2_000, 20_000, 300_000]);
            Faults::none().slow(Call::LogSync, us).slow(Call::LogRead, us / 20).slow(call, us)
        };
        let after = 300_000 + rng.below(2_000_000);
        let now = self.now_us();
        if self.nemesis.is_full(id, now) {
            return;
        }
        if fail && self.profile.extras.disks && self.nemesis.extra.chance(2, 3) {
            faults = if self.nemesis.extra.chance(1, 3) { self.fill_disk(id) } else { self.draw_failure() };
        }
        self.trace.note(now, &[36, id.0], || format!("disk of store {id}: {faults:?}"));
        if fail {
            self.nemesis.has_spoiled(id);
        }
        self.hosts[&id].engine.set_faults(faults);
        let spoiled = self.nemesis.spoiled_until_us.entry(id).or_default();
        *spoiled = (*spoiled).max(now + after);
        self.plan(after, Event::RepairDisk(id));
    }

    /// Calls of one kind fail, once or from a moment on.
    fn draw_failure(&mut self) -> Faults {
        let rng = &mut self.nemesis.extra;
        let call = *rng.pick(&CALLS);
        let kind = if rng.chance(1, 3) { FaultKind::NoSpace } else { FaultKind::Io };
        let times = *rng.pick(&[1, 1, 5, u64::MAX]);
        self.stats.failed_reads += u64::from(matches!(call, Call::Read | Call::LogRead));
        Faults::none().fail(call, DiskFault { kind, after: rng.below(20), times })
    }

    /// Every write fails until somebody makes room, whoever runs on the disk meanwhile.
    fn fill_disk(&mut self, id: StoreId) -> Faults {
        let us = 200_000 + self.nemesis.extra.below(4_000_000);
        let after = self.nemesis.extra.below(20);
        self.nemesis.full_until_us.insert(id, self.now_us() + us);
        self.stats.full_spells += 1;
        self.plan(us, Event::RepairDisk(id));
        let fault = DiskFault { kind: FaultKind::NoSpace, after, times: u64::MAX };
        WRITES.into_iter().fold(Faults::none(), |faults, call| faults.fail(call, fault))
    }

    /// A disk becomes healthy, if it is not full for some time yet.
    pub(super) fn repair_disk(&mut self, id: StoreId) {
        let now = self.now_us();
        if let Some(host) = self.hosts.get(&id).filter(|_| !self.nemesis.is_full(id, now)) {
            host.engine.set_faults(in_order(id, &self.profile));
        }
    }
}

/// A disk without any fault.
pub(super) fn in_order(id: StoreId, profile: &Profile) -> Faults {
    let mut us = if id.0.is_multiple_of(2) { profile.extras.slow_syncs_us } else { 0 };
    if profile.config.log_batch_bytes_max <= SINGLE_BYTES {
        // With a sync for each task, the elections of twenty regions take longer than an election may.
        us /= 10;
    }
    if us == 0 { Faults::none() } else { Faults::none().slow(Call::LogSync, us) }
}
