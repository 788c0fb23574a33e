//! Puts and linearizable gets beside etcd: the same keys, sizes, clients and connections, on the same machine in the same
//! run. The systems take turns under the load, several rounds; figures are medians of the rounds. Calls are unary, as
//! etcd's are; beside them stands the stream of our protocol on which many clients share messages, and for gets what the
//! same calls cost without a store.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use flotilla_bench::options::Folder;
use flotilla_bench::process::Usage;
use flotilla_bench::report::{Report, median};

use crate::client::Cluster;
use crate::common::{Common, still};
use crate::echo::Echoes;
use crate::etcd::{self, Etcd};
use crate::load::{self, Data, Op, Target, Uniform};
use crate::stores::Stores;

/// Puts and linearizable gets of this system and of etcd in turns.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Clients, each with one operation under way: a run for each number [default: 1,64,256; quick 64]
    #[arg(long, value_delimiter = ',')]
    clients: Vec<usize>,
    /// Measured seconds of each run [default: 8, quick 2]
    #[arg(long)]
    seconds: Option<u64>,
    /// Rounds [default: 3, quick 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// Keys of each system [default: 1000000, quick 5000]
    #[arg(long)]
    keys: Option<u64>,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
    /// Regions of the second of our two key sets; the first has one
    #[arg(long, default_value_t = 24)]
    regions: u64,
    /// An etcd binary; may be given several times [default: the one of the search path]
    #[arg(long = "etcd", value_name = "PATH")]
    binaries: Vec<PathBuf>,
}

/// A system under comparison.
struct Contestant {
    name: String,
    target: Target,
    data: Data,
    /// Of its servers.
    pids: Vec<u32>,
}

impl Contestant {
    fn cpu_s(&self) -> f64 {
        Usage::sum(self.pids.iter().map(|pid| Usage::of(&pid.to_string()))).cpu_s
    }
}

/// Runs it.
///
/// # Errors
/// A sentence.
pub async fn run(args: &Args) -> Result<(), String> {
    let common = &args.common;
    let mut report = common.report("etcd", "Puts and linearizable gets beside etcd", "clients");
    let keys = args.keys.unwrap_or(common.options.pick(1_000_000, 5_000));
    let rounds = args.rounds.unwrap_or(common.options.pick(3, 1)).max(1);
    let seconds = args.seconds.unwrap_or(common.options.pick(8, 2));
    let clients = common.options.pick_list(&args.clients, &[1, 64, 256], &[64]);
    report.setting("keys", keys);
    report.setting("value bytes", args.value_bytes);
    report.setting("rounds", rounds);
    report.setting("connections per process", common.connections);
    let folder = common.options.folder()?;
    let (stores, mut contestants) = ours(args, &folder, keys).await?;
    let peers = theirs(args, &folder, keys, &mut report).await?;
    contestants.extend(peers);
    // The third has the data of the second.
    for contestant in contestants.iter().filter(|contestant| !contestant.name.ends_with("streams")) {
        match &contestant.target {
            Target::Flotilla(cluster) => load::fill(cluster, contestant.data).await?,
            etcd => load::fill_singly(etcd, contestant.data).await?,
        }
    }
    for op in [Op::Put, Op::Get] {
        if op == Op::Get {
            contestants.push(ceiling(args, keys).await?);
        }
        for &clients in &clients {
            measure(&contestants, op, rounds, &common.plan(clients, seconds), &mut report).await?;
        }
    }
    ratios(&contestants, &clients, &mut report);
    drop(contestants);
    stores.stop().await;
    common.options.write(&report)
}

/// Our cluster, with one region for the keys that begin with `s` and several for those that begin with `k`.
async fn ours(args: &Args, folder: &Folder, keys: u64) -> Result<(Stores, Vec<Contestant>), String> {
    let (stores, cluster) = args.common.start(&folder.path().join("flotilla"), &still()).await?;
    let many = Data::new(keys, args.value_bytes);
    let one = Data { prefix: 's', ..many };
    let mut cuts = many.cuts(args.regions);
    cuts.push("s".into());
    stores.split(&cluster, &cuts).await?;
    let streamed = Cluster::connect_by(&stores.addresses, args.common.connections, true).await?;
    streamed.reload().await?;
    let new = |name: String, cluster: &Arc<Cluster>, data: Data| {
        let (target, pids) = (Target::Flotilla(cluster.clone()), stores.pids());
        Contestant { name, target, data, pids }
    };
    let regions = args.regions;
    let contestants = vec![
        new("flotilla, 1 region".to_string(), &cluster, one),
        new(format!("flotilla, {regions} regions"), &cluster, many),
        new(format!("flotilla, {regions} regions, streams"), &Arc::new(streamed), many),
    ];
    Ok((stores, contestants))
}

