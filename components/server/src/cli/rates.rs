//! When writes succeeded: rates over time, and the longest time without one.

use std::time::Duration;

/// Resolution of the log.
const BUCKET_MS: u64 = 20;

/// A stretch without a successful write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// When it began, from the start of the log.
    pub from: Duration,
    /// How long it was, to 20 ms.
    pub length: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    writes: u32,
    bytes: u64,
}

/// Successful writes by time since the start, in any order of arrival.
#[derive(Clone, Debug, Default)]
pub struct RateLog {
    buckets: Vec<Bucket>,
}

impl RateLog {
    /// A write of `bytes` was acknowledged `at` this time.
    pub fn record(&mut self, at: Duration, bytes: u64) {
        let index = index(at);
        if index >= self.buckets.len() {
            self.buckets.resize(index + 1, Bucket::default());
        }
        let bucket = &mut self.buckets[index];
        bucket.writes = bucket.writes.saturating_add(1);
        bucket.bytes += bytes;
    }

    /// Writes per second in `[from, to)`, to 20 ms; 0 if that is empty.
    pub fn writes_per_second(&self, from: Duration, to: Duration) -> f64 {
        per_second(self.between(from, to).iter().map(|b| u64::from(b.writes)).sum(), from, to)
    }

    /// Bytes per second in `[from, to)`, to 20 ms; 0 if that is empty.
    pub fn bytes_per_second(&self, from: Duration, to: Duration) -> f64 {
        per_second(self.between(from, to).iter().map(|b| b.bytes).sum(), from, to)
    }

    /// The longest stretch without a successful write between the first and the last one.
    pub fn longest_gap(&self) -> Gap {
        let mut longest = Gap::default();
        let mut previous: Option<usize> = None;
        for (at, _) in self.buckets.iter().enumerate().filter(|(_, bucket)| bucket.writes > 0) {
            // Neighbouring buckets are no gap: their writes may have been a moment apart.
            let from = previous.map_or(at, |previous| previous + 1);
            let length = Duration::from_millis((at - from) as u64 * BUCKET_MS);
            if length > longest.length {
                longest = Gap { from: Duration::from_millis(from as u64 * BUCKET_MS), length };
            }
            previous = Some(at);
        }
        longest
    }

    fn between(&self, from: Duration, to: Duration) -> &[Bucket] {
        let to = index(to).min(self.buckets.len());
        self.buckets.get(index(from).min(to)..to).unwrap_or_default()
    }
}

fn index(at: Duration) -> usize {
    usize::try_from(at.as_millis() / u128::from(BUCKET_MS)).unwrap_or(usize::MAX - 1)
}

fn per_second(count: u64, from: Duration, to: Duration) -> f64 {
    let seconds = to.saturating_sub(from).as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn gaps_and_rates_are_those_of_the_writes_in_any_order() {
        let mut log = RateLog::default();
        for at in [0, 100, 40, 2_000, 2_010, 60] {
            log.record(ms(at), 10);
        }
        assert_eq!(log.longest_gap(), Gap { from: ms(120), length: ms(1_880) });
        assert_eq!(log.writes_per_second(ms(0), ms(1_000)), 4.0);
        assert_eq!(log.bytes_per_second(ms(2_000), ms(3_000)), 20.0);
        assert_eq!(log.writes_per_second(ms(5_000), ms(6_000)), 0.0);
        assert_eq!(log.writes_per_second(ms(6_000), ms(5_000)), 0.0);
    }

    #[test]
    fn without_writes_there_is_neither_rate_nor_gap() {
        let mut log = RateLog::default();
        assert_eq!(log.longest_gap(), Gap::default());
        log.record(ms(500), 1);
        assert_eq!(log.longest_gap(), Gap::default(), "the time before the first write is no gap");
    }
}
