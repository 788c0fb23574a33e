//! Why a request was not carried out, in each reply's own form.

use flotilla_kv::Error;
use flotilla_proto::{errorpb, kvrpcpb};
use flotilla_raftstore::RequestError;
use tonic::Status;

/// Why a request was not carried out.
#[derive(Debug)]
pub enum Failure {
    /// The region refused: the client should look where it is now.
    Region(RequestError),
    /// The request makes no sense, or the disk failed: trying again does not help.
    Text(String),
    /// What is stored is not what was written. Never leaves the process: the region goes out of service here.
    Damaged(String),
    /// The request is not for this process at all.
    Status(Status),
}

impl Failure {
    /// A request that makes no sense.
    pub fn text(why: impl Into<String>) -> Self {
        Self::Text(why.into())
    }
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::Region(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if error.is_damage() { Self::Damaged(error.to_string()) } else { Self::Text(error.to_string()) }
    }
}

/// A reply that can say why there is none.
pub trait Refusable: Default {
    /// The region refused.
    fn refused(error: errorpb::Error) -> Self;
    /// The request makes no sense.
    fn failed(text: String) -> Self;
}

macro_rules! with_error_text {
    ($($reply:ident)*) => {$(
        impl Refusable for kvrpcpb::$reply {
            fn refused(error: errorpb::Error) -> Self {
                Self { region_error: Some(error), ..Self::default() }
            }

            fn failed(text: String) -> Self {
                Self { error: text, ..Self::default() }
            }
        }
    )*};
}

/// Replies without a text of their own carry it in a pair, as TiKV's do.
macro_rules! with_error_pair {
    ($($reply:ident.$pairs:ident)*) => {$(
        impl Refusable for kvrpcpb::$reply {
            fn refused(error: errorpb::Error) -> Self {
                Self { region_error: Some(error), ..Self::default() }
            }

            fn failed(text: String) -> Self {
                let error = kvrpcpb::KeyError { abort: text, ..Default::default() };
                let pair = kvrpcpb::KvPair { error: Some(error), ..Default::default() };
                Self { $pairs: vec![pair], ..Self::default() }
            }
        }
    )*};
}

with_error_text! {
    RawGetResponse RawPutResponse RawBatchPutResponse RawDeleteResponse RawBatchDeleteResponse
    RawDeleteRangeResponse RawGetKeyTtlResponse RawCasResponse RawChecksumResponse RawCoprocessorResponse
}

with_error_pair! { RawBatchGetResponse.pairs RawScanResponse.kvs RawBatchScanResponse.kvs }
