//! Routes keys to regions and their leaders: region cache, retry plan and the Rust client.
//!
//! Four parts, the first three pure:
//! - [`RegionCache`] knows which region holds a key and which peer to ask, learns from placement's answers and from
//!   the errors of stores ([`learn`]), and never lets older knowledge replace newer;
//! - [`RetryPlan`] decides after each failed attempt: try again and when, give up, or say that the outcome of a
//!   write is unknown;
//! - [`left_after`] says what is left of a range when a call that walks over regions has had one of them;
//! - [`Client`] is the asynchronous shell around them: connections, timeouts, batches split by region, scans that
//!   walk over regions. It speaks TiKV's placement and raw protocols and nothing else.
//!
//! **Architecture invariant:** only the files under `client/` (and `testing/`) read a clock or wait.

#[macro_use(planted)]
extern crate flotilla_planted;

mod client;
mod error;
mod learn;
pub mod planted;
mod region_cache;
mod retry;
mod rng;
#[cfg(feature = "testing")]
pub mod testing;
mod walk;
mod wire;

pub use client::{
    Checksum, Client, ClientOptions, CompareAndSwap, EndpointError, Endpoints, Failover, KeyTtl, Pair, Scan,
    Scanner,
};
pub use error::{Error, Result};
pub use learn::{Asked, Lesson, learn};
pub use region_cache::{Inserted, RegionCache, Route};
pub use retry::{CallClass, Decision, FailureKind, RetryPlan, RetryPolicy};
pub use walk::{bounded, left_after};
pub use wire::{peer_from_proto, peer_to_proto, region_from_proto};
