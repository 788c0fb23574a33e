//! Vocabulary of regions: ids, key ranges, epochs, descriptors and on-disk key encoding.
//!
//! A *region* is a key range with its own Raft group; a *peer* is one replica of it on one *store*. This crate holds
//! no behaviour beyond what those words mean: what a range contains, when an epoch is stale, how a key is laid out.

mod dense;
mod descriptor;
pub mod keys;
mod range;

pub use dense::DenseMap;
pub use descriptor::{Peer, PeerRole, Region, RegionEpoch, Space};
pub use flotilla_raft::{Index, PeerId, Term};
pub use range::KeyRange;

use std::fmt;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The zero value, which never names a real one.
            pub const ZERO: Self = Self(0);

            /// The bare number, for encoding.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id_type! {
    /// A region, for its whole life; 0 = none.
    RegionId
}
id_type! {
    /// A store: one process and its disk. A wiped disk is a new store; 0 = none.
    StoreId
}
id_type! {
    /// A cluster, drawn at bootstrap; 0 = none.
    ClusterId
}

impl RegionId {
    /// The meta region, home of placement's facts.
    pub const META: Self = Self(1);
    /// The first user region at bootstrap, from the empty key to [`sentinel_start`].
    pub const FIRST_USER: Self = Self(2);
    /// The sentinel: a permanently empty region from [`sentinel_start`] to the end of the user space. It is never
    /// split, merged or counted; it cures clients that restart a scan at the last region.
    pub const SENTINEL: Self = Self(3);
    /// First id that the id allocator hands out.
    pub const FIRST_FREE: Self = Self(1_000);
}

/// Longest legal user key in bytes.
pub const KEY_BYTES_MAX: usize = 8 * 1024;

/// Start of the sentinel region: one byte longer than any legal key, all 0xFF.
pub fn sentinel_start() -> bytes::Bytes {
    bytes::Bytes::from(vec![0xFF; KEY_BYTES_MAX + 1])
}

/// Raft log index and term at which every new region's log begins, so that an empty follower can never append from
/// zero and must get a snapshot (TiKV's RAFT_INIT_LOG_INDEX).
pub const INIT_LOG_INDEX: Index = Index(5);
/// Term of [`INIT_LOG_INDEX`].
pub const INIT_LOG_TERM: Term = Term(5);
