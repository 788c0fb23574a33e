//! Raft consensus core: a pure state machine, messages and ticks in, Ready out.

mod message;
mod storage;
mod types;

pub use message::{Message, MessageKind};
pub use storage::{FetchContext, Storage, StorageError, StorageResult};
pub use types::{
    ConfState, Entry, EntryKind, HardState, Index, PeerId, Role, Snapshot, SnapshotMeta, SoftState, Term,
};
