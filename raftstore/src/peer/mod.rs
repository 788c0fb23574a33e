//! One replica of one region, as its raft worker owns it.
//!
//! The consensus core ([`RawNode`]) decides; this module carries out: it hands entries to the log writer and the apply
//! worker, keeps the callers that wait, the lease, and the log's prefix. Each concern is a file of its own: `ready`
//! (stepping and carrying out), `write`, `read`, `flow`, `lease`, `gc`.

pub(crate) mod entry_cache;
mod flow;
pub(crate) mod fortify;
mod gc;
mod lease;
pub(crate) mod log;
mod log_size;
pub(crate) mod packed;
mod read;
mod ready;
mod report;
pub(crate) mod rest;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_raft::{Config, RawNode, ReadOnlyOption};
use flotilla_region::{Index, Peer as PeerInfo, PeerId, Region, RegionId, StoreId};

use crate::admin::check::Check;
use crate::admin::merge::{Merge, MergeState};
use crate::config::StoreConfig;
use crate::error::{Damage, RequestError, StoreError};
use crate::load::RegionLoad;
use crate::msg::{ApplyMsg, Incarnation, ReceivedSnapshot, RegionContext};
use crate::shared::Shared;
use crate::state::LogId;
use crate::time::Time;
use crate::worker::Env;

use fortify::{Leading, Promise};
use gc::LogGc;
use lease::Lease;
use log::{LoadedLog, PeerLog};
use read::Reads;
use report::Reported;
use rest::Rest;
use write::Writes;

/// A replica. Owned by one raft worker; nobody else touches it.
///
/// Invariant: while `installing` or `closing`, the core's Ready is not taken.
/// Invariant: at most 2 KiB, for there are many: what few peers need is boxed. Those that sleep are packed (`packed`).
pub(crate) struct Peer {
    pub(crate) region: Arc<Region>,
    pub(crate) me: PeerInfo,
    pub(crate) incarnation: Incarnation,
    pub(crate) node: RawNode<PeerLog>,
    pub(crate) applied: LogId,
    pub(crate) writes: Writes,
    pub(crate) reads: Reads,
    pub(crate) lease: Lease,
    pub(crate) gc: LogGc,
    pub(crate) phase: Phase,
    /// Stores of peers that wrote to us, for answers to peers that our descriptor does not name.
    senders: BTreeMap<PeerId, StoreId>,
    /// Received and accepted by the core, waiting for its Ready.
    snapshot: Option<Box<ReceivedSnapshot>>,
    /// Votes are not given before: a promise made before the restart may still hold (trap T22).
    silent_until: Time,
    /// Since when no leader is known.
    pub(crate) leaderless_since: Option<Time>,
    /// When a leader last sent anything.
    pub(crate) heard_at: Time,
    pub(crate) written_bytes: u64,
    /// Position of a split proposed here and not yet applied.
    pub(crate) pending_split: Option<Index>,
    /// Term and vote that `log` was last given in this life of the peer.
    pub(crate) logged_vote: Option<(flotilla_region::Term, PeerId)>,
    /// A commit index that `log` does not have yet.
    pub(crate) unlogged_commit: Option<flotilla_raft::HardState>,
    /// Its part in merges.
    pub(crate) merge: Merge,
    /// A comparison of the replicas that this leader has under way.
    pub(crate) check: Option<Box<Check>>,
    /// Why the phase is `Stopped`.
    pub(crate) damage: Option<Box<Damage>>,
    /// Regions that the last split left beside this one, for callers who still know the whole.
    pub(crate) siblings: Vec<Arc<Region>>,
    /// What clients do to the region here.
    pub(crate) load: Arc<RegionLoad>,
    /// To whom this peer gave its word.
    pub(crate) promise: Option<Promise>,
    /// What followers promised to this leader.
    leading: Option<Box<Leading>>,
    /// Ticks during which the promise held.
    bound_ticks: u32,
    pub(crate) rest: Rest,
    /// What placement was last told of the region.
    reported: Reported,
    /// The snapshot worker was given something to send since this peer leads.
    sends_snapshots: bool,
    /// It is among those that the worker drives at the end of the turn.
    is_touched: bool,
}

