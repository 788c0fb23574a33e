//! The raw commands.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flotilla_proto::kvrpcpb;
use flotilla_region::KeyRange;

use super::Client;
use super::call::Position;
use super::scan::Pair;
use crate::error::Result;
use crate::retry::CallClass;
use crate::walk::bounded;

/// How long a key will live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyTtl {
    /// There is no such key.
    Absent,
    /// For ever.
    Unlimited,
    /// This many more seconds.
    Seconds(u64),
}

/// What a compare-and-swap found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompareAndSwap {
    /// Whether the value was as expected, and so was replaced.
    pub swapped: bool,
    /// The value before; `None` = no such key.
    pub previous: Option<Bytes>,
}

/// Digest of the pairs in a range, independent of their order and of regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// XOR over the pairs of CRC-64/XZ of key followed by value.
    pub crc64_xor: u64,
    /// Number of pairs.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

impl Client {
    /// The value of a key; `None` if there is none. An empty value is a value.
    ///
    /// # Errors
    /// [`crate::Error::Exhausted`]: try again later; [`crate::Error::Rejected`]: the key is not legal.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>> {
        let key = key.into();
        let request = kvrpcpb::RawGetRequest { key: key.clone(), ..Default::default() };
        let reply = self.call(&key, CallClass::Read, request).await?;
        Ok((!reply.not_found).then_some(reply.value))
    }

    /// The existing pairs of these keys, in key order.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn batch_get(&self, keys: impl IntoIterator<Item = Bytes>) -> Result<Vec<Pair>> {
        let keys: BTreeSet<Bytes> = keys.into_iter().collect();
        let build = |keys| kvrpcpb::RawBatchGetRequest { keys, ..Default::default() };
        let replies = self.batch(keys.into_iter().collect(), CallClass::Read, build).await?;
        let pairs = replies.into_iter().flat_map(|reply| reply.pairs);
        let mut pairs: Vec<Pair> = pairs.map(|pair| (pair.key, pair.value)).collect();
        pairs.sort();
        Ok(pairs)
    }

    /// Stores a value; it lives for `ttl_seconds`, 0 = for ever.
    ///
    /// # Errors
    /// [`crate::Error::Undetermined`]: it may be stored or not; [`crate::Error::Exhausted`]: it is not;
    /// [`crate::Error::Rejected`], [`crate::Error::EntryTooLarge`]: it cannot be.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>, ttl_seconds: u64) -> Result<()> {
        let key = key.into();
        let request = kvrpcpb::RawPutRequest {
            key: key.clone(),
            value: value.into(),
            ttl: ttl_seconds,
            ..Default::default()
        };
        self.call(&key, CallClass::Write, request).await?;
        Ok(())
    }

    /// Stores many values, each on its own: not a transaction. Of a key that comes twice the last value counts.
    ///
    /// # Errors
    /// As [`Client::put`]; any part of the values may be stored then.
    pub async fn batch_put(&self, pairs: impl IntoIterator<Item = Pair>, ttl_seconds: u64) -> Result<()> {
        let pairs: BTreeMap<Bytes, Bytes> = pairs.into_iter().collect();
        let pairs: Vec<Pair> = pairs.into_iter().collect();
        if ttl_seconds == 0 {
            self.batch(pairs, CallClass::Write, |pairs| batch_put(pairs, Vec::new())).await?;
            return Ok(());
        }
        // The builder is a plain function, so the lifetime travels with the pairs.
        let pairs: Vec<(Pair, u64)> = pairs.into_iter().map(|pair| (pair, ttl_seconds)).collect();
        let build = |pairs: Vec<(Pair, u64)>| {
            let (pairs, ttls) = pairs.into_iter().unzip();
            batch_put(pairs, ttls)
        };
        self.batch(pairs, CallClass::Write, build).await?;
        Ok(())
    }

    /// Removes a key; a missing key is no error.
    ///
    /// # Errors
    /// As [`Client::put`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<()> {
        let key = key.into();
        let request = kvrpcpb::RawDeleteRequest { key: key.clone(), ..Default::default() };
        self.call(&key, CallClass::Write, request).await?;
        Ok(())
    }

    /// Removes many keys, each on its own.
    ///
    /// # Errors
    /// As [`Client::put`]; any part of the keys may be gone then.
    pub async fn batch_delete(&self, keys: impl IntoIterator<Item = Bytes>) -> Result<()> {
        let keys: BTreeSet<Bytes> = keys.into_iter().collect();
        let build = |keys| kvrpcpb::RawBatchDeleteRequest { keys, ..Default::default() };
        self.batch(keys.into_iter().collect(), CallClass::Write, build).await?;
        Ok(())
    }

    /// Removes all keys of a range, region by region.
    ///
    /// # Errors
    /// As [`Client::put`]; any part of the range may be gone then.
    pub async fn delete_range(&self, range: KeyRange) -> Result<()> {
        let build = |part: KeyRange| kvrpcpb::RawDeleteRangeRequest {
            start_key: part.start,
            end_key: part.end,
            ..Default::default()
        };
        let mut left = bounded(&range);
        while !left.is_empty() {
            let position = Position::At(left.start.clone());
            let call =
                self.call_at(position, CallClass::Write, |route| build(route.region.range.intersect(&left)));
            let (route, _) = call.await?;
            if !advance(&mut left, &route.region.range) {
                break;
            }
        }
        Ok(())
    }

    /// Replaces the value of a key if it is `expected` (`None` = the key is missing) by `new` (`None` = removes
    /// the key).
    ///
    /// # Errors
    /// As [`Client::put`]. A swap without a known outcome is never tried again.
    pub async fn compare_and_swap(
        &self,
        key: impl Into<Bytes>,
        expected: Option<Bytes>,
        new: Option<Bytes>,
        ttl_seconds: u64,
    ) -> Result<CompareAndSwap> {
        let key = key.into();
        let request = kvrpcpb::RawCasRequest {
            key: key.clone(),
            previous_not_exist: expected.is_none(),
            previous_value: expected.unwrap_or_default(),
            delete: new.is_none(),
            value: new.unwrap_or_default(),
            ttl: ttl_seconds,
            ..Default::default()
        };
        let reply = self.call(&key, CallClass::ConditionalWrite, request).await?;
        let previous = (!reply.previous_not_exist).then_some(reply.previous_value);
        Ok(CompareAndSwap { swapped: reply.succeed, previous })
    }

    /// How long a key will live.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_ttl(&self, key: impl Into<Bytes>) -> Result<KeyTtl> {
        let key = key.into();
        let request = kvrpcpb::RawGetKeyTtlRequest { key: key.clone(), ..Default::default() };
        let reply = self.call(&key, CallClass::Read, request).await?;
        Ok(match (reply.not_found, reply.ttl) {
            (true, _) => KeyTtl::Absent,
            (false, 0) => KeyTtl::Unlimited,
            (false, seconds) => KeyTtl::Seconds(seconds),
        })
    }

    /// Digest of a range. Each region is read at one moment, different regions at different ones.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn checksum(&self, range: KeyRange) -> Result<Checksum> {
        let build = |part: KeyRange| kvrpcpb::RawChecksumRequest {
            ranges: vec![kvrpcpb::KeyRange { start_key: part.start, end_key: part.end }],
            ..Default::default()
        };
        let mut sum = Checksum::default();
        let mut left = bounded(&range);
        while !left.is_empty() {
            let position = Position::At(left.start.clone());
            let call =
                self.call_at(position, CallClass::Read, |route| build(route.region.range.intersect(&left)));
            let (route, reply) = call.await?;
            sum.crc64_xor ^= reply.checksum;
            sum.keys += reply.total_kvs;
            sum.bytes += reply.total_bytes;
            if !advance(&mut left, &route.region.range) {
                break;
            }
        }
        Ok(sum)
    }
}

impl super::batch::Keyed for (Pair, u64) {
    fn key(&self) -> &Bytes {
        &self.0.0
    }

    fn weight(&self) -> usize {
        self.0.0.len() + self.0.1.len()
    }
}

fn batch_put(pairs: Vec<Pair>, ttls: Vec<u64>) -> kvrpcpb::RawBatchPutRequest {
    let pairs = pairs.into_iter().map(|(key, value)| kvrpcpb::KvPair { key, value, ..Default::default() });
    kvrpcpb::RawBatchPutRequest { pairs: pairs.collect(), ttls, ..Default::default() }
}

/// Moves the start of `left` behind a region; `false` if that was the last one.
fn advance(left: &mut KeyRange, region: &KeyRange) -> bool {
    left.start = region.end.clone();
    !region.end.is_empty()
}
