//! More load than stores can carry: what they hold in memory, how soon they serve again, and whether leaders stay.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_bench::process::Usage;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::common::{Common, still};
use crate::load::{self, Data, Op, Plan, Target, Uniform};

/// Between two looks at the processes.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Service is as before when so many percent of the calm throughput are reached.
const NORMAL_PERCENT: f64 = 80.0;
/// How long that may take before the benchmark gives up.
const NORMAL_TIMEOUT: Duration = Duration::from_secs(120);
/// Length of the runs that look whether it is.
const PROBE: Duration = Duration::from_secs(1);
/// What a store says that it may hold.
const BUDGET: &str = "flotilla_memory_budget_bytes";

/// Ten times as many clients as saturate the stores, while one store stands still.
#[derive(clap::Args, Debug)]
pub struct OverloadArgs {
    #[command(flatten)]
    common: Common,
    /// Clients that the stores can carry
    #[arg(long, default_value_t = 256)]
    clients: usize,
    /// So many times as many overload them
    #[arg(long, default_value_t = 10)]
    times: usize,
    /// Seconds of overload [default: 300, quick 10]
    #[arg(long)]
    seconds: Option<u64>,
    /// Bytes of a value
    #[arg(long, default_value_t = 1_024)]
    value_bytes: usize,
    /// Regions
    #[arg(long, default_value_t = 24)]
    regions: u64,
}

/// Puts as fast as they go, for long, and nothing else.
#[derive(clap::Args, Debug)]
pub struct SoakArgs {
    #[command(flatten)]
    common: Common,
    /// Clients, each with one operation under way
    #[arg(long, default_value_t = 256)]
    clients: usize,
    /// Seconds [default: 600, quick 5]
    #[arg(long)]
    seconds: Option<u64>,
    /// Regions, of which each store leads a third
    #[arg(long, default_value_t = 24)]
    regions: u64,
}

/// The most that each process held, until somebody asks.
struct Peaks {
    watcher: JoinHandle<Vec<u64>>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Peaks {
    /// Looks at the processes from now on.
    fn of(pids: Vec<u32>) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let watcher = tokio::spawn(async move {
            let mut peaks = vec![0; pids.len()];
            while !*stopped.borrow() {
                for (peak, pid) in peaks.iter_mut().zip(&pids) {
                    *peak = Usage::of(&pid.to_string()).resident_bytes.max(*peak);
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            peaks
        });
        Self { watcher, stop }
    }

    async fn end(self) -> Result<Vec<u64>, String> {
        let _ = self.stop.send(true);
        self.watcher.await.map_err(|error| error.to_string())
    }
}

/// Sends a process a signal.
async fn signal(pid: u32, name: &str) -> Result<(), String> {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().await;
    match status {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("kill -{name} {pid}: {other:?}")),
    }
}

/// Overload.
///
/// # Errors
/// A sentence; one is that a process ended.
pub async fn overload(args: &OverloadArgs) -> Result<(), String> {
    let common = &args.common;
    let seconds = args.seconds.unwrap_or(common.options.pick(300, 10));
    let clients = args.clients * args.times;
    let title = format!(
        "Puts of {} times as many clients as saturate the stores; one store stands still",
        args.times
    );
    let mut report = common.report("overload", &title, "clients");
    report.setting("regions", args.regions);
    report.setting("value bytes", args.value_bytes);
    report.setting("seconds of overload", seconds);
    let data = Data::new(100_000, args.value_bytes);
    let folder = common.options.folder()?;
    let (stores, cluster) = common.start(folder.path(), &still()).await?;
    stores.split(&cluster, &data.cuts(args.regions)).await?;
    load::fill(&cluster, data).await?;
    let target = Target::Flotilla(cluster.clone());
    let puts: Arc<Uniform> = Arc::new(Uniform::new(data, Op::Put));
    let calm = load::run(&target, puts.clone(), common.plan(args.clients, seconds.div_ceil(20))).await;
    calm.check()?;
    report.add("before", args.clients, "throughput", calm.ops_per_s(), "ops/s");
    report.add_latencies("before", args.clients, &calm.all());

    let pids = stores.pids();
    let peaks = Peaks::of(pids.clone());
    let measured = Duration::from_secs(seconds);
    let plan = Plan { clients, warmup: Duration::ZERO, measured, seed: 0 };
    let (flood, flooded) = (target.clone(), puts.clone());
    let overload = tokio::spawn(async move { load::run(&flood, flooded, plan).await });
    let paused = *pids.last().ok_or("no store runs")?;
    tokio::time::sleep(measured / 10).await;
    signal(paused, "STOP").await?;
    tokio::time::sleep(measured - measured / 10).await;
    signal(paused, "CONT").await?;
    let ended = Instant::now();
    let back = wait_normal(&target, &puts, args.clients, calm.ops_per_s(), ended).await;
    let outcome = overload.await.map_err(|error| error.to_string())?;
    let peaks = peaks.end().await?;
    let alive = pids.iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).count();
    if alive < pids.len() {
        return Err(format!("{} of {} stores ended", pids.len() - alive, pids.len()));
    }
    report.add("overload", clients, "throughput", outcome.ops_per_s(), "ops/s");
    report.add_latencies("overload", clients, &outcome.all());
    report.add("overload", clients, "given up after 20 s", outcome.errors as f64, "puts");
    let most = peaks.iter().max().copied().unwrap_or_default() as f64;
    report.add("the store with most", clients, "resident memory, at most", most / f64::from(1 << 20), "MiB");
    let reading = stores.reading().await?;
    if let Some(budget) = reading.count(BUDGET).map(|all| all / pids.len() as f64) {
        report.add("one store", clients, "memory budget", budget / f64::from(1 << 20), "MiB");
        report.add("the store with most", clients, "share of the budget", most / budget * 100.0, "%");
    }
    report.add("all stores", clients, "time until service is as before", back?.as_secs_f64(), "s");
    stores.stop().await;
    common.options.write(&report)
}

