//! The model of a store's disk, for the simulator: two instances in memory, a crash that loses what a real one may
//! lose, faults on demand. Everything that happens follows from the seed and the calls.
//!
//! What may be lost is the contract of [`Engine`], at its worst:
//! - `log` falls back to the last successful sync plus any subset of the later batches (an operating system writes pages
//!   in any order, so holes are possible), each whole or not at all.
//! - `data` falls back to any write since the last flush (RocksDB may have moved its memtable into a file after any
//!   write), while an ingested file stays: if the caller broke rule W2, the survivor is no prefix.
//!
//! A damaged record ([`MemEngine::rot`]) is one whose checksum no longer fits, as every block of the real engine has
//! one: reads that meet it fail, for good. What the real engine would not notice cannot be simulated.

mod faults;
mod table;
#[cfg(test)]
mod tests;

pub use faults::{Call, Fault, FaultKind, Faults};

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::{
    Backlog, Engine, EngineSnapshot, Error, Op, Prng, Result, Size, SstContent, SstFile, SstWriter,
    WriteBatch,
};

use table::{Sequence, Table};

/// Pairs that a scan copies at a time; the engine is not locked while they are visited.
const SCAN_CHUNK: usize = 64;

/// A store's disk in memory. Clones of the `Arc` are handles of one disk.
pub struct MemEngine {
    shared: Arc<Mutex<Disk>>,
}

/// What [`MemEngine::crash`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashReport {
    /// Unsynced log batches that survived, of how many.
    pub log_kept: (usize, usize),
    /// Unflushed writes and ingestions that survived, of how many.
    pub data_kept: (usize, usize),
}

/// What survives of the things that a crash may lose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrashPlan {
    /// For each log batch since the last sync, oldest first: whether it survives. Batches beyond the end do not.
    pub log_kept: Vec<bool>,
    /// Number of writes and ingestions since the last flush that survive, oldest first. Ingestions always do.
    pub data_kept: usize,
}

#[derive(Clone)]
struct Disk {
    log: Table,
    /// Pinned state that a crash cannot lose.
    log_durable: Sequence,
    /// Batches that a crash may lose, oldest first.
    log_unsynced: Vec<WriteBatch>,
    /// Bytes since the last `log_flush`.
    log_bytes: u64,
    /// Keys of `log` that were set since [`MemEngine::log_scan_news`] last saw everything, in the order of the writes.
    /// `None`: it has to look at all of them.
    log_news: Option<Vec<Bytes>>,
    /// The first error of a log write, sync or flush; every later log call fails.
    log_failed: Option<FaultKind>,
    data: Table,
    /// Pinned state that a crash cannot lose.
    data_durable: Sequence,
    data_unflushed: Vec<DataStep>,
    data_unflushed_bytes: u64,
    /// The error after which `data` takes no writes until it is opened again.
    data_failed: Option<FaultKind>,
    snapshots: usize,
    /// Files for ingestion that were begun and neither ingested nor dropped.
    files: usize,
    /// Records of `data` and of `log` that cannot be read any more.
    rotten: (BTreeSet<Bytes>, BTreeSet<Bytes>),
    faults: Faults,
    elapsed_us: u64,
    prng: Prng,
    /// Test only: `log_sync` reports success without syncing.
    skip_log_sync: bool,
}

#[derive(Clone)]
struct DataStep {
    batch: WriteBatch,
    /// An ingestion.
    durable: bool,
}

/// Bytes of unflushed writes at which `data` flushes by itself, so that the model's memory is bounded.
const DATA_WRITE_BUFFER_BYTES: u64 = 4 << 20;

/// Keys that are worth remembering for [`MemEngine::log_scan_news`].
const NEWS_MAX: usize = 1 << 16;

impl MemEngine {
    /// An empty disk. Its crashes draw from `seed`.
    pub fn new(seed: u64) -> Arc<Self> {
        let (mut log, mut data) = (Table::default(), Table::default());
        let (log_durable, data_durable) = (log.pin(), data.pin());
        let disk = Disk {
            log,
            log_durable,
            log_unsynced: Vec::new(),
            log_bytes: 0,
            log_news: None,
            log_failed: None,
            data,
            data_durable,
            data_unflushed: Vec::new(),
            data_unflushed_bytes: 0,
            data_failed: None,
            snapshots: 0,
            files: 0,
            rotten: Default::default(),
            faults: Faults::none(),
            elapsed_us: 0,
            prng: Prng::new(seed),
            skip_log_sync: false,
        };
        Arc::new(Self { shared: Arc::new(Mutex::new(disk)) })
    }

