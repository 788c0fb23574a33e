//! Raft consensus core: a pure state machine, messages and ticks in, Ready out.

mod changer;
mod conf_change;
mod config;
mod entry;
mod error;
mod log;
mod mem_storage;
mod message;
mod peer_set;
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
pub use message::{Message, MessageKind};
pub use peer_set::PeerSet;
pub use raw_node::RawNode;
pub use reads::ReadState;
pub use ready::Ready;
pub use status::Status;
pub use storage::{FetchContext, Storage, StorageError, StorageResult};
pub use tracker::{Configuration, Inflights, Progress, ProgressMap, ProgressState, Tracker};
pub use types::{
    ConfState, Entry, EntryKind, HardState, Index, PeerId, Role, Snapshot, SnapshotMeta, SoftState, Term,
};
