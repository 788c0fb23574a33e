//! Connections to one store: unary calls, or streams that carry the requests of many clients (`BatchCommands`), as TiKV's
//! Go client does it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flotilla_proto::tikvpb::tikv_client::TikvClient;
use flotilla_proto::tikvpb::{
    BatchCommandsRequest, BatchCommandsResponse, batch_commands_request, batch_commands_response,
};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

pub use batch_commands_request::request::Cmd as Asked;
pub use batch_commands_response::response::Cmd as Answered;

/// Requests that share a message of a stream.
const SHARED_MAX: usize = 256;
/// Messages between a stream's clients and its connection: what comes while one waits there shares the next.
const MESSAGES_IN_HAND: usize = 1;

/// Connections to one store, used in turn.
pub struct Link {
    clients: Vec<TikvClient<Channel>>,
    /// One for each connection, or none: then calls are unary.
    streams: Vec<Mutex<Option<Requests>>>,
    next: AtomicUsize,
}

type Request = (Asked, oneshot::Sender<Answered>);
type Requests = mpsc::UnboundedSender<Request>;
type Waiting = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Answered>>>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Over these connections.
    pub fn new(clients: Vec<TikvClient<Channel>>, is_streamed: bool) -> Link {
        let streams = if is_streamed { clients.len() } else { 0 };
        let streams = (0..streams).map(|_| Mutex::default()).collect();
        Link { clients, streams, next: AtomicUsize::new(0) }
    }

    /// Asks the store.
    ///
    /// # Errors
    /// The connection broke, or the store refused the call.
    pub async fn ask(&self, asked: Asked) -> Result<Answered, Status> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.clients.len();
        match self.streams.get(turn) {
            None => unary(self.clients[turn].clone(), asked).await,
            Some(stream) => {
                let (tell, told) = oneshot::channel();
                let broken = |_| Status::unavailable("the stream broke");
                self.requests(stream, turn)
                    .send((asked, tell))
                    .map_err(|_| Status::unavailable("no stream"))?;
                told.await.map_err(broken)
            }
        }
    }

    /// The stream of a connection, opened anew if it broke.
    fn requests(&self, stream: &Mutex<Option<Requests>>, turn: usize) -> Requests {
        let mut stream = lock(stream);
        match &*stream {
            Some(requests) if !requests.is_closed() => requests.clone(),
            _ => {
                let (send, requests) = mpsc::unbounded_channel();
                tokio::spawn(carry(self.clients[turn].clone(), requests));
                stream.insert(send).clone()
            }
        }
    }
}

async fn unary(mut client: TikvClient<Channel>, asked: Asked) -> Result<Answered, Status> {
    Ok(match asked {
        Asked::RawPut(request) => Answered::RawPut(client.raw_put(request).await?.into_inner()),
        Asked::RawBatchPut(request) => {
            Answered::RawBatchPut(client.raw_batch_put(request).await?.into_inner())
        }
        Asked::RawGet(request) => Answered::RawGet(client.raw_get(request).await?.into_inner()),
        Asked::RawScan(request) => Answered::RawScan(client.raw_scan(request).await?.into_inner()),
        _ => return Err(Status::unimplemented("this client does not ask that")),
    })
}

/// One stream, until it breaks or nobody can use it any more. Whoever waits for an answer then hears that it broke.
async fn carry(mut client: TikvClient<Channel>, mut requests: mpsc::UnboundedReceiver<Request>) {
    let waiting = Waiting::default();
    let (send, messages) = mpsc::channel(MESSAGES_IN_HAND);
    let Ok(answers) = client.batch_commands(ReceiverStream::new(messages)).await else { return };
    let mut reader = tokio::spawn(read(answers.into_inner(), waiting.clone()));
    let mut next_id = 0;
    let mut taken = Vec::new();
    loop {
        let room = tokio::select! {
            room = send.reserve() => room,
            _ = &mut reader => break,
        };
        let Ok(room) = room else { break };
        tokio::select! {
            count = requests.recv_many(&mut taken, SHARED_MAX) => if count == 0 { break },
            _ = &mut reader => break,
        }
        let mut message = BatchCommandsRequest::default();
        {
            let mut waiting = lock(&waiting);
            for (cmd, tell) in taken.drain(..) {
                next_id += 1;
                waiting.insert(next_id, tell);
                message.request_ids.push(next_id);
                message.requests.push(batch_commands_request::Request { cmd: Some(cmd) });
            }
        }
        room.send(message);
    }
    requests.close();
    reader.abort();
    lock(&waiting).clear();
}

async fn read(mut answers: Streaming<BatchCommandsResponse>, waiting: Waiting) {
    while let Ok(Some(message)) = answers.message().await {
        let mut waiting = lock(&waiting);
        for (id, response) in message.request_ids.into_iter().zip(message.responses) {
            if let (Some(tell), Some(cmd)) = (waiting.remove(&id), response.cmd) {
                // Its client may have given up.
                let _ = tell.send(cmd);
            }
        }
    }
}
