//! What clients do to a region: counted and sampled where it happens, looked at once an interval.
//!
//! A read or a write adds to a few counters of its region's [`RegionLoad`]; now and then, ever more rarely the busier the
//! region is, it leaves its keys in a reservoir. A region that nobody asks for anything is in no list and costs nothing.
//! The background worker takes what an interval brought ([`Loads::take`]), tells placement the rates, and has
//! [`detector`] decide which region is cut where.

pub(crate) mod detector;
pub(crate) mod samples;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use flotilla_region::{RegionId, Space};
use parking_lot::Mutex;

use samples::{SAMPLES_MAX, Sample, place};

/// Regions of a store with load since they were last asked for.
#[derive(Default)]
pub(crate) struct Loads {
    busy: Mutex<BTreeMap<RegionId, Arc<RegionLoad>>>,
}

impl Loads {
    /// The regions with load since the last call, by id.
    pub(crate) fn take(&self) -> BTreeMap<RegionId, Arc<RegionLoad>> {
        std::mem::take(&mut *self.busy.lock())
    }
}

/// What clients do to one region on this store. Any thread may add to it.
pub struct RegionLoad {
    region: RegionId,
    is_splittable: bool,
    seed: u64,
    loads: Arc<Loads>,
    is_listed: AtomicBool,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    write_bytes: AtomicU64,
    cpu_us: AtomicU64,
    /// Requests that could have become samples in this interval.
    offered: AtomicU64,
    /// Moves when the region gets another range: samples of before say nothing about it.
    shape: AtomicU64,
    samples: Mutex<Vec<Sample>>,
}

/// What one interval brought a region.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Harvest {
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub write_bytes: u64,
    pub cpu_us: u64,
    pub shape: u64,
    pub samples: Vec<Sample>,
}

