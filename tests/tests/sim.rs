//! Short seeds of the simulator. A failing seed prints the command that replays it.

#[path = "sim/damage.rs"]
mod damage;
#[path = "sim/flow.rs"]
mod flow;
#[path = "sim/play.rs"]
mod play;
#[path = "sim/rest.rs"]
mod rest;
#[path = "sim/stale.rs"]
mod stale;

use flotilla_tests::sim::profile::Fault;
use flotilla_tests::sim::regressions::REGRESSIONS;
use flotilla_tests::sim::run::{Options, run_seed};
use flotilla_tests::sim::stats::Stats;

/// Seeds of one test.
const SEEDS: u64 = 25;

/// Runs a range of seeds; none may violate anything, and together they must have done enough.
fn run_all(first: u64) {
    let mut total = Stats::default();
    let mut failed = Vec::new();
    for seed in first..first + SEEDS {
        let outcome = run_seed(seed, Options::default());
        total.add(&outcome.stats);
        if let Some(what) = outcome.violation {
            let replay = format!("cargo run -p flotilla-tests --bin sim -- --seed {seed}");
            failed.push(format!("seed {seed}: {what}\nreplay: {replay}"));
        }
    }
    println!("{:?}", total.list());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(total.did_enough(SEEDS), "too little happened: {:?}", total.list());
}

macro_rules! seeds {
    ($($name:ident: $first:expr,)*) => {
        $(#[test]
        fn $name() {
            run_all($first);
        })*
    };
}

seeds! {
    clusters_survive_seeds_0_to_24: 0,
    clusters_survive_seeds_25_to_49: 25,
    clusters_survive_seeds_50_to_74: 50,
    clusters_survive_seeds_75_to_99: 75,
    clusters_survive_seeds_100_to_124: 100,
    clusters_survive_seeds_125_to_149: 125,
    clusters_survive_seeds_150_to_174: 150,
    clusters_survive_seeds_175_to_199: 175,
    clusters_survive_seeds_200_to_224: 200,
    clusters_survive_seeds_225_to_249: 225,
    clusters_survive_seeds_250_to_274: 250,
    clusters_survive_seeds_275_to_299: 275,
}

#[test]
fn short_seeds_that_found_something_once_find_nothing() {
    for regression in REGRESSIONS.iter().filter(|regression| regression.is_short()) {
        let (violation, found) = (regression.run().violation, regression.found);
        assert_eq!(violation, None, "{}, which found once: {found}", regression.flags());
    }
}

#[test]
fn the_same_seed_twice_is_the_same_run() {
    for seed in 0..20 {
        let (first, second) = (run_seed(seed, Options::default()), run_seed(seed, Options::default()));
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
    }
}

#[test]
fn a_split_costs_no_snapshot_while_nothing_fails() {
    let mut total = Stats::default();
    for seed in 0..20 {
        let outcome = run_seed(seed, Options { only: Some(&[Fault::Split]), ..Options::default() });
        assert_eq!(outcome.violation, None, "seed {seed}");
        total.add(&outcome.stats);
    }
    assert!(total.splits > 20 && total.pauses > 0, "{:?}", total.list());
}

#[test]
fn without_faults_every_operation_has_an_outcome() {
    for seed in 0..5 {
        let outcome = run_seed(seed, Options { calm: true, ..Options::default() });
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert_eq!(outcome.stats.unknown, 0, "seed {seed}");
        assert!(outcome.stats.operations > 50, "seed {seed}: {:?}", outcome.stats.list());
    }
}

#[test]
fn busy_regions_are_split_where_their_load_divides() {
    let mut total = Stats::default();
    for seed in 0..30 {
        let outcome = run_seed(seed, Options { calm: true, ..Options::default() });
        assert_eq!(outcome.violation, None, "seed {seed}");
        total.add(&outcome.stats);
    }
    // Nobody but the stores themselves splits anything.
    assert!(total.load_splits >= 5 && total.splits >= 5, "{:?}", total.list());
}
