//! Stores that die: how long until the regions that one led are led by others, and how long until stores serve again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_bench::report::median;
use tokio::task::JoinSet;

use crate::client::{Cluster, Request, Route};
use crate::common::{Common, still};
use crate::load::{self, Data};
use crate::stores::{self, STORES, Stores};

/// Writers that look for regions that take writes again.
const WRITERS: usize = 64;
/// Between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// Stores that took over are to be at rest so long after the last region took a write, and are looked at for so long.
const REST_AFTER: Duration = Duration::from_secs(5);
const REST_LOOK: Duration = Duration::from_secs(3);
/// Bytes of a value.
const VALUE_BYTES: usize = 256;

/// Time without writes after kill -9 of a store that leads many regions.
#[derive(clap::Args, Debug)]
pub struct FailoverArgs {
    #[command(flatten)]
    common: Common,
    /// Regions, of which each store leads a third [default: 6000, quick 90]
    #[arg(long)]
    regions: Option<u64>,
    /// Kills [default: 5, quick 1]
    #[arg(long)]
    trials: Option<usize>,
}

/// Time from the start of a store, and of a whole cluster, until it serves.
#[derive(clap::Args, Debug)]
pub struct RestartArgs {
    #[command(flatten)]
    common: Common,
    /// Numbers of regions, ascending [default: 100,1000,10000; quick 30]
    #[arg(long, value_delimiter = ',')]
    regions: Vec<u64>,
    /// Keys, of 256 bytes each, written before the kills [default: 200000, quick 5000]
    #[arg(long)]
    keys: Option<u64>,
    /// Kills of each kind [default: 3, quick 1]
    #[arg(long)]
    trials: Option<usize>,
}

/// Kills the store that leads most, several times.
///
/// # Errors
/// A sentence.
pub async fn failover(args: &FailoverArgs) -> Result<(), String> {
    let common = &args.common;
    let regions = args.regions.unwrap_or(common.options.pick(6_000, 90));
    let trials = args.trials.unwrap_or(common.options.pick(5, 1)).max(1);
    let mut report = common.report(
        "failover",
        "kill -9 of a store, seen by clients that ask the peers that are left for each region",
        "regions led by the store",
    );
    report.setting("regions", regions);
    report.setting("trials", trials);
    let data = Data::new(regions * 4, VALUE_BYTES);
    let folder = common.options.folder()?;
    let (mut stores, cluster) = common.start(folder.path(), &still()).await?;
    stores.split(&cluster, &data.cuts(regions)).await?;
    load::fill(&cluster, data).await?;
    let mut found: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
    let mut led = 0;
    for trial in 0..trials {
        stores.wait_placed(&cluster, true).await?;
        let counts = stores::leaders(&cluster);
        // Another one each time, as far as they lead about as many.
        let victim = *counts.keys().nth(trial % counts.len()).ok_or("no store leads anything")?;
        led = counts[&victim];
        let number = stores.number_of(victim).await?;
        let routes: Vec<Arc<Route>> =
            cluster.routes().into_iter().filter(|route| route.leader.store_id == victim).collect();
        let killed = Instant::now();
        stores.kill9(number).await?;
        let times = write_everywhere(&cluster, routes, victim, data, killed).await?;
        for (name, share) in [("first write", 0.0), ("half of the regions", 0.5), ("last region", 1.0)] {
            found.entry((name, "s")).or_default().push(of_sorted(&times, share));
        }
        tokio::time::sleep(REST_AFTER).await;
        let before = stores.reading().await?;
        tokio::time::sleep(REST_LOOK).await;
        let after = stores.reading().await?;
        let cpu = after.cpu_s(&before) / after.seconds(&before) * 100.0;
        found.entry(("CPU of the two that are left, 5 s later", "% of a core")).or_default().push(cpu);
        let started = Instant::now();
        stores.start_again(number)?;
        stores.wait_ready(number).await?;
        found.entry(("killed store ready again", "s")).or_default().push(started.elapsed().as_secs_f64());
    }
    for ((name, unit), values) in found {
        let worst = values.iter().copied().fold(0.0, f64::max);
        report.add("median", led, name, median(values), unit);
        report.add("worst", led, name, worst, unit);
    }
    stores.stop().await;
    common.options.write(&report)
}

