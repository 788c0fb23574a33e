//! What the store's workers say to each other and what callers ask of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::wire::pb;
use bytes::Bytes;
use flotilla_engine::{EngineSnapshot, SstFile};
use flotilla_raft::{Applying, ConfChangeV2, Entry, HardState, Message, SnapshotMeta, Storing};
use flotilla_region::{Index, Peer, PeerId, Region, RegionEpoch, RegionId, StoreId, Term};
use smallvec::SmallVec;

use crate::admin::check::{CheckDone, Digest};
use crate::admin::merge::{MergeState, Prepared, Retire};
use crate::error::{Damage, RequestError};
use crate::liveness::Written;
use crate::load::RegionLoad;
use crate::peer::fortify::Promise;
use crate::state::LogId;
use crate::time::Time;
use crate::wire::HeartbeatCell;

/// A list that nearly always holds one thing, which then lies in it.
pub type Few<T> = SmallVec<[T; 1]>;

/// Distinguishes lives of a peer within one process, so that late completions of a dead one are dropped (traps T1,
/// T24, T30).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Incarnation(pub u64);

/// Called once with the outcome of a write, on the apply worker or the raft worker.
pub type WriteDone = Box<dyn FnOnce(Result<Bytes, RequestError>) + Send>;
/// Called once with permission to read.
pub type ReadDone = Box<dyn FnOnce(Result<ReadGrant, RequestError>) + Send>;
/// Called once with the regions that an administrative command left behind.
pub type AdminDone = Box<dyn FnOnce(Result<Vec<Region>, RequestError>) + Send>;

/// For which shape of a region, and for which of its peers, a request was made.
#[derive(Clone, Copy, Debug)]
pub struct RegionContext {
    /// Region.
    pub region: RegionId,
    /// Its epoch as the caller knows it.
    pub epoch: RegionEpoch,
    /// The peer that the caller believes to be here; 0 = any.
    pub peer: PeerId,
    /// Term in which the caller believes it to lead; 0 = any.
    pub term: Term,
}

/// A command to replicate.
pub struct WriteRequest {
    /// Where.
    pub context: RegionContext,
    /// For the state machine.
    pub command: Bytes,
    /// Told the outcome.
    pub done: WriteDone,
    /// The request's share of the store's budget.
    pub quota: Quota,
}

/// A linearizable read that the caller's thread could not serve under the lease.
pub struct ReadRequest {
    /// Where.
    pub context: RegionContext,
    /// Whether a follower may answer (after asking the leader for a read index).
    pub replica: bool,
    /// Told when to read.
    pub done: ReadDone,
}

/// Permission to read: everything committed when the read began is in `snapshot`.
#[derive(Clone)]
pub struct ReadGrant {
    /// The region as it was when `snapshot` was taken.
    pub region: Arc<Region>,
    /// The view to read.
    pub snapshot: Arc<dyn EngineSnapshot>,
    /// Where to tell what was read.
    pub load: Arc<RegionLoad>,
}

/// A command for the region itself, asked of its leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminCommand {
    /// Cut the region at these keys, ascending, strictly inside.
    Split {
        /// Where.
        keys: Vec<Bytes>,
    },
    /// Hand leadership to this peer.
    TransferLeader(PeerId),
    /// Change membership: one change is simple, several enter a joint configuration.
    ChangePeers(Vec<PeerChange>),
    /// Leave the joint configuration.
    LeaveJoint,
    /// Take this neighbour over: its keys become the region's. It must have the very shape that is named.
    Merge(Box<Region>),
}

/// One membership change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerChange {
    /// A new voter, or a learner to promote.
    AddVoter(Peer),
    /// A new learner, or (in a joint change) a voter to demote.
    AddLearner(Peer),
    /// A peer to remove.
    Remove(PeerId),
}

/// An administrative command with its caller.
pub struct AdminRequest {
    /// Region.
    pub region: RegionId,
    /// Epoch for which it was decided; `None` = whatever is current.
    pub epoch: Option<RegionEpoch>,
    /// What to do.
    pub command: AdminCommand,
    /// Told the outcome.
    pub done: AdminDone,
}

