//! A sleeping peer, taken apart: what it must remember, in a seventh of the memory.
//!
//! A store of a hundred thousand regions has hardly any that are awake. [`Peer::is_packable`] tells of one that sleeps
//! that all else about it follows from this, and [`PackedPeer::unpack`] makes the same peer of it again.

use std::sync::Arc;

use flotilla_raft::{Packed, RawNode};
use flotilla_region::{Index, PeerId, Region, StoreId};

use super::fortify::{Leading, Promise};
use super::gc::LogGc;
use super::lease::Lease;
use super::log::{PackedLog, PeerLog};
use super::read::Reads;
use super::report::Reported;
use super::rest::Rest;
use super::{Peer, Phase, core_config};
use crate::load::RegionLoad;
use crate::msg::{Incarnation, PeerStatus};
use crate::shared::Shared;
use crate::state::LogId;
use crate::time::Time;

/// A peer that sleeps.
pub(crate) struct PackedPeer {
    region: Arc<Region>,
    id: PeerId,
    incarnation: Incarnation,
    node: Packed,
    applied: LogId,
    log: PackedLog,
    durable: Index,
    read_rounds: u64,
    written_bytes: u64,
    promise: Option<Promise>,
    silent_until: Time,
    leaderless_since: Option<Time>,
    heard_at: Time,
    /// `None` if nobody else knows it: then it has nothing to tell.
    load: Option<Arc<RegionLoad>>,
    siblings: Option<Box<[Arc<Region>]>>,
    led: Option<Box<Led>>,
    bound_ticks: u32,
    sends_snapshots: bool,
    is_vote_logged: bool,
}

const _: () = assert!(size_of::<PackedPeer>() <= 320);

/// What only a leader has.
struct Led {
    lease: Lease,
    leading: Option<Box<Leading>>,
    reported: Reported,
    rest: Rest,
}

impl Peer {
    /// Whether the peer sleeps and is nothing but what [`PackedPeer`] remembers.
    pub(crate) fn is_packable(&self) -> bool {
        let Self {
            region,
            me,
            node,
            applied,
            writes,
            reads,
            lease,
            gc,
            phase,
            senders,
            snapshot,
            pending_split,
            logged_vote,
            unlogged_commit,
            merge,
            check,
            damage,
            leading,
            rest,
            reported,
            is_touched,
            incarnation: _,
            silent_until: _,
            leaderless_since: _,
            heard_at: _,
            written_bytes: _,
            siblings: _,
            load: _,
            promise: _,
            bound_ticks: _,
            sends_snapshots: _,
        } = self;
        let is_decided = |index: &Option<Index>| index.is_none_or(|index| index <= applied.index);
        let log = node.storage();
        let vote = (node.term(), node.vote());
        rest.is_asleep
            && !is_touched
            && *phase == Phase::Live
            && region.peer(me.id) == Some(me)
            && writes.is_blank()
            && reads.is_idle()
            && senders.is_empty()
            && snapshot.is_none()
            && is_decided(pending_split)
            && logged_vote.is_none_or(|logged| logged == vote)
            && unlogged_commit.is_none()
            && merge.is_blank(applied.index)
            && check.is_none()
            && damage.is_none()
            && log.is_packable(*applied)
            && gc.base() == log.base().index
            && (self.is_leader() || (lease.is_blank() && leading.is_none() && reported.is_blank()))
            && node.is_packable()
    }

