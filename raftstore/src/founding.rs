//! The regions that a cluster begins with.

use bytes::Bytes;
use flotilla_region::{
    KEY_BYTES_MAX, KeyRange, Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, Space, StoreId,
    sentinel_start,
};

/// Ids below [`RegionId::FIRST_FREE`] that no region of every cluster has; each pre-split region and its peer take one.
const FIRST_SPARE_ID: u64 = RegionId::SENTINEL.0 + 1;
/// Most keys of a pre-split.
pub const PRE_SPLIT_KEYS_MAX: usize = 900;

/// Why a list of keys cannot be a pre-split. Keys are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PreSplitError {
    /// Every region begins there anyway, or none can.
    #[error("key {0} is empty")]
    Empty(usize),
    /// No client could write it.
    #[error("key {at} has {bytes} bytes, more than {KEY_BYTES_MAX}")]
    TooLong {
        /// Which one.
        at: usize,
        /// Its length.
        bytes: usize,
    },
    /// It is there twice.
    #[error("key {0} is the same as the one before it")]
    Repeated(usize),
    /// A smaller one comes after a greater one.
    #[error("key {0} is less than the one before it: keys must ascend")]
    Descending(usize),
    /// There are more than a cluster can begin with.
    #[error("{0} keys are more than {PRE_SPLIT_KEYS_MAX}")]
    TooMany(usize),
}

/// Keys at which the first region of a new cluster is cut.
///
/// Invariant: they ascend, are legal keys, and there are at most [`PRE_SPLIT_KEYS_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreSplit(Vec<Bytes>);

impl PreSplit {
    /// Of these keys, in this order.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn new(keys: Vec<Bytes>) -> Result<Self, PreSplitError> {
        if keys.len() > PRE_SPLIT_KEYS_MAX {
            return Err(PreSplitError::TooMany(keys.len()));
        }
        for (i, key) in keys.iter().enumerate() {
            let at = i + 1;
            if key.is_empty() {
                return Err(PreSplitError::Empty(at));
            }
            if key.len() > KEY_BYTES_MAX {
                return Err(PreSplitError::TooLong { at, bytes: key.len() });
            }
            match i.checked_sub(1).map(|before| keys[before].cmp(key)) {
                Some(std::cmp::Ordering::Equal) => return Err(PreSplitError::Repeated(at)),
                Some(std::cmp::Ordering::Greater) => return Err(PreSplitError::Descending(at)),
                _ => {}
            }
        }
        Ok(Self(keys))
    }

    /// The keys.
    pub fn keys(&self) -> &[Bytes] {
        &self.0
    }
}

/// The regions of a new cluster, all on one store. As after a split, the rightmost part keeps the id.
pub(crate) fn first_regions(store: StoreId, cuts: &PreSplit) -> Vec<Region> {
    let sentinel = sentinel_start();
    let mut regions = vec![(RegionId::META, Space::Meta, KeyRange::ALL)];
    let mut start = Bytes::new();
    for (id, key) in (FIRST_SPARE_ID..).zip(cuts.keys()) {
        regions.push((RegionId(id), Space::User, KeyRange { start, end: key.clone() }));
        start = key.clone();
    }
    regions.push((RegionId::FIRST_USER, Space::User, KeyRange { start, end: sentinel.clone() }));
    regions.push((RegionId::SENTINEL, Space::User, KeyRange { start: sentinel, end: Bytes::new() }));
    let region = |(id, space, range): (RegionId, Space, KeyRange)| Region {
        id,
        space,
        range,
        epoch: RegionEpoch::INITIAL,
        peers: vec![Peer { id: PeerId(id.0), store, role: PeerRole::Voter }],
    };
    regions.into_iter().map(region).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn cuts(keys: &[&'static str]) -> Result<PreSplit, PreSplitError> {
        PreSplit::new(keys.iter().map(|key| Bytes::from_static(key.as_bytes())).collect())
    }

    #[test]
    fn the_first_regions_tile_the_key_space_with_ids_that_nobody_else_gets() {
        let many = (0..PRE_SPLIT_KEYS_MAX as u64).map(|n| Bytes::copy_from_slice(&(n + 1).to_be_bytes()));
        for cuts in
            [PreSplit::default(), cuts(&["b", "ba", "m"]).unwrap(), PreSplit::new(many.collect()).unwrap()]
        {
            let regions = first_regions(StoreId(1), &cuts);
            assert_eq!(regions.len(), cuts.keys().len() + 3);
            let ids: BTreeSet<RegionId> = regions.iter().map(|region| region.id).collect();
            assert_eq!(ids.len(), regions.len());
            assert!(ids.iter().all(|id| *id < RegionId::FIRST_FREE));
            let users: Vec<&Region> = regions.iter().filter(|region| region.space == Space::User).collect();
            assert!(users[0].range.start.is_empty());
            for pair in users.windows(2) {
                assert_eq!(pair[0].range.end, pair[1].range.start);
            }
            let last = users[users.len() - 1];
            assert_eq!((last.id, last.range.end.is_empty()), (RegionId::SENTINEL, true));
            assert_eq!(users[users.len() - 2].id, RegionId::FIRST_USER);
        }
    }

    #[test]
    fn what_is_wrong_with_a_list_is_said_by_its_number() {
        assert_eq!(cuts(&["a", ""]), Err(PreSplitError::Empty(2)));
        assert_eq!(cuts(&["a", "b", "b"]), Err(PreSplitError::Repeated(3)));
        assert_eq!(cuts(&["b", "a"]), Err(PreSplitError::Descending(2)));
        let long = Bytes::from(vec![b'a'; KEY_BYTES_MAX + 1]);
        let bytes = long.len();
        assert_eq!(PreSplit::new(vec![long]), Err(PreSplitError::TooLong { at: 1, bytes }));
        let many: Vec<Bytes> = (0..=PRE_SPLIT_KEYS_MAX).map(|n| format!("{n:04}").into()).collect();
        assert_eq!(PreSplit::new(many), Err(PreSplitError::TooMany(PRE_SPLIT_KEYS_MAX + 1)));
    }
}
