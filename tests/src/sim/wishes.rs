//! What clients want, and what of it one region can do: the rest follows when that is done, as in the product's client.
//! Each part takes effect at a moment of its own.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_kv::{Command, Put};
use flotilla_region::{KeyRange, Region};
use flotilla_router::{CallClass, left_after};

use super::kv::Value;
use crate::check::history::Action;

/// A scan over regions, page by page.
#[derive(Clone, Debug)]
pub struct Walk {
    /// What is left of it; neither empty nor without an end.
    pub left: KeyRange,
    /// From the last key to the first.
    pub reverse: bool,
    /// Pairs of a page, at most.
    pub page_pairs: usize,
}

/// What a client wants.
#[derive(Clone, Debug)]
pub enum Wish {
    /// Read a key.
    Get(usize),
    /// Read keys, in ascending order.
    BatchGet(Vec<usize>),
    /// Read keys `[from, to)`, as far as one region holds them.
    Scan(usize, usize),
    /// Read all there is.
    Walk(Walk),
    /// Set keys, in ascending order, those of one region together, for so many seconds; 0 = for ever.
    Put(Vec<(usize, Value)>, u64),
    /// Remove a key.
    Delete(usize),
    /// Remove keys `[from, to)`.
    DeleteRange(usize, usize),
    /// Set a key if it has the first value.
    Swap(usize, Value, Value),
}

/// Where an attempt goes.
#[derive(Clone, Debug)]
pub enum Position {
    /// To the region that holds the key.
    At(Bytes),
    /// To the region that holds the keys just below the bound, which is not empty.
    Before(Bytes),
}

impl Position {
    /// Whether a region is the one.
    pub fn is_in(&self, region: &Region) -> bool {
        let range = &region.range;
        match self {
            Self::At(key) => range.contains(key),
            Self::Before(bound) => range.start < *bound && (range.end.is_empty() || *bound <= range.end),
        }
    }
}

impl Wish {
    /// The region by which the operation begins.
    pub fn position(&self) -> Position {
        let key = match self {
            Self::Get(key)
            | Self::Scan(key, _)
            | Self::Delete(key)
            | Self::DeleteRange(key, _)
            | Self::Swap(key, ..) => *key,
            Self::BatchGet(keys) => keys[0],
            Self::Put(pairs, _) => pairs[0].0,
            Self::Walk(walk) if walk.reverse => return Position::Before(walk.left.end.clone()),
            Self::Walk(walk) => return Position::At(walk.left.start.clone()),
        };
        Position::At(key_bytes(key))
    }

    /// Whether it changes anything.
    pub fn is_write(&self) -> bool {
        self.class() != CallClass::Read
    }

    /// How its failures are met.
    pub fn class(&self) -> CallClass {
        match self {
            Self::Get(_) | Self::BatchGet(_) | Self::Scan(..) | Self::Walk(_) => CallClass::Read,
            Self::Put(..) | Self::Delete(_) | Self::DeleteRange(..) => CallClass::Write,
            Self::Swap(..) => CallClass::ConditionalWrite,
        }
    }

    /// The keys that it names one by one, as far as a region holds them; the first one it does.
    pub fn clipped(self, range: &KeyRange) -> Self {
        let holds = |key: usize| range.contains(&key_bytes(key));
        match self {
            Self::Put(mut pairs, ttl_s) => {
                pairs.retain(|(key, _)| holds(*key));
                Self::Put(pairs, ttl_s)
            }
            Self::BatchGet(mut keys) => {
                keys.retain(|key| holds(*key));
                Self::BatchGet(keys)
            }
            other => other,
        }
    }

