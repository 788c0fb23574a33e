//! Simulated time: one global clock, and a clock per store that is off by an offset and a drift.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use flotilla_engine::MemEngine;
use flotilla_raftstore::{Clock, Time};

/// Wall clock at global time 0, in milliseconds since the Unix epoch.
const UNIX_MS_AT_START: u64 = 1_700_000_000_000;

/// Global simulated time in microseconds, shared by everything in a run.
#[derive(Clone, Default)]
pub struct GlobalTime(Arc<AtomicU64>);

impl GlobalTime {
    /// Now.
    pub fn now_us(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Moves on; time never goes back.
    pub fn advance_to(&self, now_us: u64) {
        assert!(now_us >= self.now_us(), "simulated time goes back");
        self.0.store(now_us, Ordering::Relaxed);
    }
}

/// A store's monotonic clock. Engine calls of the turn under way advance it, so that a worker that asks twice sees
/// that its disk was slow. For that worker alone: the others work meanwhile, and its next turn is not before that.
pub struct SimClock {
    global: GlobalTime,
    engine: Arc<MemEngine>,
    /// What the clock shows at global time 0; jumps add to it.
    offset_us: AtomicI64,
    /// Microseconds gained per second of global time; may be negative.
    drift_ppm: AtomicI64,
    /// How far the wall clock is from that of the others.
    wall_ms: AtomicI64,
    /// Time that engine calls of the present turn have taken.
    within_us: AtomicU64,
}

impl SimClock {
    /// A clock that shows `offset_us` at global time 0.
    pub fn new(global: GlobalTime, engine: Arc<MemEngine>, offset_us: u64, drift_ppm: i64) -> Self {
        Self {
            global,
            engine,
            offset_us: AtomicI64::new(offset_us as i64),
            drift_ppm: AtomicI64::new(drift_ppm),
            wall_ms: AtomicI64::new(0),
            within_us: AtomicU64::new(0),
        }
    }

    /// Moves the clock forward, as when a machine wakes up whose clock did not count its sleep, and the wall clock
    /// anywhere.
    pub fn jump(&self, us: u64, wall_ms: i64) {
        self.offset_us.fetch_add(us as i64, Ordering::Relaxed);
        self.wall_ms.fetch_add(wall_ms, Ordering::Relaxed);
    }

    /// From now on the clock gains or loses no more than `drift_ppm_max`; it goes on from what it shows.
    pub fn keep_within(&self, drift_ppm_max: i64) {
        let (now, drift) = (self.global.now_us(), self.drift_ppm.load(Ordering::Relaxed));
        let shown = self.local_us(now) as i64;
        self.drift_ppm.store(drift.clamp(-drift_ppm_max, drift_ppm_max), Ordering::Relaxed);
        self.offset_us.fetch_add(shown - self.local_us(now) as i64, Ordering::Relaxed);
    }

    /// What the clock shows at a global moment.
    pub fn local_us(&self, global_us: u64) -> u64 {
        let drift_ppm = self.drift_ppm.load(Ordering::Relaxed);
        let drift = (i128::from(global_us) * i128::from(drift_ppm)).div_euclid(1_000_000);
        let local = i128::from(self.offset_us.load(Ordering::Relaxed)) + i128::from(global_us) + drift;
        u64::try_from(local).expect("drift is far below 100 %")
    }

    /// The first global moment at which the clock shows `local` or more.
    pub fn global_us(&self, local: Time) -> u64 {
        let since = i128::from(local.0) - i128::from(self.offset_us.load(Ordering::Relaxed));
        if since <= 0 {
            return 0;
        }
        let mut guess = since * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm.load(Ordering::Relaxed)));
        while guess < i128::from(u64::MAX / 4) && self.local_us(guess as u64) < local.0 {
            guess += 1;
        }
        u64::try_from(guess).unwrap_or(u64::MAX)
    }

    /// Begins a turn: what others have read on this disk since the last one, checkers among them, took it no time.
    pub fn begin_turn(&self) {
        self.end_turn();
    }

    /// Ends a turn; returns how long its engine calls took.
    pub fn end_turn(&self) -> u64 {
        self.within_us.fetch_add(self.engine.take_elapsed_us(), Ordering::Relaxed);
        self.within_us.swap(0, Ordering::Relaxed)
    }
}

impl Clock for SimClock {
    fn now(&self) -> Time {
        let within = self.engine.take_elapsed_us();
        let within = self.within_us.fetch_add(within, Ordering::Relaxed) + within;
        Time(self.local_us(self.global.now_us()) + within)
    }

    fn unix_ms(&self) -> u64 {
        let agreed = UNIX_MS_AT_START + self.global.now_us() / 1_000;
        agreed.saturating_add_signed(self.wall_ms.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_and_global_time_are_inverse() {
        for drift in [-300_000, -5_000, 0, 5_000, 300_000] {
            let clock = SimClock::new(GlobalTime::default(), MemEngine::new(1), 77, drift);
            clock.jump(1_000, -5);
            for global in [0, 1, 999, 1_000_000, 123_456_789] {
                let back = clock.global_us(Time(clock.local_us(global)));
                assert!(back <= global && clock.local_us(back) == clock.local_us(global));
            }
        }
    }

    #[test]
    fn a_clock_that_is_put_right_goes_on_from_what_it_shows() {
        for drift in [-300_000, -5_000, 0, 5_000, 300_000] {
            let global = GlobalTime::default();
            let clock = SimClock::new(global.clone(), MemEngine::new(1), 77, drift);
            global.advance_to(10_000_000);
            let before = clock.now().0;
            clock.keep_within(40_000);
            assert_eq!(clock.now().0, before);
            global.advance_to(11_000_000);
            assert_eq!(clock.now().0 as i64 - before as i64, 1_000_000 + drift.clamp(-40_000, 40_000));
        }
    }
}
