//! This project's consensus core and the crate `raft`, side by side on the same work.
//!
//! Both run in one thread with their own storage in memory, three peers of a group wired by function calls, the same
//! options on both sides. Rounds alternate between the two, so that what else the machine does hits both alike;
//! times are CPU times of the thread. Printed are the medians of the rounds, and the median of the rounds' ratios.
//!
//! `cargo bench -p flotilla-bench --bench raft_core -- --seconds 2 --rounds 5`

mod core;
mod memory;
mod ours;
mod raft_rs;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use flotilla_bench::report::{self, Origin};
use serde::Serialize;

use crate::core::{Core, Group, Options, PEERS, Wire, cpu_time};
use crate::ours::Flotilla;
use crate::raft_rs::RaftRs;

/// Bytes of a proposal.
const PROPOSAL_BYTES: usize = 256;

/// Proposals between two ticks (and compactions of the storage).
const PROPOSALS_PER_TICK: usize = 4096;

/// Ticks between heartbeats while proposals flow.
const HEARTBEAT_TICKS: usize = 2;

/// flotilla-raft and the crate raft on the same work: proposals, idle groups, memory of a peer.
#[derive(Debug, Parser)]
#[command(name = "raft_core")]
struct Args {
    /// CPU seconds of each measurement, on each side, in each round
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Rounds, each of which measures both sides
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Proposals of 256 bytes at a time
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 256])]
    batches: Vec<usize>,
    /// Idle groups of three peers
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    groups: Vec<usize>,
    /// Write the results as JSON
    #[arg(long)]
    out: Option<PathBuf>,
    /// Passed by cargo; means nothing
    #[arg(long, hide = true)]
    bench: bool,
}

/// Medians of one measurement.
#[derive(Clone, Debug, Serialize)]
struct Pair {
    /// What was measured.
    name: String,
    /// Unit of both sides.
    unit: &'static str,
    /// `flotilla-raft`.
    flotilla: f64,
    /// The crate `raft`.
    raft_rs: f64,
    /// How much better this project is: quotient of the two, the greater the better.
    advantage: f64,
    /// Each round's quotient.
    rounds: Vec<f64>,
}

