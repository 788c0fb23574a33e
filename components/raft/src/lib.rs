//! Raft consensus core: a pure state machine, messages and ticks in, [`Ready`] out.
//!
//! The crate does no I/O, starts no thread, reads no clock and draws no randomness but from [`Config::seed`]. It
//! decides; its owner stores, sends and applies. Its message behaviour is that of etcd-io/raft, held against that
//! project's published test data; what tikv/raft-rs adds (priorities, commit groups, batching, requested snapshots,
//! deferred log reads), and what this crate does (such as a [`Meter`] over many groups), is off by default.
//!
//! # The loop
//!
//! One owner drives one [`RawNode`] per peer:
//!
//! 1. **Feed it**: [`RawNode::tick`] at a fixed rate, [`RawNode::step`] for every message from a peer,
//!    [`RawNode::propose`] and [`RawNode::read_index`] for the application.
//! 2. **Ask** [`RawNode::has_ready`], and take [`RawNode::ready`].
//! 3. **Store** the Ready's snapshot, entries and hard state, as one ordered write, and sync it if
//!    [`Ready::must_sync`] or if there is a snapshot.
//! 4. **Send** its messages, only now: they promise what step 3 made durable. (A leader's appends and heartbeats promise
//!    nothing about its own disk and may leave before.)
//! 5. **Apply**: install its snapshot, then apply its committed entries. Look at an entry's `kind` before its data:
//!    conf changes, even empty ones, go to [`RawNode::apply_conf_change`]. Serve each of its reads once the read's index
//!    is applied.
//! 6. **Acknowledge** with [`RawNode::advance`]. [`RawNode::recycle`] then gives the Ready's buffers back, if you like.
//!
//! ```
//! use bytes::Bytes;
//! use flotilla_raft::{Config, EntryKind, MemStorage, PeerId, RawNode};
//!
//! let me = PeerId(1);
//! let mut node = RawNode::new(&Config::new(me), MemStorage::with_voters([me]))?;
//! let mut applied = Vec::new();
//! node.campaign()?;
//! for step in 0..3 {
//!     while node.has_ready() {
//!         let mut ready = node.ready();
//!         let storage = node.storage_mut();
//!         storage.append(&mut ready.entries);
//!         if let Some(hard_state) = ready.hard_state {
//!             storage.set_hard_state(hard_state);
//!         }
//!         // A real owner syncs here if `ready.must_sync`, then sends `ready.messages`.
//!         assert!(ready.snapshot.is_none() && ready.read_states.is_empty(), "nobody compacts or reads here");
//!         for entry in ready.committed_entries.drain(..) {
//!             assert_eq!(entry.kind, EntryKind::Normal, "nobody changes the membership here");
//!             applied.push(entry.data);
//!         }
//!         node.advance();
//!         node.recycle(ready);
//!     }
//!     if step == 0 {
//!         node.propose(Bytes::from_static(b"hello"))?;
//!     }
//! }
//! // A new leader's own entry is empty.
//! assert_eq!(applied, [Bytes::new(), Bytes::from_static(b"hello")]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/single_node.rs` and `examples/three_nodes.rs` are larger versions of this. `examples/kvstore` is a whole
//! program: a replicated key-value server of three processes, with a log file that survives kills, snapshots and
//! compaction, linearizable reads, members that join and leave, TCP between peers and HTTP for clients. Start reading
//! at its `main.rs`.
//!
//! # The loop with storage threads
//!
//! With [`Config::async_storage_writes`] nothing waits for the disk: steps 3, 5 and 6 become messages in
//! [`Ready::messages`], to be delivered like any other:
//!
//! - [`MessageKind::StorageAppend`] to [`PeerId::APPEND_THREAD`]: store `snapshot`, `entries`, and the hard state
//!   (`term`, `vote`, `commit`; all zero = unchanged). Once that is durable, deliver its `responses`: to peers, and
//!   to this node by [`RawNode::step`].
//! - [`MessageKind::StorageApply`] to [`PeerId::APPLY_THREAD`]: apply `entries`, then deliver its `responses`. What they
//!   hold of conf changes must have gone to [`RawNode::apply_conf_change`] by then.
//!
//! The response of a snapshot's append says that the snapshot is applied, too: install it before that response is
//! delivered, and skip what is queued for the apply thread from before it. [`Ready::read_states`] and
//! [`Ready::soft_state`] come with the Ready as ever.
//!
//! Each thread works in order. Several appends may be under way; they may be written and synced together, the
//! responses leaving after the sync that covers them. [`RawNode::advance`] is not used. The [`Storage`] must serve
//! what was acknowledged, and may serve what is still being written.
//!
//! ```
//! use flotilla_raft::{Config, MemStorage, MessageKind, PeerId, RawNode, Role};
//!
//! let me = PeerId(1);
//! let config = Config { async_storage_writes: true, own_vote_first: true, ..Config::new(me) };
//! let mut node = RawNode::new(&config, MemStorage::with_voters([me]))?;
//! node.campaign()?;
//! while node.has_ready() {
//!     for mut message in node.ready().messages {
//!         let storage = node.storage_mut();
//!         if message.kind == MessageKind::StorageAppend {
//!             if let Some(hard_state) = message.hard_state() {
//!                 storage.set_hard_state(hard_state);
//!             }
//!             storage.append(&mut message.entries);
//!         }
//!         for response in message.take_responses() {
//!             node.step(response)?;
//!         }
//!     }
//! }
//! assert_eq!((node.role(), node.applied().0), (Role::Leader, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What the owner must keep to
//!
//! - Hard states and entries go to **one ordered log**: what is synced later must not survive a crash that an earlier
//!   write does not. A commit index may be lost, but not one that covers an applied conf change or state that is durable
//!   without the log: store it before those.
//! - A restart goes on from [`Config::applied`]: [`Storage::initial_state`] must return the membership as of that index
//!   (that of its snapshot, for [`MemStorage`]), the stored commit index must reach it, and a stored snapshot that is
//!   newer is installed first.
//! - A vote, a term or an entry that was answered for must survive every crash. A peer that lost its disk is a new
//!   peer with a new id.
//! - Call [`RawNode::apply_conf_change`] for every conf change, in order, and store the returned [`ConfState`] with
//!   the applied index.
//! - Keep the log from the last snapshot's index on. A snapshot offered to a new peer must be recent enough to name
//!   it as a member.
//! - Call [`RawNode::report_snapshot`] for every snapshot sent; replication to the peer waits for it or for an
//!   answer.
//! - Deliver only messages that are addressed to this peer, of the kinds in [`MessageKind::BETWEEN_PEERS`].
//! - Errors of [`RawNode::step`] are about one message; none breaks the node. But
//!   [`StepError::CommitBeyondLog`] from a trusted peer says that this disk lost data: replace this peer by one with a new
//!   id. No message can make the node panic; calling its methods out of order can.
//! - With async storage writes, turn [`Config::own_vote_first`] on, unless messages to peers wait for the storage too.
//! - Where leaders may be removed or demoted, turn [`Config::commit_fast_forward`] on: otherwise the only peer that
//!   may lead can be the one that does not know yet that the change is committed.
//!
//! # Where to read on
//!
//! `raft/step.rs` is the way in; next to it lies one file per concern. `log.rs` joins stable and unstable entries,
//! `tracker.rs` is what a leader knows about its peers, `quorum.rs` and `changer.rs` are the rules of majorities and
//! membership, each checked against a naive model.

