//! Applies commands.

use bytes::Bytes;
use flotilla_raftstore::{ApplyContext, ApplyView, MachineError, StateMachine};
use flotilla_region::{KeyRange, Region};

use crate::command::Command;
use crate::reply::Reply;
use crate::value::{Value, expiry};

/// The raw key-value state machine. Stateless: everything is in the region.
#[derive(Clone, Copy, Debug, Default)]
pub struct KvMachine;

impl StateMachine for KvMachine {
    fn apply(
        &self,
        context: &ApplyContext<'_>,
        command: &[u8],
        view: &mut ApplyView<'_>,
    ) -> Result<Bytes, MachineError> {
        let command = Command::decode(command).ok_or(MachineError::UnknownCommand)?;
        if let Some(key) = key_outside(context.region, &command) {
            let range = context.region.range.clone();
            return Ok(Reply::Outside(Bytes::copy_from_slice(key), range).encode());
        }
        let put = |view: &mut ApplyView<'_>, key, value, ttl_s| {
            let (prefix, length) = Value::prefix(expiry(context.time_ms, ttl_s));
            view.put_parts(key, &[&prefix[..length], value]);
        };
        match command {
            Command::Put(puts) => puts.iter().for_each(|p| put(view, p.key, p.value, p.ttl_s)),
            Command::Delete(keys) => keys.into_iter().for_each(|key| view.delete(key)),
            Command::DeleteRange { start, end } => view.delete_range(&range(start, end)),
            Command::CompareAndSwap { key, expected, new } => {
                let previous = present(view.get(key)?, context.time_ms)?;
                let succeeded = previous.as_deref() == expected;
                match (succeeded, new) {
                    (false, _) => {}
                    (true, Some((value, ttl_s))) => put(view, key, value, ttl_s),
                    (true, None) => view.delete(key),
                }
                return Ok(Reply::Swapped { succeeded, previous }.encode());
            }
        }
        Ok(Reply::Done.encode())
    }

    fn sample_key(&self, command: &[u8], drawn: u64) -> Option<Bytes> {
        let one_of = |count: usize| drawn as usize % count.max(1);
        let command = Command::decode(command)?;
        let key = match &command {
            Command::Put(puts) => puts.get(one_of(puts.len()))?.key,
            Command::Delete(keys) => keys.get(one_of(keys.len()))?,
            Command::DeleteRange { start, .. } => start,
            Command::CompareAndSwap { key, .. } => key,
        };
        Some(Bytes::copy_from_slice(key))
    }
}

/// The client's bytes in a stored value, unless it has expired.
fn present(stored: Option<Bytes>, now_ms: u64) -> Result<Option<Bytes>, MachineError> {
    let Some(stored) = stored else { return Ok(None) };
    let damaged = || flotilla_engine::Error::Corruption("a stored value cannot be read".into());
    let value = Value::decode(stored).ok_or_else(damaged)?;
    Ok((!value.has_expired(now_ms)).then_some(value.bytes))
}

fn range(start: &[u8], end: &[u8]) -> KeyRange {
    KeyRange::new(Bytes::copy_from_slice(start), Bytes::copy_from_slice(end))
}

/// A key that the command names and the region does not hold. The entry's epoch was checked before, so it only names
/// one if the caller did not look.
fn key_outside<'a>(region: &Region, command: &Command<'a>) -> Option<&'a [u8]> {
    let outside = |key: &[u8]| !region.range.contains(key);
    match command {
        Command::Put(puts) => puts.iter().map(|put| put.key).find(|key| outside(key)),
        Command::Delete(keys) => keys.iter().copied().find(|key| outside(key)),
        Command::DeleteRange { start, end } => {
            let is_inside = region.range.contains_range(&range(start, end));
            (!is_inside).then_some(if outside(start) { start } else { end })
        }
        Command::CompareAndSwap { key, .. } => outside(key).then_some(*key),
    }
}
