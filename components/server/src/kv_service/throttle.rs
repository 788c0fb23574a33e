//! How fast clients may write while `data` falls behind: files pile up in level 0, memory tables wait to become files.
//! RocksDB would make the writer wait, and that is an apply worker, which has other regions to serve. So `data` never
//! stalls, and what clients send waits before it is replicated (TiKV's `storage.flow-control` does the same; the way from
//! a backlog to a rate is that of RocksDB's own delayed writes).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use flotilla_engine::{Backlog, Engine};
use flotilla_raftstore::RequestError;
use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::time::{Instant, sleep};

use super::door::BUSY_WAIT;

/// Pause between looks at the engine.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Memory tables that wait to be files: where waiting begins, and where next to nothing goes in. One waits at any time.
const MEMTABLES: (u64, u64) = (2, 4);
/// Files of level 0; compaction begins at 4.
const LEVEL0_FILES: (u64, u64) = (20, 48);
/// Bytes that compactions owe.
const COMPACTION_BYTES: (u64, u64) = (64 << 30, 256 << 30);
/// What goes in however far `data` is behind, in bytes per second.
const RATE_MIN: u64 = 256 << 10;

/// How far behind `data` is: 0 = clients need not wait, 1 = next to nothing may come in.
fn pressure(backlog: Backlog) -> f64 {
    let share = |value: u64, (from, to): (u64, u64)| {
        (value.saturating_sub(from) as f64 / (to - from) as f64).clamp(0.0, 1.0)
    };
    share(backlog.memtables, MEMTABLES)
        .max(share(backlog.level0_files, LEVEL0_FILES))
        .max(share(backlog.compaction_bytes, COMPACTION_BYTES))
}

/// Lets clients' writes in, one after the other.
#[derive(Default)]
pub struct Throttle {
    /// Bytes per second; 0 = as fast as they come.
    rate: AtomicU64,
    /// Bytes let in so far.
    admitted: AtomicU64,
    pace: Mutex<Pace>,
}

#[derive(Default)]
struct Pace {
    /// When the next write may go in.
    next: Option<Instant>,
    /// At the last look: when it was, what had been let in, and the pressure.
    looked: Option<(Instant, u64, f64)>,
}

impl Throttle {
    /// Waits until `bytes` may go in.
    ///
    /// # Errors
    /// `Busy`: not within [`BUSY_WAIT`].
    pub async fn enter(&self, bytes: u64) -> Result<(), RequestError> {
        let wait = self.reserve(bytes, Instant::now)?;
        if !wait.is_zero() {
            sleep(wait).await;
        }
        Ok(())
    }

    fn reserve(&self, bytes: u64, now: impl FnOnce() -> Instant) -> Result<Duration, RequestError> {
        let rate = self.rate();
        let mut wait = Duration::ZERO;
        if rate > 0 {
            let (now, mut pace) = (now(), self.pace.lock());
            let at = pace.next.map_or(now, |next| next.max(now));
            wait = at - now;
            if wait > BUSY_WAIT {
                return Err(RequestError::Busy);
            }
            pace.next = Some(at + Duration::from_secs_f64(bytes as f64 / rate as f64));
        }
        self.admitted.fetch_add(bytes, Ordering::Relaxed);
        Ok(wait)
    }

    /// Bytes per second that may go in; 0 = as fast as they come.
    pub fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    /// One look at `data`. A backlog that grows makes the rate smaller, from what came in last; one that shrinks, greater.
    fn look(&self, backlog: Backlog, now: Instant) {
        let pressure = pressure(backlog);
        let admitted = self.admitted.load(Ordering::Relaxed);
        let mut pace = self.pace.lock();
        let before = pace.looked.replace((now, admitted, pressure));
        let rate = self.rate();
        let rate = match before {
            _ if pressure == 0.0 => 0,
            _ if pressure >= 1.0 => RATE_MIN,
            Some((then, count, last)) => {
                let seconds = (now - then).as_secs_f64().max(0.001);
                let seen = (admitted - count) as f64 / seconds;
                let base = if rate == 0 { seen } else { rate as f64 };
                let factor = match pressure.total_cmp(&last) {
                    std::cmp::Ordering::Greater => 0.8,
                    std::cmp::Ordering::Equal => 1.0,
                    std::cmp::Ordering::Less => 1.1,
                };
                ((base * factor) as u64).max(RATE_MIN)
            }
            None => RATE_MIN,
        };
        self.rate.store(rate, Ordering::Relaxed);
        if rate == 0 {
            pace.next = None;
        }
    }
}

