//! Clients that write, read and scan during the chaos, each sure of what it must find.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flotilla_region::KeyRange;
use flotilla_router::{Client, ClientOptions, Error, RetryPolicy, Scan};
use tikv_client::RawClient;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::registers::{Holdings, Registers, anchor};
use crate::harness::{PATIENCE, wait_for};
use crate::ledger::value;
use crate::load::{WRITE_LIMIT, connect, pace_retry, runtime, within};
use crate::model::Choices;

/// Clients that know the outcome of each write.
const WORKERS: u64 = 6;
/// Unmodified `tikv-client`s, which repeat writes by themselves: each key is written once.
const NEWCOMERS: u64 = 2;
/// Between two calls of a client: the test is about faults, not about a full machine.
const PACE: Duration = Duration::from_millis(3);
/// An attempt that ends without an answer was cut off by a fault.
const RPC_TIMEOUT: Duration = Duration::from_secs(10);
/// Slots of one scan by a worker.
const SCAN_SLOTS: u64 = 60;
/// Keys of one page of a walk.
const PAGE_KEYS: usize = 500;
/// Pairs of one batch while the anchors are written.
const ANCHORS_PER_BATCH: usize = 200;

/// Leaves the machine to others for a moment.
async fn pace_call() {
    tokio::time::sleep(PACE).await;
}

/// What happened, seen from outside.
#[derive(Default)]
pub struct Progress {
    /// Keys written or removed, as acknowledged.
    pub acks: AtomicU64,
    /// Writes of unknown outcome.
    pub unknown: AtomicU64,
    /// Calls given up that changed nothing.
    pub given_up: AtomicU64,
    /// Reads and scans that were compared.
    pub reads: AtomicU64,
    /// Walks over all keys.
    pub walks: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    fn count(counter: &AtomicU64, more: usize) {
        counter.fetch_add(more as u64, Ordering::Relaxed);
    }
}

/// Running clients.
pub struct Clients {
    runtime: Runtime,
    tasks: JoinSet<Holdings>,
    /// What they did.
    pub progress: Arc<Progress>,
}

/// A client that says so when it does not know the outcome of a write.
///
/// # Panics
/// The cluster is not found.
pub fn sure_client(runtime: &Runtime, addresses: &[String], seed: u64) -> Client {
    let retry = RetryPolicy { retry_undetermined_writes: false, ..RetryPolicy::default() };
    let options = ClientOptions { retry, rpc_timeout: RPC_TIMEOUT, seed, ..ClientOptions::default() };
    wait_for("a client finds the cluster", PATIENCE, || {
        let client = runtime.block_on(Client::connect_with(addresses, options.clone()));
        client.map_err(|error| error.to_string())
    })
}

impl Clients {
    /// Writes the anchors, then starts all clients on `slots` slots.
    pub fn start(addresses: &[String], slots: u64, seed: u64) -> Self {
        let runtime = runtime();
        let progress = Arc::new(Progress::default());
        let client = sure_client(&runtime, addresses, seed);
        let anchors: Holdings = (0..slots).map(|slot| (anchor(slot), vec![Some(0)])).collect();
        runtime.block_on(write_anchors(&client, &anchors));
        let mut tasks = JoinSet::new();
        for number in 0..WORKERS {
            let worker = Worker {
                number,
                client: sure_client(&runtime, addresses, seed + number),
                registers: Registers::new((0..slots).filter(|slot| slot % WORKERS == number)),
                choices: Choices::new(seed + number),
                progress: progress.clone(),
            };
            tasks.spawn_on(worker.work(slots), runtime.handle());
        }
        for number in 0..NEWCOMERS {
            let newcomer = Newcomer {
                number,
                client: connect(&runtime, addresses),
                choices: Choices::new(seed + WORKERS + number),
                written: Holdings::new(),
                progress: progress.clone(),
            };
            tasks.spawn_on(newcomer.work(slots), runtime.handle());
        }
        tasks.spawn_on(walk(client, anchors, progress.clone()), runtime.handle());
        Self { runtime, tasks, progress }
    }

    /// Fails if a client found something wrong.
    ///
    /// # Panics
    /// One did.
    pub fn check(&mut self) {
        if let Some(ended) = self.tasks.try_join_next() {
            panic!("a client ended: {ended:?}");
        }
    }

