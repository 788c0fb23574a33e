//! What a call reports when it does not succeed.

use crate::retry::FailureKind;

/// Result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call did not succeed. Everything that another attempt could cure was tried again until the budget ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write may or may not have taken place: read to find out, or write again.
    #[error("the outcome of the write is unknown ({last})")]
    Undetermined {
        /// Why the last attempt failed.
        last: FailureKind,
    },
    /// The budget ended. A write of a single key certainly did not take place; of a batch, any part may have.
    #[error("gave up after {elapsed_ms} ms: {last}")]
    Exhausted {
        /// Why the last attempt failed.
        last: FailureKind,
        /// Time since the call's start in ms.
        elapsed_ms: u64,
    },
    /// The store refused what was asked: the request has to change.
    #[error("refused: {message}")]
    Rejected {
        /// The store's own words.
        message: String,
    },
    /// The write is larger than a store accepts: write less at once.
    #[error("the write is too large for one entry ({bytes} bytes)")]
    EntryTooLarge {
        /// Its size as the store counted it.
        bytes: u64,
    },
    /// The service answered with a gRPC error that is none of the transport's.
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<tonic::Status>),
    /// Not `host:port`.
    #[error("{address:?} is not an address of the form host:port")]
    BadAddress {
        /// What was given.
        address: String,
    },
    /// No address was given.
    #[error("no placement address was given")]
    NoAddress,
}
