//! A client that does everything the raw interface of `tikv-client` can do, beside a model that says what must come
//! back.
//!
//! Each worker has keys of its own and waits for one call before the next, so the model knows every outcome: writes
//! are repeated until they succeed, and each value is written once. Scans are bounded and go forward, and backward
//! ones stay between two neighbours of the keys at which regions are split: the crate's own errors with other scans are
//! listed in the protocol notes. Batches are not written while a store is down: when the crate cannot look a region up,
//! it leaves that region's part of the batch out and reports success (`stream::iter(Err(e))`, an empty stream, in
//! `raw/requests.rs` of 0.4.0, for `batch_put` and `batch_delete`).

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tikv_client::{Error, KvPair, RawClient};
use tokio::sync::RwLock;

use crate::harness::PATIENCE;
use crate::load::pace_retry;

/// Keys of one worker.
const KEYS: u64 = 60;
/// Regions are split at every so many-th key.
const KEYS_PER_REGION: u64 = 10;
/// So long that nothing expires during a test.
const LONG_TTL_S: u64 = 100_000;

/// A seeded source of choices: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
pub struct Choices(u64);

impl Choices {
    /// The same seed makes the same choices.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Seen from outside while workers run.
#[derive(Default)]
pub struct Progress {
    /// Calls that succeeded.
    pub calls: AtomicU64,
    /// Attempts that the crate gave up, after its own retries.
    pub failures: AtomicU64,
    /// Workers are to end.
    pub stop: AtomicBool,
    /// Held by a batch being written, and exclusively while region look-ups may fail.
    pub batches: RwLock<()>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    value: Vec<u8>,
    /// Whether it will expire after [`LONG_TTL_S`].
    expires: bool,
}

/// One worker.
pub struct Worker {
    number: u64,
    client: RawClient,
    atomic: RawClient,
    model: BTreeMap<String, Entry>,
    choices: Choices,
    values: u64,
    progress: Arc<Progress>,
    /// Names of the calls that were made.
    pub made: BTreeSet<&'static str>,
}

/// The keys at which the regions of `workers` workers are split.
pub fn split_keys(workers: u64) -> Vec<String> {
    let of = |worker| (0..KEYS).step_by(KEYS_PER_REGION as usize).map(move |i| key(worker, i));
    (0..workers).flat_map(of).collect()
}

fn key(worker: u64, i: u64) -> String {
    format!("m{worker:02}/{i:03}")
}

/// Pairs as they are compared, and shown where they differ.
fn pairs(found: Vec<KvPair>) -> Vec<(String, String)> {
    found.into_iter().map(|pair| (text(pair.0), summary(&pair.1))).collect()
}

/// A value's unique part and its length, which is all that there is to it.
fn summary(value: &[u8]) -> String {
    let unique = value.split(|byte| *byte == b'.').next().unwrap_or_default();
    let rest = &value[unique.len()..];
    assert!(rest.iter().all(|byte| *byte == b'.'), "a damaged value: {value:?}");
    format!("{}{}", String::from_utf8_lossy(unique), rest.len())
}

fn text(key: tikv_client::Key) -> String {
    String::from_utf8(key.into()).expect("workers' keys are text")
}

impl Worker {
    /// A worker with nothing written yet.
    pub fn new(number: u64, client: &RawClient, progress: &Arc<Progress>) -> Self {
        Self {
            number,
            client: client.clone(),
            atomic: client.with_atomic_for_cas(),
            model: BTreeMap::new(),
            choices: Choices::new(number + 1),
            values: 0,
            progress: progress.clone(),
            made: BTreeSet::new(),
        }
    }

    /// Makes calls until told to stop.
    pub async fn work(mut self) -> Self {
        while !self.progress.stop.load(Ordering::Relaxed) {
            match self.choices.below(14) {
                0..=2 => self.put().await,
                3 => self.batch_put().await,
                4 => self.delete().await,
                5 => self.batch_delete().await,
                6 => self.delete_range().await,
                7 => self.get().await,
                8 => self.batch_get().await,
                9 => self.ttl().await,
                10 => self.scan().await,
                11 => self.scan_reverse().await,
                12 => self.batch_scan().await,
                _ => self.compare_and_swap().await,
            }
        }
        self
    }

    /// Reads all that the worker has written and compares.
    pub async fn check_all(&mut self) {
        let all = key(self.number, 0)..key(self.number, KEYS);
        let client = self.client.clone();
        let found = self.call("scan", || client.scan(all.clone(), KEYS as u32 + 1)).await;
        assert_eq!(pairs(found), self.expected(&all), "worker {}", self.number);
    }

    /// Makes a call until it succeeds.
    async fn call<T, W: Future<Output = Result<T, Error>>>(
        &mut self,
        name: &'static str,
        call: impl Fn() -> W,
    ) -> T {
        self.made.insert(name);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match tokio::time::timeout(PATIENCE, call()).await.expect("the crate gives up by itself") {
                Ok(done) => {
                    self.progress.calls.fetch_add(1, Ordering::Relaxed);
                    return done;
                }
                Err(error) if Instant::now() > deadline => panic!("{name}: {error:?}"),
                Err(_) => {
                    self.progress.failures.fetch_add(1, Ordering::Relaxed);
                    pace_retry().await;
                }
            }
        }
    }

