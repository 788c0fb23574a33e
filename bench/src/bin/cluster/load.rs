//! The load: closed-loop clients, each with one operation under way, uniformly over a fixed set of keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::client::{Cluster, Request};

/// Pairs in one request while the keys are filled in.
const FILL_BATCH: usize = 64;
/// Batches under way while the keys are filled in.
const FILL_CLIENTS: usize = 8;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Overwrites a key.
    Put,
    /// Reads a key and checks the length of its value.
    Get,
}

/// Keys and values.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Data {
    /// Number of keys; each has 16 bytes.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
}

impl Data {
    /// The key with this number; keys are in the order of their numbers.
    pub fn key(self, number: u64) -> Bytes {
        Bytes::from(format!("k{number:015}"))
    }

    /// A buffer that values are cut from, of bytes that do not compress.
    fn noise(self) -> Bytes {
        let mut random = Random::new(7);
        let words = (self.value_bytes + 4096) / 8 + 1;
        Bytes::from((0..words).flat_map(|_| random.next().to_le_bytes()).collect::<Vec<u8>>())
    }

    /// A value cut from `noise`.
    fn value(self, noise: &Bytes, random: &mut Random) -> Bytes {
        let at = random.below(4096) as usize;
        noise.slice(at..at + self.value_bytes)
    }
}

/// splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// One measured run.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What the clients did.
    pub op: Op,
    /// Clients at the same time.
    pub clients: usize,
    /// Measured time, warm-up aside.
    pub seconds: f64,
    /// Operations that began and succeeded in it.
    pub ops: u64,
    /// Operations per second.
    pub ops_per_s: f64,
    /// Median latency in microseconds, retries included.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
    /// Operations given up, or gets that found nothing or a value of another length.
    pub errors: u64,
    /// Tries beyond the first.
    pub retries: u64,
    /// One of the errors.
    pub error_example: Option<String>,
}

/// What one client counted.
struct Tally {
    latencies: Histogram<u64>,
    errors: u64,
    retries: u64,
    error_example: Option<String>,
}

impl Tally {
    fn new() -> Tally {
        let latencies = Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are in order");
        Tally { latencies, errors: 0, retries: 0, error_example: None }
    }

    fn fail(&mut self, reason: String) {
        self.errors += 1;
        self.error_example.get_or_insert(reason);
    }

    fn merge(&mut self, other: Tally) {
        self.latencies.add(&other.latencies).expect("all tallies have the same bounds");
        self.errors += other.errors;
        self.retries += other.retries;
        self.error_example = self.error_example.take().or(other.error_example);
    }
}

/// Which operation, how many clients, how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What the clients do.
    pub op: Op,
    /// Clients at the same time.
    pub clients: usize,
    /// Time before counting begins.
    pub warmup: Duration,
    /// Counted time.
    pub measured: Duration,
}

/// Runs the plan and adds up what its clients counted.
pub async fn run(cluster: &Arc<Cluster>, data: Data, plan: Plan) -> Outcome {
    let noise = data.noise();
    let from = Instant::now() + plan.warmup;
    let until = from + plan.measured;
    let mut clients = JoinSet::new();
    for number in 0..plan.clients {
        let (cluster, noise) = (cluster.clone(), noise.clone());
        clients.spawn(async move {
            let mut random = Random::new(1_000 + number as u64);
            let mut tally = Tally::new();
            while Instant::now() < until {
                one(&cluster, data, plan.op, &noise, &mut random, from, &mut tally).await;
            }
            tally
        });
    }
    let mut total = Tally::new();
    while let Some(tally) = clients.join_next().await {
        total.merge(tally.expect("a client task does not panic"));
    }
    let seconds = from.elapsed().as_secs_f64();
    let latencies = &total.latencies;
    Outcome {
        op: plan.op,
        clients: plan.clients,
        seconds,
        ops: latencies.len(),
        ops_per_s: (latencies.len() as f64 / seconds).round(),
        p50_us: latencies.value_at_quantile(0.50),
        p99_us: latencies.value_at_quantile(0.99),
        max_us: latencies.max(),
        errors: total.errors,
        retries: total.retries,
        error_example: total.error_example,
    }
}

/// One operation of one client, counted if it began after `from`.
async fn one(
    cluster: &Cluster,
    data: Data,
    op: Op,
    noise: &Bytes,
    random: &mut Random,
    from: Instant,
    tally: &mut Tally,
) {
    let key = data.key(random.below(data.keys));
    let request = match op {
        Op::Put => Request::Put(key, data.value(noise, random)),
        Op::Get => Request::Get(key),
    };
    let started = Instant::now();
    let done = cluster.call(&request).await;
    if started < from {
        return;
    }
    match done {
        Err(reason) => tally.fail(reason),
        Ok(done) => {
            tally.retries += done.retries;
            let length = done.value.map(|value| value.len());
            if op == Op::Get && length != Some(data.value_bytes) {
                tally.fail(format!("read a value of {length:?} bytes"));
            } else {
                tally.latencies.saturating_record(started.elapsed().as_micros() as u64);
            }
        }
    }
}

/// Writes every key once.
///
/// # Errors
/// The first batch that was given up.
pub async fn fill(cluster: &Arc<Cluster>, data: Data) -> Result<(), String> {
    let noise = data.noise();
    let mut random = Random::new(42);
    let mut under_way = JoinSet::new();
    let mut batch: Vec<(Bytes, Bytes)> = Vec::new();
    for number in 0..=data.keys {
        let key = data.key(number);
        let ends = batch.len() == FILL_BATCH || number == data.keys || leaves_region(cluster, &batch, &key);
        if ends && !batch.is_empty() {
            let (cluster, batch) = (cluster.clone(), std::mem::take(&mut batch));
            under_way.spawn(async move { write_batch(&cluster, batch).await });
        }
        if under_way.len() >= FILL_CLIENTS
            && let Some(done) = under_way.join_next().await
        {
            done.expect("a filling task does not panic")?;
        }
        batch.push((key, data.value(&noise, &mut random)));
    }
    while let Some(done) = under_way.join_next().await {
        done.expect("a filling task does not panic")?;
    }
    Ok(())
}

/// Writes pairs of one region; one by one if they turn out to be of several.
async fn write_batch(cluster: &Cluster, batch: Vec<(Bytes, Bytes)>) -> Result<(), String> {
    if cluster.call(&Request::BatchPut(batch.clone())).await.is_ok() {
        return Ok(());
    }
    for (key, value) in batch {
        cluster.call(&Request::Put(key, value)).await?;
    }
    Ok(())
}

/// Whether `key` lies beyond the region of the batch's first key.
fn leaves_region(cluster: &Cluster, batch: &[(Bytes, Bytes)], key: &Bytes) -> bool {
    let Some((first, _)) = batch.first() else { return false };
    cluster.route(first).is_none_or(|route| !route.region.end_key.is_empty() && *key >= route.region.end_key)
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
