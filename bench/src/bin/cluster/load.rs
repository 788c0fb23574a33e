//! The load: closed-loop clients, each with one operation under way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use flotilla_bench::latency::Latencies;
use tokio::task::JoinSet;

use crate::client::{Cluster, Done, Request};
use crate::echo::Echoes;
use crate::etcd::Etcd;

/// Pairs in one request while the keys are filled in.
const FILL_BATCH: usize = 64;
/// Batches under way while the keys are filled in.
const FILL_CLIENTS: usize = 8;
/// Writes under way while a system without batches is filled.
const FILL_WRITERS: usize = 256;

/// What clients of a plain load do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Op {
    /// Overwrites a key.
    Put,
    /// Reads a key and checks the length of its value.
    Get,
}

/// Keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// First letter of the keys.
    pub prefix: char,
    /// Number of keys; each has 16 bytes.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
}

const NOISE_BYTES: usize = 1 << 20;

/// Where values are cut from: bytes that do not compress, and so many that values beside each other in a block share
/// few.
#[derive(Clone, Debug)]
pub struct Noise(Bytes);

impl Noise {
    /// A value of so many bytes.
    pub fn value(&self, value_bytes: usize, random: &mut Random) -> Bytes {
        let at = random.below(NOISE_BYTES as u64) as usize;
        self.0.slice(at..at + value_bytes)
    }
}

impl Data {
    /// Keys that begin with `k`.
    pub fn new(keys: u64, value_bytes: usize) -> Data {
        Data { prefix: 'k', keys, value_bytes }
    }

    /// The key with this number; keys are in the order of their numbers.
    pub fn key(self, number: u64) -> Bytes {
        Bytes::from(format!("{}{number:015}", self.prefix))
    }

    /// Bytes for its values.
    pub fn noise(self) -> Noise {
        let mut random = Random::new(7);
        let words = (self.value_bytes + NOISE_BYTES) / 8 + 1;
        Noise(Bytes::from((0..words).flat_map(|_| random.next().to_le_bytes()).collect::<Vec<u8>>()))
    }

    /// Keys that cut the data into `parts` parts of the same size.
    pub fn cuts(self, parts: u64) -> Vec<Bytes> {
        (1..parts).map(|part| self.key(self.keys * part / parts)).collect()
    }
}

/// splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number of `[0, 1)`.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What a client does next.
#[derive(Clone, Debug)]
pub enum Action {
    /// Writes a pair.
    Put(Bytes, Bytes),
    /// Writes the key with this number, which does not exist.
    Insert(u64, Bytes, Bytes),
    /// Reads a key, whose value must have so many bytes.
    Get(Bytes, usize),
    /// Reads so many pairs from a key on.
    Scan(Bytes, usize),
    /// Reads a key and writes it anew.
    Modify(Bytes, Bytes),
    /// Writes pairs that should lie in one region.
    BatchPut(Vec<(Bytes, Bytes)>),
}

/// What clients do.
pub trait Workload: Send + Sync + 'static {
    /// The next action, and what it is counted as.
    fn next(&self, random: &mut Random) -> (&'static str, Action);

    /// The key with this number was inserted.
    fn on_inserted(&self, _number: u64) {}
}

/// One kind of operation, uniformly over the keys.
pub struct Uniform {
    data: Data,
    noise: Noise,
    op: Op,
}

impl Uniform {
    /// Over the keys of `data`.
    pub fn new(data: Data, op: Op) -> Uniform {
        Uniform { data, noise: data.noise(), op }
    }
}

impl Workload for Uniform {
    fn next(&self, random: &mut Random) -> (&'static str, Action) {
        let key = self.data.key(random.below(self.data.keys));
        match self.op {
            Op::Put => ("put", Action::Put(key, self.noise.value(self.data.value_bytes, random))),
            Op::Get => ("get", Action::Get(key, self.data.value_bytes)),
        }
    }
}

/// The system under load.
#[derive(Clone)]
pub enum Target {
    /// Ours.
    Flotilla(Arc<Cluster>),
    /// A peer.
    Etcd(Arc<Etcd>),
    /// Calls without a store behind them.
    Echo(Arc<Echoes>),
}

impl Target {
    /// Carries out an action. Returns the tries beyond the first.
    async fn carry_out(&self, action: Action) -> Result<u64, String> {
        match (self, action) {
            (Target::Flotilla(cluster), action) => on_flotilla(cluster, action).await,
            (Target::Etcd(etcd), Action::Put(key, value)) => etcd.put(key, value).await.map(|()| 0),
            (Target::Etcd(etcd), Action::Get(key, value_bytes)) => {
                check_length(etcd.get(key).await?, value_bytes).map(|()| 0)
            }
            (Target::Echo(echoes), Action::Get(key, value_bytes)) => {
                check_length(Some(echoes.get(key).await?), value_bytes).map(|()| 0)
            }
            (Target::Etcd(_) | Target::Echo(_), _) => Err("this load is not for this target".into()),
        }
    }
}

