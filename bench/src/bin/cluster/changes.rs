//! What clients see of splits, merges and leadership transfers under load.
//!
//! While the load runs, regions are split, merged again, and handed to another leader, one change at a time. Around
//! each change two probes write, one operation after the other, to a key on either side of the border. The change's
//! *gap* is the slowest of those writes, retries included: the longest time for which the keys could not be written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::client::{Cluster, Request};
use crate::load::{self, Data, Outcome, Plan};
use crate::stores::Stores;

/// Probes begin so long before a change, and end so long after it.
const AROUND: Duration = Duration::from_millis(300);
/// A change that is refused is tried again so often.
const TRIES: usize = 50;

/// Gaps of all changes of one kind.
#[derive(Debug, Serialize)]
pub struct Gaps {
    /// Changes.
    count: u64,
    /// Median gap in milliseconds.
    p50_ms: f64,
    /// 99th percentile.
    p99_ms: f64,
    /// The longest.
    max_ms: f64,
    /// Median time until the command was answered, in milliseconds.
    command_p50_ms: f64,
    /// Times that a change was refused and tried again.
    refused: u64,
    #[serde(skip)]
    gaps: Histogram<u64>,
    #[serde(skip)]
    commands: Histogram<u64>,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Changes {
    load: Outcome,
    /// Probes without a change, for comparison.
    nothing: Gaps,
    split: Gaps,
    merge: Gaps,
    transfer: Gaps,
}

impl Gaps {
    fn new() -> Self {
        let histogram = || Histogram::new_with_bounds(1, 120_000_000, 3).expect("the bounds are in order");
        let (gaps, commands) = (histogram(), histogram());
        Self {
            count: 0,
            p50_ms: 0.0,
            p99_ms: 0.0,
            max_ms: 0.0,
            command_p50_ms: 0.0,
            refused: 0,
            gaps,
            commands,
        }
    }

    fn sum_up(mut self) -> Self {
        let ms = |us: u64| us as f64 / 1_000.0;
        self.count = self.gaps.len();
        self.p50_ms = ms(self.gaps.value_at_quantile(0.50));
        self.p99_ms = ms(self.gaps.value_at_quantile(0.99));
        self.max_ms = ms(self.gaps.max());
        self.command_p50_ms = ms(self.commands.value_at_quantile(0.50));
        self
    }

    /// One line for people.
    fn line(&self, name: &str) -> String {
        format!(
            "{name:<9} {:>4} times  gap p50 {:.1} ms  p99 {:.1} ms  max {:.1} ms  command p50 {:.0} ms  {} refused",
            self.count, self.p50_ms, self.p99_ms, self.max_ms, self.command_p50_ms, self.refused
        )
    }
}

impl Changes {
    /// One line for each kind.
    pub fn lines(&self) -> Vec<String> {
        let kinds = [
            ("nothing", &self.nothing),
            ("split", &self.split),
            ("merge", &self.merge),
            ("transfer", &self.transfer),
        ];
        kinds.into_iter().map(|(name, gaps)| gaps.line(name)).collect()
    }

