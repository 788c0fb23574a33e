//! Bugs made on purpose are found: `cargo nextest run -p flotilla-tests --features planted --test planted`. A test a
//! bug; each prints the seed that found it, and what it found.
#![cfg(feature = "planted")]

use flotilla_tests::sim::planted::{ALL, Planted};
use flotilla_tests::sim::run::{Options, run_seed};

/// Seeds within which a planted bug must be found.
const SEEDS: u64 = 400;

fn must_be_found(name: &str) {
    let planted = Planted::find(name).expect("the name is in the list");
    let options = Options { planted: Some(planted), ..Options::default() };
    let found = (0..SEEDS).find_map(|seed| run_seed(seed, options).violation.map(|what| (seed, what)));
    let (seed, what) = found.unwrap_or_else(|| panic!("{name}: not found by {SEEDS} seeds"));
    let what: String = what.chars().take(200).collect();
    println!("{name}: found by seed {seed}: {what}");
}

macro_rules! found {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            must_be_found($name);
        })*

        #[test]
        fn every_planted_bug_has_a_test() {
            let tested = [$($name),*];
            let untested: Vec<_> = ALL.iter().filter(|planted| !tested.contains(&planted.name)).collect();
            assert!(untested.is_empty(), "{untested:?}");
        }
    };
}

found! {
    a_vote_that_is_not_persisted: "vote-not-persisted",
    a_change_of_membership_apart_from_the_commit_before_it: "commit-apart",
    an_acknowledgement_before_the_sync: "ack-before-sync",
    a_sync_that_is_none: "sync-that-is-none",
    a_lease_kept_through_a_transfer: "lease-through-transfer",
    a_lease_kept_through_a_merge: "lease-through-merge",
    a_read_index_before_the_first_commit_of_the_term: "read-index-before-own-commit",
    a_split_over_the_vote_of_the_child: "split-over-vote",
    a_child_range_served_by_the_old_parent: "child-served-by-parent",
    a_child_forgotten_at_a_crash: "child-forgotten",
    a_stale_epoch_accepted_at_apply: "stale-epoch-applied",
    a_snapshot_that_misses_the_last_key: "snapshot-misses-last-key",
    a_snapshot_over_an_overlapping_region: "snapshot-overlap",
    a_log_truncated_past_the_durable_index: "truncated-too-far",
    an_applied_index_apart_from_its_data: "applied-index-apart",
    applied_positions_forgotten_when_their_ring_begins_anew: "positions-forgotten",
    a_merge_committed_before_the_source_caught_up: "merge-before-caught-up",
    a_merge_without_the_entries_of_the_source: "merge-without-entries",
    a_source_destroyed_before_its_target_is_past_the_merge: "source-buried-early",
    a_rollback_and_a_commit_of_one_merge: "rollback-after-prepare",
    a_forgotten_tombstone: "no-tombstone",
    support_forgotten_at_a_restart: "support-forgotten",
    support_measured_from_the_receipt: "support-from-receipt",
    a_withdrawal_before_it_is_synced: "withdrawn-before-sync",
    a_promise_before_it_is_synced: "promise-before-sync",
    sleep_while_a_follower_lacks_the_tail: "sleep-before-tail",
    a_promise_forgotten_in_sleep: "promise-slept-away",
    a_peer_id_used_twice: "peer-id-twice",
    an_older_epoch_kept_by_the_router: "older-epoch-in-routes",
    a_swap_applied_twice_after_an_unknown_outcome: "swap-repeated",
}