    /// Cuts the power: the disk is now what the seed lets survive, errors are forgotten, faults stay. The old life's
    /// snapshots must have been dropped.
    pub fn crash(&self) -> CrashReport {
        let plan = {
            let mut disk = self.shared.lock();
            let (batches, steps) = (disk.log_unsynced.len(), disk.data_unflushed.len());
            CrashPlan {
                log_kept: draw_log(&mut disk.prng, batches),
                data_kept: draw_prefix(&mut disk.prng, steps),
            }
        };
        self.crash_with(&plan)
    }

    /// Kills the process: the operating system has everything that was written, `data`'s memtable is lost from a point
    /// that the seed draws, as in a power cut.
    pub fn kill(&self) -> CrashReport {
        let plan = {
            let mut disk = self.shared.lock();
            let steps = disk.data_unflushed.len();
            CrashPlan {
                log_kept: vec![true; disk.log_unsynced.len()],
                data_kept: draw_prefix(&mut disk.prng, steps),
            }
        };
        self.crash_with(&plan)
    }

    /// Cuts the power with a given outcome.
    pub fn crash_with(&self, plan: &CrashPlan) -> CrashReport {
        let mut disk = self.shared.lock();
        assert_eq!(disk.snapshots, 0, "a snapshot outlives the crash of its engine");
        let report = CrashReport {
            log_kept: disk.crash_log(&plan.log_kept),
            data_kept: disk.crash_data(plan.data_kept),
        };
        disk.log_failed = None;
        disk.data_failed = None;
        report
    }

    /// (log batches, `data` writes and ingestions) that a crash now may lose.
    pub fn at_risk(&self) -> (usize, usize) {
        let disk = self.shared.lock();
        (disk.log_unsynced.len(), disk.data_unflushed.len())
    }

    /// Views of `data` that are not dropped yet.
    pub fn views(&self) -> usize {
        self.shared.lock().snapshots
    }

    /// Files for ingestion that are neither ingested nor dropped yet.
    pub fn files(&self) -> usize {
        self.shared.lock().files
    }

    /// As [`Engine::snapshot`], for checkers, whose visitors do not call the engine: its scans copy nothing and hold the
    /// disk, and its reads are not among those that [`Faults`] make fail.
    pub fn snapshot_in_place(&self) -> Arc<dyn EngineSnapshot> {
        Arc::new(self.view(true))
    }

    fn view(&self, in_place: bool) -> MemSnapshot {
        let mut disk = self.shared.lock();
        disk.snapshots += 1;
        MemSnapshot { shared: Arc::clone(&self.shared), at: disk.data.pin(), in_place }
    }

    /// Damages a record of `data`: whatever reads it from now on fails, in this life and in later ones.
    pub fn rot(&self, key: &[u8]) {
        self.shared.lock().rotten.0.insert(Bytes::copy_from_slice(key));
    }

    /// Damages a record of `log`.
    pub fn rot_log(&self, key: &[u8]) {
        self.shared.lock().rotten.1.insert(Bytes::copy_from_slice(key));
    }

    /// Something in the background of `data` failed, a compaction say: it takes no writes until it is opened again.
    pub fn refuse_writes(&self) {
        self.shared.lock().data_failed.get_or_insert(FaultKind::Io);
    }

    /// Replaces the disk by an empty one. Snapshots must have been dropped.
    pub fn wipe(&self) {
        let mut disk = self.shared.lock();
        assert_eq!(disk.snapshots, 0, "a snapshot outlives the disk of its engine");
        let empty = Self::new(disk.prng.next_u64());
        let mut empty = empty.shared.lock().clone();
        empty.faults = std::mem::take(&mut disk.faults);
        *disk = empty;
    }

    /// A disk of its own with the same content, unsynced parts included. Snapshots must have been dropped.
    pub fn clone_disk(&self, seed: u64) -> Arc<Self> {
        let mut disk = self.shared.lock().clone();
        assert_eq!(disk.snapshots, 0, "a snapshot belongs to one disk");
        disk.prng = Prng::new(seed);
        disk.log_news = None;
        Arc::new(Self { shared: Arc::new(Mutex::new(disk)) })
    }

