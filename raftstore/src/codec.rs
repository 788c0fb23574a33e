//! Reading and writing small binary records: little-endian integers, length-prefixed bytes.

use bytes::{Buf, Bytes};

/// Appends a length-prefixed byte string.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends an integer.
pub(crate) fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Takes an integer off the front.
pub(crate) fn get_u64(input: &mut Bytes) -> Option<u64> {
    (input.len() >= 8).then(|| input.get_u64_le())
}

/// Takes an integer off the front.
pub(crate) fn get_u32(input: &mut Bytes) -> Option<u32> {
    (input.len() >= 4).then(|| input.get_u32_le())
}

/// Takes a byte off the front.
pub(crate) fn get_u8(input: &mut Bytes) -> Option<u8> {
    (!input.is_empty()).then(|| input.get_u8())
}

/// Takes a length-prefixed byte string off the front, sharing the memory.
pub(crate) fn get_bytes(input: &mut Bytes) -> Option<Bytes> {
    let len = get_u32(input)? as usize;
    (input.len() >= len).then(|| input.split_to(len))
}

/// Takes a key off the front, in memory of its own: what it came in, perhaps a large frame, may go before the region does.
pub(crate) fn get_key(input: &mut Bytes) -> Option<Bytes> {
    get_bytes(input).map(|key| Bytes::copy_from_slice(&key))
}
