//! One store's regions: propose, persist, replicate, apply, split, membership, snapshots and log GC.
//!
//! A store is a set of single-owner state machines joined by mailboxes ([`Turn`]); [`Store::open`] makes them, the
//! embedder runs them. Disk, network and time are passed in ([`Seams`]), so that one thread can run whole clusters.
//! An embedder's own commands go through [`Store::write`] to its [`StateMachine`]; nothing here knows what they mean.
//!
//! A write, stop by stop: [`Store::write`] → `worker` → `peer/write` (one entry for many callers) → the core →
//! `log_writer` (one synced batch for all regions) and `outbox` (appends leave before the own sync) → followers the
//! same → commit → `apply` (one batch for all regions) → the caller.

#[macro_use(planted)]
extern crate flotilla_planted;

mod admin;
mod apply;
mod background;
mod codec;
mod config;
pub mod disk;
mod entry;
mod error;
mod founding;
mod history;
mod liveness;
mod load;
mod local_reader;
mod log_writer;
mod machine;
mod mailbox;
mod msg;
mod outbox;
mod peer;
pub mod placement;
pub mod planted;
pub mod positions;
mod quarantine;
mod recovery;
mod shared;
mod snapshot;
mod state;
mod store;
mod time;
mod transport;
pub mod wire;
mod worker;

pub use admin::check::{CheckDone, CheckReport, CheckedReplica, Digest};
pub use config::{FORMAT, FORMAT_READ_MIN, StoreConfig, WIRE_VERSION};
pub use error::{Damage, Quarantined, RequestError, StoreError};
pub use founding::{PRE_SPLIT_KEYS_MAX, PreSplit, PreSplitError};
pub use history::{EventKind, RegionEvent};
pub use load::RegionLoad;
pub use local_reader::LocalRead;
pub use machine::{ApplyContext, ApplyView, MachineError, StateMachine, apply_alone};
pub use mailbox::{Address, Mailbox, Turn};
pub use msg::{
    AdminCommand, AdminDone, Few, PeerChange, PeerStatus, ReadDone, ReadGrant, RegionContext, WriteDone,
};
pub use shared::{Counters, FatalHook};
pub use state::{
    LogId, RegionState, StoreIdent, decode_entry, decode_hard_state, encode_entry, encode_hard_state,
};
pub use store::{Held, Seams, Store, Workers};
pub use time::{Clock, Time};
pub use transport::{ReplyTo, SnapshotEvent, StreamId, Transport};