/// Bytes of the store's request budget, given back when dropped.
#[derive(Default)]
pub struct Quota {
    used: Option<(Arc<AtomicU64>, u64)>,
}

impl Quota {
    /// Takes `bytes` from the budget `used` unless that would exceed `bytes_max`.
    pub(crate) fn take(used: &Arc<AtomicU64>, bytes: u64, bytes_max: u64) -> Option<Self> {
        let before = used.fetch_add(bytes, Ordering::Relaxed);
        let quota = Self { used: Some((used.clone(), bytes)) };
        (before + bytes <= bytes_max).then_some(quota)
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        if let Some((used, bytes)) = &self.used {
            used.fetch_sub(*bytes, Ordering::Relaxed);
        }
    }
}

/// To a raft worker.
pub(crate) enum RaftMsg {
    /// From other stores.
    Network(Vec<pb::RaftMessage>),
    /// Heartbeats or answers, of one frame.
    Heartbeats(StoreId, Vec<HeartbeatCell>),
    /// Replicate a command.
    Write(WriteRequest),
    /// Grant a read.
    Read(ReadRequest),
    /// Change the region itself.
    Admin(AdminRequest),
    /// The log writer finished tasks.
    Persisted(Vec<Persisted>),
    /// The apply worker finished tasks.
    Applied(Vec<Applied>),
    /// A snapshot was received in full.
    SnapshotReceived(Box<ReceivedSnapshot>),
    /// The outcome of a snapshot sent by this peer to `to`.
    SnapshotSent { region: RegionId, to: PeerId, ok: bool },
    /// The snapshot is installed.
    SnapshotInstalled {
        region: RegionId,
        incarnation: Incarnation,
        descriptor: Region,
        applied: LogId,
        swallowed: Vec<(RegionId, PeerId)>,
    },
    /// What is durable in `data` now, and how many bytes of log below it a follower's peer may keep.
    Durable { positions: Vec<(RegionId, PeerId, LogId)>, keep_bytes: u64 },
    /// A split applied by another worker's region created this one.
    Create(Box<CreatePeer>),
    /// The tombstone and the deletion of data are written.
    Destroyed { region: RegionId, incarnation: Incarnation },
    /// A target wants a source on this store to be applied up to its end, and to do nothing more.
    Retire(Box<Retire>),
    /// The applier of a retired region takes nothing more.
    Quiet { region: RegionId, incarnation: Incarnation },
    /// The source is retired.
    Retired { target: RegionId, source: RegionId },
    /// The target's peer went away before it took the source over. `version` is what it would have had; 0 = unknown.
    Abandoned { source: RegionId, target: RegionId, version: u64 },
    /// The region is part of another one by now, on disk too.
    Merged { region: RegionId, peer: PeerId },
    /// Compare the region's replicas, if it is led here.
    Check { region: RegionId, done: Option<CheckDone> },
    /// The peer's content at the position of a check, or why it cannot be read.
    Digest { region: RegionId, incarnation: Incarnation, at: LogId, digest: Result<Digest, String> },
    /// What the peer has on this disk is damaged (0 = whichever peer is here).
    Damaged { region: RegionId, peer: PeerId, damage: Damage },
    /// A region, in this version, has outgrown the limit up to which it takes writes and is about to be split.
    Crowded { region: RegionId, version: u64, until: Time },
    /// A frame to this store could not be delivered.
    Unreachable(StoreId),
    /// This store does, or does no more, support another one at this epoch. A withdrawal is on disk.
    Supporting { store: StoreId, epoch: u64, is_held: bool },
    /// Another store does, or does no more, support this one.
    Support { store: StoreId, is_held: bool },
    /// Have a turn: at its end the worker shows that it lives (`Shared::prove`).
    Prove,
    /// Ask all led regions to be split if they are larger than this; tells what is there.
    Inspect(Box<dyn FnOnce(Vec<PeerStatus>) + Send>),
    /// Like `Inspect`, of the peers to which anything happened since this was last asked.
    InspectRecent(Box<dyn FnOnce(Vec<PeerStatus>) + Send>),
    /// Stop leading as far as possible: the store is shutting down.
    ShedLeaders,
}

