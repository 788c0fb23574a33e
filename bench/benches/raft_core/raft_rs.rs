//! The crate `raft`, of TiKV.

use raft::eraftpb::Message;
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};
use slog::{Discard, Logger, o};

use crate::core::{APPEND_BYTES_MAX, Core, INFLIGHT_MESSAGES_MAX, Options, PEERS};

/// tikv/raft-rs, with its codec of the crate `protobuf` and a logger that drops everything.
pub struct RaftRs;

impl Core for RaftRs {
    type Node = RawNode<MemStorage>;
    type Message = Message;

    fn node(id: u64, options: Options) -> Self::Node {
        let config = Config {
            id,
            election_tick: 10 * options.heartbeat_ticks,
            heartbeat_tick: options.heartbeat_ticks,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
            batch_append: options.is_batched,
            skip_bcast_commit: options.is_batched,
            ..Config::default()
        };
        let voters: Vec<u64> = (1..=PEERS as u64).collect();
        let storage = MemStorage::new_with_conf_state((voters, Vec::new()));
        let logger = Logger::root(Discard, o!());
        RawNode::new(&config, storage, &logger).expect("the configuration is valid")
    }

    fn campaign(node: &mut Self::Node) {
        node.campaign().expect("never refused");
    }

    fn is_leader(node: &Self::Node) -> bool {
        node.raft.state == StateRole::Leader
    }

    fn propose(node: &mut Self::Node, data: &[u8]) {
        node.propose(Vec::new(), data.to_vec()).expect("the leader takes proposals");
    }

    fn tick(node: &mut Self::Node) {
        node.tick();
    }

    fn work(node: &mut Self::Node, out: &mut Vec<Message>) -> u64 {
        let mut applied = 0;
        while node.has_ready() {
            let mut ready = node.ready();
            out.extend(ready.take_messages());
            let storage = node.store();
            if !ready.entries().is_empty() {
                storage.wl().append(ready.entries()).expect("entries follow the log");
            }
            if let Some(hard_state) = ready.hs() {
                storage.wl().set_hardstate(hard_state.clone());
            }
            out.extend(ready.take_persisted_messages());
            applied += ready.take_committed_entries().len() as u64;
            let mut light = node.advance(ready);
            if let Some(commit) = light.commit_index() {
                node.store().wl().mut_hard_state().set_commit(commit);
            }
            out.extend(light.take_messages());
            applied += light.take_committed_entries().len() as u64;
            node.advance_apply();
        }
        applied
    }

    fn step(node: &mut Self::Node, message: Message) {
        node.step(message).expect("peers of a connected group are understood");
    }

    fn receiver(message: &Message) -> u64 {
        message.to
    }

    fn compact(node: &mut Self::Node) {
        let upto = node.raft.raft_log.applied.saturating_sub(5);
        if upto > 0 {
            node.store().wl().compact(upto).expect("applied entries are in the log");
        }
    }

    fn inline_bytes() -> usize {
        size_of::<Self::Node>() - size_of::<MemStorage>()
    }

    fn drop_without_storage(node: Self::Node) {
        std::mem::forget(node.store().clone());
    }
}
