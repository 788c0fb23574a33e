//! The pure machines: what is promised, on whose clock, and what survives a restart.

use std::collections::BTreeMap;

use flotilla_region::StoreId;

use super::requester::{News, Requester, Supports};
use super::supporter::{Answer, Record, Request, Step, Supporter};
use crate::time::Time;

const OTHER: StoreId = StoreId(7);
const DURATION_MS: u64 = 800;

fn at(ms: u64) -> Time {
    Time::default().plus_ms(ms)
}

fn request(epoch: u64, round: u64) -> Request {
    Request { epoch, round, duration_ms: DURATION_MS }
}

fn record(epoch: u64, is_held: bool) -> Record {
    Record { epoch, is_held, duration_ms: DURATION_MS }
}

/// A supporter whose disk has the first epoch.
fn supporting() -> Supporter {
    let mut supporter = Supporter::default();
    assert_eq!(supporter.on_request(OTHER, request(1, 1), at(0)), [Step::Write(OTHER, record(1, true))]);
    assert_eq!(supporter.on_written(OTHER), [Step::Granted(OTHER, 1)]);
    supporter
}

#[test]
fn nothing_is_answered_before_the_record_is_synced() {
    let mut supporter = Supporter::default();
    supporter.on_request(OTHER, request(1, 1), at(0));
    assert_eq!(supporter.answer(OTHER), Answer::default());
    supporter.on_written(OTHER);
    assert_eq!(supporter.answer(OTHER), Answer { epoch: 1, round: 1, refused: 0 });
}

#[test]
fn a_promise_runs_from_the_receipt_and_each_request_prolongs_it() {
    let mut supporter = supporting();
    assert_eq!(supporter.on_request(OTHER, request(1, 2), at(500)), [], "nothing new for the disk");
    assert_eq!(supporter.answer(OTHER).round, 2);
    assert_eq!(supporter.deadline(), Some(at(500 + DURATION_MS)));
    assert_eq!(supporter.on_time(at(499 + DURATION_MS)), []);
    let write = Step::Write(OTHER, record(1, false));
    assert_eq!(supporter.on_time(at(500 + DURATION_MS)), [write]);
}

#[test]
fn a_withdrawal_is_told_when_it_is_synced_and_nothing_is_answered_meanwhile() {
    let mut supporter = supporting();
    assert_eq!(supporter.on_time(at(DURATION_MS)), [Step::Write(OTHER, record(1, false))]);
    assert_eq!(supporter.on_request(OTHER, request(1, 2), at(DURATION_MS)), [], "too late");
    assert_eq!(supporter.answer(OTHER), Answer { refused: 1, ..Answer::default() });
    assert_eq!(supporter.on_written(OTHER), [Step::Withdrawn(OTHER, 1)]);
    assert_eq!(supporter.on_request(OTHER, request(1, 3), at(DURATION_MS + 1)), [], "for good");
    assert_eq!(supporter.answer(OTHER).refused, 1);
    assert_eq!(supporter.deadline(), None);
}

#[test]
fn a_higher_epoch_ends_the_one_before_at_once_and_a_lower_one_means_nothing() {
    let mut supporter = supporting();
    assert_eq!(supporter.on_request(OTHER, request(3, 1), at(10)), [Step::Write(OTHER, record(3, true))]);
    assert_eq!(supporter.answer(OTHER), Answer::default(), "neither epoch");
    assert_eq!(supporter.on_written(OTHER), [Step::Withdrawn(OTHER, 1), Step::Granted(OTHER, 3)]);
    assert_eq!(supporter.on_request(OTHER, request(1, 9), at(5_000)), []);
    assert_eq!(supporter.answer(OTHER), Answer { epoch: 3, round: 1, refused: 0 });
    assert_eq!(supporter.deadline(), Some(at(10 + DURATION_MS)), "not prolonged by it");
}

#[test]
fn what_changes_while_a_write_is_under_way_is_written_after_it() {
    let mut supporter = Supporter::default();
    supporter.on_request(OTHER, request(1, 1), at(0));
    assert_eq!(supporter.on_request(OTHER, request(2, 1), at(1)), [], "one write at a time");
    let steps = [Step::Granted(OTHER, 1), Step::Write(OTHER, record(2, true))];
    assert_eq!(supporter.on_written(OTHER), steps);
    assert_eq!(supporter.answer(OTHER), Answer::default());
    assert_eq!(supporter.on_written(OTHER), [Step::Withdrawn(OTHER, 1), Step::Granted(OTHER, 2)]);
}

#[test]
fn a_longer_duration_is_on_disk_before_it_is_answered() {
    let mut supporter = supporting();
    let longer = Request { epoch: 1, round: 2, duration_ms: 5_000 };
    let written = Record { duration_ms: 5_000, ..record(1, true) };
    assert_eq!(supporter.on_request(OTHER, longer, at(1)), [Step::Write(OTHER, written)]);
    assert_eq!(supporter.answer(OTHER), Answer::default());
    assert_eq!(supporter.on_written(OTHER), [], "the same epoch");
    assert_eq!(supporter.answer(OTHER).round, 2);
}

