//! Wire types of Flotilla and, behind the feature `services`, its tonic services.
//!
//! The .proto files under `proto/` are the reference; this crate only includes what they generate.
#![allow(missing_docs, clippy::all, clippy::too_many_lines)]

/// Facts about stores and regions (TiKV-compatible numbers).
pub mod metapb {
    include!(concat!(env!("OUT_DIR"), "/metapb.rs"));
}

/// Store to store, and the cluster's own administration.
pub mod flotilla {
    include!(concat!(env!("OUT_DIR"), "/flotilla.rs"));
}

/// Why a store refuses a request (TiKV-compatible).
pub mod errorpb {
    include!(concat!(env!("OUT_DIR"), "/errorpb.rs"));
}

/// What clients ask the placement driver (TiKV-compatible).
pub mod pdpb {
    include!(concat!(env!("OUT_DIR"), "/pdpb.rs"));
}

/// Key spaces by name (TiKV-compatible).
pub mod keyspacepb {
    include!(concat!(env!("OUT_DIR"), "/keyspacepb.rs"));
}

/// Raw key-value requests (TiKV-compatible).
pub mod kvrpcpb {
    include!(concat!(env!("OUT_DIR"), "/kvrpcpb.rs"));
}

/// The raw key-value service and its batched stream (TiKV-compatible).
pub mod tikvpb {
    include!(concat!(env!("OUT_DIR"), "/tikvpb.rs"));
}
