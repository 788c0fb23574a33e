//! Per-key linearizability: Wing and Gong's search ("Testing and Verifying Concurrent Objects", JPDC 1993) with
//! Lowe's cache of states already refuted ("Testing for Linearizability", CCPE 2017), on one register with
//! compare-and-swap. No two operations leave the same value, deletions aside.
//!
//! What keeps it fast where outcomes are unknown, each of which leaves the verdict as it is:
//! - An enabled read of the present value is placed at once: it changes nothing.
//! - A write of unknown outcome whose value nobody observed, and which does not expire, is left out: in any order that holds it, it can be struck
//!   together with nothing else, because nothing up to the next write saw its value.
//! - One whose value was observed did happen, before the first of its observers returned.
//! - Deletions of unknown outcome differ in nothing but their call: the one called first may always be used first. Of
//!   two states with the same operations placed, the one that has used fewer of them can do whatever the other can.
//! - An expiry of unknown outcome applies to one value only, which comes only once. A write that nobody observed and the
//!   expiry of its value are together one more deletion.
//!
//! The tests hold the search against all orders of many thousand small random histories.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::history::{Action, Operation};
use crate::sim::kv::Value;

/// States that the search may visit before it gives up.
const STATES_MAX: usize = 1_000_000;
/// No value.
const NONE: Value = Value(0);

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
    Search::new(operations).run()
}

/// By when, at the latest, each value was there, as far as it was observed.
fn observed(operations: &[Operation]) -> BTreeMap<Value, u64> {
    let mut by: BTreeMap<Value, u64> = BTreeMap::new();
    let mut see = |value: Value, at: u64| {
        let earliest = by.get(&value).is_none_or(|known| at < *known);
        if earliest {
            by.insert(value, at);
        }
        earliest
    };
    // What an unknown swap found, by what it left.
    let mut found_by: BTreeMap<Value, Vec<Value>> = BTreeMap::new();
    let mut news = Vec::new();
    for operation in operations {
        match operation.action {
            Action::Swap(found, left) if operation.is_unknown() => {
                found_by.entry(left).or_default().push(found);
            }
            Action::Read(value) | Action::Swap(value, _) if !operation.is_unknown() => {
                news.push((value, operation.returned));
            }
            _ => {}
        }
    }
    while let Some((value, at)) = news.pop() {
        if see(value, at) && value != NONE {
            news.extend(found_by.get(&value).into_iter().flatten().map(|found| (*found, at)));
        }
    }
    by
}

/// From when on each value may have become none: by its expiry, or by swaps that nobody saw and the last one's expiry.
fn ends(unobserved: &[Operation]) -> BTreeMap<Value, u64> {
    let mut ends = BTreeMap::from([(NONE, 0)]);
    loop {
        let before = ends.clone();
        for operation in unobserved {
            let Action::Swap(found, left) = operation.action else { continue };
            let Some(end) = ends.get(&left).map(|end| operation.called.max(*end)) else { continue };
            let known = ends.entry(found).or_insert(end);
            *known = end.min(*known);
        }
        if ends == before {
            return ends;
        }
    }
}

struct Search {
    /// What must have its place, by time of call.
    list: Vec<Operation>,
    /// Calls of deletions that may have happened.
    deletions: Vec<u64>,
    /// From when on a value may have gone without anybody seeing what took its place.
    ends: BTreeMap<Value, u64>,
    /// Placed operations and value from which no order leads to the end, with the deletions used by then.
    refuted: HashMap<(Placed, Value), usize>,
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

    fn with(mut self, index: usize) -> Self {
        self.beyond.insert(index);
        while self.beyond.remove(&self.prefix) {
            self.prefix += 1;
        }
        self
    }
}

impl Search {
    fn new(operations: &[Operation]) -> Self {
        let observed = observed(operations);
        let (mut list, mut deletions, mut unobserved) = (Vec::new(), Vec::new(), Vec::new());
        for operation in operations {
            match operation.action {
                _ if !operation.is_unknown() => list.push(*operation),
                Action::Read(_) => {}
                Action::Write(NONE) => deletions.push(operation.called),
                Action::Write(left) | Action::Swap(_, left) => match observed.get(&left) {
                    Some(at) if left != NONE => list.push(Operation { returned: *at, ..*operation }),
                    _ => unobserved.push(*operation),
                },
            }
        }
        let ends = ends(&unobserved);
        for operation in unobserved {
            if let Action::Write(left) = operation.action {
                deletions.extend(ends.get(&left).map(|end| operation.called.max(*end)));
            }
        }
        list.sort_by_key(|o| (o.called, o.returned));
        deletions.sort_unstable();
        Self { list, deletions, ends, refuted: HashMap::new() }
    }

    fn run(&mut self) -> Verdict {
        let mut stack = vec![(Placed::default(), NONE, 0)];
        while let Some((placed, value, deleted)) = stack.pop() {
            let (placed, enabled, first_return) = self.place_reads(placed, value);
            if placed.prefix == self.list.len() {
                return Verdict::Linearizable;
            }
            if self.refuted.len() >= STATES_MAX {
                return Verdict::Undecided;
            }
            let before = self.refuted.entry((placed.clone(), value)).or_insert(usize::MAX);
            if *before <= deleted {
                continue;
            }
            *before = deleted;
            if value != NONE {
                // What is pushed last is tried first: what must have happened before what may have.
                if self.deletions.get(deleted).is_some_and(|called| *called <= first_return) {
                    stack.push((placed.clone(), NONE, deleted + 1));
                }
                if self.ends.get(&value).is_some_and(|called| *called <= first_return) {
                    stack.push((placed.clone(), NONE, deleted));
                }
            }
            for index in enabled {
                match self.list[index].action {
                    Action::Write(left) => stack.push((placed.clone().with(index), left, deleted)),
                    Action::Swap(found, left) if found == value => {
                        stack.push((placed.clone().with(index), left, deleted));
                    }
                    Action::Swap(..) | Action::Read(_) => {}
                }
            }
        }
        Verdict::Violation
    }

    /// Operations that nothing unplaced precedes, and when the first unplaced one returned.
    fn enabled(&self, placed: &Placed) -> (Vec<usize>, u64) {
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
        (found, first_return)
    }

    fn place_reads(&self, mut placed: Placed, value: Value) -> (Placed, Vec<usize>, u64) {
        loop {
            let (enabled, first_return) = self.enabled(&placed);
            let fits = |index: &&usize| self.list[**index].action == Action::Read(value);
            let reads: Vec<usize> = enabled.iter().filter(fits).copied().collect();
            if reads.is_empty() {
                return (placed, enabled, first_return);
            }
            placed = reads.into_iter().fold(placed, Placed::with);
        }
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
                let action = match rng.below(6) {
                    0 | 1 => Action::Read(some),
                    2 => Action::Write(if rng.chance(1, 2) { Value(0) } else { own }),
                    3 => Action::Write(own),
                    // Expiries are never known.
                    4 if unknown => Action::Swap(some, Value(0)),
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
