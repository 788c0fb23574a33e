//! Whole clusters under test: the deterministic simulator and its checkers.
//!
//! [`sim`] runs real stores on the model engine in one thread, with network, clock and faults drawn from one seed;
//! [`check`] holds one checker per property. `cargo run -p flotilla-tests --bin sim -- --seed N` replays a seed.

pub mod check;
pub mod sim;
