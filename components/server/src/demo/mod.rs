//! `flotilla demo`: three stores on loopback, a real directory tree split into many regions, a kill -9 in the middle of
//! the import, and every value read back and compared.

mod figures;
mod stores;

use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use flotilla_proto::flotilla::RegionInfo;
use flotilla_proto::metapb::PeerRole;
use flotilla_router::Client;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cli::tree::Tree;
use crate::cli::{
    Admin, CliError, ENTRY_BYTES_MAX, Items, LoadOptions, LoadReport, load, region_table, store_table, verify,
};
use figures::{Figures, Moments, mib};
use stores::{StoreProcess, start_all};

/// Stores, and replicas of each region.
const STORES: usize = 3;
/// Regions that must appear.
const REGIONS_MIN: usize = 24;
/// The split size is this part of the input, so that pieces of half to twice that size are enough regions.
const SPLIT_PARTS: u64 = 64;
const SPLIT_BYTES_MIN: u64 = 32 << 10;
const SPLIT_BYTES_MAX: u64 = 4 << 20;
/// How long the cluster may take to come to rest after a change.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);
/// How often it is looked at meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Rows of tables that are printed.
const ROWS_MAX: usize = 12;

/// Flags of `flotilla demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Directory tree to import [default: $CARGO_HOME/registry/src, the sources of the crates of the last builds]
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
    /// Folder for data and logs; must not exist yet [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// End after the check, with status 0 or 1, instead of serving until Ctrl-C
    #[arg(long)]
    exit: bool,
}