    /// Takes the peer apart, which is [packable](Self::is_packable).
    pub(crate) fn pack(self) -> PackedPeer {
        debug_assert!(self.is_packable(), "region {} is at work", self.id());
        let Self {
            region,
            me,
            incarnation,
            node,
            applied,
            writes: _,
            reads,
            lease,
            gc,
            phase: _,
            senders: _,
            snapshot: _,
            silent_until,
            leaderless_since,
            heard_at,
            written_bytes,
            pending_split: _,
            logged_vote,
            unlogged_commit: _,
            merge: _,
            check: _,
            damage: _,
            siblings,
            load,
            promise,
            leading,
            bound_ticks,
            rest,
            reported,
            sends_snapshots,
            is_touched: _,
        } = self;
        let (node, log) = node.pack();
        let led = node.is_leader().then(|| Box::new(Led { lease, leading, reported, rest: rest.shrunk() }));
        PackedPeer {
            region,
            id: me.id,
            incarnation,
            node,
            applied,
            log: log.pack(),
            durable: gc.durable(),
            read_rounds: reads.rounds(),
            written_bytes,
            promise,
            silent_until,
            leaderless_since,
            heard_at,
            load: Some(load).filter(|load| Arc::strong_count(load) > 1),
            siblings: Some(siblings.into_boxed_slice()).filter(|siblings| !siblings.is_empty()),
            led,
            bound_ticks,
            sends_snapshots,
            is_vote_logged: logged_vote.is_some(),
        }
    }
}

impl PackedPeer {
    /// The peer, still asleep.
    ///
    /// # Panics
    /// If it was packed by another store, or is not what was packed.
    pub(crate) fn unpack(self, shared: &Arc<Shared>) -> Peer {
        let Self { region, id, incarnation, node, applied, log, led, load, .. } = self;
        let config = core_config(&shared.config, id, applied.index, region.id);
        let vote = (node.term(), node.vote());
        let told = (!node.is_leader()).then(|| (node.term(), node.last_index()));
        let log = PeerLog::unpack(log, shared, &region, id, applied, vote);
        let base = log.base().index;
        let node = RawNode::unpack(&config, node, log).expect("the parts of one peer fit");
        let me = region.peer(id).copied().expect("a peer is packed as a member");
        let (lease, leading, reported, rest) = match led.map(|led| *led) {
            Some(Led { lease, leading, reported, rest }) => (lease, leading, reported, rest),
            None => (Lease::default(), None, Reported::default(), Rest::asleep(told)),
        };
        let load = load.unwrap_or_else(|| Peer::new_load(&region, shared));
        let mut peer = Peer::blank(region, me, incarnation, node, load);
        peer.applied = applied;
        peer.lease = lease;
        peer.gc = LogGc::of(base, self.durable);
        peer.reads = Reads::after(self.read_rounds);
        peer.silent_until = self.silent_until;
        peer.leaderless_since = self.leaderless_since;
        peer.heard_at = self.heard_at;
        peer.written_bytes = self.written_bytes;
        peer.logged_vote = self.is_vote_logged.then_some(vote);
        peer.siblings = self.siblings.map(Vec::from).unwrap_or_default();
        peer.promise = self.promise.filter(|_| !planted!(PromiseSleptAway));
        peer.leading = leading;
        peer.bound_ticks = self.bound_ticks;
        peer.rest = rest;
        peer.reported = reported;
        peer.sends_snapshots = self.sends_snapshots;
        peer
    }

    /// Whether the peer leads and has another one on `store`.
    pub(crate) fn leads_one_on(&self, store: StoreId) -> bool {
        self.node.is_leader() && self.region.peer_on(store).is_some()
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.node.is_leader()
    }

    /// No entries are kept in memory, and the worker need not look for any.
    pub(crate) fn unlist_cache(&mut self) {
        self.log.unlist_cache();
    }

    /// What there is to know about the peer; see [`Peer::status`].
    pub(crate) fn status(&self) -> PeerStatus {
        let others = self.node.progress_iter().filter(|(id, _)| *id != self.id);
        PeerStatus {
            region: self.region.clone(),
            peer: self.region.peer(self.id).copied().unwrap_or_default(),
            leader: self.node.leader(),
            term: self.node.term(),
            vote: self.node.vote(),
            is_leader: self.node.is_leader(),
            commit: self.node.last_index(),
            applied: self.applied,
            last_index: self.node.last_index(),
            base: self.log.base(),
            written_bytes: self.written_bytes,
            matched: others.map(|(id, progress)| (id, progress.matched)).collect(),
        }
    }
}
