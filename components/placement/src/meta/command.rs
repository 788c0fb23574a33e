//! Commands of the meta region and what they answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_region::StoreId;

use super::MetaError;
use super::codec::{Reader, Writer, state_number};
use crate::{StoreRecord, StoreState, StoreUuid};

/// Format of commands and replies; the first byte of both.
pub const META_FORMAT: u8 = 1;
/// Most ids that one command may take.
pub const ALLOC_COUNT_MAX: u64 = 1 << 20;

const PUT_STORE: u8 = 1;
const SET_STORE_STATE: u8 = 2;
const ALLOC_IDS: u8 = 3;

const STORE: u8 = 1;
const IDS: u8 = 2;
const REFUSED: u8 = 3;

/// What a store says when it joins, and again at each start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreProposal {
    /// Identity of its disk.
    pub uuid: StoreUuid,
    /// `host:port` of all its services; not empty.
    pub address: String,
    /// `host:port` of its status page; empty = none.
    pub status_address: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Version of its program.
    pub version: String,
    /// Newest command and frame format it understands.
    pub format_max: u32,
}

/// A command of the meta region. Every one is decided at apply, from the facts and itself alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaCommand {
    /// Register a store, or take over what a registered one now says about itself. A uuid gets its id once.
    PutStore(StoreProposal),
    /// Drain, undo draining, or remove for good.
    SetStoreState {
        /// Store.
        store: StoreId,
        /// Wanted state.
        state: StoreState,
    },
    /// Take `count` ids for ever.
    AllocIds {
        /// 1 to [`ALLOC_COUNT_MAX`].
        count: u64,
    },
}

/// Why a command changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// A field has no legal value.
    Invalid,
    /// No such store.
    UnknownStore,
    /// The store was removed for good; its disk must be wiped to join anew.
    Removed,
    /// The store is older than the cluster's format.
    TooOld,
    /// Only a drained store can be removed, a removed one never returns, and a store whose address another disk took
    /// over is not up before it says so itself.
    BadTransition,
    /// The last store that is up cannot be drained.
    LastStore,
    /// All ids are used up.
    Exhausted,
}

/// Answer to a [`MetaCommand`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetaReply {
    /// The store as it is registered now.
    Store(StoreRecord),
    /// The ids `[first, first + count)` are the proposer's alone.
    Ids {
        /// First id.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Nothing was changed.
    Refused(Refusal),
}

impl MetaCommand {
    /// Bytes for the log.
    pub fn encode(&self) -> Bytes {
        let writer = Writer::new().u8(META_FORMAT);
        match self {
            Self::PutStore(store) => writer
                .u8(PUT_STORE)
                .uuid(store.uuid)
                .text(&store.address)
                .text(&store.status_address)
                .labels(&store.labels)
                .text(&store.version)
                .u32(store.format_max),
            Self::SetStoreState { store, state } => {
                writer.u8(SET_STORE_STATE).u64(store.get()).u8(state_number(*state))
            }
            Self::AllocIds { count } => writer.u8(ALLOC_IDS).u64(*count),
        }
        .finish()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`MetaError::Unknown`] for a format or kind this program does not know, [`MetaError::Malformed`] otherwise.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let (mut reader, kind) = open(bytes)?;
        let command = match kind {
            PUT_STORE => Self::PutStore(StoreProposal {
                uuid: reader.uuid()?,
                address: reader.text()?,
                status_address: reader.text()?,
                labels: reader.labels()?,
                version: reader.text()?,
                format_max: reader.u32()?,
            }),
            SET_STORE_STATE => Self::SetStoreState { store: StoreId(reader.u64()?), state: reader.state()? },
            ALLOC_IDS => Self::AllocIds { count: reader.u64()? },
            kind => return Err(MetaError::Unknown { format: META_FORMAT, kind }),
        };
        reader.finish(command)
    }
}

impl MetaReply {
    /// Bytes for the proposer.
    pub fn encode(&self) -> Bytes {
        let writer = Writer::new().u8(META_FORMAT);
        match self {
            Self::Store(record) => writer.u8(STORE).record(record),
            Self::Ids { first, count } => writer.u8(IDS).u64(*first).u64(*count),
            Self::Refused(refusal) => writer.u8(REFUSED).u8(refusal.number()),
        }
        .finish()
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// As [`MetaCommand::decode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let (mut reader, kind) = open(bytes)?;
        let reply = match kind {
            STORE => Self::Store(reader.record()?),
            IDS => Self::Ids { first: reader.u64()?, count: reader.u64()? },
            REFUSED => Self::Refused(Refusal::of_number(reader.u8()?).ok_or(MetaError::Malformed)?),
            kind => return Err(MetaError::Unknown { format: META_FORMAT, kind }),
        };
        reader.finish(reply)
    }
}

impl Refusal {
    const ALL: [Self; 7] = [
        Self::Invalid,
        Self::UnknownStore,
        Self::Removed,
        Self::TooOld,
        Self::BadTransition,
        Self::LastStore,
        Self::Exhausted,
    ];

    fn number(self) -> u8 {
        self as u8 + 1
    }

    fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.number() == number)
    }
}

fn open(bytes: &[u8]) -> Result<(Reader<'_>, u8), MetaError> {
    let mut reader = Reader::new(bytes);
    let format = reader.u8()?;
    let kind = reader.u8()?;
    if format == META_FORMAT { Ok((reader, kind)) } else { Err(MetaError::Unknown { format, kind }) }
}