/// What kept the demonstration from its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A client command failed.
    #[error(transparent)]
    Cli(#[from] CliError),
    /// The client could not connect.
    #[error(transparent)]
    Client(#[from] flotilla_router::Error),
    /// Something could not be started.
    #[error("cannot start {what}: {error}")]
    Start {
        /// What.
        what: &'static str,
        /// Why.
        error: std::io::Error,
    },
    /// A folder or file could not be made.
    #[error("{}: {error}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A store ended that should not have.
    #[error("the store at {address} ended ({status}): {last}")]
    Ended {
        /// Its address.
        address: String,
        /// How.
        status: ExitStatus,
        /// The last line of its log.
        last: String,
    },
    /// The cluster did not come to rest.
    #[error("after {} s still not: {what}", SETTLE_TIMEOUT.as_secs())]
    Unsettled {
        /// What was waited for.
        what: &'static str,
    },
    /// Ctrl-C before the end.
    #[error("interrupted")]
    Interrupted,
    /// There is nothing to import.
    #[error("{}: no files to import (--input names another tree)", .0.display())]
    NoInput(PathBuf),
    /// Values are missing or wrong.
    #[error("{failed} not imported, {missing} missing, {different} different, {unread} not read")]
    Wrong {
        /// Files that were not stored.
        failed: u64,
        /// Keys without a value.
        missing: usize,
        /// Keys with another value.
        different: usize,
        /// Keys that could not be read.
        unread: usize,
    },
}

/// Runs the demonstration.
pub async fn main(args: DemoArgs) -> ExitCode {
    let folder = args.dir.clone().unwrap_or_else(temporary_folder);
    let result = tokio::select! {
        result = run(&args, &folder) => result,
        _ = tokio::signal::ctrl_c() => Err(DemoError::Interrupted),
    };
    match result {
        Ok(mut demo) => {
            if !args.exit {
                demo.serve().await;
            }
            demo.end().await;
            if args.dir.is_none() {
                // Only left-overs: the next demonstration takes another folder.
                let _ = std::fs::remove_dir_all(&folder);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("flotilla demo: {error}");
            eprintln!("data and logs are in {}", folder.display());
            ExitCode::FAILURE
        }
    }
}

fn temporary_folder() -> PathBuf {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let name = format!("flotilla-demo-{}-{}", std::process::id(), since_epoch.as_millis());
    std::env::temp_dir().join(name)
}

fn default_input() -> PathBuf {
    let home = || std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default().join(".cargo");
    std::env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from).join("registry/src")
}

/// The parts of a running demonstration.
struct Demo {
    stores: Vec<StoreProcess>,
    config: PathBuf,
    addresses: Vec<String>,
    admin: Admin,
    client: Client,
}

async fn run(args: &DemoArgs, folder: &Path) -> Result<Demo, DemoError> {
    let input = args.input.clone().unwrap_or_else(default_input);
    let mut tree = Tree::read(&input)?;
    let large = tree.split_off_large(ENTRY_BYTES_MAX);
    let bytes: u64 = tree.files.iter().map(|file| file.bytes()).sum();
    if tree.files.is_empty() {
        return Err(DemoError::NoInput(input));
    }
    println!("input: {}: {} files, {:.1} MiB", input.display(), tree.files.len(), mib(bytes as f64));
    if !large.is_empty() {
        println!("left out: {} over the entry limit of {:.0} MiB", large.len(), mib(ENTRY_BYTES_MAX as f64));
    }
    let mut demo = Demo::start(folder, bytes).await?;
    let started = Instant::now();
    demo.wait_until(1, "three replicas and a leader of every region").await?;
    println!(
        "every region has {STORES} replicas and a leader after {:.1} s",
        started.elapsed().as_secs_f64()
    );
    let (report, moments) = demo.import(&tree).await?;
    let figures = Figures::new(&report, moments);
    demo.wait_until(REGIONS_MIN, "24 regions with three replicas each, and leaders on every store").await?;
    let verdict = demo.check(&tree, &report).await;
    demo.print_cluster().await?;
    print!("{figures}");
    verdict?;
    println!("verified {} files byte for byte: 0 missing, 0 different", tree.files.len());
    Ok(demo)
}

impl Demo {
    async fn start(folder: &Path, input_bytes: u64) -> Result<Self, DemoError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |error| DemoError::Folder { path, error }
        };
        std::fs::create_dir(folder).map_err(at(folder))?;
        let split_bytes = (input_bytes / SPLIT_PARTS).clamp(SPLIT_BYTES_MIN, SPLIT_BYTES_MAX);
        let config = folder.join("flotilla.toml");
        let text = format!("[store]\nsplit_bytes = {split_bytes}\nsplit_check_ms = 500\n");
        std::fs::write(&config, text).map_err(at(&config))?;
        let stores = start_all(folder, &config, STORES)?;
        for store in &stores {
            println!(
                "store at {}, status at http://{}/status, pid {}",
                store.address,
                store.status_address,
                store.pid()
            );
        }
        let addresses: Vec<String> = stores.iter().map(|store| store.address.clone()).collect();
        let admin = Admin::new(&addresses, None)?;
        let client = Client::connect(&addresses).await?;
        Ok(Self { stores, config, addresses, admin, client })
    }

    /// Waits until there are enough regions, all with a leader and three caught-up voters, and all stores lead some.
    async fn wait_until(&mut self, regions_min: usize, what: &'static str) -> Result<(), DemoError> {
        let give_up = Instant::now() + SETTLE_TIMEOUT;
        let mut calm = 0;
        // Splits come in waves: two looks in a row must agree.
        while calm < 2 {
            if Instant::now() > give_up {
                return Err(DemoError::Unsettled { what });
            }
            self.stores.iter_mut().try_for_each(StoreProcess::check_alive)?;
            let is_settled = match self.admin.regions(0).await {
                Ok(regions) => {
                    let user = regions.iter().filter(|info| is_user(info)).count();
                    user >= regions_min
                        && regions.iter().all(is_whole)
                        && (regions_min == 1 || leading_stores(&regions) == STORES)
                }
                Err(_) => false,
            };
            calm = if is_settled { calm + 1 } else { 0 };
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Imports everything, with a kill at a third of it and the restart at two thirds.
    async fn import(&mut self, tree: &Tree) -> Result<(LoadReport, Moments), DemoError> {
        let items = Items::list(tree.files.clone());
        let total = items.total().map_or(0, |(_, bytes)| bytes);
        let bar = bar("import", total);
        let (tell, done_bytes) = watch::channel(0u64);
        let client = self.client.clone();
        let options = LoadOptions::default();
        let started = Instant::now();
        let importing = async {
            let report = load(&client, items, &options, |progress| {
                bar.set_position(progress.done_bytes);
                tell.send_replace(progress.done_bytes);
            })
            .await;
            // What happens at a part of the import must not wait for one that is not reached any more.
            tell.send_replace(u64::MAX);
            report
        };
        let (report, moments) = tokio::join!(importing, self.interrupt(done_bytes, total, started));
        bar.finish_and_clear();
        Ok((report, moments?))
    }

    async fn interrupt(
        &mut self,
        mut done: watch::Receiver<u64>,
        total: u64,
        started: Instant,
    ) -> Result<Moments, DemoError> {
        let mut moments = Moments::default();
        reach(&mut done, total / 3).await;
        let victim = self.busiest_store().await?;
        moments.killed = Some(started.elapsed());
        let store = &mut self.stores[victim];
        let (pid, address) = (store.pid(), store.address.clone());
        store.kill().await;
        println!("kill -9 {pid}: the store at {address}, which led most regions");
        reach(&mut done, total / 3 * 2).await;
        self.stores[victim].restart(&self.config)?;
        moments.restarted = Some(started.elapsed());
        println!("started the store at {address} again, pid {}", self.stores[victim].pid());
        let page = self.stores[victim].status_address.clone();
        let give_up = Instant::now() + SETTLE_TIMEOUT;
        while !is_ready(&page).await {
            self.stores[victim].check_alive()?;
            if Instant::now() > give_up {
                return Err(DemoError::Unsettled { what: "the killed store has caught up" });
            }
            tokio::time::sleep(LOOK_INTERVAL / 4).await;
        }
        moments.ready = Some(started.elapsed());
        Ok(moments)
    }

    async fn busiest_store(&self) -> Result<usize, DemoError> {
        let stores = self.admin.stores().await?;
        let busiest = stores.iter().max_by_key(|info| info.leader_count).and_then(|info| info.store.as_ref());
        let address = busiest.map(|store| store.address.as_str()).unwrap_or_default();
        Ok(self.addresses.iter().position(|known| known == address).unwrap_or(0))
    }

    /// Reads everything back.
    async fn check(&self, tree: &Tree, report: &LoadReport) -> Result<(), DemoError> {
        let items = Items::list(tree.files.clone());
        let bar = bar("verify", items.total().map_or(0, |(_, bytes)| bytes));
        let found = verify(&self.client, items, &LoadOptions::default(), |progress| {
            bar.set_position(progress.done_bytes);
        })
        .await;
        bar.finish_and_clear();
        let failed = report.failures.len() as u64 + report.untried;
        if failed == 0 && found.is_clean() && found.matched == tree.files.len() as u64 {
            return Ok(());
        }
        for failure in report.failures.iter().chain(&found.unread).take(ROWS_MAX) {
            eprintln!("{}: {}", failure.key.escape_ascii(), failure.reason);
        }
        let (missing, different) = (found.missing.len(), found.different.len());
        Err(DemoError::Wrong { failed, missing, different, unread: found.unread.len() })
    }

    async fn print_cluster(&self) -> Result<(), DemoError> {
        let (stores, regions) = (self.admin.stores().await?, self.admin.regions(0).await?);
        println!("{}", store_table(&stores));
        let user: Vec<RegionInfo> = regions.into_iter().filter(is_user).collect();
        println!("{}", region_table(&user[..user.len().min(ROWS_MAX)], false));
        println!(
            "{} regions, {} shown; all have {STORES} replicas and a leader",
            user.len(),
            user.len().min(ROWS_MAX)
        );
        Ok(())
    }

    /// Until Ctrl-C.
    async fn serve(&self) {
        let pd = self.addresses.join(",");
        println!("\nthe stores keep serving until Ctrl-C; try:");
        for command in
            ["ctl stores", "ctl regions", "scan --limit 10 --keys-only", "put greeting hello", "get greeting"]
        {
            println!("  flotilla {command} --pd {pd}");
        }
        for store in &self.stores {
            println!("  curl http://{}/metrics", store.status_address);
        }
        // Without a way to be told, there is nothing to wait for.
        let _ = tokio::signal::ctrl_c().await;
    }

    async fn end(&mut self) {
        for store in &mut self.stores {
            store.end().await;
        }
    }
}

fn bar(what: &'static str, bytes: u64) -> indicatif::ProgressBar {
    const TEMPLATE: &str =
        "{prefix} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";
    let style = indicatif::ProgressStyle::with_template(TEMPLATE).expect("the template is well-formed");
    indicatif::ProgressBar::new(bytes).with_style(style).with_prefix(what)
}

/// Waits until the import has done so many bytes, or has ended.
async fn reach(done: &mut watch::Receiver<u64>, bytes: u64) {
    // The sender lives as long as the import.
    let _ = done.wait_for(|done| *done >= bytes).await;
}

/// A region that clients' keys can be in.
fn is_user(info: &RegionInfo) -> bool {
    let Some(region) = &info.region else { return false };
    !region.meta_space && region.start_key != flotilla_region::sentinel_start()
}

/// Whether a region has a leader and all its replicas, none behind.
fn is_whole(info: &RegionInfo) -> bool {
    let voters = info.region.iter().flat_map(|region| &region.peers);
    let voters = voters.filter(|peer| peer.role() == PeerRole::Voter).count();
    let peers = info.region.as_ref().map_or(0, |region| region.peers.len());
    info.leader.is_some() && voters == STORES && peers == STORES && info.pending_peers.is_empty()
}

fn leading_stores(regions: &[RegionInfo]) -> usize {
    let leaders = regions.iter().filter_map(|info| info.leader.as_ref()).map(|leader| leader.store_id);
    leaders.collect::<std::collections::BTreeSet<_>>().len()
}

/// Whether a status page says that its store has caught up.
async fn is_ready(page: &str) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(page).await?;
        let request = format!("GET /ready HTTP/1.1\r\nHost: {page}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        Ok::<bool, std::io::Error>(reply.starts_with("HTTP/1.1 200"))
    };
    tokio::time::timeout(Duration::from_secs(2), ask).await.is_ok_and(|ready| ready.unwrap_or(false))
}
