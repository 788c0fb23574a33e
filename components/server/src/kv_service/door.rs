//! The door of a store: what clients ask for at once may hold so many bytes. Who comes when they are taken waits for its
//! turn, in the order of arrival and not for long, and is then told that the store is busy.

use std::sync::Arc;
use std::time::Duration;

use flotilla_raftstore::RequestError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bytes that are counted as one.
const UNIT: u64 = 1 << 10;
/// For how long a request waits. Clients of the Rust family take `ServerIsBusy` for final.
pub const BUSY_WAIT: Duration = Duration::from_secs(1);

/// A budget of bytes.
pub struct Door {
    units: Arc<Semaphore>,
    all: u32,
}

/// A share of the budget, given back when dropped.
pub type Place = OwnedSemaphorePermit;

impl Door {
    /// For so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        let all = (bytes_max / UNIT).clamp(1, u64::from(u32::MAX >> 3)) as u32;
        Self { units: Arc::new(Semaphore::new(all as usize)), all }
    }

    /// Waits for room for `bytes`. What is larger than the whole budget goes in alone.
    ///
    /// # Errors
    /// `Busy`: there was none for [`BUSY_WAIT`].
    pub async fn enter(&self, bytes: u64) -> Result<Place, RequestError> {
        let units = (bytes / UNIT + 1).min(u64::from(self.all)) as u32;
        if let Ok(place) = self.units.clone().try_acquire_many_owned(units) {
            return Ok(place);
        }
        let place = timeout(BUSY_WAIT, self.units.clone().acquire_many_owned(units)).await;
        // The semaphore is never closed.
        place.ok().and_then(Result::ok).ok_or(RequestError::Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_room_waits_in_order_and_is_then_told() {
        let door = Arc::new(Door::new(8 * UNIT));
        let first = door.enter(7 * UNIT).await.expect("there is room");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiting = Vec::new();
        for (name, bytes) in [("large", 6 * UNIT), ("small", 10), ("huge", 100 * UNIT)] {
            let (door, order) = (door.clone(), order.clone());
            waiting.push(tokio::spawn(async move {
                let place = door.enter(bytes).await;
                order.lock().unwrap().push((name, place.is_ok()));
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(*order.lock().unwrap(), [], "a small one does not overtake a large one");
        drop(first);
        for waiter in waiting {
            waiter.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [("large", true), ("small", true), ("huge", true)]);
        let _all = door.enter(100 * UNIT).await.expect("alone");
        let started = tokio::time::Instant::now();
        assert!(matches!(door.enter(1).await, Err(RequestError::Busy)));
        assert_eq!(started.elapsed(), BUSY_WAIT);
    }
}
