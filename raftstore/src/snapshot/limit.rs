//! How many bytes of snapshots may pass in a second.

use crate::time::Time;

/// What may pass at once after a time in which nothing did, in microseconds of the rate.
const BURST_US: u64 = 100_000;

/// A budget of bytes per second. What passes is paid afterwards: nothing more may pass until nothing is owed.
pub(super) struct RateLimit {
    bytes_per_s: u64,
    /// In bytes times 1,000,000, so that nothing is lost by rounding; below zero = owed.
    level: i128,
    at: Time,
}

impl RateLimit {
    /// `bytes_per_s` 0 = no limit.
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, level: 0, at: Time::default() }
    }

    /// Whether something may pass.
    pub(super) fn is_open(&mut self, now: Time) -> bool {
        self.save_up(now);
        self.level >= 0
    }

    fn save_up(&mut self, now: Time) {
        let elapsed_us = now.0.saturating_sub(self.at.0);
        self.at = self.at.max(now);
        let rate = i128::from(self.bytes_per_s);
        self.level = (self.level + i128::from(elapsed_us) * rate).min(i128::from(BURST_US) * rate);
    }

    /// Something passes.
    pub(super) fn take(&mut self, bytes: usize, now: Time) {
        self.save_up(now);
        if self.bytes_per_s > 0 {
            self.level -= bytes as i128 * 1_000_000;
        }
    }

    /// When something may pass again.
    pub(super) fn opens_at(&self) -> Time {
        let owed = self.level.min(0).unsigned_abs();
        let wait_us = owed.div_ceil(u128::from(self.bytes_per_s.max(1)));
        Time(self.at.0.saturating_add(u64::try_from(wait_us).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of so many parts that pass in `seconds` if each goes as soon as it may.
    fn passed(limit: &mut RateLimit, part: usize, seconds: u64) -> u64 {
        let (mut now, mut bytes) = (Time(7_000_000), 0);
        let end = now.plus_ms(seconds * 1_000);
        while now < end {
            assert!(limit.is_open(now));
            limit.take(part, now);
            bytes += part as u64;
            now = limit.opens_at();
            assert!(now.0 == limit.at.0 || !limit.is_open(Time(now.0 - 1)), "no earlier");
        }
        bytes
    }

    #[test]
    fn no_more_passes_than_the_rate_and_one_burst_however_it_is_cut() {
        for part in [1, 30, 999, 100_000, 3_000_000] {
            let mut limit = RateLimit::new(1_000_000);
            let bytes = passed(&mut limit, part, 10);
            let most = 10_000_000 + 100_000 + part as u64;
            assert!((10_000_000..=most).contains(&bytes), "{part}: {bytes}");
        }
    }

    #[test]
    fn a_long_pause_saves_up_no_more_than_a_burst() {
        let mut limit = RateLimit::new(1_000);
        assert!(limit.is_open(Time(1_000_000_000)));
        limit.take(600, Time(1_000_000_000));
        assert!(!limit.is_open(Time(1_000_000_000)), "100 bytes of it were saved up");
        assert_eq!(limit.opens_at(), Time(1_000_500_000));
    }

    #[test]
    fn without_a_limit_everything_passes() {
        let mut limit = RateLimit::new(0);
        for _ in 0..3 {
            assert!(limit.is_open(Time(5)));
            limit.take(usize::MAX, Time(5));
        }
        assert!(limit.opens_at() <= Time(5));
    }
}