/// A cluster of each etcd that there is.
async fn theirs(
    args: &Args,
    folder: &Folder,
    keys: u64,
    report: &mut Report,
) -> Result<Vec<Contestant>, String> {
    let binaries = if args.binaries.is_empty() { vec!["etcd".into()] } else { args.binaries.clone() };
    let mut contestants = Vec::new();
    for (number, binary) in binaries.iter().enumerate() {
        let version = match etcd::version(binary).await {
            Ok(version) => version,
            Err(why) => {
                report.note(format!(
                    "no etcd to compare with ({why}): apt-get install etcd-server, or --etcd PATH"
                ));
                continue;
            }
        };
        let folder = folder.path().join(format!("etcd{number}"));
        let etcd = Etcd::start(binary, &folder, args.common.connections).await?;
        let (data, pids) = (Data::new(keys, args.value_bytes), etcd.pids());
        let target = Target::Etcd(Arc::new(etcd));
        contestants.push(Contestant { name: format!("etcd {version}"), target, data, pids });
    }
    Ok(contestants)
}

/// Gets of nothing.
async fn ceiling(args: &Args, keys: u64) -> Result<Contestant, String> {
    let echoes = Echoes::start(args.value_bytes, args.common.connections).await?;
    let (data, pids) = (Data::new(keys, args.value_bytes), echoes.pids());
    Ok(Contestant { name: "calls of nothing".into(), target: Target::Echo(Arc::new(echoes)), data, pids })
}

async fn measure(
    contestants: &[Contestant],
    op: Op,
    rounds: usize,
    plan: &load::Plan,
    report: &mut Report,
) -> Result<(), String> {
    let mut outcomes: Vec<Vec<load::Outcome>> = contestants.iter().map(|_| Vec::new()).collect();
    let mut cpu_us: Vec<Vec<f64>> = contestants.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (number, contestant) in contestants.iter().enumerate() {
            let workload = Arc::new(Uniform::new(contestant.data, op));
            let before = (contestant.cpu_s(), Instant::now());
            let outcome = load::run(&contestant.target, workload, *plan).await;
            let (used, seconds) = (contestant.cpu_s() - before.0, before.1.elapsed().as_secs_f64());
            outcome.check().map_err(|why| format!("{}: {why}", contestant.name))?;
            // Warm-up operations cost too.
            cpu_us[number].push(used * 1e6 / (outcome.ops_per_s() * seconds));
            outcomes[number].push(outcome);
        }
    }
    let name = op_name(op);
    for ((contestant, outcomes), cpu_us) in contestants.iter().zip(&outcomes).zip(cpu_us) {
        let middle = |value: &dyn Fn(&load::Outcome) -> f64| median(outcomes.iter().map(value).collect());
        let series = &contestant.name;
        report.add(series, plan.clients, &format!("{name}s"), middle(&load::Outcome::ops_per_s), "ops/s");
        let quantile = |quantile: f64| middle(&|outcome| outcome.all().quantile_ms(quantile));
        report.add(series, plan.clients, &format!("{name} p50"), quantile(0.5), "ms");
        report.add(series, plan.clients, &format!("{name} p99"), quantile(0.99), "ms");
        report.add(series, plan.clients, &format!("CPU of the servers, {name}"), median(cpu_us), "us/op");
    }
    Ok(())
}

fn op_name(op: Op) -> &'static str {
    match op {
        Op::Put => "put",
        Op::Get => "get",
    }
}

/// How many times as much as each etcd.
fn ratios(contestants: &[Contestant], clients: &[usize], report: &mut Report) {
    let (ours, theirs): (Vec<_>, Vec<_>) =
        contestants.iter().partition(|contestant| matches!(contestant.target, Target::Flotilla(_)));
    for their in theirs {
        for op in ["puts", "gets"] {
            for our in &ours {
                for clients in clients {
                    let rate = |name: &str| report.value(name, &clients.to_string(), op);
                    let (Some(a), Some(b)) = (rate(&our.name), rate(&their.name)) else { continue };
                    let (times, unit) = (a / b.max(f64::MIN_POSITIVE), "×");
                    report.add(&our.name, clients, &format!("{op}, times {}", their.name), times, unit);
                }
            }
        }
    }
}