    fn any_key(&mut self) -> String {
        key(self.number, self.choices.below(KEYS))
    }

    /// Two to 25 keys, without repetition.
    fn any_keys(&mut self) -> BTreeSet<String> {
        let count = 2 + self.choices.below(24);
        (0..count).map(|_| self.any_key()).collect()
    }

    fn any_range(&mut self) -> Range<String> {
        let (a, b) = (self.choices.below(KEYS + 1), self.choices.below(KEYS + 1));
        key(self.number, a.min(b))..key(self.number, a.max(b))
    }

    /// A value that no other write has; now and then nothing at all.
    fn new_value(&mut self) -> Vec<u8> {
        if self.choices.below(20) == 0 {
            return Vec::new();
        }
        self.unique_value()
    }

    fn unique_value(&mut self) -> Vec<u8> {
        self.values += 1;
        let mut value = format!("{}:{}:", self.number, self.values).into_bytes();
        value.resize(value.len() + self.choices.below(1_500) as usize, b'.');
        value
    }

    fn expected(&self, range: &Range<String>) -> Vec<(String, String)> {
        if range.is_empty() {
            return Vec::new();
        }
        self.model.range(range.clone()).map(|(key, entry)| (key.clone(), summary(&entry.value))).collect()
    }

    fn value(&self, key: &str) -> Option<Vec<u8>> {
        self.model.get(key).map(|entry| entry.value.clone())
    }

    async fn put(&mut self) {
        let (key, value, expires) = (self.any_key(), self.new_value(), self.choices.below(3) == 0);
        let client = self.client.clone();
        if expires {
            self.call("put_with_ttl", || client.put_with_ttl(key.clone(), value.clone(), LONG_TTL_S)).await;
        } else {
            self.call("put", || client.put(key.clone(), value.clone())).await;
        }
        self.model.insert(key, Entry { value, expires });
    }

    async fn batch_put(&mut self) {
        let progress = self.progress.clone();
        let Ok(_batch) = progress.batches.try_read() else { return self.put().await };
        let with_ttl = self.choices.below(2) == 0;
        let mut batch = BTreeMap::new();
        for key in self.any_keys() {
            let expires = with_ttl && self.choices.below(2) == 0;
            batch.insert(key, Entry { value: self.new_value(), expires });
        }
        let all = || batch.iter().map(|(key, entry)| (key.clone(), entry.value.clone()));
        let ttls = || batch.values().map(|entry| if entry.expires { LONG_TTL_S } else { 0 });
        let client = self.client.clone();
        if with_ttl {
            let call = || client.batch_put_with_ttl(all(), ttls().collect::<Vec<_>>());
            self.call("batch_put_with_ttl", call).await;
        } else {
            self.call("batch_put", || client.batch_put(all())).await;
        }
        self.model.extend(batch);
    }

    async fn delete(&mut self) {
        let key = self.any_key();
        let client = self.client.clone();
        self.call("delete", || client.delete(key.clone())).await;
        self.model.remove(&key);
    }

    async fn batch_delete(&mut self) {
        let progress = self.progress.clone();
        let Ok(_batch) = progress.batches.try_read() else { return self.delete().await };
        let keys = self.any_keys();
        let client = self.client.clone();
        self.call("batch_delete", || client.batch_delete(keys.clone())).await;
        self.model.retain(|key, _| !keys.contains(key));
    }

    async fn delete_range(&mut self) {
        let range = self.any_range();
        // An empty range would be refused, and a wide one would leave nothing to look at.
        if range.is_empty() || self.expected(&range).len() > 15 {
            return;
        }
        let client = self.client.clone();
        self.call("delete_range", || client.delete_range(range.clone())).await;
        self.model.retain(|key, _| !range.contains(key));
    }

    async fn get(&mut self) {
        let key = self.any_key();
        let client = self.client.clone();
        let found = self.call("get", || client.get(key.clone())).await;
        assert_eq!(found.as_deref().map(summary), self.value(&key).as_deref().map(summary), "get {key}");
    }

    async fn batch_get(&mut self) {
        let keys = self.any_keys();
        let client = self.client.clone();
        let found = self.call("batch_get", || client.batch_get(keys.clone())).await;
        let found: BTreeMap<_, _> = pairs(found).into_iter().collect();
        let value = |key: &String| self.value(key).map(|value| (key.clone(), summary(&value)));
        assert_eq!(found, keys.iter().filter_map(value).collect(), "batch_get {keys:?}");
    }

