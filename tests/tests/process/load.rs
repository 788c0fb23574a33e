//! Writers that note in a [`Ledger`] what was acknowledged, and the reader that compares.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tikv_client::RawClient;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::harness::{PATIENCE, wait_for};
use crate::ledger::{Ledger, Violation};

/// Writers at a time.
const WRITERS: usize = 24;
/// Every so many-th write goes to a new key; the others overwrite one of a few.
const NEW_KEY_EVERY: u64 = 2;
const OVERWRITTEN_KEYS: u64 = 4;
/// A write without an answer for so long has an unknown outcome.
pub const WRITE_LIMIT: Duration = Duration::from_secs(8);
/// Writers that are told to stop while their stores are gone may be in the middle of an attempt.
const STOP_LIMIT: Duration = Duration::from_millis(500);
/// Keys of one batch when all are read back.
const READ_KEYS: usize = 200;

/// A runtime for clients.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// A client that has found the cluster.
///
/// # Panics
/// It does not within the limit.
pub fn connect(runtime: &Runtime, addresses: &[String]) -> RawClient {
    wait_for("a client finds the cluster", PATIENCE, || {
        let client = runtime.block_on(within(WRITE_LIMIT, RawClient::new(addresses.to_vec())));
        client.map_err(|why| format!("{addresses:?}: {why}"))
    })
}

/// What came back within a time.
///
/// # Errors
/// The crate's words, or that there was no answer.
pub async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, tikv_client::Error>>,
) -> Result<T, String> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer in {limit:?}")),
    }
}

/// Keys that divide what the writers write into regions of about the same size.
pub fn split_keys() -> [&'static str; 5] {
    ["w04", "w08", "w12", "w16", "w20"]
}

/// Running writers. Each has its own keys.
pub struct Load {
    runtime: Runtime,
    stop: Arc<AtomicBool>,
    writers: JoinSet<()>,
    ledger: Arc<Ledger>,
}

impl Load {
    /// Starts to write.
    pub fn start(addresses: &[String], ledger: &Arc<Ledger>) -> Self {
        let runtime = runtime();
        let client = connect(&runtime, addresses);
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let writing = write_until_told(writer, client.clone(), ledger.clone(), stop.clone());
            writers.spawn_on(writing, runtime.handle());
        }
        ledger.reset_gap();
        Self { runtime, stop, writers, ledger: ledger.clone() }
    }

    /// Waits until that many more writes are acknowledged.
    ///
    /// # Panics
    /// It takes too long.
    pub fn wait_acks(&self, more: u64) {
        let wanted = self.ledger.acks() + more;
        wait_for("writes are acknowledged", PATIENCE, || match self.ledger.acks() {
            acks if acks >= wanted => Ok(()),
            acks => Err(format!("{acks} of {wanted}")),
        });
    }

    /// Ends the writers; attempts that are under way have an unknown outcome.
    pub fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let all = async { while self.writers.join_next().await.is_some_and(|ended| ended.is_ok()) {} };
        // A writer that did not end is in an attempt, which is in the ledger as tried.
        let _ = self.runtime.block_on(async { tokio::time::timeout(STOP_LIMIT, all).await });
        self.runtime.shutdown_background();
    }
}

async fn write_until_told(writer: usize, client: RawClient, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
    // Keys of earlier loads on the same ledger are not new any more.
    let first = ledger.acks() + 1;
    for turn in first.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let key = match turn % NEW_KEY_EVERY {
            0 => format!("w{writer:02}/new/{first:08}-{turn:08}"),
            _ => format!("w{writer:02}/old/{}", turn / NEW_KEY_EVERY % OVERWRITTEN_KEYS),
        };
        let (number, value) = ledger.begin(&key);
        match within(WRITE_LIMIT, client.put(key.clone(), value)).await {
            Ok(()) => ledger.ack(&key, number),
            Err(_) => pace_retry().await,
        }
    }
}

/// A client whose stores are gone does not spin.
pub async fn pace_retry() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Reads every key of the ledger and compares.
///
/// # Panics
/// A key cannot be read within the limit.
pub fn verify(addresses: &[String], ledger: &Ledger) -> Vec<Violation> {
    let runtime = runtime();
    let client = connect(&runtime, addresses);
    let keys = ledger.keys();
    let mut violations = Vec::new();
    for keys in keys.chunks(READ_KEYS) {
        let read = runtime.block_on(wait_batch_get(&client, keys));
        let check = |key: &String| ledger.check(key, read.get(key.as_bytes()).map(Vec::as_slice));
        violations.extend(keys.iter().filter_map(check));
    }
    runtime.shutdown_background();
    violations
}

async fn wait_batch_get(client: &RawClient, keys: &[String]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match within(WRITE_LIMIT, client.batch_get(keys.to_vec())).await {
            Ok(pairs) => return pairs.into_iter().map(|pair| (pair.0.into(), pair.1)).collect(),
            Err(why) if Instant::now() > deadline => panic!("{} keys from {}: {why}", keys.len(), keys[0]),
            Err(_) => pace_retry().await,
        }
    }
}
