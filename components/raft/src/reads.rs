//! Reads that wait for the leader to prove that it still leads.
//!
//! Every read gets a sequence number of its own, which travels in the heartbeats; a peer that answers a heartbeat
//! confirms all reads up to the number it echoes. The application's request bytes are never used as an identity, so
//! that a repeated request, or a delayed answer to an earlier one, cannot confirm a later read.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{
    quorum::JointConfig,
    types::{Index, PeerId},
};

/// A read that may be served once the state machine has applied `index`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadState {
    /// Commit index when the request arrived at the leader.
    pub index: Index,
    /// The request, as given to [`crate::RawNode::read_index`].
    pub context: Bytes,
}

/// Who asked, and with which bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadRequest {
    /// Asking peer; 0 or the own id = the local application.
    pub from: PeerId,
    /// Opaque request.
    pub context: Bytes,
}

#[derive(Debug)]
struct PendingRead {
    sequence: u64,
    index: Index,
    request: ReadRequest,
}

/// Reads of a leader that are not answered yet.
#[derive(Debug, Default)]
pub(crate) struct ReadQueue {
    pending: VecDeque<PendingRead>,
    /// Highest sequence number that each peer echoed.
    echoed: Vec<(PeerId, u64)>,
    /// Reads that arrived before the leader committed an entry of its own term.
    postponed: Vec<ReadRequest>,
}

/// Reads, allocated only while there are any.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    queue: Option<Box<ReadQueue>>,
    /// Reads for the next Ready.
    pub states: Vec<ReadState>,
    /// Last sequence number given out; never reused by this node.
    sequence: u64,
}

impl Reads {
    /// Queues a read at commit index `index`. Returns what heartbeats must carry to confirm it.
    pub fn enqueue(&mut self, index: Index, request: ReadRequest) -> Bytes {
        self.sequence += 1;
        let sequence = self.sequence;
        self.queue.get_or_insert_default().pending.push_back(PendingRead { sequence, index, request });
        encode(sequence)
    }

    /// Keeps a read until the leader has committed in its term.
    pub fn postpone(&mut self, request: ReadRequest) {
        self.queue.get_or_insert_default().postponed.push(request);
    }

    /// Takes the postponed reads.
    pub fn take_postponed(&mut self) -> Vec<ReadRequest> {
        let postponed = self.queue.as_mut().map(|queue| std::mem::take(&mut queue.postponed));
        self.release_if_empty();
        postponed.unwrap_or_default()
    }

    /// What periodic heartbeats carry: confirming the last read confirms all. Empty if none waits.
    pub fn heartbeat_context(&self) -> Bytes {
        let last = self.queue.as_ref().and_then(|queue| queue.pending.back());
        last.map(|read| encode(read.sequence)).unwrap_or_default()
    }

    /// Records what `from` echoed. Echoes of numbers never given out are ignored.
    pub fn record_echo(&mut self, from: PeerId, context: &[u8]) {
        let Some(sequence) = decode(context).filter(|sequence| *sequence <= self.sequence) else { return };
        let Some(queue) = &mut self.queue else { return };
        match queue.echoed.iter_mut().find(|(peer, _)| *peer == from) {
            Some((_, known)) => *known = sequence.max(*known),
            None => queue.echoed.push((from, sequence)),
        }
    }

    /// The oldest read that a quorum confirmed, removed; `leader` confirms everything itself.
    pub fn pop_confirmed(&mut self, leader: PeerId, voters: &JointConfig) -> Option<(Index, ReadRequest)> {
        let queue = self.queue.as_mut()?;
        let sequence = queue.pending.front()?.sequence;
        let confirmed = voters.committed_index(|id| {
            let echoed =
                || queue.echoed.iter().find(|(peer, _)| *peer == id).map(|(_, sequence)| Index(*sequence));
            if id == leader { Some(Index(self.sequence)) } else { echoed() }
        });
        if confirmed.0 < sequence {
            return None;
        }
        let read = queue.pending.pop_front().expect("front was just looked at");
        self.release_if_empty();
        Some((read.index, read.request))
    }

    /// Forgets all unanswered reads: another leader may have committed since.
    pub fn reset(&mut self) {
        self.queue = None;
    }

    /// Last sequence number given out.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Goes on after that number.
    pub fn resume(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// Whether no read is unanswered.
    pub fn is_empty(&self) -> bool {
        self.queue.is_none()
    }

    fn release_if_empty(&mut self) {
        if self.queue.as_ref().is_some_and(|queue| queue.pending.is_empty() && queue.postponed.is_empty()) {
            self.queue = None;
        }
    }
}

fn encode(sequence: u64) -> Bytes {
    Bytes::copy_from_slice(&sequence.to_be_bytes())
}

fn decode(context: &[u8]) -> Option<u64> {
    context.try_into().ok().map(u64::from_be_bytes)
}
