//! A full scan sees every key once (PITFALLS.md I1): a client that reads region after region meets none twice and
//! misses none.

use std::collections::BTreeMap;

/// Checks how often each of the keys `0..keys` was met.
///
/// # Errors
/// A sentence that names a key.
pub fn check_scan(keys: usize, met: &BTreeMap<usize, u32>) -> Result<(), String> {
    match (0..keys).find(|key| met.get(key) != Some(&1)) {
        None => Ok(()),
        Some(key) => Err(format!("a full scan met key {key} {} times", met.get(&key).copied().unwrap_or(0))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_met_twice_or_never_is_found() {
        assert_eq!(check_scan(2, &BTreeMap::from([(0, 1), (1, 1)])), Ok(()));
        assert!(check_scan(2, &BTreeMap::from([(0, 1), (1, 2)])).is_err());
        assert!(check_scan(2, &BTreeMap::from([(0, 1)])).is_err());
    }
}
