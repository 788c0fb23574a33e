//! What clients see of splits, merges and leadership transfers under load.
//!
//! While the load runs, regions are split, merged again, and handed to another leader, one change at a time. Around
//! each change two probes write, one operation after the other, to a key on either side of the border. The change's
//! *gap* is the slowest of those writes that ended after the change was ordered, retries included: the longest time for
//! which the keys could not be written. The same is done without any change, for what the load alone makes of a write.
//!
//! The probes use the product's own client, and learn of a change from the answers to their writes only: whoever orders
//! the changes has a client of its own. Placement changes nothing by itself, not even leaders.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flotilla_bench::latency::Latencies;
use flotilla_bench::report::Report;
use flotilla_router::Client;
use tokio::task::JoinHandle;

use crate::client::Cluster;
use crate::common::{Common, still};
use crate::load::{self, Data, Op, Outcome, Plan, Target, Uniform};
use crate::stores::Stores;

/// Probes begin so long before a change: they know the region by then.
const BEFORE: Duration = Duration::from_millis(100);
/// Probes end so long after a change; a write that is under way then still counts.
const AFTER: Duration = Duration::from_millis(300);
/// A change that is refused is tried again so often, after a pause.
const TRIES: usize = 50;
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// What clients see of splits, merges and leadership transfers under load.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Clients, each with one operation under way
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Seconds of changes under load; a hundred of each kind are needed for a 99th percentile [default: 240, quick 8]
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
        report.add("gap max", name, "longest write", self.gaps.max_us() as f64 / 1_000.0, "ms");
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
    let keys = [still(), vec![("placement.balance_leaders", "false".into())]].concat();
    let (stores, cluster) = common.start(folder.path(), &keys).await?;
    stores.split(&cluster, &data.cuts(args.regions)).await?;
    let operator = Cluster::connect(&stores.addresses, 1).await?;
    spread_leaders(&stores, &operator).await?;
    load::fill(&cluster, data).await?;
    cluster.reload().await?;
    let client = Client::connect(&stores.addresses).await.map_err(|error| error.to_string())?;
    let plan = common.plan(args.clients, args.seconds.unwrap_or(common.options.pick(240, 8)));
    let changes = change_under_load(&stores, &cluster, &operator, &client, data, plan).await?;
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

/// Each store leads a third of the regions, which placement would see to otherwise.
async fn spread_leaders(stores: &Stores, operator: &Cluster) -> Result<(), String> {
    for (i, route) in operator.routes().iter().enumerate() {
        let to = &route.region.peers[i % route.region.peers.len()];
        if to.id != route.leader.id {
            patiently(&mut 0, async || hand_over(stores, route.region.id, to.store_id).await).await?;
        }
    }
    operator.reload().await
}

async fn hand_over(stores: &Stores, region: u64, store: u64) -> Result<(), String> {
    let (region, store) = (region.to_string(), store.to_string());
    stores.ctl(&["transfer-leader", "--region", &region, "--store", &store]).await
}

