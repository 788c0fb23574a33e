//! Snapshots between stores: streamed, without a file on the sending side.
//!
//! The receiver reserves a slot and the key range before the sender generates anything (CockroachDB's and TiKV's
//! lesson); the sender then reads one engine snapshot, whose own apply state says what position it stands for; the
//! receiver writes what arrives into a file that a single ingestion later puts in place (rule W7).
//!
//! Both sides keep to a rate of bytes (`limit.rs`). The receiver's reaches the sender as a window of parts, which grows by
//! one for each part that the receiver has taken and paid for, so that it never holds more than a window.

mod limit;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use flotilla_raft::Message;
use flotilla_region::{Peer, PeerId, Region, RegionId};

use crate::mailbox::{Mailbox, Turn};
use crate::shared::Shared;
use crate::time::Time;
use crate::transport::{SnapshotEvent, Transport};

use receive::Receiver;
pub(crate) use receive::WINDOW_PARTS;
use send::Sender;

/// To the snapshot worker.
#[allow(clippy::large_enum_variant, reason = "few are under way at a time")]
pub(crate) enum SnapshotMsg {
    /// The core wants `to` to have a snapshot.
    Send { region: Arc<Region>, from: Peer, to: Peer, message: Message },
    /// Whoever leads `region` here does so no more, or `only` is no peer of it any more: nothing is sent for that.
    Stop { region: RegionId, only: Option<PeerId> },
    /// News of a stream.
    Event(SnapshotEvent),
}

/// The snapshot worker of a store.
pub(crate) struct SnapshotWorker {
    shared: Arc<Shared>,
    mailbox: Mailbox<SnapshotMsg>,
    sender: Sender,
    receiver: Receiver,
    next_look: Time,
}

impl SnapshotWorker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        transport: Arc<dyn Transport>,
        mailbox: Mailbox<SnapshotMsg>,
    ) -> Self {
        let sender = Sender::new(shared.clone(), transport);
        let receiver = Receiver::new(shared.clone());
        Self { shared, mailbox, sender, receiver, next_look: Time::default() }
    }

    fn handle(&mut self, message: SnapshotMsg, now: Time) {
        match message {
            SnapshotMsg::Send { region, from, to, message } => {
                self.sender.ask(region, from, to, message, now)
            }
            SnapshotMsg::Stop { region, only } => self.sender.stop(region, only, now),
            SnapshotMsg::Event(event) => match event {
                SnapshotEvent::Reply(stream, reply) => self.sender.on_reply(stream, &reply, now),
                SnapshotEvent::Sent(stream) => self.sender.on_sent(stream, now),
                SnapshotEvent::Broken(stream) => self.sender.on_broken(stream, now),
                SnapshotEvent::Opened(stream, header, reply) => {
                    self.receiver.on_opened(stream, header, reply, now)
                }
                SnapshotEvent::Chunk(stream, chunk) => self.receiver.on_chunk(stream, chunk, now),
                SnapshotEvent::Closed(stream) => self.receiver.on_closed(stream),
            },
        }
    }
}

impl Turn for SnapshotWorker {
    fn name(&self) -> String {
        "snapshot".into()
    }

    fn turn(&mut self, now: Time) -> bool {
        if self.shared.has_failed() {
            return false;
        }
        // One message a turn is at most one chunk read or written.
        for _ in 0..4 {
            let Some(message) = self.mailbox.pop() else { break };
            self.handle(message, now);
        }
        self.sender.resume(now);
        self.receiver.resume(now);
        if now >= self.next_look {
            self.next_look = now.plus_ms(1_000);
            self.sender.expire(now);
            self.receiver.expire(now);
        }
        !self.mailbox.is_empty()
    }

    fn has_messages(&self) -> bool {
        !self.mailbox.is_empty()
    }

    fn held(&self) -> usize {
        self.sender.held() + self.receiver.held()
    }

    fn deadline(&self) -> Time {
        let held = [self.sender.resumes_at(), self.receiver.resumes_at()];
        held.into_iter().flatten().fold(self.next_look, Time::min)
    }

    fn wait(&mut self, timeout: Duration) {
        self.mailbox.wait(timeout);
    }
}

/// Bytes of keys and values.
fn data_bytes(data: &crate::wire::pb::SnapshotData) -> usize {
    data.keys.iter().chain(&data.values).map(bytes::Bytes::len).sum()
}

/// CRC-32 of a chunk: keys and values in order, each preceded by its length as u32 little-endian.
fn chunk_crc(data: &crate::wire::pb::SnapshotData, total: &mut crc32fast::Hasher) -> u32 {
    let mut own = crc32fast::Hasher::new();
    for (key, value) in data.keys.iter().zip(&data.values) {
        for part in [key, value] {
            let len = (part.len() as u32).to_le_bytes();
            own.update(&len);
            own.update(part);
            total.update(&len);
            total.update(part);
        }
    }
    own.finalize()
}
