//! The apply seam: an embedder's state machine on top of replicated regions.
//!
//! raftstore orders opaque commands per region and hands them to a [`StateMachine`], which turns each into writes and
//! a reply. Nothing here knows what a put is.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::{Engine, EngineSnapshot, Op, WriteBatch};
use flotilla_region::{Index, Region, Term, keys};

/// Where and when a command is applied; equal on every replica.
#[derive(Clone, Copy, Debug)]
pub struct ApplyContext<'a> {
    /// The region, as of this entry.
    pub region: &'a Region,
    /// Position of the entry.
    pub index: Index,
    /// Term of the entry.
    pub term: Term,
    /// Proposer's wall clock in milliseconds since the Unix epoch, stored in the entry.
    pub time_ms: u64,
}

/// Why a command cannot be applied. Both stop the region on this replica: skipping would make replicas differ.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// This version does not know the command.
    #[error("unknown command")]
    UnknownCommand,
    /// The disk failed.
    #[error(transparent)]
    Engine(#[from] flotilla_engine::Error),
}

/// Deterministic: the same commands on the same state give the same writes and replies, on every replica and at every
/// replay. No clocks, no randomness; time comes with the entry.
pub trait StateMachine: Send + Sync {
    /// Applies one command.
    ///
    /// # Errors
    /// Stops the region on this replica; a command that merely fails (a lost compare-and-swap) is a reply.
    fn apply(
        &self,
        context: &ApplyContext<'_>,
        command: &[u8],
        view: &mut ApplyView<'_>,
    ) -> Result<Bytes, MachineError>;

    /// Keys at which to cut a region into pieces of about `piece_bytes`, ascending, strictly inside the range, at most
    /// `keys_max`. A pair counts as at least `pair_bytes_min`, so that no piece has too many. The default cuts between any two keys; an embedder overrides it so that a row is not cut.
    fn split_keys(
        &self,
        region: &Region,
        data: &dyn EngineSnapshot,
        piece_bytes: u64,
        pair_bytes_min: u64,
        keys_max: usize,
    ) -> Vec<Bytes> {
        let (start, end) = keys::data_bounds(region.space, &region.range);
        let mut found = Vec::new();
        let mut piece = 0;
        let mut total = 0;
        let mut candidates: Vec<(Bytes, u64)> = Vec::new();
        let scanned = data.scan_once(&start, &end, &mut |key, value| {
            if piece >= piece_bytes {
                candidates.push((Bytes::copy_from_slice(&key[1..]), total));
                piece = 0;
            }
            let pair = ((key.len() + value.len()) as u64).max(pair_bytes_min);
            piece += pair;
            total += pair;
            candidates.len() < keys_max * 2
        });
        if scanned.is_err() {
            return found;
        }
        for (key, before) in candidates {
            // The last piece keeps at least half of the target, or two cuts would leave a crumb.
            if found.len() < keys_max && total - before >= piece_bytes / 2 && key[..] > region.range.start[..]
            {
                found.push(key);
            }
        }
        found
    }

    /// A key that the command writes, for load-based split; any one of several, chosen by the random number `drawn`. The
    /// default knows none: such regions are split by what is read from them.
    fn sample_key(&self, _command: &[u8], _drawn: u64) -> Option<Bytes> {
        None
    }

    /// Where to cut a region instead of at `key`, which a client uses and which divides the load well. The default cuts
    /// right there; an embedder overrides it so that a row is not cut.
    fn cut_at(&self, key: Bytes) -> Bytes {
        key
    }

    /// The region was split, changed its members or was removed on this replica. Called on the apply worker.
    fn on_region_change(&self, _region: &Region) {}
}

/// Applies one command outside a store, its writes going to `batch`: for tests of state machines.
///
/// # Errors
/// What the machine returns.
pub fn apply_alone(
    machine: &dyn StateMachine,
    engine: &dyn Engine,
    batch: &mut WriteBatch,
    context: &ApplyContext<'_>,
    command: &[u8],
) -> Result<Bytes, MachineError> {
    let mut overlay = Overlay::default();
    let mut view = ApplyView::new(engine, batch, &mut overlay, context.region);
    machine.apply(context, command, &mut view)
}

