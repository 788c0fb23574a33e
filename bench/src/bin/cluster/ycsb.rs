//! YCSB's core workloads (Cooper and others, "Benchmarking cloud serving systems with YCSB", 2010) through the public
//! protocol, and pure puts, gets and scans beside them.
//!
//! Keys are chosen by Zipf's law with the exponent 0.99 (generator: Gray and others, "Quickly generating
//! billion-record synthetic databases", 1994), scattered over the key space by a hash; "latest" counts the same ranks
//! from the newest key backwards. A value is one field of 1,000 bytes, as many as YCSB's ten.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use clap::ValueEnum;

use crate::common::{Common, still};
use crate::load::{self, Action, Data, Noise, Random, Target, Workload};

/// Exponent of Zipf's law.
const THETA: f64 = 0.99;
/// Longest scan, in pairs; lengths are uniform.
const SCAN_MAX: u64 = 100;

/// YCSB's core workloads, and pure operations on uniform keys.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// What to run, in this order [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    workloads: Vec<Kind>,
    /// Clients, each with one operation under way [default: 64]
    #[arg(long)]
    clients: Option<usize>,
    /// Measured seconds of each workload [default: 15, quick 2]
    #[arg(long)]
    seconds: Option<u64>,
    /// Keys [default: 100000, quick 10000]
    #[arg(long)]
    keys: Option<u64>,
    /// Bytes of a value
    #[arg(long, default_value_t = 1_000)]
    value_bytes: usize,
    /// Regions that the keys are cut into
    #[arg(long, default_value_t = 24)]
    regions: u64,
}

/// A mix of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Half reads, half updates
    A,
    /// 95 % reads, 5 % updates
    B,
    /// Reads
    C,
    /// 95 % reads of the latest keys, 5 % inserts
    D,
    /// 95 % short scans, 5 % inserts
    E,
    /// Half reads, half reads that are followed by an update
    F,
    /// Updates of uniform keys
    Put,
    /// Reads of uniform keys
    Get,
    /// Short scans from uniform keys
    Scan,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::A => "A: half updates",
            Kind::B => "B: 5 % updates",
            Kind::C => "C: reads",
            Kind::D => "D: latest",
            Kind::E => "E: scans",
            Kind::F => "F: modify",
            Kind::Put => "put",
            Kind::Get => "get",
            Kind::Scan => "scan",
        }
    }
}

/// Ranks by Zipf's law: 0 is the most frequent.
struct Zipf {
    items: u64,
    zeta: f64,
    eta: f64,
    alpha: f64,
}

impl Zipf {
    fn new(items: u64) -> Zipf {
        let zeta = |n: u64| (1..=n).map(|rank| (rank as f64).powf(-THETA)).sum::<f64>();
        let zeta_all = zeta(items);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - THETA)) / (1.0 - zeta(2) / zeta_all);
        Zipf { items, zeta: zeta_all, eta, alpha: 1.0 / (1.0 - THETA) }
    }

    fn rank(&self, random: &mut Random) -> u64 {
        let u = random.share();
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5_f64.powf(THETA) {
            return 1;
        }
        let rank = self.items as f64 * (self.eta * u - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.items - 1)
    }
}

