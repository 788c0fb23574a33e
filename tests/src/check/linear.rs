//! Per-key linearizability: Wing and Gong's search ("Testing and Verifying Concurrent Objects", JPDC 1993) with
//! Lowe's cache of states already refuted ("Testing for Linearizability", CCPE 2017), on one register with
//! compare-and-swap.
//!
//! Prunings, each of which leaves the verdict as it is:
//! - An enabled read of the present value is placed at once: it changes nothing.
//! - A write of unknown outcome whose value nobody observed is left out: in any order that holds it, it can be struck
//!   together with nothing else, because nothing up to the next write saw its value.
//!
//! The tests hold the search against all orders of many thousand small random histories.

use std::collections::{BTreeSet, HashSet};

use super::history::{Action, Operation};
use crate::sim::kv::Value;

/// States that the search may visit before it gives up.
const STATES_MAX: usize = 3_000_000;

/// Outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    Violation,
    /// The search was given up; counts as a failed run, never as a pass.
    Undecided,
}

/// Checks the operations on one key, which has no value at first.
pub fn check(operations: &[Operation]) -> Verdict {
    let mut list = without_unobserved(operations);
    list.sort_by_key(|o| (o.called, o.returned));
    Search { list: &list, refuted: HashSet::new() }.run()
}

/// Leaves out writes of unknown outcome whose values nobody needs.
fn without_unobserved(operations: &[Operation]) -> Vec<Operation> {
    let mut needed: BTreeSet<Value> = BTreeSet::new();
    for operation in operations.iter().filter(|o| !o.is_unknown()) {
        match operation.action {
            Action::Read(value) | Action::Swap(value, _) => needed.extend([value]),
            Action::Write(_) => {}
        }
    }
    loop {
        let before = needed.len();
        for operation in operations.iter().filter(|o| o.is_unknown()) {
            if let Action::Swap(found, left) = operation.action
                && needed.contains(&left)
            {
                needed.insert(found);
            }
        }
        if needed.len() == before {
            break;
        }
    }
    let wanted = |o: &&Operation| match o.action {
        _ if !o.is_unknown() => true,
        Action::Read(_) => false,
        Action::Write(left) | Action::Swap(_, left) => needed.contains(&left),
    };
    operations.iter().filter(wanted).copied().collect()
}

struct Search<'a> {
    /// By time of call.
    list: &'a [Operation],
    /// Placed operations and value from which no order leads to the end.
    refuted: HashSet<(Placed, Value)>,
}

/// Which operations have their place: all below `prefix`, and those in `beyond`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Placed {
    prefix: usize,
    beyond: BTreeSet<usize>,
}

impl Placed {
    fn has(&self, index: usize) -> bool {
        index < self.prefix || self.beyond.contains(&index)
    }

    fn with(&self, index: usize) -> Self {
        let mut next = self.clone();
        next.beyond.insert(index);
        while next.beyond.remove(&next.prefix) {
            next.prefix += 1;
        }
        next
    }
}

