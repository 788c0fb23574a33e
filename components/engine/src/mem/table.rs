//! An ordered map that remembers older values for as long as somebody has pinned them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;

use crate::{Op, Size, WriteBatch};

/// A moment in a table's life; grows with each batch.
pub(super) type Sequence = u64;

/// Keys and values with their history back to the oldest pin.
///
/// Invariant: a reader at a pinned sequence, or at the latest, sees the table as it was then.
#[derive(Clone, Default)]
pub(super) struct Table {
    chains: BTreeMap<Bytes, Chain>,
    /// Of the latest batch.
    latest: Sequence,
    /// Number of pins of each sequence.
    pins: BTreeMap<Sequence, usize>,
    /// Keys with more than one version.
    dirty: BTreeSet<Bytes>,
    /// Size of `dirty` at which it is worth tidying up.
    tidy_at: usize,
}

/// Versions of one key. Invariant: a deletion without older versions is no chain at all.
#[derive(Clone)]
struct Chain {
    newest: Version,
    /// Older ones, oldest first.
    older: Vec<Version>,
}

#[derive(Clone)]
struct Version {
    sequence: Sequence,
    /// `None` = deleted.
    value: Option<Bytes>,
}

impl Chain {
    fn at(&self, sequence: Sequence) -> Option<&Bytes> {
        std::iter::once(&self.newest)
            .chain(self.older.iter().rev())
            .find(|version| version.sequence <= sequence)
            .and_then(|version| version.value.as_ref())
    }

    fn push(&mut self, sequence: Sequence, value: Option<Bytes>, pins: &BTreeMap<Sequence, usize>) {
        let newest = std::mem::replace(&mut self.newest, Version { sequence, value });
        if is_pinned(pins, newest.sequence, sequence) {
            self.older.push(newest);
        }
    }

    /// Forgets versions that nobody can see any more.
    fn tidy(&mut self, pins: &BTreeMap<Sequence, usize>) {
        let mut next = self.newest.sequence;
        for index in (0..self.older.len()).rev() {
            let sequence = self.older[index].sequence;
            if is_pinned(pins, sequence, next) {
                next = sequence;
            } else {
                self.older.remove(index);
            }
        }
    }

    fn is_gone(&self) -> bool {
        self.newest.value.is_none() && self.older.is_empty()
    }
}

/// Whether somebody reads at a moment of `[from, to)`.
fn is_pinned(pins: &BTreeMap<Sequence, usize>, from: Sequence, to: Sequence) -> bool {
    from < to && pins.range(from..to).next().is_some()
}

impl Table {
    pub(super) fn latest(&self) -> Sequence {
        self.latest
    }

    /// Applies a batch as one step.
    pub(super) fn apply(&mut self, batch: &WriteBatch) {
        self.latest += 1;
        for op in batch.iter() {
            match op {
                Op::Put(key, value) => self.set(key, Some(Bytes::copy_from_slice(value))),
                Op::Delete(key) => self.set(key, None),
                Op::DeleteRange(start, end) => self.delete_range(start, end),
            }
        }
        if self.dirty.len() > self.tidy_at {
            self.tidy();
        }
    }

    fn set(&mut self, key: &[u8], value: Option<Bytes>) {
        let sequence = self.latest;
        let Some(chain) = self.chains.get_mut(key) else {
            if value.is_some() {
                let newest = Version { sequence, value };
                self.chains.insert(Bytes::copy_from_slice(key), Chain { newest, older: Vec::new() });
            }
            return;
        };
        chain.push(sequence, value, &self.pins);
        if chain.is_gone() {
            self.chains.remove(key);
        } else if !chain.older.is_empty() && !self.dirty.contains(key) {
            self.dirty.insert(Bytes::copy_from_slice(key));
        }
    }

    fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        let mut gone = Vec::new();
        for (key, chain) in self.chains.range_mut::<[u8], _>((Bound::Included(start), Bound::Excluded(end))) {
            if chain.newest.value.is_none() {
                continue;
            }
            chain.push(self.latest, None, &self.pins);
            if chain.is_gone() {
                gone.push(key.clone());
            } else {
                self.dirty.insert(key.clone());
            }
        }
        for key in gone {
            self.chains.remove(&key);
        }
    }

    pub(super) fn get(&self, key: &[u8], at: Sequence) -> Option<Bytes> {
        self.chains.get(key)?.at(at).cloned()
    }

    /// Up to `limit` pairs of a range, in the given direction.
    pub(super) fn chunk(
        &self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
        at: Sequence,
        limit: usize,
    ) -> Vec<(Bytes, Bytes)> {
        let mut pairs = Vec::new();
        self.visit(bounds, reverse, at, |key, value| {
            pairs.push((key.clone(), value.clone()));
            pairs.len() < limit
        });
        pairs
    }

    /// Visits the pairs of a range, in the given direction, until the visitor has seen enough.
    pub(super) fn visit(
        &self,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        reverse: bool,
        at: Sequence,
        mut visit: impl FnMut(&Bytes, &Bytes) -> bool,
    ) {
        let mut live =
            self.chains.range::<[u8], _>(bounds).filter_map(|(key, chain)| Some((key, chain.at(at)?)));
        let more = |(key, value)| visit(key, value);
        _ = if reverse { live.rev().all(more) } else { live.all(more) };
    }

    /// Keys and values of `[start, end)`.
    pub(super) fn size(&self, start: &[u8], end: &[u8]) -> Size {
        let mut size = Size::default();
        for (key, chain) in self.chains.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end))) {
            if let Some(value) = &chain.newest.value {
                size.bytes += (key.len() + value.len()) as u64;
                size.keys += 1;
            }
        }
        size
    }

    /// Number of keys, dead ones that are still remembered included.
    pub(super) fn keys(&self) -> u64 {
        self.chains.len() as u64
    }

    /// Keeps the table as it is now for readers at the returned sequence.
    pub(super) fn pin(&mut self) -> Sequence {
        *self.pins.entry(self.latest).or_default() += 1;
        self.latest
    }

    /// Takes a pin back.
    pub(super) fn unpin(&mut self, sequence: Sequence) {
        let count = self.pins.get_mut(&sequence).expect("it was pinned");
        *count -= 1;
        if *count == 0 {
            self.pins.remove(&sequence);
        }
    }

    /// Forgets what nobody can see any more. Costs as much as there are dirty keys, hence done when they have doubled.
    fn tidy(&mut self) {
        let (chains, pins) = (&mut self.chains, &self.pins);
        self.dirty.retain(|key| {
            let Some(chain) = chains.get_mut(key) else { return false };
            chain.tidy(pins);
            if chain.is_gone() {
                chains.remove(key);
                return false;
            }
            !chain.older.is_empty()
        });
        self.tidy_at = 64 + 2 * self.dirty.len();
    }

    /// Goes back to a pinned sequence: what came later never was.
    pub(super) fn roll_back(&mut self, sequence: Sequence) {
        self.chains.retain(|_, chain| {
            while chain.newest.sequence > sequence {
                match chain.older.pop() {
                    Some(version) => chain.newest = version,
                    None => return false,
                }
            }
            !chain.is_gone()
        });
        self.tidy();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(table: &mut Table, key: &str, value: &str) {
        let mut batch = WriteBatch::new();
        batch.put(key.as_bytes(), value.as_bytes());
        table.apply(&batch);
    }

    fn dump(table: &Table, at: Sequence) -> String {
        let pairs = table.chunk((Bound::Unbounded, Bound::Unbounded), false, at, usize::MAX);
        pairs.iter().map(|(key, value)| format!("{}={} ", key.escape_ascii(), value.escape_ascii())).collect()
    }

    #[test]
    fn a_pinned_moment_stays_as_it_was_until_it_is_unpinned() {
        let mut table = Table::default();
        put(&mut table, "a", "1");
        put(&mut table, "b", "1");
        let pin = table.pin();
        put(&mut table, "a", "2");
        let mut batch = WriteBatch::new();
        batch.delete_range(b"b", b"c");
        batch.put(b"c", b"1");
        table.apply(&batch);
        assert_eq!(dump(&table, pin), "a=1 b=1 ");
        assert_eq!(dump(&table, table.latest()), "a=2 c=1 ");
        table.unpin(pin);
        table.tidy();
        assert!(table.dirty.is_empty() && table.chains.len() == 2, "nothing old is left");
    }

    #[test]
    fn rolling_back_forgets_all_that_came_later() {
        let mut table = Table::default();
        put(&mut table, "a", "1");
        put(&mut table, "b", "1");
        let pin = table.pin();
        put(&mut table, "a", "2");
        put(&mut table, "a", "3");
        put(&mut table, "c", "1");
        let mut batch = WriteBatch::new();
        batch.delete(b"b");
        table.apply(&batch);
        table.roll_back(pin);
        assert_eq!(dump(&table, table.latest()), "a=1 b=1 ");
    }

    #[test]
    fn history_without_pins_costs_nothing() {
        let mut table = Table::default();
        for round in 0..100 {
            put(&mut table, "a", &round.to_string());
        }
        assert!(table.chains.values().all(|chain| chain.older.is_empty()) && table.dirty.is_empty());
    }
}
