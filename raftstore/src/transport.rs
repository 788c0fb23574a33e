//! The seam to other stores.

use crate::wire::pb;
use flotilla_region::StoreId;

use crate::wire::StoreFrame;

/// Names a snapshot stream that this process opened, or one that another store opened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// Carries frames and snapshots to other stores. Never blocks and may drop frames: Raft retries.
pub trait Transport: Send + Sync {
    /// Queues a frame for `to`, in order with earlier frames of the calling worker.
    fn send(&self, to: StoreId, frame: StoreFrame);

    /// Opens a snapshot stream to `to` and sends its header. What happens to the stream comes back as
    /// [`SnapshotEvent`]s.
    fn snapshot_open(&self, stream: StreamId, to: StoreId, header: pb::SnapshotChunk);

    /// Sends the next part. The sender waits for [`SnapshotEvent::Sent`] before the next one, so that a slow receiver
    /// costs no memory here.
    fn snapshot_send(&self, stream: StreamId, chunk: pb::SnapshotChunk);

    /// Ends a stream from this side.
    fn snapshot_close(&self, stream: StreamId);
}

/// Answers on a snapshot stream that another store opened.
pub type ReplyTo = Box<dyn Fn(pb::SnapshotReply) + Send>;

/// What a transport tells the store about snapshot streams.
pub enum SnapshotEvent {
    /// The receiver of an own stream answered.
    Reply(StreamId, pb::SnapshotReply),
    /// The last part of an own stream was taken by the network.
    Sent(StreamId),
    /// An own stream broke.
    Broken(StreamId),
    /// Another store opened a stream; every answer to it goes through the closure.
    Opened(StreamId, pb::SnapshotHeader, ReplyTo),
    /// A part of an incoming stream.
    Chunk(StreamId, pb::SnapshotChunk),
    /// An incoming stream ended or broke.
    Closed(StreamId),
}
