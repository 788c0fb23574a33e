//! The configuration file: everything that a user may tune, one section for each part of a store.
//!
//! `flotilla.example.toml` documents every key with its default; `flotilla config` prints it. Command line flags win
//! over the file.

mod memory;
mod sections;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use flotilla_engine::RocksConfig;
use flotilla_raftstore::{PreSplit, PreSplitError, StoreConfig};
use serde::{Deserialize, Serialize};

use crate::cli::text::unescape;
use sections::{PlacementSection, RocksSection, StoreSection};

/// The documented defaults.
pub const EXAMPLE: &str = include_str!("../../flotilla.example.toml");

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config {path}: {error}")]
    Read {
        /// File.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not TOML, has an unknown key or a value of the wrong kind.
    #[error("config {path}, line {line}: {why}")]
    Parse {
        /// File.
        path: String,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// An address is not `HOST:PORT`.
    #[error("{key}: {value:?} is not HOST:PORT")]
    Address {
        /// Key or flag.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// Nobody can reach a store under the address that it gives to others.
    #[error(
        "{address} says where to listen, not where others find this store: give --advertise-addr HOST:PORT"
    )]
    Unspecified {
        /// The address.
        address: SocketAddr,
    },
    /// A key of the pre-split has an escape that there is not.
    #[error("pre-split: key {at}: bad escape")]
    Escape {
        /// Which one, counted from 1.
        at: usize,
    },
    /// Keys of the pre-split that cannot be those of one.
    #[error("pre-split: {0}")]
    PreSplit(#[from] PreSplitError),
    /// Settings of placement that cannot work.
    #[error("config: {0}")]
    Placement(#[from] flotilla_placement::ConfigError),
    /// Less memory than the limits need.
    #[error(
        "memory_bytes: at least {needed} are needed for the limits of the file and an eighth of all others"
    )]
    Memory {
        /// Bytes.
        needed: u64,
    },
    /// Settings of the store that cannot work.
    #[error("config: {0}")]
    Store(&'static str),
}

/// Where the process listens, keeps its data and finds its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSection {
    /// Data directory.
    pub data_dir: PathBuf,
    /// `host:port` of all services.
    pub addr: String,
    /// `host:port` under which others reach it; empty = `addr`.
    pub advertise_addr: String,
    /// `host:port` of metrics, status and readiness.
    pub status_addr: String,
    /// Stores to ask at the first start; empty = found a cluster of one.
    pub cluster: Vec<String>,
    /// Where this store is and what it is.
    pub labels: BTreeMap<String, String>,
    /// Keys at which the first region is cut when this store founds the cluster; control characters and bytes that are
    /// not UTF-8 as in C.
    pub pre_split_keys: Vec<String>,
    /// Filter of log lines.
    pub log: String,
    /// Threads that serve clients and other stores.
    pub runtime_threads: usize,
    /// Memory that the process may hold; 0 = the sum of all limits.
    pub memory_bytes: u64,
    /// Bytes that wait for one other store before frames to it are dropped.
    pub link_queue_bytes: usize,
    /// Bytes that scans, batch gets and checksums may hold at a time.
    pub read_bytes_max: u64,
    /// The process ends when its log, or a worker that owns regions, makes no progress for so long; 0 = never.
    pub hang_limit_ms: u64,
}

impl Default for ServerSection {
    fn default() -> Self {
        Self {
            data_dir: "flotilla-data".into(),
            addr: "127.0.0.1:20160".into(),
            advertise_addr: String::new(),
            status_addr: "127.0.0.1:20180".into(),
            cluster: Vec::new(),
            labels: BTreeMap::new(),
            pre_split_keys: Vec::new(),
            log: "info".into(),
            runtime_threads: 2,
            memory_bytes: 0,
            link_queue_bytes: 32 << 20,
            read_bytes_max: 256 << 20,
            hang_limit_ms: 20_000,
        }
    }
}

