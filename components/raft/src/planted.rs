//! Bugs of the consensus cores made on purpose, for the tests and the simulator to find: never in a product build.

flotilla_planted::bugs! {
    /// The hard state that is to be stored names no vote.
    VoteNotPersisted,
    /// A leader commits an entry of an earlier term because a quorum has it (Raft paper, figure 8).
    OldTermCommitted,
    /// A follower acknowledges entries before they are stored.
    AckBeforeSync,
    /// A learner's acknowledgement counts like a voter's.
    LearnerInQuorum,
    /// A leader answers reads before it has committed an entry of its own term.
    ReadIndexBeforeOwnCommit,
    /// A membership change may be proposed while an earlier one is not applied.
    ConfChangeBeforeApplied,
    /// The vote of a peer that is no voter counts.
    StrangersVoteCounted,
    /// A leader reads under its lease while it hands over, and afterwards.
    LeaseThroughTransfer,
}
