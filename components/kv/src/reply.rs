//! What a command did, on its way from the apply worker to the caller.

use bytes::{Buf, Bytes};
use flotilla_region::KeyRange;

use crate::codec::{Reader, put_bytes};

const DONE: u8 = 0;
const OUTSIDE: u8 = 1;
const SWAPPED: u8 = 2;

const SUCCEEDED: u8 = 0x01;
const HAD_VALUE: u8 = 0x02;

/// Outcome of an applied command. Not stored: it lives between the apply worker and the caller of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Written.
    Done,
    /// Nothing was written: this key is not in the region, whose range follows.
    Outside(Bytes, KeyRange),
    /// Outcome of a compare-and-swap.
    Swapped {
        /// Whether the key held what was expected.
        succeeded: bool,
        /// What it held before; `None` = it was absent.
        previous: Option<Bytes>,
    },
}

impl Reply {
    /// Form that the apply seam carries.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Done => Bytes::from_static(&[DONE]),
            Self::Outside(key, range) => {
                let mut out = vec![OUTSIDE];
                [key, &range.start, &range.end].into_iter().for_each(|part| put_bytes(&mut out, part));
                out.into()
            }
            Self::Swapped { succeeded, previous } => {
                let mut flags = if *succeeded { SUCCEEDED } else { 0 };
                flags |= if previous.is_some() { HAD_VALUE } else { 0 };
                [&[SWAPPED, flags], previous.as_deref().unwrap_or_default()].concat().into()
            }
        }
    }

    /// Reads that form; `None` if it is none.
    pub fn decode(mut reply: Bytes) -> Option<Self> {
        if reply.is_empty() {
            return None;
        }
        match reply.get_u8() {
            DONE => Some(Self::Done),
            OUTSIDE => {
                let mut reader = Reader(&reply);
                let mut part = || reader.bytes().map(Bytes::copy_from_slice);
                Some(Self::Outside(part()?, KeyRange { start: part()?, end: part()? }))
            }
            SWAPPED if !reply.is_empty() => {
                let flags = reply.get_u8();
                let previous = (flags & HAD_VALUE != 0).then_some(reply);
                Some(Self::Swapped { succeeded: flags & SUCCEEDED != 0, previous })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_come_back() {
        let replies = [
            Reply::Done,
            Reply::Outside(Bytes::from_static(b"k"), KeyRange::new("a", "")),
            Reply::Swapped { succeeded: true, previous: None },
            Reply::Swapped { succeeded: false, previous: Some(Bytes::new()) },
            Reply::Swapped { succeeded: true, previous: Some(Bytes::from_static(b"v")) },
        ];
        for reply in replies {
            assert_eq!(Reply::decode(reply.encode()), Some(reply));
        }
        assert_eq!(Reply::decode(Bytes::new()), None);
        assert_eq!(Reply::decode(Bytes::from_static(&[9])), None);
        assert_eq!(Reply::decode(Bytes::from_static(&[SWAPPED])), None);
    }
}
