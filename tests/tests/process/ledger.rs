//! What was written, and what of it was acknowledged.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of padding in a value, so that a WAL block holds a few records and a record sometimes spans blocks.
const PADDING: usize = 300;

/// What is known of one key: numbers of writes, each larger than those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Facts {
    /// Last write that was acknowledged or seen; 0 = none.
    acked: u64,
    /// Last write that was tried.
    tried: u64,
}

/// Why a key does not hold what it must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An acknowledged write is gone.
    Lost {
        /// Key.
        key: String,
        /// Number of the last acknowledged write.
        acked: u64,
        /// Number of the write that is there.
        found: Option<u64>,
    },
    /// A value is there that nobody has tried to write since, or that is damaged.
    Strange {
        /// Key.
        key: String,
        /// The value, shortened.
        value: String,
    },
}

#[derive(Default)]
struct Inner {
    facts: BTreeMap<String, Facts>,
    /// Number of the last write that was tried, over all keys.
    last: u64,
    acks: u64,
    last_ack: Option<Instant>,
    longest_gap: Duration,
}

/// Shared by the writers and the test. Each key has one writer at a time, which waits for the outcome of a write
/// before the next; a write whose outcome is unknown may have happened or not.
#[derive(Default)]
pub struct Ledger {
    inner: Mutex<Inner>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A writer that panicked has failed the test already; what it knew still holds.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write is about to be tried: its number and its value.
    pub fn begin(&self, key: &str) -> (u64, Vec<u8>) {
        let mut inner = self.lock();
        inner.last += 1;
        let number = inner.last;
        inner.facts.entry(key.to_owned()).or_default().tried = number;
        (number, value(key, number))
    }

    /// The write was acknowledged.
    pub fn ack(&self, key: &str, number: u64) {
        let mut inner = self.lock();
        let facts = inner.facts.get_mut(key).expect("begun");
        facts.acked = facts.acked.max(number);
        inner.acks += 1;
        let now = Instant::now();
        if let Some(last) = inner.last_ack.replace(now) {
            inner.longest_gap = inner.longest_gap.max(now - last);
        }
    }

    /// Acknowledgements so far.
    pub fn acks(&self) -> u64 {
        self.lock().acks
    }

    /// Begins to measure the time without any acknowledged write anew.
    pub fn reset_gap(&self) {
        let mut inner = self.lock();
        inner.longest_gap = Duration::ZERO;
        inner.last_ack = Some(Instant::now());
    }

    /// The longest time without any acknowledged write since [`Ledger::reset_gap`].
    pub fn longest_gap(&self) -> Duration {
        let inner = self.lock();
        inner.longest_gap.max(inner.last_ack.map_or(Duration::ZERO, |last| last.elapsed()))
    }

    /// All keys that anybody tried to write.
    pub fn keys(&self) -> Vec<String> {
        self.lock().facts.keys().cloned().collect()
    }

    /// Compares one key with what was read after all writers had ended.
    pub fn check(&self, key: &str, read: Option<&[u8]>) -> Option<Violation> {
        let mut inner = self.lock();
        let facts = inner.facts.get_mut(key).expect("begun");
        let found = read.map(|bytes| number_of(key, bytes));
        match found {
            Some(Some(number)) if number > facts.tried => {}
            Some(None) => {}
            None if facts.acked == 0 => return None,
            Some(Some(number)) if number >= facts.acked => {
                // Once seen, it must stay.
                facts.acked = number;
                return None;
            }
            Some(found @ Some(_)) => {
                return Some(Violation::Lost { key: key.to_owned(), acked: facts.acked, found });
            }
            None => return Some(Violation::Lost { key: key.to_owned(), acked: facts.acked, found: None }),
        }
        let start = read.map(|bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned());
        Some(Violation::Strange { key: key.to_owned(), value: start.unwrap_or_default() })
    }

    /// All processes that could still carry out a write are gone, and every key was read since: a write that was not
    /// seen must not appear any more.
    pub fn settle(&self) {
        for facts in self.lock().facts.values_mut() {
            facts.tried = facts.acked;
        }
    }
}

/// The value of one write; it names key and number.
pub fn value(key: &str, number: u64) -> Vec<u8> {
    let mut value = format!("{key} {number} ").into_bytes();
    let fill = |i: usize| b'a' + ((number as usize + i) % 26) as u8;
    value.extend((0..PADDING + number as usize % 64).map(fill));
    value
}

/// Which write of `key` has this value; nothing if none has.
pub fn number_of(key: &str, bytes: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(bytes).ok()?;
    let number = text.strip_prefix(key)?.strip_prefix(' ')?.split(' ').next()?.parse().ok()?;
    (value(key, number) == bytes).then_some(number)
}

#[test]
fn every_kind_of_wrong_value_is_noticed() {
    let ledger = Ledger::default();
    let (first, old) = ledger.begin("k");
    ledger.ack("k", first);
    let (second, new) = ledger.begin("k");
    assert_eq!(ledger.check("k", Some(&old)), None, "the second may not have happened");
    assert_eq!(ledger.check("k", Some(&new)), None, "or may have");
    let lost = |found| Some(Violation::Lost { key: "k".into(), acked: second, found });
    assert_eq!(ledger.check("k", Some(&old)), lost(Some(first)), "but once seen it stays");
    assert_eq!(ledger.check("k", None), lost(None));
    let mut damaged = new.clone();
    *damaged.last_mut().unwrap() ^= 1;
    for strange in [&damaged[..], b"", &value("other", second), &value("k", second + 1)] {
        assert!(matches!(ledger.check("k", Some(strange)), Some(Violation::Strange { .. })));
    }
}

#[test]
fn a_write_that_did_not_happen_must_not_appear_after_all_is_settled() {
    let ledger = Ledger::default();
    let (_, value) = ledger.begin("k");
    assert_eq!(ledger.check("k", None), None);
    ledger.settle();
    assert!(matches!(ledger.check("k", Some(&value)), Some(Violation::Strange { .. })));
}
