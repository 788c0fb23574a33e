//! Load on a cluster of stores, in the words of TiKV's raw protocol.
//!
//! Against stores that run already: `cluster --pd 127.0.0.1:20160 --op put --clients 64 --seconds 10`. With
//! `--spawn` it starts three stores on loopback with fresh disks, splits the keys into regions, and runs puts and
//! gets with 64 and 256 clients; the result goes to bench/results as JSON. With `--changes` too, the load of the first
//! number of clients runs while regions are split, merged and handed over, and what clients see of that is measured.
//!
//! Clients are closed loops: each has one operation under way, and its latency includes whatever was tried again.
//! Load and stores share the machine, as in the measurements of other systems that they are compared with.

mod changes;
mod client;
mod load;
mod stores;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use flotilla_bench::report::{self, Origin};
use serde::Serialize;

use client::Cluster;
use load::{Data, Op, Outcome, Plan};
use stores::{Cost, Idle, Stores};

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Human,
    Json,
}

/// Load on a Flotilla cluster: operations per second and their latencies.
#[derive(Debug, Parser)]
#[command(name = "cluster")]
struct Args {
    /// Addresses of any of the stores
    #[arg(long, value_delimiter = ',', required_unless_present = "spawn")]
    pd: Vec<String>,
    /// What the clients do (with --spawn: both)
    #[arg(long, value_enum, default_value = "put")]
    op: Op,
    /// Clients, each with one operation under way (with --spawn: a run for each number)
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256])]
    clients: Vec<usize>,
    /// Measured seconds of each run
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Seconds before measuring begins
    #[arg(long, default_value_t = 3)]
    warmup_seconds: u64,
    /// Number of keys, of 16 bytes each
    #[arg(long, default_value_t = 100_000)]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Write every key once before the runs (with --spawn: always)
    #[arg(long)]
    fill: bool,
    /// Connections to each store
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Threads of the load generator
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How results are printed
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
    /// Start three stores on loopback
    #[arg(long)]
    spawn: bool,
    /// With --spawn: measure splits, merges and transfers under the load instead
    #[arg(long, requires = "spawn")]
    changes: bool,
    /// The flotilla binary [default: the one beside this binary]
    #[arg(long)]
    flotilla: Option<PathBuf>,
    /// Configuration file of the spawned stores
    #[arg(long)]
    config: Option<PathBuf>,
    /// Regions that the keys are split into before the runs
    #[arg(long, default_value_t = 24)]
    regions: u64,
    /// Seconds without load, before the runs, in which the stores' CPU time is measured
    #[arg(long, default_value_t = 10)]
    idle_seconds: u64,
    /// Folder for the disks of the spawned stores [default: a temporary one]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Where the result of --spawn goes
    #[arg(long, default_value = "bench/results/first.json")]
    out: PathBuf,
}

/// A run and what it cost the stores.
#[derive(Debug, Serialize)]
struct Run {
    #[serde(flatten)]
    outcome: Outcome,
    #[serde(flatten)]
    cost: Cost,
}

/// Everything that a `--spawn` found.
#[derive(Debug, Serialize)]
struct Results {
    origin: Origin,
    stores: usize,
    regions: usize,
    leaders_by_store: std::collections::BTreeMap<u64, u64>,
    key_bytes: usize,
    data: Data,
    idle: Idle,
    runs: Vec<Run>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.keys == 0 || args.threads == 0 || args.clients.contains(&0) {
        eprintln!("cluster: --keys, --clients and --threads must be at least 1");
        return ExitCode::FAILURE;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(args.threads).enable_all().build();
    let done = match runtime {
        Err(error) => Err(format!("no runtime: {error}")),
        Ok(runtime) => {
            runtime.block_on(async { if args.spawn { spawn(&args).await } else { load(&args).await } })
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("cluster: {reason}");
            ExitCode::FAILURE
        }
    }
}

impl Args {
    fn data(&self) -> Data {
        Data { keys: self.keys, value_bytes: self.value_bytes }
    }