    /// Ends the clients once each has its last answer: what is to be found.
    ///
    /// # Panics
    /// A client found something wrong.
    pub fn stop(mut self) -> Holdings {
        self.progress.stop.store(true, Ordering::Relaxed);
        let mut all = Holdings::new();
        while let Some(ended) = self.runtime.block_on(self.tasks.join_next()) {
            all.extend(ended.expect("a client found nothing wrong"));
        }
        self.runtime.shutdown_background();
        all
    }
}

async fn write_anchors(client: &Client, anchors: &Holdings) {
    let pairs: Vec<(Bytes, Bytes)> =
        anchors.keys().map(|key| (key.clone().into(), value(key, 0).into())).collect();
    for pairs in pairs.chunks(ANCHORS_PER_BATCH) {
        while client.batch_put(pairs.to_vec(), 0).await.is_err() {
            pace_retry().await;
        }
    }
}

/// Walks over all keys again and again: always in order, and each anchor once. Returns the anchors.
async fn walk(client: Client, anchors: Holdings, progress: Arc<Progress>) -> Holdings {
    let all: Vec<Bytes> = anchors.keys().map(|key| key.clone().into()).collect();
    while !progress.stop.load(Ordering::Relaxed) {
        let mut scanner = client.scanner(Scan::forward(KeyRange::ALL).keys_only());
        let mut found: Vec<Bytes> = Vec::new();
        loop {
            match scanner.next_page(PAGE_KEYS).await {
                Ok(None) => break,
                Ok(Some(page)) => found.extend(page.into_iter().map(|(key, _)| key)),
                Err(_) => Progress::count(&progress.given_up, 1),
            }
            if progress.stop.load(Ordering::Relaxed) {
                return anchors;
            }
            pace_call().await;
        }
        let twisted = found.windows(2).find(|pair| pair[0] >= pair[1]);
        assert_eq!(twisted, None, "a key is there twice or out of order");
        found.retain(|key| anchors.contains_key(&*String::from_utf8_lossy(key)));
        let missing = all.iter().find(|key| found.binary_search(key).is_err());
        assert_eq!(missing, None, "a walk over all keys misses one");
        Progress::count(&progress.walks, 1);
    }
    anchors
}

/// The only writer of its slots.
struct Worker {
    number: u64,
    client: Client,
    registers: Registers,
    choices: Choices,
    progress: Arc<Progress>,
}

impl Worker {
    async fn work(mut self, slots: u64) -> Holdings {
        while !self.progress.stop.load(Ordering::Relaxed) {
            match self.choices.below(12) {
                0..=3 => self.put().await,
                4 => self.delete().await,
                5 | 6 => self.batch_put().await,
                7 | 8 => self.compare_and_swap().await,
                9 | 10 => self.get().await,
                _ => self.scan(slots).await,
            }
            pace_call().await;
        }
        self.registers.into_holdings()
    }

    fn any(&mut self) -> u64 {
        self.choices.below(self.registers.count())
    }

    /// Notes the outcome of a write of one key.
    fn note(&mut self, i: u64, number: Option<u64>, outcome: Result<(), Error>) {
        match outcome {
            Ok(()) => {
                self.registers.acked(i, number);
                Progress::count(&self.progress.acks, 1);
            }
            Err(Error::Exhausted { .. }) => Progress::count(&self.progress.given_up, 1),
            Err(Error::Undetermined { .. }) => {
                self.registers.lost_sight(i, number);
                Progress::count(&self.progress.unknown, 1);
            }
            Err(error) => panic!("worker {}: {}: {error}", self.number, self.registers.key(i)),
        }
    }

    async fn put(&mut self) {
        let i = self.any();
        let (number, value) = self.registers.next_write(i);
        let outcome = self.client.put(self.registers.key(i), value, 0).await;
        self.note(i, Some(number), outcome);
    }

    async fn delete(&mut self) {
        let i = self.any();
        let outcome = self.client.delete(self.registers.key(i)).await;
        self.note(i, None, outcome);
    }

    async fn batch_put(&mut self) {
        let slots: BTreeSet<u64> = (0..2 + self.choices.below(7)).map(|_| self.any()).collect();
        let writes: Vec<_> = slots.into_iter().map(|i| (i, self.registers.next_write(i))).collect();
        let pairs = writes
            .iter()
            .map(|(i, (_, value))| (self.registers.key(*i).into(), value.clone().into()))
            .collect::<Vec<(Bytes, Bytes)>>();
        match self.client.batch_put(pairs, 0).await {
            Ok(()) => writes.into_iter().for_each(|(i, (number, _))| self.note(i, Some(number), Ok(()))),
            // Any part of it may have taken place.
            Err(Error::Exhausted { last, .. } | Error::Undetermined { last }) => {
                for (i, (number, _)) in writes {
                    self.note(i, Some(number), Err(Error::Undetermined { last }));
                }
            }
            Err(error) => panic!("worker {}: a batch: {error}", self.number),
        }
    }

