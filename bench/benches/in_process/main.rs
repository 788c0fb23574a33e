//! What one process can do without a network: replicated writes of three stores (`groups`), and the same entries given
//! to three engines directly (`engine`), which is the limit of the former.
//!
//! `cargo bench -p flotilla-bench --bench in_process -- groups --quick`

#[path = "../../../raftstore/examples/embed/cluster.rs"]
mod cluster;
mod engine;
mod groups;
mod load;
mod regions;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The product's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Benchmarks of stores and engines in one process.
#[derive(Debug, Parser)]
#[command(name = "in_process")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
    /// Passed by cargo; means nothing
    #[arg(long = "bench", hide = true, global = true)]
    _bench: bool,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Replicated writes by the number of active regions (about 4 minutes)
    Groups(groups::Args),
    /// The same entries logged and applied without Raft (about 2 minutes)
    Engine(engine::Args),
}

fn main() -> ExitCode {
    let done = match &Cli::parse().bench {
        Bench::Groups(args) => groups::run(args),
        Bench::Engine(args) => engine::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("in_process: {reason}");
            ExitCode::FAILURE
        }
    }
}