/// What a command may read and write while it is applied: its region's keys, including writes of earlier commands.
pub struct ApplyView<'a> {
    engine: &'a dyn Engine,
    batch: &'a mut WriteBatch,
    overlay: &'a mut Overlay,
    region: &'a Region,
}

impl<'a> ApplyView<'a> {
    pub(crate) fn new(
        engine: &'a dyn Engine,
        batch: &'a mut WriteBatch,
        overlay: &'a mut Overlay,
        region: &'a Region,
    ) -> Self {
        Self { engine, batch, overlay, region }
    }

    /// Sets a key.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.put_parts(key, &[value]);
    }

    /// Sets a key to the parts of a value, which follow each other without a gap.
    pub fn put_parts(&mut self, key: &[u8], value: &[&[u8]]) {
        self.batch.put_parts(&[&[keys::space_prefix(self.region.space)], key], value);
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &[u8]) {
        self.batch.delete_parts(&[&[keys::space_prefix(self.region.space)], key]);
    }

    /// Removes all keys of the range that lie in the region.
    pub fn delete_range(&mut self, range: &flotilla_region::KeyRange) {
        let clipped = range.intersect(&self.region.range);
        if !clipped.is_empty() {
            let (start, end) = keys::data_bounds(self.region.space, &clipped);
            self.batch.delete_range(&start, &end);
        }
    }

    /// Reads a key as the commands before this one left it.
    ///
    /// # Errors
    /// The disk failed.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, MachineError> {
        let key = [&[keys::space_prefix(self.region.space)], key].concat();
        match self.overlay.get(self.batch, &key) {
            Some(value) => Ok(value),
            None => Ok(self.engine.get(&key)?),
        }
    }
}

/// Index of a batch's writes, so that commands see the writes of earlier ones that share the batch. Built only when
/// a command reads, and extended from where it ended the last time.
#[derive(Default)]
pub(crate) struct Overlay {
    /// Bytes of the batch that are indexed.
    seen_bytes: usize,
    /// Number of writes that are indexed; orders points against ranges.
    seen_ops: usize,
    points: BTreeMap<Bytes, (usize, Option<Bytes>)>,
    ranges: Vec<(usize, Bytes, Bytes)>,
}

impl Overlay {
    /// Forgets everything: the batch was written or rolled back.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What the batch says of `key`: `None` = nothing, `Some(None)` = deleted.
    pub(crate) fn get(&mut self, batch: &WriteBatch, key: &[u8]) -> Option<Option<Bytes>> {
        for op in batch.ops_since(self.seen_bytes) {
            self.seen_ops += 1;
            match op {
                Op::Put(k, v) => {
                    let value = Some(Bytes::copy_from_slice(v));
                    self.points.insert(Bytes::copy_from_slice(k), (self.seen_ops, value));
                }
                Op::Delete(k) => {
                    self.points.insert(Bytes::copy_from_slice(k), (self.seen_ops, None));
                }
                Op::DeleteRange(start, end) => {
                    let (start, end) = (Bytes::copy_from_slice(start), Bytes::copy_from_slice(end));
                    self.ranges.push((self.seen_ops, start, end));
                }
            }
        }
        self.seen_bytes = batch.bytes();
        let point = self.points.get(key);
        let cleared = self.ranges.iter().rev().find(|(_, start, end)| &start[..] <= key && key < &end[..]);
        match (point, cleared) {
            (Some((at, _)), Some((range_at, ..))) if range_at > at => Some(None),
            (Some((_, value)), _) => Some(value.clone()),
            (None, Some(_)) => Some(None),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_sees_the_last_write_of_the_batch_before_it() {
        let mut batch = WriteBatch::new();
        let mut overlay = Overlay::default();
        batch.put(b"a", b"1");
        assert_eq!(overlay.get(&batch, b"a"), Some(Some(Bytes::from_static(b"1"))));
        assert_eq!(overlay.get(&batch, b"b"), None);
        batch.delete_range(b"a", b"c");
        assert_eq!(overlay.get(&batch, b"a"), Some(None));
        assert_eq!(overlay.get(&batch, b"b"), Some(None));
        batch.put(b"b", b"2");
        assert_eq!(overlay.get(&batch, b"b"), Some(Some(Bytes::from_static(b"2"))));
        batch.delete(b"b");
        assert_eq!(overlay.get(&batch, b"b"), Some(None));
    }
}
