//! The limit of the store: the same entries logged durably and applied by three engines, without Raft, mailboxes and
//! callers. Keys, records and their sizes are those of the store: an entry of one put in `log`, the pair and the region's
//! apply state in `data`.

use std::sync::Barrier;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use flotilla_bench::options::Options;
use flotilla_bench::process::Usage;
use flotilla_bench::report::median;
use flotilla_engine::{Engine, RocksConfig, RocksEngine, WriteBatch};
use flotilla_kv::{Command, Put};
use flotilla_region::{Index, PeerId, RegionId, Space, keys};

/// Entries logged durably and applied by three engines, by batch size.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    options: Options,
    /// Entries in a batch [default: 1,8,64,256,512; quick 64]
    #[arg(long, value_delimiter = ',')]
    batches: Vec<usize>,
    /// Regions that the entries go to in turn
    #[arg(long, default_value_t = 1_000)]
    regions: u64,
    /// Measured seconds of each run [default: 4, quick 1]
    #[arg(long)]
    seconds: Option<u64>,
    /// Rounds; medians are reported [default: 3, quick 1]
    #[arg(long)]
    rounds: Option<usize>,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value_bytes: usize,
}

const ENGINES: u64 = 3;
/// Batches between the log and apply threads of an engine.
const IN_HAND: usize = 2;
/// An entry in `log` before its data: term, kind.
const ENTRY_HEAD: [u8; 9] = [0; 9];
/// Data before the commands: format, kind, version, time.
const COMMANDS_HEAD: [u8; 18] = [1; 18];

/// How an engine's two kinds of work follow each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// One thread logs, syncs, applies.
    Alternate,
    /// A second thread applies while the first logs the next batch.
    Beside,
}

/// What a run showed.
struct Outcome {
    entries_per_s: f64,
    cpu_us_per_entry: f64,
    disk_bytes_per_byte: f64,
}

/// Runs it.
///
/// # Errors
/// A sentence.
pub fn run(args: &Args) -> Result<(), String> {
    let options = &args.options;
    let batches = options.pick_list(&args.batches, &[1, 8, 64, 256, 512], &[64]);
    if batches.contains(&0) || args.regions == 0 {
        return Err("numbers must be at least 1".into());
    }
    let seconds = Duration::from_secs(args.seconds.unwrap_or(options.pick(4, 1)));
    let rounds = args.rounds.unwrap_or(options.pick(3, 1)).max(1);
    let title = "The same entries logged durably and applied by three engines in one process, without Raft";
    let mut report = options.report("engine", title, "entries in a batch");
    report.setting("regions", args.regions);
    report.setting("rounds", rounds);
    report.setting("value bytes", args.value_bytes);
    for batch in batches {
        for (name, order) in
            [("log, then apply", Order::Alternate), ("apply beside the next log", Order::Beside)]
        {
            let outcomes =
                (0..rounds).map(|_| measure(args, batch, order, seconds)).collect::<Result<Vec<_>, _>>()?;
            let middle = |value: fn(&Outcome) -> f64| median(outcomes.iter().map(value).collect());
            report.add(name, batch, "entries", middle(|o| o.entries_per_s), "per s");
            report.add(name, batch, "CPU", middle(|o| o.cpu_us_per_entry), "us per entry, three engines");
            let written = middle(|o| o.disk_bytes_per_byte / ENGINES as f64);
            report.add(name, batch, "bytes to disk of an engine", written, "× user bytes");
        }
    }
    options.write(&report)
}

fn measure(args: &Args, batch: usize, order: Order, time: Duration) -> Result<Outcome, String> {
    let folder = args.options.folder()?;
    let start = Barrier::new(ENGINES as usize + 1);
    let mut usage = Usage::default();
    let counts: Vec<Result<f64, String>> = thread::scope(|scope| {
        let engines: Vec<_> = (0..ENGINES)
            .map(|n| {
                let (folder, start) = (folder.path().join(n.to_string()), &start);
                scope.spawn(move || {
                    let engine = RocksEngine::open(folder, RocksConfig::default());
                    start.wait();
                    let engine = engine.map_err(|error| error.to_string())?;
                    drive(&*engine, args, batch, order, time).map_err(|error| error.to_string())
                })
            })
            .collect();
        start.wait();
        usage = Usage::of("self");
        engines.into_iter().map(|engine| engine.join().expect("an engine's thread does not panic")).collect()
    });
    let rates = counts.into_iter().collect::<Result<Vec<_>, _>>()?;
    let after = Usage::of("self");
    // All must have an entry: the slowest decides.
    let entries_per_s = rates.iter().copied().fold(f64::MAX, f64::min);
    let all: f64 = rates.iter().sum::<f64>() * time.as_secs_f64() / ENGINES as f64;
    let user_bytes = all * (KEY_BYTES + args.value_bytes) as f64;
    Ok(Outcome {
        entries_per_s,
        cpu_us_per_entry: (after.cpu_s - usage.cpu_s) * 1e6 / all,
        disk_bytes_per_byte: (after.disk_bytes - usage.disk_bytes) as f64 / user_bytes,
    })
}