impl RaftMsg {
    /// How many peers' work it is, about: so much of a turn's bite.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Network(list) => list.len(),
            Self::Heartbeats(_, list) => list.len(),
            Self::Persisted(list) => list.len(),
            Self::Applied(list) => list.len(),
            Self::Durable { positions, .. } => positions.len(),
            _ => 1,
        }
    }
}

/// A task of a peer is durable.
pub(crate) struct Persisted {
    pub region: RegionId,
    pub incarnation: Incarnation,
    pub storing: Storing,
}

/// A child of a split on its way to its worker.
#[derive(Debug)]
pub(crate) struct CreatePeer {
    pub region: Arc<Region>,
    /// The parent led on this store: campaign at once.
    pub campaign: bool,
}

/// A state of one peer, for status pages, size checks and placement.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Descriptor.
    pub region: Arc<Region>,
    /// The peer here.
    pub peer: Peer,
    /// Known leader; 0 = none.
    pub leader: PeerId,
    /// Term.
    pub term: Term,
    /// Whom the peer gave its vote in this term; 0 = nobody.
    pub vote: PeerId,
    /// Whether this peer leads.
    pub is_leader: bool,
    /// Commit index.
    pub commit: Index,
    /// Applied position.
    pub applied: LogId,
    /// Last position of the log.
    pub last_index: Index,
    /// Position before the first entry of the log.
    pub base: LogId,
    /// Bytes written since the region was created or the store started.
    pub written_bytes: u64,
    /// Followers: (peer, matched index), on the leader only.
    pub matched: Vec<(PeerId, Index)>,
}

/// To the log writer.
pub(crate) enum LogMsg {
    /// Write, sync, then release: what a turn has, in order.
    Tasks(Vec<LogTask>),
    /// Write, sync, then tell the liveness worker.
    Facts(LogFacts),
    /// The store stops: finish and say so.
    Barrier(Box<dyn FnOnce() + Send>),
}

/// A record of store liveness for the log writer.
pub(crate) struct LogFacts {
    /// Key and value.
    pub put: (Vec<u8>, Vec<u8>),
    /// What the liveness worker is told.
    pub written: Written,
}

/// Work of one peer for the log writer. All of it lands in one batch.
#[derive(Debug, Default)]
pub(crate) struct LogTask {
    pub region: RegionId,
    pub peer: PeerId,
    pub incarnation: Incarnation,
    /// Delete everything that the peer has in `log` first.
    pub clear: bool,
    pub hard_state: Option<HardState>,
    /// New base; entries up to it are deleted, from `delete_from` on.
    pub base: Option<LogId>,
    pub delete_from: Index,
    pub entries: Few<Entry>,
    /// The peer's promise to its leader changed; `Some(None)` = there is none.
    pub promise: Option<Option<Promise>>,
    /// Stale tail `[from, to]` left by a conflict.
    pub stale_tail: Option<(Index, Index)>,
    /// Whether the batch must be synced before anything is released.
    pub must_sync: bool,
    /// To other peers.
    pub outgoing: Few<Outgoing>,
    /// To other stores, beside messages of the core.
    pub notes: Vec<(StoreId, pb::RaftMessage)>,
    /// What the peer is told, if anything.
    pub storing: Option<Storing>,
    /// After everything: the snapshot that this task completes.
    pub installed: Option<Box<(Region, LogId)>>,
    /// Regions whose place that snapshot took.
    pub swallowed: Vec<(RegionId, PeerId)>,
}

/// A message to another peer that waits for a sync.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub region: Arc<Region>,
    pub from: Peer,
    pub to: Peer,
    pub message: Message,
}

/// To an apply worker.
pub(crate) enum ApplyMsg {
    /// A region starts to apply at `applied`.
    Register {
        region: Arc<Region>,
        peer: PeerId,
        incarnation: Incarnation,
        applied: LogId,
        merge: Option<MergeState>,
    },
    /// A region that was damaged before anybody applied it is to be removed: its range must be known. Where it is being
    /// applied, what is known there is newer.
    Claim { region: Arc<Region>, peer: PeerId, incarnation: Incarnation },
    /// Apply committed entries.
    Task(ApplyTask),
    /// Install a snapshot.
    Snapshot(Box<InstallSnapshot>),
    /// Remove the region, of which `descriptor` is the last that is known here: tombstone, data.
    Destroy {
        descriptor: Arc<Region>,
        peer: PeerId,
        incarnation: Incarnation,
        merged: Option<(RegionId, u64)>,
        /// The peer has no data, unless a split brings it some at this moment.
        early: bool,
    },
    /// Take nothing more for the region; it is to become part of another one.
    Retire { region: RegionId, incarnation: Incarnation },
    /// The region became part of another one.
    Forget { region: RegionId, incarnation: Incarnation },
}

