//! Stores as processes on loopback: started in a fresh folder on free ports, ended by their process ids when dropped.

mod binary;
mod cluster;
mod command;
mod operator;
mod store;
mod view;
mod wait;

pub use binary::flotilla;
pub use cluster::{Cluster, Settings};
pub use command::run;
pub use operator::Operator;
pub use store::{Ports, Store};
pub use view::RegionView;
pub use wait::{eventually, wait_for};

use std::time::Duration;

/// Longest wait for anything that a healthy cluster does in seconds, on a machine that does other things too.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How often a test repeats its fault.
pub fn cycles(default: usize) -> usize {
    number_of("FLOTILLA_CYCLES").map_or(default, |cycles| cycles as usize)
}

/// A number from the environment.
///
/// # Panics
/// The variable holds something else.
pub fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}
