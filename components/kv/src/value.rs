//! A value as it is stored.
//!
//! ```text
//! flags u8 | expiry u64 little-endian, if flag 0x01 | the client's bytes
//! ```

use bytes::{Buf, Bytes};

/// The value has an expiry.
const EXPIRES: u8 = 0x01;

/// A stored value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// The client's bytes.
    pub bytes: Bytes,
    /// From when on it counts as absent, in milliseconds since the Unix epoch; `None` = never.
    pub expiry_ms: Option<u64>,
}

impl Value {
    /// What comes before the client's bytes in the stored form: so many of these bytes.
    pub(crate) fn prefix(expiry_ms: Option<u64>) -> ([u8; 9], usize) {
        let mut prefix = [0; 9];
        let Some(expiry) = expiry_ms else { return (prefix, 1) };
        prefix[0] = EXPIRES;
        prefix[1..].copy_from_slice(&expiry.to_le_bytes());
        (prefix, 9)
    }

    /// Reads the stored form, sharing its memory; `None` if it is none.
    pub fn decode(mut stored: Bytes) -> Option<Self> {
        let (expiry_ms, header) = Self::header(&stored)?;
        stored.advance(header);
        Some(Self { bytes: stored, expiry_ms })
    }

    /// Expiry and length of the header of a stored value.
    pub(crate) fn header(stored: &[u8]) -> Option<(Option<u64>, usize)> {
        match *stored.first()? {
            0 => Some((None, 1)),
            EXPIRES => {
                let expiry = stored.get(1..9)?.try_into().ok()?;
                Some((Some(u64::from_le_bytes(expiry)), 9))
            }
            _ => None,
        }
    }

    /// Whether it counts as absent at `now_ms`.
    pub fn has_expired(&self, now_ms: u64) -> bool {
        self.expiry_ms.is_some_and(|expiry| expiry <= now_ms)
    }
}

/// Expiry of what is written at `now_ms` for `ttl_s` seconds; 0 = for ever.
pub(crate) fn expiry(now_ms: u64, ttl_s: u64) -> Option<u64> {
    (ttl_s > 0).then(|| now_ms.saturating_add(ttl_s.saturating_mul(1_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(bytes: &[u8], expiry_ms: Option<u64>) -> Vec<u8> {
        let (prefix, length) = Value::prefix(expiry_ms);
        [&prefix[..length], bytes].concat()
    }

    #[test]
    fn a_value_comes_back_with_its_expiry() {
        for expiry_ms in [None, Some(0), Some(u64::MAX)] {
            for bytes in [&b""[..], b"v", b"\x01\x00"] {
                let value = Value::decode(stored(bytes, expiry_ms).into()).expect("encoded");
                assert_eq!((&value.bytes[..], value.expiry_ms), (bytes, expiry_ms));
            }
        }
    }

    #[test]
    fn the_stored_form_is_pinned() {
        assert_eq!(stored(b"v", None), b"\x00v");
        assert_eq!(stored(b"v", Some(0x0102)), b"\x01\x02\x01\x00\x00\x00\x00\x00\x00v");
    }

    #[test]
    fn what_nobody_wrote_is_refused() {
        assert_eq!(Value::decode(Bytes::new()), None);
        assert_eq!(Value::decode(Bytes::from_static(b"\x02v")), None);
        assert_eq!(Value::decode(Bytes::from_static(b"\x01\x00\x00\x00\x00\x00\x00\x00")), None);
    }

    #[test]
    fn a_ttl_beyond_time_itself_never_wraps() {
        assert_eq!(expiry(1_000, 0), None);
        assert_eq!(expiry(1_000, 2), Some(3_000));
        assert_eq!(expiry(1_000, u64::MAX), Some(u64::MAX));
    }
}
