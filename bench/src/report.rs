//! The form of a result: where it comes from, and its figures.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::latency::{Latencies, Step};
use crate::{plot, summary};

/// The machine that a result was taken on.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
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
            command: command(std::env::args()),
            machine: machine(),
        }
    }
}

/// The command without the folder of the program, and without what cargo adds for itself.
fn command(mut words: impl Iterator<Item = String>) -> String {
    let program = words.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default();
    // What cargo adds to the name of a benchmark.
    let is_hash = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = name.rsplit_once('-').filter(|(_, hash)| is_hash(hash)).map_or(name, |(name, _)| name);
    let rest = words.filter(|word| word != "--bench");
    std::iter::once(name.to_string()).chain(rest).collect::<Vec<_>>().join(" ")
}

/// One measured number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What is compared: a system, an operation.
    pub series: String,
    /// Place on the horizontal axis.
    pub at: String,
    /// What was measured.
    pub metric: String,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: String,
}

/// The latencies of one series at one place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyHistogram {
    /// As in [`Figure`].
    pub series: String,
    /// As in [`Figure`].
    pub at: String,
    /// Ascending.
    pub steps: Vec<Step>,
}

/// A result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Of the benchmark and of its files.
    pub name: String,
    /// What is measured, in a sentence.
    pub title: String,
    /// What the places on the horizontal axis are.
    pub axis: String,
    /// Where it comes from.
    pub origin: Origin,
    /// A short run that only shows that it works.
    pub is_quick: bool,
    /// What else was chosen.
    pub settings: BTreeMap<String, String>,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// In the order in which they were measured.
    pub figures: Vec<Figure>,
    /// Where latencies are the point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub histograms: Vec<LatencyHistogram>,
}

impl Report {
    /// Without figures.
    pub fn new(name: &str, title: &str, axis: &str, is_quick: bool) -> Report {
        Report {
            name: name.to_string(),
            title: title.to_string(),
            axis: axis.to_string(),
            origin: Origin::here(),
            is_quick,
            settings: BTreeMap::new(),
            notes: Vec::new(),
            figures: Vec::new(),
            histograms: Vec::new(),
        }
    }

    /// Notes a choice.
    pub fn setting(&mut self, name: &str, value: impl ToString) {
        self.settings.insert(name.to_string(), value.to_string());
    }

    /// Notes what a reader must know, and says it.
    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        eprintln!("{}: {text}", self.name);
        self.notes.push(text);
    }

    /// Adds a figure, and says it.
    pub fn add(&mut self, series: &str, at: impl ToString, metric: &str, value: f64, unit: &str) {
        let figure = Figure {
            series: series.to_string(),
            at: at.to_string(),
            metric: metric.to_string(),
            value: round(value),
            unit: unit.to_string(),
        };
        let Figure { series, at, metric, value, unit } = &figure;
        eprintln!("{}: {series}, {} {at}: {metric} {value} {unit}", self.name, self.axis);
        self.figures.push(figure);
    }

    /// Adds median, 99th percentile and 99.9th percentile of some latencies.
    pub fn add_latencies(&mut self, series: &str, at: impl ToString, latencies: &Latencies) {
        for (metric, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            self.add(series, at.to_string(), metric, latencies.quantile_ms(quantile), "ms");
        }
    }

    /// Adds the histogram of some latencies.
    pub fn add_histogram(&mut self, series: &str, at: impl ToString, latencies: &Latencies) {
        let (series, at) = (series.to_string(), at.to_string());
        self.histograms.push(LatencyHistogram { series, at, steps: latencies.steps() });
    }

    /// The figure of a series at a place.
    pub fn value(&self, series: &str, at: &str, metric: &str) -> Option<f64> {
        let is_it = |f: &&Figure| f.series == series && f.at == at && f.metric == metric;
        self.figures.iter().find(is_it).map(|figure| figure.value)
    }

    /// Writes result, plot, and the table of all results of the folder.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        write_json(&folder.join(format!("{}.json", self.name)), self)?;
        write_text(&folder.join(format!("{}.svg", self.name)), &plot::svg(self))?;
        write_text(&folder.join("README.md"), &summary::readme(folder)?)
    }
}

/// Four digits are more than any of these figures are worth.
pub fn round(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let unit = 10_f64.powi(value.abs().log10().floor() as i32 - 3);
    let rounded = (value / unit).round() * unit;
    // Without the dust of binary fractions.
    format!("{rounded:.6}").parse().unwrap_or(rounded)
}

/// The middle one of some numbers, or the lower of the two in the middle; 0 if there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or_default()
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
fn write_json(path: &Path, value: &impl Serialize) -> Result<(), String> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    text.push('\n');
    write_text(path, &text)
}

/// Writes a file by way of one beside it.
///
/// # Errors
/// A sentence that names the file.
pub fn write_text(path: &Path, text: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
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

    #[test]
    fn figures_keep_four_digits() {
        assert_eq!(
            [round(123_456.0), round(0.123_456), round(-2.0), round(0.0)],
            [123_500.0, 0.1235, -2.0, 0.0]
        );
        assert_eq!(round(f64::NAN), 0.0);
    }

    #[test]
    fn the_median_is_one_of_the_numbers() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.0);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn a_command_names_no_folders() {
        let words = ["/x/target/cluster-356e4e884d597668", "ycsb", "--bench", "--quick"].map(str::to_string);
        assert_eq!(command(words.into_iter()), "cluster ycsb --quick");
    }
}
