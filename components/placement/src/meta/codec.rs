//! Bytes of commands, replies and facts: big-endian numbers, byte strings preceded by their length as u32.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_region::StoreId;

use super::MetaError;
use crate::{StoreRecord, StoreState, StoreUuid};

/// Appends fields.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn uuid(mut self, value: StoreUuid) -> Self {
        self.0.extend_from_slice(&value.0);
        self
    }

    pub(super) fn text(self, value: &str) -> Self {
        let mut writer = self.u32(value.len() as u32);
        writer.0.extend_from_slice(value.as_bytes());
        writer
    }

    pub(super) fn labels(self, labels: &BTreeMap<String, String>) -> Self {
        let writer = self.u32(labels.len() as u32);
        labels.iter().fold(writer, |writer, (key, value)| writer.text(key).text(value))
    }

    pub(super) fn record(self, record: &StoreRecord) -> Self {
        self.u64(record.id.get())
            .uuid(record.uuid)
            .text(&record.address)
            .text(&record.status_address)
            .labels(&record.labels)
            .text(&record.version)
            .u32(record.format_max)
            .u8(state_number(record.state))
    }

    pub(super) fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

/// Reads fields off the front.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], MetaError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(MetaError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MetaError> {
        Ok(self.take(N)?.try_into().expect("take gives as many bytes as asked for"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, MetaError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, MetaError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, MetaError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn uuid(&mut self) -> Result<StoreUuid, MetaError> {
        self.array().map(StoreUuid)
    }

    pub(super) fn text(&mut self) -> Result<String, MetaError> {
        let len = self.u32()? as usize;
        String::from_utf8(self.take(len)?.to_vec()).map_err(|_| MetaError::Malformed)
    }

    pub(super) fn labels(&mut self) -> Result<BTreeMap<String, String>, MetaError> {
        let count = self.u32()?;
        (0..count).map(|_| Ok((self.text()?, self.text()?))).collect()
    }

    pub(super) fn state(&mut self) -> Result<StoreState, MetaError> {
        match self.u8()? {
            0 => Ok(StoreState::Up),
            1 => Ok(StoreState::Offline),
            2 => Ok(StoreState::Tombstone),
            _ => Err(MetaError::Malformed),
        }
    }

    pub(super) fn record(&mut self) -> Result<StoreRecord, MetaError> {
        Ok(StoreRecord {
            id: StoreId(self.u64()?),
            uuid: self.uuid()?,
            address: self.text()?,
            status_address: self.text()?,
            labels: self.labels()?,
            version: self.text()?,
            format_max: self.u32()?,
            state: self.state()?,
        })
    }

    /// Asserts that everything was read, and gives `value` back.
    pub(super) fn finish<T>(self, value: T) -> Result<T, MetaError> {
        if self.0.is_empty() { Ok(value) } else { Err(MetaError::Malformed) }
    }
}

/// Number of a state on disk and in commands.
pub(super) fn state_number(state: StoreState) -> u8 {
    match state {
        StoreState::Up => 0,
        StoreState::Offline => 1,
        StoreState::Tombstone => 2,
    }
}
