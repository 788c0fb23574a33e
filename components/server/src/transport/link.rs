//! One direction of a store pair: a bounded queue, and the task that carries it to the other store.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flotilla_proto::flotilla::store_service_client::StoreServiceClient;
use flotilla_raftstore::wire::{StoreFrame, is_patient, merge_frames};
use flotilla_region::StoreId;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Inner, MESSAGE_BYTES_MAX, connect};

/// Pause after the first failure; doubles up to the maximum.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A connection that held for so long was a good one.
const GOOD_CONNECTION: Duration = Duration::from_secs(2);
/// How often a connected link looks whether the store has moved, and one without an address for an address.
const ADDRESS_CHECK: Duration = Duration::from_secs(1);
/// Raft is told that a store is unreachable at most so often.
const UNREACHABLE_INTERVAL: Duration = Duration::from_millis(500);
/// How long heartbeats and news for placement wait for company: all workers of a store flush them on one grid, and
/// what leaves together costs the receiver one wake-up.
const PATIENCE: Duration = Duration::from_millis(20);
/// Frames between the queue and the connection. What comes while one waits there is joined to one frame: a slow
/// connection, or a busy machine, gets fewer and larger ones.
const FRAMES_IN_HAND: usize = 1;
/// Frames are not joined beyond so many bytes.
const JOINED_BYTES_MAX: usize = 1 << 20;

/// The queue to one other store.
///
/// Invariant: `bytes` is the sum of the frames' sizes, and at most `bytes_max` but for a single frame.
pub(super) struct Link {
    to: StoreId,
    bytes_max: usize,
    queue: Mutex<Queue>,
    filled: Notify,
    down: AtomicBool,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<(usize, StoreFrame)>,
    bytes: usize,
    /// Patient frames, merged, with the time at which they leave alone.
    held: Option<(Instant, StoreFrame)>,
}

impl Link {
    pub(super) fn new(to: StoreId, bytes_max: usize) -> Self {
        let queue = Mutex::default();
        Self { to, bytes_max, queue, filled: Notify::new(), down: AtomicBool::new(false) }
    }

    /// Takes a frame; `false` = there is no room, it is dropped.
    pub(super) fn push(&self, frame: StoreFrame) -> bool {
        {
            let mut queue = self.queue.lock();
            let frame = match queue.held.take() {
                Some((due, held)) if frame_bytes(&held) > self.bytes_max => {
                    // The connection has taken nothing for long.
                    queue.held = Some((due, held));
                    return false;
                }
                Some((due, mut held)) => {
                    let hurry = !is_patient(&frame);
                    merge_frames(&mut held, frame);
                    if !hurry {
                        queue.held = Some((due, held));
                        return true;
                    }
                    held
                }
                None if is_patient(&frame) => {
                    queue.held = Some((Instant::now() + PATIENCE, frame));
                    drop(queue);
                    self.filled.notify_one();
                    return true;
                }
                None => frame,
            };
            let bytes = frame_bytes(&frame);
            if !queue.frames.is_empty() && queue.bytes + bytes > self.bytes_max {
                return false;
            }
            queue.bytes += bytes;
            queue.frames.push_back((bytes, frame));
        }
        self.filled.notify_one();
        true
    }

    /// The next frame, or when there will be one if nothing else comes.
    fn pop(&self) -> Result<StoreFrame, Option<Instant>> {
        let mut queue = self.queue.lock();
        if let Some((mut bytes, mut frame)) = queue.frames.pop_front() {
            queue.bytes -= bytes;
            while queue.frames.front().is_some_and(|(more, _)| bytes + more <= JOINED_BYTES_MAX)
                && let Some((more, later)) = queue.frames.pop_front()
            {
                queue.bytes -= more;
                bytes += more;
                merge_frames(&mut frame, later);
            }
            return Ok(frame);
        }
        match queue.held.take() {
            Some((due, held)) if due > Instant::now() => {
                queue.held = Some((due, held));
                Err(Some(due))
            }
            Some((_, held)) => Ok(held),
            None => Err(None),
        }
    }

