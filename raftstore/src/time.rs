//! Time as workers see it: a parameter, never a system call.

use std::time::Duration;

/// A moment on the store's monotonic clock, in microseconds since an arbitrary origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The moment `ms` milliseconds later.
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000)))
    }

    /// Milliseconds since `earlier`; 0 if `earlier` is later.
    pub const fn ms_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000
    }

    /// How long from this moment until `later`; zero if `later` has passed.
    pub const fn until(self, later: Self) -> Duration {
        Duration::from_micros(later.0.saturating_sub(self.0))
    }
}

/// Where a worker needs the moment of *now* rather than the turn's: lease validity, and what clients' threads read.
pub trait Clock: Send + Sync {
    /// Monotonic; counts while the machine is suspended, so that a lease does not survive a pause.
    fn now(&self) -> Time;
    /// Wall clock in milliseconds since the Unix epoch, stamped on entries for TTL. Never compared between stores.
    fn unix_ms(&self) -> u64;
}
