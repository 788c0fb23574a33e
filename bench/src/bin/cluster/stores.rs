//! Three `flotilla server` processes on loopback, started and ended by this process, and what they cost.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_proto::metapb;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::client::{Cluster, Route};
use crate::load::Data;

/// Stores of the cluster.
const STORES: usize = 3;
/// Times that a split is asked for.
const SPLIT_TRIES: usize = 50;
/// How long the cluster may take to be ready, or to place what was split.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long after the splits leaders are given to spread.
const SPREAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Counter of the frames that a store has sent to others.
const FRAMES_SENT: &str = "flotilla_frames_sent_total";
/// Kernel clock ticks per second in /proc (USER_HZ, 100 on Linux).
const TICKS_PER_SECOND: f64 = 100.0;

struct Store {
    process: Child,
    status_address: String,
}

/// The running cluster. Dropping it kills its processes.
pub struct Stores {
    stores: Vec<Store>,
    /// Where clients connect.
    pub addresses: Vec<String>,
    binary: PathBuf,
}

/// Counters of all stores at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Every sample of /metrics, summed over stores and labels, by name.
    pub metrics: BTreeMap<String, f64>,
    /// CPU seconds used by the processes.
    pub cpu_seconds: f64,
}

/// What a run cost the stores.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// Log fsyncs of all stores together; nothing where the stores do not count them.
    pub fsyncs: Option<f64>,
    /// Fsyncs of all stores per operation.
    pub fsyncs_per_op: Option<f64>,
    /// CPU microseconds of all stores per operation.
    pub cpu_us_per_op: f64,
}

/// What the stores do while nothing is asked of them.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Idle {
    /// CPU time of all stores, in per cent of one core.
    pub cpu_percent: f64,
    /// Frames a second between two stores, both directions together; nothing where the stores do not count them.
    pub frames_per_s_per_pair: Option<f64>,
}

impl Reading {
    /// Sum of the counters whose name has one of `words` as a part; nothing if there is none.
    fn count(&self, words: &[&str]) -> Option<f64> {
        let is_count = |name: &str| name.ends_with("_total") || name.ends_with("_count");
        let has_word = |name: &str| name.split('_').any(|part| words.contains(&part));
        let hits = self.metrics.iter().filter(|(name, _)| is_count(name) && has_word(name));
        hits.map(|(_, value)| *value).reduce(|sum, value| sum + value)
    }

    fn fsyncs(&self) -> Option<f64> {
        self.count(&["sync", "syncs", "fsync", "fsyncs"])
    }

    /// What `ops` operations between two readings cost.
    pub fn cost_since(&self, before: &Reading, ops: u64) -> Cost {
        let fsyncs = self.fsyncs().map(|now| now - before.fsyncs().unwrap_or(0.0));
        let cpu = self.cpu_seconds - before.cpu_seconds;
        let per_op = |total: f64| if ops == 0 { 0.0 } else { round3(total / ops as f64) };
        Cost { fsyncs, fsyncs_per_op: fsyncs.map(per_op), cpu_us_per_op: per_op(cpu * 1e6) }
    }

    /// What `seconds` without load between two readings cost.
    pub fn idle_since(&self, before: &Reading, seconds: f64) -> Idle {
        let pairs = (STORES * (STORES - 1) / 2) as f64;
        let sent = |reading: &Reading| reading.metrics.get(FRAMES_SENT).copied();
        let frames = sent(self).map(|now| (now - sent(before).unwrap_or(0.0)) / seconds / pairs);
        let cpu_percent = round3((self.cpu_seconds - before.cpu_seconds) / seconds * 100.0);
        Idle { cpu_percent, frames_per_s_per_pair: frames.map(round3) }
    }
}

/// Ranges of keys between known regions of which no region is known (yet).
fn gaps(routes: &[Arc<Route>]) -> usize {
    routes.windows(2).filter(|pair| pair[0].region.end_key != pair[1].region.start_key).count()
}

fn round3(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| format!("no free port: {error}"))?;
    Ok(listener.local_addr().map_err(|error| format!("no free port: {error}"))?.port())
}

impl Stores {
    /// Starts the stores with fresh disks under `folder` and waits until each says that it is ready.
    ///
    /// # Errors
    /// A sentence: what did not start or not become ready.
    pub async fn start(binary: &Path, folder: &Path, config: Option<&Path>) -> Result<Stores, String> {
        let mut addresses = Vec::new();
        for _ in 0..STORES {
            addresses.push(format!("127.0.0.1:{}", free_port()?));
        }
        let mut stores = Vec::new();
        for (number, address) in addresses.iter().enumerate() {
            let status_address = format!("127.0.0.1:{}", free_port()?);
            let log = std::fs::File::create(folder.join(format!("store{number}.log")))
                .map_err(|error| format!("{}: {error}", folder.display()))?;
            let mut command = Command::new(binary);
            command.arg("server").arg("--data-dir").arg(folder.join(format!("store{number}")));
            command.args([
                "--addr",
                address,
                "--status-addr",
                &status_address,
                "--cluster",
                &addresses.join(","),
            ]);
            if let Some(config) = config {
                command.arg("--config").arg(config);
            }
            let logged = log.try_clone().map_err(|error| error.to_string())?;
            command
                .stdin(Stdio::null())
                .stdout(Stdio::from(logged))
                .stderr(Stdio::from(log))
                .kill_on_drop(true);
            let process = command.spawn().map_err(|error| format!("{}: {error}", binary.display()))?;
            stores.push(Store { process, status_address });
        }
        let mut started = Stores { stores, addresses, binary: binary.to_path_buf() };
        started.wait_ready(folder).await?;
        Ok(started)
    }

