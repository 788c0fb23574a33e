//! A write batch in RocksDB's own serialised form, built and read without RocksDB.
//!
//! The form is public (RocksDB `db/write_batch.cc`): a 12-byte header {sequence u64, count u32}, little-endian, then
//! records {tag, varint-length-prefixed strings}. One encoding serves the real engine (which copies the buffer into a
//! RocksDB batch), the model engine and the check of WAL files before open.

const HEADER_BYTES: usize = 12;
const TAG_DELETE: u8 = 0x0;
const TAG_PUT: u8 = 0x1;
const TAG_DELETE_RANGE: u8 = 0xF;

/// An ordered list of writes that take effect together.
#[derive(Clone, PartialEq, Eq)]
pub struct WriteBatch {
    rep: Vec<u8>,
}

/// One write of a [`WriteBatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Sets a key.
    Put(&'a [u8], &'a [u8]),
    /// Removes a key.
    Delete(&'a [u8]),
    /// Removes all keys of `[start, end)`.
    DeleteRange(&'a [u8], &'a [u8]),
}

impl Default for WriteBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for WriteBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self { rep: vec![0; HEADER_BYTES] }
    }

    /// Reads a serialised batch, as RocksDB writes it into its WAL.
    ///
    /// # Errors
    /// `None` if the bytes are not a batch of the records that we write.
    pub fn from_bytes(rep: &[u8]) -> Option<Self> {
        if rep.len() < HEADER_BYTES {
            return None;
        }
        let count = u32::from_le_bytes(rep[8..12].try_into().ok()?);
        let mut reader = OpReader { rest: &rep[HEADER_BYTES..] };
        let mut seen = 0;
        while !reader.rest.is_empty() {
            reader.read()?;
            seen += 1;
        }
        (seen == count).then(|| Self { rep: rep.to_vec() })
    }

    /// The serialised form.
    pub fn as_bytes(&self) -> &[u8] {
        &self.rep
    }

    /// Number of writes.
    pub fn count(&self) -> usize {
        u32::from_le_bytes([self.rep[8], self.rep[9], self.rep[10], self.rep[11]]) as usize
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Size of the serialised form in bytes; also a position for [`WriteBatch::ops_since`].
    pub fn bytes(&self) -> usize {
        self.rep.len()
    }

    /// Sets `key`.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.record(TAG_PUT, &[key], Some(&[value]));
    }

    /// Sets a key to a value, each given in parts, which follow each other without a gap.
    pub fn put_parts(&mut self, key: &[&[u8]], value: &[&[u8]]) {
        self.record(TAG_PUT, key, Some(value));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: &[u8]) {
        self.record(TAG_DELETE, &[key], None);
    }

    /// Removes a key that is given in parts.
    pub fn delete_parts(&mut self, key: &[&[u8]]) {
        self.record(TAG_DELETE, key, None);
    }

    /// Removes all keys of `[start, end)`; nothing if the range is empty or inverted.
    pub fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        if start < end {
            self.record(TAG_DELETE_RANGE, &[start], Some(&[end]));
        }
    }

    /// Records the writes of `other` after its own.
    pub fn append(&mut self, other: &Self) {
        self.rep.extend_from_slice(&other.rep[HEADER_BYTES..]);
        let count = (self.count() + other.count()) as u32;
        self.rep[8..12].copy_from_slice(&count.to_le_bytes());
    }

    /// Empties the batch and keeps its memory.
    pub fn clear(&mut self) {
        self.rep.truncate(HEADER_BYTES);
        self.rep[8..12].fill(0);
    }

    /// Takes back everything recorded after `mark`, which is what [`WriteBatch::mark`] returned.
    pub fn rollback(&mut self, mark: (usize, usize)) {
        self.rep.truncate(mark.0);
        self.rep[8..12].copy_from_slice(&(mark.1 as u32).to_le_bytes());
    }

    /// A position to roll back to: (bytes, count).
    pub fn mark(&self) -> (usize, usize) {
        (self.rep.len(), self.count())
    }

    /// The writes, in order.
    pub fn iter(&self) -> impl Iterator<Item = Op<'_>> {
        self.ops_since(HEADER_BYTES)
    }

    /// The writes recorded when the batch had `bytes` bytes, and later ones.
    pub fn ops_since(&self, bytes: usize) -> impl Iterator<Item = Op<'_>> {
        let mut reader = OpReader { rest: &self.rep[bytes.max(HEADER_BYTES)..] };
        std::iter::from_fn(move || if reader.rest.is_empty() { None } else { reader.read() })
    }

    fn record(&mut self, tag: u8, first: &[&[u8]], second: Option<&[&[u8]]>) {
        self.rep.push(tag);
        push_string(&mut self.rep, first);
        if let Some(second) = second {
            push_string(&mut self.rep, second);
        }
        let count = self.count() as u32 + 1;
        self.rep[8..12].copy_from_slice(&count.to_le_bytes());
    }
}

fn push_string(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let mut len = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

struct OpReader<'a> {
    rest: &'a [u8],
}

impl<'a> OpReader<'a> {
    fn read(&mut self) -> Option<Op<'a>> {
        let (&tag, rest) = self.rest.split_first()?;
        self.rest = rest;
        let first = self.read_bytes()?;
        match tag {
            TAG_PUT => Some(Op::Put(first, self.read_bytes()?)),
            TAG_DELETE => Some(Op::Delete(first)),
            TAG_DELETE_RANGE => Some(Op::DeleteRange(first, self.read_bytes()?)),
            _ => None,
        }
    }

    fn read_bytes(&mut self) -> Option<&'a [u8]> {
        let mut len = 0usize;
        for shift in (0..35).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            len |= ((byte & 0x7F) as usize) << shift;
            if byte & 0x80 == 0 {
                let (bytes, rest) = self.rest.split_at_checked(len)?;
                self.rest = rest;
                return Some(bytes);
            }
        }
        None
    }
}
