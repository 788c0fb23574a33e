//! What was acknowledged is there at the end (the promise to users: an acknowledged write survives power loss). The value
//! that the last read of a key found was left by some operation that no acknowledged write followed. Weaker than what
//! [`super::linear`] decides, and independent of its search.

use super::history::{Action, Operation};
use crate::sim::kv::Value;

/// The value that an operation leaves, if it happened.
fn left(action: Action) -> Option<Value> {
    match action {
        Action::Read(_) => None,
        Action::Write(value) | Action::Swap(_, value) => Some(value),
    }
}

/// Checks the history of one key, which had no value at first.
///
/// # Errors
/// A sentence that names a write that was acknowledged and is gone.
pub fn check_kept(key: usize, operations: &[Operation]) -> Result<(), String> {
    let reads = operations.iter().filter(|o| !o.is_unknown() && matches!(o.action, Action::Read(_)));
    let Some(last) = reads.max_by_key(|o| o.called) else { return Ok(()) };
    let Action::Read(found) = last.action else { return Ok(()) };
    // The writer returned before: everything that began after that has hidden its value.
    let acknowledged =
        |o: &&Operation| !o.is_unknown() && left(o.action).is_some() && o.returned < last.called;
    let newest = operations.iter().filter(acknowledged).max_by_key(|o| o.called);
    let Some(newest) = newest.filter(|newest| left(newest.action) != Some(found)) else { return Ok(()) };
    let may_be_last = |o: &Operation| left(o.action) == Some(found) && o.returned > newest.called;
    if operations.iter().any(may_be_last) {
        return Ok(());
    }
    Err(format!("key {key} has {found:?} at the end; gone is what was acknowledged after it: {newest:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(called: u64, returned: u64, action: Action) -> Operation {
        Operation { client: 0, called, returned, action }
    }

    #[test]
    fn a_lost_write_is_found_and_an_overwritten_one_is_not_missed() {
        let (one, two) = (Action::Write(Value(1)), Action::Write(Value(2)));
        let read = |value| operation(9, 10, Action::Read(Value(value)));
        let after = [operation(1, 2, one), operation(3, 4, two)];
        assert!(check_kept(7, &[after[0], after[1], read(1)]).is_err(), "an older value");
        assert!(check_kept(7, &[after[0], after[1], read(0)]).is_err(), "no value at all");
        assert_eq!(check_kept(7, &[after[0], after[1], read(2)]), Ok(()));
        let together = [operation(1, 4, one), operation(2, 3, two)];
        assert_eq!(check_kept(7, &[together[0], together[1], read(1)]), Ok(()));
        let unknown = [operation(1, u64::MAX, one), operation(3, 4, two)];
        assert_eq!(check_kept(7, &[unknown[0], unknown[1], read(1)]), Ok(()));
    }
}