    /// Waits until every store answers /ready with 200.
    async fn wait_ready(&mut self, folder: &Path) -> Result<(), String> {
        let deadline = Instant::now() + READY_TIMEOUT;
        for (number, store) in self.stores.iter_mut().enumerate() {
            loop {
                if matches!(http_get(&store.status_address, "/ready").await, Ok((200, _))) {
                    break;
                }
                let ended = store.process.try_wait().map_err(|error| error.to_string())?;
                if let Some(status) = ended {
                    return Err(format!(
                        "store {number} ended ({status}), see {}/store{number}.log",
                        folder.display()
                    ));
                }
                if Instant::now() > deadline {
                    return Err(format!("store {number} is not ready after {} s", READY_TIMEOUT.as_secs()));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// Splits the keys of `data` into at least `regions` parts of the same size and waits until every region has
    /// three replicas and a leader and, if there are enough regions, every store leads some.
    ///
    /// # Errors
    /// A sentence: the split that failed, or what is still missing.
    pub async fn split(&self, cluster: &Cluster, data: Data, regions: u64) -> Result<(), String> {
        self.wait_placed(cluster).await?;
        for part in 1..regions {
            self.split_at(cluster, &data.key(data.keys * part / regions)).await?;
        }
        self.wait_placed(cluster).await
    }

    /// Splits at `key`, unless a region begins there already. The routes may be older than the last split: then the
    /// region refuses, and the next look names another one.
    async fn split_at(&self, cluster: &Cluster, key: &Bytes) -> Result<(), String> {
        let text = String::from_utf8_lossy(key).into_owned();
        let mut refused = String::new();
        for _ in 0..SPLIT_TRIES {
            cluster.reload().await?;
            let Some(route) = cluster.route(key) else {
                return Err("no region for a split key".to_string());
            };
            if route.region.start_key == *key {
                return Ok(());
            }
            match self.ctl(&["split", "--region", &route.region.id.to_string(), "--key", &text]).await {
                Ok(()) => return Ok(()),
                Err(why) => refused = why,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
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

    async fn wait_placed(&self, cluster: &Cluster) -> Result<(), String> {
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
            let spread = leaders(cluster).len() == STORES || routes.len() < 2 * STORES;
            let waited = started.elapsed();
            if reloaded.is_ok()
                && !routes.is_empty()
                && gaps == 0
                && placed == routes.len()
                && (spread || waited > SPREAD_TIMEOUT)
            {
                return Ok(());
            }
            if waited > READY_TIMEOUT {
                return Err(format!(
                    "after {} s {placed} of {} regions are placed, {gaps} are not known",
                    waited.as_secs(),
                    routes.len()
                ));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Reads the counters of all stores.
    ///
    /// # Errors
    /// A sentence: the store that did not answer.
    pub async fn reading(&self) -> Result<Reading, String> {
        let mut reading = Reading::default();
        for store in &self.stores {
            let (_, body) = http_get(&store.status_address, "/metrics").await?;
            for (name, value) in samples(&body) {
                *reading.metrics.entry(name.to_string()).or_default() += value;
            }
            if let Some(pid) = store.process.id() {
                reading.cpu_seconds += cpu_seconds(pid).unwrap_or_default();
            }
        }
        Ok(reading)
    }

    /// Ends the stores as an operator does, and waits for them.
    pub async fn stop(mut self) {
        for store in &mut self.stores {
            if let Some(pid) = store.process.id() {
                let mut kill = Command::new("kill");
                // A store that does not end in time is killed when it is dropped.
                let _ = kill.arg(pid.to_string()).status().await;
            }
        }
        for store in &mut self.stores {
            let _ = tokio::time::timeout(Duration::from_secs(15), store.process.wait()).await;
        }
    }
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

/// CPU time of a process: fields 14 and 15 of /proc/PID/stat, counted after the name in parentheses.
fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / TICKS_PER_SECOND)
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
    fn fsyncs_are_counted_and_their_times_are_not() {
        let page = "x_async_total 7\nx_fsync_seconds_sum 9\nx_fsync_seconds_count 4\nx_fsync_seconds_bucket{le=\"1\"} 4\n";
        let mut reading = Reading::default();
        reading.metrics.extend(samples(page).map(|(name, value)| (name.to_string(), value)));
        assert_eq!(reading.fsyncs(), Some(4.0));
        assert_eq!(reading.cost_since(&Reading::default(), 8).fsyncs_per_op, Some(0.5));
        assert_eq!(Reading::default().fsyncs(), None, "not counted is not none");
    }

    #[test]
    fn idle_cost_is_per_second_and_per_pair() {
        let (mut before, mut after) = (Reading::default(), Reading::default());
        before.metrics.insert(FRAMES_SENT.to_string(), 100.0);
        after.metrics.insert(FRAMES_SENT.to_string(), 400.0);
        after.cpu_seconds = 0.5;
        let idle = after.idle_since(&before, 10.0);
        assert_eq!((idle.cpu_percent, idle.frames_per_s_per_pair), (5.0, Some(10.0)));
    }

    #[test]
    fn replies_of_http_are_taken_apart() {
        assert_eq!(parse_http("HTTP/1.1 503 Busy\r\na: b\r\n\r\nno"), Some((503, "no".to_string())));
        assert_eq!(parse_http("nonsense"), None);
    }

    #[test]
    fn this_process_has_used_cpu_time() {
        assert!(cpu_seconds(std::process::id()).is_some_and(|seconds| seconds >= 0.0));
    }
}
