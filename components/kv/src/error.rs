//! Why a read failed.

/// Why a read of a region failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk failed.
    #[error(transparent)]
    Engine(#[from] flotilla_engine::Error),
    /// A stored value is none that any version of this program wrote.
    #[error("a stored value cannot be read")]
    Malformed,
    /// The answer would be larger than a message may be; ask with a smaller limit.
    #[error("result exceeds {bytes_max} bytes, ask for less")]
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
}

impl Error {
    /// Whether what is stored is not what was written: the region has to be replaced on this store.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Malformed | Self::Engine(flotilla_engine::Error::Corruption(_)))
    }
}
