//! Facts of the meta region: their keys, and reading them.
//!
//! Keys are relative to the meta space ([`flotilla_region::keys::data_key`] adds its prefix byte):
//! ```text
//! c                   cluster id u64
//! i                   first id never handed out u64
//! l                   ids of all stores ever registered, ascending, u64 each
//! s | store u64       record of a store, by the codec
//! u | uuid 16 bytes   id u64 of the store with this disk
//! v                   cluster version u32: the newest format that every store understands
//! ```

use bytes::Bytes;
use flotilla_region::{ClusterId, RegionId, StoreId};

use super::MetaError;
use super::codec::{Reader, Writer};
use crate::{StoreRecord, StoreUuid};

pub(super) const CLUSTER_ID: &[u8] = b"c";
pub(super) const NEXT_ID: &[u8] = b"i";
pub(super) const STORE_IDS: &[u8] = b"l";
pub(super) const CLUSTER_VERSION: &[u8] = b"v";
const STORE: u8 = b's';
const UUID: u8 = b'u';

/// How facts are read: the meta space at the point of the log where the command stands.
pub trait FactRead {
    /// Value of a key relative to the meta space.
    fn get(&self, key: &[u8]) -> Option<Bytes>;
}

/// One change of a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactWrite {
    /// Key relative to the meta space.
    pub key: Bytes,
    /// New value; `None` = deleted.
    pub value: Option<Bytes>,
}

impl FactWrite {
    pub(super) fn put(key: impl Into<Vec<u8>>, value: Bytes) -> Self {
        Self { key: Bytes::from(key.into()), value: Some(value) }
    }
}

pub(super) fn store_key(store: StoreId) -> Vec<u8> {
    [&[STORE][..], &store.get().to_be_bytes()].concat()
}

pub(super) fn uuid_key(uuid: StoreUuid) -> Vec<u8> {
    [&[UUID][..], &uuid.0].concat()
}

/// The cluster's id; `ZERO` before bootstrap.
///
/// # Errors
/// [`MetaError::Malformed`]: the fact is damaged.
pub fn cluster_id(facts: &dyn FactRead) -> Result<ClusterId, MetaError> {
    Ok(ClusterId(number(facts, CLUSTER_ID)?.unwrap_or(0)))
}

/// The newest command and frame format that every store of the cluster understands.
///
/// # Errors
/// [`MetaError::Malformed`]: the fact is damaged.
pub fn cluster_version(facts: &dyn FactRead) -> Result<u32, MetaError> {
    let Some(bytes) = facts.get(CLUSTER_VERSION) else { return Ok(0) };
    let mut reader = Reader::new(&bytes);
    let version = reader.u32()?;
    reader.finish(version)
}

/// First id that was never handed out.
///
/// # Errors
/// [`MetaError::Malformed`]: the fact is damaged.
pub fn next_id(facts: &dyn FactRead) -> Result<u64, MetaError> {
    Ok(number(facts, NEXT_ID)?.unwrap_or(RegionId::FIRST_FREE.get()))
}

/// All stores ever registered, tombstones included, by id.
///
/// # Errors
/// [`MetaError::Malformed`]: a fact is damaged or missing.
pub fn stores(facts: &dyn FactRead) -> Result<Vec<StoreRecord>, MetaError> {
    store_ids(facts)?.into_iter().map(|id| store(facts, id)?.ok_or(MetaError::Malformed)).collect()
}

/// One store of the registry.
///
/// # Errors
/// [`MetaError::Malformed`]: the fact is damaged.
pub fn store(facts: &dyn FactRead, id: StoreId) -> Result<Option<StoreRecord>, MetaError> {
    let Some(bytes) = facts.get(&store_key(id)) else { return Ok(None) };
    let mut reader = Reader::new(&bytes);
    let record = reader.record()?;
    reader.finish(Some(record))
}

pub(super) fn store_of_uuid(facts: &dyn FactRead, uuid: StoreUuid) -> Result<Option<StoreRecord>, MetaError> {
    match number(facts, &uuid_key(uuid))? {
        Some(id) => store(facts, StoreId(id))?.ok_or(MetaError::Malformed).map(Some),
        None => Ok(None),
    }
}

pub(super) fn store_ids(facts: &dyn FactRead) -> Result<Vec<StoreId>, MetaError> {
    let Some(bytes) = facts.get(STORE_IDS) else { return Ok(Vec::new()) };
    let mut reader = Reader::new(&bytes);
    let ids = (0..bytes.len() / 8).map(|_| reader.u64().map(StoreId)).collect::<Result<_, _>>()?;
    reader.finish(ids)
}

pub(super) fn put_store_ids(ids: &[StoreId]) -> FactWrite {
    let list = ids.iter().fold(Writer::new(), |writer, id| writer.u64(id.get()));
    FactWrite::put(STORE_IDS, list.finish())
}

pub(super) fn put_record(record: &StoreRecord) -> FactWrite {
    FactWrite::put(store_key(record.id), Writer::new().record(record).finish())
}

pub(super) fn put_number(key: impl Into<Vec<u8>>, number: u64) -> FactWrite {
    FactWrite::put(key, Writer::new().u64(number).finish())
}

pub(super) fn put_version(version: u32) -> FactWrite {
    FactWrite::put(CLUSTER_VERSION, Writer::new().u32(version).finish())
}

fn number(facts: &dyn FactRead, key: &[u8]) -> Result<Option<u64>, MetaError> {
    let Some(bytes) = facts.get(key) else { return Ok(None) };
    let mut reader = Reader::new(&bytes);
    let number = reader.u64()?;
    reader.finish(Some(number))
}