/// What the JSON file holds.
#[derive(Debug, Serialize)]
struct Results {
    origin: Origin,
    raft_rs_version: &'static str,
    /// Of the last 1, 5 and 15 minutes, before and after.
    load_average_before: String,
    load_average_after: String,
    proposal_bytes: usize,
    proposals: Vec<Pair>,
    idle: Vec<Pair>,
    memory: Vec<Pair>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.rounds == 0 || args.seconds <= 0.0 || args.batches.contains(&0) || args.groups.contains(&0) {
        eprintln!("raft_core: --seconds, --rounds, --batches and --groups must be positive");
        return ExitCode::FAILURE;
    }
    let load_average_before = load_average();
    println!("load average {load_average_before}");
    println!("{:<58} {:>11} {:>11}  better by", "", "flotilla", "raft 0.7");
    let results = Results {
        origin: origin(),
        raft_rs_version: "0.7",
        load_average_before,
        proposal_bytes: PROPOSAL_BYTES,
        proposals: measure_proposals(&args),
        idle: measure_idle(&args),
        memory: measure_memory(),
        load_average_after: load_average(),
    };
    println!("load average {}", results.load_average_after);
    if let Some(path) = &args.out
        && let Err(error) = report::write_json(path, &results)
    {
        eprintln!("raft_core: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// As this was started by cargo, whose path to the binary says nothing.
fn origin() -> Origin {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let command = format!("cargo bench -p flotilla-bench --bench raft_core -- {}", arguments.join(" "));
    Origin { command, ..Origin::here() }
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

impl Pair {
    /// From rounds of (flotilla, raft-rs). `more_is_better` decides which way the quotient goes.
    fn new(name: String, unit: &'static str, more_is_better: bool, rounds: &[(f64, f64)]) -> Self {
        let quotient =
            |(ours, theirs): &(f64, f64)| if more_is_better { ours / theirs } else { theirs / ours };
        let quotients: Vec<f64> = rounds.iter().map(quotient).collect();
        let pair = Self {
            name,
            unit,
            flotilla: median(rounds.iter().map(|round| round.0)),
            raft_rs: median(rounds.iter().map(|round| round.1)),
            advantage: median(quotients.iter().copied()),
            rounds: quotients,
        };
        println!(
            "{:<58} {:>11.0} {:>11.0}  {:.2} times",
            format!("{} ({})", pair.name, pair.unit),
            pair.flotilla,
            pair.raft_rs,
            pair.advantage
        );
        pair
    }
}

/// Proposals a second that all three peers applied.
fn proposals_per_second<C: Core>(options: Options, batch: usize, seconds: f64) -> f64 {
    let mut wire = Wire::default();
    let mut group = Group::<C>::new(options, &mut wire);
    // Without commit broadcasts the followers learn of the last commits by a heartbeat.
    let catch_up = |group: &mut Group<C>, wire: &mut Wire<C>| {
        for _ in 0..HEARTBEAT_TICKS {
            group.tick(wire);
        }
        group.applied
    };
    let applied_before = catch_up(&mut group, &mut wire);
    let data = [7; PROPOSAL_BYTES];
    let rounds_per_tick = (PROPOSALS_PER_TICK / batch).max(1);
    let mut proposed = 0;
    let start = cpu_time();
    let elapsed = loop {
        for _ in 0..rounds_per_tick {
            for _ in 0..batch {
                C::propose(&mut group.nodes[0], &data);
            }
            group.settle(&mut wire);
        }
        proposed += rounds_per_tick * batch;
        group.tick(&mut wire);
        for node in &mut group.nodes {
            C::compact(node);
        }
        let elapsed = (cpu_time() - start).as_secs_f64();
        if elapsed >= seconds {
            break elapsed;
        }
    };
    let applied = catch_up(&mut group, &mut wire) - applied_before;
    assert_eq!(applied, (PEERS * proposed) as u64, "every proposal is applied everywhere");
    proposed as f64 / elapsed
}

fn measure_proposals(args: &Args) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for is_batched in [false, true] {
        let options = Options { is_batched, heartbeat_ticks: HEARTBEAT_TICKS };
        let name = if is_batched { "batch_append, skip_bcast_commit" } else { "defaults" };
        for &batch in &args.batches {
            let round = |_| {
                (
                    proposals_per_second::<Flotilla>(options, batch, args.seconds),
                    proposals_per_second::<RaftRs>(options, batch, args.seconds),
                )
            };
            let rounds: Vec<(f64, f64)> = (0..args.rounds).map(round).collect();
            let name = format!("{batch} at a time, {name}");
            pairs.push(Pair::new(name, "proposals/s", true, &rounds));
        }
    }
    pairs
}

/// Idle groups that are ticked in turn.
struct Idle<C: Core> {
    groups: Vec<Group<C>>,
    wire: Wire<C>,
}

impl<C: Core> Idle<C> {
    fn new(count: usize, options: Options) -> Self {
        let mut wire = Wire::default();
        let groups = (0..count).map(|_| Group::new(options, &mut wire)).collect();
        Self { groups, wire }
    }

    /// Nanoseconds of one tick of one group. Whole heartbeat intervals are measured.
    fn nanos_per_tick(&mut self, interval: usize, seconds: f64) -> f64 {
        let start = cpu_time();
        let mut ticks = 0;
        loop {
            for _ in 0..interval {
                for group in &mut self.groups {
                    group.tick(&mut self.wire);
                }
            }
            ticks += interval * self.groups.len();
            let elapsed = cpu_time() - start;
            if elapsed.as_secs_f64() >= seconds {
                return elapsed.as_nanos() as f64 / ticks as f64;
            }
        }
    }
}

fn measure_idle(args: &Args) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for heartbeat_ticks in [2, 10] {
        let options = Options { is_batched: false, heartbeat_ticks };
        for &count in &args.groups {
            let (mut ours, mut theirs) =
                (Idle::<Flotilla>::new(count, options), Idle::<RaftRs>::new(count, options));
            let round = |_| {
                (
                    ours.nanos_per_tick(heartbeat_ticks, args.seconds),
                    theirs.nanos_per_tick(heartbeat_ticks, args.seconds),
                )
            };
            let rounds: Vec<(f64, f64)> = (0..args.rounds).map(round).collect();
            let name = format!("tick of one of {count} groups, heartbeat every {heartbeat_ticks}");
            pairs.push(Pair::new(name, "ns", false, &rounds));
        }
    }
    pairs
}

fn measure_memory() -> Vec<Pair> {
    let options = Options { is_batched: false, heartbeat_ticks: HEARTBEAT_TICKS };
    let (our_leader, our_follower) = memory::quiet_peers::<Flotilla>(options);
    let (their_leader, their_follower) = memory::quiet_peers::<RaftRs>(options);
    let ours = memory::new_peer::<Flotilla>(options);
    let theirs = memory::new_peer::<RaftRs>(options);
    [
        ("idle follower after 300 entries", our_follower, their_follower),
        ("idle leader after 300 entries", our_leader, their_leader),
        ("new follower", ours, theirs),
    ]
    .map(|(name, ours, theirs)| Pair::new(name.to_string(), "bytes", false, &[(ours as f64, theirs as f64)]))
    .to_vec()
}
