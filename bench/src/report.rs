//! What a result says about where it comes from.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// The machine that a result was taken on.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// As /proc/cpuinfo names it.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
}

/// Where a result comes from.
#[derive(Clone, Debug, Serialize)]
pub struct Origin {
    /// Commit of the checkout, with `-dirty` when it had uncommitted changes.
    pub commit: String,
    /// Seconds since 1970.
    pub unix_time: u64,
    /// The command as typed.
    pub command: String,
    /// The machine.
    pub machine: Machine,
}

impl Origin {
    /// Of this process, run in a checkout.
    pub fn here() -> Origin {
        Origin {
            commit: git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]),
            unix_time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            command: std::env::args().collect::<Vec<_>>().join(" "),
            machine: machine(),
        }
    }
}

fn git(arguments: &[&str]) -> String {
    let output = Command::new("git").args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string()).unwrap_or_default()
}

fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let memory_kib: u64 =
        after(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0);
    Machine {
        cpu: after(&read("/proc/cpuinfo"), "model name"),
        cores: std::thread::available_parallelism().map_or(0, usize::from),
        memory_mib: memory_kib / 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_string(),
    }
}

/// The value of the first `key : value` line.
fn after(text: &str, key: &str) -> String {
    let line = text.lines().find(|line| line.starts_with(key));
    line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_string()).unwrap_or_default()
}

/// Writes `value` as indented JSON, by way of a file beside it.
///
/// # Errors
/// A sentence that names the file.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    text.push('\n');
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let beside = path.with_extension("json.new");
    fs::write(&beside, text).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described() {
        let machine = machine();
        assert!(machine.cores > 0 && machine.memory_mib > 0 && !machine.kernel.is_empty());
    }

    #[test]
    fn values_are_found_by_their_key() {
        assert_eq!(after("a : 1\nMemTotal:   12 kB\n", "MemTotal"), "12 kB");
        assert_eq!(after("a : 1\n", "b"), "");
    }
}
