//! Values that were set for a time (`components/kv`: the expiry counts from the time of the entry, a read goes by the
//! reader's clock). Simulated stores agree on the wall clock, so that a value may be absent from its time after the
//! *call* of its put, and is absent from its time after the *return* of it.
//!
//! The first half is an operation of the history: a deletion that may have happened or not, from that moment on. The
//! second half is checked here.

use std::collections::BTreeMap;

use super::history::{Action, Operation};
use crate::sim::kv::Value;

/// A store's wall clock shows whole milliseconds.
const GRAIN_US: u64 = 1_000;

/// When values are gone for certain.
#[derive(Debug, Default)]
pub struct Expiries {
    gone_us: BTreeMap<Value, u64>,
}

impl Expiries {
    /// What may happen to `value` from the position `order` in the run on.
    pub fn operation(order: u64, value: Value) -> Operation {
        let action = Action::Swap(value, Value(0));
        Operation { client: usize::MAX, called: order, returned: u64::MAX, action }
    }

    /// A put is known to have happened; its value has no reader who begins after `gone_us`.
    pub fn written(&mut self, value: Value, gone_us: u64) {
        self.gone_us.insert(value, gone_us + GRAIN_US);
    }

    /// Checks what an operation that began at `began_us` saw.
    ///
    /// # Errors
    /// A sentence that names a value that was seen after its end.
    pub fn check(&self, key: usize, action: Action, began_us: u64) -> Result<(), String> {
        let Action::Read(value) = action else { return Ok(()) };
        match self.gone_us.get(&value) {
            Some(gone_us) if began_us > *gone_us => Err(format!(
                "key {key} still had value {value:?} at {began_us} us; it expired before {gone_us} us"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_seen_after_its_end_is_found() {
        let mut expiries = Expiries::default();
        expiries.written(Value(7), 5_000_000);
        let seen_at = |began_us| expiries.check(1, Action::Read(Value(7)), began_us);
        assert_eq!(seen_at(5_000_500), Ok(()));
        assert!(seen_at(5_001_001).is_err());
        assert_eq!(expiries.check(1, Action::Read(Value(8)), u64::MAX), Ok(()));
    }
}
