//! The simulator's own state machine: put, delete and compare-and-swap of unique values.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::{Buf, BufMut, Bytes};
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

/// A command of the state machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Sets a key.
    Put(Bytes, Bytes),
    /// Removes a key.
    Delete(Bytes),
    /// Sets a key if its value is the expected one; `Value(0)` expects none.
    Swap(Bytes, Value, Bytes),
}

impl Command {
    /// Serialised form.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        match self {
            Self::Put(key, value) => {
                out.put_u8(1);
                put_bytes(&mut out, key);
                out.put_slice(value);
            }
            Self::Delete(key) => {
                out.put_u8(2);
                put_bytes(&mut out, key);
            }
            Self::Swap(key, expected, value) => {
                out.put_u8(3);
                put_bytes(&mut out, key);
                out.put_u64(expected.0);
                out.put_slice(value);
            }
        }
        out.into()
    }

    fn decode(mut data: &[u8]) -> Option<Self> {
        let kind = data.try_get_u8().ok()?;
        let len = data.try_get_u32().ok()? as usize;
        let (key, mut rest) = data.split_at_checked(len)?;
        let key = Bytes::copy_from_slice(key);
        match kind {
            1 => Some(Self::Put(key, Bytes::copy_from_slice(rest))),
            2 => Some(Self::Delete(key)),
            3 => {
                let expected = Value(rest.try_get_u64().ok()?);
                Some(Self::Swap(key, expected, Bytes::copy_from_slice(rest)))
            }
            _ => None,
        }
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32(bytes.len() as u32);
    out.put_slice(bytes);
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
        let decoded = Command::decode(command).ok_or(MachineError::UnknownCommand)?;
        let reply = match &decoded {
            Command::Put(key, value) => {
                view.put(key, value);
                Bytes::new()
            }
            Command::Delete(key) => {
                view.delete(key);
                Bytes::new()
            }
            Command::Swap(key, expected, value) => {
                let stored = view.get(key)?;
                let current = stored.map_or(Value(0), |v| Value::decode(&v).unwrap_or(Value(u64::MAX)));
                if current == *expected {
                    view.put(key, value);
                    Bytes::from_static(&[1])
                } else {
                    let mut out = vec![0];
                    out.put_u64(current.0);
                    out.into()
                }
            }
        };
        let ordinal = self.ordinal(context.region.id, context.index.0);
        self.agreement.lock().expect("one thread").on_apply(context, ordinal, command, &reply);
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_values_survive_encoding() {
        let value = Value(7).encode(5);
        assert_eq!(Value::decode(&value), Some(Value(7)));
        assert_eq!(Value::decode(&value[..4]), None);
        let key = Bytes::from_static(b"k");
        for command in [
            Command::Put(key.clone(), value.clone()),
            Command::Delete(key.clone()),
            Command::Swap(key, Value(3), value),
        ] {
            assert_eq!(Command::decode(&command.encode()), Some(command));
        }
    }
}
