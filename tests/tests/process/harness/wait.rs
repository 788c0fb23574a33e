//! Waiting for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(40);

/// Looks until there is something to see.
///
/// # Panics
/// Not within `limit`; with the last reason.
pub fn wait_for<T>(what: &str, limit: Duration, look: impl FnMut() -> Result<T, String>) -> T {
    eventually(limit, look).unwrap_or_else(|why| panic!("{what}: not within {limit:?}: {why}"))
}

/// Looks until there is something to see, or until `limit` has passed.
///
/// # Errors
/// The last reason why not.
pub fn eventually<T>(limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    loop {
        match look() {
            Ok(seen) => return Ok(seen),
            Err(why) if Instant::now() > deadline => return Err(why),
            Err(_) => thread::sleep(LOOK_EVERY),
        }
    }
}