/// FNV-1a, YCSB's hash for scattering.
fn scatter(rank: u64) -> u64 {
    rank.to_le_bytes().iter().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

struct Ycsb {
    kind: Kind,
    data: Data,
    noise: Noise,
    zipf: Arc<Zipf>,
    /// Keys that exist, inserted ones included; shared by all workloads of a run.
    inserted: Arc<Inserted>,
}

/// Inserts that were begun, and those that were answered.
struct Inserted {
    next: AtomicU64,
    /// Every key below is there.
    visible: AtomicU64,
    /// Answered, but one below was not.
    early: Mutex<BTreeSet<u64>>,
}

impl Inserted {
    fn new(keys: u64) -> Inserted {
        Inserted { next: AtomicU64::new(keys), visible: AtomicU64::new(keys), early: Mutex::default() }
    }

    fn begin(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn done(&self, number: u64) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        early.insert(number);
        let mut visible = self.visible.load(Ordering::Relaxed);
        while early.remove(&visible) {
            visible += 1;
        }
        self.visible.store(visible, Ordering::Relaxed);
    }
}

impl Ycsb {
    fn popular(&self, random: &mut Random) -> u64 {
        scatter(self.zipf.rank(random)) % self.data.keys
    }

    fn read(&self, number: u64) -> (&'static str, Action) {
        ("read", Action::Get(self.data.key(number), self.data.value_bytes))
    }

    fn write(&self, kind: &'static str, number: u64, random: &mut Random) -> (&'static str, Action) {
        (kind, Action::Put(self.data.key(number), self.noise.value(self.data.value_bytes, random)))
    }

    fn insert(&self, random: &mut Random) -> (&'static str, Action) {
        let number = self.inserted.begin();
        let value = self.noise.value(self.data.value_bytes, random);
        ("insert", Action::Insert(number, self.data.key(number), value))
    }

    fn scan(&self, number: u64, random: &mut Random) -> (&'static str, Action) {
        ("scan", Action::Scan(self.data.key(number), 1 + random.below(SCAN_MAX) as usize))
    }
}

impl Workload for Ycsb {
    fn next(&self, random: &mut Random) -> (&'static str, Action) {
        let percent = random.below(100);
        match self.kind {
            Kind::A if percent < 50 => self.write("update", self.popular(random), random),
            Kind::B if percent < 5 => self.write("update", self.popular(random), random),
            Kind::A | Kind::B | Kind::C => self.read(self.popular(random)),
            Kind::D | Kind::E if percent < 5 => self.insert(random),
            Kind::D => {
                let newest = self.inserted.visible.load(Ordering::Relaxed) - 1;
                self.read(newest.saturating_sub(self.zipf.rank(random)))
            }
            Kind::E => self.scan(self.popular(random), random),
            Kind::F if percent < 50 => {
                let key = self.data.key(self.popular(random));
                ("modify", Action::Modify(key, self.noise.value(self.data.value_bytes, random)))
            }
            Kind::F => self.read(self.popular(random)),
            Kind::Put => self.write("update", random.below(self.data.keys), random),
            Kind::Get => self.read(random.below(self.data.keys)),
            Kind::Scan => self.scan(random.below(self.data.keys), random),
        }
    }

    fn on_inserted(&self, number: u64) {
        self.inserted.done(number);
    }
}

/// Runs it.
///
/// # Errors
/// A sentence.
pub async fn run(args: &Args) -> Result<(), String> {
    let common = &args.common;
    let data = Data::new(args.keys.unwrap_or(common.options.pick(100_000, 10_000)), args.value_bytes);
    let clients = args.clients.unwrap_or(64);
    let plan = common.plan(clients, args.seconds.unwrap_or(common.options.pick(15, 2)));
    let mut report = common.report(
        "ycsb",
        "YCSB's core workloads and pure operations through the public protocol",
        "workload",
    );
    report.setting("clients", clients);
    report.setting("keys", data.keys);
    report.setting("value bytes", data.value_bytes);
    report.setting("regions", args.regions);
    let folder = common.options.folder()?;
    let (stores, cluster) = common.start(folder.path(), &still()).await?;
    stores.split(&cluster, &data.cuts(args.regions)).await?;
    load::fill(&cluster, data).await?;
    let zipf = Arc::new(Zipf::new(data.keys));
    let inserted = Arc::new(Inserted::new(data.keys));
    let target = Target::Flotilla(cluster.clone());
    let kinds = if args.workloads.is_empty() { Kind::value_variants() } else { &args.workloads };
    for &kind in kinds {
        let (noise, zipf, inserted) = (data.noise(), zipf.clone(), inserted.clone());
        let workload = Arc::new(Ycsb { kind, data, noise, zipf, inserted });
        let before = stores.reading().await?;
        let outcome = load::run(&target, workload, plan).await;
        let after = stores.reading().await?;
        outcome.check()?;
        report.add("all", kind.name(), "throughput", outcome.ops_per_s(), "ops/s");
        for (name, latencies) in &outcome.kinds {
            report.add_latencies(name, kind.name(), latencies);
            report.add_histogram(name, kind.name(), latencies);
        }
        // Warm-up operations cost too: the run's share of the cost is its share of the time.
        let ops = outcome.ops_per_s() * after.seconds(&before);
        report.add("all", kind.name(), "CPU of the stores", after.cpu_s(&before) * 1e6 / ops, "us/op");
        report.add("all", kind.name(), "syncs of the logs", after.syncs(&before) / ops, "per op");
        let frames = after.growth(&before, "flotilla_frames_sent_total").unwrap_or_default();
        report.add("all", kind.name(), "frames between stores", frames / ops, "per op");
    }
    stores.stop().await;
    common.options.write(&report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_follow_zipfs_law() {
        let (zipf, mut random) = (Zipf::new(1_000), Random::new(5));
        let mut counts = vec![0_u32; 1_000];
        (0..200_000).for_each(|_| counts[zipf.rank(&mut random) as usize] += 1);
        // P(rank 0) = 1 / zeta, and rank n is n + 1 times rarer, but for the exponent.
        let expected = 200_000.0 / zipf.zeta;
        assert!((f64::from(counts[0]) / expected - 1.0).abs() < 0.05, "{} of {expected}", counts[0]);
        let tenth = expected / 10_f64.powf(THETA);
        assert!((f64::from(counts[9]) / tenth - 1.0).abs() < 0.25, "{} of {tenth}", counts[9]);
        assert!(counts.iter().sum::<u32>() == 200_000 && counts[999] < counts[0] / 100);
    }

    #[test]
    fn a_key_is_read_once_all_before_it_are_there() {
        let data = Data::new(100, 8);
        let (inserted, zipf) = (Arc::new(Inserted::new(100)), Arc::new(Zipf::new(100)));
        let workload = Ycsb { kind: Kind::D, data, noise: data.noise(), zipf, inserted };
        let mut random = Random::new(3);
        let (mut written, mut late) = (100, None);
        for _ in 0..10_000 {
            match workload.next(&mut random) {
                ("insert", Action::Insert(number, key, _)) => {
                    assert_eq!((number, key), (written, data.key(written)));
                    written += 1;
                    // Every other one is answered after its successor.
                    match late.take() {
                        None => late = Some(number),
                        Some(late) => [number, late].into_iter().for_each(|n| workload.on_inserted(n)),
                    }
                }
                (_, Action::Get(key, _)) => assert!(key < data.key(late.unwrap_or(written))),
                other => panic!("{other:?}"),
            }
        }
        assert!(written > 400);
    }
}