const _: () = assert!(size_of::<Peer>() <= 2_048);

/// What a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Created by a message: no range, no data, waits for a snapshot or a split.
    Uninitialised,
    /// Ordinary.
    Live,
    /// A snapshot is being installed.
    Installing,
    /// Being removed.
    Closing,
    /// Met damage; the worker takes the region out of service before its turn ends.
    Stopped,
    /// About to become part of another region: takes and does nothing more.
    Retired,
    /// Retired, and the other region's peer here went away before it came to that: waits for the next one, or for its own
    /// end.
    Orphaned,
}

impl Phase {
    /// Whether the peer takes part in nothing any more.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::Closing | Self::Stopped | Self::Retired | Self::Orphaned)
    }
}

/// How a peer comes to be.
pub(crate) struct NewPeer {
    pub region: Arc<Region>,
    pub me: PeerInfo,
    pub applied: LogId,
    pub loaded: LoadedLog,
    /// A merge under way.
    pub merge: Option<MergeState>,
    /// It existed before the process started.
    pub restarted: bool,
}

impl Peer {
    /// Creates the replica and registers it with its apply worker.
    ///
    /// # Errors
    /// The core refused the stored state.
    pub(crate) fn new(new: NewPeer, env: &mut Env) -> Result<Self, StoreError> {
        let NewPeer { region, me, applied, loaded, merge, restarted } = new;
        let incarnation = env.next_incarnation();
        let config = core_config(&env.shared.config, me.id, applied.index, region.id);
        let base = loaded.log.base();
        let loaded_promise = loaded.promise;
        let node = RawNode::new(&config, loaded.log)
            .map_err(|_| StoreError::Damaged("state of a consensus group"))?;
        let initialised = !region.peers.is_empty();
        if let Some(mut mend) = loaded.mend {
            mend.incarnation = incarnation;
            env.log(mend);
        }
        if initialised {
            let register = ApplyMsg::Register {
                region: region.clone(),
                peer: me.id,
                incarnation,
                applied,
                merge: merge.clone(),
            };
            env.apply(region.id, register);
        }
        let load = Self::new_load(&region, &env.shared);
        let mut peer = Self::blank(region, me, incarnation, node, load);
        if restarted {
            peer.silent_until = env.now.plus_ms(env.shared.config.election_ms());
        }
        peer.applied = applied;
        peer.gc = LogGc::new(base.index);
        peer.phase = if initialised { Phase::Live } else { Phase::Uninitialised };
        peer.leaderless_since = Some(env.now);
        peer.heard_at = env.now;
        peer.merge = Merge::new(merge);
        peer.promise = loaded_promise;
        Ok(peer)
    }

    /// A live peer to which nothing has happened yet.
    fn blank(
        region: Arc<Region>,
        me: PeerInfo,
        incarnation: Incarnation,
        node: RawNode<PeerLog>,
        load: Arc<RegionLoad>,
    ) -> Self {
        Self {
            region,
            me,
            incarnation,
            node,
            applied: LogId::default(),
            writes: Writes::default(),
            reads: Reads::default(),
            lease: Lease::default(),
            gc: LogGc::new(Index::ZERO),
            phase: Phase::Live,
            senders: BTreeMap::new(),
            snapshot: None,
            silent_until: Time::default(),
            leaderless_since: None,
            heard_at: Time::default(),
            written_bytes: 0,
            pending_split: None,
            logged_vote: None,
            unlogged_commit: None,
            merge: Merge::default(),
            check: None,
            damage: None,
            siblings: Vec::new(),
            load,
            promise: None,
            leading: None,
            bound_ticks: 0,
            rest: Rest::default(),
            reported: Reported::default(),
            sends_snapshots: false,
            is_touched: false,
        }
    }

    fn new_load(region: &Region, shared: &Shared) -> Arc<RegionLoad> {
        let seed = shared.config.seed ^ region.id.0.rotate_left(32);
        RegionLoad::new(region.id, region.space, &shared.loads, seed)
    }

