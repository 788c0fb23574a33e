//! What both cores are driven by, so that they do the same work.

use std::time::Duration;

/// Options that are set alike on both sides.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Appends gathered until the next Ready, no broadcast of commits (`batch_append`, `skip_bcast_commit`).
    pub is_batched: bool,
    /// Ticks between heartbeats; an election timeout is ten times that.
    pub heartbeat_ticks: usize,
}

/// Peers of a group.
pub const PEERS: usize = 3;

/// Greatest bytes of one append, on both sides: raft-rs's own default is one entry for each message.
pub const APPEND_BYTES_MAX: u64 = 1024 * 1024;

/// Greatest number of unacknowledged appends, on both sides.
pub const INFLIGHT_MESSAGES_MAX: usize = 256;

/// One implementation of Raft, with its own storage in memory.
pub trait Core {
    /// One peer.
    type Node;
    /// What peers send.
    type Message;

    /// Peer `id` of 1 to [`PEERS`], with an empty log.
    fn node(id: u64, options: Options) -> Self::Node;
    /// Starts an election.
    fn campaign(node: &mut Self::Node);
    /// Whether the peer leads.
    fn is_leader(node: &Self::Node) -> bool;
    /// Proposes a copy of `data`.
    fn propose(node: &mut Self::Node, data: &[u8]);
    /// One tick.
    fn tick(node: &mut Self::Node);
    /// Does the work of all Readys that there are: stores, sends to `out`, acknowledges. Returns the number of
    /// entries applied.
    fn work(node: &mut Self::Node, out: &mut Vec<Self::Message>) -> u64;
    /// Delivers a message.
    fn step(node: &mut Self::Node, message: Self::Message);
    /// Id of the receiver.
    fn receiver(message: &Self::Message) -> u64;
    /// Drops all applied entries from storage but the last few.
    fn compact(node: &mut Self::Node);
    /// Bytes of the node itself, its storage's aside.
    fn inline_bytes() -> usize;
    /// Drops the node, but not what its storage holds.
    fn drop_without_storage(node: Self::Node);
}

/// One group of three peers, wired by function calls.
pub struct Group<C: Core> {
    /// Its peers; the first one leads.
    pub nodes: [C::Node; PEERS],
    /// Entries applied by all peers.
    pub applied: u64,
}

/// Messages under way, reused so that the wiring allocates nothing.
pub struct Wire<C: Core> {
    sent: Vec<C::Message>,
    arriving: Vec<C::Message>,
}

impl<C: Core> Default for Wire<C> {
    fn default() -> Self {
        Self { sent: Vec::new(), arriving: Vec::new() }
    }
}

impl<C: Core> Group<C> {
    /// A group whose first peer leads.
    pub fn new(options: Options, wire: &mut Wire<C>) -> Self {
        let nodes = [1, 2, 3].map(|id| C::node(id, options));
        let mut group = Self { nodes, applied: 0 };
        C::campaign(&mut group.nodes[0]);
        group.settle(wire);
        assert!(C::is_leader(&group.nodes[0]), "the only candidate of a connected group wins");
        group
    }

    /// Works and delivers until nothing is left to do.
    pub fn settle(&mut self, wire: &mut Wire<C>) {
        loop {
            for node in &mut self.nodes {
                self.applied += C::work(node, &mut wire.sent);
            }
            if wire.sent.is_empty() {
                return;
            }
            std::mem::swap(&mut wire.sent, &mut wire.arriving);
            for message in wire.arriving.drain(..) {
                let at = C::receiver(&message) as usize - 1;
                C::step(&mut self.nodes[at], message);
            }
        }
    }

    /// One tick of every peer, and what follows from it.
    pub fn tick(&mut self, wire: &mut Wire<C>) {
        for node in &mut self.nodes {
            C::tick(node);
        }
        self.settle(wire);
    }
}

/// CPU time of this thread: what other processes take does not count.
pub fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