    /// Sets what is wrong with the disk from now on. Errors that have happened stay, except that a full disk which is
    /// full no more takes writes to `data` again.
    pub fn set_faults(&self, faults: Faults) {
        let mut disk = self.shared.lock();
        disk.faults = faults;
        if disk.data_failed == Some(FaultKind::NoSpace) {
            disk.data_failed = None;
        }
    }

    /// Microseconds that calls have taken since this was last asked, for the simulator to advance its clock by.
    pub fn take_elapsed_us(&self) -> u64 {
        std::mem::take(&mut self.shared.lock().elapsed_us)
    }

    /// Test only: `log_sync` reports success without syncing, which a test with crashes must notice.
    #[cfg(feature = "planted")]
    pub fn plant_skip_log_sync(&self) {
        self.shared.lock().skip_log_sync = true;
    }

    /// For checkers that look at the disk again and again: as [`Engine::log_scan`], but passes over pairs that an
    /// earlier call with these bounds has visited and that are still the same. A crash, a damaged record and a visitor
    /// that ends the scan make the next call visit everything. It is not among the reads that [`Faults`] make fail.
    ///
    /// # Errors
    /// Those of a scan of `[start, end)`.
    pub fn log_scan_news(
        &self,
        (start, end): (&[u8], &[u8]),
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let news = {
            let mut disk = self.shared.lock();
            if let Some(kind) = disk.log_failed {
                return Err(kind.error(Call::LogRead));
            }
            disk.elapsed_us += disk.faults.latency_us(Call::LogRead);
            let news = disk.log_news.replace(Vec::new()).filter(|_| disk.rotten.1.is_empty());
            news.map(|keys| disk.log_pairs(keys, (start, end)))
        };
        let mut ended = false;
        let mut visit = |key: &[u8], value: &[u8]| {
            ended = !visit(key, value);
            !ended
        };
        let scanned = match news {
            Some(pairs) => {
                pairs.iter().all(|(key, value)| visit(key, value));
                Ok(())
            }
            None => self.scan_log((start, end), &mut visit),
        };
        if ended || scanned.is_err() {
            self.shared.lock().log_news = None;
        }
        scanned
    }

    fn scan_log(
        &self,
        (start, end): (&[u8], &[u8]),
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let pin = self.shared.lock().log.pin();
        let read = |bounds: (Bound<&[u8]>, Bound<&[u8]>)| {
            Ok(self.shared.lock().log.chunk(bounds, false, pin, SCAN_CHUNK))
        };
        let mut damage = Ok(());
        let scanned = scan_chunks((start, end), false, read, &mut |key, value| {
            damage = check_sound(&self.shared.lock().rotten.1, key);
            damage.is_ok() && visit(key, value)
        });
        self.shared.lock().log.unpin(pin);
        scanned.and(damage)
    }
}

fn check_sound(rotten: &BTreeSet<Bytes>, key: &[u8]) -> Result<()> {
    if rotten.contains(key) {
        return Err(Error::Corruption(format!("rot at key {}", key.escape_ascii())));
    }
    Ok(())
}

/// All, none, a prefix, or a subset with holes.
fn draw_log(prng: &mut Prng, batches: usize) -> Vec<bool> {
    if prng.chance(1, 2) {
        let kept = draw_prefix(prng, batches);
        return (0..batches).map(|index| index < kept).collect();
    }
    let times = prng.range(1..4);
    (0..batches).map(|_| prng.chance(times, 4)).collect()
}

fn draw_prefix(prng: &mut Prng, steps: usize) -> usize {
    match prng.below(4) {
        0 => 0,
        1 => steps,
        _ => prng.index(steps + 1),
    }
}

impl Disk {
    /// Counts a call and fails it if it is to fail.
    fn call(&mut self, call: Call) -> std::result::Result<(), FaultKind> {
        self.elapsed_us += self.faults.latency_us(call);
        self.faults.on_call(call).map_or(Ok(()), Err)
    }

    fn log_call(&mut self, call: Call) -> Result<()> {
        if let Some(kind) = self.log_failed {
            return Err(kind.error(call));
        }
        self.call(call).map_err(|kind| {
            if call != Call::LogRead {
                self.log_failed = Some(kind);
            }
            kind.error(call)
        })
    }

