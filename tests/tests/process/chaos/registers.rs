//! What the only writer of some keys knows of them.

use std::collections::BTreeMap;

use crate::ledger::{number_of, value};

/// Keys and the numbers of the writes that each may hold; nothing stands for a missing key.
pub type Holdings = BTreeMap<String, Vec<Option<u64>>>;

/// A place in the key space. Once the outcome of a write is unknown, the write may take place at any time after: the
/// slot goes on with another key.
struct Slot {
    number: u64,
    generation: u32,
    holds: Option<u64>,
}

/// The slots of one writer, who waits for the outcome of a write before the next.
pub struct Registers {
    slots: Vec<Slot>,
    /// Keys with a write of unknown outcome.
    unknown: Holdings,
    writes: u64,
}

/// The key of a slot that is written once, before everything else.
pub fn anchor(slot: u64) -> String {
    format!("c{slot:05}")
}

impl Slot {
    fn key(&self) -> String {
        format!("{}/{:03}", anchor(self.number), self.generation)
    }
}

impl Registers {
    /// With nothing written.
    pub fn new(slots: impl Iterator<Item = u64>) -> Self {
        let slots = slots.map(|number| Slot { number, generation: 0, holds: None }).collect();
        Self { slots, unknown: Holdings::new(), writes: 0 }
    }

    /// How many slots there are.
    pub fn count(&self) -> u64 {
        self.slots.len() as u64
    }

    /// The key of the i-th slot now.
    pub fn key(&self, i: u64) -> String {
        self.slots[i as usize].key()
    }

    /// What the i-th slot holds.
    pub fn value(&self, i: u64) -> Option<Vec<u8>> {
        let slot = &self.slots[i as usize];
        slot.holds.map(|number| value(&slot.key(), number))
    }

    /// The number and the value of a new write to the i-th slot.
    pub fn next_write(&mut self, i: u64) -> (u64, Vec<u8>) {
        self.writes += 1;
        (self.writes, value(&self.key(i), self.writes))
    }

    /// A write was acknowledged.
    pub fn acked(&mut self, i: u64, holds: Option<u64>) {
        self.slots[i as usize].holds = holds;
    }

    /// Nobody knows whether a write took place.
    pub fn lost_sight(&mut self, i: u64, maybe: Option<u64>) {
        let slot = &mut self.slots[i as usize];
        self.unknown.insert(slot.key(), vec![slot.holds, maybe]);
        slot.generation += 1;
        slot.holds = None;
    }

    /// Keys between two slots with the values that they surely hold.
    pub fn settled(&self, from: &str, to: &str) -> BTreeMap<String, Vec<u8>> {
        let all = self.slots.iter().filter_map(|slot| Some((slot.key(), slot.holds?)));
        let inside = all.filter(|(key, _)| from <= key.as_str() && key.as_str() < to);
        inside.map(|(key, number)| (key.clone(), value(&key, number))).collect()
    }

    /// Whether a key is one of this writer's, and what it holds is known.
    pub fn knows(&self, key: &str) -> bool {
        self.slots.iter().any(|slot| slot.key() == key)
    }

    /// Everything that was ever written.
    pub fn into_holdings(self) -> Holdings {
        let mut all = self.unknown;
        all.extend(self.slots.iter().map(|slot| (slot.key(), vec![slot.holds])));
        all
    }
}

/// Why a key does not hold what it must.
pub fn violation(holdings: &Holdings, key: &str, read: Option<&[u8]>) -> Option<String> {
    let found = read.map(|bytes| number_of(key, bytes));
    let Some(allowed) = holdings.get(key) else { return found.map(|_| format!("{key}: nobody wrote it")) };
    let is_allowed = match found {
        None => allowed.contains(&None),
        Some(None) => false,
        Some(number) => allowed.contains(&number),
    };
    (!is_allowed).then(|| format!("{key}: holds write {found:?} instead of one of {allowed:?}"))
}

#[test]
fn what_a_key_must_not_hold_is_noticed() {
    let mut registers = Registers::new([7, 9].into_iter());
    let (first, old) = registers.next_write(0);
    registers.acked(0, Some(first));
    let (second, new) = registers.next_write(0);
    let key = registers.key(0);
    registers.lost_sight(0, Some(second));
    assert_eq!((registers.value(0), registers.value(1)), (None, None));
    assert!(registers.key(0) > key && !registers.knows(&key), "no second write to a key in doubt");
    let (third, newest) = registers.next_write(0);
    registers.acked(0, Some(third));
    let next = registers.key(0);
    assert_eq!(registers.settled("c00007", "c00008"), BTreeMap::from([(next.clone(), newest.clone())]));
    let holdings = registers.into_holdings();
    for (key, read, is_right) in [
        (&key, Some(&old[..]), true),
        (&key, Some(&new), true),
        (&key, None, false),
        (&key, Some(b"damaged"), false),
        (&next, Some(&newest), true),
        (&next, Some(&old), false),
        (&next, None, false),
        (&"c00008".to_owned(), None, true),
        (&"c00008".to_owned(), Some(&old), false),
    ] {
        assert_eq!(violation(&holdings, key, read).is_none(), is_right, "{key} {read:?}");
    }
}
