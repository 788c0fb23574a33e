//! Bugs of the stores made on purpose, for the simulator to find: never in a product build.

flotilla_planted::bugs! {
    /// The hard state on disk holds no vote.
    VoteNotPersisted,
    /// A change of membership is logged without what tells that the one before it is committed.
    CommitApart,
    /// What a sync of `log` would make true is told without one.
    AckBeforeSync,
    /// A leader keeps its lease while it hands over.
    LeaseThroughTransfer,
    /// A split forgets the vote that its child gave before.
    SplitOverVote,
    /// A parent leader renews its lease while a split of it is under way.
    ChildServedByParent,
    /// A split does not write the descriptors of its children.
    ChildForgotten,
    /// Commands of an older shape of the region are applied.
    StaleEpochApplied,
    /// A snapshot leaves out the last key.
    LastKeyMissing,
    /// Ranges that are taken keep nothing away.
    SnapshotOverlap,
    /// What is applied is taken for durable: the log is cut at it.
    TruncatedTooFar,
    /// The applied index is written before the data that it stands for.
    AppliedIndexApart,
    /// The ring of applied positions begins anew, and regions' own records are left as they are.
    PositionsForgotten,
    /// A removed peer leaves nothing behind.
    NoTombstone,
    /// A source's leader reads under its lease after it proposed to become part of its target.
    LeaseThroughMerge,
    /// A target takes its source over before that one is applied up to its end.
    MergeBeforeCaughtUp,
    /// A source gives its target none of the entries that a slow peer of it may lack.
    MergeWithoutEntries,
    /// A source that is known to be merged is destroyed before its target here is past the merge.
    SourceBuriedEarly,
    /// A source that is final takes it back when the target is slow.
    RollbackAfterPrepare,
    /// A restarted store remembers nobody whom it supports.
    SupportForgotten,
    /// A store counts support from the answer's receipt instead of from its own request.
    SupportFromReceipt,
    /// Regions learn of a withdrawal that is not on disk, and that the next request revives.
    WithdrawnBeforeSync,
    /// A promise to a leader is told before it is on disk.
    PromiseBeforeSync,
    /// A leader sleeps while a follower has not been told the tail.
    SleepBeforeTail,
    /// A follower that slept does not remember its promise.
    PromiseSleptAway,
}