    fn data_call(&mut self, call: Call) -> Result<()> {
        if let Some(kind) = self.data_failed {
            return Err(kind.error(call));
        }
        self.call(call).map_err(|kind| {
            self.data_failed = Some(kind);
            kind.error(call)
        })
    }

    fn log_made_durable(&mut self) {
        self.log_unsynced.clear();
        let durable = self.log.pin();
        self.log.unpin(std::mem::replace(&mut self.log_durable, durable));
    }

    fn data_made_durable(&mut self) {
        self.data_unflushed.clear();
        self.data_unflushed_bytes = 0;
        let durable = self.data.pin();
        self.data.unpin(std::mem::replace(&mut self.data_durable, durable));
    }

    fn apply_to_data(&mut self, batch: WriteBatch, durable: bool) {
        self.data.apply(&batch);
        self.data_unflushed_bytes += batch.bytes() as u64;
        let nothing_before = self.data_unflushed.is_empty();
        self.data_unflushed.push(DataStep { batch, durable });
        if durable && nothing_before || self.data_unflushed_bytes > DATA_WRITE_BUFFER_BYTES {
            self.data_made_durable();
        }
    }

    /// Applies a batch to `log`.
    fn apply_to_log(&mut self, batch: &WriteBatch) {
        self.log.apply(batch);
        let Some(news) = &mut self.log_news else { return };
        for op in batch.iter() {
            if let Op::Put(key, _) = op {
                news.push(Bytes::copy_from_slice(key));
            }
        }
        if news.len() > NEWS_MAX {
            self.log_news = None;
        }
    }

    /// Those of `keys` that are in `log` and in `[start, end)`, in order, with their values.
    fn log_pairs(&self, mut keys: Vec<Bytes>, (start, end): (&[u8], &[u8])) -> Vec<(Bytes, Bytes)> {
        keys.retain(|key| start <= &key[..] && &key[..] < end);
        keys.sort_unstable();
        keys.dedup();
        let latest = self.log.latest();
        keys.into_iter().filter_map(|key| self.log.get(&key, latest).map(|value| (key, value))).collect()
    }

    fn crash_log(&mut self, kept: &[bool]) -> (usize, usize) {
        let batches = std::mem::take(&mut self.log_unsynced);
        self.log.roll_back(self.log_durable);
        self.log_news = None;
        let mut survivors = 0;
        for (batch, _) in batches.iter().zip(kept).filter(|(_, kept)| **kept) {
            self.log.apply(batch);
            survivors += 1;
        }
        self.log_made_durable();
        self.log_bytes = 0;
        (survivors, batches.len())
    }

    fn crash_data(&mut self, kept: usize) -> (usize, usize) {
        let steps = std::mem::take(&mut self.data_unflushed);
        self.data.roll_back(self.data_durable);
        let mut survivors = 0;
        for (_, step) in steps.iter().enumerate().filter(|(index, step)| *index < kept || step.durable) {
            self.data.apply(&step.batch);
            survivors += 1;
        }
        self.data_made_durable();
        (survivors, steps.len())
    }

    /// A read of `data` begins.
    fn read_call(&mut self, checks: bool) -> Result<()> {
        if checks {
            self.elapsed_us += self.faults.latency_us(Call::Read);
            return Ok(());
        }
        self.call(Call::Read).map_err(|kind| kind.error(Call::Read))
    }

    fn read_data(&mut self, key: &[u8], at: Sequence) -> Result<Option<Bytes>> {
        self.check_readable(key)?;
        Ok(self.data.get(key, at))
    }

    fn scan_in_place(
        &self,
        (start, end): (&[u8], &[u8]),
        reverse: bool,
        at: Sequence,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        if start >= end {
            return Ok(());
        }
        let mut damage = Ok(());
        self.data.visit((Bound::Included(start), Bound::Excluded(end)), reverse, at, |key, value| {
            damage = self.check_readable(key);
            damage.is_ok() && visit(key, value)
        });
        damage
    }

    fn check_readable(&self, key: &[u8]) -> Result<()> {
        check_sound(&self.rotten.0, key)?;
        self.faults.check_readable(key)
    }
}