/// How long after the end of the overload the stores serve as before.
async fn wait_normal(
    target: &Target,
    puts: &Arc<Uniform>,
    clients: usize,
    calm: f64,
    ended: Instant,
) -> Result<Duration, String> {
    loop {
        let began = ended.elapsed();
        let plan = Plan { clients, warmup: Duration::ZERO, measured: PROBE, seed: 0 };
        let found = load::run(target, puts.clone(), plan).await;
        if found.errors == 0 && found.ops_per_s() * 100.0 >= calm * NORMAL_PERCENT {
            return Ok(began);
        }
        if ended.elapsed() > NORMAL_TIMEOUT {
            return Err(format!("service is not as before after {} s", ended.elapsed().as_secs()));
        }
    }
}

/// Load for long.
///
/// # Errors
/// A sentence.
pub async fn soak(args: &SoakArgs) -> Result<(), String> {
    let common = &args.common;
    let seconds = args.seconds.unwrap_or(common.options.pick(600, 5));
    let mut report = common.report("soak", "Puts as fast as they go, without any fault", "clients");
    report.setting("regions", args.regions);
    report.setting("seconds", seconds);
    let data = Data::new(100_000, 256);
    let folder = common.options.folder()?;
    let (stores, cluster) = common.start(folder.path(), &still()).await?;
    stores.split(&cluster, &data.cuts(args.regions)).await?;
    load::fill(&cluster, data).await?;
    stores.wait_placed(&cluster, true).await?;
    let before = stores.reading().await?;
    let puts = Arc::new(Uniform::new(data, Op::Put));
    let plan = Plan {
        clients: args.clients,
        warmup: Duration::ZERO,
        measured: Duration::from_secs(seconds),
        seed: 0,
    };
    let outcome = load::run(&Target::Flotilla(cluster), puts, plan).await;
    outcome.check()?;
    let after = stores.reading().await?;
    let changes = after.growth(&before, "flotilla_elections_won_total").ok_or("elections are not counted")?;
    report.add("all stores", args.clients, "changes of leaders", changes, "count");
    report.add("all stores", args.clients, "throughput", outcome.ops_per_s(), "ops/s");
    report.add_latencies("all stores", args.clients, &outcome.all());
    stores.stop().await;
    common.options.write(&report)
}
