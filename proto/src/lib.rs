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
