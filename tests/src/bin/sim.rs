//! Replays a seed of the simulator with a readable trace, or runs many and prints totals.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
#[cfg(feature = "planted")]
use flotilla_tests::sim::planted::{self, Planted};
use flotilla_tests::sim::regressions::REGRESSIONS;
use flotilla_tests::sim::run::{Options, Outcome, run_seed};
use flotilla_tests::sim::stats::Stats;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// So many seeds together must have done enough of everything.
const SEEDS_ENOUGH: usize = 20;

/// Runs simulated clusters.
#[derive(Parser)]
struct Arguments {
    /// Run this seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Run the seeds A..B (B excluded) on all cores.
    #[arg(long, value_parser = parse_range)]
    seeds: Option<(u64, u64)>,
    /// Do not print every event of a single seed.
    #[arg(long)]
    quiet: bool,
    /// Print the stores' own logs.
    #[arg(long)]
    logs: bool,
    /// No faults.
    #[arg(long)]
    calm: bool,
    /// Leave out what was added to the draws later, so that a seed means what it meant before.
    #[arg(long)]
    early: bool,
    /// Simulated seconds with faults, instead of what the seed draws.
    #[arg(long, default_value_t = 0, conflicts_with = "minutes")]
    seconds: u64,
    /// Simulated minutes with faults, instead of what the seed draws.
    #[arg(long, default_value_t = 0)]
    minutes: u64,
    /// Cores to use; 0 = all.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Switch a bug on, which must be found: exits 0 if it is.
    #[cfg(feature = "planted")]
    #[arg(long, value_parser = parse_planted)]
    planted: Option<Planted>,
    /// Name all bugs that can be switched on.
    #[cfg(feature = "planted")]
    #[arg(long)]
    list_planted: bool,
    /// Run every seed that found something once.
    #[arg(long, conflicts_with_all = ["seed", "seeds"])]
    regressions: bool,
    /// Go on after a violation.
    #[arg(long)]
    keep_going: bool,
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let parts = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parts.ok_or_else(|| format!("{text} is not of the form A..B"))
}

#[cfg(feature = "planted")]
fn parse_planted(name: &str) -> Result<Planted, String> {
    Planted::find(name).ok_or_else(|| format!("no such bug: {name}; --list-planted names them"))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[cfg(feature = "planted")]
    if arguments.list_planted {
        planted::ALL.iter().for_each(|planted| println!("{}", planted.name));
        return ExitCode::SUCCESS;
    }
    if arguments.regressions {
        return run_regressions();
    }
    if arguments.logs {
        tracing_subscriber::fmt()
            .without_time()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .init();
    }
    let options = Options {
        print: arguments.seed.is_some() && !arguments.quiet,
        calm: arguments.calm,
        only: None,
        early: arguments.early,
        seconds: arguments.seconds + 60 * arguments.minutes,
        #[cfg(feature = "planted")]
        planted: arguments.planted,
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
    let outcomes = run_all((from, to), options, arguments.jobs, arguments.keep_going);
    let failed = report(&outcomes, began.elapsed().as_secs_f64());
    #[cfg(feature = "planted")]
    if let Some(planted) = arguments.planted {
        let how = if failed { "found" } else { "NOT FOUND" };
        println!("{}: {how} after {} seeds", planted.name, outcomes.len());
        return if failed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs every seed that found something once, one after the other.
fn run_regressions() -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let mut failed = false;
    for regression in REGRESSIONS {
        let violation = regression.run().violation;
        failed |= violation.is_some();
        let now = violation.as_deref().map_or("nothing", beginning);
        println!("{}: found once: {}; finds now: {now}", regression.flags(), regression.found);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs the seeds `from..to` on `jobs` cores; each runs in one thread.
fn run_all((from, to): (u64, u64), options: Options, jobs: usize, keep_going: bool) -> Vec<Outcome> {
    let next = AtomicU64::new(from);
    let stop = AtomicU64::new(u64::MAX);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if jobs == 0 { cores } else { jobs }.min((to - from) as usize);
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
                            println!("seed {seed}: {}", beginning(what));
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

/// Of many seeds, what went wrong in as many words as fit on a few lines; one seed alone tells everything.
fn beginning(what: &str) -> &str {
    what.char_indices().nth(400).map_or(what, |(end, _)| &what[..end])
}

/// Prints totals; says whether a run failed, or all of them together did too little.
fn report(outcomes: &[Outcome], seconds: f64) -> bool {
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
        println!("{}", only.violation.as_deref().unwrap_or("no violation"));
    }
    if let Some(first) = failed.first() {
        println!("failed seeds: {failed:?}");
        println!("replay: cargo run --release -p flotilla-tests --bin sim -- --seed {first}");
        return true;
    }
    let lazy = outcomes.len() >= SEEDS_ENOUGH && !total.did_enough(outcomes.len() as u64);
    if lazy {
        println!("too little happened");
    }
    lazy
}
