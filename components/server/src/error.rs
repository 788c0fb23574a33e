//! Why the process does not start or does not go on: one line for people each.

use std::io;

use crate::config::ConfigError;

/// Why a store does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another process listens there, or the address is not this machine's.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Address.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// The data directory cannot be used.
    #[error("data directory {path}: {why}")]
    Data {
        /// Directory.
        path: String,
        /// Why.
        why: String,
    },
    /// The data directory belongs to another cluster than the listed stores.
    #[error("data directory {path} belongs to cluster {own}, but {member} is of cluster {other}")]
    OtherCluster {
        /// Directory.
        path: String,
        /// Its cluster.
        own: flotilla_region::ClusterId,
        /// A listed store.
        member: String,
        /// The cluster of that store.
        other: u64,
    },
    /// The cluster does not want this store.
    #[error("{member} refuses this store: {why}")]
    Refused {
        /// Who said so.
        member: String,
        /// Why.
        why: String,
    },
    /// The system lacks something.
    #[error("{what}: {error}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        error: io::Error,
    },
}