    /// The next frame. Cancelling loses none.
    async fn next(&self) -> StoreFrame {
        loop {
            match self.pop() {
                Ok(frame) => return frame,
                Err(Some(due)) => {
                    let _ = tokio::time::timeout_at(due.into(), self.filled.notified()).await;
                }
                Err(None) => self.filled.notified().await,
            }
        }
    }

    /// Waits until there is something to send.
    async fn wait_filled(&self) {
        loop {
            {
                let queue = self.queue.lock();
                if !queue.frames.is_empty() || queue.held.is_some() {
                    return;
                }
            }
            self.filled.notified().await;
        }
    }

    /// What waited for a store that cannot be reached is stale by the time it can.
    fn clear(&self) {
        *self.queue.lock() = Queue::default();
    }

    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
    }
}

/// Bytes of a frame, near enough for a bound.
fn frame_bytes(frame: &StoreFrame) -> usize {
    let entries = frame.messages.iter().filter_map(|m| m.message.as_ref()).flat_map(|m| &m.entries);
    let entries: usize = entries.map(|entry| entry.data.len() + 24).sum();
    let heartbeats = [&frame.heartbeats, &frame.heartbeat_responses];
    let heartbeats: usize = heartbeats.into_iter().flatten().map(|h| h.region_id.len() * 64).sum();
    64 + frame.messages.len() * 128 + entries + heartbeats + frame.placement.len() * 1_024
}

