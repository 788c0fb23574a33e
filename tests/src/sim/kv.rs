//! The raw key-value state machine under the simulator: unique values, and every apply told to a checker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use flotilla_kv::Reply;
use flotilla_raftstore::{ApplyContext, ApplyView, MachineError, StateMachine};
use flotilla_region::RegionId;

use crate::check::agreement::Agreement;

/// A value that is written at most once in a run; 0 stands for no value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(pub u64);

impl Value {
    /// Bytes as stored: the number, and padding that follows from it.
    pub fn encode(self, padding: usize) -> Bytes {
        let mut out = self.0.to_be_bytes().to_vec();
        out.resize(8 + padding, self.0 as u8);
        out.into()
    }

    /// Reads stored bytes; `None` if they were never written by us.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let number = u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
        bytes[8..].iter().all(|b| *b == number as u8).then_some(Self(number))
    }
}

/// The reply to a write, as its client understands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Everything was written.
    Done,
    /// A compare-and-swap found what it expected.
    Swapped,
    /// It found this instead.
    Found(Value),
}

impl Written {
    /// Reads a reply.
    ///
    /// # Errors
    /// The reply is malformed, or says that the region does not hold a key: the epoch was checked, so it must.
    pub fn decode(reply: Bytes) -> Result<Self, String> {
        match Reply::decode(reply) {
            Some(Reply::Done) => Ok(Self::Done),
            Some(Reply::Swapped { succeeded: true, .. }) => Ok(Self::Swapped),
            Some(Reply::Swapped { succeeded: false, previous: None }) => Ok(Self::Found(Value(0))),
            Some(Reply::Swapped { succeeded: false, previous: Some(bytes) }) => {
                let found = Value::decode(&bytes).ok_or("a compare-and-swap found a strange value")?;
                Ok(Self::Found(found))
            }
            Some(Reply::Outside(key, range)) => {
                Err(format!("an entry of a region was applied to key {key:?} outside of {range:?}"))
            }
            None => Err("a write got a malformed reply".into()),
        }
    }
}

/// The state machine of one life of one store. It tells the agreement checker what it applies.
pub struct KvMachine {
    agreement: Arc<Mutex<Agreement>>,
    /// Number of commands of the present entry that were applied, by region.
    positions: Mutex<BTreeMap<RegionId, (u64, usize)>>,
}

impl KvMachine {
    /// A machine for one life of a store.
    pub fn new(agreement: Arc<Mutex<Agreement>>) -> Self {
        Self { agreement, positions: Mutex::default() }
    }

    fn ordinal(&self, region: RegionId, index: u64) -> usize {
        let mut positions = self.positions.lock().expect("one thread");
        let position = positions.entry(region).or_default();
        *position = if position.0 == index { (index, position.1 + 1) } else { (index, 0) };
        position.1
    }
}

impl StateMachine for KvMachine {
    fn apply(
        &self,
        context: &ApplyContext<'_>,
        command: &[u8],
        view: &mut ApplyView<'_>,
    ) -> Result<Bytes, MachineError> {
        let reply = flotilla_kv::KvMachine.apply(context, command, view)?;
        let ordinal = self.ordinal(context.region.id, context.index.0);
        self.agreement.lock().expect("one thread").on_apply(context, ordinal, command, &reply);
        Ok(reply)
    }

    fn sample_key(&self, command: &[u8], drawn: u64) -> Option<Bytes> {
        flotilla_kv::KvMachine.sample_key(command, drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_encoding() {
        let value = Value(7).encode(5);
        assert_eq!(Value::decode(&value), Some(Value(7)));
        assert_eq!(Value::decode(&value[..4]), None);
        assert_eq!(Value::decode(&Value(8).encode(5)[..8]), Some(Value(8)), "padding may be empty");
    }
}
