//! The deterministic simulator: whole clusters of real stores in one thread.
//!
//! A [`world::World`] is a heap of events over [`host::Host`]s (a [`flotilla_engine::MemEngine`], a clock, and a real
//! [`flotilla_raftstore::Store`] while the process lives), a [`network`] that carries encoded frames, [`clients`] with
//! their history, an [`operator`] and a [`nemesis`] that makes faults. One seed draws everything:
//! sizes, delays, faults ([`profile`]), who has the next turn, what a crash leaves. The same seed gives the same run.
//!
//! A run has three parts: faults while clients work; then everything is mended, and the cluster must come to rest
//! within a bound; then every key is read and the checkers of [`crate::check`] judge the whole.
//!
//! What finds which known trap is in `tests/TRAPS.md`; bugs made on purpose, each of which must be found, are in
//! `planted` (feature of that name), and seeds that found something once are in [`regressions`].
//!
//! Where clocks lie beyond the bound that leases are built for, leases need not exclude each other, by design: such runs
//! read through ReadIndex alone, and what that promises must hold all the same.

pub mod ambush;
pub mod clients;
pub mod clock;
mod describe;
mod disks;
pub mod effects;
pub mod extras;
pub mod host;
pub mod kv;
mod mishaps;
pub mod nemesis;
pub mod network;
pub mod operator;
#[cfg(feature = "planted")]
pub mod planted;
pub mod profile;
mod questions;
pub mod regressions;
pub mod routes;
pub mod run;
mod serving;
pub mod stats;
pub mod trace;
pub mod watch;
pub mod wishes;
pub mod world;