    /// Has the worker drive the peer at the end of the turn.
    pub(crate) fn touch(&mut self, touched: &mut Vec<RegionId>) {
        if !std::mem::replace(&mut self.is_touched, true) {
            touched.push(self.id());
        }
    }

    pub(crate) fn id(&self) -> RegionId {
        self.region.id
    }

    /// The peer's own record, as messages name it.
    pub(crate) fn info(&self) -> PeerInfo {
        self.me
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.phase == Phase::Live && self.node.role() == flotilla_raft::Role::Leader
    }

    /// The leader of the region, if it is known.
    pub(crate) fn leader(&self) -> Option<PeerInfo> {
        self.region.peer(self.node.leader()).copied()
    }

    /// Whether the leader has applied an entry of its own term: until then it knows neither what is committed nor
    /// whether the region still has this shape.
    pub(crate) fn has_applied_own_term(&self) -> bool {
        self.is_leader() && self.applied.term == self.node.term()
    }

    /// Another peer of the region by id, as far as descriptor or messages tell where it lives.
    pub(crate) fn find_peer(&self, id: PeerId) -> Option<PeerInfo> {
        let listed = self.region.peer(id).copied();
        listed.or_else(|| {
            self.senders.get(&id).map(|store| PeerInfo { id, store: *store, ..PeerInfo::default() })
        })
    }

    /// The other peers as far as this one knows them: one that waits for its data knows those that wrote to it.
    pub(crate) fn others(&self) -> Vec<PeerInfo> {
        if self.region.peers.is_empty() {
            let known =
                |(id, store): (&PeerId, &StoreId)| PeerInfo { id: *id, store: *store, ..PeerInfo::default() };
            return self.senders.iter().map(known).collect();
        }
        self.region.peers.iter().filter(|peer| peer.id != self.me.id).copied().collect()
    }

    /// Checks a request's context in TiKV's order: peer, leadership, term, version.
    pub(crate) fn check_context(
        &self,
        context: &RegionContext,
        leader_only: bool,
    ) -> Result<(), RequestError> {
        if self.phase == Phase::Uninitialised || self.phase.is_over() {
            return Err(RequestError::RegionNotFound(self.id()));
        }
        if !context.peer.is_zero() && context.peer != self.me.id {
            return Err(RequestError::PeerMismatch { asked: context.peer, actual: self.me.id });
        }
        if leader_only && !self.is_leader() {
            return Err(self.not_leader());
        }
        if !context.term.is_zero() && self.node.term().0 > context.term.0 + 1 {
            return Err(RequestError::Stale);
        }
        if context.epoch.version != self.region.epoch.version {
            return Err(self.epoch_not_match());
        }
        if self.is_prepared() {
            return Err(RequestError::Merging(self.id()));
        }
        Ok(())
    }

    pub(crate) fn not_leader(&self) -> RequestError {
        let leader = self.leader().filter(|leader| leader.id != self.me.id);
        RequestError::NotLeader { region: self.id(), leader }
    }

    pub(crate) fn epoch_not_match(&self) -> RequestError {
        let mut regions = vec![(*self.region).clone()];
        regions.extend(self.siblings.iter().map(|sibling| (**sibling).clone()));
        RequestError::EpochNotMatch(regions)
    }

    /// Whether a split proposed here is not applied yet: it may be committed, so this leader may not lead all of its
    /// range any more (trap T4).
    pub(crate) fn split_in_flight(&self) -> bool {
        self.pending_split.is_some_and(|index| index > self.applied.index) && !planted!(ChildServedByParent)
    }

    /// Whether the region may have lost some or all of its keys without this leader knowing it yet.
    pub(crate) fn shape_in_question(&self) -> bool {
        self.split_in_flight() || self.is_prepared()
    }