async fn on_flotilla(cluster: &Cluster, action: Action) -> Result<u64, String> {
    let done: Done = match action {
        Action::Put(key, value) | Action::Insert(_, key, value) => {
            cluster.call(&Request::Put(key, value)).await?
        }
        Action::BatchPut(pairs) => cluster.call(&Request::BatchPut(pairs)).await?,
        Action::Get(key, value_bytes) => {
            let done = cluster.call(&Request::Get(key)).await?;
            check_length(done.value.clone(), value_bytes)?;
            done
        }
        Action::Scan(start, limit) => {
            let done = cluster.scan(&start, limit).await?;
            if done.pairs == 0 {
                return Err("a scan found nothing".into());
            }
            done
        }
        Action::Modify(key, value) => {
            let read = cluster.call(&Request::Get(key.clone())).await?;
            check_length(read.value, value.len())?;
            let done = cluster.call(&Request::Put(key, value)).await?;
            Done { retries: done.retries + read.retries, ..done }
        }
    };
    Ok(done.retries)
}

fn check_length(value: Option<Bytes>, wanted: usize) -> Result<(), String> {
    match value.map(|value| value.len()) {
        Some(length) if length == wanted => Ok(()),
        length => Err(format!("read a value of {length:?} bytes")),
    }
}

/// One measured run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Measured time, warm-up aside.
    pub seconds: f64,
    /// Operations that began and succeeded in it, by kind; retries are part of a latency.
    pub kinds: BTreeMap<&'static str, Latencies>,
    /// Operations given up, or reads that found nothing or a value of another length.
    pub errors: u64,
    /// Tries beyond the first.
    pub retries: u64,
    /// One of the errors.
    pub error_example: Option<String>,
}

impl Outcome {
    /// Latencies of all kinds together.
    pub fn all(&self) -> Latencies {
        let mut all = Latencies::default();
        self.kinds.values().for_each(|kind| all.add(kind));
        all
    }

    /// Operations.
    pub fn ops(&self) -> u64 {
        self.kinds.values().map(Latencies::count).sum()
    }

    /// Operations a second.
    pub fn ops_per_s(&self) -> f64 {
        if self.seconds > 0.0 { self.ops() as f64 / self.seconds } else { 0.0 }
    }

    /// Errors as a sentence.
    ///
    /// # Errors
    /// There were some.
    pub fn check(&self) -> Result<(), String> {
        match &self.error_example {
            None => Ok(()),
            Some(example) => Err(format!("{} operations failed, one of them: {example}", self.errors)),
        }
    }

    fn fail(&mut self, reason: String) {
        self.errors += 1;
        self.error_example.get_or_insert(reason);
    }

    fn merge(&mut self, other: Outcome) {
        for (kind, latencies) in other.kinds {
            self.kinds.entry(kind).or_default().add(&latencies);
        }
        self.errors += other.errors;
        self.retries += other.retries;
        self.error_example = self.error_example.take().or(other.error_example);
    }
}

/// How many clients, how long.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Clients at the same time.
    pub clients: usize,
    /// Time before counting begins.
    pub warmup: Duration,
    /// Counted time.
    pub measured: Duration,
    /// Runs with the same one draw the same operations.
    pub seed: u64,
}

/// Runs the plan and adds up what its clients counted.
pub async fn run(target: &Target, workload: Arc<dyn Workload>, plan: Plan) -> Outcome {
    let from = Instant::now() + plan.warmup;
    let until = from + plan.measured;
    let mut clients = JoinSet::new();
    for number in 0..plan.clients {
        let (target, workload) = (target.clone(), workload.clone());
        clients.spawn(async move {
            let mut random = Random::new((plan.seed << 32) + 1_000 + number as u64);
            let mut outcome = Outcome::default();
            while Instant::now() < until {
                one(&target, &*workload, &mut random, from, &mut outcome).await;
            }
            outcome
        });
    }
    let mut total = Outcome::default();
    while let Some(outcome) = clients.join_next().await {
        total.merge(outcome.expect("a client task does not panic"));
    }
    total.seconds = from.elapsed().as_secs_f64();
    total
}

/// One operation of one client, counted if it began after `from`.
async fn one(
    target: &Target,
    workload: &dyn Workload,
    random: &mut Random,
    from: Instant,
    outcome: &mut Outcome,
) {
    let (kind, action) = workload.next(random);
    let number = if let Action::Insert(number, ..) = &action { Some(*number) } else { None };
    let started = Instant::now();
    let done = target.carry_out(action).await;
    if let (Ok(_), Some(number)) = (&done, number) {
        workload.on_inserted(number);
    }
    if started < from {
        return;
    }
    match done {
        Err(reason) => outcome.fail(reason),
        Ok(retries) => {
            outcome.retries += retries;
            outcome.kinds.entry(kind).or_default().record(started.elapsed());
        }
    }
}

/// Writes every key once, by single writes.
///
/// # Errors
/// The first that failed.
pub async fn fill_singly(target: &Target, data: Data) -> Result<(), String> {
    let noise = data.noise();
    let mut writers = JoinSet::new();
    for first in 0..FILL_WRITERS as u64 {
        let (target, noise) = (target.clone(), noise.clone());
        writers.spawn(async move {
            let mut random = Random::new(42 + first);
            for number in (first..data.keys).step_by(FILL_WRITERS) {
                let value = noise.value(data.value_bytes, &mut random);
                target.carry_out(Action::Put(data.key(number), value)).await?;
            }
            Ok::<(), String>(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done.expect("a filling task does not panic")?;
    }
    Ok(())
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
        batch.push((key, noise.value(data.value_bytes, &mut random)));
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