    async fn ttl(&mut self) {
        let key = self.any_key();
        let client = self.client.clone();
        let found = self.call("get_key_ttl_secs", || client.get_key_ttl_secs(key.clone())).await;
        let is_right = match (self.model.get(&key), found) {
            (None, None) => true,
            (Some(entry), Some(0)) => !entry.expires,
            (Some(entry), Some(ttl)) => entry.expires && (LONG_TTL_S - 600..=LONG_TTL_S).contains(&ttl),
            _ => false,
        };
        let expires = self.model.get(&key).map(|entry| entry.expires);
        assert!(is_right, "ttl of {key}: {found:?}, {expires:?}");
    }

    async fn scan(&mut self) {
        let range = self.any_range();
        let limit = 1 + self.choices.below(KEYS + 10);
        let mut wanted = self.expected(&range);
        wanted.truncate(limit as usize);
        let client = self.client.clone();
        if self.choices.below(2) == 0 {
            let found = self.call("scan", || client.scan(range.clone(), limit as u32)).await;
            assert_eq!(pairs(found), wanted, "scan {range:?} limit {limit}");
        } else {
            let found = self.call("scan_keys", || client.scan_keys(range.clone(), limit as u32)).await;
            let found: Vec<String> = found.into_iter().map(text).collect();
            let wanted: Vec<String> = wanted.into_iter().map(|(key, _)| key).collect();
            assert_eq!(found, wanted, "scan_keys {range:?} limit {limit}");
        }
    }

    async fn scan_reverse(&mut self) {
        let first = self.choices.below(KEYS / KEYS_PER_REGION) * KEYS_PER_REGION;
        let (a, b) = (self.choices.below(KEYS_PER_REGION + 1), self.choices.below(KEYS_PER_REGION + 1));
        let range = key(self.number, first + a.min(b))..key(self.number, first + a.max(b));
        if range.is_empty() {
            return;
        }
        let limit = 1 + self.choices.below(KEYS_PER_REGION);
        let wanted: Vec<_> = self.expected(&range).into_iter().rev().take(limit as usize).collect();
        let client = self.client.clone();
        if self.choices.below(2) == 0 {
            let found = self.call("scan_reverse", || client.scan_reverse(range.clone(), limit as u32)).await;
            assert_eq!(pairs(found), wanted, "scan_reverse {range:?} limit {limit}");
        } else {
            let call = || client.scan_keys_reverse(range.clone(), limit as u32);
            let found = self.call("scan_keys_reverse", call).await;
            let found: Vec<String> = found.into_iter().map(text).collect();
            let wanted: Vec<String> = wanted.into_iter().map(|(key, _)| key).collect();
            assert_eq!(found, wanted, "scan_keys_reverse {range:?} limit {limit}");
        }
    }

    /// The crate applies the limit to each region's part of a range, so the limit is above all that there is.
    async fn batch_scan(&mut self) {
        let middle = key(self.number, KEYS / 2);
        let (low, high) = (self.any_range(), self.any_range());
        let clip = |range: Range<String>, from: &str, to: &str| {
            range.start.max(from.to_owned())..range.end.min(to.to_owned())
        };
        let low = clip(low, "", &middle);
        let high = clip(high, &middle, "n");
        let ranges: Vec<_> = [low, high].into_iter().filter(|range| !range.is_empty()).collect();
        if ranges.is_empty() {
            return;
        }
        let wanted: Vec<_> = ranges.iter().flat_map(|range| self.expected(range)).collect();
        let client = self.client.clone();
        if self.choices.below(2) == 0 {
            let found = self.call("batch_scan", || client.batch_scan(ranges.clone(), KEYS as u32)).await;
            let mut found = pairs(found);
            found.sort();
            assert_eq!(found, wanted, "batch_scan {ranges:?}");
        } else {
            let call = || client.batch_scan_keys(ranges.clone(), KEYS as u32);
            let mut found: Vec<String> =
                self.call("batch_scan_keys", call).await.into_iter().map(text).collect();
            found.sort();
            let wanted: Vec<String> = wanted.into_iter().map(|(key, _)| key).collect();
            assert_eq!(found, wanted, "batch_scan_keys {ranges:?}");
        }
    }

    async fn compare_and_swap(&mut self) {
        let (key, value) = (self.any_key(), self.unique_value());
        let actual = self.value(&key);
        let previous = match self.choices.below(4) {
            0 => None,
            1 => Some(b"never written".to_vec()),
            _ => actual.clone(),
        };
        let client = self.atomic.clone();
        let call = || client.compare_and_swap(key.clone(), previous.clone(), value.clone());
        let (found, swapped) = self.call("compare_and_swap", call).await;
        // The crate repeats a swap whose answer got lost, and then meets its own value.
        let swapped_before = !swapped && found.as_ref() == Some(&value);
        if !swapped_before {
            let wanted = (actual.as_deref().map(summary), previous == actual);
            assert_eq!((found.as_deref().map(summary), swapped), wanted, "compare_and_swap {key}");
        }
        if swapped || swapped_before {
            assert!(previous == actual, "compare_and_swap {key} with the wrong value");
            self.model.insert(key, Entry { value, expires: false });
        }
    }
}
