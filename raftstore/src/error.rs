//! What can go wrong, by who has to act: the client (retry elsewhere), the store (stop), one region (quarantine).

use flotilla_region::{KeyRange, Peer, PeerId, Region, RegionId, StoreId};

/// Why a request was not carried out. Everything but `Undetermined` means: surely not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Another peer leads, or none that this store knows. Ask `leader`, or placement.
    #[error("not leader of region {region}")]
    NotLeader {
        /// Region asked.
        region: RegionId,
        /// Leader, if known and not in question.
        leader: Option<Peer>,
    },
    /// The region is not on this store.
    #[error("region {0} is not on this store")]
    RegionNotFound(RegionId),
    /// The request was made for another shape of the region; here are the current ones.
    #[error("epoch does not match")]
    EpochNotMatch(Vec<Region>),
    /// The key is outside.
    #[error("key is not in region {region} {range:?}")]
    KeyNotInRegion {
        /// The offending key.
        key: bytes::Bytes,
        /// Region asked.
        region: RegionId,
        /// Its range.
        range: KeyRange,
    },
    /// The request names another peer than the one here.
    #[error("peer {asked} was asked, {actual} is here")]
    PeerMismatch {
        /// In the request.
        asked: PeerId,
        /// On this store.
        actual: PeerId,
    },
    /// The request names another store.
    #[error("store {asked} was asked, this is {actual}")]
    StoreMismatch {
        /// In the request.
        asked: StoreId,
        /// This one.
        actual: StoreId,
    },
    /// The store holds as many requests as it may. Retry after a pause.
    #[error("server is busy")]
    Busy,
    /// The leader changed before the command was committed; it surely was not. Retry.
    #[error("command is stale")]
    Stale,
    /// The command does not fit into an entry.
    #[error("entry of {bytes} bytes exceeds the limit of {bytes_max}")]
    EntryTooLarge {
        /// Region asked.
        region: RegionId,
        /// Size of the command.
        bytes: usize,
        /// Limit.
        bytes_max: usize,
    },
    /// Reads cannot be served yet. Retry.
    #[error("read index is not ready")]
    ReadNotReady(RegionId),
    /// The region is becoming part of another one. Ask again who holds its keys.
    #[error("region {0} is merging")]
    Merging(RegionId),
    /// The command may or may not have been applied; nobody here can tell any more.
    #[error("result is undetermined")]
    Undetermined,
    /// An administrative command that makes no sense in the region's present state.
    #[error("refused: {0}")]
    Refused(&'static str),
}

/// Why a store cannot go on, or cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk failed.
    #[error(transparent)]
    Engine(#[from] flotilla_engine::Error),
    /// The configuration contradicts itself.
    #[error("configuration: {0}")]
    Config(&'static str),
    /// The data directory belongs to another cluster.
    #[error("data belongs to cluster {found}, not {expected}")]
    WrongCluster {
        /// In the directory.
        found: flotilla_region::ClusterId,
        /// Asked for.
        expected: flotilla_region::ClusterId,
    },
    /// The data directory was written by a newer version.
    #[error("data has format {found}; this version reads {oldest} to {newest}")]
    Format {
        /// In the directory.
        found: u32,
        /// Oldest readable.
        oldest: u32,
        /// Newest readable.
        newest: u32,
    },
    /// The directory was never initialised.
    #[error("the store is not initialised")]
    Uninitialised,
    /// A stored record cannot be read.
    #[error("stored {0} cannot be read")]
    Damaged(&'static str),
}
