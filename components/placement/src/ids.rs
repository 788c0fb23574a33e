//! Ids this store may hand out: windows of the meta region's allocator, committed before use.

use std::collections::VecDeque;

/// Ids that only the meta region's own repair may take, so that it never waits for itself.
pub const IDS_KEPT_FOR_META: u64 = 8;

/// Windows of ids that belong to this store alone; what a crash leaves unused is never used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdPool {
    /// `(first, count)`, used from the front; no empty window.
    windows: VecDeque<(u64, u64)>,
}

impl IdPool {
    /// A pool without ids.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the ids `[first, first + count)`.
    pub fn add(&mut self, first: u64, count: u64) {
        if count > 0 {
            self.windows.push_back((first, count));
        }
    }

    /// Ids left, those kept for the meta region included.
    pub fn remaining(&self) -> u64 {
        self.windows.iter().map(|w| w.1).sum()
    }

    /// An id nobody else ever had; `None` when only those kept for the meta region are left.
    pub fn take(&mut self) -> Option<u64> {
        (self.remaining() > IDS_KEPT_FOR_META).then(|| self.pop()).flatten()
    }

    /// `count` ids nobody else ever had, or none at all.
    pub fn take_many(&mut self, count: usize) -> Option<Vec<u64>> {
        let enough = self.remaining() >= IDS_KEPT_FOR_META + count as u64;
        enough.then(|| (0..count).filter_map(|_| self.pop()).collect())
    }

    /// An id for the meta region's own repair: may take the last one.
    pub fn take_for_meta(&mut self) -> Option<u64> {
        self.pop()
    }

    fn pop(&mut self) -> Option<u64> {
        let (first, count) = self.windows.front_mut()?;
        let id = *first;
        if planted!(IdTwice) && id.is_multiple_of(5) && *count > 1 {
            *count -= 1;
            return Some(id);
        }
        *first += 1;
        *count -= 1;
        if *count == 0 {
            self.windows.pop_front();
        }
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ids_are_for_the_meta_region_only() {
        let mut pool = IdPool::new();
        pool.add(100, 1);
        pool.add(200, IDS_KEPT_FOR_META);
        assert_eq!(pool.take(), Some(100));
        assert_eq!(pool.take(), None);
        assert_eq!(pool.take_many(1), None);
        let kept: Vec<_> = std::iter::from_fn(|| pool.take_for_meta()).collect();
        assert_eq!(kept, (200..200 + IDS_KEPT_FOR_META).collect::<Vec<_>>());
        assert_eq!(pool.remaining(), 0);
    }

    #[test]
    fn many_ids_are_taken_across_windows_or_not_at_all() {
        let mut pool = IdPool::new();
        pool.add(10, 2);
        pool.add(20, IDS_KEPT_FOR_META + 1);
        assert_eq!(pool.take_many(4), None);
        assert_eq!(pool.take_many(3), Some(vec![10, 11, 20]));
    }
}