/// Writes a key of each region as soon as it takes it. Seconds since `from`, ascending.
async fn write_everywhere(
    cluster: &Arc<Cluster>,
    routes: Vec<Arc<Route>>,
    dead: u64,
    data: Data,
    from: Instant,
) -> Result<Vec<f64>, String> {
    // The region behind all keys takes none.
    let has_keys = |route: &Arc<Route>| {
        let start = &route.region.start_key;
        start.is_empty() || start.first() == Some(&(data.prefix as u8))
    };
    let routes: Arc<Vec<Arc<Route>>> = Arc::new(routes.into_iter().filter(has_keys).collect());
    let mut writers = JoinSet::new();
    for first in 0..WRITERS.min(routes.len()) {
        let (cluster, routes) = (cluster.clone(), routes.clone());
        writers.spawn(async move {
            let mut times = Vec::new();
            for route in routes.iter().skip(first).step_by(WRITERS) {
                // The region before all keys has an empty start.
                let start = &route.region.start_key;
                let key = if start.is_empty() { data.key(0) } else { start.clone() };
                let put = Request::Put(key, vec![b'f'; VALUE_BYTES].into());
                cluster.write_past(route, dead, &put, LOOK_PAUSE).await?;
                times.push(from.elapsed().as_secs_f64());
            }
            Ok::<_, String>(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = writers.join_next().await {
        all.extend(times.map_err(|error| error.to_string())??);
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}

fn of_sorted(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share) as usize).copied().unwrap_or_default()
}

/// Kills one store, and then all, and starts them again.
///
/// # Errors
/// A sentence.
pub async fn restart(args: &RestartArgs) -> Result<(), String> {
    let common = &args.common;
    let counts = common.options.pick_list(&args.regions, &[100, 1_000, 10_000], &[30]);
    let keys = args.keys.unwrap_or(common.options.pick(200_000, 5_000));
    let trials = args.trials.unwrap_or(common.options.pick(3, 1)).max(1);
    let mut report = common.report("restart", "Start after kill -9, until stores serve", "regions");
    report.setting("keys of 256 bytes", keys);
    report.setting("trials", trials);
    let folder = common.options.folder()?;
    let (mut stores, cluster) = common.start(folder.path(), &still()).await?;
    for regions in counts {
        let data = Data::new(keys.max(regions), VALUE_BYTES);
        stores.split(&cluster, &data.cuts(regions)).await?;
        let mut found: BTreeMap<(&str, &str), Vec<f64>> = BTreeMap::new();
        for trial in 0..trials {
            // What was written last is what must be replayed.
            load::fill(&cluster, data).await?;
            let number = trial % STORES;
            stores.kill9(number).await?;
            let started = Instant::now();
            stores.start_again(number)?;
            stores.wait_ready(number).await?;
            found.entry(("one store", "ready")).or_default().push(started.elapsed().as_secs_f64());
            stores.wait_placed(&cluster, false).await?;
            all_again(&mut stores, &cluster, data, &mut found).await?;
        }
        for ((series, metric), times) in found {
            report.add(series, regions, metric, median(times), "s");
        }
    }
    stores.stop().await;
    common.options.write(&report)
}

async fn all_again(
    stores: &mut Stores,
    cluster: &Arc<Cluster>,
    data: Data,
    found: &mut BTreeMap<(&'static str, &'static str), Vec<f64>>,
) -> Result<(), String> {
    let routes = cluster.routes();
    stores.kill9_all().await?;
    let started = Instant::now();
    let mut note = |metric: &'static str, seconds: f64| {
        found.entry(("all three stores", metric)).or_default().push(seconds);
    };
    for number in 0..STORES {
        stores.start_again(number)?;
    }
    for number in 0..STORES {
        stores.wait_ready(number).await?;
    }
    note("ready", started.elapsed().as_secs_f64());
    let times = write_everywhere(cluster, routes, 0, data, started).await?;
    note("first write", of_sorted(&times, 0.0));
    note("last region takes writes", of_sorted(&times, 1.0));
    stores.wait_placed(cluster, false).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_a_sorted_list_are_its_elements() {
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert_eq!([0.0, 0.5, 1.0].map(|share| of_sorted(&sorted, share)), [1.0, 2.0, 4.0]);
        assert_eq!(of_sorted(&[], 0.5), 0.0);
    }
}