    /// One tick of the core's timers.
    pub(crate) fn tick(&mut self, env: &mut Env) {
        if !matches!(self.phase, Phase::Live | Phase::Uninitialised) {
            return;
        }
        self.settle_promise(env);
        if self.is_bound(env) && !self.is_leader() {
            self.tick_bound(env);
        } else {
            self.tick_core(env);
        }
        self.fortify(env);
        self.writes.expire(env.now, self.region.id);
        let election_ms = env.shared.config.election_ms();
        self.reads.retry(env.now, election_ms);
        // A learner never campaigns, so that the core goes on naming a leader that has long removed it.
        let silent = !self.is_leader() && env.now.ms_since(self.heard_at) >= 2 * election_ms;
        if self.node.leader().is_zero() || silent {
            self.leaderless_since.get_or_insert(env.now);
        } else {
            self.leaderless_since = None;
        }
    }

    /// What the peer has on this disk is damaged. A snapshot on its way replaces all of it.
    pub(crate) fn condemn(&mut self, damage: Damage) {
        if self.phase == Phase::Live {
            self.phase = Phase::Stopped;
            self.damage = Some(Box::new(damage));
        }
    }

    /// Ends everything that callers wait for; the region goes out of service here.
    pub(crate) fn end_in_quarantine(&mut self, env: &mut Env) {
        // A split that is being applied gives birth to children, whose entries must not precede it (rule W6).
        self.log_commit(env);
        self.give_check_up();
        self.abandon_sources(env);
        self.lease.revoke(&env.shared.delegates, self.id());
        self.end_leading(env);
        self.writes.fail_all(self.region.id);
        self.reads.fail_all(&RequestError::RegionNotFound(self.region.id));
        env.shared.links.placement.send(crate::placement::PlacementMsg::NotLed(self.id()));
    }

    /// Ends everything that callers wait for, and the peer's part in the region.
    pub(crate) fn close(&mut self, env: &mut Env) {
        // A retired peer's end is its target's.
        if matches!(self.phase, Phase::Closing | Phase::Retired) {
            return;
        }
        let was_uninitialised = self.phase == Phase::Uninitialised;
        // As in `end_in_quarantine`: children of a split under way have a log before this one is gone.
        self.log_commit(env);
        self.phase = Phase::Closing;
        self.give_check_up();
        self.lease.revoke(&env.shared.delegates, self.id());
        self.end_leading(env);
        self.writes.fail_all(self.region.id);
        self.reads.fail_all(&RequestError::RegionNotFound(self.region.id));
        let (region, peer, incarnation) = (self.id(), self.me.id, self.incarnation);
        if was_uninitialised {
            env.shared.ranges.lock().unreserve(region);
        }
        self.abandon_sources(env);
        let (descriptor, merged) = (self.region.clone(), self.told());
        let destroy = ApplyMsg::Destroy { descriptor, peer, incarnation, merged, early: was_uninitialised };
        env.apply(region, destroy);
    }
}

fn core_config(config: &StoreConfig, id: PeerId, applied: Index, region: RegionId) -> Config {
    let mut core = Config::new(id);
    core.election_ticks = config.election_ticks;
    core.heartbeat_ticks = config.heartbeat_ticks;
    core.applied = applied;
    core.async_storage_writes = true;
    core.append_bytes_max = config.append_bytes_max;
    core.committed_bytes_max = config.committed_bytes_max;
    core.uncommitted_bytes_max = config.uncommitted_bytes_max;
    core.inflight_messages_max = config.inflight_messages_max;
    core.inflight_bytes_max = config.inflight_bytes_max;
    core.check_quorum = true;
    core.pre_vote = true;
    // Requests for votes leave before the own vote is logged.
    core.own_vote_first = true;
    core.apply_ahead_max = config.apply_ahead_entries;
    // Without it a peer that does not know a membership change to be committed may be the only one that can lead.
    core.commit_fast_forward = true;
    // Followers learn of commits with the next append or heartbeat: half the messages where writes of a region come
    // singly.
    core.skip_commit_broadcast = true;
    // A leader that no longer votes cannot propose, and nobody else campaigns while it goes on.
    core.step_down_on_removal = true;
    core.read_only = ReadOnlyOption::Safe;
    core.disable_proposal_forwarding = true;
    core.seed = config.seed ^ id.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ region.0.rotate_left(32);
    core
}
