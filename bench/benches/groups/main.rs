//! Replicated writes of one process, by the number of regions that take part.
//!
//! Three stores run in this process, joined by function calls, each with its own RocksDB, real syncs and one raft, log
//! and apply thread; proposers are closed loops that one thread drives. No gRPC, no client protocol: what is left is
//! the consensus core, the shared log and apply.
//!
//! `cargo bench -p flotilla-bench --bench groups -- --groups 1,100,1000 --proposers 256`

#[path = "../../../raftstore/examples/embed/cluster.rs"]
mod cluster;
mod load;
mod regions;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use flotilla_bench::report::{self, Origin};
use flotilla_engine::RocksConfig;
use flotilla_kv::KvMachine;
use flotilla_placement::PlacementConfig;
use flotilla_raftstore::StoreConfig;
use serde::Serialize;

use cluster::{Cluster, Setup};
use load::{Load, Outcome};
use regions::Regions;

/// Replicated writes per second in one process, by the number of active regions.
#[derive(Debug, Parser)]
#[command(name = "groups")]
struct Args {
    /// Regions that the writes go to, ascending; the cluster is cut further before each
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 100, 1_000, 10_000])]
    groups: Vec<usize>,
    /// Writers, each with one write under way
    #[arg(long, value_delimiter = ',', default_values_t = [256, 1_024])]
    proposers: Vec<usize>,
    /// Measured seconds of each run
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Seconds before measuring begins
    #[arg(long, default_value_t = 2)]
    warmup_seconds: u64,
    /// Runs of each pair of numbers; the one with the median rate is reported
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Raft and apply workers of each store
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Folder for the disks [default: a temporary one]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the results as JSON
    #[arg(long)]
    out: Option<PathBuf>,
    /// Passed by cargo; means nothing
    #[arg(long, hide = true)]
    bench: bool,
}

/// A number of regions, and what writers got out of them.
#[derive(Debug, Serialize)]
struct Run {
    groups: usize,
    #[serde(flatten)]
    outcome: Outcome,
    /// Operations a second of all rounds.
    rounds: Vec<f64>,
}

/// What the JSON file holds.
#[derive(Debug, Serialize)]
struct Results {
    origin: Origin,
    stores: u8,
    workers: usize,
    key_bytes: usize,
    value_bytes: usize,
    runs: Vec<Run>,
}

const STORES: u8 = 3;

fn main() -> ExitCode {
    let args = Args::parse();
    let is_ascending = args.groups.is_sorted() && args.groups.first().is_some_and(|n| *n > 0);
    if !is_ascending || args.proposers.contains(&0) || args.rounds == 0 || args.workers == 0 {
        eprintln!("groups: numbers must be at least 1, --groups ascending");
        return ExitCode::FAILURE;
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("groups: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let kept;
    let folder = match &args.dir {
        Some(dir) => dir.as_path(),
        None => {
            kept = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
            kept.path()
        }
    };
    let config = StoreConfig {
        raft_workers: args.workers,
        apply_workers: args.workers,
        split_bytes: 0,
        // Leaders and regions stay where the bench puts them.
        placement: PlacementConfig {
            balance_leaders: false,
            merge_regions: false,
            ..PlacementConfig::default()
        },
        ..StoreConfig::default()
    };
    let setup = Setup { config, rocks: RocksConfig::default(), machine: Arc::new(KvMachine) };
    let cluster = Cluster::start(folder, STORES, &setup);
    let mut regions = Regions::found(cluster.stores())?;
    let mut runs = Vec::new();
    for &groups in &args.groups {
        regions.cut_into(groups)?;
        for &proposers in &args.proposers {
            let run = measure(args, &regions, groups, proposers)?;
            println!("{groups:>6} regions {}", run.outcome);
            runs.push(run);
        }
    }
    drop(regions);
    cluster.stop();
    let (workers, value_bytes) = (args.workers, args.value_bytes);
    let origin = Origin::here();
    let results =
        Results { origin, stores: STORES, workers, key_bytes: regions::KEY_BYTES, value_bytes, runs };
    args.out.as_ref().map_or(Ok(()), |out| report::write_json(out, &results))
}

fn measure(args: &Args, regions: &Regions, groups: usize, proposers: usize) -> Result<Run, String> {
    let load = Load {
        proposers,
        value_bytes: args.value_bytes,
        warmup: Duration::from_secs(args.warmup_seconds),
        measured: Duration::from_secs(args.seconds),
    };
    let mut outcomes = (0..args.rounds).map(|_| load.run(regions)).collect::<Result<Vec<_>, _>>()?;
    let rounds = outcomes.iter().map(|outcome| outcome.ops_per_s).collect();
    outcomes.sort_by(|a, b| a.ops_per_s.total_cmp(&b.ops_per_s));
    let outcome = outcomes.swap_remove(outcomes.len() / 2);
    Ok(Run { groups, outcome, rounds })
}
