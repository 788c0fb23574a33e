//! Several stores that form a cluster.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::fs;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::command::Finished;
use super::operator::Operator;
use super::store::{Ports, Store};
use super::view::{RegionView, StoreView};
use super::wait::wait_for;
use super::{PATIENCE, flotilla};

/// One cluster at a time: each wants both cores.
static TURN: Mutex<()> = Mutex::new(());

/// Keys of the configuration file that differ from the defaults.
#[derive(Clone, Debug)]
pub struct Settings {
    keys: BTreeMap<&'static str, String>,
}

impl Default for Settings {
    /// Little memory, and checkpoints so often that a short test sees some.
    fn default() -> Self {
        let keys = BTreeMap::new();
        Self { keys }
            .with("rocksdb.log_write_buffer_bytes", 8 << 20)
            .with("rocksdb.data_write_buffer_bytes", 1 << 20)
            .with("rocksdb.block_cache_bytes", 8 << 20)
            .with("rocksdb.open_files_max", 256)
            .with("store.checkpoint_interval_ms", 2_000)
            .with("store.log_keep_entries", 16)
    }
}

impl Settings {
    /// Sets a key, written as `section.key`, to a TOML value.
    pub fn with(mut self, key: &'static str, value: impl Display) -> Self {
        self.keys.insert(key, value.to_string());
        self
    }

    fn text(&self) -> String {
        self.keys.iter().fold(String::new(), |mut text, (key, value)| {
            writeln!(text, "{key} = {value}").expect("a string takes everything");
            text
        })
    }
}

/// A cluster under test. Dropping it kills its processes; if the test failed, the folder stays and the ends of the
/// logs are printed.
pub struct Cluster {
    stores: Vec<Store>,
    folder: Option<TempDir>,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts `count` stores with fresh disks and waits until all are ready and every region is fully replicated.
    pub fn start(count: usize, settings: Settings) -> Self {
        Self::start_program(flotilla(), count, &settings)
    }

    /// Starts more stores than a region has replicas, and waits until every region has all of its own.
    pub fn start_wide(count: usize, settings: Settings) -> Self {
        let mut cluster = Self::prepare(flotilla(), count, &settings);
        cluster.stores.iter_mut().for_each(Store::spawn);
        cluster.wait_ready();
        wait_for("every region has three replicas", PATIENCE, || {
            let regions = cluster.try_regions()?;
            let bad = |r: &&RegionView| r.voters.len() != 3 || r.others > 0 || r.leader.is_none();
            match (regions.len(), regions.iter().find(bad)) {
                (3.., None) => Ok(()),
                (_, bad) => Err(format!("{bad:?}")),
            }
        });
        cluster
    }

    /// The same with another program than the product for the stores.
    pub fn start_program(binary: &Path, count: usize, settings: &Settings) -> Self {
        let mut cluster = Self::prepare(binary, count, settings);
        for store in &mut cluster.stores {
            store.spawn();
        }
        cluster.wait_ready();
        cluster.wait_replicated();
        cluster
    }

