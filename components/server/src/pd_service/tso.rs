//! Timestamps: unique and increasing among those of one process, and near the wall clock. Raw clients take none; Go
//! clients open the stream all the same.
//!
//! Missing: an order between the timestamps of different stores, which transactions would need.

use flotilla_proto::pdpb::Timestamp;
use parking_lot::Mutex;
use tonic::Status;

/// Logical timestamps within one millisecond.
const LOGICAL_BITS: u32 = 18;

/// Where timestamps come from.
#[derive(Debug, Default)]
pub struct Tso {
    /// The last one given out.
    last: Mutex<(u64, u64)>,
}

impl Tso {
    /// The last of `count` consecutive timestamps that nobody had before.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for none, or for more than one millisecond has.
    pub fn take(&self, count: u32, now_ms: u64) -> Result<Timestamp, Status> {
        let count = u64::from(count);
        if count == 0 || count >= 1 << LOGICAL_BITS {
            return Err(Status::invalid_argument("tso count should be positive and below 2^18"));
        }
        let mut last = self.last.lock();
        if now_ms > last.0 {
            *last = (now_ms, 0);
        }
        if last.1 + count >= 1 << LOGICAL_BITS {
            *last = (last.0 + 1, 0);
        }
        last.1 += count;
        Ok(Timestamp { physical: last.0 as i64, logical: last.1 as i64, suffix_bits: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_increase_whatever_the_clock_does() {
        let tso = Tso::default();
        let mut before = 0;
        for (now, count) in [(10, 1), (10, 64), (9, 1), (11, 1 << 17), (11, 1 << 17), (5, 3), (12, 1)] {
            let last = tso.take(count, now).expect("legal");
            let value = |logical: i64| (last.physical as u64) << LOGICAL_BITS | logical as u64;
            let first = value(last.logical - i64::from(count) + 1);
            assert!(first > before, "{now} {count}");
            before = value(last.logical);
        }
        assert!(tso.take(0, 1).is_err());
        assert!(tso.take(1 << 18, 1).is_err());
    }
}
