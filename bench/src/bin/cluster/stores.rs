//! Three `flotilla server` processes on loopback, started and ended by this process, and what they cost.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_bench::process::Usage;
use flotilla_proto::metapb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::client::{Cluster, Route};

/// Stores of the cluster.
pub const STORES: usize = 3;
/// Times that a split is asked for.
const SPLIT_TRIES: usize = 100;
/// Cuts in one split.
const CUTS: usize = 15;
/// How long the cluster may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long it may take to place what was split: while leaders are spread, some thirty a second, a few have none at any moment.
const PLACED_TIMEOUT: Duration = Duration::from_secs(600);
/// How long after the splits leaders are given to spread.
const SPREAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Leaders of stores may differ by so much of the mean.
const SPREAD_TOLERANCE: f64 = 0.1;
/// Ports below those that the kernel gives to outgoing connections, so that a store finds its own free when it starts
/// again.
const PORT_MIN: u16 = 12_000;
const PORTS: u16 = 18_000;

/// A store with its disk, whether it runs or not.
struct Store {
    number: usize,
    binary: PathBuf,
    folder: PathBuf,
    config: Option<PathBuf>,
    address: String,
    status_address: String,
    cluster: String,
    process: Option<Child>,
}

/// The cluster. Dropping it kills its processes.
pub struct Stores {
    stores: Vec<Store>,
    /// Where clients connect.
    pub addresses: Vec<String>,
    binary: PathBuf,
}

/// Counters of all stores that run, at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    /// When.
    pub at: Instant,
    /// Every sample of /metrics, summed over stores and labels, by name.
    pub metrics: BTreeMap<String, f64>,
    /// What the kernel counts.
    pub usage: Usage,
}

impl Reading {
    /// A counter; nothing if the stores do not have it.
    pub fn count(&self, name: &str) -> Option<f64> {
        self.metrics.get(name).copied()
    }

    /// How much a counter has grown since `before`.
    pub fn growth(&self, before: &Reading, name: &str) -> Option<f64> {
        Some(self.count(name)? - before.count(name).unwrap_or_default())
    }

    /// Syncs of all logs since `before`.
    pub fn syncs(&self, before: &Reading) -> f64 {
        self.growth(before, "flotilla_log_syncs_total").unwrap_or_default()
    }

    /// CPU seconds since `before`.
    pub fn cpu_s(&self, before: &Reading) -> f64 {
        self.usage.cpu_s - before.usage.cpu_s
    }

    /// Seconds since `before`.
    pub fn seconds(&self, before: &Reading) -> f64 {
        (self.at - before.at).as_secs_f64()
    }
}

/// Ranges of keys between known regions of which no region is known (yet).
fn gaps(routes: &[Arc<Route>]) -> usize {
    routes.windows(2).filter(|pair| pair[0].region.end_key != pair[1].region.start_key).count()
}

/// A port that was free a moment ago.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16, String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Other processes of this kind begin elsewhere.
    let first = (std::process::id() % u32::from(PORTS)) as u16;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut tries = (0..PORTS).map(|_| {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        PORT_MIN + (first + step) % PORTS
    });
    tries.find(is_free).ok_or_else(|| "no free port".to_string())
}

impl Store {
    fn data_dir(&self) -> PathBuf {
        self.folder.join(format!("store{}", self.number))
    }