impl ServerSection {
    /// The address to give to others.
    pub fn advertised(&self) -> &str {
        if self.advertise_addr.is_empty() { &self.addr } else { &self.advertise_addr }
    }
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The process.
    pub server: ServerSection,
    store: StoreSection,
    placement: PlacementSection,
    rocksdb: RocksSection,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// `Read`, `Parse`, `Memory`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        let text =
            std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: name.clone(), error })?;
        Self::parse(&name, &text)
    }

    fn parse(path: &str, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let why = error.message().split('\n').collect::<Vec<_>>().join(" ");
            ConfigError::Parse { path: path.to_string(), line, why }
        })?;
        let total = config.server.memory_bytes;
        let (Some(mut all), Ok(named)) = (config.table().filter(|_| total > 0), text.parse()) else {
            return Ok(config);
        };
        memory::share(total, &named, &mut all).map_err(|needed| ConfigError::Memory { needed })?;
        Ok(all.try_into().unwrap_or(config))
    }

    fn table(&self) -> Option<toml::Table> {
        toml::Table::try_from(self).ok()
    }

    /// Bytes of memory that the process may hold, as far as its limits say.
    pub fn memory_budget(&self) -> u64 {
        self.table().as_ref().map_or(0, memory::budget)
    }

    /// Checks what can be checked without starting.
    ///
    /// # Errors
    /// `Address`, `Placement`, `Store`.
    pub fn check(&self) -> Result<(), ConfigError> {
        let server = &self.server;
        check_address("addr", &server.addr)?;
        check_address("advertise-addr", server.advertised())?;
        if let Ok(address) = server.advertised().parse::<SocketAddr>()
            && address.ip().is_unspecified()
        {
            return Err(ConfigError::Unspecified { address });
        }
        check_address("status-addr", &server.status_addr)?;
        server.cluster.iter().try_for_each(|address| check_address("cluster", address))?;
        self.pre_split()?;
        self.placement.build().check()?;
        self.store_config(0).check().map_err(ConfigError::Store)
    }

    /// Settings of the store; `seed` feeds its random choices.
    pub fn store_config(&self, seed: u64) -> StoreConfig {
        StoreConfig { placement: self.placement.build(), seed, ..self.store.build() }
    }

    /// Takes the keys of the pre-split from a file, one a line.
    ///
    /// # Errors
    /// `Read`.
    pub fn read_pre_split(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Read { path: path.display().to_string(), error })?;
        self.server.pre_split_keys = text.lines().map(str::to_owned).collect();
        Ok(())
    }

    /// Where the first region is cut if this store founds the cluster.
    ///
    /// # Errors
    /// `Escape`, `PreSplit`.
    pub fn pre_split(&self) -> Result<PreSplit, ConfigError> {
        let keys = self.server.pre_split_keys.iter().enumerate();
        let keys = keys.map(|(i, key)| unescape(key.as_bytes()).ok_or(ConfigError::Escape { at: i + 1 }));
        Ok(PreSplit::new(keys.collect::<Result<_, _>>()?)?)
    }

    /// Settings of the disk.
    pub fn rocks_config(&self) -> RocksConfig {
        self.rocksdb.build()
    }
}