    /// What is left of it when a region of this range has done its part; `read` is what it returned.
    pub fn rest(&self, range: &KeyRange, read: &[(Bytes, Bytes)]) -> Option<Self> {
        let holds = |key: usize| range.contains(&key_bytes(key));
        match self {
            Self::Put(pairs, ttl_s) => {
                let rest: Vec<_> = pairs.iter().filter(|(key, _)| !holds(*key)).copied().collect();
                (!rest.is_empty()).then_some(Self::Put(rest, *ttl_s))
            }
            Self::BatchGet(keys) => {
                let rest: Vec<_> = keys.iter().filter(|key| !holds(**key)).copied().collect();
                (!rest.is_empty()).then_some(Self::BatchGet(rest))
            }
            Self::DeleteRange(from, to) => {
                let behind = (*from..*to).find(|key| !range.end.is_empty() && key_bytes(*key) >= range.end);
                behind.map(|from| Self::DeleteRange(from, *to))
            }
            Self::Walk(walk) => {
                let is_full = read.len() >= walk.page_pairs;
                let last = read.last().filter(|_| is_full).map(|(key, _)| key);
                let left = left_after(&walk.left, range, walk.reverse, last)?;
                Some(Self::Walk(Walk { left, ..walk.clone() }))
            }
            Self::Get(_) | Self::Scan(..) | Self::Delete(_) | Self::Swap(..) => None,
        }
    }

    /// The state machine's command for it in a region, nothing for reads.
    pub fn command(&self, range: &KeyRange, padding_max: u64) -> Bytes {
        let stored = |value: &Value| value.encode((value.0.wrapping_mul(7_919) % padding_max) as usize);
        match self {
            Self::Put(pairs, ttl_s) => {
                let pairs: Vec<(Bytes, Bytes)> =
                    pairs.iter().map(|(key, value)| (key_bytes(*key), stored(value))).collect();
                let puts = pairs.iter().map(|(key, value)| Put { key, value, ttl_s: *ttl_s });
                Command::Put(puts.collect()).encode()
            }
            Self::Swap(key, expected, value) => {
                let (key, new, old) = (key_bytes(*key), stored(value), stored(expected));
                let expected = (*expected != Value(0)).then_some(&old[..]);
                Command::CompareAndSwap { key: &key, expected, new: Some((&new, 0)) }.encode()
            }
            Self::Delete(key) => Command::Delete([&key_bytes(*key)[..]].into()).encode(),
            Self::DeleteRange(from, to) => {
                let part = KeyRange::new(key_bytes(*from), key_bytes(*to)).intersect(range);
                Command::DeleteRange { start: &part.start, end: &part.end }.encode()
            }
            Self::Get(_) | Self::BatchGet(_) | Self::Scan(..) | Self::Walk(_) => Bytes::new(),
        }
    }

    /// What a read of `range` found: every key of it was read, those that are missing too; of keys read one by one, those.
    ///
    /// # Errors
    /// It found what nobody wrote.
    pub fn found(
        &self,
        range: &KeyRange,
        pairs: &[(Bytes, Bytes)],
        keys: usize,
    ) -> Result<Vec<(usize, Action)>, String> {
        let asked: Vec<usize> = match self {
            Self::BatchGet(keys) => keys.clone(),
            _ => (0..keys).filter(|key| range.contains(&key_bytes(*key))).collect(),
        };
        let mut found: BTreeMap<usize, Value> = asked.into_iter().map(|key| (key, Value(0))).collect();
        for (key, value) in pairs {
            let slot = key_number(key).and_then(|number| found.get_mut(&number));
            match (slot, Value::decode(value)) {
                (Some(slot), Some(value)) => *slot = value,
                _ => return Err(format!("a read returned the strange pair {key:?} = {value:?}")),
            }
        }
        Ok(found.into_iter().map(|(key, value)| (key, Action::Read(value))).collect())
    }
}

/// The bytes of a key.
pub fn key_bytes(key: usize) -> Bytes {
    Bytes::from(format!("k{key:03}"))
}

/// The number of a key.
pub fn key_number(bytes: &[u8]) -> Option<usize> {
    std::str::from_utf8(bytes).ok()?.strip_prefix('k')?.parse().ok()
}
