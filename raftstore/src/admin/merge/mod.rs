//! Merge: a region (the *source*) becomes part of its neighbour (the *target*).
//!
//! The target first freezes its shape and asks ([`target`]); the one decision is an entry of the source's log
//! ([`source`]), after which the target can only take the source over. ARCHITECTURE.md "A merge" has the steps.
//!
//! Invariant: a target that expects a source keeps its range and peers until `CommitMerge` or `RollbackMerge`; a source
//! that is prepared keeps everything until it is gone. So a merge that is decided can always be carried out.
//! Invariant: whatever takes a source's range on a store, a merge or a snapshot, waits until the source is retired: its
//! peer steps nothing, its applier takes nothing, and all it wrote has returned.

mod source;
mod target;

pub(crate) use source::is_merge_over;

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use flotilla_raft::{Applying, Entry, EntryKind};
use flotilla_region::{Index, Peer as PeerInfo, PeerId, Region, RegionEpoch, RegionId};

use crate::codec::{get_bytes, get_u8, get_u64, put_bytes, put_u64};
use crate::entry::{AdminCommand, CommitMerge, Payload, get_log_id, is_commit_merge};
use crate::msg::{AdminDone, Few, InstallSnapshot};
use crate::state::{LogId, get_region, put_region};
use crate::time::Time;

const EXPECTING: u8 = 0;
const PREPARED: u8 = 1;

/// What a region has to do with a merge under way; as of an applied position, kept beside the descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MergeState {
    /// It waits for this neighbour, in this shape.
    Expecting(Region),
    /// It will be part of `target`, and nothing else can happen to it.
    Prepared(Prepared),
}

/// A source's final state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    /// The region that takes it over.
    pub target: RegionId,
    /// Position of `PrepareMerge`.
    pub at: LogId,
    /// Data of that entry, with what other peers may lack.
    pub data: Bytes,
}

impl MergeState {
    /// Serialised form.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Expecting(source) => {
                out.push(EXPECTING);
                put_region(&mut out, source);
            }
            Self::Prepared(Prepared { target, at, data }) => {
                out.push(PREPARED);
                put_u64(&mut out, target.0);
                out.extend_from_slice(&at.encode());
                put_bytes(&mut out, data);
            }
        }
        out
    }

    /// Reads the serialised form.
    pub(crate) fn decode(mut data: Bytes) -> Option<Self> {
        Some(match get_u8(&mut data)? {
            EXPECTING => Self::Expecting(get_region(&mut data)?),
            PREPARED => Self::Prepared(Prepared {
                target: RegionId(get_u64(&mut data)?),
                at: get_log_id(&mut data)?,
                data: get_bytes(&mut data)?,
            }),
            _ => return None,
        })
    }
}

/// A peer's part in merges. Owned by the peer's raft worker.
#[derive(Default)]
pub(crate) struct Merge {
    /// As of the applied index.
    pub state: Option<MergeState>,
    /// Position of the last step proposed here.
    proposed: Option<Index>,
    /// Position of a `PrepareMerge` proposed here: once applied the region is final, before nobody knows.
    preparing: Option<Index>,
    /// Told how the expected merge ended.
    caller: Option<AdminDone>,
    /// Who waits for this source, and since when.
    asked: Option<Box<Asked>>,
    /// Committed entries from a `CommitMerge` on, not given to the apply worker yet.
    held: VecDeque<Held>,
    /// The source of the first held entry is retired.
    is_source_retired: bool,
    /// A snapshot that waits for the sources it swallows.
    install: Option<Swallowing>,
    /// The merge that the snapshot's region expects.
    installing: Option<Box<MergeState>>,
    /// Another store said that the region became part of this one, with that one's version.
    told: Option<(RegionId, u64)>,
    /// Who waits for this source to be retired, and up to which position it must be applied before.
    retire_for: Option<(RegionId, Option<Index>)>,
}

impl Merge {
    /// Of a peer in this state.
    pub(crate) fn new(state: Option<MergeState>) -> Self {
        Self { state, ..Self::default() }
    }

    /// Gives back room that nobody needs now.
    pub(crate) fn shrink(&mut self) {
        self.held.shrink_to_fit();
    }

    /// Whether the peer has nothing to do with any merge.
    pub(crate) fn is_calm(&self) -> bool {
        self.state.is_none()
            && self.caller.is_none()
            && self.asked.is_none()
            && self.held.is_empty()
            && self.install.is_none()
            && self.told.is_none()
            && self.retire_for.is_none()
    }

    /// Whether nothing is remembered here that counts once `applied` is applied.
    pub(crate) fn is_blank(&self, applied: Index) -> bool {
        let is_decided = |index: Option<Index>| index.is_none_or(|index| index <= applied);
        self.is_calm()
            && is_decided(self.proposed)
            && is_decided(self.preparing)
            && !self.is_source_retired
            && self.installing.is_none()
    }

    /// The `CommitMerge` that is held before it is applied.
    fn held_merge(&self) -> Option<CommitMerge> {
        commit_of(self.held.front()?.entries.first()?)
    }

