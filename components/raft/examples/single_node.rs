//! A group of one peer: the whole loop, with a disk that is a value in memory and a restart from it.
//!
//! `cargo run -p flotilla-raft --example single_node`

use bytes::Bytes;
use flotilla_raft::{Config, Entry, EntryKind, Index, MemStorage, PeerId, RawNode, Role};

const ME: PeerId = PeerId(1);

/// The state machine: a list of words.
#[derive(Default)]
struct Words {
    applied: Index,
    words: Vec<Bytes>,
}

impl Words {
    fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.applied = entry.index;
            // Nobody changes the membership here. A new leader appends an entry without data.
            if entry.kind == EntryKind::Normal && !entry.data.is_empty() {
                self.words.push(entry.data);
            }
        }
    }
}

/// Does everything that the node wants done.
fn work(node: &mut RawNode<MemStorage>, state: &mut Words) {
    while node.has_ready() {
        let mut ready = node.ready();
        assert!(ready.snapshot.is_none() && ready.read_states.is_empty(), "nobody compacts or reads here");
        // 1. Store. A real disk syncs here if `ready.must_sync`.
        let storage = node.storage_mut();
        storage.append(&mut ready.entries);
        if let Some(hard_state) = ready.hard_state {
            storage.set_hard_state(hard_state);
        }
        // 2. Send: there is nobody to send to.
        assert!(ready.messages.is_empty());
        // 3. Apply.
        state.apply(ready.committed_entries);
        // 4. Acknowledge.
        node.advance();
    }
}

/// Runs the example.
pub fn main() {
    let mut node =
        RawNode::new(&Config::new(ME), MemStorage::with_voters([ME])).expect("a valid configuration");
    let mut state = Words::default();
    // Without a leader, the election timeout starts an election.
    while node.role() != Role::Leader {
        node.tick();
        work(&mut node, &mut state);
    }
    println!("leader in term {}", node.term());
    for word in ["one", "two", "three"] {
        node.propose(Bytes::from_static(word.as_bytes())).expect("a leader takes proposals");
    }
    work(&mut node, &mut state);
    println!("applied up to {}: {:?}", state.applied, state.words);
    assert_eq!(state.words, ["one", "two", "three"]);

    // The process dies; the disk stays.
    let disk = node.storage().clone();
    let mut node = RawNode::new(&Config::new(ME), disk).expect("a valid configuration");
    let mut state = Words::default();
    work(&mut node, &mut state);
    println!("after the restart, in term {}: {:?}", node.term(), state.words);
    assert_eq!(state.words, ["one", "two", "three"]);
}
