//! One store process, from its flags to its exit.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::routing::get;
use flotilla_engine::{Engine, RocksEngine};
use flotilla_kv::KvMachine;
use flotilla_proto::flotilla::cluster_service_server::ClusterServiceServer;
use flotilla_proto::flotilla::store_service_server::StoreServiceServer;
use flotilla_proto::keyspacepb::keyspace_server::KeyspaceServer;
use flotilla_proto::pdpb::pd_server::PdServer;
use flotilla_proto::tikvpb::tikv_server::TikvServer;
use flotilla_raftstore::{Clock, Seams, Store};
use flotilla_region::PeerRole;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::bootstrap::{self, Bootstrap, data_error, disk_uuid};
use crate::cluster_service::{ClusterAdmin, statuses};
use crate::config::Config;
use crate::error::StartError;
use crate::kv_service::KvService;
use crate::memory;
use crate::metrics::Metrics;
use crate::node::{COMMIT, Node, VERSION};
use crate::pd_service::PdService;
use crate::status;
use crate::store_service::StoreFrames;
use crate::threads::{SystemClock, fatal_hook, run_workers};
use crate::transport::{MESSAGE_BYTES_MAX, Network};
use crate::watchdog::Pulse;

/// HTTP/2 windows: a megabyte of snapshot or of log entries must not wait for an update.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Requests of one connection at a time.
const STREAMS_MAX: u32 = 8_192;
/// How long a store that is asked to end tries to hand its regions over.
const SHED_TIMEOUT: Duration = Duration::from_secs(5);
/// How often leaders that are still here are handed over again.
const SHED_INTERVAL: Duration = Duration::from_millis(100);
/// Longest wait for the last writes to the log, and for the last checkpoint.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(3);

/// Flags of `flotilla server`; each wins over its key in the configuration file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServerArgs {
    /// Data directory [default: flotilla-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address where all services listen [default: 127.0.0.1:20160]
    #[arg(long, value_name = "HOST:PORT")]
    pub addr: Option<String>,
    /// Address under which clients and other stores reach this one [default: that of --addr]
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_addr: Option<String>,
    /// Address of /metrics, /status and /ready [default: 127.0.0.1:20180]
    #[arg(long, value_name = "HOST:PORT")]
    pub status_addr: Option<String>,
    /// Stores to ask at the first start; the first one founds the cluster [default: none, found a cluster of one]
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',')]
    pub cluster: Vec<String>,
    /// File of keys at which the first region is cut if this store founds the cluster, one a line, ascending; as in
    /// `import --format tsv`, other bytes are written \xHH
    #[arg(long, value_name = "FILE")]
    pub pre_split: Option<PathBuf>,
    /// Configuration file; `flotilla config` prints one with every key
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ServerArgs {
    /// The configuration that flags and file make together.
    ///
    /// # Errors
    /// The file or a value cannot be used.
    pub fn resolve(self) -> Result<Config, StartError> {
        let mut config = match &self.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        let server = &mut config.server;
        set(&mut server.data_dir, self.data_dir);
        set(&mut server.addr, self.addr);
        set(&mut server.advertise_addr, self.advertise_addr);
        set(&mut server.status_addr, self.status_addr);
        set(&mut server.cluster, (!self.cluster.is_empty()).then_some(self.cluster));
        if let Some(path) = &self.pre_split {
            config.read_pre_split(path)?;
        }
        config.check()?;
        Ok(config)
    }
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

/// Runs a store until it is asked to end.
pub fn main(args: ServerArgs) -> ExitCode {
    let (config, runtime) = match args.resolve().and_then(|config| Ok((runtime(&config)?, config))) {
        Ok((runtime, config)) => (config, runtime),
        Err(error) => return refuse(&error),
    };
    init_logging(&config.server.log);
    refuse_huge_pages();
    match runtime.block_on(run(config)) {
        // Neither worker threads nor streams of other stores end by themselves.
        Ok(()) => std::process::exit(0),
        Err(error) => {
            refuse(&error);
            std::process::exit(1)
        }
    }
}

/// Idle regions are many small pieces of memory, and what was used while they were split or moved lies free between them:
/// of pages of 2 MiB nearly none could be given back. With 10,000 regions on three stores a replica held 15.7 KiB with
/// them and 9.2 KiB without; reads and writes were as fast.
fn refuse_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "memory comes in huge pages");
    }
}

