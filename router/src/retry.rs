//! What to do after a failed attempt.

use std::fmt;

use crate::rng::SplitMix64;

/// What a call does to the data, which decides what may be tried twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallClass {
    /// Changes nothing.
    Read,
    /// Doing it twice in a row is the same as doing it once (put, delete).
    Write,
    /// Its reply depends on what it finds, so a second try could take its own first try for another's write
    /// (compare-and-swap).
    ConditionalWrite,
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// The peer does not lead and named who does.
    NotLeader,
    /// The peer does not lead and knows of no leader.
    NoLeader,
    /// The region changed; the store sent what is there now.
    EpochNotMatch,
    /// The store is behind what we know of the region.
    StoreBehind,
    /// The store holds no such region or peer, or not with this key.
    RouteUnknown,
    /// Another store lives at the address.
    StoreNotMatch,
    /// The store has more work than it takes.
    ServerIsBusy,
    /// The region cannot serve for a moment (merging, waiting for a read index, recovering).
    NotReady,
    /// The command came from an older term and was dropped.
    StaleCommand,
    /// The store's disk is full.
    DiskFull,
    /// No connection to the store; nothing was sent.
    Unreachable,
    /// The connection broke or the reply did not come in time.
    NoReply,
    /// The store itself does not know whether the write took place.
    UndeterminedResult,
    /// No placement address answered, or placement does not know the answer yet.
    NoPlacement,
    /// The write is larger than a store accepts.
    EntryTooLarge,
    /// The store refused the request for what it asks.
    Rejected,
}

impl FailureKind {
    /// Every kind.
    pub const ALL: [Self; 16] = [
        Self::NotLeader,
        Self::NoLeader,
        Self::EpochNotMatch,
        Self::StoreBehind,
        Self::RouteUnknown,
        Self::StoreNotMatch,
        Self::ServerIsBusy,
        Self::NotReady,
        Self::StaleCommand,
        Self::DiskFull,
        Self::Unreachable,
        Self::NoReply,
        Self::UndeterminedResult,
        Self::NoPlacement,
        Self::EntryTooLarge,
        Self::Rejected,
    ];

    /// Whether a write that failed so may have taken place all the same.
    pub const fn may_have_applied(self) -> bool {
        matches!(self, Self::NoReply | Self::UndeterminedResult)
    }

    /// Shortest and longest pause in ms before the next attempt: the pause starts at the first and doubles with
    /// every failure of this kind up to the second. `None`: another attempt would fail the same way.
    pub const fn backoff_ms(self) -> Option<(u64, u64)> {
        Some(match self {
            // We just learned the way: the first repetition leaves at once.
            Self::NotLeader | Self::EpochNotMatch => (0, 100),
            Self::StaleCommand | Self::RouteUnknown | Self::StoreNotMatch => (2, 200),
            Self::NoLeader | Self::StoreBehind | Self::NotReady | Self::UndeterminedResult => (10, 200),
            Self::Unreachable | Self::NoReply => (10, 300),
            Self::NoPlacement => (50, 500),
            Self::ServerIsBusy => (50, 1_000),
            Self::DiskFull => (500, 2_000),
            Self::EntryTooLarge | Self::Rejected => return None,
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::NotLeader => "not the leader",
            Self::NoLeader => "the region has no leader",
            Self::EpochNotMatch => "the region changed",
            Self::StoreBehind => "the store is behind",
            Self::RouteUnknown => "the store does not hold the region",
            Self::StoreNotMatch => "another store answers at the address",
            Self::ServerIsBusy => "the store is busy",
            Self::NotReady => "the region is not ready",
            Self::StaleCommand => "the command was dropped",
            Self::DiskFull => "the store's disk is full",
            Self::Unreachable => "the store cannot be reached",
            Self::NoReply => "no reply",
            Self::UndeterminedResult => "the store does not know the result",
            Self::NoPlacement => "placement does not answer",
            Self::EntryTooLarge => "the write is too large",
            Self::Rejected => "the request was refused",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How long and how often calls are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Time in ms from a call's start after which no further attempt begins.
    pub budget_ms: u64,
    /// Whether a put or delete without a known outcome is sent again. A repetition that succeeds makes the write
    /// certain, but a first attempt delayed on its way could still take effect after it; `false` reports
    /// [`Decision::Undetermined`] at once instead.
    pub retry_undetermined_writes: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { budget_ms: 15_000, retry_undetermined_writes: true }
    }
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again after this many ms.
    RetryAfterMs(u64),
    /// Report the failure: a write of this call certainly did not take place.
    Fail,
    /// Report that the write may or may not have taken place.
    Undetermined,
}

/// The attempts of one call: asked after each failure, it decides what follows. Pure: elapsed time is passed in,
/// jitter comes from the seed.
#[derive(Clone, Debug)]
pub struct RetryPlan {
    class: CallClass,
    policy: RetryPolicy,
    /// Failures so far, by kind.
    failures: [u32; FailureKind::ALL.len()],
    /// An earlier attempt of a write ended without a known outcome.
    may_have_applied: bool,
    rng: SplitMix64,
}

impl RetryPlan {
    /// The plan of a call that starts now.
    pub fn new(class: CallClass, policy: RetryPolicy, seed: u64) -> Self {
        Self {
            class,
            policy,
            failures: [0; FailureKind::ALL.len()],
            may_have_applied: false,
            rng: SplitMix64::new(seed),
        }
    }

    /// An attempt failed `elapsed_ms` after the call's start; the store asked to be left alone for `pause_ms_min`.
    pub fn on_failure(&mut self, kind: FailureKind, elapsed_ms: u64, pause_ms_min: u64) -> Decision {
        if self.class != CallClass::Read && kind.may_have_applied() {
            self.may_have_applied = true;
            let repeats = planted!(RepeatedSwap) && self.class == CallClass::ConditionalWrite;
            if !repeats
                && (self.class == CallClass::ConditionalWrite || !self.policy.retry_undetermined_writes)
            {
                return Decision::Undetermined;
            }
        }
        let Some((first_ms, longest_ms)) = kind.backoff_ms() else { return self.give_up() };
        let failures = &mut self.failures[kind as usize];
        let pause_ms = doubled(first_ms, longest_ms, *failures);
        *failures += 1;
        // Half of the pause is fixed, half is drawn, so that callers who failed together do not return together.
        let jittered_ms = pause_ms - self.rng.up_to(pause_ms / 2);
        let pause_ms = jittered_ms.max(pause_ms_min);
        if elapsed_ms.saturating_add(pause_ms) >= self.policy.budget_ms {
            return self.give_up();
        }
        Decision::RetryAfterMs(pause_ms)
    }

    /// The answer when no further attempt will follow.
    pub fn give_up(&self) -> Decision {
        if self.may_have_applied { Decision::Undetermined } else { Decision::Fail }
    }
}

/// `first * 2^failures`, at most `longest`; a first pause of 0 is followed by 2, 4, 8...
fn doubled(first_ms: u64, longest_ms: u64, failures: u32) -> u64 {
    if failures == 0 {
        return first_ms;
    }
    let base = first_ms.max(1);
    base.checked_shl(failures).filter(|ms| ms >> failures == base).unwrap_or(longest_ms).min(longest_ms)
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