/// Looks at `engine` for as long as somebody goes through the throttle, and tells the rate.
pub async fn watch(throttle: Weak<Throttle>, engine: Arc<dyn Engine>, told: IntGauge) {
    loop {
        sleep(LOOK_EVERY).await;
        let Some(throttle) = throttle.upgrade() else { return };
        throttle.look(engine.backlog(), Instant::now());
        told.set(throttle.rate().try_into().unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(level0_files: u64) -> Backlog {
        Backlog { level0_files, ..Backlog::default() }
    }

    #[test]
    fn pressure_is_that_of_the_worst_part() {
        assert_eq!(pressure(Backlog { memtables: 1, level0_files: 20, compaction_bytes: 1 << 36 }), 0.0);
        assert_eq!(pressure(files(34)), 0.5);
        assert_eq!(pressure(Backlog { memtables: 3, level0_files: 27, compaction_bytes: 0 }), 0.5);
        assert_eq!(pressure(Backlog { compaction_bytes: 1 << 40, ..files(21) }), 1.0);
    }

    /// A disk that takes so many bytes per second out of level 0, in files of 1 MiB, and clients that send all they may.
    #[tokio::test(start_paused = true)]
    async fn a_load_that_is_too_much_comes_to_what_the_disk_takes() {
        const DISK: u64 = 5 << 20;
        let throttle = Throttle::default();
        let (mut behind, mut most, mut admitted) = (0_u64, 0, 0);
        let mut late = 0;
        for look in 0..1_200 {
            let until = Instant::now() + LOOK_EVERY;
            // 20 MiB per second of those who are not told to wait.
            for _ in 0..512 {
                match throttle.reserve(4 << 10, Instant::now) {
                    Ok(wait) if wait < LOOK_EVERY => behind += 4 << 10,
                    _ => break,
                }
            }
            tokio::time::advance(until - Instant::now()).await;
            behind = behind.saturating_sub(DISK / 10);
            let files = behind >> 20;
            throttle.look(self::files(files), Instant::now());
            most = most.max(files);
            if look == 600 {
                admitted = throttle.admitted.load(Ordering::Relaxed);
                late = 0;
            }
            late += u64::from(throttle.rate() == RATE_MIN);
        }
        let rate = (throttle.admitted.load(Ordering::Relaxed) - admitted) / 60;
        assert!(most < LEVEL0_FILES.1, "{most} files");
        assert!((DISK * 7 / 10..DISK * 13 / 10).contains(&rate), "{rate} bytes per second");
        assert_eq!(late, 0, "the rate does not swing between all and nothing");
        throttle.look(files(0), Instant::now());
        assert_eq!(throttle.rate(), 0);
        assert_eq!(throttle.reserve(1 << 30, Instant::now).ok(), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn who_would_wait_too_long_is_told_and_takes_no_place() {
        let throttle = Throttle::default();
        throttle.look(files(100), Instant::now());
        assert_eq!(throttle.rate(), RATE_MIN);
        let started = Instant::now();
        throttle.enter(RATE_MIN / 2).await.expect("the first one goes in");
        assert_eq!(started.elapsed(), Duration::ZERO);
        throttle.enter(RATE_MIN).await.expect("the second one after it");
        assert_eq!(started.elapsed(), Duration::from_millis(500));
        throttle.enter(1).await.expect("a second is not too long");
        throttle.enter(4 * RATE_MIN).await.expect("however much it is");
        assert!(matches!(throttle.enter(1).await, Err(RequestError::Busy)));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(throttle.enter(1).await.is_ok());
    }
}
