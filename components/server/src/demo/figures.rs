//! What the demonstration measured.

use std::fmt;
use std::time::Duration;

use crate::cli::{LoadReport, RateLog};

/// When things happened, from the start of the import.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moments {
    /// The store was killed.
    pub killed: Option<Duration>,
    /// It was started again.
    pub restarted: Option<Duration>,
    /// Its status page said that it had caught up.
    pub ready: Option<Duration>,
}

/// The import in figures.
#[derive(Clone, Debug)]
pub struct Figures {
    entries: u64,
    bytes: u64,
    elapsed: Duration,
    rates: RateLog,
    moments: Moments,
}

impl Figures {
    /// Of a finished import.
    pub fn new(report: &LoadReport, moments: Moments) -> Self {
        let progress = &report.progress;
        Self {
            entries: progress.done,
            bytes: progress.done_bytes,
            elapsed: progress.elapsed,
            rates: report.rates.clone(),
            moments,
        }
    }

    fn phase(&self, f: &mut fmt::Formatter<'_>, name: &str, from: Duration, to: Duration) -> fmt::Result {
        if to <= from {
            return Ok(());
        }
        let (writes, bytes) = (self.rates.writes_per_second(from, to), self.rates.bytes_per_second(from, to));
        let seconds = (to - from).as_secs_f64();
        writeln!(f, "  {name:<29} {writes:>8.0} writes/s  {:>8.1} MiB/s  over {seconds:.1} s", mib(bytes))
    }
}

/// Bytes in MiB.
pub fn mib(bytes: f64) -> f64 {
    bytes / (1 << 20) as f64
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        writeln!(f, "imported {} files, {:.1} MiB in {seconds:.1} s", self.entries, mib(self.bytes as f64))?;
        let killed = self.moments.killed.unwrap_or(self.elapsed).min(self.elapsed);
        let restarted = self.moments.restarted.unwrap_or(self.elapsed).min(self.elapsed);
        self.phase(f, "before the kill", Duration::ZERO, killed)?;
        self.phase(f, "while the store was dead", killed, restarted)?;
        self.phase(f, "after it was started again", restarted, self.elapsed)?;
        let gap = self.rates.longest_gap();
        writeln!(
            f,
            "  longest time without a successful write: {:.2} s, from {:.2} s on (kill -9 at {:.2} s)",
            gap.length.as_secs_f64(),
            gap.from.as_secs_f64(),
            killed.as_secs_f64(),
        )?;
        if let (Some(restarted), Some(ready)) = (self.moments.restarted, self.moments.ready) {
            let seconds = ready.saturating_sub(restarted).as_secs_f64();
            writeln!(f, "  the killed store had caught up {seconds:.2} s after its start")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Progress;

    #[test]
    fn each_phase_has_its_own_rate() {
        let mut rates = RateLog::default();
        (0..100).for_each(|i| rates.record(Duration::from_millis(i * 10), 1 << 20));
        (0..10).for_each(|i| rates.record(Duration::from_millis(2_000 + i * 100), 1 << 20));
        let progress = Progress {
            done: 110,
            done_bytes: 110 << 20,
            elapsed: Duration::from_secs(3),
            ..Progress::default()
        };
        let report = LoadReport { progress, rates, ..LoadReport::default() };
        let moments = Moments {
            killed: Some(Duration::from_secs(1)),
            restarted: Some(Duration::from_secs(2)),
            ready: Some(Duration::from_millis(2_500)),
        };
        let text = Figures::new(&report, moments).to_string();
        assert!(
            text.contains("before the kill                    100 writes/s     100.0 MiB/s  over 1.0 s"),
            "{text}"
        );
        assert!(text.contains("while the store was dead             0 writes/s"), "{text}");
        assert!(text.contains("after it was started again          10 writes/s"), "{text}");
        assert!(
            text.contains("without a successful write: 1.00 s, from 1.00 s on (kill -9 at 1.00 s)"),
            "{text}"
        );
        assert!(text.contains("caught up 0.50 s after its start"), "{text}");
    }
}
