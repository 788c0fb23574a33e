//! This project's consensus core and the crate `raft`, side by side on the same work.
//!
//! Both run in one thread with their own storage in memory, three peers of a group wired by function calls, the same
//! options on both sides. Rounds alternate between the two, so that what else the machine does hits both alike;
//! times are CPU times of the thread. Printed are the medians of the rounds, and the median of the rounds' ratios.
//!
//! `cargo bench -p flotilla-bench --bench raft_core -- --quick`

mod core;
mod memory;
mod ours;
mod raft_rs;

use std::process::ExitCode;

use clap::Parser;
use flotilla_bench::options::Options as Common;
use flotilla_bench::report::{Report, median};

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
    #[command(flatten)]
    options: Common,
    /// CPU seconds of each measurement, on each side, in each round [default: 0.5, quick 0.1]
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds, each of which measures both sides [default: 7, quick 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// Proposals of 256 bytes at a time
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 256])]
    batches: Vec<usize>,
    /// Idle groups of three peers [default: 1000,10000,100000; quick 1000]
    #[arg(long, value_delimiter = ',')]
    groups: Vec<usize>,
    /// Passed by cargo; means nothing
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured how often.
struct Plan {
    seconds: f64,
    rounds: usize,
    batches: Vec<usize>,
    groups: Vec<usize>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("raft_core: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let options = &args.options;
    let plan = Plan {
        seconds: args.seconds.unwrap_or(options.pick(0.5, 0.1)),
        rounds: args.rounds.unwrap_or(options.pick(7, 1)),
        batches: args.batches.clone(),
        groups: options.pick_list(&args.groups, &[1_000, 10_000, 100_000], &[1_000]),
    };
    if plan.rounds == 0 || plan.seconds <= 0.0 || plan.batches.contains(&0) || plan.groups.contains(&0) {
        return Err("--seconds, --rounds, --batches and --groups must be positive".into());
    }
    let title =
        "The consensus core beside the crate raft 0.7 of TiKV, the same work and options on both sides";
    let mut report = options.report("raft_core", title, "size");
    report.setting("rounds", plan.rounds);
    report.setting("CPU seconds of each measurement", plan.seconds);
    report.setting("bytes of a proposal", PROPOSAL_BYTES);
    report.note(format!("load average before: {}", load_average()));
    report.note("times are CPU times of the one thread; advantages are medians of the rounds' quotients");
    report
        .note("proposals by how many are made at a time, ticks by the number of idle groups of three peers");
    measure_proposals(&plan, &mut report);
    measure_idle(&plan, &mut report);
    measure_memory(&mut report);
    report.note(format!("load average after: {}", load_average()));
    options.write(&report)
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// Adds medians of rounds of (flotilla, raft-rs), and by how much the former is better.
fn add(report: &mut Report, at: &str, metric: &str, unit: &str, rounds: &[(f64, f64)]) {
    let is_rate = unit.ends_with("/s");
    let advantage = |(ours, theirs): &(f64, f64)| if is_rate { ours / theirs } else { theirs / ours };
    report.add("flotilla", at, metric, median(rounds.iter().map(|round| round.0).collect()), unit);
    report.add("raft-rs", at, metric, median(rounds.iter().map(|round| round.1).collect()), unit);
    report.add("advantage, times", at, metric, median(rounds.iter().map(advantage).collect()), unit);
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

fn measure_proposals(plan: &Plan, report: &mut Report) {
    for is_batched in [false, true] {
        let options = Options { is_batched, heartbeat_ticks: HEARTBEAT_TICKS };
        let name = if is_batched { "batch_append and skip_bcast_commit" } else { "defaults" };
        for &batch in &plan.batches {
            let round = |_| {
                (
                    proposals_per_second::<Flotilla>(options, batch, plan.seconds),
                    proposals_per_second::<RaftRs>(options, batch, plan.seconds),
                )
            };
            let rounds: Vec<(f64, f64)> = (0..plan.rounds).map(round).collect();
            add(report, &batch.to_string(), &format!("proposals, {name}"), "proposals/s", &rounds);
        }
    }
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

fn measure_idle(plan: &Plan, report: &mut Report) {
    for heartbeat_ticks in [2, 10] {
        let options = Options { is_batched: false, heartbeat_ticks };
        for &count in &plan.groups {
            let (mut ours, mut theirs) =
                (Idle::<Flotilla>::new(count, options), Idle::<RaftRs>::new(count, options));
            let round = |_| {
                (
                    ours.nanos_per_tick(heartbeat_ticks, plan.seconds),
                    theirs.nanos_per_tick(heartbeat_ticks, plan.seconds),
                )
            };
            let rounds: Vec<(f64, f64)> = (0..plan.rounds).map(round).collect();
            let metric = format!("tick of a group, heartbeat every {heartbeat_ticks}");
            add(report, &count.to_string(), &metric, "ns", &rounds);
        }
    }
}

fn measure_memory(report: &mut Report) {
    let options = Options { is_batched: false, heartbeat_ticks: HEARTBEAT_TICKS };
    let (our_leader, our_follower) = memory::quiet_peers::<Flotilla>(options);
    let (their_leader, their_follower) = memory::quiet_peers::<RaftRs>(options);
    let ours = memory::new_peer::<Flotilla>(options);
    let theirs = memory::new_peer::<RaftRs>(options);
    for (name, ours, theirs) in [
        ("idle follower after 300 entries", our_follower, their_follower),
        ("idle leader after 300 entries", our_leader, their_leader),
        ("new follower", ours, theirs),
    ] {
        add(report, name, "memory of a peer", "bytes", &[(ours as f64, theirs as f64)]);
    }
}