fn refuse(error: &StartError) -> ExitCode {
    eprintln!("flotilla: {error}");
    ExitCode::FAILURE
}

fn runtime(config: &Config) -> Result<tokio::runtime::Runtime, StartError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.server.runtime_threads.max(1))
        .thread_name("service")
        .enable_all()
        .build()
        .map_err(|error| StartError::System { what: "service threads", error })
}

fn init_logging(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).unwrap_or_else(|error| {
        eprintln!("flotilla: log filter {filter:?}: {error}; using \"info\"");
        tracing_subscriber::EnvFilter::new("info")
    });
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal).init();
}

async fn run(config: Config) -> Result<(), StartError> {
    let server = &config.server;
    let mut ending = pin_signal()?;
    let listener = listen(&server.addr).await?;
    let status_listener = listen(&server.status_addr).await?;
    let dir = server.data_dir.clone();
    let engine =
        RocksEngine::open(&dir, config.rocks_config()).map_err(|error| data_error(&dir, &error.into()))?;
    let metrics = Arc::new(Metrics::new());
    metrics.memory_budget.set(config.memory_budget().try_into().unwrap_or(i64::MAX));
    let handle = tokio::runtime::Handle::current();
    let network = Network::new(handle, metrics.clone(), server.link_queue_bytes);
    let uuid = disk_uuid(&*engine, &dir)?;
    let node = Arc::new(Node::new(server, uuid, metrics, network));
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(serve(node.clone(), listener, server.read_bytes_max, stopped));
    tokio::spawn(serve_status(node.clone(), status_listener));
    tracing::info!(version = VERSION, commit = COMMIT, address = %server.addr, "flotilla starts");
    let (cluster, pre_split) = (&server.cluster, &config.pre_split()?);
    let bootstrap = Bootstrap { node: &node, engine: &*engine, dir: &dir, cluster, pre_split };
    tokio::select! {
        ident = bootstrap.run() => ident?,
        _ = ending.recv() => return Ok(()),
    };
    let (store, log) = open_store(&config, &node, engine, &dir)?;
    let (cluster, id) = store.id();
    tracing::info!(cluster = cluster.0, store = id.0, address = %node.address, "the store serves");
    tokio::spawn(status::watch_ready(node.clone(), store.clone()));
    tokio::spawn(status::report_load(store.clone(), dir, log));
    tokio::spawn(memory::give_back_for_ever(SystemClock));
    let announced = tokio::spawn(bootstrap::announce(node.clone(), store.clone(), server.cluster.clone()));
    tokio::select! {
        refused = refusal(announced) => return Err(refused),
        _ = ending.recv() => {}
    }
    tracing::info!("asked to end");
    node.set_stopping();
    let _ = stop.send(());
    shut_down(&store).await;
    Ok(())
}

/// Waits for the cluster's refusal; for ever if it agrees.
async fn refusal(announced: tokio::task::JoinHandle<Result<(), StartError>>) -> StartError {
    match announced.await {
        Ok(Err(error)) => error,
        _ => std::future::pending().await,
    }
}

fn open_store(
    config: &Config,
    node: &Node,
    engine: Arc<RocksEngine>,
    dir: &Path,
) -> Result<(Store, Pulse), StartError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let seams = Seams {
        engine: engine as Arc<dyn Engine>,
        transport: Arc::new(node.network.clone()),
        clock: clock.clone(),
        machine: Arc::new(KvMachine),
        fatal: fatal_hook(),
    };
    // Stores that start together must not draw the same election timeouts.
    let seed =
        clock.now().0 ^ node.uuid.iter().fold(0, |seed: u64, byte| seed.rotate_left(9) ^ u64::from(*byte));
    let (store, workers) =
        Store::open(config.store_config(seed), seams).map_err(|error| data_error(dir, &error))?;
    node.attach(store.clone());
    let hang_limit = Duration::from_millis(config.server.hang_limit_ms);
    let log = run_workers(workers, clock, hang_limit)
        .map_err(|error| StartError::System { what: "worker threads", error })?;
    Ok((store, log))
}

