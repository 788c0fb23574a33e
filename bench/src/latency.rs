//! Latencies of operations, and what is told of them.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longest latency that is told apart from longer ones.
const MAX_US: u64 = 120_000_000;
/// Steps of the histogram in a result, per doubling of the latency.
const STEPS_PER_DOUBLING: f64 = 4.0;

/// Latencies in microseconds, to three digits.
#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

/// A step of a histogram: how many operations took at most so long, and longer than the step before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Upper bound, inclusive.
    pub up_to_us: u64,
    /// Operations.
    pub count: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, MAX_US, 3).expect("the bounds are in order"))
    }
}

impl Latencies {
    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_micros() as u64);
    }

    /// Adds all of another's.
    pub fn add(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that a share of the operations does not exceed, in microseconds; 0 if there are none.
    pub fn quantile_us(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile)
    }

    /// The same in milliseconds.
    pub fn quantile_ms(&self, quantile: f64) -> f64 {
        self.quantile_us(quantile) as f64 / 1_000.0
    }

    /// The slowest, in microseconds.
    pub fn max_us(&self) -> u64 {
        self.0.max()
    }

    /// The histogram in steps of a fixed ratio, without empty ones.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for value in self.0.iter_recorded() {
            let us = value.value_iterated_to().max(1);
            let step = ((us as f64).log2() * STEPS_PER_DOUBLING).ceil();
            let up_to_us = (step / STEPS_PER_DOUBLING).exp2().floor() as u64;
            match steps.last_mut() {
                Some(last) if last.up_to_us == up_to_us => last.count += value.count_since_last_iteration(),
                _ => steps.push(Step { up_to_us, count: value.count_since_last_iteration() }),
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_hold_every_operation_and_ascend() {
        let mut latencies = Latencies::default();
        (1..=10_000).for_each(|us| latencies.record(Duration::from_micros(us)));
        let steps = latencies.steps();
        assert_eq!(steps.iter().map(|step| step.count).sum::<u64>(), 10_000);
        assert!(steps.is_sorted_by(|a, b| a.up_to_us < b.up_to_us) && steps.len() < 60, "{steps:?}");
        assert!((4_900..=5_100).contains(&latencies.quantile_us(0.5)));
    }
}
