//! Bugs made on purpose are found: `cargo test --release -p flotilla-raft --features planted --test behaviour planted`.
//! Each test prints the schedule that found its bug, and after how long.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use flotilla_raft::planted::{Bug, plant};

use crate::{
    reads,
    schedule_run::run_schedule,
    schedules::{STEPS, number},
};

/// Schedules within which a bug must be found, unless `RAFT_SCHEDULES` says otherwise.
const SCHEDULES: u64 = 200_000;

fn text(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().cloned();
    text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn must_be_found(bug: Bug) {
    plant(Some(bug));
    let began = Instant::now();
    let fails = |seed: &u64| {
        catch_unwind(AssertUnwindSafe(|| run_schedule(*seed, STEPS, false))).err().map(|c| text(&*c))
    };
    let found =
        (0..number("RAFT_SCHEDULES").unwrap_or(SCHEDULES)).find_map(|seed| Some((seed, fails(&seed)?)));
    plant(None);
    let (seed, what) = found.unwrap_or_else(|| panic!("{bug:?}: not found"));
    println!("{bug:?}: found by schedule {seed} after {:.1} s: {what}", began.elapsed().as_secs_f64());
}

#[test]
fn a_vote_that_is_not_persisted() {
    must_be_found(Bug::VoteNotPersisted);
}

#[test]
fn an_entry_of_an_earlier_term_committed_by_counting() {
    must_be_found(Bug::OldTermCommitted);
}

#[test]
fn an_acknowledgement_before_the_sync() {
    must_be_found(Bug::AckBeforeSync);
}

#[test]
fn a_learner_counted_in_the_quorum() {
    must_be_found(Bug::LearnerInQuorum);
}

#[test]
fn a_read_index_before_a_commit_in_the_term() {
    must_be_found(Bug::ReadIndexBeforeOwnCommit);
}

#[test]
fn a_conf_change_counted_before_the_last_one_is_applied() {
    must_be_found(Bug::ConfChangeBeforeApplied);
}

#[test]
fn a_vote_of_a_removed_peer_counted() {
    must_be_found(Bug::StrangersVoteCounted);
}

/// Schedules know no time, so that they cannot tell whether a lease holds.
#[test]
fn a_lease_kept_through_a_transfer() {
    plant(Some(Bug::LeaseThroughTransfer));
    let outcome = catch_unwind(reads::a_transfer_breaks_the_lease_for_the_rest_of_the_term);
    plant(None);
    assert!(outcome.is_err(), "the test of the lease does not see that it is kept");
}
