//! Raw key-value commands: encoding, apply with TTL and compare-and-swap, reads. The first user of raftstore's apply
//! seam.
//!
//! In reading order:
//! - [`Command`]: what a client asks to be written, and its form in the log;
//! - [`Value`]: a stored value with its expiry;
//! - [`KvMachine`]: applies commands, at the time that their entry carries;
//! - [`Reply`]: what a command did, on its way back to the caller;
//! - [`View`]: reads of one region, by the clock of the reader.
//!
//! **Time.** A TTL becomes an expiry when its command is applied, counted from the entry's time, so every replica
//! stores the same bytes. A compare-and-swap takes a value that has expired by its own entry's time for absent. A read
//! hides what has expired by the reader's clock. Expired values stay on disk until a logged command overwrites them.
//!
//! Missing: removal of expired values that nobody overwrites; column families.

mod codec;
mod command;
mod error;
mod machine;
mod reply;
mod value;
mod view;

pub use command::{Command, Put};
pub use error::Error;
pub use machine::KvMachine;
pub use reply::Reply;
pub use value::Value;
pub use view::{Checksum, Pair, SCAN_BYTES_MAX, Scan, Ttl, View, get_latest};

#[cfg(test)]
mod model_tests;
