//! Memory of a store at rest.

use std::time::Duration;

use flotilla_raftstore::{Clock, Time};

use crate::threads::{SystemClock, process_cpu_us};

/// Between two looks. What was freed is given back a second later at the earliest, by the allocator's own rule.
const INTERVAL: Duration = Duration::from_secs(5);
/// A worker is at rest that was busy for at most one part in so many.
const REST_PARTS: u64 = 10;
/// However long the rest, memory is given back after so many intervals.
const INTERVALS_MAX: u64 = 64;

/// Gives pages back to the system that were freed: those of this thread's heap, where others freed the last that was in them,
/// and those that no heap holds. The allocator does so when it is asked for more memory or takes some back, some time after
/// they were freed: where nothing happens any more, as in a store whose hundred thousand regions have just come to rest, it
/// keeps them. Looks at every page of the heap: a millisecond for a hundred megabytes.
fn give_back() {
    // SAFETY: the allocator's own entry point; it takes locks of its own and may be called from any thread at any time.
    #[allow(unsafe_code)]
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

/// Gives pages back to the system that RocksDB freed. It uses the C library's allocator, and glibc's keeps what lies below
/// the end of an arena: the 14 MiB through which ten thousand new regions went, of which a quarter was in use. Looks at all
/// that is free, and nobody allocates meanwhile.
fn give_back_of_engine() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes locks of its own and may be called from any thread at any time.
    #[allow(unsafe_code)]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back, for ever, what the runtime's threads freed: one of them at a time, whichever wakes up for it. And what the
/// engine freed, while the whole process is at rest.
pub async fn give_back_for_ever(clock: SystemClock) {
    // A tick that comes a little early would count for nothing.
    let mut interval = tokio::time::interval(INTERVAL + Duration::from_millis(1));
    let mut rest = Rest::default();
    loop {
        interval.tick().await;
        give_back();
        if rest.is_due(clock.now(), process_cpu_us()) {
            let _ = tokio::task::spawn_blocking(give_back_of_engine).await;
        }
    }
}

/// Gives back what a worker's thread freed, while it is at rest: a heap belongs to its thread, nobody else can. The longer the
/// rest, the more rarely, down to every five minutes: there is less and less to give back, and a look at all of a large heap
/// would be most of what a store at rest does.
#[derive(Default)]
pub struct Rest {
    /// When it was looked at last, and how long its turns had taken until then.
    looked: Time,
    busy_us: u64,
    /// Intervals of rest, one after the other.
    intervals: u64,
}

impl Rest {
    /// Before a wait, at time `now`; its turns took `busy_us` until now.
    pub fn look(&mut self, now: Time, busy_us: u64) {
        if self.is_due(now, busy_us) {
            give_back();
        }
    }

    fn is_due(&mut self, now: Time, busy_us: u64) -> bool {
        let (elapsed_us, worked_us) = (now.0.saturating_sub(self.looked.0), busy_us - self.busy_us);
        if u128::from(elapsed_us) < INTERVAL.as_micros() {
            return false;
        }
        let rests = worked_us <= elapsed_us / REST_PARTS;
        *self = Self { looked: now, busy_us, intervals: if rests { self.intervals + 1 } else { 0 } };
        rests && (self.intervals.is_power_of_two() || self.intervals.is_multiple_of(INTERVALS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At which of the following intervals of five seconds, each with `busy_us` of work, memory is given back.
    fn due(rest: &mut Rest, intervals: u64, busy_us: u64) -> Vec<u64> {
        let (from, busy) = (rest.looked, rest.busy_us);
        let mut is_due = |n: &u64| rest.is_due(from.plus_ms(n * 5_000), busy + n * busy_us);
        (1..=intervals).filter(|n| is_due(n)).collect()
    }

    #[test]
    fn memory_is_given_back_after_five_seconds_of_rest_and_ever_more_rarely_then() {
        let mut rest = Rest { looked: Time(1_000_000), busy_us: 7, intervals: 0 };
        assert!(!rest.is_due(Time(5_999_999), 7), "too early");
        assert_eq!(
            due(&mut rest, 200, 500_000),
            [1, 2, 4, 8, 16, 32, 64, 128, 192],
            "a tenth of the time at work"
        );
        assert_eq!(due(&mut rest, 3, 500_001), [] as [u64; 0], "more than a tenth");
        assert_eq!(due(&mut rest, 3, 0), [1, 2], "rest after work");
    }
}
