//! What calls cost without a store behind them: processes that answer every raw get with the same value, over the same
//! gRPC library, protocol and connections. No store that is asked by unary calls answers faster on the same machine.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_proto::kvrpcpb::{self, RawGetRequest, RawGetResponse};
use flotilla_proto::metapb;
use flotilla_proto::tikvpb::tikv_client::TikvClient;
use tokio::process::{Child, Command};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use crate::stores::{STORES, free_port};

const READY_TIMEOUT: Duration = Duration::from_secs(10);
const METHOD: &str = "/tikvpb.Tikv/RawGet";

/// Answer raw gets from nothing, until killed.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where to listen
    #[arg(long)]
    address: std::net::SocketAddr,
    /// Bytes of the value that every key has
    #[arg(long)]
    value_bytes: usize,
}

#[derive(Clone)]
struct Echo(Bytes);

impl NamedService for Echo {
    const NAME: &'static str = "tikvpb.Tikv";
}

impl UnaryService<RawGetRequest> for Echo {
    type Response = RawGetResponse;
    type Future = Ready<Result<tonic::Response<RawGetResponse>, Status>>;

    fn call(&mut self, _: tonic::Request<RawGetRequest>) -> Self::Future {
        ready(Ok(tonic::Response::new(RawGetResponse { value: self.0.clone(), ..Default::default() })))
    }
}

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::new(Code::Unimplemented, "raw gets only").into_http());
            }
            Ok(Grpc::new(ProstCodec::default()).unary(echo, request).await)
        })
    }
}

/// Serves.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(args: &Args) -> Result<(), String> {
    let value = Bytes::from(vec![b'v'; args.value_bytes]);
    let server = Server::builder().add_service(Echo(value)).serve(args.address);
    server.await.map_err(|error| format!("{}: {error}", args.address))
}

/// As many such processes as there are stores, and connections to them. Dropping it kills them.
pub struct Echoes {
    processes: Vec<Child>,
    clients: Vec<TikvClient<Channel>>,
    turn: AtomicUsize,
}

impl Echoes {
    /// Starts them and waits until they answer.
    ///
    /// # Errors
    /// A sentence.
    pub async fn start(value_bytes: usize, connections: usize) -> Result<Echoes, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let (mut processes, mut addresses) = (Vec::new(), Vec::new());
        for _ in 0..STORES {
            let address = format!("127.0.0.1:{}", free_port()?);
            let mut command = Command::new(&program);
            command.args(["echo", "--address", &address, "--value-bytes", &value_bytes.to_string()]);
            command.stdin(Stdio::null()).kill_on_drop(true);
            processes.push(command.spawn().map_err(|error| error.to_string())?);
            addresses.push(address);
        }
        let mut clients = Vec::new();
        for _ in 0..connections.max(1) {
            for address in &addresses {
                let endpoint = Endpoint::from_shared(format!("http://{address}"));
                let endpoint = endpoint.map_err(|error| format!("{address}: {error}"))?;
                clients.push(TikvClient::new(endpoint.connect_lazy()));
            }
        }
        let echoes = Echoes { processes, clients, turn: AtomicUsize::new(0) };
        let started = Instant::now();
        let mut answered = 0;
        while answered < echoes.clients.len() {
            match echoes.get(Bytes::from_static(b"ready")).await {
                Ok(_) => answered += 1,
                Err(why) if started.elapsed() > READY_TIMEOUT => return Err(why),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        Ok(echoes)
    }

    /// A call with all the fields of one to a store.
    ///
    /// # Errors
    /// A sentence.
    pub async fn get(&self, key: Bytes) -> Result<Bytes, String> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        let context = kvrpcpb::Context {
            region_id: 1_000,
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 5, version: 30 }),
            peer: Some(metapb::Peer { id: 1_001, store_id: 1, ..Default::default() }),
            ..Default::default()
        };
        let request = RawGetRequest { context: Some(context), key, ..Default::default() };
        let reply = self.clients[turn].clone().raw_get(request).await;
        reply.map(|reply| reply.into_inner().value).map_err(|status| status.to_string())
    }

    /// Process ids.
    pub fn pids(&self) -> Vec<u32> {
        self.processes.iter().filter_map(Child::id).collect()
    }
}
