//! `flotilla-raft`.

use bytes::Bytes;
use flotilla_raft::{Config, Index, MemStorage, Message, PeerId, RawNode, Role};

use crate::core::{APPEND_BYTES_MAX, Core, INFLIGHT_MESSAGES_MAX, Options, PEERS};

/// This project's core.
pub struct Flotilla;

impl Core for Flotilla {
    type Node = RawNode<MemStorage>;
    type Message = Message;

    fn node(id: u64, options: Options) -> Self::Node {
        let config = Config {
            election_ticks: 10 * options.heartbeat_ticks,
            heartbeat_ticks: options.heartbeat_ticks,
            append_bytes_max: APPEND_BYTES_MAX,
            inflight_messages_max: INFLIGHT_MESSAGES_MAX,
            batch_append: options.is_batched,
            skip_commit_broadcast: options.is_batched,
            ..Config::new(PeerId(id))
        };
        let storage = MemStorage::with_voters((1..=PEERS as u64).map(PeerId));
        RawNode::new(&config, storage).expect("the configuration is valid")
    }

    fn campaign(node: &mut Self::Node) {
        node.campaign().expect("never refused");
    }

    fn is_leader(node: &Self::Node) -> bool {
        node.role() == Role::Leader
    }

    fn propose(node: &mut Self::Node, data: &[u8]) {
        node.propose(Bytes::copy_from_slice(data)).expect("the leader takes proposals");
    }

    fn tick(node: &mut Self::Node) {
        node.tick();
    }

    fn work(node: &mut Self::Node, out: &mut Vec<Message>) -> u64 {
        let mut applied = 0;
        while node.has_ready() {
            let mut ready = node.ready();
            let storage = node.storage_mut();
            if !ready.entries.is_empty() {
                storage.append(&mut ready.entries);
            }
            if let Some(hard_state) = ready.hard_state {
                storage.set_hard_state(hard_state);
            }
            out.append(&mut ready.messages);
            applied += ready.committed_entries.len() as u64;
            node.advance();
            node.recycle(ready);
        }
        applied
    }

    fn step(node: &mut Self::Node, message: Message) {
        node.step(message).expect("peers of a connected group are understood");
    }

    fn receiver(message: &Message) -> u64 {
        message.to.0
    }

    fn compact(node: &mut Self::Node) {
        let upto = Index(node.applied().0.saturating_sub(5));
        // Nothing new to drop is fine.
        let _ = node.storage_mut().compact(upto);
    }

    fn inline_bytes() -> usize {
        size_of::<Self::Node>() - size_of::<MemStorage>()
    }

    fn drop_without_storage(mut node: Self::Node) {
        std::mem::forget(std::mem::take(node.storage_mut()));
    }
}
