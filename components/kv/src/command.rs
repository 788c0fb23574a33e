//! What clients ask to be written.
//!
//! In the log (integers and lengths as in [`crate::codec`]):
//! ```text
//! format u8 = 1 | kind u8 | body
//! 1 put              { key | ttl seconds | value }, repeated
//! 2 delete           { key }, repeated
//! 3 delete range     start | end, empty = to the end of the region
//! 4 compare and swap flags u8 | key | expected, if 0x01 | value and ttl seconds, if 0x02
//! ```

use bytes::Bytes;
use flotilla_raftstore::Few;

use crate::codec::{Reader, put_bytes, put_int};

const FORMAT: u8 = 1;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_RANGE: u8 = 3;
const COMPARE_AND_SWAP: u8 = 4;

const HAS_EXPECTED: u8 = 0x01;
const HAS_VALUE: u8 = 0x02;

/// One pair to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put<'a> {
    /// Key.
    pub key: &'a [u8],
    /// Value.
    pub value: &'a [u8],
    /// Seconds that it lives; 0 = for ever.
    pub ttl_s: u64,
}

/// A command, borrowing the caller's or the log's bytes. All of its writes take effect together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Sets keys, in order.
    Put(Few<Put<'a>>),
    /// Removes keys.
    Delete(Few<&'a [u8]>),
    /// Removes all keys of `[start, end)`.
    DeleteRange {
        /// First key.
        start: &'a [u8],
        /// End, exclusive; empty = to the end of the key space.
        end: &'a [u8],
    },
    /// Writes a key if it holds what is expected.
    CompareAndSwap {
        /// Key.
        key: &'a [u8],
        /// What it must hold; `None` = it must be absent.
        expected: Option<&'a [u8]>,
        /// New value and its life in seconds; `None` = remove the key.
        new: Option<(&'a [u8], u64)>,
    },
}

impl<'a> Command<'a> {
    /// Form in the log.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.bytes_estimate());
        out.push(FORMAT);
        match self {
            Self::Put(puts) => {
                out.push(PUT);
                for put in puts {
                    put_bytes(&mut out, put.key);
                    put_int(&mut out, put.ttl_s);
                    put_bytes(&mut out, put.value);
                }
            }
            Self::Delete(keys) => {
                out.push(DELETE);
                keys.iter().for_each(|key| put_bytes(&mut out, key));
            }
            Self::DeleteRange { start, end } => {
                out.push(DELETE_RANGE);
                put_bytes(&mut out, start);
                put_bytes(&mut out, end);
            }
            Self::CompareAndSwap { key, expected, new } => {
                out.push(COMPARE_AND_SWAP);
                let has_expected = if expected.is_some() { HAS_EXPECTED } else { 0 };
                let has_value = if new.is_some() { HAS_VALUE } else { 0 };
                out.push(has_expected | has_value);
                put_bytes(&mut out, key);
                if let Some(expected) = expected {
                    put_bytes(&mut out, expected);
                }
                if let Some((value, ttl_s)) = new {
                    put_bytes(&mut out, value);
                    put_int(&mut out, *ttl_s);
                }
            }
        }
        out.into()
    }

    /// At least the bytes of the form in the log.
    fn bytes_estimate(&self) -> usize {
        let body: usize = match self {
            Self::Put(puts) => puts.iter().map(|put| put.key.len() + put.value.len() + 12).sum(),
            Self::Delete(keys) => keys.iter().map(|key| key.len() + 3).sum(),
            Self::DeleteRange { start, end } => start.len() + end.len() + 6,
            Self::CompareAndSwap { key, expected, new } => {
                let expected = expected.map_or(0, <[u8]>::len);
                key.len() + expected + new.map_or(0, |(value, _)| value.len()) + 24
            }
        };
        body + 2
    }

    /// Reads the form in the log; `None` if this version does not know it.
    pub fn decode(command: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(command);
        if reader.byte()? != FORMAT {
            return None;
        }
        let decoded = match reader.byte()? {
            PUT => {
                let mut puts = Few::new();
                while !reader.is_empty() {
                    let (key, ttl_s, value) = (reader.bytes()?, reader.int()?, reader.bytes()?);
                    puts.push(Put { key, value, ttl_s });
                }
                Self::Put(puts)
            }
            DELETE => {
                let mut keys = Few::new();
                while !reader.is_empty() {
                    keys.push(reader.bytes()?);
                }
                Self::Delete(keys)
            }
            DELETE_RANGE => Self::DeleteRange { start: reader.bytes()?, end: reader.bytes()? },
            COMPARE_AND_SWAP => Self::decode_swap(&mut reader)?,
            _ => return None,
        };
        reader.is_empty().then_some(decoded)
    }

    fn decode_swap(reader: &mut Reader<'a>) -> Option<Self> {
        let flags = reader.byte()?;
        if flags & !(HAS_EXPECTED | HAS_VALUE) != 0 {
            return None;
        }
        let key = reader.bytes()?;
        let expected = if flags & HAS_EXPECTED != 0 { Some(reader.bytes()?) } else { None };
        let new = if flags & HAS_VALUE != 0 { Some((reader.bytes()?, reader.int()?)) } else { None };
        Some(Self::CompareAndSwap { key, expected, new })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<(Command<'static>, &'static [u8])> {
        vec![
            (
                Command::Put(
                    vec![Put { key: b"k", value: b"v", ttl_s: 0 }, Put { key: b"l", value: b"", ttl_s: 300 }]
                        .into(),
                ),
                b"\x01\x01\x01k\x00\x01v\x01l\xac\x02\x00",
            ),
            (Command::Delete(vec![&b"k"[..], b""].into()), b"\x01\x02\x01k\x00"),
            (Command::DeleteRange { start: b"a", end: b"" }, b"\x01\x03\x01a\x00"),
            (Command::CompareAndSwap { key: b"k", expected: None, new: None }, b"\x01\x04\x00\x01k"),
            (
                Command::CompareAndSwap { key: b"k", expected: Some(b"o"), new: Some((b"n", 7)) },
                b"\x01\x04\x03\x01k\x01o\x01n\x07",
            ),
        ]
    }

    #[test]
    fn the_form_in_the_log_is_pinned() {
        for (command, bytes) in samples() {
            assert_eq!(&command.encode()[..], bytes, "{command:?}");
            assert_eq!(Command::decode(bytes), Some(command));
        }
    }

    #[test]
    fn a_command_cut_short_or_unknown_is_refused() {
        assert_eq!(Command::decode(b""), None);
        assert_eq!(Command::decode(b"\x02\x01"), None, "newer format");
        assert_eq!(Command::decode(b"\x01\x05"), None, "unknown kind");
        assert_eq!(Command::decode(b"\x01\x04\x04\x01k"), None, "unknown flag");
        assert_eq!(Command::decode(b"\x01\x03\x01a\x00z"), None, "bytes left over");
        assert_eq!(Command::decode(b"\x01\x01\x01k\x00\x02v"), None, "cut short");
    }
}
