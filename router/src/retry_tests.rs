use proptest::prelude::*;

use super::*;

fn plan(class: CallClass) -> RetryPlan {
    RetryPlan::new(class, RetryPolicy::default(), 1)
}

/// Longest possible pause before each of the next attempts after failures of one kind.
fn pauses(kind: FailureKind, count: u32) -> Vec<u64> {
    let (first, longest) = kind.backoff_ms().unwrap();
    (0..count).map(|n| doubled(first, longest, n)).collect()
}

#[test]
fn pauses_double_up_to_the_longest() {
    use FailureKind as K;
    assert_eq!(pauses(K::NotLeader, 9), [0, 2, 4, 8, 16, 32, 64, 100, 100]);
    assert_eq!(pauses(K::EpochNotMatch, 3), [0, 2, 4]);
    assert_eq!(pauses(K::RouteUnknown, 9), [2, 4, 8, 16, 32, 64, 128, 200, 200]);
    assert_eq!(pauses(K::NoLeader, 7), [10, 20, 40, 80, 160, 200, 200]);
    assert_eq!(pauses(K::Unreachable, 7), [10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(pauses(K::NoPlacement, 5), [50, 100, 200, 400, 500]);
    assert_eq!(pauses(K::ServerIsBusy, 6), [50, 100, 200, 400, 800, 1000]);
    assert_eq!(pauses(K::DiskFull, 4), [500, 1000, 2000, 2000]);
    assert_eq!(doubled(50, 1_000, 4_000_000), 1_000, "no overflow after very many failures");
}

#[test]
fn what_another_attempt_cannot_cure_ends_the_call() {
    for kind in [FailureKind::Rejected, FailureKind::EntryTooLarge] {
        for class in [CallClass::Read, CallClass::Write, CallClass::ConditionalWrite] {
            assert_eq!(plan(class).on_failure(kind, 0, 0), Decision::Fail);
        }
    }
}

#[test]
fn a_conditional_write_without_a_reply_is_never_repeated() {
    for kind in [FailureKind::NoReply, FailureKind::UndeterminedResult] {
        assert_eq!(plan(CallClass::ConditionalWrite).on_failure(kind, 0, 0), Decision::Undetermined);
    }
    assert!(matches!(
        plan(CallClass::ConditionalWrite).on_failure(FailureKind::Unreachable, 0, 0),
        Decision::RetryAfterMs(_)
    ));
}

#[test]
fn a_write_that_may_have_taken_place_is_never_called_failed() {
    let mut plan = plan(CallClass::Write);
    assert!(matches!(plan.on_failure(FailureKind::NoReply, 0, 0), Decision::RetryAfterMs(_)));
    assert!(matches!(plan.on_failure(FailureKind::NoLeader, 100, 0), Decision::RetryAfterMs(_)));
    assert_eq!(plan.clone().on_failure(FailureKind::Rejected, 200, 0), Decision::Undetermined);
    assert_eq!(plan.on_failure(FailureKind::NoLeader, 20_000, 0), Decision::Undetermined);
}

#[test]
fn a_policy_may_forbid_repeating_writes_without_a_known_outcome() {
    let policy = RetryPolicy { retry_undetermined_writes: false, ..RetryPolicy::default() };
    let mut plan = RetryPlan::new(CallClass::Write, policy, 1);
    assert_eq!(plan.on_failure(FailureKind::NoReply, 0, 0), Decision::Undetermined);
}

#[test]
fn a_read_without_a_reply_is_only_a_failure() {
    let mut plan = plan(CallClass::Read);
    assert!(matches!(plan.on_failure(FailureKind::NoReply, 0, 0), Decision::RetryAfterMs(_)));
    assert_eq!(plan.on_failure(FailureKind::NoReply, 15_000, 0), Decision::Fail);
}

#[test]
fn a_store_that_asks_for_a_pause_gets_it_or_the_call_ends() {
    let mut plan = plan(CallClass::Write);
    assert_eq!(plan.on_failure(FailureKind::ServerIsBusy, 0, 2_000), Decision::RetryAfterMs(2_000));
    assert_eq!(plan.on_failure(FailureKind::ServerIsBusy, 2_000, 13_000), Decision::Fail);
}

#[test]
fn kinds_are_listed_in_order() {
    for (at, kind) in FailureKind::ALL.iter().enumerate() {
        assert_eq!(*kind as usize, at);
        assert!(!kind.to_string().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Pauses lie between half of the table's and the table's, the budget is kept, and a seed repeats itself.
    #[test]
    fn pauses_stay_in_their_bounds(
        seed: u64,
        kinds in proptest::collection::vec(proptest::sample::select(FailureKind::ALL.to_vec()), 1..60),
    ) {
        let policy = RetryPolicy::default();
        let run = || {
            let mut plan = RetryPlan::new(CallClass::Read, policy, seed);
            let mut elapsed_ms = 0;
            let mut counts = std::collections::BTreeMap::new();
            let mut decisions = Vec::new();
            for kind in &kinds {
                let decision = plan.on_failure(*kind, elapsed_ms, 0);
                decisions.push(decision);
                let Decision::RetryAfterMs(pause_ms) = decision else { break };
                let (first, longest) = kind.backoff_ms().unwrap();
                let count = counts.entry(*kind).or_insert(0);
                let most = doubled(first, longest, *count);
                *count += 1;
                assert!(pause_ms <= most && pause_ms >= most - most / 2, "{pause_ms} of {most}");
                elapsed_ms += pause_ms;
                assert!(elapsed_ms < policy.budget_ms);
            }
            decisions
        };
        prop_assert_eq!(run(), run());
    }
}
