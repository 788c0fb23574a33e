//! What other stores send: frames and snapshots.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_proto::flotilla as pb;
use flotilla_proto::flotilla::snapshot_chunk::Part;
use flotilla_proto::flotilla::store_service_server::StoreService;
use flotilla_raftstore::{SnapshotEvent, Store, StreamId};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::node::Node;

/// Marks the streams that others opened, so that their names differ from those of own ones.
const INCOMING: u64 = 1 << 63;

/// The service.
pub struct StoreFrames {
    node: Arc<Node>,
    next_stream: AtomicU64,
    /// Strangers that were told off in the log already.
    refused: Mutex<BTreeSet<(u64, &'static str)>>,
}

impl StoreFrames {
    /// Of this process.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node, next_stream: AtomicU64::new(INCOMING), refused: Mutex::default() }
    }

    /// Refuses a frame, and with it the stream; the log says so once.
    fn refuse(&self, from: u64, why: &'static str) -> Status {
        if self.refused.lock().insert((from, why)) {
            tracing::warn!(store = from, why, "frames of a store are refused");
        }
        Status::failed_precondition(why)
    }
}

type Replies = Pin<Box<dyn Stream<Item = Result<pb::SnapshotReply, Status>> + Send>>;

#[tonic::async_trait]
impl StoreService for StoreFrames {
    async fn frames(
        &self,
        request: Request<Streaming<pb::StoreFrame>>,
    ) -> Result<Response<pb::StoreFrameAck>, Status> {
        let store = self.node.wait_store().await?;
        let mut frames = request.into_inner();
        while let Some(frame) = frames.message().await? {
            self.node.metrics.frames_received.inc();
            let from = frame.from_store;
            store.on_frame(frame).map_err(|why| self.refuse(from, why))?;
        }
        Ok(Response::new(pb::StoreFrameAck {}))
    }

    type SnapshotStream = Replies;

    async fn snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let store = self.node.wait_store().await?.clone();
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.and_then(|chunk| chunk.part);
        let Some(Part::Header(header)) = first else {
            return Err(Status::invalid_argument("a snapshot begins with its header"));
        };
        let stream = StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed));
        let (answer, answers) = mpsc::unbounded_channel();
        // The sender may have gone.
        let reply_to = Box::new(move |reply| drop(answer.send(Ok(reply))));
        store.on_snapshot_event(SnapshotEvent::Opened(stream, header, reply_to));
        tokio::spawn(receive(store, stream, chunks));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }
}

/// Hands the parts of a snapshot over as they come.
async fn receive(store: Store, stream: StreamId, mut chunks: Streaming<pb::SnapshotChunk>) {
    while let Ok(Some(chunk)) = chunks.message().await {
        store.on_snapshot_event(SnapshotEvent::Chunk(stream, chunk));
    }
    store.on_snapshot_event(SnapshotEvent::Closed(stream));
}