impl RegionLoad {
    pub(crate) fn new(region: RegionId, space: Space, loads: &Arc<Loads>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            region,
            is_splittable: space == Space::User && region != RegionId::SENTINEL,
            seed,
            loads: loads.clone(),
            is_listed: AtomicBool::new(false),
            reads: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            write_bytes: AtomicU64::new(0),
            cpu_us: AtomicU64::new(0),
            offered: AtomicU64::new(0),
            shape: AtomicU64::new(0),
            samples: Mutex::default(),
        })
    }

    /// A key was read, and so many bytes of key and value with it.
    pub fn read_key(self: &Arc<Self>, key: &[u8], bytes: u64) {
        self.count_read(1, bytes);
        self.offer(|| Some(Sample::key(Bytes::copy_from_slice(key))));
    }

    /// Whether one read of `of` has come: for what is too dear to be measured at each.
    pub fn is_nth_read(&self, of: u64) -> bool {
        self.reads.load(Ordering::Relaxed).is_multiple_of(of.max(1))
    }

    /// Some keys were read by one request. `pick` chooses the one to remember.
    pub fn read_keys(self: &Arc<Self>, keys: &[Bytes], bytes: u64) {
        self.count_read(keys.len() as u64, bytes);
        self.offer_with(|drawn| keys.get(drawn as usize % keys.len().max(1)).cloned().map(Sample::key));
    }

    /// All keys of `[first, last]` were read.
    pub fn scanned(self: &Arc<Self>, first: &[u8], last: &[u8], bytes: u64) {
        self.count_read(1, bytes);
        self.offer(|| Some(Sample::scan(Bytes::copy_from_slice(first), Bytes::copy_from_slice(last))));
    }

    /// Requests took the processor for so long, as far as whoever serves them measures it.
    pub fn add_cpu_us(self: &Arc<Self>, us: u64) {
        self.cpu_us.fetch_add(us, Ordering::Relaxed);
        self.list();
    }

    /// A command of so many bytes is to be written; `key` names one of its keys, given a random number to choose by.
    pub(crate) fn write(self: &Arc<Self>, bytes: u64, key: impl FnOnce(u64) -> Option<Bytes>) {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.write_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.offer_with(|drawn| key(drawn).map(Sample::key));
    }

    fn count_read(&self, requests: u64, bytes: u64) {
        self.reads.fetch_add(requests, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn offer(self: &Arc<Self>, sample: impl FnOnce() -> Option<Sample>) {
        self.offer_with(|_| sample());
    }

    /// Algorithm R (Vitter, "Random Sampling with a Reservoir", 1985) without a lock but where a sample is kept: what
    /// becomes of the n-th request follows from n and the seed alone.
    fn offer_with(self: &Arc<Self>, sample: impl FnOnce(u64) -> Option<Sample>) {
        self.list();
        let n = self.offered.fetch_add(1, Ordering::Relaxed);
        let (slot, drawn) = place(self.seed, n);
        if slot >= SAMPLES_MAX as u64 || !self.is_splittable {
            return;
        }
        // A sample that two requests want to leave at the same moment is left by one of them.
        if let Some(mut kept) = self.samples.try_lock()
            && let Some(sample) = sample(drawn)
        {
            match kept.get_mut(slot as usize) {
                Some(old) => *old = sample,
                None => kept.push(sample),
            }
        }
    }

    fn list(self: &Arc<Self>) {
        if !self.is_listed.load(Ordering::Relaxed) && !self.is_listed.swap(true, Ordering::AcqRel) {
            self.loads.busy.lock().insert(self.region, self.clone());
        }
    }

    /// The region has another range.
    pub(crate) fn reshape(&self) {
        self.shape.fetch_add(1, Ordering::Relaxed);
        self.samples.lock().clear();
    }

    /// Whether a region like this is ever split.
    pub(crate) fn is_splittable(&self) -> bool {
        self.is_splittable
    }

    /// What there was since the last call; the next request lists the region again.
    pub(crate) fn harvest(&self) -> Harvest {
        self.is_listed.store(false, Ordering::Release);
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        take(&self.offered);
        Harvest {
            reads: take(&self.reads),
            read_bytes: take(&self.read_bytes),
            writes: take(&self.writes),
            write_bytes: take(&self.write_bytes),
            cpu_us: take(&self.cpu_us),
            shape: self.shape.load(Ordering::Relaxed),
            samples: std::mem::take(&mut *self.samples.lock()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(loads: &Arc<Loads>, id: u64) -> Arc<RegionLoad> {
        RegionLoad::new(RegionId(id), Space::User, loads, 7)
    }

    #[test]
    fn a_region_is_listed_by_its_first_request_and_only_then() {
        let loads = Arc::new(Loads::default());
        let (busy, idle) = (load(&loads, 5), load(&loads, 6));
        busy.read_key(b"k", 10);
        busy.write(100, |_| Some(Bytes::from_static(b"l")));
        assert_eq!(loads.take().into_keys().collect::<Vec<_>>(), [RegionId(5)]);
        let harvest = busy.harvest();
        assert_eq!((harvest.reads, harvest.read_bytes, harvest.writes, harvest.write_bytes), (1, 10, 1, 100));
        assert_eq!(harvest.samples.len(), 2);
        assert!(loads.take().is_empty(), "nothing new");
        busy.scanned(b"a", b"c", 3);
        assert_eq!(loads.take().len(), 1);
        assert_eq!(busy.harvest().samples, [Sample::scan("a".into(), "c".into())]);
        assert_eq!(idle.harvest(), Harvest::default());
    }

    #[test]
    fn samples_of_another_range_and_of_what_is_never_split_are_not_kept() {
        let loads = Arc::new(Loads::default());
        let load = load(&loads, 5);
        load.read_key(b"k", 10);
        load.reshape();
        let harvest = load.harvest();
        assert_eq!((harvest.samples.len(), harvest.shape, harvest.reads), (0, 1, 1));
        let sentinel = RegionLoad::new(RegionId::SENTINEL, Space::User, &loads, 7);
        sentinel.read_key(b"k", 10);
        let meta = RegionLoad::new(RegionId::META, Space::Meta, &loads, 7);
        meta.write(10, |_| Some("k".into()));
        assert_eq!((sentinel.harvest().samples.len(), meta.harvest().samples.len()), (0, 0));
    }

    #[test]
    fn the_reservoir_holds_any_of_many_requests_alike() {
        let loads = Arc::new(Loads::default());
        // Over many seeds, each tenth of the requests is kept about as often as any other.
        let mut kept = [0u64; 10];
        for seed in 0..200 {
            let load = RegionLoad::new(RegionId(5), Space::User, &loads, seed);
            for n in 0..1_000u64 {
                load.read_key(&n.to_be_bytes(), 1);
            }
            let samples = load.harvest().samples;
            assert_eq!(samples.len(), 20, "a full reservoir");
            for sample in samples {
                let n = u64::from_be_bytes(sample.start()[..].try_into().expect("8 bytes"));
                kept[n as usize / 100] += 1;
            }
        }
        assert!(kept.iter().all(|count| (300..500).contains(count)), "{kept:?}");
    }
}
