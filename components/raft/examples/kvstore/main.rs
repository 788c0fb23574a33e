//! A small replicated key-value server on the crate `flotilla-raft` alone: three processes, each with a log file of its
//! own, that go on while any two of them are up.
//!
//! ```sh
//! cargo build -p flotilla-raft --example kvstore
//! G=1=127.0.0.1:7001/127.0.0.1:8001,2=127.0.0.1:7002/127.0.0.1:8002,3=127.0.0.1:7003/127.0.0.1:8003
//! kvstore --id 1 --dir /tmp/kv1 --group $G &     # in target/debug/examples
//! kvstore --id 2 --dir /tmp/kv2 --group $G &
//! kvstore --id 3 --dir /tmp/kv3 --group $G &
//! curl -X PUT -d hello 127.0.0.1:8001/kv/greeting
//! curl 127.0.0.1:8002/kv/greeting
//! kill -9 %1                                     # and look again, and start it again
//! kvstore --id 4 --dir /tmp/kv4 --join 127.0.0.1:7004/127.0.0.1:8004 &
//! curl -L -X PUT -H 'content-type: application/json' 127.0.0.1:8002/members/4 \
//!   -d '{"raft": "127.0.0.1:7004", "http": "127.0.0.1:8004"}'
//! curl -L -X DELETE 127.0.0.1:8002/members/1
//! curl 127.0.0.1:8002/status
//! ```
//!
//! # The loop
//!
//! The core decides and does nothing; a program around it is a loop. One thread owns the core, the state machine and
//! the disk, and takes [`requests::Event`]s from one channel:
//!
//! ```text
//!  clock ── Tick ──────────┐                      ┌─ save  ── storage.rs: one record, one sync
//!  network.rs ── Message ──┼─▶ node.rs ── Ready ──┼─ send  ── network.rs: a queue for each peer
//!  http.rs ── Request ─────┘   on_event    work   ├─ apply ── machine.rs, then whoever waits is answered
//!                                                 └─ advance
//! ```
//!
//! 1. **Feed**: `on_event` gives ticks, messages, proposals and reads to the core. Nothing is written or sent yet, so
//!    a whole batch of events shares what follows.
//! 2. **Take** the `Ready`: what the core wants done, in the order in which it must be done.
//! 3. **Save** its entries and hard state. A vote or an acknowledgement that is sent and then forgotten in a crash
//!    can elect two leaders or lose a write, so this comes before everything else, and a failure ends the process.
//! 4. **Send** its messages. They may be lost, doubled or late; the core deals with that.
//! 5. **Apply** its committed entries. Only now is a client told that its write is done.
//! 6. **Advance**: tell the core, which may have more to do now.
//!
//! Where to read on: `node.rs` is the loop. `wal.rs` is the file and what a crash may leave of it, `storage.rs` what
//! is in it: log, snapshot, compaction. `machine.rs` is what the entries mean. `requests.rs` is who waits for what.
//!
//! # Choices
//!
//! - **Writes go to any peer**: the core of a follower forwards the proposal, and the follower answers its client when
//!   the entry comes back to be applied. A write that gets no answer may have been made or not (504); to repeat a put
//!   or a delete is harmless unless somebody else wrote in between.
//! - **Reads go to any peer** and are linearizable: the peer asks for a read index, for which the leader proves by a
//!   round of heartbeats that it still leads, waits until it has applied that index, and looks up the key.
//! - **Membership changes go to the leader** (others redirect): it alone knows whether one is pending. A peer joins as
//!   a learner and the leader makes it a voter when it has the log; each step is a simple change of one peer. An id is
//!   used once: a peer that lost its disk is a new peer.
//! - **The state machine is in memory**, and is rebuilt from the last snapshot and the entries after it. A snapshot
//!   is made every so many entries; half as many entries stay behind it, for peers that are a little late.
//!
//! # What is missing
//!
//! Sessions that make repeated writes count once; snapshots that are made beside the loop and sent in pieces (a state
//! of 256 MiB is too large to be sent); appends that leave before the leader's own sync, and storage threads
//! (`Config::async_storage_writes`); leadership transfer before a restart; an identity of the group, so that an
//! address that changes hands cannot mix two groups; names instead of numeric addresses; encryption, and anything
//! against peers that lie.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    reason = "an example is wiring: a clock, threads, a runtime and random numbers"
)]

mod codec;
mod http;
mod machine;
mod network;
mod node;
mod requests;
mod storage;
mod wal;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use flotilla_raft::PeerId;
use tokio::{
    net::TcpListener,
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{MissedTickBehavior, interval},
};

use crate::{
    machine::Addresses,
    network::Network,
    node::{Node, NodeError, Options},
    requests::Event,
    storage::{DiskError, DiskStorage},
};

