//! The flotilla binary: tonic services, store-to-store transport, configuration and wiring.
//!
//! In reading order: [`server`] (one process from its flags to its exit), [`config`], [`bootstrap`] (what an empty
//! disk becomes), [`node`] (what all services share), [`kv_service`] and [`pd_service`] (what clients ask),
//! [`cluster_service`] and [`store_service`] (what other stores and operators ask), [`transport`] (what goes to other
//! stores), [`threads`] (where turns become threads; `watchdog` ends the process when one hangs), [`memory`], [`status`] and [`metrics`]; [`cli`] is the client side, [`demo`]
//! shows all of it.

pub mod bootstrap;
pub mod cli;
pub mod cluster_service;
pub mod config;
pub mod demo;
mod error;
pub mod kv_service;
pub mod memory;
pub mod metrics;
pub mod node;
mod operations;
pub mod pd_service;
mod region_error;
pub mod server;
pub mod status;
pub mod store_service;
pub mod threads;
pub mod transport;
pub mod watchdog;

pub use error::StartError;