impl Engine for MemEngine {
    fn log_write(&self, batch: &WriteBatch) -> Result<()> {
        let mut disk = self.shared.lock();
        let refused = disk.log_failed.is_some();
        let outcome = disk.log_call(Call::LogWrite);
        if outcome.is_ok() {
            disk.apply_to_log(batch);
            disk.log_bytes += batch.bytes() as u64;
        }
        // A write that failed may have reached the disk all the same.
        if outcome.is_ok() || !refused && disk.prng.chance(1, 2) {
            disk.log_unsynced.push(batch.clone());
        }
        outcome
    }

    fn log_sync(&self) -> Result<()> {
        let mut disk = self.shared.lock();
        disk.log_call(Call::LogSync)?;
        if !disk.skip_log_sync {
            disk.log_made_durable();
        }
        Ok(())
    }

    fn log_flush(&self) -> Result<()> {
        let mut disk = self.shared.lock();
        disk.log_call(Call::LogFlush)?;
        disk.log_made_durable();
        disk.log_bytes = 0;
        Ok(())
    }

    fn log_get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let mut disk = self.shared.lock();
        disk.log_call(Call::LogRead)?;
        check_sound(&disk.rotten.1, key)?;
        let latest = disk.log.latest();
        Ok(disk.log.get(key, latest))
    }

    fn log_scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        self.shared.lock().log_call(Call::LogRead)?;
        self.scan_log((start, end), visit)
    }

    fn log_bytes(&self) -> u64 {
        self.shared.lock().log_bytes
    }

    fn write(&self, batch: &WriteBatch) -> Result<()> {
        let mut disk = self.shared.lock();
        disk.data_call(Call::Write)?;
        disk.apply_to_data(batch.clone(), false);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let mut disk = self.shared.lock();
        disk.data_call(Call::Flush)?;
        disk.data_made_durable();
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let mut disk = self.shared.lock();
        disk.read_call(false)?;
        let latest = disk.data.latest();
        disk.read_data(key, latest)
    }

    fn snapshot(&self) -> Arc<dyn EngineSnapshot> {
        Arc::new(self.view(false))
    }

    fn sst_writer(&self) -> Result<Box<dyn SstWriter>> {
        sst_call(&self.shared)?;
        Ok(Box::new(MemSstWriter {
            file: OpenFile::new(&self.shared),
            clears: WriteBatch::new(),
            puts: WriteBatch::new(),
            last_key: None,
            bytes: 0,
        }))
    }

    fn ingest(&self, files: Vec<SstFile>) -> Result<()> {
        let mut batch = WriteBatch::new();
        for file in files {
            let file: Box<MemSst> =
                file.0.into_any().downcast().expect("a file goes to the engine that made it");
            batch.append(&file.clears);
            batch.append(&file.puts);
        }
        if batch.is_empty() {
            return Ok(());
        }
        let mut disk = self.shared.lock();
        disk.data_call(Call::Ingest)?;
        disk.apply_to_data(batch, true);
        Ok(())
    }

    fn approximate_size(&self, start: &[u8], end: &[u8]) -> Size {
        if start < end { self.shared.lock().data.size(start, end) } else { Size::default() }
    }

    /// RocksDB flushes first if the range meets its memtable: a fall back to any write covers both.
    fn compact(&self, _start: &[u8], _end: &[u8]) -> Result<()> {
        self.shared.lock().call(Call::Compact).map_err(|kind| kind.error(Call::Compact))
    }

    fn compaction_damage(&self) -> Option<String> {
        None
    }

    fn backlog(&self) -> Backlog {
        Backlog::default()
    }

    fn metrics(&self) -> Vec<(&'static str, u64)> {
        let disk = self.shared.lock();
        vec![
            ("log_bytes", disk.log_bytes),
            ("log_keys", disk.log.keys()),
            ("data_keys", disk.data.keys()),
            ("data_memtable_bytes", disk.data_unflushed_bytes),
            ("data_snapshots", disk.snapshots as u64),
        ]
    }
}

/// A view of `data` at a pinned sequence.
struct MemSnapshot {
    shared: Arc<Mutex<Disk>>,
    at: Sequence,
    /// A checker's: scans visit under the lock, and faults make nothing fail.
    in_place: bool,
}