    fn spawn(&mut self) -> Result<(), String> {
        let path = self.folder.join(format!("store{}.log", self.number));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        let log = log.map_err(|error| format!("{}: {error}", path.display()))?;
        let also = log.try_clone().map_err(|error| error.to_string())?;
        let mut command = Command::new(&self.binary);
        command.arg("server").arg("--data-dir").arg(self.data_dir());
        command.args(["--addr", &self.address, "--status-addr", &self.status_address]);
        command.args(["--cluster", &self.cluster]);
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command.stdin(Stdio::null()).stdout(log).stderr(also).kill_on_drop(true);
        let process = command.spawn().map_err(|error| format!("{}: {error}", self.binary.display()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Waits until it answers /ready with 200.
    async fn wait_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let what = format!("store {} in {}", self.number, self.folder.display());
        loop {
            if matches!(http_get(&self.status_address, "/ready").await, Ok((200, _))) {
                return Ok(());
            }
            let process = self.process.as_mut().ok_or_else(|| format!("{what} does not run"))?;
            if let Some(status) = process.try_wait().map_err(|error| error.to_string())? {
                return Err(format!("{what} ended ({status}), see its log"));
            }
            if Instant::now() > deadline {
                return Err(format!("{what} is not ready after {} s", READY_TIMEOUT.as_secs()));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn usage(&self) -> Usage {
        let pid = self.process.as_ref().and_then(Child::id);
        pid.map(|pid| Usage::of(&pid.to_string())).unwrap_or_default()
    }
}

impl Stores {
    /// Starts the stores with fresh disks under `folder` and waits until each says that it is ready.
    ///
    /// # Errors
    /// A sentence: what did not start or not become ready.
    pub async fn start(binary: &Path, folder: &Path, config: Option<&Path>) -> Result<Stores, String> {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let mut addresses = Vec::new();
        for _ in 0..STORES {
            addresses.push(format!("127.0.0.1:{}", free_port()?));
        }
        let mut stores = Vec::new();
        for (number, address) in addresses.iter().enumerate() {
            let mut store = Store {
                number,
                binary: binary.to_path_buf(),
                folder: folder.to_path_buf(),
                config: config.map(Path::to_path_buf),
                address: address.clone(),
                status_address: format!("127.0.0.1:{}", free_port()?),
                cluster: addresses.join(","),
                process: None,
            };
            store.spawn()?;
            stores.push(store);
        }
        let mut started = Stores { stores, addresses, binary: binary.to_path_buf() };
        for number in 0..STORES {
            started.stores[number].wait_ready().await?;
        }
        Ok(started)
    }

    /// The process of the store with this id.
    ///
    /// # Errors
    /// A sentence: none of those that run is it.
    pub async fn number_of(&self, id: u64) -> Result<usize, String> {
        for store in self.stores.iter().filter(|store| store.process.is_some()) {
            let (_, body) = http_get(&store.status_address, "/status").await?;
            let status: serde_json::Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
            if status["store_id"].as_u64() == Some(id) {
                return Ok(store.number);
            }
        }
        Err(format!("no process is store {id}"))
    }

    /// Process ids of the stores that run.
    pub fn pids(&self) -> Vec<u32> {
        self.stores.iter().filter_map(|store| store.process.as_ref()?.id()).collect()
    }

    /// kill -9 of one store.
    ///
    /// # Errors
    /// It does not run.
    pub async fn kill9(&mut self, number: usize) -> Result<(), String> {
        let mut process =
            self.stores[number].process.take().ok_or_else(|| format!("store {number} does not run"))?;
        process.start_kill().map_err(|error| error.to_string())?;
        process.wait().await.map_err(|error| error.to_string())?;
        Ok(())
    }

    /// kill -9 of all stores, as close together as one can.
    ///
    /// # Errors
    /// One does not run.
    pub async fn kill9_all(&mut self) -> Result<(), String> {
        for process in self.stores.iter_mut().filter_map(|store| store.process.as_mut()) {
            process.start_kill().map_err(|error| error.to_string())?;
        }
        for number in 0..STORES {
            self.kill9(number).await?;
        }
        Ok(())
    }

    /// Starts a store on the disk that it had.
    ///
    /// # Errors
    /// There is no such program.
    pub fn start_again(&mut self, number: usize) -> Result<(), String> {
        self.stores[number].spawn()
    }

    /// Waits until a store answers that it is ready.
    ///
    /// # Errors
    /// It ended, or takes too long.
    pub async fn wait_ready(&mut self, number: usize) -> Result<(), String> {
        self.stores[number].wait_ready().await
    }

    /// What a store starts with from now on.
    pub fn set_config(&mut self, number: usize, config: &Path) {
        self.stores[number].config = Some(config.to_path_buf());
    }

    /// Cuts regions at `keys`, ascending, and waits until every region has three replicas and a leader and, if there
    /// are enough regions, leaders are spread over the stores, or were given the time for it.
    ///
    /// # Errors
    /// A sentence: the split that failed, or what is still missing.
    pub async fn split(&self, cluster: &Cluster, keys: &[Bytes]) -> Result<(), String> {
        self.wait_placed(cluster, false).await?;
        let mut rest = keys;
        while let Some(first) = rest.first() {
            let taken =
                self.split_some(cluster, rest).await.map_err(|why| format!("split at {first:?}: {why}"))?;
            rest = &rest[taken..];
        }
        self.wait_placed(cluster, true).await
    }

    /// Cuts the region of the first key at as many of `keys` as lie in it. The routes may be older than the last
    /// split: then the region refuses, and the next look names another one. Returns how many keys are done.
    async fn split_some(&self, cluster: &Cluster, keys: &[Bytes]) -> Result<usize, String> {
        let mut refused = "no region".to_string();
        for _ in 0..SPLIT_TRIES {
            if let Some(route) = cluster.route(&keys[0]) {
                if route.region.start_key == keys[0] {
                    return Ok(1);
                }
                let end = &route.region.end_key;
                let inside = keys.iter().take(CUTS).take_while(|key| end.is_empty() || *key < end);
                let cuts: Vec<Bytes> = inside.cloned().collect();
                let count = cuts.len();
                match cluster.split(&route, cuts).await {
                    Ok(()) => return Ok(count),
                    Err(why) => refused = why,
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            // A failure shows at the next try.
            let _ = cluster.reload().await;
        }
        Err(refused)
    }

    /// Runs `flotilla ctl`.
    ///
    /// # Errors
    /// What it says on standard error.
    pub async fn ctl(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = Command::new(&self.binary);
        command.arg("ctl").args(arguments).args(["--pd", &self.addresses.join(",")]);
        let output = command.output().await.map_err(|error| format!("{}: {error}", self.binary.display()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!(
            "flotilla ctl {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }

    /// Waits until every region is replicated and led and, if `spread`, until leaders are spread or had the time.
    ///
    /// # Errors
    /// A sentence: what is still missing.
    pub async fn wait_placed(&self, cluster: &Cluster, spread: bool) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let reloaded = cluster.reload().await;
            let routes = cluster.routes();
            let voters = |region: &metapb::Region| {
                region.peers.iter().filter(|peer| peer.role == metapb::PeerRole::Voter as i32).count()
            };
            let placed =
                routes.iter().filter(|route| voters(&route.region) == STORES && route.leader.id != 0).count();
            let gaps = gaps(&routes);
            let waited = started.elapsed();
            let is_spread = !spread || is_spread(&leaders(cluster)) || waited > SPREAD_TIMEOUT;
            if reloaded.is_ok() && !routes.is_empty() && gaps == 0 && placed == routes.len() && is_spread {
                return Ok(());
            }
            if waited > PLACED_TIMEOUT {
                return Err(format!(
                    "after {} s {placed} of {} regions are placed, {gaps} are not known",
                    waited.as_secs(),
                    routes.len()
                ));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Reads the counters of all stores that run.
    ///
    /// # Errors
    /// A sentence: the store that did not answer.
    pub async fn reading(&self) -> Result<Reading, String> {
        let mut metrics: BTreeMap<String, f64> = BTreeMap::new();
        for store in self.stores.iter().filter(|store| store.process.is_some()) {
            let (_, body) = http_get(&store.status_address, "/metrics").await?;
            for (name, value) in samples(&body) {
                *metrics.entry(name.to_string()).or_default() += value;
            }
        }
        let usage = Usage::sum(self.stores.iter().map(Store::usage));
        Ok(Reading { at: Instant::now(), metrics, usage })
    }

    /// Data directories.
    pub fn data_dirs(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.stores.iter().map(Store::data_dir)
    }

    /// Ends the stores as an operator does, and waits for them.
    pub async fn stop(mut self) {
        for store in &self.stores {
            if let Some(pid) = store.process.as_ref().and_then(Child::id) {
                let mut kill = Command::new("kill");
                // A store that does not end in time is killed when it is dropped.
                let _ = kill.arg(pid.to_string()).status().await;
            }
        }
        for process in self.stores.iter_mut().filter_map(|store| store.process.as_mut()) {
            let _ = tokio::time::timeout(Duration::from_secs(15), process.wait()).await;
        }
    }
}

/// Whether no store leads much more than another; few regions are spread anyhow.
fn is_spread(leaders: &BTreeMap<u64, u64>) -> bool {
    let total: u64 = leaders.values().sum();
    let mean = total as f64 / STORES as f64;
    let tolerance = (mean * SPREAD_TOLERANCE).max(3.0);
    let near = |count: &u64| (*count as f64 - mean).abs() <= tolerance;
    total < 2 * STORES as u64 || (leaders.len() == STORES && leaders.values().all(near))
}

/// Regions led, by store.
pub fn leaders(cluster: &Cluster) -> BTreeMap<u64, u64> {
    let mut leaders = BTreeMap::new();
    for route in cluster.routes().iter().filter(|route| route.leader.id != 0) {
        *leaders.entry(route.leader.store_id).or_default() += 1;
    }
    leaders
}

/// Samples of a Prometheus text page as (name without labels, value).
fn samples(page: &str) -> impl Iterator<Item = (&str, f64)> {
    page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        Some((name, value.parse().ok()?))
    })
}

/// Status code and body of one HTTP/1.0 request.
async fn http_get(address: &str, path: &str) -> Result<(u16, String), String> {
    let failed = |error: std::io::Error| format!("http://{address}{path}: {error}");
    let mut stream = TcpStream::connect(address).await.map_err(failed)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).await.map_err(failed)?;
    parse_http(&String::from_utf8_lossy(&reply))
        .ok_or_else(|| format!("http://{address}{path}: not an HTTP reply"))
}

fn parse_http(reply: &str) -> Option<(u16, String)> {
    let (head, body) = reply.split_once("\r\n\r\n")?;
    let code = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((code, body.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_and_without_labels() {
        let page = "# HELP a b\n# TYPE a counter\na_total{store=\"1\"} 3\nb_count 4\nbad\n";
        assert_eq!(samples(page).collect::<Vec<_>>(), [("a_total", 3.0), ("b_count", 4.0)]);
    }

    #[test]
    fn counters_are_told_from_ones_that_do_not_exist() {
        let reading = |syncs: f64| Reading {
            at: Instant::now(),
            metrics: [("flotilla_log_syncs_total".to_string(), syncs)].into(),
            usage: Usage::default(),
        };
        assert_eq!(reading(9.0).syncs(&reading(4.0)), 5.0);
        assert_eq!(reading(9.0).growth(&reading(4.0), "other"), None, "not counted is not none");
    }

    #[test]
    fn leaders_are_spread_if_every_store_has_about_as_many() {
        let spread = |counts: &[u64]| is_spread(&(1..).zip(counts.iter().copied()).collect());
        assert!(spread(&[2, 2, 1]) && spread(&[100, 105, 95]) && spread(&[1]));
        assert!(!spread(&[100, 130, 70]) && !spread(&[100, 100]));
    }

    #[test]
    fn replies_of_http_are_taken_apart() {
        assert_eq!(parse_http("HTTP/1.1 503 Busy\r\na: b\r\n\r\nno"), Some((503, "no".to_string())));
        assert_eq!(parse_http("nonsense"), None);
    }
}
