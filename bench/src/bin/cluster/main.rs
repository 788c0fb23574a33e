//! Load on clusters of three stores, in the words of TiKV's raw protocol, and on etcd beside them.
//!
//! `cluster ycsb --quick` shows that it works; `cluster help` lists the benchmarks, `cluster ycsb --help` what can be
//! chosen. Each starts stores of its own on loopback with fresh disks, but for `load`, which takes addresses. Results go
//! to bench/results.
//!
//! Clients are closed loops: each has one operation under way, and its latency includes whatever was tried again.
//! Load and stores share the machine, as in the measurements of other systems that they are compared with.

mod against_etcd;
mod changes;
mod client;
mod common;
mod disks;
mod echo;
mod etcd;
mod idle;
mod link;
mod load;
mod outages;
mod pressure;
mod stores;
mod ycsb;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use flotilla_bench::{report, summary};

use client::Cluster;
use load::{Data, Op, Plan, Target, Uniform};

/// The load shares the machine with what it measures: what its calls cost is taken from there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Benchmarks of Flotilla clusters.
#[derive(Debug, Parser)]
#[command(name = "cluster")]
struct Cli {
    /// Threads of the load generator
    #[arg(long, global = true, default_value_t = 2)]
    threads: usize,
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// YCSB's workloads A to F, pure puts, gets and scans (about 4 minutes)
    Ycsb(ycsb::Args),
    /// Puts and linearizable gets beside etcd (about 10 minutes)
    Etcd(against_etcd::Args),
    /// CPU, messages, bytes and memory of regions at rest (about 8 minutes)
    Idle(idle::Args),
    /// kill -9 of a store that leads thousands of regions (about 8 minutes)
    Failover(outages::FailoverArgs),
    /// Time from a start to service (about 12 minutes)
    Restart(outages::RestartArgs),
    /// Puts while one disk of three is slow (about 4 minutes)
    Slowdisk(disks::SlowdiskArgs),
    /// Bytes to disks for each byte of clients (about 4 minutes)
    Amplification(disks::AmplificationArgs),
    /// What clients see of splits, merges and transfers (about 2 minutes)
    Changes(changes::Args),
    /// Memory under ten times the load that stores can carry (about 7 minutes)
    Overload(pressure::OverloadArgs),
    /// Ten minutes of saturating load without a fault (about 11 minutes)
    Soak(pressure::SoakArgs),
    /// Load on stores that run already
    Load(LoadArgs),
    #[command(hide = true)]
    Echo(echo::Args),
    /// Make the README of a folder of results
    Readme {
        /// The folder
        #[arg(default_value = "bench/results")]
        folder: PathBuf,
    },
}

#[derive(clap::Args, Debug)]
struct LoadArgs {
    /// Addresses of any of the stores
    #[arg(long, value_delimiter = ',', required = true)]
    pd: Vec<String>,
    /// What the clients do
    #[arg(long, value_enum, default_value = "put")]
    op: Op,
    /// Clients, each with one operation under way: a run for each number
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
    /// Write every key once before; gets always do
    #[arg(long)]
    fill: bool,
    /// Connections to each store
    #[arg(long, default_value_t = 4)]
    connections: usize,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(cli.threads.max(1)).enable_all().build();
    let done = match runtime {
        Err(error) => Err(format!("no runtime: {error}")),
        Ok(runtime) => runtime.block_on(run(&cli.bench)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("cluster: {reason}");
            ExitCode::FAILURE
        }
    }
}

async fn run(bench: &Bench) -> Result<(), String> {
    match bench {
        Bench::Ycsb(args) => ycsb::run(args).await,
        Bench::Etcd(args) => against_etcd::run(args).await,
        Bench::Idle(args) => idle::run(args).await,
        Bench::Failover(args) => outages::failover(args).await,
        Bench::Restart(args) => outages::restart(args).await,
        Bench::Slowdisk(args) => disks::slowdisk(args).await,
        Bench::Amplification(args) => disks::amplification(args).await,
        Bench::Changes(args) => changes::run(args).await,
        Bench::Overload(args) => pressure::overload(args).await,
        Bench::Soak(args) => pressure::soak(args).await,
        Bench::Load(args) => load_on(args).await,
        Bench::Echo(args) => echo::serve(args).await,
        Bench::Readme { folder } => report::write_text(&folder.join("README.md"), &summary::readme(folder)?),
    }
}

/// Load on stores that run already.
async fn load_on(args: &LoadArgs) -> Result<(), String> {
    if args.keys == 0 || args.clients.contains(&0) {
        return Err("--keys and --clients must be at least 1".into());
    }
    let data = Data::new(args.keys, args.value_bytes);
    let cluster = Arc::new(Cluster::connect(&args.pd, args.connections).await?);
    if args.fill || args.op == Op::Get {
        load::fill(&cluster, data).await?;
    }
    let target = Target::Flotilla(cluster);
    for &clients in &args.clients {
        let warmup = Duration::from_secs(args.warmup_seconds);
        let plan = Plan { clients, warmup, measured: Duration::from_secs(args.seconds), seed: 0 };
        let outcome = load::run(&target, Arc::new(Uniform::new(data, args.op)), plan).await;
        println!("{}", line(args.op, clients, &outcome));
        outcome.check()?;
    }
    Ok(())
}

fn line(op: Op, clients: usize, outcome: &load::Outcome) -> String {
    let all = outcome.all();
    format!(
        "{op:?} {clients:>4} clients: {:>7.0} ops/s  p50 {:.1} ms  p99 {:.1} ms  max {:.0} ms  {} retries",
        outcome.ops_per_s(),
        all.quantile_ms(0.5),
        all.quantile_ms(0.99),
        all.max_us() as f64 / 1_000.0,
        outcome.retries,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["cluster", "load"]).is_err(), "an address is required");
        let cli = Cli::try_parse_from(["cluster", "load", "--pd", "a:1,b:2", "--clients", "1,2"]);
        let Bench::Load(args) = cli.expect("both lists parse").bench else { panic!("another command") };
        assert_eq!((args.pd.len(), args.clients), (2, vec![1, 2]));
    }
}