fn check_address(key: &'static str, value: &str) -> Result<(), ConfigError> {
    let is_legal = value.rsplit_once(':').is_some_and(|(host, port)| {
        let plain = !host.contains(['/', ' ', '@']) && !host.is_empty();
        plain && port.parse::<u16>().is_ok()
    });
    if is_legal { Ok(()) } else { Err(ConfigError::Address { key, value: value.to_string() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_file_holds_every_key_with_its_default() {
        let example: toml::Table = EXAMPLE.parse().expect("TOML");
        let defaults = toml::Table::try_from(Config::default()).expect("serialisable");
        assert_eq!(example, defaults);
        assert_eq!(Config::parse("example", EXAMPLE).expect("legal"), Config::default());
        Config::default().check().expect("the defaults work");
    }

    #[test]
    fn the_example_file_says_what_each_key_means() {
        let lines: Vec<&str> = EXAMPLE.lines().collect();
        let is_key = |line: &&str| line.contains(" = ") && !line.starts_with('#');
        for (i, line) in lines.iter().enumerate().filter(|(_, line)| is_key(line)) {
            assert!(i > 0 && lines[i - 1].starts_with('#'), "no comment above {line:?}");
        }
    }

    #[test]
    fn the_sections_defaults_are_those_of_the_parts() {
        let config = Config::default();
        let store = StoreConfig::default();
        let seed = store.seed;
        assert_eq!(format!("{:?}", config.store_config(seed)), format!("{store:?}"));
        assert_eq!(format!("{:?}", config.rocks_config()), format!("{:?}", RocksConfig::default()));
    }

    #[test]
    fn memory_is_shared_out_to_what_the_file_does_not_name() {
        let defaults = Config::default().memory_budget();
        let parse = |text: &str| Config::parse("f", text);
        for total in [defaults / 2, defaults, 3 * defaults] {
            let config = parse(&format!("[server]\nmemory_bytes = {total}\n")).expect("enough");
            let budget = config.memory_budget();
            assert!((total - 100..=total).contains(&budget), "{budget} of {total}");
            config.check().expect("it works");
        }
        let half = parse(&format!(
            "[server]\nmemory_bytes = {}\n[rocksdb]\nblock_cache_bytes = 1000000\n",
            defaults / 2
        ));
        let half = half.expect("enough");
        assert_eq!(half.rocks_config().block_cache_bytes, 1_000_000, "the file wins");
        let (whole, store) = (StoreConfig::default(), half.store_config(0));
        assert!(store.pending_bytes_max < whole.pending_bytes_max);
        assert!(store.checkpoint_log_bytes < half.rocks_config().log_write_buffer_bytes as u64);
        let error = parse("[server]\nmemory_bytes = 1000\n").unwrap_err();
        let ConfigError::Memory { needed } = error else { panic!("{error}") };
        parse(&format!("[server]\nmemory_bytes = {needed}\n")).expect("just enough");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = Config::parse("f.toml", "[server]\naddr = \"h:1\"\nadress = \"h:1\"\n").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("config f.toml, line 3: unknown field `adress`"), "{text}");
        assert!(!text.contains('\n'), "{text}");
        let error = Config::parse("f.toml", "[store]\nraft_workers = \"two\"\n").unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }

    #[test]
    fn a_pre_split_is_read_from_a_file_or_the_configuration_and_checked() {
        let mut config =
            Config::parse("f", "[server]\npre_split_keys = [\"a\", '\\xff\\t']\n").expect("legal");
        let keys = config.pre_split().expect("ascending");
        assert_eq!(keys.keys(), [&b"a"[..], b"\xff\t"]);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("keys");
        let mut read = |text: &str| {
            std::fs::write(&file, text).expect("a file");
            config.read_pre_split(&file).expect("it is there");
            config.check().map(|()| config.pre_split().expect("checked").keys().len())
        };
        assert_eq!(read("b\nc\nd\n").expect("legal"), 3);
        assert_eq!(read("").expect("legal"), 0);
        for (text, error) in [
            ("b\na\n", "pre-split: key 2 is less than the one before it: keys must ascend"),
            ("a\na\n", "pre-split: key 2 is the same as the one before it"),
            ("a\n\nb\n", "pre-split: key 2 is empty"),
            ("a\n\\q\n", "pre-split: key 2: bad escape"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), error);
        }
        assert!(config.read_pre_split(&folder.path().join("none")).is_err());
    }

    #[test]
    fn addresses_are_checked() {
        for (address, legal) in [
            ("127.0.0.1:20160", true),
            ("host.example:1", true),
            ("[::1]:20160", true),
            ("localhost", false),
            (":20160", false),
            ("h:70000", false),
            ("http://h:1", false),
            ("", false),
        ] {
            assert_eq!(check_address("addr", address).is_ok(), legal, "{address}");
        }
    }
}