    /// Whether every operation of the load succeeded.
    pub fn is_clean(&self) -> bool {
        self.load.errors == 0
    }
}

/// Changes regions for as long as the load of `plan` runs.
///
/// # Errors
/// A change or a probe that failed for good.
pub async fn run(stores: &Stores, cluster: &Arc<Cluster>, data: Data, plan: Plan) -> Result<Changes, String> {
    let load: JoinHandle<Outcome> = {
        let cluster = cluster.clone();
        tokio::spawn(async move { load::run(&cluster, data, plan).await })
    };
    tokio::time::sleep(plan.warmup).await;
    let (mut nothing, mut split) = (Gaps::new(), Gaps::new());
    let (mut merge, mut transfer) = (Gaps::new(), Gaps::new());
    for round in 0_u64.. {
        if load.is_finished() {
            break;
        }
        // Regions in turn, with a step that is no divisor of their number.
        cluster.reload().await?;
        let routes = cluster.routes();
        let route = &routes[(round * 7 % routes.len() as u64) as usize];
        let (low, high) = bounds(data, &route.region.start_key, &route.region.end_key);
        if high - low < 4 {
            continue;
        }
        let middle = low + (high - low) / 2;
        let keys = [middle - 1, middle];
        probed(cluster, data, keys, &mut nothing, async || Ok(())).await?;
        let (id, at) = (route.region.id.to_string(), data.key(middle));
        let at = String::from_utf8_lossy(&at).into_owned();
        let cut = async || stores.ctl(&["split", "--region", &id, "--key", &at]).await;
        probed(cluster, data, keys, &mut split, cut).await?;
        let join = async || {
            cluster.reload().await?;
            let ids = keys.map(|key| cluster.route(&data.key(key)).map_or(0, |route| route.region.id));
            // Either side is the target in every other round.
            let [target, source] = if round % 2 == 0 { ids } else { [ids[1], ids[0]] };
            stores.ctl(&["merge", "--region", &source.to_string(), "--into", &target.to_string()]).await
        };
        probed(cluster, data, keys, &mut merge, join).await?;
        let hand_over = async || {
            cluster.reload().await?;
            let route = cluster.route(&data.key(middle)).ok_or("a region without a route")?;
            let other = route.region.peers.iter().find(|peer| peer.id != route.leader.id);
            let store = other.ok_or("a region with one peer")?.store_id.to_string();
            stores
                .ctl(&["transfer-leader", "--region", &route.region.id.to_string(), "--store", &store])
                .await
        };
        probed(cluster, data, keys, &mut transfer, hand_over).await?;
    }
    let load = load.await.map_err(|error| error.to_string())?;
    Ok(Changes {
        load,
        nothing: nothing.sum_up(),
        split: split.sum_up(),
        merge: merge.sum_up(),
        transfer: transfer.sum_up(),
    })
}

/// Numbers of the first key of a region and of the first one after it.
fn bounds(data: Data, start: &[u8], end: &[u8]) -> (u64, u64) {
    let number = |key: &[u8]| std::str::from_utf8(key.get(1..)?).ok()?.parse::<u64>().ok();
    if !start.is_empty() && number(start).is_none() {
        // The region behind all keys.
        return (data.keys, data.keys);
    }
    let (low, high) = (number(start).unwrap_or(0), number(end).unwrap_or(data.keys));
    (low.min(data.keys), high.min(data.keys))
}

/// Makes a change between probes of two keys, and notes the longest probe.
async fn probed(
    cluster: &Arc<Cluster>,
    data: Data,
    keys: [u64; 2],
    gaps: &mut Gaps,
    change: impl AsyncFn() -> Result<(), String>,
) -> Result<(), String> {
    let stop = Arc::new(AtomicBool::new(false));
    let probes = keys.map(|key| {
        let (cluster, stop) = (cluster.clone(), stop.clone());
        tokio::spawn(async move { probe(&cluster, data, key, &stop).await })
    });
    tokio::time::sleep(AROUND).await;
    let mut outcome = Ok(());
    for _ in 0..TRIES {
        let started = Instant::now();
        outcome = change().await;
        if outcome.is_ok() {
            gaps.commands.saturating_record(started.elapsed().as_micros() as u64);
            break;
        }
        gaps.refused += 1;
        tokio::time::sleep(AROUND).await;
    }
    tokio::time::sleep(AROUND).await;
    stop.store(true, Ordering::Relaxed);
    let mut longest = Duration::ZERO;
    for probe in probes {
        longest = longest.max(probe.await.map_err(|error| error.to_string())??);
    }
    gaps.gaps.saturating_record(longest.as_micros() as u64);
    outcome
}

/// Writes one key until told to stop. Returns the longest write.
async fn probe(cluster: &Cluster, data: Data, key: u64, stop: &AtomicBool) -> Result<Duration, String> {
    let value = bytes::Bytes::from(vec![b'p'; data.value_bytes]);
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        cluster.call(&Request::Put(data.key(key), value.clone())).await?;
        longest = longest.max(started.elapsed());
    }
    Ok(longest)
}
