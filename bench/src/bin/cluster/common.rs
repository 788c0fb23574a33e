//! What all benchmarks of this program share: options, and a cluster of their own.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flotilla_bench::options::Options;
use flotilla_bench::report::Report;

use crate::client::Cluster;
use crate::load::Plan;
use crate::stores::Stores;

/// Options of all benchmarks.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    #[command(flatten)]
    pub options: Options,
    /// The flotilla binary [default: the one beside this binary]
    #[arg(long)]
    flotilla: Option<PathBuf>,
    /// A key of the stores' configuration, as section.key=VALUE in TOML; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Connections to each store
    #[arg(long, default_value_t = 4)]
    pub connections: usize,
    /// Requests of many clients share a stream on each connection, instead of unary calls
    #[arg(long)]
    stream: bool,
}

impl Common {
    /// The program that is measured.
    ///
    /// # Errors
    /// It is missing.
    pub fn flotilla(&self) -> Result<PathBuf, String> {
        self.flotilla.clone().map_or_else(|| beside("flotilla"), Ok)
    }

    /// Writes a configuration file: `keys`, and what was chosen on the command line.
    ///
    /// # Errors
    /// It cannot be written, or a choice is not KEY=VALUE.
    pub fn config(&self, path: &Path, keys: &[(&str, String)]) -> Result<(), String> {
        let mut text = String::new();
        let chosen = self
            .settings
            .iter()
            .map(|choice| choice.split_once('=').ok_or_else(|| format!("--set {choice}: not KEY=VALUE")));
        let chosen = chosen.collect::<Result<Vec<_>, _>>()?;
        let is_chosen = |key: &str| chosen.iter().any(|(other, _)| *other == key);
        for (key, value) in keys.iter().filter(|(key, _)| !is_chosen(key)) {
            let _ = writeln!(text, "{key} = {value}");
        }
        for (key, value) in &chosen {
            let _ = writeln!(text, "{key} = {value}");
        }
        std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Starts three stores whose configuration differs from the defaults in `keys`, and connects to them.
    ///
    /// # Errors
    /// A sentence.
    pub async fn start(
        &self,
        folder: &Path,
        keys: &[(&str, String)],
    ) -> Result<(Stores, Arc<Cluster>), String> {
        self.start_program(&self.flotilla()?, folder, keys).await
    }

    /// The same with another program.
    ///
    /// # Errors
    /// A sentence.
    pub async fn start_program(
        &self,
        binary: &Path,
        folder: &Path,
        keys: &[(&str, String)],
    ) -> Result<(Stores, Arc<Cluster>), String> {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let config = folder.join("flotilla.toml");
        self.config(&config, keys)?;
        let stores = Stores::start(binary, folder, Some(&config)).await?;
        let cluster = Cluster::connect_by(&stores.addresses, self.connections, self.stream).await?;
        Ok((stores, Arc::new(cluster)))
    }

    /// A result without figures, with the choices of the command line.
    pub fn report(&self, name: &str, title: &str, axis: &str) -> Report {
        let mut report = self.options.report(name, title, axis);
        if !self.settings.is_empty() {
            report.setting("configuration", self.settings.join(" "));
        }
        report
    }

    /// A plan for so many clients, a fifth of the time ahead of it for warming up.
    pub fn plan(&self, clients: usize, seconds: u64) -> Plan {
        let measured = Duration::from_secs(seconds);
        Plan { clients, warmup: (measured / 5).max(Duration::from_millis(500)), measured, seed: 0 }
    }
}

/// A program in the folder of this one.
///
/// # Errors
/// It is missing.
pub fn beside(name: &str) -> Result<PathBuf, String> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let path = here.parent().unwrap_or(Path::new(".")).join(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{} is missing: build it, or name another", path.display()))
    }
}

/// No region moves, splits or merges by itself.
pub fn still() -> Vec<(&'static str, String)> {
    vec![
        ("store.split_bytes", "0".into()),
        ("store.split_keys", "0".into()),
        ("store.split_busy_bytes", "0".into()),
        ("store.load_split_requests", "0".into()),
        ("store.load_split_bytes", "0".into()),
        ("store.load_split_cpu_ms", "0".into()),
        ("placement.balance_regions", "false".into()),
        ("placement.merge_regions", "false".into()),
    ]
}
