//! Commands of an operator, through whichever store answers.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::command::{Finished, run};
use super::flotilla;
use super::view::RegionView;

/// Longest run of `flotilla ctl`; a membership change waits for a snapshot.
const CTL_LIMIT: Duration = Duration::from_secs(60);

/// Runs `flotilla` against a cluster. Not bound to the cluster's processes: any thread may have one.
#[derive(Clone, Debug)]
pub struct Operator {
    addresses: String,
}

impl Operator {
    /// Of the stores with these addresses.
    pub fn new(addresses: &[String]) -> Self {
        Self { addresses: addresses.join(",") }
    }

    /// Runs `flotilla ARGUMENTS --pd ALL`.
    pub fn flotilla(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new(flotilla());
        command.args(arguments).args(["--pd", &self.addresses]);
        run(&mut command, CTL_LIMIT)
    }

    /// Runs `flotilla ctl ARGUMENTS` for its JSON.
    ///
    /// # Errors
    /// What it says on standard error.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Value, String> {
        let done = self.flotilla(&[&["ctl"], arguments, &["--output", "json"]].concat());
        if done.code != Some(0) {
            return Err(format!("ctl {arguments:?}: {}", done.stderr.trim()));
        }
        serde_json::from_str(&done.stdout).map_err(|error| format!("{:?}: {error}", done.stdout))
    }

    /// All regions, the meta region first, then in key order.
    ///
    /// # Errors
    /// No store answered.
    pub fn regions(&self) -> Result<Vec<RegionView>, String> {
        let regions = self.ctl(&["regions"])?;
        Ok(regions.as_array().ok_or("no list")?.iter().map(RegionView::parse).collect())
    }
}
