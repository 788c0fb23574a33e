//! What can go wrong, by who has to act: the client (retry elsewhere), the store (stop), one region (quarantine).

use flotilla_region::{Index, KeyRange, Peer, PeerId, Region, RegionId, StoreId};

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

impl StoreError {
    /// Tells damage that stays within a region from what ends the store.
    ///
    /// # Errors
    /// Everything else: the store cannot go on.
    pub(crate) fn into_damage(self) -> Result<Damage, Self> {
        match self {
            Self::Engine(flotilla_engine::Error::Corruption(text)) => Ok(Damage::Bytes(text)),
            Self::Damaged(what) => Ok(Damage::Record(what)),
            other => Err(other),
        }
    }
}

/// Why a region is out of service on one store. The store serves its other regions; placement replaces this one from
/// its other replicas.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The engine read bytes that are not what was written.
    #[error("{0}")]
    Bytes(String),
    /// A stored record cannot be read.
    #[error("stored {0} cannot be read")]
    Record(&'static str),
    /// A command that this version does not know, or that is damaged. A newer version may know it, so this is not
    /// remembered over a restart.
    #[error("entry {0} cannot be applied: it is damaged or of a newer version")]
    Command(Index),
    /// The log does not continue what is applied.
    #[error("entry {0} does not follow what is applied")]
    Gap(Index),
    /// The region's content differs from that of most of its replicas.
    #[error("content differs from that of the other replicas at index {0}")]
    Odd(Index),
}

/// A region that is out of service on a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// The region.
    pub region: RegionId,
    /// The peer there; 0 = not known, because its descriptor cannot be read.
    pub peer: PeerId,
    /// What is wrong with it, for people.
    pub why: String,
}

/// A value, where one that cannot be read is as good as none.
///
/// # Errors
/// The disk failed.
pub(crate) fn readable<T>(
    read: Result<Option<T>, flotilla_engine::Error>,
) -> Result<Option<T>, flotilla_engine::Error> {
    match read {
        Err(flotilla_engine::Error::Corruption(_)) => Ok(None),
        read => read,
    }
}
