//! What is left of a range when part of it is done: the steps of calls that walk over regions.

use bytes::Bytes;
use flotilla_region::{KeyRange, sentinel_start};

/// The same range with an end: no legal key lies behind the sentinel's start.
pub fn bounded(range: &KeyRange) -> KeyRange {
    let end = if range.end.is_empty() { sentinel_start() } else { range.end.clone() };
    KeyRange { start: range.start.clone(), end }
}

/// What is left of `left`, whose end is not empty, after a page of `region`: behind the page's last key if the page was
/// full, else behind the region. `None` if nothing is.
pub fn left_after(
    left: &KeyRange,
    region: &KeyRange,
    reverse: bool,
    last: Option<&Bytes>,
) -> Option<KeyRange> {
    let mut rest = left.clone();
    match (reverse, last) {
        (false, Some(key)) => rest.start = successor(key),
        (false, None) if region.end.is_empty() => return None,
        (false, None) => rest.start = region.end.clone(),
        (true, Some(key)) => rest.end = key.clone(),
        (true, None) => rest.end = region.start.clone(),
    }
    // An empty end is the smallest bound here, not the absence of one.
    (!rest.end.is_empty() && rest.start < rest.end).then_some(rest)
}

/// The smallest key above `key`.
fn successor(key: &Bytes) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}