/// Entries a second of one engine.
fn drive(
    engine: &dyn Engine,
    args: &Args,
    batch: usize,
    order: Order,
    time: Duration,
) -> flotilla_engine::Result<f64> {
    let mut entries = Entries::new(args);
    let started = Instant::now();
    if order == Order::Alternate {
        let (mut log, mut data) = (WriteBatch::new(), WriteBatch::new());
        while started.elapsed() < time {
            entries.fill(batch, &mut log, &mut data);
            engine.log_write(&log)?;
            engine.log_sync()?;
            engine.write(&data)?;
            log.clear();
            data.clear();
        }
        return Ok(entries.made as f64 / started.elapsed().as_secs_f64());
    }
    thread::scope(|scope| {
        let (apply, applied) = sync_channel::<WriteBatch>(IN_HAND);
        let applier = scope.spawn(move || applied.iter().try_for_each(|data| engine.write(&data)));
        let mut log = WriteBatch::new();
        while started.elapsed() < time {
            let mut data = WriteBatch::new();
            entries.fill(batch, &mut log, &mut data);
            engine.log_write(&log)?;
            engine.log_sync()?;
            log.clear();
            if apply.send(data).is_err() {
                break;
            }
        }
        drop(apply);
        applier.join().expect("an applier does not panic")?;
        Ok(entries.made as f64 / started.elapsed().as_secs_f64())
    })
}

const KEY_BYTES: usize = 16;
/// Up to so many regions in a batch get records of their own positions, as in the store.
const OWN_MAX: usize = 2;

/// Makes entries: the same for every engine.
struct Entries {
    regions: u64,
    value: Vec<u8>,
    made: u64,
    rounds: u64,
    random: u64,
    /// Of the next list of applied positions.
    slot: u16,
    /// Positions in the lists so far.
    listed: u64,
}

impl Entries {
    fn new(args: &Args) -> Entries {
        let value = vec![b'v'; args.value_bytes];
        Entries { regions: args.regions, value, made: 0, rounds: 0, random: 1, slot: 0, listed: 0 }
    }

    fn fill(&mut self, count: usize, log: &mut WriteBatch, data: &mut WriteBatch) {
        let mut record = Vec::new();
        for _ in 0..count {
            let number = self.made % self.regions;
            let (region, index) = (RegionId(number + 10), Index(self.made / self.regions + 6));
            self.random =
                self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = format!("{number:08}{:08}", (self.random >> 20) % 100_000_000);
            let put = Put { key: key.as_bytes(), value: &self.value, ttl_s: 0 };
            let command = Command::Put([put].into()).encode();
            record.clear();
            record.extend_from_slice(&ENTRY_HEAD);
            record.extend_from_slice(&COMMANDS_HEAD);
            record.extend_from_slice(&(command.len() as u32).to_be_bytes());
            record.extend_from_slice(&command);
            log.put(&keys::log_entry(region, PeerId(number + 1_000_000), index), &record);
            record.clear();
            record.push(0);
            record.extend_from_slice(&self.value);
            data.put(&keys::data_key(Space::User, key.as_bytes()), &record);
            if count <= OWN_MAX {
                data.put(&keys::apply_state(region), &[0; 16]);
            }
            self.made += 1;
        }
        self.rounds += 1;
        if count > OWN_MAX {
            self.list(count, data);
        }
        log.put(keys::LOG_ROUND, &[self.rounds as u8; 16]);
    }

    /// Applied positions as an apply worker writes them for many regions at once.
    fn list(&mut self, count: usize, data: &mut WriteBatch) {
        for place in keys::positions(0, self.slot) {
            data.put(&place, &vec![0; count * 32]);
        }
        self.slot += 1;
        self.listed += count as u64;
        if self.listed >= 8 * self.regions {
            (0..self.regions)
                .for_each(|number| data.put(&keys::apply_state(RegionId(number + 10)), &[0; 16]));
            (self.slot, self.listed) = (0, 0);
        }
    }
}
