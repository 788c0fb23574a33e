//! Messages between processes: one TCP connection for each direction of each pair, frames that begin with their
//! length.
//!
//! The network may lose messages, and says so where it knows; Raft sends again what matters. It must not block the
//! loop: each peer has a queue of its own, and what does not fit is dropped. It must not reorder what one peer sends
//! to another more than it has to (Raft bears it, at the price of a detour), so one task serves one queue.

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

use bytes::Bytes;
use flotilla_raft::{Message, MessageKind, PeerId};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::mpsc,
    time::{sleep, timeout},
};

use crate::{
    codec::{DecodeError, Reader, decode_message, encode_message, put_address, put_u64},
    requests::Event,
};

/// Messages that wait for one peer at most.
const QUEUE_MESSAGES: usize = 256;
/// Longest time to connect to a peer and to hand one message to its machine.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// Longest frame: a snapshot travels in one.
const FRAME_BYTES_MAX: u32 = 256 << 20;
/// Pause after a connection could not be accepted, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Links to other peers, made and forgotten by the loop.
#[derive(Debug)]
pub struct Network {
    own: (PeerId, SocketAddr),
    runtime: Handle,
    inbox: mpsc::Sender<Event>,
    links: BTreeMap<PeerId, Link>,
}

#[derive(Debug)]
struct Link {
    address: SocketAddr,
    queue: mpsc::Sender<Message>,
}

impl Network {
    /// No links yet. `own` is what other peers are told; reports go to `inbox`.
    pub fn new(own: (PeerId, SocketAddr), runtime: Handle, inbox: mpsc::Sender<Event>) -> Self {
        Self { own, runtime, inbox, links: BTreeMap::new() }
    }

    /// Makes a link to `peer`; nothing happens if there is one to that address.
    pub fn connect(&mut self, peer: PeerId, address: SocketAddr) {
        if self.links.get(&peer).is_some_and(|link| link.address == address) {
            return;
        }
        let (queue, messages) = mpsc::channel(QUEUE_MESSAGES);
        self.links.insert(peer, Link { address, queue });
        self.runtime.spawn(deliver_all(self.own, address, messages, self.inbox.clone()));
    }

    /// Ends the link to `peer`, once what waits in its queue is sent.
    pub fn forget(&mut self, peer: PeerId) {
        self.links.remove(&peer);
    }

    /// Queues a message; false if it is dropped.
    pub fn send(&self, message: Message) -> bool {
        self.links.get(&message.to).is_some_and(|link| link.queue.try_send(message).is_ok())
    }
}

/// Sends what comes from a queue, over a connection that is made when it is needed.
async fn deliver_all(
    own: (PeerId, SocketAddr),
    address: SocketAddr,
    mut messages: mpsc::Receiver<Message>,
    inbox: mpsc::Sender<Event>,
) {
    let mut connection = None;
    while let Some(message) = messages.recv().await {
        let delivery = deliver(own, address, &mut connection, &message);
        let is_sent = timeout(SEND_LIMIT, delivery).await.is_ok_and(|result| result.is_ok());
        if !is_sent {
            // Possibly in the middle of a frame.
            connection = None;
        }
        let mut reports = Vec::new();
        if !is_sent {
            reports.push(Event::Unreachable(message.to));
        }
        if message.kind == MessageKind::Snapshot {
            reports.push(Event::SnapshotSent(message.to, is_sent));
        }
        for report in reports {
            if inbox.send(report).await.is_err() {
                return;
            }
        }
    }
}

async fn deliver(
    own: (PeerId, SocketAddr),
    address: SocketAddr,
    connection: &mut Option<TcpStream>,
    message: &Message,
) -> io::Result<()> {
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let mut stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            write_frame(&mut stream, encode_hello(own, message.to)).await?;
            connection.insert(stream)
        }
    };
    write_frame(stream, encode_message(message)).await
}

/// The first frame of a connection: who speaks, to whom, and where the speaker listens.
fn encode_hello((from, address): (PeerId, SocketAddr), to: PeerId) -> Vec<u8> {
    let mut frame = Vec::new();
    put_u64(&mut frame, from.0);
    put_u64(&mut frame, to.0);
    put_address(&mut frame, address);
    frame
}

async fn write_frame(stream: &mut TcpStream, payload: Vec<u8>) -> io::Result<()> {
    let length = u32::try_from(payload.len()).ok().filter(|length| *length <= FRAME_BYTES_MAX);
    let length = length.ok_or(io::ErrorKind::FileTooLarge)?;
    let mut frame = length.to_le_bytes().to_vec();
    frame.extend_from_slice(&payload);
    stream.write_all(&frame).await
}

async fn read_frame(stream: &mut TcpStream) -> io::Result<Bytes> {
    let length = stream.read_u32_le().await?;
    if length > FRAME_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut payload = Vec::new();
    stream.take(length.into()).read_to_end(&mut payload).await?;
    if payload.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(payload.into())
}

/// Takes connections from other peers for ever.
pub async fn accept(listener: TcpListener, own: PeerId, inbox: mpsc::Sender<Event>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let inbox = inbox.clone();
                tokio::spawn(async move {
                    // The speaker connects again after any error; only nonsense is worth a word.
                    match receive_all(stream, own, inbox).await {
                        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                            eprintln!("peer {own}: nonsense from {from}");
                        }
                        Err(_) | Ok(()) => {}
                    }
                });
            }
            Err(error) => {
                eprintln!("peer {own}: {error}");
                wait_before_accepting().await;
            }
        }
    }
}

async fn wait_before_accepting() {
    sleep(ACCEPT_PAUSE).await;
}

/// Passes the messages of one connection to the loop, which slows the speaker down if it does not keep up.
async fn receive_all(mut stream: TcpStream, own: PeerId, inbox: mpsc::Sender<Event>) -> io::Result<()> {
    let nonsense = |DecodeError| io::Error::from(io::ErrorKind::InvalidData);
    let mut hello = Reader(read_frame(&mut stream).await?);
    let (from, to) = (hello.peer().map_err(nonsense)?, hello.peer().map_err(nonsense)?);
    let address = hello.address().map_err(nonsense)?;
    // An address may have had another owner once.
    if to != own {
        return Ok(());
    }
    if inbox.send(Event::Met(from, address)).await.is_err() {
        return Ok(());
    }
    loop {
        let message = decode_message(read_frame(&mut stream).await?).map_err(nonsense)?;
        if message.to == own && inbox.send(Event::Message(message)).await.is_err() {
            return Ok(());
        }
    }
}