/// Committed entries of one region, with the callers that wait for them.
pub(crate) struct ApplyTask {
    pub region: RegionId,
    pub incarnation: Incarnation,
    pub entries: Few<Entry>,
    pub waiting: Few<Waiting>,
    /// Goes back to the core when done.
    pub applying: Option<Applying>,
}

/// Callers that wait for the entry at (index, term).
pub(crate) struct Waiting {
    pub index: Index,
    pub term: Term,
    pub proposed_at: Time,
    pub callers: Callers,
}

/// Who is told about an entry.
pub(crate) enum Callers {
    Writes(Few<(WriteDone, Quota)>),
    Admin(AdminDone),
}

/// What an apply worker did for a region.
pub(crate) struct Applied {
    pub region: RegionId,
    pub incarnation: Incarnation,
    pub applied: LogId,
    pub written_bytes: u64,
    pub effects: Vec<Effect>,
    pub applying: Option<Applying>,
    /// The region cannot go on.
    pub stopped: Option<Damage>,
}

/// What an entry changed besides data.
pub(crate) enum Effect {
    /// Membership changed; the core must be told.
    Membership { change: ConfChangeV2, region: Arc<Region>, done: Option<AdminDone> },
    /// A conf change entry was refused at apply: nothing changed.
    MembershipRefused { done: Option<AdminDone>, error: RequestError },
    /// The region was cut; the last of `regions` is what remains of it.
    Split { regions: Vec<Arc<Region>>, done: Option<AdminDone> },
    /// The region waits for a source.
    Expecting { source: Region, done: Option<AdminDone> },
    /// The region is final: it will be part of another one.
    Prepared { region: Region, prepared: Prepared },
    /// The expected source became part of the region.
    Merged { region: Region, source: Region },
    /// The expected source did not.
    RolledBack,
    /// The region's version moved.
    Voided { region: Region },
}

impl Effect {
    /// Answers whoever asked for it, where no peer takes it over.
    pub(crate) fn answer(&mut self) {
        let (done, answer) = match self {
            Self::Membership { region, done, .. } => (done, Ok(vec![(**region).clone()])),
            Self::MembershipRefused { done, error } => (done, Err(error.clone())),
            Self::Split { regions, done } => {
                (done, Ok(regions.iter().map(|region| (**region).clone()).collect()))
            }
            Self::Expecting { done, .. } => (done, Err(RequestError::Undetermined)),
            Self::Prepared { .. } | Self::Merged { .. } | Self::RolledBack | Self::Voided { .. } => return,
        };
        if let Some(done) = done.take() {
            done(answer);
        }
    }
}

/// A snapshot in the hands of the apply worker.
pub(crate) struct InstallSnapshot {
    pub region: Region,
    pub peer: PeerId,
    pub incarnation: Incarnation,
    pub meta: SnapshotMeta,
    /// The merge that the region expects.
    pub merge: Option<MergeState>,
    pub files: Vec<SstFile>,
    /// Retired regions in whose place it goes.
    pub swallowed: Vec<RegionId>,
    /// Its splits and merges, as stored; empty = nothing is known.
    pub history: Bytes,
    /// Completes the installation in `log`.
    pub log: LogTask,
}

/// A snapshot that arrived, not yet offered to the core.
pub(crate) struct ReceivedSnapshot {
    pub from_store: StoreId,
    pub raft: pb::RaftMessage,
    pub descriptor: Region,
    pub meta: SnapshotMeta,
    /// The merge that the region expects.
    pub merge: Option<MergeState>,
    pub files: Vec<SstFile>,
    pub history: Bytes,
}