const USAGE: &str = "usage: kvstore --id ID --dir FOLDER (--group ID=RAFT/HTTP,... | --join RAFT/HTTP) \
    [--tick-ms MS] [--snapshot-entries COUNT], where RAFT and HTTP are addresses HOST:PORT to listen on; \
    --group lists all founders of a new group, this peer included";

/// Events that wait for the loop at most; senders wait then.
const INBOX_EVENTS: usize = 1024;

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Usage(&'static str),
    #[error("{0} cannot be listened on: {1}")]
    Listen(SocketAddr, io::Error),
    #[error("{0}")]
    Disk(#[from] DiskError),
    #[error("{0}")]
    Node(#[from] NodeError),
    #[error("{0}")]
    Http(io::Error),
    #[error("the loop has panicked")]
    Panic,
}

/// The command line.
struct Arguments {
    options: Options,
    own: Addresses,
    folder: PathBuf,
    tick: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    let ended = match parse(std::env::args().skip(1)) {
        Some(arguments) => run(arguments).await,
        None => Err(Failure::Usage(USAGE)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("kvstore: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a peer until Ctrl-C, or until it cannot go on.
async fn run(Arguments { options, own, folder, tick }: Arguments) -> Result<(), Failure> {
    let id = options.id;
    // First of all the addresses, so that no second process gets at the files.
    let peers = TcpListener::bind(own.raft).await.map_err(|error| Failure::Listen(own.raft, error))?;
    let clients = TcpListener::bind(own.http).await.map_err(|error| Failure::Listen(own.http, error))?;
    let (inbox, events) = mpsc::channel(INBOX_EVENTS);
    let storage = DiskStorage::open(&folder, id)?;
    let network = Network::new((id, own.raft), Handle::current(), inbox.clone());
    let node = Node::open(&options, storage, network)?;

    let (ended, end) = oneshot::channel();
    // A thread of its own: it waits for the disk.
    std::thread::spawn(move || ended.send(node.run(events)));
    tokio::spawn(network::accept(peers, id, inbox.clone()));
    tokio::spawn(tick_on(tick, inbox.clone()));
    eprintln!("peer {id}: clients at http://{}", own.http);
    tokio::select! {
        end = end => Ok(end.map_err(|_| Failure::Panic)??),
        served = axum::serve(clients, http::router(inbox)) => served.map_err(Failure::Http),
        // Nothing to save: what was acknowledged is on the disk.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// Tells the loop that time passes. Ticks that were missed (the loop waited for the disk) are not made up for.
async fn tick_on(every: Duration, inbox: mpsc::Sender<Event>) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        if inbox.send(Event::Tick).await.is_err() {
            return;
        }
    }
}

/// The command line, if it makes sense.
fn parse(mut arguments: impl Iterator<Item = String>) -> Option<Arguments> {
    let (mut id, mut folder, mut joins, mut founders) = (None, None, None, Vec::new());
    let (mut tick_ms, mut snapshot_entries) = (50, 1000);
    while let Some(name) = arguments.next() {
        let value = arguments.next()?;
        match name.as_str() {
            "--id" => id = Some(PeerId(value.parse().ok()?)),
            "--dir" => folder = Some(PathBuf::from(value)),
            "--group" => founders = value.split(',').map(parse_founder).collect::<Option<Vec<_>>>()?,
            "--join" => joins = Some(parse_addresses(&value)?),
            "--tick-ms" => tick_ms = parse_positive(&value)?,
            "--snapshot-entries" => snapshot_entries = parse_positive(&value)?,
            _ => return None,
        }
    }
    let (id, folder) = (id?, folder?);
    let founder = founders.iter().find(|(founder, _)| *founder == id).map(|(_, addresses)| *addresses);
    let own = match (founder, joins) {
        (Some(own), None) => own,
        (None, Some(own)) if founders.is_empty() => own,
        _ => return None,
    };
    // Randomly keyed hashers are the standard library's source of random numbers.
    let session = RandomState::new().build_hasher().finish().max(1);
    let options = Options { id, founders, snapshot_entries, session };
    Some(Arguments { options, own, folder, tick: Duration::from_millis(tick_ms) })
}

fn parse_founder(text: &str) -> Option<(PeerId, Addresses)> {
    let (id, addresses) = text.split_once('=')?;
    Some((PeerId(id.parse().ok()?), parse_addresses(addresses)?))
}

fn parse_addresses(text: &str) -> Option<Addresses> {
    let (raft, http) = text.split_once('/')?;
    Some(Addresses { raft: SocketAddr::from_str(raft).ok()?, http: SocketAddr::from_str(http).ok()? })
}

fn parse_positive(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number| *number > 0)
}
