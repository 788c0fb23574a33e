//! `flotilla`: a store, a demonstration of three of them, and the client commands.

use std::process::ExitCode;

use clap::Parser;
use flotilla_server::{cli, config, demo, server};

/// Messages and entries are many small allocations that another thread frees.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Version and commit.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("FLOTILLA_COMMIT"), ")");

/// A sharded, replicated key-value store
#[derive(Debug, Parser)]
#[command(name = "flotilla", version = VERSION, propagate_version = false)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run a store
    Server(server::ServerArgs),
    /// Three stores on loopback, a kill -9 in the middle of an import, every value checked
    Demo(demo::DemoArgs),
    /// Print a configuration file with every key, its meaning and its default
    Config,
    #[command(flatten)]
    Client(cli::Command),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Server(args) => server::main(args),
        Command::Demo(args) => on_runtime(demo::main(args)),
        Command::Config => {
            print!("{}", config::EXAMPLE);
            ExitCode::SUCCESS
        }
        Command::Client(command) => on_runtime(cli::main(command)),
    }
}

/// Runs what is short-lived and asynchronous.
fn on_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            eprintln!("flotilla: no threads: {error}");
            ExitCode::FAILURE
        }
    }
}
