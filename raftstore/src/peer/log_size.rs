//! How many bytes a log holds from an index on, and how many an entry has, roughly.

use std::collections::VecDeque;

use flotilla_region::Index;

/// The part that the newest entry has in the mean.
const MEAN_OF: u64 = 16;

/// Bytes of a log, in steps of about equal size. Invariant: marks ascend in both fields.
#[derive(Debug, Default)]
pub(crate) struct LogSize {
    /// Since the log's base, or a step before it at most.
    total: u64,
    /// (index, bytes up to and including it).
    marks: VecDeque<(Index, u64)>,
    /// Bytes of an entry, those of the last ones above all; zero before the first.
    mean: u64,
}

impl LogSize {
    /// An entry of so many bytes is the last one now; the size is to be known to `step` bytes.
    pub(crate) fn push(&mut self, index: Index, bytes: u64, step: u64) {
        let last = self.marks.back().map_or(Index::ZERO, |(mark, _)| *mark);
        if last >= index {
            // Others took the place of the tail.
            self.marks.truncate(self.marks.partition_point(|(mark, _)| *mark < index));
            self.total = self.bytes_before();
        }
        self.total += bytes;
        self.mean =
            if self.mean == 0 { bytes } else { (self.mean * (MEAN_OF - 1) + bytes).div_ceil(MEAN_OF) };
        if self.total - self.bytes_before() >= step {
            self.marks.push_back((index, self.total));
        }
    }

    /// Bytes of an entry of late; at least one.
    pub(crate) fn mean(&self) -> u64 {
        self.mean.max(1)
    }

    fn bytes_before(&self) -> u64 {
        self.marks.back().map_or(0, |(_, bytes)| *bytes)
    }

    /// The log begins after `base` now.
    pub(crate) fn truncate(&mut self, base: Index) {
        let mut gone = 0;
        while let Some((_, bytes)) = self.marks.front().filter(|(mark, _)| *mark <= base) {
            gone = *bytes;
            self.marks.pop_front();
        }
        self.total -= gone;
        self.marks.iter_mut().for_each(|(_, bytes)| *bytes -= gone);
    }

    /// The first index of a log after `base` behind which no more than `bytes_max` are left, give or take a step.
    pub(crate) fn index_before_last(&self, base: Index, bytes_max: u64) -> Index {
        if self.total <= bytes_max {
            return base;
        }
        let fits = |&&(_, before): &&(Index, u64)| self.total - before <= bytes_max;
        self.marks.iter().find(fits).or(self.marks.back()).map_or(base, |(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Index = Index(10);

    fn log(indexes: std::ops::RangeInclusive<u64>) -> LogSize {
        let mut size = LogSize::default();
        indexes.for_each(|index| size.push(Index(index), 50, 100));
        size
    }

    #[test]
    fn the_last_bytes_begin_where_they_should_but_for_a_step() {
        let size = log(11..=30);
        let found = |bytes_max| size.index_before_last(BASE, bytes_max);
        assert_eq!([10_000, 1_000, 999, 500, 0].map(found), [10, 10, 12, 20, 30].map(Index));
    }

    #[test]
    fn what_is_cut_off_counts_no_more() {
        let mut size = log(11..=30);
        size.truncate(Index(21));
        assert_eq!((size.total, size.marks.front()), (500, Some(&(Index(22), 100))));
        assert_eq!(size.index_before_last(Index(21), 400), Index(22));
        size.truncate(Index(30));
        assert_eq!((size.total, size.marks.len()), (0, 0));
    }

    #[test]
    fn a_tail_that_was_replaced_counts_no_more() {
        let mut size = log(11..=30);
        size.push(Index(15), 50, 100);
        assert_eq!((size.total, size.marks.back()), (250, Some(&(Index(14), 200))));
        size.push(Index(16), 50, 100);
        assert_eq!(size.index_before_last(BASE, 100), Index(14));
    }

    #[test]
    fn the_mean_follows_what_entries_are_like_now() {
        let mut size = LogSize::default();
        assert_eq!(size.mean(), 1);
        size.push(Index(11), 50, 100);
        assert_eq!(size.mean(), 50);
        (12..100).for_each(|index| size.push(Index(index), 20_000, 100));
        assert!((19_000..=20_100).contains(&size.mean()), "{}", size.mean());
        (100..300).for_each(|index| size.push(Index(index), 50, 100));
        assert!((50..100).contains(&size.mean()), "{}", size.mean());
    }

    #[test]
    fn a_huge_entry_is_a_step_of_its_own() {
        let mut size = log(11..=12);
        size.push(Index(13), 1_000_000, 100);
        assert_eq!(size.index_before_last(BASE, 100), Index(13));
        size.push(Index(14), 10, 100);
        assert_eq!(size.index_before_last(BASE, 100), Index(13));
    }
}