    async fn compare_and_swap(&mut self) {
        let i = self.any();
        let (key, actual) = (self.registers.key(i), self.registers.value(i));
        let is_right = self.choices.below(4) > 0;
        let expected = if is_right { actual.clone() } else { Some(b"never written".to_vec()) };
        let (number, value) = self.registers.next_write(i);
        let (expected, new) = (expected.map(Bytes::from), Some(Bytes::from(value)));
        match self.client.compare_and_swap(key.clone(), expected, new, 0).await {
            Ok(done) => {
                let wanted = (is_right, actual.map(Bytes::from));
                assert!(
                    (done.swapped, &done.previous) == (wanted.0, &wanted.1),
                    "{key}: {done:?} {wanted:?}"
                );
                if done.swapped {
                    self.note(i, Some(number), Ok(()));
                }
                Progress::count(&self.progress.reads, 1);
            }
            Err(error) => self.note(i, Some(number), Err(error)),
        }
    }

    async fn get(&mut self) {
        let i = self.any();
        let key = self.registers.key(i);
        match self.client.get(key.clone()).await {
            Ok(found) => {
                let wanted = self.registers.value(i);
                assert!(found.as_deref() == wanted.as_deref(), "{key}: {found:?} instead of {wanted:?}");
                Progress::count(&self.progress.reads, 1);
            }
            Err(Error::Exhausted { .. }) => Progress::count(&self.progress.given_up, 1),
            Err(error) => panic!("{key}: {error}"),
        }
    }

    async fn scan(&mut self, slots: u64) {
        let first = self.choices.below(slots);
        let (from, to) = (anchor(first), anchor(first + self.choices.below(SCAN_SLOTS)));
        let range = KeyRange::new(from.clone(), to.clone());
        match self.client.scan(Scan::forward(range), usize::MAX).await {
            Ok(found) => {
                assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0), "{from} to {to}: {found:?}");
                let text = |key: Bytes| String::from_utf8(key.to_vec()).expect("written as text");
                let found = found.into_iter().map(|(key, value)| (text(key), value.to_vec()));
                let mine: BTreeMap<_, _> = found.filter(|(key, _)| self.registers.knows(key)).collect();
                let wanted = self.registers.settled(&from, &to);
                let wrong = wanted.iter().find(|(key, value)| mine.get(*key) != Some(value));
                let extra = mine.keys().find(|key| !wanted.contains_key(*key));
                assert!((wrong, extra) == (None, None), "{from} to {to}: {wrong:?} {extra:?} in {mine:?}");
                Progress::count(&self.progress.reads, 1);
            }
            Err(Error::Exhausted { .. }) => Progress::count(&self.progress.given_up, 1),
            Err(error) => panic!("a scan: {error}"),
        }
    }
}

/// Writes new keys all over the key space.
struct Newcomer {
    number: u64,
    client: RawClient,
    choices: Choices,
    written: Holdings,
    progress: Arc<Progress>,
}

impl Newcomer {
    async fn work(mut self, slots: u64) -> Holdings {
        for turn in 1.. {
            if self.progress.stop.load(Ordering::Relaxed) {
                break;
            }
            let key = format!("{}-{}-{turn:06}", anchor(self.choices.below(slots)), self.number);
            let outcome = within(WRITE_LIMIT, self.client.put(key.clone(), value(&key, turn))).await;
            let counter = if outcome.is_ok() { &self.progress.acks } else { &self.progress.unknown };
            Progress::count(counter, 1);
            let holds = if outcome.is_ok() { vec![Some(turn)] } else { vec![None, Some(turn)] };
            self.written.insert(key, holds);
            self.read_one().await;
            pace_call().await;
        }
        self.written
    }

    async fn read_one(&mut self) {
        let at = self.choices.below(self.written.len() as u64) as usize;
        let (key, holds) = self.written.iter().nth(at).expect("one was written");
        if let ([Some(number)], Ok(found)) =
            (&holds[..], within(WRITE_LIMIT, self.client.get(key.clone())).await)
        {
            assert!(found == Some(value(key, *number)), "{key}: {found:?} instead of write {number}");
            Progress::count(&self.progress.reads, 1);
        }
    }
}
