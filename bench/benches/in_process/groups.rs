//! Replicated writes of one process, by the number of regions that take part.
//!
//! Three stores run in this process, joined by function calls, each with its own RocksDB, real syncs and one raft, log
//! and apply thread; proposers are closed loops that one thread drives. No gRPC, no client protocol: what is left is
//! the consensus core, the shared log and apply.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_bench::options::Options;
use flotilla_bench::report::{Report, median};
use flotilla_engine::RocksConfig;
use flotilla_kv::KvMachine;
use flotilla_placement::PlacementConfig;
use flotilla_raftstore::{Store, StoreConfig};

use crate::cluster::{Cluster, Setup};
use crate::load::{Load, Outcome};
use crate::regions::Regions;

/// Replicated writes per second in one process, by the number of active regions.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: Options,
    /// Regions that the writes go to, ascending; the cluster is cut further before each [default:
    /// 1,16,100,1000,10000; quick 1,100]
    #[arg(long, value_delimiter = ',')]
    groups: Vec<usize>,
    /// Writers, each with one write under way [default: 256,1024; quick 256]
    #[arg(long, value_delimiter = ',')]
    proposers: Vec<usize>,
    /// Measured seconds of each run [default: 5, quick 1]
    #[arg(long)]
    seconds: Option<u64>,
    /// Seconds before measuring begins [default: 2, quick 1]
    #[arg(long)]
    warmup_seconds: Option<u64>,
    /// Runs of each pair of numbers; medians are reported [default: 3, quick 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Raft and apply workers of each store
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

const STORES: u8 = 3;
/// Longest wait for compactions before a run, and how often they are looked at.
const SETTLE_MAX: Duration = Duration::from_secs(60);
const SETTLE_LOOK: Duration = Duration::from_millis(100);

/// Runs it.
///
/// # Errors
/// A sentence.
pub fn run(args: &Args) -> Result<(), String> {
    let options = &args.options;
    let groups = options.pick_list(&args.groups, &[1, 16, 100, 1_000, 10_000], &[1, 100]);
    let proposers = options.pick_list(&args.proposers, &[256, 1_024], &[256]);
    if !groups.is_sorted() || groups.contains(&0) || proposers.contains(&0) || args.workers == 0 {
        return Err("numbers must be at least 1, --groups ascending".into());
    }
    let mut report = options.report(
        "groups",
        "Replicated and applied writes, three stores in one process",
        "active regions",
    );
    let rounds = args.rounds.unwrap_or(options.pick(3, 1)).max(1);
    report.setting("rounds", rounds);
    report.setting("workers", args.workers);
    report.setting("value bytes", args.value_bytes);
    let folder = options.folder()?;
    let config = StoreConfig {
        raft_workers: args.workers,
        apply_workers: args.workers,
        split_bytes: 0,
        split_keys: 0,
        split_busy_bytes: 0,
        load_split_requests: 0,
        load_split_bytes: 0,
        load_split_cpu_ms: 0,
        // Leaders and regions stay where the bench puts them.
        placement: PlacementConfig {
            balance_leaders: false,
            merge_regions: false,
            ..PlacementConfig::default()
        },
        ..StoreConfig::default()
    };
    let setup = Setup { config, rocks: RocksConfig::default(), machine: Arc::new(KvMachine) };
    let cluster = Cluster::start(folder.path(), STORES, &setup);
    let mut regions = Regions::found(cluster.stores())?;
    for &groups in &groups {
        regions.cut_into(groups)?;
        for &proposers in &proposers {
            let load = Load {
                proposers,
                value_bytes: args.value_bytes,
                warmup: Duration::from_secs(args.warmup_seconds.unwrap_or(options.pick(2, 1))),
                measured: Duration::from_secs(args.seconds.unwrap_or(options.pick(5, 1))),
            };
            let run = |_| {
                settle(&regions);
                load.run(&regions)
            };
            let outcomes = (0..rounds).map(run).collect::<Result<Vec<_>, _>>()?;
            tell(&mut report, groups, proposers, &outcomes);
        }
    }
    drop(regions);
    cluster.stop();
    for &proposers in &proposers {
        add_shares(&mut report, &groups, &series(proposers));
    }
    options.write(&report)
}

/// Waits until compactions of what earlier runs wrote are done: else a run would pay for those before it, by how many
/// there were.
fn settle(regions: &Regions) {
    let limit = Instant::now() + SETTLE_MAX;
    let is_busy = |store: &Store| {
        let metrics = store.engine().metrics();
        let is_work = |name: &str| {
            ["data_pending_compaction_bytes", "data_running_compactions", "data_running_flushes"]
                .contains(&name)
        };
        metrics.into_iter().any(|(name, value)| is_work(name) && value > 0)
    };
    while regions.stores.values().any(is_busy) && Instant::now() < limit {
        std::thread::sleep(SETTLE_LOOK);
    }
}

fn series(proposers: usize) -> String {
    format!("{proposers} writers")
}

fn tell(report: &mut Report, groups: usize, proposers: usize, outcomes: &[Outcome]) {
    let middle = |value: fn(&Outcome) -> f64| median(outcomes.iter().map(value).collect());
    let mut add = |metric: &str, value: f64, unit: &str| {
        report.add(&series(proposers), groups, metric, value, unit);
    };
    add("writes", middle(|o| o.ops_per_s), "per s");
    add("p50", middle(|o| o.p50_us as f64 / 1e3), "ms");
    add("p99", middle(|o| o.p99_us as f64 / 1e3), "ms");
    add("CPU", middle(|o| o.cpu_us_per_op), "us per write");
    add("syncs of the logs", middle(|o| o.syncs_per_op), "per write");
    add("log entries of the stores", middle(|o| o.entries_per_op), "per write");
    add("bytes to disk of a store", middle(|o| o.disk_bytes_per_byte / f64::from(STORES)), "× user bytes");
    add("refused and tried again", middle(|o| o.retries as f64), "writes");
}

/// What is left of the highest rate.
fn add_shares(report: &mut Report, groups: &[usize], series: &str) {
    let rate = |report: &Report, groups: usize| report.value(series, &groups.to_string(), "writes");
    let peak = groups.iter().filter_map(|groups| rate(report, *groups)).fold(0.0, f64::max);
    for groups in groups {
        if let Some(rate) = rate(report, *groups) {
            report.add(series, groups, "share of the peak", rate / peak * 100.0, "%");
        }
    }
}