impl Drop for MemSnapshot {
    fn drop(&mut self) {
        let mut disk = self.shared.lock();
        disk.data.unpin(self.at);
        disk.snapshots -= 1;
    }
}

impl MemSnapshot {
    fn scan_in(
        &self,
        bounds: (&[u8], &[u8]),
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        let mut disk = self.shared.lock();
        disk.read_call(self.in_place)?;
        if self.in_place {
            return disk.scan_in_place(bounds, reverse, self.at, visit);
        }
        drop(disk);
        let read = |bounds: (Bound<&[u8]>, Bound<&[u8]>)| {
            Ok(self.shared.lock().data.chunk(bounds, reverse, self.at, SCAN_CHUNK))
        };
        let mut damage = Ok(());
        scan_chunks(bounds, reverse, read, &mut |key, value| {
            damage = self.shared.lock().check_readable(key);
            damage.is_ok() && visit(key, value)
        })?;
        damage
    }
}

impl EngineSnapshot for MemSnapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let mut disk = self.shared.lock();
        disk.read_call(self.in_place)?;
        disk.read_data(key, self.at)
    }

    fn scan(&self, start: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<()> {
        self.scan_in((start, end), false, visit)
    }

    fn scan_reverse(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        self.scan_in((start, end), true, visit)
    }
}

/// Visits `[start, end)` in pieces, so that the visitor may call the engine.
fn scan_chunks(
    (start, end): (&[u8], &[u8]),
    reverse: bool,
    read: impl Fn((Bound<&[u8]>, Bound<&[u8]>)) -> Result<Vec<(Bytes, Bytes)>>,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<()> {
    let mut last: Option<Bytes> = None;
    loop {
        let bounds = match (&last, reverse) {
            (None, _) => (Bound::Included(start), Bound::Excluded(end)),
            (Some(last), false) => (Bound::Excluded(&last[..]), Bound::Excluded(end)),
            (Some(last), true) => (Bound::Included(start), Bound::Excluded(&last[..])),
        };
        if start >= end || last.as_ref().is_some_and(|last| reverse && &last[..] <= start) {
            return Ok(());
        }
        let chunk = read(bounds)?;
        for (key, value) in &chunk {
            if !visit(key, value) {
                return Ok(());
            }
        }
        match chunk.last() {
            Some((key, _)) if chunk.len() == SCAN_CHUNK => last = Some(key.clone()),
            _ => return Ok(()),
        }
    }
}

fn sst_call(shared: &Mutex<Disk>) -> Result<()> {
    shared.lock().call(Call::Sst).map_err(|kind| kind.error(Call::Sst))
}

/// Counts as one of [`MemEngine::files`] while it exists.
struct OpenFile {
    shared: Arc<Mutex<Disk>>,
}

impl OpenFile {
    fn new(shared: &Arc<Mutex<Disk>>) -> Self {
        shared.lock().files += 1;
        Self { shared: Arc::clone(shared) }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let mut disk = self.shared.lock();
        // A wiped disk has forgotten it.
        disk.files = disk.files.saturating_sub(1);
    }
}

struct MemSstWriter {
    file: OpenFile,
    clears: WriteBatch,
    puts: WriteBatch,
    last_key: Option<Vec<u8>>,
    bytes: u64,
}

impl SstWriter for MemSstWriter {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        sst_call(&self.file.shared)?;
        if self.last_key.as_ref().is_some_and(|last| &last[..] >= key) {
            return Err(Error::Io("keys of a file must ascend".to_owned()));
        }
        self.last_key = Some(key.to_vec());
        self.puts.put(key, value);
        self.bytes += (key.len() + value.len()) as u64;
        Ok(())
    }

    fn clear(&mut self, start: &[u8], end: &[u8]) -> Result<()> {
        sst_call(&self.file.shared)?;
        if start < end {
            self.clears.delete_range(start, end);
            self.bytes += (start.len() + end.len()) as u64;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn finish(self: Box<Self>) -> Result<SstFile> {
        sst_call(&self.file.shared)?;
        Ok(SstFile(Box::new(MemSst { clears: self.clears, puts: self.puts, _file: self.file })))
    }
}

/// A finished file. Clears come before puts, so that the file's own keys survive.
struct MemSst {
    clears: WriteBatch,
    puts: WriteBatch,
    _file: OpenFile,
}

impl SstContent for MemSst {
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}