impl Search<'_> {
    fn run(&mut self) -> Verdict {
        let mut stack = vec![(Placed::default(), Value(0))];
        while let Some((placed, value)) = stack.pop() {
            let placed = self.place_reads(placed, value);
            if self.is_done(&placed) {
                return Verdict::Linearizable;
            }
            if self.refuted.len() >= STATES_MAX {
                return Verdict::Undecided;
            }
            if !self.refuted.insert((placed.clone(), value)) {
                continue;
            }
            for index in self.enabled(&placed) {
                match self.list[index].action {
                    Action::Write(left) => stack.push((placed.with(index), left)),
                    Action::Swap(found, left) if found == value => stack.push((placed.with(index), left)),
                    Action::Swap(..) | Action::Read(_) => {}
                }
            }
        }
        Verdict::Violation
    }

    /// Operations that nothing unplaced precedes.
    fn enabled(&self, placed: &Placed) -> Vec<usize> {
        let mut found = Vec::new();
        let mut first_return = u64::MAX;
        for (index, operation) in self.list.iter().enumerate().skip(placed.prefix) {
            if operation.called > first_return {
                break;
            }
            if !placed.has(index) {
                found.push(index);
                first_return = first_return.min(operation.returned);
            }
        }
        found.retain(|index| self.list[*index].called <= first_return);
        found
    }

    fn place_reads(&self, mut placed: Placed, value: Value) -> Placed {
        loop {
            let reads = self.enabled(&placed);
            let fits = |index: &usize| self.list[*index].action == Action::Read(value);
            let Some(index) = reads.into_iter().find(fits) else { return placed };
            placed = placed.with(index);
        }
    }

    fn is_done(&self, placed: &Placed) -> bool {
        let rest = self.list.iter().enumerate().skip(placed.prefix);
        rest.into_iter().all(|(index, o)| o.is_unknown() || placed.has(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_engine::Prng;

    /// Tries all orders of all subsets that hold every operation of known outcome.
    fn by_brute_force(rest: &mut Vec<Operation>, value: Value) -> bool {
        if rest.iter().all(Operation::is_unknown) {
            return true;
        }
        for at in 0..rest.len() {
            let operation = rest[at];
            if rest.iter().any(|o| o.returned < operation.called) {
                continue;
            }
            let next = match operation.action {
                Action::Read(seen) if seen == value => value,
                Action::Write(left) => left,
                Action::Swap(found, left) if found == value => left,
                _ => continue,
            };
            rest.remove(at);
            let found = by_brute_force(rest, next);
            rest.insert(at, operation);
            if found {
                return true;
            }
        }
        false
    }

    fn random_history(rng: &mut Prng) -> Vec<Operation> {
        let count = rng.range(1..7);
        (0..count)
            .map(|i| {
                let called = rng.below(12) * 2;
                let unknown = rng.chance(1, 4);
                let returned = if unknown { u64::MAX } else { called + 1 + rng.below(6) * 2 };
                let (some, own) = (Value(rng.below(count + 1)), Value(i + 1));
                let action = match rng.below(5) {
                    0 | 1 => Action::Read(some),
                    2 => Action::Write(if rng.chance(1, 4) { Value(0) } else { own }),
                    3 => Action::Write(own),
                    _ => Action::Swap(some, own),
                };
                Operation { client: 0, called, returned, action }
            })
            .collect()
    }

    #[test]
    fn the_search_agrees_with_brute_force() {
        let mut rng = Prng::new(5);
        let mut counts = [0, 0];
        for _ in 0..60_000 {
            let history = random_history(&mut rng);
            let expected = by_brute_force(&mut history.clone(), Value(0));
            let verdict = check(&history);
            let told = if expected { Verdict::Linearizable } else { Verdict::Violation };
            assert_eq!(verdict, told, "{history:?}");
            counts[usize::from(expected)] += 1;
        }
        assert!(counts.iter().all(|n| *n > 5_000), "both verdicts occur: {counts:?}");
    }

    #[test]
    fn a_long_history_of_eight_clients_takes_milliseconds() {
        let mut rng = Prng::new(9);
        let mut history = Vec::new();
        let (mut value, mut clocks) = (Value(0), [0_u64; 8]);
        for i in 0..4_000 {
            let client = rng.index(8);
            let effect: u64 = i * 10 + 5;
            let called = clocks[client].max(effect.saturating_sub(rng.below(60)));
            let returned = effect + 1 + rng.below(60);
            clocks[client] = returned + 1;
            let action = match rng.below(3) {
                0 => {
                    value = Value(i + 1);
                    Action::Write(value)
                }
                1 => {
                    let found = std::mem::replace(&mut value, Value(i + 1));
                    Action::Swap(found, value)
                }
                _ => Action::Read(value),
            };
            history.push(Operation { client, called: called.min(effect), returned, action });
        }
        assert_eq!(check(&history), Verdict::Linearizable);
        let read = history.iter_mut().rev().find(|o| matches!(o.action, Action::Read(_))).expect("many");
        read.action = Action::Read(Value(1));
        assert_eq!(check(&history), Verdict::Violation);
    }
}
