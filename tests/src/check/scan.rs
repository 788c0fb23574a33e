//! A full scan sees every key once (PITFALLS.md I1): a client that reads region after region, forwards or backwards, page
//! by page, meets no key twice, misses none that is there, and finds none that is not.

use std::collections::BTreeMap;

use crate::sim::kv::Value;

/// Checks how often a full scan met each key against what single reads found before it, while nobody wrote. Keys whose
/// values have an end, which `may_end` tells, may be gone since.
///
/// # Errors
/// A sentence that names a key.
pub fn check_scan(
    met: &BTreeMap<usize, u32>,
    read: &BTreeMap<usize, Value>,
    may_end: impl Fn(usize) -> bool,
) -> Result<(), String> {
    let times = |key: &usize| met.get(key).copied().unwrap_or(0);
    let is_right = |(key, value): &(&usize, &Value)| match times(key) {
        0 => **value == Value(0) || may_end(**key),
        1 => **value != Value(0),
        _ => false,
    };
    if let Some((key, value)) = read.iter().find(|found| !is_right(found)) {
        return Err(format!("a full scan met key {key} {} times; a read found {value:?}", times(key)));
    }
    match met.keys().find(|key| !read.contains_key(key)) {
        None => Ok(()),
        Some(key) => Err(format!("a full scan met key {key}, which nobody uses")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_met_twice_or_never_or_without_a_value_is_found() {
        let read = BTreeMap::from([(0, Value(4)), (1, Value(0)), (2, Value(5))]);
        let check = |met: &[(usize, u32)]| check_scan(&met.iter().copied().collect(), &read, |key| key == 2);
        assert_eq!(check(&[(0, 1), (2, 1)]), Ok(()));
        assert_eq!(check(&[(0, 1)]), Ok(()), "its time may be over");
        assert!(check(&[(2, 1)]).is_err(), "missed");
        assert!(check(&[(0, 2)]).is_err(), "met twice");
        assert!(check(&[(0, 1), (2, 2)]).is_err(), "met twice");
        assert!(check(&[(0, 1), (1, 1)]).is_err(), "not there");
        assert!(check(&[(0, 1), (9, 1)]).is_err(), "nobody's");
    }
}
