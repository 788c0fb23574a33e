//! The client commands of the `flotilla` binary: everything but `server` and `demo`.
//!
//! [`Command`] is a clap subcommand to be flattened into the binary's own; [`main`] runs one and reports its error as
//! one line. Each command writes to the `out` it is given and to nothing else, progress and warnings on standard error
//! aside. [`load`], [`verify`], [`tree`] and [`Admin`] are the machinery of `import` and `ctl`, for `demo` to reuse.

mod admin;
mod bar;
mod common;
mod ctl;
mod disk;
mod error;
mod export;
mod import;
mod kv;
mod load;
mod rates;
mod records;
mod render;
mod resume;
pub(crate) mod text;
pub mod tree;
mod verify;

use std::io::Write;
use std::process::ExitCode;

pub use admin::Admin;
pub use common::{Common, Output};
pub use error::CliError;
pub use load::{ENTRY_BYTES_MAX, Item, Items, LoadFailure, LoadOptions, LoadReport, Progress, load};
pub use rates::{Gap, RateLog};
pub use render::{region_table, store_table};
pub use verify::{VerifyReport, verify};

/// A client command.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Print the value of a key
    Get(kv::Get),
    /// Store a value under a key
    Put(kv::Put),
    /// Remove keys, or all keys of a range
    Delete(kv::Delete),
    /// List keys and values in order
    Scan(kv::ScanArgs),
    /// Store the files of a directory, or the records of a file
    Import(import::Import),
    /// Write keys and values to files, the inverse of import
    Export(export::Export),
    /// Look at stores and regions, and change them
    Ctl(ctl::Ctl),
}

/// Runs a command, writing its result to `out`.
///
/// # Errors
/// Whatever kept the command from doing all of what it was asked to.
pub async fn run(command: Command, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
    match command {
        Command::Get(args) => args.run(out).await,
        Command::Put(args) => args.run(out).await,
        Command::Delete(args) => args.run(out).await,
        Command::Scan(args) => args.run(out).await,
        Command::Import(args) => args.run(out).await,
        Command::Export(args) => args.run(out).await,
        Command::Ctl(args) => args.run(out).await,
    }
}

/// Runs a command on standard output; an error becomes one line on standard error and exit status 1. A reader that
/// went away (`flotilla scan | head`) is no error.
pub async fn main(command: Command) -> ExitCode {
    let mut out = std::io::stdout();
    let result = run(command, &mut out).await.and_then(|()| out.flush().map_err(CliError::Output));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flotilla: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests;
