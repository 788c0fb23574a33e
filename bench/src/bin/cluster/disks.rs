//! Disks: one that is slow, and how much is written to them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_bench::report::Report;

use crate::client::Cluster;
use crate::common::{Common, beside, still};
use crate::load::{self, Action, Data, Noise, Random, Target, Workload};
use crate::stores::{self, Stores};

/// How long leaders may take to come back to a store that was restarted.
const RETURN_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of a key.
const KEY_BYTES: usize = 16;

/// Puts while the syncs of one of three stores take longer.
#[derive(clap::Args, Debug)]
pub struct SlowdiskArgs {
    #[command(flatten)]
    common: Common,
    /// A program for the stores that knows rocksdb.planted_log_sync_delay_ms [default: flotilla-planted beside this
    /// binary]
    #[arg(long)]
    planted: Option<PathBuf>,
    /// Milliseconds that each sync of the slow store takes longer
    #[arg(long, default_value_t = 10)]
    delay_ms: u64,
    /// Clients: a run for each number [default: 64,256; quick 32]
    #[arg(long, value_delimiter = ',')]
    clients: Vec<usize>,
    /// Measured seconds of each run [default: 15, quick 3]
    #[arg(long)]
    seconds: Option<u64>,
    /// Regions, of which each store leads a third
    #[arg(long, default_value_t = 24)]
    regions: u64,
}

/// Bytes to disks for each byte that clients write, and syncs.
#[derive(clap::Args, Debug)]
pub struct AmplificationArgs {
    #[command(flatten)]
    common: Common,
    /// MiB of keys and values that clients write for each row [default: 512, quick 32]
    #[arg(long)]
    mib: Option<u64>,
    /// Pairs in a request: a row for each number [default: 1,64; quick 64]
    #[arg(long, value_delimiter = ',')]
    batches: Vec<usize>,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Clients
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Regions
    #[arg(long, default_value_t = 24)]
    regions: u64,
    /// Seconds after the last write that still count: flushes and compactions [default: 20, quick 2]
    #[arg(long)]
    settle_seconds: Option<u64>,
}

/// Puts, told apart by where the key's region was led when the run began.
struct ByLeader {
    data: Data,
    noise: Noise,
    cluster: Arc<Cluster>,
    slow: u64,
}

impl Workload for ByLeader {
    fn next(&self, random: &mut Random) -> (&'static str, Action) {
        let key = self.data.key(random.below(self.data.keys));
        let leader = self.cluster.route(&key).map_or(0, |route| route.leader.store_id);
        let kind = if leader == self.slow { "led by this store" } else { "led by the others" };
        (kind, Action::Put(key, self.noise.value(self.data.value_bytes, random)))
    }
}

/// One store with slow syncs.
///
/// # Errors
/// A sentence.
pub async fn slowdisk(args: &SlowdiskArgs) -> Result<(), String> {
    let common = &args.common;
    let data = Data::new(50_000, 256);
    let clients = common.options.pick_list(&args.clients, &[64, 256], &[32]);
    let seconds = args.seconds.unwrap_or(common.options.pick(15, 3));
    let title = format!("Puts while each sync of one of three stores takes {} ms longer", args.delay_ms);
    let mut report = common.report("slowdisk", &title, "clients");
    report.setting("regions", args.regions);
    let binary = args.planted.clone().map_or_else(|| beside("flotilla-planted"), Ok)?;
    let folder = common.options.folder()?;
    let (mut stores, cluster) = common.start_program(&binary, folder.path(), &still()).await?;
    stores.split(&cluster, &data.cuts(args.regions)).await?;
    load::fill(&cluster, data).await?;
    let slow = *stores::leaders(&cluster).keys().next_back().ok_or("no store leads anything")?;
    for name in ["all disks alike", "one disk slow"] {
        if name != "all disks alike" {
            let config = folder.path().join("slow.toml");
            let mut keys = still();
            keys.push(("rocksdb.planted_log_sync_delay_ms", args.delay_ms.to_string()));
            common.config(&config, &keys)?;
            let number = stores.number_of(slow).await?;
            stores.set_config(number, &config);
            stores.kill9(number).await?;
            stores.start_again(number)?;
            stores.wait_ready(number).await?;
        }
        wait_returned(&stores, &cluster, slow).await?;
        for &clients in &clients {
            let workload = ByLeader { data, noise: data.noise(), cluster: cluster.clone(), slow };
            let target = Target::Flotilla(cluster.clone());
            let outcome = load::run(&target, Arc::new(workload), common.plan(clients, seconds)).await;
            outcome.check()?;
            report.add(name, clients, "throughput", outcome.ops_per_s(), "ops/s");
            for (kind, latencies) in &outcome.kinds {
                report.add_latencies(&format!("{name}, {kind}"), clients, latencies);
            }
        }
    }
    stores.stop().await;
    common.options.write(&report)
}

