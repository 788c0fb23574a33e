//! Three peers in one process, joined by a queue of messages: an election, replication, a crashed leader, a read.
//!
//! `cargo run -p flotilla-raft --example three_nodes`

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use flotilla_raft::{Config, EntryKind, Index, MemStorage, Message, PeerId, RawNode, ReadState, Role};

/// A peer and what it has applied and read.
struct Peer {
    node: RawNode<MemStorage>,
    words: Vec<Bytes>,
    applied: Index,
    /// Reads whose index is not applied yet.
    waiting: Vec<ReadState>,
    reads: Vec<Bytes>,
}

/// All peers that are up, and the network.
struct Cluster {
    peers: BTreeMap<PeerId, Peer>,
    network: VecDeque<Message>,
}

impl Cluster {
    fn new() -> Self {
        let ids = [PeerId(1), PeerId(2), PeerId(3)];
        let peer = |id| {
            let config = Config { pre_vote: true, check_quorum: true, ..Config::new(id) };
            let node = RawNode::new(&config, MemStorage::with_voters(ids)).expect("a valid configuration");
            (
                id,
                Peer {
                    node,
                    words: Vec::new(),
                    applied: Index::ZERO,
                    waiting: Vec::new(),
                    reads: Vec::new(),
                },
            )
        };
        Self { peers: ids.into_iter().map(peer).collect(), network: VecDeque::new() }
    }

    /// One tick of everybody's clock, and all work and messages that follow from it.
    fn tick(&mut self) {
        for peer in self.peers.values_mut() {
            peer.node.tick();
        }
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            for peer in self.peers.values_mut() {
                self.network.extend(peer.work());
            }
            let Some(message) = self.network.pop_front() else { return };
            // A message to a dead peer is lost. One that a peer refuses concerns nobody else.
            if let Some(peer) = self.peers.get_mut(&message.to) {
                let _ = peer.node.step(message);
            }
        }
    }

    fn wait_for_leader(&mut self) -> PeerId {
        loop {
            let leads = |(id, peer): (&PeerId, &Peer)| (peer.node.role() == Role::Leader).then_some(*id);
            if let Some(leader) = self.peers.iter().find_map(leads) {
                return leader;
            }
            self.tick();
        }
    }

    fn peer(&mut self, id: PeerId) -> &mut Peer {
        self.peers.get_mut(&id).expect("a peer that is up")
    }
}

impl Peer {
    /// Stores, applies, acknowledges. Returns what is to be sent.
    fn work(&mut self) -> Vec<Message> {
        let mut sent = Vec::new();
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            let storage = self.node.storage_mut();
            storage.append(&mut ready.entries);
            if let Some(hard_state) = ready.hard_state {
                storage.set_hard_state(hard_state);
            }
            sent.extend(ready.messages);
            assert!(ready.snapshot.is_none(), "nobody compacts here");
            self.applied = ready.committed_entries.last().map_or(self.applied, |last| last.index);
            let normal = ready.committed_entries.into_iter().filter(|entry| entry.kind == EntryKind::Normal);
            let data = normal.map(|entry| entry.data);
            self.words.extend(data.filter(|data| !data.is_empty()));
            self.waiting.append(&mut ready.read_states);
            // Reads are served from a state that includes their index.
            let applied = self.applied;
            let served = self.waiting.extract_if(.., |read| read.index <= applied);
            self.reads.extend(served.map(|read| read.context));
            self.node.advance();
        }
        sent
    }
}

/// Runs the example.
pub fn main() {
    let mut cluster = Cluster::new();
    let leader = cluster.wait_for_leader();
    println!("{leader} leads term {}", cluster.peer(leader).node.term());
    // Any peer takes proposals: followers pass them on.
    for (id, word) in [(1, "one"), (2, "two"), (3, "three")] {
        let proposed = cluster.peer(PeerId(id)).node.propose(Bytes::from_static(word.as_bytes()));
        proposed.expect("there is a leader");
        cluster.settle();
    }
    println!("the leader crashes");
    cluster.peers.remove(&leader);
    let next = cluster.wait_for_leader();
    println!("{next} leads term {}", cluster.peer(next).node.term());
    cluster.peer(next).node.propose(Bytes::from_static(b"four")).expect("a leader takes proposals");
    cluster.settle();

    // A linearizable read at the follower that is left.
    let follower = *cluster.peers.keys().find(|id| **id != next).expect("two peers are up");
    cluster.peer(follower).node.read_index(Bytes::from_static(b"read 1"));
    cluster.settle();
    cluster.tick();
    let peer = cluster.peer(follower);
    println!("{follower} reads {:?} for {:?}", peer.words, peer.reads);
    assert_eq!(peer.reads, ["read 1"]);
    assert_eq!(peer.words, ["one", "two", "three", "four"]);
}
