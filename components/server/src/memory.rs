//! Memory of a store at rest.

use std::time::Duration;

/// Between two times. What was freed is given back a second later at the earliest, by the allocator's own rule.
const INTERVAL: Duration = Duration::from_secs(5);

/// Gives pages that were freed back to the system, for ever. The allocator does so when it is asked for more memory or takes
/// some back, some time after they were freed: where nothing happens any more, as in a store whose hundred thousand regions
/// have just come to rest, it keeps them. Where there is nothing to give back this costs microseconds.
pub async fn give_back() {
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        interval.tick().await;
        // SAFETY: the allocator's own entry point; it takes locks of its own and may be called from any thread at any time.
        #[allow(unsafe_code)]
        unsafe {
            libmimalloc_sys::mi_collect(true);
        }
    }
}
