//! The log view against tables and against a plain list.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    mem_storage::MemStorage,
    types::{ConfState, SnapshotMeta},
};

fn entry(index: u64, term: u64) -> Entry {
    Entry { index: Index(index), term: Term(term), ..Entry::default() }
}

fn entries(from: u64, terms: &[u64]) -> Vec<Entry> {
    terms.iter().zip(from..).map(|(term, index)| entry(index, *term)).collect()
}

/// Entries of `stable` terms in storage, of `unstable` terms behind them, after a base.
fn log(base: (u64, u64), stable: &[u64], unstable: &[u64]) -> RaftLog<MemStorage> {
    limited(base, stable, unstable, u64::MAX)
}

fn limited(base: (u64, u64), stable: &[u64], unstable: &[u64], applying_max: u64) -> RaftLog<MemStorage> {
    let meta = SnapshotMeta { index: Index(base.0), term: Term(base.1), conf_state: ConfState::default() };
    let mut storage = MemStorage::with_snapshot(Snapshot { meta, ..Snapshot::default() });
    storage.append(&mut entries(base.0 + 1, stable));
    let mut log = RaftLog::new(storage, applying_max).expect("in memory");
    let next = log.last_index().next();
    log.append(entries(next.0, unstable));
    log
}

fn all_terms(log: &RaftLog<MemStorage>) -> Vec<u64> {
    let (first, last) = (log.first_index().0, log.last_index().0);
    (first..=last).map(|index| log.term(Index(index)).expect("in the log").0).collect()
}

#[test]
fn the_first_difference_decides_what_is_appended() {
    for (new, expected_terms, expected_offset) in [
        (vec![], vec![1, 2, 3], 4),
        (entries(1, &[1, 2, 3]), vec![1, 2, 3], 4),
        (entries(2, &[2, 3]), vec![1, 2, 3], 4),
        (entries(1, &[1, 2, 3, 4, 4]), vec![1, 2, 3, 4, 4], 4),
        (entries(4, &[4]), vec![1, 2, 3, 4], 4),
        (entries(3, &[4]), vec![1, 2, 4], 3),
        (entries(1, &[4, 4]), vec![4, 4], 1),
    ] {
        let mut log = log((0, 0), &[1, 2, 3], &[]);
        let prev = new.first().map_or(3, |first| first.index.0 - 1);
        let prev_term = log.term(Index(prev)).expect("in the log");
        let last = prev + new.len() as u64;
        let got = log.maybe_append(Index(prev), prev_term, Index(0), new.clone());
        assert_eq!(got, Ok(Some(Index(last))), "{new:?}");
        assert_eq!(
            (all_terms(&log), log.unstable.offset()),
            (expected_terms, Index(expected_offset)),
            "{new:?}"
        );
    }
}

#[test]
fn appends_where_the_logs_differ_change_nothing_and_committed_entries_stay() {
    let mut log = log((0, 0), &[1, 2, 3], &[]);
    log.commit_to(Index(2));
    assert_eq!(log.maybe_append(Index(3), Term(9), Index(3), entries(4, &[9])), Ok(None));
    assert_eq!(log.maybe_append(Index(9), Term(3), Index(3), vec![]), Ok(None));
    let conflict = log.maybe_append(Index(0), Term(0), Index(3), entries(1, &[1, 9]));
    assert_eq!(conflict, Err(StepError::ConflictsWithCommitted { index: Index(2) }));
    assert_eq!((all_terms(&log), log.committed), (vec![1, 2, 3], Index(2)));
    assert_eq!(log.maybe_append(Index(3), Term(3), Index(9), entries(4, &[4])), Ok(Some(Index(4))));
    assert_eq!(log.committed, Index(4), "no further than what is known to agree");
}

#[test]
fn logs_are_compared_by_last_term_and_then_by_length() {
    let log = log((0, 0), &[1, 2, 3], &[]);
    for (index, term, expected) in
        [(2, 4, true), (3, 4, true), (4, 2, false), (3, 3, true), (2, 3, false), (4, 3, true)]
    {
        assert_eq!(log.is_up_to_date(Index(index), Term(term)), expected, "({index}, {term})");
    }
}

#[test]
fn agreement_is_the_last_index_of_at_most_that_term() {
    let log = log((0, 0), &[1, 1, 4, 4], &[5]);
    for (index, term, expected) in [
        (5, 5, (5, 5)),
        (5, 4, (4, 4)),
        (4, 3, (2, 1)),
        (2, 1, (2, 1)),
        (3, 0, (0, 0)),
        (0, 9, (0, 0)),
        (9, 3, (9, 0)),
    ] {
        let (at, of) = log.find_agreement(Index(index), Term(term));
        assert_eq!((at.0, of.0), expected, "({index}, {term})");
    }
    let compacted = super::tests::log((10, 3), &[4], &[]);
    assert_eq!(
        compacted.find_agreement(Index(11), Term(2)),
        (Index(9), Term(0)),
        "unknown counts as agreeing"
    );
}