#[test]
fn after_a_restart_remembered_support_holds_for_a_full_duration() {
    let records = BTreeMap::from([(OTHER, record(4, true)), (StoreId(8), record(2, false))]);
    let mut supporter = Supporter::restore(&records, at(100));
    assert_eq!(supporter.answer(OTHER), Answer::default(), "no request of this life");
    assert_eq!(supporter.on_time(at(99 + DURATION_MS)), []);
    assert_eq!(supporter.on_request(OTHER, request(4, 50), at(200)), []);
    assert_eq!(supporter.answer(OTHER), Answer { epoch: 4, round: 50, refused: 0 });
    assert_eq!(supporter.answer(StoreId(8)).refused, 2, "withdrawn before the restart");
    assert_eq!(supporter.on_time(at(200 + DURATION_MS)), [Step::Write(OTHER, record(4, false))]);
}

#[test]
fn records_survive_encoding() {
    for written in [record(1, true), record(u64::MAX, false)] {
        assert_eq!(Record::decode(written.encode().into()), Some(written));
    }
}

// ---- the requester ----

fn requesting() -> (Requester, Supports) {
    let supports = Supports::default();
    let mut requester = Requester::new(5, DURATION_MS, 10, supports.clone());
    assert_eq!(requester.ask(OTHER, at(0)), None, "the epoch is not on disk");
    requester.on_written(5);
    (requester, supports)
}

#[test]
fn support_runs_from_the_sending_less_drift() {
    let (mut requester, supports) = requesting();
    let asked = requester.ask(OTHER, at(1_000)).expect("the epoch is on disk");
    assert_eq!(asked, Request { epoch: 5, round: 1, duration_ms: DURATION_MS });
    assert!(supports.held_by(OTHER, at(1_000)).is_none(), "not before it is answered");
    assert_eq!(requester.on_support(OTHER, 5, asked.round, at(1_600)), News::Gained);
    let end = 1_000 + DURATION_MS * 9 / 10;
    assert!(supports.held_by(OTHER, at(end - 1)).is_some());
    assert!(supports.held_by(OTHER, at(end)).is_none());
    assert_eq!(requester.on_time(at(end - 1)), []);
    assert_eq!(requester.on_time(at(end)), [OTHER]);
    assert_eq!(requester.on_time(at(end)), [], "told once");
}

#[test]
fn an_answer_to_an_unknown_round_or_of_another_epoch_counts_for_nothing() {
    let (mut requester, supports) = requesting();
    requester.ask(OTHER, at(0));
    assert_eq!(requester.on_support(OTHER, 5, 2, at(1)), News::Nothing, "never asked");
    assert_eq!(requester.on_support(OTHER, 4, 1, at(1)), News::Nothing, "an earlier life");
    assert!(supports.held_by(OTHER, at(1)).is_none());
    requester.ask(OTHER, at(300));
    assert_eq!(requester.on_support(OTHER, 5, 2, at(301)), News::Gained);
    assert_eq!(requester.on_support(OTHER, 5, 1, at(302)), News::Nothing, "overtaken");
    assert!(supports.held_by(OTHER, at(300 + 719)).is_some(), "a late answer takes nothing back");
}

#[test]
fn an_answer_that_comes_too_late_is_no_support() {
    let (mut requester, supports) = requesting();
    requester.ask(OTHER, at(0));
    assert_eq!(requester.on_support(OTHER, 5, 1, at(DURATION_MS)), News::Nothing);
    assert!(supports.held_by(OTHER, at(DURATION_MS)).is_none());
}

#[test]
fn a_refused_epoch_is_given_up_before_a_higher_one_is_written_and_asked_for() {
    let (mut requester, supports) = requesting();
    let third = StoreId(8);
    requester.ask(OTHER, at(0));
    requester.ask(third, at(0));
    requester.on_support(OTHER, 5, 1, at(1));
    requester.on_support(third, 5, 2, at(1));
    let before = supports.of(OTHER).expect("a pair");
    assert_eq!(requester.on_refused(OTHER, 4), News::Nothing, "long past");
    assert_eq!(requester.on_refused(OTHER, 9), News::Raise(10));
    assert!(!before.holds(at(1)), "given up at once");
    assert_eq!(requester.on_refused(OTHER, 9), News::Nothing, "raised already");
    assert_eq!(requester.ask(OTHER, at(2)), None, "not on disk yet");
    assert_eq!(requester.on_support(OTHER, 5, 1, at(2)), News::Nothing);
    assert_eq!(requester.ask(third, at(2)).map(|r| r.epoch), Some(5), "another pair's epoch stays");
    requester.on_written(10);
    assert_eq!(requester.ask(OTHER, at(3)).map(|r| r.epoch), Some(10));
    assert!(supports.held_by(third, at(3)).is_some());
    assert_eq!(requester.ask(StoreId(9), at(3)).map(|r| r.epoch), Some(10), "never an older one");
}