/// Raft messages of a frame.
fn messages(frame: &StoreFrame) -> usize {
    let heartbeats = [&frame.heartbeats, &frame.heartbeat_responses];
    frame.messages.len() + heartbeats.into_iter().flatten().map(|h| h.region_id.len()).sum::<usize>()
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("cannot connect: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("{}", .0.message())]
    Status(Box<Status>),
    #[error("the store closed the stream")]
    Closed,
    #[error("the store moved")]
    Moved,
}

/// Carries the link's frames for as long as the process lives.
pub(super) async fn run(inner: Arc<Inner>, link: Arc<Link>) {
    let mut backoff = BACKOFF_MIN;
    let mut told: Option<Instant> = None;
    loop {
        link.wait_filled().await;
        let Some(address) = inner.address(link.to) else {
            tokio::time::sleep(ADDRESS_CHECK).await;
            continue;
        };
        let started = Instant::now();
        let ended = carry(&inner, &link, &address).await;
        if started.elapsed() >= GOOD_CONNECTION {
            backoff = BACKOFF_MIN;
        }
        if matches!(ended, Ended::Moved) {
            continue;
        }
        if !link.down.swap(true, Ordering::AcqRel) {
            tracing::warn!(store = link.to.0, %address, %ended, "connection to a store is down");
        }
        link.clear();
        if told.is_none_or(|at| at.elapsed() >= UNREACHABLE_INTERVAL)
            && let Some(store) = inner.store.get()
        {
            told = Some(Instant::now());
            store.on_unreachable(link.to);
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// One connection, from dialling to its end.
async fn carry(inner: &Inner, link: &Link, address: &str) -> Ended {
    let channel = match connect(address).await {
        Ok(channel) => channel,
        Err(error) => return Ended::Connect(error),
    };
    if link.down.swap(false, Ordering::AcqRel) {
        tracing::info!(store = link.to.0, %address, "connection to a store is up again");
    }
    inner.metrics.links_up.inc();
    let mut client = StoreServiceClient::new(channel).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (send, frames) = mpsc::channel(FRAMES_IN_HAND);
    let call = async move {
        match client.frames(ReceiverStream::new(frames)).await {
            Ok(_) => Ended::Closed,
            Err(status) => Ended::Status(Box::new(status)),
        }
    };
    let ended = pump(inner, link, address, call, send).await;
    inner.metrics.links_up.dec();
    ended
}

async fn pump(
    inner: &Inner,
    link: &Link,
    address: &str,
    call: impl Future<Output = Ended>,
    send: mpsc::Sender<StoreFrame>,
) -> Ended {
    let mut call = pin!(call);
    let mut address_check = tokio::time::interval(ADDRESS_CHECK);
    loop {
        let room = tokio::select! {
            ended = &mut call => return ended,
            room = send.reserve() => room,
        };
        let Ok(room) = room else { return call.await };
        let frame = loop {
            tokio::select! {
                biased;
                ended = &mut call => return ended,
                frame = link.next() => break frame,
                _ = address_check.tick() => {
                    if inner.address(link.to).as_deref() != Some(address) {
                        return Ended::Moved;
                    }
                }
            }
        };
        inner.metrics.frames_sent.inc();
        inner.metrics.messages_sent.inc_by(messages(&frame) as u64);
        inner.metrics.frame_bytes_sent.inc_by(frame.encoded_len() as u64);
        room.send(frame);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_proto::flotilla as pb;

    fn frame(entry_bytes: usize) -> StoreFrame {
        let entry = pb::Entry { data: vec![0; entry_bytes].into(), ..Default::default() };
        let message = pb::Message { entries: vec![entry], ..Default::default() };
        let message = pb::RaftMessage { message: Some(message), ..Default::default() };
        StoreFrame { messages: vec![message], ..Default::default() }
    }

    #[test]
    fn a_full_queue_drops_the_newest_and_a_single_frame_always_fits() {
        let link = Link::new(StoreId(2), 1_200);
        assert!(link.push(frame(5_000)), "larger than the queue, but alone");
        assert!(!link.push(frame(10)));
        assert!(link.pop().is_ok());
        assert!(link.push(frame(300)));
        assert!(link.push(frame(300)));
        assert!(!link.push(frame(300)));
        assert_eq!(link.queue.lock().bytes, 2 * frame_bytes(&frame(300)));
        link.clear();
        assert_eq!(link.pop(), Err(None));
        assert_eq!(link.queue.lock().bytes, 0);
    }

    #[tokio::test]
    async fn heartbeats_wait_for_company_and_leave_with_what_is_urgent() {
        let link = Link::new(StoreId(2), 10_000);
        let heartbeats = || StoreFrame {
            heartbeats: Some(pb::Heartbeats { region_id: vec![1], ..Default::default() }),
            ..Default::default()
        };
        link.push(heartbeats());
        link.push(heartbeats());
        assert!(matches!(link.pop(), Err(Some(_))), "they may be joined by others");
        link.push(frame(10));
        let sent = link.next().await;
        assert_eq!(sent.messages, frame(10).messages);
        assert_eq!(sent.heartbeats.map(|h| h.region_id), Some(vec![1, 1]));
        link.push(heartbeats());
        assert_eq!(link.next().await, heartbeats(), "alone in the end");
    }

    #[test]
    fn frames_that_wait_leave_as_one_of_a_bounded_size() {
        let link = Link::new(StoreId(2), 10 * JOINED_BYTES_MAX);
        for bytes in [100, 200, 300, JOINED_BYTES_MAX, 400] {
            assert!(link.push(frame(bytes)));
        }
        let sizes = |frame: StoreFrame| -> Vec<usize> {
            let entries = frame.messages.into_iter().filter_map(|m| m.message).flat_map(|m| m.entries);
            entries.map(|entry| entry.data.len()).collect()
        };
        let sent: Vec<_> = std::iter::from_fn(|| link.pop().ok()).map(sizes).collect();
        assert_eq!(
            sent,
            [vec![100, 200, 300], vec![JOINED_BYTES_MAX], vec![400]],
            "in the order of their coming"
        );
        assert_eq!(link.queue.lock().bytes, 0);
    }

    #[tokio::test]
    async fn a_cancelled_wait_loses_no_frame() {
        let link = Link::new(StoreId(2), 1_000);
        let waiting = tokio::time::timeout(Duration::from_millis(1), link.next()).await;
        assert!(waiting.is_err());
        link.push(frame(10));
        assert_eq!(link.next().await, frame(10));
    }
}