/// Makes a change, again and again if it is refused. How long the last try took.
async fn patiently(
    refused: &mut u64,
    change: impl AsyncFn() -> Result<(), String>,
) -> Result<Duration, String> {
    let mut tries = 1;
    loop {
        let started = Instant::now();
        match change().await {
            Ok(()) => return Ok(started.elapsed()),
            Err(why) if tries == TRIES => return Err(why),
            Err(_) => *refused += 1,
        }
        tries += 1;
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Changes regions for as long as the load of `plan` runs.
async fn change_under_load(
    stores: &Stores,
    cluster: &Arc<Cluster>,
    operator: &Cluster,
    client: &Client,
    data: Data,
    plan: Plan,
) -> Result<Changes, String> {
    let load: JoinHandle<Outcome> = {
        let target = Target::Flotilla(cluster.clone());
        tokio::spawn(async move { load::run(&target, Arc::new(Uniform::new(data, Op::Put)), plan).await })
    };
    tokio::time::sleep(plan.warmup).await;
    let probes = Probes { client, data, load: &load };
    let (mut nothing, mut split) = (Gaps::default(), Gaps::default());
    let (mut merge, mut transfer) = (Gaps::default(), Gaps::default());
    for round in 0_u64.. {
        if load.is_finished() {
            break;
        }
        // Regions in turn, with a step that is no divisor of their number.
        operator.reload().await?;
        let routes = operator.routes();
        let route = &routes[(round * 7 % routes.len() as u64) as usize];
        let (low, high) = bounds(data, &route.region.start_key, &route.region.end_key);
        if high - low < 4 {
            continue;
        }
        let middle = low + (high - low) / 2;
        let keys = [middle - 1, middle];
        probes.around(keys, &mut nothing, async || Ok(())).await?;
        let (id, at) = (route.region.id.to_string(), data.key(middle));
        let at = String::from_utf8_lossy(&at).into_owned();
        let cut = async || stores.ctl(&["split", "--region", &id, "--key", &at]).await;
        probes.around(keys, &mut split, cut).await?;
        let join = async || {
            operator.reload().await?;
            let ids = keys.map(|key| operator.route(&data.key(key)).map_or(0, |route| route.region.id));
            // Either side is the target in every other round.
            let [target, source] = if round % 2 == 0 { ids } else { [ids[1], ids[0]] };
            stores.ctl(&["merge", "--region", &source.to_string(), "--into", &target.to_string()]).await
        };
        probes.around(keys, &mut merge, join).await?;
        let give = async || {
            operator.reload().await?;
            let route = operator.route(&data.key(middle)).ok_or("a region without a route")?;
            let others: Vec<_> =
                route.region.peers.iter().filter(|peer| peer.id != route.leader.id).collect();
            let to = others.get(round as usize % others.len().max(1)).ok_or("a region with one peer")?;
            hand_over(stores, route.region.id, to.store_id).await
        };
        probes.around(keys, &mut transfer, give).await?;
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

/// Who writes beside the load while something changes.
struct Probes<'a> {
    client: &'a Client,
    data: Data,
    load: &'a JoinHandle<Outcome>,
}

impl Probes<'_> {
    /// Makes a change between probes of two keys, and notes the longest probe.
    async fn around(
        &self,
        keys: [u64; 2],
        gaps: &mut Gaps,
        change: impl AsyncFn() -> Result<(), String>,
    ) -> Result<(), String> {
        let (counts, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let probes = keys.map(|key| {
            let (client, key) = (self.client.clone(), self.data.key(key));
            let value = bytes::Bytes::from(vec![b'p'; self.data.value_bytes]);
            let (counts, stop) = (counts.clone(), stop.clone());
            tokio::spawn(async move { probe(&client, key, value, &counts, &stop).await })
        });
        tokio::time::sleep(BEFORE).await;
        counts.store(true, Ordering::Relaxed);
        let command = patiently(&mut gaps.refused, change).await;
        tokio::time::sleep(AFTER).await;
        stop.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        for probe in probes {
            longest = longest.max(probe.await.map_err(|error| error.to_string())??);
        }
        // A change that outlived the load says nothing.
        if !self.load.is_finished() {
            gaps.commands.record(command?);
            gaps.gaps.record(longest);
        }
        Ok(())
    }
}

/// Writes one key until told to stop. Returns the longest write of those that ended while they counted.
async fn probe(
    client: &Client,
    key: bytes::Bytes,
    value: bytes::Bytes,
    counts: &AtomicBool,
    stop: &AtomicBool,
) -> Result<Duration, String> {
    let mut longest = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        client.put(key.clone(), value.clone(), 0).await.map_err(|error| error.to_string())?;
        if counts.load(Ordering::Relaxed) {
            longest = longest.max(started.elapsed());
        }
    }
    Ok(longest)
}