#[macro_use(planted)]
extern crate flotilla_planted;

mod changer;
mod conf_change;
mod config;
mod entry;
mod error;
mod log;
mod mem_storage;
mod message;
mod outbox;
mod peer_set;
pub mod planted;
pub mod quorum;
mod raft;
mod raw_node;
mod reads;
mod ready;
mod status;
mod storage;
mod tracker;
mod types;

pub use changer::Changer;
pub use conf_change::{
    ConfChange, ConfChangeKind, ConfChangeProposal, ConfChangeSingle, ConfChangeTransition, ConfChangeV2,
};
pub use config::{Config, ReadOnlyOption};
pub use entry::entry_size;
pub use error::{ConfChangeError, ConfigError, DecodeError, StepError};
pub use mem_storage::MemStorage;
pub use message::{Extra, Message, MessageKind};
pub use peer_set::PeerSet;
pub use raw_node::{Packed, RawNode};
pub use reads::ReadState;
pub use ready::{Applying, Ready, Storing, Work};
pub use status::Status;
pub use storage::{FetchContext, Storage, StorageError, StorageResult};
pub use tracker::{Configuration, Inflights, Meter, Progress, ProgressMap, ProgressState, Tracker};
pub use types::{
    ConfState, Entry, EntryKind, HardState, Index, PeerId, Role, Snapshot, SnapshotMeta, SoftState, Term,
};