    /// Whoever leads next decides about what was proposed here.
    pub(crate) fn forget_proposals(&mut self) {
        self.proposed = None;
        self.preparing = None;
        self.asked = None;
    }
}

struct Asked {
    target: RegionId,
    by: PeerInfo,
    since: Time,
    last: Time,
}

/// Committed entries on their way to the apply worker.
pub(crate) struct Held {
    pub entries: Few<Entry>,
    /// With the last of them.
    pub applying: Option<Applying>,
}

impl Held {
    /// Takes the entries from the one at `at` on.
    fn split_off(&mut self, at: usize) -> Self {
        Self { entries: self.entries.drain(at..).collect(), applying: self.applying.take() }
    }
}

struct Swallowing {
    install: Box<InstallSnapshot>,
    retired: BTreeSet<RegionId>,
}

/// What a target wants of a source on the same store.
#[derive(Clone, Debug)]
pub(crate) struct Retire {
    /// Source.
    pub source: RegionId,
    /// Its peer here; `None` = whichever it is.
    pub peer: Option<PeerId>,
    /// Who asks.
    pub target: RegionId,
    /// What the source must have applied before; `None` = a snapshot takes its place.
    pub commit: Option<CommitMerge>,
}

/// The shape that `PrepareMerge` gives a source.
pub(crate) fn prepared_epoch(expected: RegionEpoch) -> RegionEpoch {
    RegionEpoch { conf_ver: expected.conf_ver + 1, version: expected.version + 1 }
}

/// The target with the source in it; `None` if they are no neighbours.
pub(crate) fn merged_region(target: &Region, source: &Region) -> Option<Region> {
    let mut range = target.range.clone();
    if source.range.end == target.range.start && !target.range.start.is_empty() {
        range.start = source.range.start.clone();
    } else if target.range.end == source.range.start && !target.range.end.is_empty() {
        range.end = source.range.end.clone();
    } else {
        return None;
    }
    let version = target.epoch.version.max(source.epoch.version) + 1;
    Some(Region { range, epoch: RegionEpoch { version, ..target.epoch }, ..target.clone() })
}

/// The `CommitMerge` that an entry is.
fn commit_of(entry: &Entry) -> Option<CommitMerge> {
    if entry.kind != EntryKind::Normal || !is_commit_merge(&entry.data) {
        return None;
    }
    match Payload::decode(entry.data.clone()) {
        Some(Payload::Admin { command: AdminCommand::CommitMerge(commit), .. }) => Some(commit),
        _ => None,
    }
}

/// Whether `source` is what a region waits for that expects `expected`.
pub(crate) fn is_expected(expected: &Region, source: &Region) -> bool {
    let shape = |r: &Region| (r.id, r.space, r.range.clone());
    shape(expected) == shape(source) && source.epoch == prepared_epoch(expected.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_region::{KeyRange, Term};

    fn region(id: u64, start: &'static str, end: &'static str, version: u64) -> Region {
        Region {
            id: RegionId(id),
            range: KeyRange::new(start, end),
            epoch: RegionEpoch { conf_ver: 2, version },
            ..Region::default()
        }
    }

    #[test]
    fn neighbours_of_either_side_merge_and_exceed_both_versions() {
        let target = region(1, "b", "c", 4);
        let left = merged_region(&target, &region(2, "a", "b", 9)).expect("neighbours");
        assert_eq!((left.id, left.range, left.epoch.version), (RegionId(1), KeyRange::new("a", "c"), 10));
        let right = merged_region(&target, &region(2, "c", "", 3)).expect("neighbours");
        assert_eq!((right.range, right.epoch.version), (KeyRange::new("b", ""), 5));
        assert_eq!(merged_region(&target, &region(2, "d", "e", 3)), None);
        let (all, none) = (region(1, "", "", 4), region(2, "", "b", 4));
        assert_eq!(merged_region(&all, &none), None, "an open end has no neighbour");
    }

    #[test]
    fn only_the_very_shape_that_is_expected_is_taken() {
        let expected = region(2, "a", "b", 9);
        let ready = Region { epoch: RegionEpoch { conf_ver: 3, version: 10 }, ..expected.clone() };
        assert!(is_expected(&expected, &ready));
        assert!(!is_expected(&expected, &expected), "not final");
        assert!(!is_expected(&expected, &Region { range: KeyRange::new("a", "aa"), ..ready.clone() }));
        assert!(!is_expected(&expected, &Region { id: RegionId(3), ..ready }));
    }

    #[test]
    fn states_survive_encoding() {
        let at = LogId { index: Index(3), term: Term(4) };
        let prepared = Prepared { target: RegionId(5), at, data: Bytes::from_static(b"data") };
        for state in [MergeState::Expecting(region(2, "a", "b", 9)), MergeState::Prepared(prepared)] {
            assert_eq!(MergeState::decode(state.encode().into()), Some(state));
        }
    }
}