async fn listen(address: &str) -> Result<TcpListener, StartError> {
    let named = |error| StartError::Listen { address: address.to_string(), error };
    TcpListener::bind(address).await.map_err(named)
}

async fn serve(node: Arc<Node>, listener: TcpListener, read_bytes_max: u64, stopped: oneshot::Receiver<()>) {
    let pd = PdService::new(node.clone());
    macro_rules! sized {
        ($server:expr) => {
            $server.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
    }
    let routes = Routes::new(sized!(TikvServer::new(KvService::new(node.clone(), read_bytes_max))))
        .add_service(sized!(PdServer::new(pd.clone())))
        .add_service(sized!(KeyspaceServer::new(pd.clone())))
        .add_service(sized!(ClusterServiceServer::new(ClusterAdmin::new(node.clone()))))
        .add_service(sized!(StoreServiceServer::new(StoreFrames::new(node))));
    // The one page of PD's HTTP interface that clients' own tests ask for.
    let count = move || {
        let count = pd.region_count();
        async move { Json(json!({ "count": count })) }
    };
    let routes = routes.into_axum_router().route("/pd/api/v1/regions", get(count));
    let served = Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .add_routes(Routes::from(routes))
        .serve_with_incoming_shutdown(incoming(listener), wait_stopped(stopped))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the services ended");
    }
}

fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

async fn wait_stopped(stopped: oneshot::Receiver<()>) {
    // Only when asked to stop, not when the other side is gone.
    if stopped.await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn serve_status(node: Arc<Node>, listener: TcpListener) {
    let address: Option<SocketAddr> = listener.local_addr().ok();
    if let Err(error) = axum::serve(listener, status::router(node)).await {
        tracing::error!(?address, %error, "the status page ended");
    }
}

/// Told of SIGTERM and SIGINT; the second one ends the process at once.
fn pin_signal() -> Result<tokio::sync::mpsc::Receiver<()>, StartError> {
    let on = |kind| signal(kind).map_err(|error| StartError::System { what: "signals", error });
    let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    let (tell, told) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if tell.try_send(()).is_err() {
                std::process::exit(130);
            }
        }
    });
    Ok(told)
}

/// Hands regions over, makes everything durable.
async fn shut_down(store: &Store) {
    let give_up = Instant::now() + SHED_TIMEOUT;
    while Instant::now() < give_up {
        if !leads_shared_region(store).await {
            break;
        }
        store.shed_leaders();
        tokio::time::sleep(SHED_INTERVAL).await;
    }
    let (tell, drained) = oneshot::channel();
    store.drain_log(tell_done(tell));
    let drained = timeout(DRAIN_TIMEOUT, drained).await;
    let (tell, flushed) = oneshot::channel();
    store.checkpoint(tell_done(tell));
    let flushed = timeout(CHECKPOINT_TIMEOUT, flushed).await;
    // What is not flushed is replayed from the log at the next start.
    tracing::info!(log = drained.is_ok(), data = flushed.is_ok(), "the store ends");
}

/// Tells whoever still waits.
fn tell_done(tell: oneshot::Sender<()>) -> Box<dyn FnOnce() + Send> {
    Box::new(move || {
        let _ = tell.send(());
    })
}

/// Whether a region is led here that another store could lead.
async fn leads_shared_region(store: &Store) -> bool {
    let me = store.id().1;
    let votes_elsewhere = |peer: &flotilla_region::Peer| peer.store != me && peer.role == PeerRole::Voter;
    let replicas = timeout(SHED_TIMEOUT, statuses(store)).await.unwrap_or_default();
    replicas.iter().any(|replica| replica.is_leader && replica.region.peers.iter().any(votes_elsewhere))
}
