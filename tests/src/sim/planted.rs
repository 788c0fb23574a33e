//! Bugs made on purpose, by name: what `sim --planted NAME` switches on. Each must be found.

use flotilla_placement::planted as placement;
use flotilla_raft::planted as raft;
use flotilla_raftstore::planted as raftstore;
use flotilla_router::planted as router;

/// Where a bug sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Raft(raft::Bug),
    Raftstore(raftstore::Bug),
    Placement(placement::Bug),
    Router(router::Bug),
    /// The disk says that it has synced `log`.
    Disk,
}

/// A bug that can be switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planted {
    /// Its name on the command line.
    pub name: &'static str,
    place: Place,
}

const fn bug(name: &'static str, place: Place) -> Planted {
    Planted { name, place }
}

/// Every bug.
pub const ALL: [Planted; 30] = [
    bug("vote-not-persisted", Place::Raftstore(raftstore::Bug::VoteNotPersisted)),
    bug("commit-apart", Place::Raftstore(raftstore::Bug::CommitApart)),
    bug("ack-before-sync", Place::Raftstore(raftstore::Bug::AckBeforeSync)),
    bug("sync-that-is-none", Place::Disk),
    bug("lease-through-transfer", Place::Raftstore(raftstore::Bug::LeaseThroughTransfer)),
    bug("lease-through-merge", Place::Raftstore(raftstore::Bug::LeaseThroughMerge)),
    bug("read-index-before-own-commit", Place::Raft(raft::Bug::ReadIndexBeforeOwnCommit)),
    bug("split-over-vote", Place::Raftstore(raftstore::Bug::SplitOverVote)),
    bug("child-served-by-parent", Place::Raftstore(raftstore::Bug::ChildServedByParent)),
    bug("child-forgotten", Place::Raftstore(raftstore::Bug::ChildForgotten)),
    bug("stale-epoch-applied", Place::Raftstore(raftstore::Bug::StaleEpochApplied)),
    bug("snapshot-misses-last-key", Place::Raftstore(raftstore::Bug::LastKeyMissing)),
    bug("snapshot-overlap", Place::Raftstore(raftstore::Bug::SnapshotOverlap)),
    bug("truncated-too-far", Place::Raftstore(raftstore::Bug::TruncatedTooFar)),
    bug("applied-index-apart", Place::Raftstore(raftstore::Bug::AppliedIndexApart)),
    bug("positions-forgotten", Place::Raftstore(raftstore::Bug::PositionsForgotten)),
    bug("merge-before-caught-up", Place::Raftstore(raftstore::Bug::MergeBeforeCaughtUp)),
    bug("merge-without-entries", Place::Raftstore(raftstore::Bug::MergeWithoutEntries)),
    bug("source-buried-early", Place::Raftstore(raftstore::Bug::SourceBuriedEarly)),
    bug("rollback-after-prepare", Place::Raftstore(raftstore::Bug::RollbackAfterPrepare)),
    bug("no-tombstone", Place::Raftstore(raftstore::Bug::NoTombstone)),
    bug("support-forgotten", Place::Raftstore(raftstore::Bug::SupportForgotten)),
    bug("support-from-receipt", Place::Raftstore(raftstore::Bug::SupportFromReceipt)),
    bug("withdrawn-before-sync", Place::Raftstore(raftstore::Bug::WithdrawnBeforeSync)),
    bug("promise-before-sync", Place::Raftstore(raftstore::Bug::PromiseBeforeSync)),
    bug("sleep-before-tail", Place::Raftstore(raftstore::Bug::SleepBeforeTail)),
    bug("promise-slept-away", Place::Raftstore(raftstore::Bug::PromiseSleptAway)),
    bug("peer-id-twice", Place::Placement(placement::Bug::IdTwice)),
    bug("older-epoch-in-routes", Place::Router(router::Bug::OlderEpoch)),
    bug("swap-repeated", Place::Router(router::Bug::RepeatedSwap)),
];

impl Planted {
    /// The bug of a name.
    pub fn find(name: &str) -> Option<Self> {
        ALL.into_iter().find(|planted| planted.name == name)
    }

    /// Whether disks lie about syncs.
    pub(super) fn is_of_the_disk(self) -> bool {
        self.place == Place::Disk
    }
}

/// Plants a bug in all that this thread runs, and pulls out any other.
pub(super) fn plant(planted: Option<Planted>) {
    let place = planted.map(|planted| planted.place);
    raft::plant(place.and_then(|place| if let Place::Raft(bug) = place { Some(bug) } else { None }));
    raftstore::plant(
        place.and_then(|place| if let Place::Raftstore(bug) = place { Some(bug) } else { None }),
    );
    placement::plant(
        place.and_then(|place| if let Place::Placement(bug) = place { Some(bug) } else { None }),
    );
    router::plant(place.and_then(|place| if let Place::Router(bug) = place { Some(bug) } else { None }));
}
