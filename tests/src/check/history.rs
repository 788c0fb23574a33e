//! What clients asked for and were told, key by key.

use std::collections::BTreeMap;

use crate::sim::kv::Value;

/// What an operation did to one key, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Saw this value; `Value(0)` = none.
    Read(Value),
    /// Left this value; `Value(0)` = deleted.
    Write(Value),
    /// Found the first value and left the second.
    Swap(Value, Value),
}

/// One operation on one key. It took effect at one moment in `[called, returned]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Client.
    pub client: usize,
    /// Position of the call in the run's order of events.
    pub called: u64,
    /// Position of the return; `u64::MAX` for an unknown outcome.
    pub returned: u64,
    /// What it did; with an unknown outcome: what it may have done.
    pub action: Action,
}

impl Operation {
    /// Whether it may have taken effect or not.
    pub fn is_unknown(&self) -> bool {
        self.returned == u64::MAX
    }
}

/// Histories of all keys.
#[derive(Clone, Debug, Default)]
pub struct History {
    keys: BTreeMap<usize, Vec<Operation>>,
}

impl History {
    /// Adds a completed operation, or one of unknown outcome.
    pub fn add(&mut self, key: usize, operation: Operation) {
        self.keys.entry(key).or_default().push(operation);
    }

    /// Keys with their operations.
    pub fn keys(&self) -> impl Iterator<Item = (usize, &[Operation])> {
        self.keys.iter().map(|(key, list)| (*key, &list[..]))
    }

    /// Number of operations with a known and with an unknown outcome.
    pub fn counts(&self) -> (usize, usize) {
        let all = self.keys.values().flatten();
        let unknown = all.clone().filter(|o| o.is_unknown()).count();
        (all.count() - unknown, unknown)
    }
}
