//! Replays a seed of the simulator, or runs many.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use flotilla_tests::sim::run::{Options, Outcome, run_seed};
use flotilla_tests::sim::stats::Stats;

/// Runs simulated clusters.
#[derive(Parser)]
struct Arguments {
    /// Run this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Run the seeds A..B (B excluded) on all cores.
    #[arg(long, value_parser = parse_range)]
    seeds: Option<(u64, u64)>,
    /// Print every event of the run.
    #[arg(long)]
    trace: bool,
    /// Print the stores' own logs.
    #[arg(long)]
    logs: bool,
    /// No faults.
    #[arg(long)]
    calm: bool,
    /// Simulated seconds with faults, instead of what the seed draws.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Disks report a sync of the log without doing it: must be found.
    #[cfg(feature = "planted")]
    #[arg(long)]
    skip_log_sync: bool,
    /// Go on after a violation.
    #[arg(long)]
    keep_going: bool,
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let parts = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parts.ok_or_else(|| format!("{text} is not of the form A..B"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.logs {
        tracing_subscriber::fmt()
            .without_time()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .init();
    }
    let options = Options {
        print: arguments.trace,
        calm: arguments.calm,
        seconds: arguments.seconds,
        #[cfg(feature = "planted")]
        skip_log_sync: arguments.skip_log_sync,
    };
    let (from, to) = match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => (seed, seed + 1),
        (None, Some(range)) => range,
        (None, None) => (0, 100),
    };
    if to - from > 1 {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let began = Instant::now();
    let outcomes = run_all(from, to, options, arguments.keep_going);
    report(&outcomes, began.elapsed().as_secs_f64())
}

/// Runs seeds on all cores; each runs in one thread.
fn run_all(from: u64, to: u64, options: Options, keep_going: bool) -> Vec<Outcome> {
    let next = AtomicU64::new(from);
    let stop = AtomicU64::new(u64::MAX);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min((to - from) as usize);
    let mut outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1))
            .map(|_| {
                scope.spawn(|| {
                    let mut done = Vec::new();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= to || seed > stop.load(Ordering::Relaxed) {
                            return done;
                        }
                        let outcome = run_seed(seed, options);
                        if let Some(what) = &outcome.violation {
                            println!("seed {seed}: {what}");
                            if !keep_going {
                                stop.store(seed, Ordering::Relaxed);
                            }
                        }
                        done.push(outcome);
                    }
                })
            })
            .collect();
        workers.into_iter().flat_map(|w| w.join().expect("run_seed catches panics")).collect()
    });
    outcomes.sort_by_key(|o| o.seed);
    outcomes
}

fn report(outcomes: &[Outcome], seconds: f64) -> ExitCode {
    let mut total = Stats::default();
    outcomes.iter().for_each(|o| total.add(&o.stats));
    let simulated: u64 = outcomes.iter().map(|o| o.simulated_us).sum();
    let counts: Vec<String> = total.list().iter().map(|(name, n)| format!("{name} {n}")).collect();
    println!("{}", counts.join(", "));
    let failed: Vec<u64> = outcomes.iter().filter(|o| o.violation.is_some()).map(|o| o.seed).collect();
    println!(
        "{} seeds, {:.0} simulated seconds in {seconds:.1} s, {:.0} seeds a minute, {} failed",
        outcomes.len(),
        simulated as f64 / 1e6,
        outcomes.len() as f64 / seconds * 60.0,
        failed.len()
    );
    if let [only] = outcomes {
        println!("hash {:016x}, {} events", only.hash, only.events);
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("failed seeds: {failed:?}");
    println!("replay: cargo run -p flotilla-tests --bin sim -- --seed {} --trace", failed[0]);
    ExitCode::FAILURE
}