    /// Ports and a folder with the configuration; nothing runs.
    fn prepare(binary: &Path, count: usize, settings: &Settings) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = TempDir::with_prefix("flotilla-process-").expect("a folder");
        write_config(folder.path(), settings);
        let ports: Vec<Ports> = (0..count).map(|_| Ports::free()).collect();
        let all: Vec<String> = ports.iter().map(|ports| ports.address()).collect();
        let new = |(i, ports): (usize, &Ports)| {
            Store::new(binary, folder.path(), &format!("store{i}"), *ports, &all.join(","))
        };
        let stores = ports.iter().enumerate().map(new).collect();
        Self { stores, folder: Some(folder), _turn: turn }
    }

    /// Changes the configuration that stores start with from now on.
    #[cfg(feature = "planted")]
    pub fn configure(&self, settings: &Settings) {
        write_config(self.folder.as_ref().expect("taken in drop only").path(), settings);
    }

    /// One store.
    pub fn store(&mut self, i: usize) -> &mut Store {
        &mut self.stores[i]
    }

    /// All addresses, for clients.
    pub fn addresses(&self) -> Vec<String> {
        self.stores.iter().map(|store| store.ports.address()).collect()
    }

    /// kill -9 of one store.
    pub fn kill9(&mut self, i: usize) {
        self.stores[i].kill9();
    }

    /// kill -9 of all stores, as close together as one can.
    pub fn kill9_all(&mut self) {
        self.stores.iter_mut().for_each(Store::kill9_now);
        self.stores.iter_mut().for_each(Store::kill9);
    }

    /// Starts a store that does not run; it has its old disk.
    pub fn restart(&mut self, i: usize) {
        self.stores[i].spawn();
    }

    /// Starts all stores that do not run, and waits until all are ready.
    pub fn restart_all(&mut self) {
        for store in self.stores.iter_mut().filter(|store| !store.is_running()) {
            store.spawn();
        }
        self.wait_ready();
    }

    /// SIGTERM to one store: exit status and time.
    pub fn sigterm(&mut self, i: usize, limit: Duration) -> (ExitStatus, Duration) {
        self.stores[i].sigterm(limit)
    }

    /// Removes the disk of a store that does not run.
    pub fn wipe(&mut self, i: usize) {
        assert!(!self.stores[i].is_running(), "store {i} runs");
        fs::remove_dir_all(&self.stores[i].data_dir).expect("its disk");
    }

    /// Waits until every store that should run is ready.
    ///
    /// # Panics
    /// One ended or takes too long.
    pub fn wait_ready(&mut self) {
        for store in self.stores.iter_mut().filter(|store| store.is_running()) {
            store.wait_ready(PATIENCE);
        }
    }

    /// Waits until every region has a leader and exactly the stores that run as voters, all of them well.
    ///
    /// # Panics
    /// It takes too long.
    pub fn wait_replicated(&mut self) -> Vec<RegionView> {
        wait_for("every region is replicated", PATIENCE, || self.try_replicated())
    }

    /// All regions, if each has a leader and exactly the stores that run as voters, all of them well.
    ///
    /// # Errors
    /// What is missing.
    pub fn try_replicated(&self) -> Result<Vec<RegionView>, String> {
        let wanted = self.store_ids()?;
        let regions = self.try_regions()?;
        let bad = |region: &&RegionView| {
            region.stores() != wanted
                || region.others > 0
                || region.troubled > 0
                || region.leader.is_none_or(|(_, store)| !wanted.contains(&store))
        };
        match regions.iter().find(bad) {
            Some(region) => Err(format!("stores {wanted:?}, {region:?}")),
            None if regions.iter().all(|region| region.is_meta) => Err("no region for clients".into()),
            None => Ok(regions),
        }
    }

    /// Ids of the stores that run, ascending.
    ///
    /// # Errors
    /// One does not answer.
    pub fn store_ids(&self) -> Result<Vec<u64>, String> {
        let running = self.stores.iter().filter(|store| store.is_running());
        let mut ids = running.map(id_of).collect::<Result<Vec<u64>, String>>()?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// Which process has the store with this id.
    pub fn index_of(&self, id: u64) -> usize {
        let is_it = |store: &Store| store.is_running() && id_of(store).is_ok_and(|found| found == id);
        self.stores.iter().position(is_it).unwrap_or_else(|| panic!("no process is store {id}"))
    }

    /// Who commands it.
    pub fn operator(&self) -> Operator {
        Operator::new(&self.addresses())
    }

    /// Runs `flotilla ARGUMENTS --pd ALL`.
    pub fn flotilla(&self, arguments: &[&str]) -> Finished {
        self.operator().flotilla(arguments)
    }

    /// Runs `flotilla ctl ARGUMENTS` for its JSON.
    ///
    /// # Errors
    /// What it says on standard error.
    pub fn ctl(&self, arguments: &[&str]) -> Result<Value, String> {
        self.operator().ctl(arguments)
    }

    fn try_regions(&self) -> Result<Vec<RegionView>, String> {
        self.operator().regions()
    }

    /// All regions, the meta region first, then in key order.
    pub fn regions(&self) -> Vec<RegionView> {
        wait_for("ctl regions", PATIENCE, || self.try_regions())
    }

    /// All stores that the cluster knows of.
    pub fn stores(&self) -> Vec<StoreView> {
        wait_for("ctl stores", PATIENCE, || {
            let stores = self.ctl(&["stores"])?;
            Ok(stores.as_array().ok_or("no list")?.iter().map(StoreView::parse).collect())
        })
    }

    /// The region that holds a key.
    pub fn region_of(&self, key: &str) -> RegionView {
        let regions = self.regions();
        let found = regions.iter().find(|region| region.holds(key.as_bytes()));
        found.unwrap_or_else(|| panic!("no region holds {key}")).clone()
    }

    /// Splits once, at `key`.
    ///
    /// # Errors
    /// The leader's reason, which may pass.
    pub fn try_split(&self, key: &str) -> Result<(), String> {
        let region = self.region_of(key);
        if region.start == key.as_bytes() {
            return Ok(());
        }
        self.ctl(&["split", "--region", &region.id.to_string(), "--key", key]).map(drop)
    }

    /// Splits at each key and waits until the new regions are fully replicated.
    pub fn split(&mut self, keys: &[&str]) -> Vec<RegionView> {
        for key in keys {
            wait_for("a split", PATIENCE, || self.try_split(key));
        }
        wait_for("the split regions are known", PATIENCE, || {
            let regions = self.try_regions()?;
            let starts = |key: &&str| regions.iter().any(|r| !r.is_meta && r.start == key.as_bytes());
            if keys.iter().all(starts) { Ok(()) } else { Err(format!("{regions:?}")) }
        });
        self.wait_replicated()
    }

    /// Merges a region into its neighbour.
    ///
    /// # Errors
    /// The leader's reason, which may pass.
    pub fn try_merge(&self, source: u64, target: u64) -> Result<(), String> {
        let (source, target) = (source.to_string(), target.to_string());
        self.ctl(&["merge", "--region", &source, "--into", &target]).map(drop)
    }

    /// Moves the leader of a region.
    ///
    /// # Errors
    /// The leader's reason, which may pass.
    pub fn try_transfer(&self, region: u64, store: u64) -> Result<(), String> {
        let (region, store) = (region.to_string(), store.to_string());
        self.ctl(&["transfer-leader", "--region", &region, "--store", &store]).map(drop)
    }
}

fn write_config(folder: &Path, settings: &Settings) {
    fs::write(folder.join("flotilla.toml"), settings.text()).expect("a file");
}

fn id_of(store: &Store) -> Result<u64, String> {
    let status = store.status()?;
    let id = status["store_id"].as_u64().ok_or_else(|| format!("no store_id in {status}"))?;
    if id == 0 { Err(format!("{} has no id", store.ports.address())) } else { Ok(id) }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        for store in &mut self.stores {
            store.kill9_now();
            if failed {
                eprintln!("=== {} ({})\n{}", store.ports.address(), store.data_dir.display(), store.tail());
            }
        }
        self.stores.clear();
        let folder = self.folder.take().expect("taken here only");
        if failed || std::env::var_os("FLOTILLA_KEEP").is_some() {
            eprintln!("kept: {}", folder.keep().display());
        }
    }
}
