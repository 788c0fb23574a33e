//! An ordered map whose nodes are full.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

/// Fewer entries are not worth the work.
const ENTRIES_MIN: usize = 512;

/// A [`BTreeMap`] for one entry of each of very many regions, which come and rarely go.
///
/// `BTreeMap` splits a node that is full in halves. Where keys come in ascending order, as new regions' ids do, nothing is
/// ever put into the lower one again: six places of eleven are used. Built from what it holds it has full nodes, and that is
/// done whenever [`Self::insert`] finds that it has grown by a quarter since: each entry moves a few times, and a hundred
/// thousand take some milliseconds.
#[derive(Clone, Debug)]
pub struct DenseMap<K, V> {
    map: BTreeMap<K, V>,
    /// Entries when it was built last.
    built: usize,
}

impl<K: Ord, V> DenseMap<K, V> {
    /// An empty map.
    pub const fn new() -> Self {
        Self { map: BTreeMap::new(), built: 0 }
    }

    /// Sets a key. Returns what it had before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.map.insert(key, value);
        if self.is_loose() {
            self.map = std::mem::take(&mut self.map).into_iter().collect();
            self.built = self.map.len();
        }
        before
    }

    fn is_loose(&self) -> bool {
        self.map.len() >= ENTRIES_MIN && self.map.len().saturating_sub(self.built) > self.built / 4
    }
}

impl<K: Ord, V> Default for DenseMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

/// What it holds, not how.
impl<K: PartialEq, V: PartialEq> PartialEq for DenseMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.map == other.map
    }
}

impl<K: Eq, V: Eq> Eq for DenseMap<K, V> {}

impl<K, V> Deref for DenseMap<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &BTreeMap<K, V> {
        &self.map
    }
}

impl<K, V> DerefMut for DenseMap<K, V> {
    fn deref_mut(&mut self) -> &mut BTreeMap<K, V> {
        &mut self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_a_map_does_and_is_built_anew_for_each_quarter_that_it_grows() {
        let (mut dense, mut map) = (DenseMap::new(), BTreeMap::new());
        let mut builds = Vec::new();
        for number in 0..20_000u64 {
            // Ascending ids, with some that come and go in between.
            let key = if number % 7 == 0 { number / 2 } else { number };
            assert_eq!(dense.insert(key, number), map.insert(key, number));
            if number % 11 == 0 {
                assert_eq!(dense.remove(&(number / 3)), map.remove(&(number / 3)));
            }
            if builds.last() != Some(&dense.built) {
                builds.push(dense.built);
            }
        }
        assert_eq!(*dense, map);
        assert_eq!((builds[0], builds[1]), (0, 512));
        let grows = |pair: &[usize]| pair[1] > pair[0] + pair[0] / 4 && pair[1] <= pair[0] + pair[0] / 4 + 2;
        assert!(builds[1..].windows(2).all(grows), "{builds:?}");
        assert!(dense.len() - dense.built <= dense.built / 4);
    }

    #[test]
    fn one_that_shrank_is_left_alone_until_it_is_larger_than_ever() {
        let mut dense: DenseMap<u64, ()> = DenseMap::new();
        (0..1_000).for_each(|key| assert_eq!(dense.insert(key, ()), None));
        let built = dense.built;
        dense.retain(|key, ()| *key < 600);
        (2_000..2_100).for_each(|key| assert_eq!(dense.insert(key, ()), None));
        assert_eq!((dense.len(), dense.built), (700, built));
        let same = DenseMap { map: dense.map.clone(), built: 0 };
        assert_eq!(same, dense, "equal is what holds the same");
    }
}
