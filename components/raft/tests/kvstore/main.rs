//! The example `kvstore`: its processes on loopback, killed, restarted, added and removed; and its disk format, in
//! this process.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "a test of processes is wiring: deadlines, threads, the example's random numbers; and helpers are tests"
)]

#[path = "../../examples/kvstore/codec.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod codec;
#[path = "../../examples/kvstore/machine.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod machine;
#[path = "../../examples/kvstore/storage.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod storage;
#[path = "../../examples/kvstore/wal.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod wal;

mod bad_starts;
mod bytes;
mod cluster;
mod disk;
mod kills;
mod membership;
mod process;
