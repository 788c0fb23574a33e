//! `flotilla server` with configuration keys that break a promise on purpose: what the real-process tests must notice.

use std::process::ExitCode;

use clap::Parser;
use flotilla_server::server;

/// A store that can be told to break its promises
#[derive(Debug, Parser)]
#[command(name = "flotilla-planted")]
enum Command {
    /// Run a store
    Server(server::ServerArgs),
}

fn main() -> ExitCode {
    let Command::Server(args) = Command::parse();
    server::main(args)
}
