//! What clients see of splits, merges and leadership transfers under load.
//!
//! While the load runs, regions are split, merged again, and handed to another leader, one change at a time. Around
//! each change two probes write, one operation after the other, to a key on either side of the border. The change's
//! *gap* is the slowest of those writes, retries included: the longest time for which the keys could not be written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flotilla_bench::latency::Latencies;
use flotilla_bench::report::Report;
use tokio::task::JoinHandle;

use crate::client::{Cluster, Request};
use crate::common::{Common, still};
use crate::load::{self, Data, Op, Outcome, Plan, Target, Uniform};
use crate::stores::Stores;

/// Probes begin so long before a change, and end so long after it.
const AROUND: Duration = Duration::from_millis(300);
/// A change that is refused is tried again so often.
const TRIES: usize = 50;

/// What clients see of splits, merges and leadership transfers under load.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Clients, each with one operation under way
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Seconds of changes under load [default: 40, quick 8]
    #[arg(long)]
    seconds: Option<u64>,
    /// Keys
    #[arg(long, default_value_t = 40_000)]
    keys: u64,
    /// Regions to begin with
    #[arg(long, default_value_t = 12)]
    regions: u64,
}

/// Gaps of all changes of one kind.
#[derive(Default)]
struct Gaps {
    /// Slowest probe around each change.
    gaps: Latencies,
    /// Time until each command was answered.
    commands: Latencies,
    /// Times that a change was refused and tried again.
    refused: u64,
}

/// What was found.
struct Changes {
    load: Outcome,
    /// Probes without a change, for comparison.
    nothing: Gaps,
    split: Gaps,
    merge: Gaps,
    transfer: Gaps,
}

impl Gaps {
    fn report(&self, name: &str, report: &mut Report) {
        report.add("gap p50", name, "longest write", self.gaps.quantile_ms(0.5), "ms");
        report.add("gap p99", name, "longest write", self.gaps.quantile_ms(0.99), "ms");
        report.add("command p50", name, "longest write", self.commands.quantile_ms(0.5), "ms");
        report.add("done", name, "changes", self.gaps.count() as f64, "count");
        report.add("refused and tried again", name, "changes", self.refused as f64, "count");
    }
}

/// Runs it.
///
/// # Errors
/// A sentence.
pub async fn run(args: &Args) -> Result<(), String> {
    let common = &args.common;
    let data = Data::new(args.keys, 256);
    let title = "The longest time for which keys on either side of a border could not be written";
    let mut report = common.report("changes", title, "change");
    report.setting("clients", args.clients);
    report.setting("keys", args.keys);
    report.setting("regions", args.regions);
    let folder = common.options.folder()?;
    let (stores, cluster) = common.start(folder.path(), &still()).await?;
    stores.split(&cluster, &data.cuts(args.regions)).await?;
    load::fill(&cluster, data).await?;
    cluster.reload().await?;
    let plan = common.plan(args.clients, args.seconds.unwrap_or(common.options.pick(40, 8)));
    let changes = change_under_load(&stores, &cluster, data, plan).await?;
    stores.stop().await;
    changes.load.check()?;
    let kinds = [
        ("nothing", &changes.nothing),
        ("split", &changes.split),
        ("merge", &changes.merge),
        ("transfer", &changes.transfer),
    ];
    kinds.into_iter().for_each(|(name, gaps)| gaps.report(name, &mut report));
    report.add("all", "all changes", "throughput of the load", changes.load.ops_per_s(), "puts/s");
    report.add_latencies("the load", "all changes", &changes.load.all());
    common.options.write(&report)
}

/// Changes regions for as long as the load of `plan` runs.
async fn change_under_load(
    stores: &Stores,
    cluster: &Arc<Cluster>,
    data: Data,
    plan: Plan,
) -> Result<Changes, String> {
    let load: JoinHandle<Outcome> = {
        let target = Target::Flotilla(cluster.clone());
        tokio::spawn(async move { load::run(&target, Arc::new(Uniform::new(data, Op::Put)), plan).await })
    };
    tokio::time::sleep(plan.warmup).await;
    let (mut nothing, mut split) = (Gaps::default(), Gaps::default());
    let (mut merge, mut transfer) = (Gaps::default(), Gaps::default());
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
    Ok(Changes { load, nothing, split, merge, transfer })
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
            gaps.commands.record(started.elapsed());
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
    gaps.gaps.record(longest);
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
