//! A small sorted set of peer ids.

use crate::types::PeerId;

/// A set of peers as an ascending list: configurations have a handful of members, so a scan beats a tree.
///
/// Invariant: strictly ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSet(Vec<PeerId>);

impl PeerSet {
    /// Whether `id` is a member.
    pub fn contains(&self, id: PeerId) -> bool {
        self.0.contains(&id)
    }

    /// Adds `id`; false if it was there.
    pub fn insert(&mut self, id: PeerId) -> bool {
        match self.0.binary_search(&id) {
            Ok(_) => false,
            Err(at) => {
                self.0.insert(at, id);
                true
            }
        }
    }

    /// Removes `id`; false if it was not there.
    pub fn remove(&mut self, id: PeerId) -> bool {
        match self.0.binary_search(&id) {
            Ok(at) => {
                self.0.remove(at);
                true
            }
            Err(_) => false,
        }
    }

    /// Members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PeerId> + Clone + '_ {
        self.0.iter().copied()
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Members as an ascending slice.
    pub fn as_slice(&self) -> &[PeerId] {
        &self.0
    }

    /// Members as an owned ascending list.
    pub fn to_vec(&self) -> Vec<PeerId> {
        self.0.clone()
    }
}

impl FromIterator<PeerId> for PeerSet {
    fn from_iter<T: IntoIterator<Item = PeerId>>(ids: T) -> Self {
        let mut list: Vec<PeerId> = ids.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        Self(list)
    }
}