#[test]
fn terms_are_known_from_just_before_the_first_index_to_the_last() {
    let log = log((5, 2), &[3], &[4]);
    assert_eq!(log.term(Index(4)), Err(StorageError::Compacted));
    let known: Vec<_> = (5..=7).map(|index| log.term(Index(index)).map(Term::get)).collect();
    assert_eq!(known, [Ok(2), Ok(3), Ok(4)]);
    assert_eq!(log.term(Index(8)), Err(StorageError::Unavailable));
}

#[test]
fn an_unstable_snapshot_defines_the_bounds() {
    let mut log = log((5, 2), &[3, 3], &[4]);
    let meta = SnapshotMeta { index: Index(20), term: Term(6), ..SnapshotMeta::default() };
    log.restore(Box::new(Snapshot { meta, data: Bytes::new() }));
    assert_eq!((log.first_index(), log.last_index(), log.committed), (Index(21), Index(20), Index(20)));
    assert_eq!(log.term(Index(20)), Ok(Term(6)));
    assert_eq!(log.term(Index(6)), Err(StorageError::Compacted));
    assert!(!log.has_next_committed_entries(ALL), "nothing is applied while a snapshot is pending");
    assert_eq!(log.snapshot(Index(7), crate::PeerId(2)).map(|snapshot| snapshot.meta.index), Ok(Index(20)));
    log.unstable.accept_in_progress();
    assert!(!log.has_next_committed_entries(ALL));
    log.check_invariants();
}

#[test]
fn slices_cross_the_border_of_storage_within_their_limit() {
    let log = log((3, 1), &[1, 1, 1], &[1, 1, 1]);
    let one = crate::entry_size(&entry(4, 1));
    let read = |low, high, max| -> Result<Vec<u64>, StorageError> {
        let got = log.slice(Index(low), Index(high), max, FetchContext::Immediate)?;
        Ok(got.iter().map(|entry| entry.index.0).collect())
    };
    for (low, high, max, expected) in [
        (4, 10, u64::MAX, vec![4, 5, 6, 7, 8, 9]),
        (4, 10, 0, vec![4]),
        (4, 10, one, vec![4]),
        (4, 10, 2 * one, vec![4, 5]),
        (4, 10, 3 * one, vec![4, 5, 6]),
        (4, 10, 3 * one + 1, vec![4, 5, 6]),
        (4, 10, 4 * one, vec![4, 5, 6, 7]),
        (6, 8, u64::MAX, vec![6, 7]),
        (7, 10, one, vec![7]),
        (8, 10, u64::MAX, vec![8, 9]),
        (5, 5, u64::MAX, vec![]),
    ] {
        assert_eq!(read(low, high, max), Ok(expected), "[{low}, {high}) within {max}");
    }
    assert_eq!(read(3, 5, 0), Err(StorageError::Compacted));
    assert_eq!(read(4, 11, 0), Err(StorageError::Unavailable));
}

/// Any entry may be applied, stored or not.
const ALL: u64 = u64::MAX;

fn committed(log: &RaftLog<MemStorage>, ahead_max: u64) -> Vec<Entry> {
    let mut entries = Vec::new();
    log.take_committed_entries(ahead_max, &mut entries);
    entries
}

#[test]
fn only_stable_entries_are_applied_unless_the_caller_stores_first() {
    let mut log = log((0, 0), &[1, 1], &[1, 1]);
    log.commit_to(Index(4));
    let indexes = |log: &RaftLog<MemStorage>, ahead_max| -> Vec<u64> {
        committed(log, ahead_max).iter().map(|entry| entry.index.0).collect()
    };
    assert_eq!(indexes(&log, ALL), [1, 2, 3, 4]);
    assert_eq!(indexes(&log, 1), [1, 2, 3]);
    assert_eq!(indexes(&log, 0), [1, 2]);
    log.accept_applying(Index(2), 12, 0);
    assert!(!log.has_next_committed_entries(0));
    assert_eq!(indexes(&log, ALL), [3, 4]);
    log.unstable.accept_in_progress();
    assert!(!log.has_next_committed_entries(0), "in progress is not stable");
}

