//! Checkers, one property a file. Each says what it holds and where the property comes from; each returns a sentence
//! on what is wrong, with enough in it to find the place in a trace.

pub mod agreement;
pub mod durability;
pub mod elections;
pub mod expiry;
pub mod gaps;
pub mod graves;
pub mod history;
pub mod identities;
pub mod knowledge;
pub mod leaks;
pub mod leases;
pub mod linear;
pub mod log_matching;
pub mod needless;
pub mod positions;
pub mod promises;
pub mod replicas;
pub mod routes;
pub mod scan;
pub mod tiling;
