//! Memory of a store at rest.

use std::time::Duration;

use flotilla_raftstore::Time;

/// Between two times. What was freed is given back a second later at the earliest, by the allocator's own rule.
const INTERVAL: Duration = Duration::from_secs(5);
/// A worker is at rest that was busy for at most one part in so many.
const REST_PARTS: u64 = 10;

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

/// Gives back, for ever, what the runtime's threads freed: one of them at a time, whichever wakes up for it.
pub async fn give_back_of_runtime() {
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        interval.tick().await;
        give_back();
    }
}

/// Gives back what a worker's thread freed, while it is at rest: a heap belongs to its thread, nobody else can.
#[derive(Default)]
pub struct Rest {
    /// When it was looked at last, and how long its turns had taken until then.
    looked: Time,
    busy_us: u64,
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
        *self = Self { looked: now, busy_us };
        worked_us <= elapsed_us / REST_PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_every_five_seconds_of_rest() {
        let mut rest = Rest { looked: Time(1_000_000), busy_us: 7 };
        assert!(!rest.is_due(Time(5_999_999), 7), "too early");
        assert!(rest.is_due(Time(6_000_000), 500_007), "a tenth of the time at work");
        assert!(!rest.is_due(Time(11_000_000), 1_000_008), "more than a tenth");
        assert!(!rest.is_due(Time(15_000_000), 1_000_008), "too early again");
        assert!(rest.is_due(Time(16_000_000), 1_000_008), "rest after work");
    }
}