#[test]
fn applying_pauses_at_the_limit_or_when_cut_short_until_acknowledged() {
    let one = crate::entry_size(&entry(1, 1));
    for (limit, count, pauses) in [
        (u64::MAX, 3, false),
        (3 * one, 3, true),
        (3 * one + 1, 3, false),
        (2 * one, 2, true),
        (1, 1, true),
        (0, 1, true),
    ] {
        let mut log = limited((0, 0), &[1, 1, 1, 1], &[], limit);
        log.commit_to(Index(3));
        let handed = committed(&log, ALL);
        assert_eq!(handed.len(), count, "limit {limit}");
        log.accept_applying(Index(count as u64), entries_size(&handed), ALL);
        log.commit_to(Index(4));
        assert_eq!(!log.has_next_committed_entries(ALL), pauses, "limit {limit}");
        log.applied_to(Index(count as u64), entries_size(&handed));
        assert!(log.has_next_committed_entries(ALL), "limit {limit}");
        log.check_invariants();
    }
}

#[test]
fn the_applied_index_may_jump_ahead_of_what_was_handed_out_but_not_of_the_commit() {
    let mut log = log((0, 0), &[1, 1, 1], &[]);
    log.commit_to(Index(2));
    log.applied_to(Index(2), 0);
    assert_eq!((log.applied, log.applying), (Index(2), Index(2)));
    let beyond = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| log.applied_to(Index(3), 0)));
    assert!(beyond.is_err());
}

#[test]
fn commits_need_an_entry_of_the_term_and_never_move_back() {
    let mut log = log((0, 0), &[1, 1, 2], &[3]);
    for (index, term, expected) in
        [(2, 2, 0), (2, 0, 0), (3, 2, 3), (2, 1, 3), (4, 2, 3), (4, 3, 4), (9, 3, 4)]
    {
        log.maybe_commit(Index(index), Term(term));
        assert_eq!(log.committed, Index(expected), "({index}, {term})");
    }
    log.commit_to(Index(1));
    assert_eq!(log.committed, Index(4));
}

#[test]
fn compaction_leaves_the_rest_of_the_view_intact() {
    let mut log = log((0, 0), &[1, 1, 1, 1], &[1, 1]);
    log.commit_to(Index(4));
    log.applied_to(Index(4), 0);
    log.storage.compact(Index(3)).expect("not compacted yet");
    assert_eq!((log.first_index(), log.last_index()), (Index(4), Index(6)));
    assert_eq!(log.term(Index(2)), Err(StorageError::Compacted));
    assert_eq!(log.term(Index(3)), Ok(Term(1)));
    let rest = log.entries(Index(4), u64::MAX, FetchContext::Immediate).map(|entries| entries.len());
    assert_eq!(rest, Ok(3));
    assert_eq!(log.entries(Index(7), u64::MAX, FetchContext::Immediate), Ok(vec![]));
}

proptest! {
    /// Random appends, storing and compaction, against a plain list of terms.
    #[test]
    fn behaves_like_a_plain_list(ops in prop::collection::vec((0u8..4, 0u64..10, 1u64..5), 0..50)) {
        let mut log = log((0, 0), &[], &[]);
        let mut model: Vec<u64> = Vec::new();
        let (mut base, mut term) = (0u64, 0u64);
        for (op, at, count) in ops {
            match op {
                0 => {
                    let prev = (model.len() as u64).saturating_sub(at).max(log.committed.0).max(base);
                    term += 1;
                    let prev_term = log.term(Index(prev)).expect("in the log");
                    let new = entries(prev + 1, &vec![term; count as usize]);
                    prop_assert!(log.maybe_append(Index(prev), prev_term, Index(0), new).is_ok());
                    model.truncate(prev as usize);
                    model.extend(vec![term; count as usize]);
                }
                1 => {
                    let tail = log.unstable.next_entries().to_vec();
                    log.unstable.accept_in_progress();
                    log.storage.append(&mut tail.clone());
                    if let Some(last) = tail.last() {
                        log.unstable.stable_to(last.index, last.term);
                    }
                }
                2 => {
                    let commit = (log.committed.0 + at).min(model.len() as u64);
                    log.commit_to(Index(commit));
                }
                _ => {
                    let stored = log.unstable.offset().0 - 1;
                    let upto = log.committed.0.min(stored).min(base + at);
                    if upto > base {
                        log.applied_to(Index(upto).max(log.applied), 0);
                        log.storage.compact(Index(upto)).expect("not compacted yet");
                        base = upto;
                    }
                }
            }
            log.check_invariants();
            prop_assert_eq!(log.last_index().0, model.len() as u64);
            prop_assert_eq!(all_terms(&log), model[base as usize..].to_vec());
        }
    }
}
