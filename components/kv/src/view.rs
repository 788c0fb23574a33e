//! Reads of one region.

use bytes::Bytes;
use flotilla_engine::{Engine, EngineSnapshot};
use flotilla_region::{KeyRange, Region, Space, keys};

use crate::error::Error;
use crate::value::Value;

/// Most bytes of keys and values that one scan returns: what fits into a message.
pub const SCAN_BYTES_MAX: usize = 60 << 20;

/// A key and its value; the value is empty when only keys were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Key.
    pub key: Bytes,
    /// Value.
    pub value: Bytes,
}

/// Takes the client's key and value; says whether to go on.
type Visitor<'v> = dyn FnMut(&[u8], &[u8]) -> Result<bool, Error> + 'v;

/// How long a key has to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ttl {
    /// There is no such key.
    Absent,
    /// It never expires.
    Forever,
    /// It expires in so many seconds, rounded up.
    Seconds(u64),
}

/// What to scan.
#[derive(Clone, Debug)]
pub struct Scan {
    /// Bounds; clipped to the region.
    pub range: KeyRange,
    /// Most pairs to return.
    pub limit: usize,
    /// Leave values out.
    pub key_only: bool,
    /// From the end of the range downwards.
    pub reverse: bool,
}

/// XOR over pairs of the CRC-64/XZ of key followed by value: independent of order, and adds up over regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum {
    /// XOR of the pairs' checksums.
    pub crc64_xor: u64,
    /// Number of pairs.
    pub pairs: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
}

/// Reads one key of the user space from the newest state of the disk, without a snapshot: for reads under a lease.
///
/// # Errors
/// The disk failed, or the value is damaged.
pub fn get_latest(engine: &dyn Engine, key: &[u8], now_ms: u64) -> Result<Option<Value>, Error> {
    present(engine.get(&keys::data_key(Space::User, key))?, now_ms)
}

fn present(stored: Option<Bytes>, now_ms: u64) -> Result<Option<Value>, Error> {
    let Some(stored) = stored else { return Ok(None) };
    let value = Value::decode(stored).ok_or(Error::Malformed)?;
    Ok(Some(value).filter(|value| !value.has_expired(now_ms)))
}

impl Ttl {
    /// Of a key found at `now_ms`.
    pub fn of(found: Option<&Value>, now_ms: u64) -> Self {
        match found.map(|value| value.expiry_ms) {
            None => Self::Absent,
            Some(None) => Self::Forever,
            Some(Some(expiry)) => Self::Seconds(expiry.saturating_sub(now_ms).div_ceil(1_000)),
        }
    }
}

/// A consistent view of a region at one moment of the reader's clock. Everything outside of the region, and what has
/// expired, is absent.
pub struct View<'a> {
    data: &'a dyn EngineSnapshot,
    region: &'a Region,
    now_ms: u64,
}

impl<'a> View<'a> {
    /// Of the region in this snapshot, at `now_ms` (milliseconds since the Unix epoch).
    pub fn new(data: &'a dyn EngineSnapshot, region: &'a Region, now_ms: u64) -> Self {
        Self { data, region, now_ms }
    }

    /// One value.
    ///
    /// # Errors
    /// The disk failed, or the value is damaged.
    pub fn get(&self, key: &[u8]) -> Result<Option<Value>, Error> {
        if !self.region.range.contains(key) {
            return Ok(None);
        }
        present(self.data.get(&keys::data_key(self.region.space, key))?, self.now_ms)
    }

    /// Those of the keys that exist, in the order asked.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn batch_get(&self, keys: &[Bytes]) -> Result<Vec<Pair>, Error> {
        let mut pairs = Vec::new();
        let mut bytes = 0;
        for key in keys {
            if let Some(value) = self.get(key)? {
                take_bytes(&mut bytes, key.len() + value.bytes.len())?;
                pairs.push(Pair { key: key.clone(), value: value.bytes });
            }
        }
        Ok(pairs)
    }

    /// How long a key has to live.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn ttl(&self, key: &[u8]) -> Result<Ttl, Error> {
        Ok(Ttl::of(self.get(key)?.as_ref(), self.now_ms))
    }

    /// `min(limit, all of the range that the region holds)` pairs, never fewer: clients take a short page for the
    /// region's end.
    ///
    /// # Errors
    /// As [`View::get`]; `TooLarge` beyond [`SCAN_BYTES_MAX`].
    pub fn scan(&self, scan: &Scan) -> Result<Vec<Pair>, Error> {
        let mut pairs = Vec::new();
        let mut bytes = 0;
        if scan.limit == 0 {
            return Ok(pairs);
        }
        self.visit(&scan.range, scan.reverse, &mut |key, value| {
            let value = if scan.key_only { &[][..] } else { value };
            take_bytes(&mut bytes, key.len() + value.len())?;
            pairs.push(Pair { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) });
            Ok(pairs.len() < scan.limit)
        })?;
        Ok(pairs)
    }

    /// Checksum over ranges, each clipped to the region.
    ///
    /// # Errors
    /// As [`View::get`].
    pub fn checksum(&self, ranges: &[KeyRange]) -> Result<Checksum, Error> {
        let mut sum = Checksum::default();
        for range in ranges {
            self.visit(range, false, &mut |key, value| {
                let mut digest = crc64fast::Digest::new();
                digest.write(key);
                digest.write(value);
                sum.crc64_xor ^= digest.sum64();
                sum.pairs += 1;
                sum.bytes += (key.len() + value.len()) as u64;
                Ok(true)
            })?;
        }
        Ok(sum)
    }

    /// Visits the client's keys and values of a range until the visitor says `false` or fails.
    fn visit(&self, range: &KeyRange, reverse: bool, visitor: &mut Visitor<'_>) -> Result<(), Error> {
        let clipped = range.intersect(&self.region.range);
        if range.is_empty() || clipped.is_empty() {
            return Ok(());
        }
        let (start, end) = keys::data_bounds(self.region.space, &clipped);
        let mut outcome = Ok(true);
        let mut step = |key: &[u8], stored: &[u8]| {
            outcome = match Value::header(stored) {
                None => Err(Error::Malformed),
                Some((Some(expiry), _)) if expiry <= self.now_ms => Ok(true),
                Some((_, header)) => visitor(&key[1..], &stored[header..]),
            };
            matches!(outcome, Ok(true))
        };
        if reverse {
            self.data.scan_reverse(&start, &end, &mut step)?;
        } else {
            self.data.scan(&start, &end, &mut step)?;
        }
        outcome.map(|_| ())
    }
}

fn take_bytes(total: &mut usize, bytes: usize) -> Result<(), Error> {
    *total += bytes;
    if *total > SCAN_BYTES_MAX { Err(Error::TooLarge { bytes_max: SCAN_BYTES_MAX }) } else { Ok(()) }
}
