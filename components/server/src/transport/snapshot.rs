//! One snapshot on its way to another store.

use std::pin::pin;
use std::sync::Arc;

use flotilla_proto::flotilla as pb;
use flotilla_proto::flotilla::snapshot_reply::Kind;
use flotilla_proto::flotilla::store_service_client::StoreServiceClient;
use flotilla_raftstore::{SnapshotEvent, StreamId};
use flotilla_region::StoreId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Inner, MESSAGE_BYTES_MAX, connect};

/// Parts between the snapshot worker and the connection: with one the worker reads on when the network does.
const PARTS_IN_HAND: usize = 1;

/// Runs a stream from its header to its end, and tells the store how that was.
pub(super) async fn run(
    inner: Arc<Inner>,
    stream: StreamId,
    to: StoreId,
    header: pb::SnapshotChunk,
    parts: mpsc::UnboundedReceiver<pb::SnapshotChunk>,
) {
    let ended = carry(&inner, stream, to, header, parts).await;
    inner.snapshots.lock().remove(&stream);
    if let Err(why) = ended {
        tracing::info!(store = to.0, why, "snapshot stream broke");
        inner.tell(SnapshotEvent::Broken(stream));
    }
}

async fn carry(
    inner: &Inner,
    stream: StreamId,
    to: StoreId,
    header: pb::SnapshotChunk,
    mut parts: mpsc::UnboundedReceiver<pb::SnapshotChunk>,
) -> Result<(), String> {
    let address = inner.address(to).ok_or("its address is not known")?;
    let channel = connect(&address).await.map_err(|error| error.to_string())?;
    let mut client = StoreServiceClient::new(channel)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    let (send, chunks) = mpsc::channel(PARTS_IN_HAND);
    send.send(header).await.map_err(|_| "the stream did not open")?;
    let replies = client.snapshot(ReceiverStream::new(chunks)).await.map_err(|status| status.to_string())?;
    let mut replies = replies.into_inner();
    let mut feed = pin!(async {
        while let Some(part) = parts.recv().await {
            if send.send(part).await.is_err() {
                return;
            }
            inner.tell(SnapshotEvent::Sent(stream));
        }
    });
    let mut has_verdict = false;
    loop {
        tokio::select! {
            // The store closed the stream: everything that mattered was said.
            () = &mut feed => return Ok(()),
            reply = replies.message() => match reply {
                Ok(Some(reply)) => {
                    has_verdict |= !matches!(reply.kind(), Kind::Ready | Kind::More);
                    inner.tell(SnapshotEvent::Reply(stream, reply));
                }
                Ok(None) if has_verdict => return Ok(()),
                Ok(None) => return Err("the receiver closed it".to_string()),
                Err(status) => return Err(status.to_string()),
            },
        }
    }
}
