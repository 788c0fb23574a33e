//! Half-open ranges of user keys.

use std::fmt;

use bytes::Bytes;

/// Keys `k` with `start <= k < end`; an empty `end` means no upper bound.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// First key, inclusive; empty = the smallest key.
    pub start: Bytes,
    /// End, exclusive; empty = unbounded.
    pub end: Bytes,
}

impl KeyRange {
    /// The whole key space.
    pub const ALL: Self = Self { start: Bytes::new(), end: Bytes::new() };

    /// A range of these bounds.
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: end.into() }
    }

    /// Whether no key can be in the range.
    pub fn is_empty(&self) -> bool {
        !self.end.is_empty() && self.start >= self.end
    }

    /// Whether `key` is in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.is_before_end(key)
    }

    /// Whether `key < end`.
    pub fn is_before_end(&self, key: &[u8]) -> bool {
        self.end.is_empty() || key < &self.end[..]
    }

    /// Whether every key of `other` is in this range.
    pub fn contains_range(&self, other: &Self) -> bool {
        other.is_empty()
            || (other.start >= self.start
                && (self.end.is_empty() || (!other.end.is_empty() && other.end <= self.end)))
    }

    /// Whether some key is in both ranges.
    pub fn overlaps(&self, other: &Self) -> bool {
        !self.is_empty()
            && !other.is_empty()
            && self.is_before_end(&other.start)
            && other.is_before_end(&self.start)
    }

    /// The part that both have; may be empty.
    pub fn intersect(&self, other: &Self) -> Self {
        let start = self.start.clone().max(other.start.clone());
        let end = match (self.end.is_empty(), other.end.is_empty()) {
            (true, _) => other.end.clone(),
            (_, true) => self.end.clone(),
            _ => self.end.clone().min(other.end.clone()),
        };
        Self { start, end }
    }
}

/// Of a longer key the rest is not shown: one that marks an end of the key space is longer than any other.
const SHOWN_MAX: usize = 64;

fn shown(key: &[u8]) -> String {
    match key.get(..SHOWN_MAX) {
        Some(head) if key.len() > SHOWN_MAX => format!("{}.. ({} bytes)", head.escape_ascii(), key.len()),
        _ => key.escape_ascii().to_string(),
    }
}

impl fmt::Debug for KeyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = if self.end.is_empty() { "+inf".into() } else { shown(&self.end) };
        write!(f, "[{}, {end})", shown(&self.start))
    }
}