/// Waits until the store leads its part again.
async fn wait_returned(stores: &Stores, cluster: &Cluster, store: u64) -> Result<(), String> {
    let started = Instant::now();
    loop {
        stores.wait_placed(cluster, true).await?;
        let counts = stores::leaders(cluster);
        let total: u64 = counts.values().sum();
        if counts.get(&store).is_some_and(|count| count * 5 >= total) {
            return Ok(());
        }
        if started.elapsed() > RETURN_TIMEOUT {
            return Err(format!("store {store} leads too few regions: {counts:?}"));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Requests of several puts, each within a region.
struct Batches {
    data: Data,
    noise: Noise,
    regions: u64,
    batch: usize,
}

impl Workload for Batches {
    fn next(&self, random: &mut Random) -> (&'static str, Action) {
        // As the keys were cut.
        let part = random.below(self.regions);
        let (first, end) = (self.data.keys * part / self.regions, self.data.keys * (part + 1) / self.regions);
        let mut numbers = BTreeSet::new();
        while numbers.len() < self.batch.min((end - first) as usize) {
            numbers.insert(first + random.below(end - first));
        }
        let pair = |number: u64| (self.data.key(number), self.noise.value(self.data.value_bytes, random));
        let mut pairs: Vec<(Bytes, Bytes)> = numbers.into_iter().map(pair).collect();
        match pairs.pop() {
            Some((key, value)) if pairs.is_empty() => ("put", Action::Put(key, value)),
            last => {
                pairs.extend(last);
                ("batch", Action::BatchPut(pairs))
            }
        }
    }
}

/// Bytes to disks per byte of clients.
///
/// # Errors
/// A sentence.
pub async fn amplification(args: &AmplificationArgs) -> Result<(), String> {
    let common = &args.common;
    let batches = common.options.pick_list(&args.batches, &[1, 64], &[64]);
    let mib = args.mib.unwrap_or(common.options.pick(512, 32));
    let settle = args.settle_seconds.unwrap_or(common.options.pick(20, 2));
    let title = "Bytes to the three disks for each byte of keys and values, and syncs";
    let mut report = common.report("amplification", title, "pairs in a request");
    report.setting("MiB written by clients", mib);
    report.setting("value bytes", args.value_bytes);
    report.setting("clients", args.clients);
    report.setting("regions", args.regions);
    report.setting("seconds after the last write that count", settle);
    for batch in batches {
        one_batch_size(args, batch, mib, settle, &mut report).await?;
    }
    common.options.write(&report)
}

async fn one_batch_size(
    args: &AmplificationArgs,
    batch: usize,
    mib: u64,
    settle: u64,
    report: &mut Report,
) -> Result<(), String> {
    let pair_bytes = (KEY_BYTES + args.value_bytes) as u64;
    // So many keys that most are overwritten once or twice, as in a store that is in use.
    let keys = ((mib << 20) / pair_bytes / 2).max(args.regions * batch as u64 * 2);
    let data = Data::new(keys, args.value_bytes);
    let folder = args.common.options.folder()?;
    let (stores, cluster) = args.common.start(&folder.path().join(format!("batch{batch}")), &still()).await?;
    stores.split(&cluster, &data.cuts(args.regions)).await?;
    let target = Target::Flotilla(cluster.clone());
    let workload = Arc::new(Batches { data, noise: data.noise(), regions: args.regions, batch });
    let before = stores.reading().await?;
    let (mut pairs, mut requests, mut busy) = (0_u64, 0_u64, 0.0);
    while pairs * pair_bytes < mib << 20 {
        let measured = Duration::from_secs(2);
        // Each part writes other keys, or few would be left of what a memory table takes.
        let plan = load::Plan { clients: args.clients, warmup: Duration::ZERO, measured, seed: pairs };
        let outcome = load::run(&target, workload.clone(), plan).await;
        outcome.check()?;
        requests += outcome.ops();
        pairs += outcome.ops() * batch as u64;
        busy += outcome.seconds;
    }
    let at_end = stores.reading().await?;
    tokio::time::sleep(Duration::from_secs(settle)).await;
    let after = stores.reading().await?;
    let user = (pairs * pair_bytes) as f64;
    let written =
        |reading: &stores::Reading| reading.usage.disk_bytes.saturating_sub(before.usage.disk_bytes) as f64;
    let logged = after.growth(&before, "flotilla_log_entry_bytes_total").unwrap_or_default();
    let compacted = stores.data_dirs().map(|dir| compacted_bytes(&dir)).sum::<Result<u64, String>>()? as f64;
    for (metric, bytes) in [
        ("bytes to disk, until the last write", written(&at_end)),
        ("bytes to disk, compactions included", written(&after)),
        ("bytes to disk, compactions left out", written(&after) - compacted),
        ("bytes of log entries", logged),
    ] {
        report.add("one store", batch, metric, bytes / user / stores::STORES as f64, "× user bytes");
    }
    report.add(
        "all stores",
        batch,
        "syncs of the logs",
        after.syncs(&before) / requests as f64,
        "per request",
    );
    report.add("all stores", batch, "writes", pairs as f64 / busy, "pairs/s");
    stores.stop().await;
    Ok(())
}

/// Bytes that compactions of a store wrote, as RocksDB's info logs tell: `EVENT_LOG_v1` and a line of JSON.
fn compacted_bytes(store: &Path) -> Result<u64, String> {
    let mut bytes = 0;
    for instance in ["log", "data"] {
        let folder = store.join(instance);
        let at = |error: std::io::Error| format!("{}: {error}", folder.display());
        for entry in std::fs::read_dir(&folder).map_err(at)? {
            let entry = entry.map_err(at)?;
            if entry.file_name().to_string_lossy().starts_with("LOG") {
                bytes += compacted_in(&String::from_utf8_lossy(&std::fs::read(entry.path()).map_err(at)?));
            }
        }
    }
    Ok(bytes)
}

fn compacted_in(info_log: &str) -> u64 {
    let finished = |line: &str| -> Option<u64> {
        let event: serde_json::Value = serde_json::from_str(line.split_once("EVENT_LOG_v1 ")?.1).ok()?;
        (event["event"] == "compaction_finished").then(|| event["total_output_size"].as_u64())?
    };
    info_log.lines().filter_map(finished).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compactions_wrote_is_found_in_an_info_log() {
        let log = r#"2026/11/30-10:03:23.5 7 EVENT_LOG_v1 {"job": 2, "event": "flush_finished", "immutable_memtables": 0}
2026/11/30-10:03:25.5 7 EVENT_LOG_v1 {"job": 4, "event": "compaction_started", "input_data_size": 1449}
2026/11/30-10:03:25.6 7 (Original Log Time 2026/11/30-10:03:25.5) EVENT_LOG_v1 {"job": 4, "event": "compaction_finished", "total_output_size": 1445, "num_output_files": 1}
2026/11/30-10:03:26.5 7 [db/compaction/compaction_job.cc:2000] nothing
2026/11/30-10:03:29.6 7 EVENT_LOG_v1 {"job": 5, "event": "compaction_finished", "total_output_size": 2000}"#;
        assert_eq!(compacted_in(log), 3_445);
    }

    #[test]
    fn a_batch_stays_between_two_cuts() {
        let data = Data::new(1_000, 8);
        let cuts = data.cuts(7);
        let batches = Batches { data, noise: data.noise(), regions: 7, batch: 20 };
        let mut random = Random::new(1);
        for _ in 0..1_000 {
            let (_, Action::BatchPut(pairs)) = batches.next(&mut random) else { panic!("a batch") };
            let region = |key: &Bytes| cuts.partition_point(|cut| cut <= key);
            assert_eq!(pairs.len(), 20);
            assert!(pairs.iter().all(|(key, _)| region(key) == region(&pairs[0].0)));
        }
    }
}