    fn plan(&self, op: Op, clients: usize) -> Plan {
        let (warmup, measured) =
            (Duration::from_secs(self.warmup_seconds), Duration::from_secs(self.seconds));
        Plan { op, clients, warmup, measured }
    }
}

/// Load on stores that run already. True if every operation succeeded.
async fn load(args: &Args) -> Result<bool, String> {
    let cluster = Arc::new(Cluster::connect(&args.pd, args.connections).await?);
    if args.fill || args.op == Op::Get {
        load::fill(&cluster, args.data()).await?;
    }
    let mut clean = true;
    for clients in &args.clients {
        let outcome = load::run(&cluster, args.data(), args.plan(args.op, *clients)).await;
        clean &= outcome.errors == 0;
        match args.output {
            Output::Human => println!("{}", line(&outcome)),
            Output::Json => {
                println!("{}", serde_json::to_string(&outcome).map_err(|error| error.to_string())?)
            }
        }
    }
    Ok(clean)
}

/// Load on three stores of its own. True if every operation succeeded.
async fn spawn(args: &Args) -> Result<bool, String> {
    let temporary = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
    let folder = args.dir.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let binary = flotilla_binary(args)?;
    let stores = Stores::start(&binary, folder, args.config.as_deref()).await?;
    if args.changes {
        let results = measure_changes(args, &stores).await;
        stores.stop().await;
        let results = results?;
        report::write_json(&args.out, &results)?;
        results.changes.lines().iter().for_each(|line| println!("{line}"));
        return Ok(results.changes.is_clean());
    }
    let results = measure(args, &stores).await;
    stores.stop().await;
    let results = results?;
    report::write_json(&args.out, &results)?;
    match args.output {
        Output::Human => println!("written: {}", args.out.display()),
        Output::Json => println!("{}", serde_json::to_string(&results).map_err(|error| error.to_string())?),
    }
    Ok(results.runs.iter().all(|run| run.outcome.errors == 0))
}

async fn measure(args: &Args, stores: &Stores) -> Result<Results, String> {
    let data = args.data();
    let cluster = Arc::new(Cluster::connect(&stores.addresses, args.connections).await?);
    eprintln!("splitting into {} regions ...", args.regions);
    stores.split(&cluster, data, args.regions).await?;
    eprintln!("writing {} keys ...", data.keys);
    load::fill(&cluster, data).await?;
    let idle = idle(args, stores).await?;
    let mut runs = Vec::new();
    for op in [Op::Put, Op::Get] {
        for clients in &args.clients {
            let before = stores.reading().await?;
            // Warm-up operations cost too: the run's share of the cost is its share of the time.
            let outcome = load::run(&cluster, data, args.plan(op, *clients)).await;
            let whole = outcome.seconds + args.warmup_seconds as f64;
            let ops = (outcome.ops as f64 * whole / outcome.seconds).round() as u64;
            let cost = stores.reading().await?.cost_since(&before, ops);
            let fsyncs = cost.fsyncs_per_op.map_or("?".to_string(), |fsyncs| fsyncs.to_string());
            eprintln!("{}  {fsyncs} fsyncs/op  {} us CPU/op", line(&outcome), cost.cpu_us_per_op);
            runs.push(Run { outcome, cost });
        }
    }
    cluster.reload().await?;
    Ok(Results {
        origin: Origin::here(),
        stores: stores.addresses.len(),
        regions: cluster.routes().len(),
        leaders_by_store: stores::leaders(&cluster),
        key_bytes: data.key(0).len(),
        data,
        idle,
        runs,
    })
}

/// Everything that `--spawn --changes` found.
#[derive(Debug, Serialize)]
struct ChangeResults {
    origin: Origin,
    stores: usize,
    regions: usize,
    data: Data,
    #[serde(flatten)]
    changes: changes::Changes,
}

async fn measure_changes(args: &Args, stores: &Stores) -> Result<ChangeResults, String> {
    let data = args.data();
    let cluster = Arc::new(Cluster::connect(&stores.addresses, args.connections).await?);
    stores.split(&cluster, data, args.regions).await?;
    load::fill(&cluster, data).await?;
    cluster.reload().await?;
    let plan = args.plan(args.op, args.clients[0]);
    let changes = changes::run(stores, &cluster, data, plan).await?;
    let regions = cluster.routes().len();
    Ok(ChangeResults { origin: Origin::here(), stores: stores.addresses.len(), regions, data, changes })
}

/// What the stores cost while nothing is asked of them.
async fn idle(args: &Args, stores: &Stores) -> Result<Idle, String> {
    if args.idle_seconds == 0 {
        return Ok(Idle::default());
    }
    let (before, started) = (stores.reading().await?, Instant::now());
    tokio::time::sleep(Duration::from_secs(args.idle_seconds)).await;
    let idle = stores.reading().await?.idle_since(&before, started.elapsed().as_secs_f64());
    let frames = idle.frames_per_s_per_pair.map_or("?".to_string(), |frames| frames.to_string());
    eprintln!("idle: {} % of one core, {frames} frames/s per pair of stores", idle.cpu_percent);
    Ok(idle)
}

fn flotilla_binary(args: &Args) -> Result<PathBuf, String> {
    if let Some(path) = &args.flotilla {
        return Ok(path.clone());
    }
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let beside = here.parent().unwrap_or(Path::new(".")).join("flotilla");
    if beside.exists() {
        Ok(beside)
    } else {
        Err(format!("{} is missing: build it, or --flotilla PATH", beside.display()))
    }
}

fn line(outcome: &Outcome) -> String {
    let (p50, p99, max) = (outcome.p50_us, outcome.p99_us, outcome.max_us);
    let ms = |us: u64| us as f64 / 1000.0;
    format!(
        "{:?} {:>4} clients: {:>7.0} ops/s  p50 {:.1} ms  p99 {:.1} ms  max {:.0} ms  {} errors  {} retries{}",
        outcome.op,
        outcome.clients,
        outcome.ops_per_s,
        ms(p50),
        ms(p99),
        ms(max),
        outcome.errors,
        outcome.retries,
        outcome.error_example.as_ref().map(|example| format!(" ({example})")).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
        assert!(Args::try_parse_from(["cluster"]).is_err(), "an address or --spawn is required");
        let args = Args::try_parse_from(["cluster", "--pd", "a:1,b:2", "--clients", "1,2"])
            .expect("both lists parse");
        assert_eq!((args.pd.len(), args.clients), (2, vec![1, 2]));
    }
}
