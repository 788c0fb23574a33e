//! How peers come to be: by a split, or by a message for one that is not here.

use std::sync::Arc;

use flotilla_raft::MessageKind;
use flotilla_region::{KeyRange, Peer as PeerInfo, PeerId, Region, RegionEpoch, RegionId, Space, keys};

use super::{RaftWorker, deliver, is_vote};
use crate::admin::split::{INIT_LOG, orphans};
use crate::error::{Damage, StoreError};
use crate::msg::{CreatePeer, RaftMsg};
use crate::peer::log::PeerLog;
use crate::peer::{NewPeer, Peer};
use crate::quarantine::Bad;
use crate::shared::Shared;
use crate::state::{LogId, RegionState};
use crate::time::Time;
use crate::wire::pb;

/// What became of a peer that a message asks for.
enum Creation {
    Done,
    Refused,
    /// `log` has entries of it, `data` nothing.
    HasLog,
    /// A split has just made it, and the worker has not heard of that yet.
    Unborn,
}

/// Votes that wait for peers about to be born, at most.
const EARLY_MAX: usize = 64;
/// For how long they wait.
const EARLY_MS: u64 = 1_000;

/// Questions for a vote that came between a split and the birth of the peer that is asked: unanswered they would be asked
/// again after an election timeout only. Invariant: few, and none of them is old.
#[derive(Default)]
pub(super) struct EarlyVotes(Vec<(Time, PeerInfo, RegionEpoch, pb::RaftMessage)>);

impl EarlyVotes {
    fn put(&mut self, now: Time, from: PeerInfo, epoch: RegionEpoch, raft: pb::RaftMessage) {
        if self.0.len() < EARLY_MAX {
            self.0.push((now, from, epoch, raft));
        }
    }

    fn take(&mut self, region: RegionId) -> Vec<(Time, PeerInfo, RegionEpoch, pb::RaftMessage)> {
        self.0.extract_if(.., |(_, _, _, raft)| raft.region_id == region.0).collect()
    }

    /// Forgets those that have waited for too long.
    pub(super) fn expire(&mut self, now: Time) {
        self.0.retain(|(at, ..)| now.ms_since(*at) < EARLY_MS);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl RaftWorker {
    /// A split made this region. A peer that a faster sibling's message created before keeps its vote (traps T1, T2).
    pub(super) fn on_create(&mut self, create: CreatePeer) -> Result<(), StoreError> {
        let CreatePeer { region, campaign } = create;
        if self.quarantine.has(region.id) {
            return Ok(());
        }
        let Some(me) = region.peer_on(self.env.shared.origin.store).copied() else { return Ok(()) };
        self.dead.remove(&(region.id, me.id));
        let mut early = self.take_away(&region.id);
        if let Some(early) = early.as_mut().filter(|peer| peer.info().id == me.id) {
            // What it answered in this turn is sent all the same: a vote that nobody hears of costs an election timeout.
            early.drive(&mut self.env);
        }
        let mut adopted = early.as_ref().filter(|p| p.info().id == me.id).map(|p| p.node.hard_state());
        if let Some(state) = adopted.as_mut().filter(|_| planted!(SplitOverVote)) {
            state.vote = PeerId::ZERO;
        }
        let mut loaded =
            PeerLog::load(self.env.shared.clone(), region.id, me.id, Some(INIT_LOG), region.conf_state())?;
        if let Some(state) = adopted {
            loaded.adopt(state);
        }
        let applied = INIT_LOG;
        let new = NewPeer { region, me, applied, loaded, merge: None, restarted: false };
        let mut peer = Peer::new(new, &mut self.env)?;
        if campaign {
            let _ = peer.node.campaign();
        }
        let id = peer.id();
        self.insert(peer);
        for (_, from, epoch, raft) in self.early_votes.take(id) {
            if let Some((peer, env)) = self.touch(id) {
                deliver(peer, from, epoch, raft, env);
            }
        }
        Ok(())
    }

    /// A message for a region that is not here: a new replica of it, unless this store knows better.
    pub(super) fn maybe_create(
        &mut self,
        region: RegionId,
        from: PeerInfo,
        to: PeerInfo,
        epoch: RegionEpoch,
        raft: pb::RaftMessage,
        kind: MessageKind,
    ) {
        if to.id.is_zero() {
            return;
        }
        let space = if raft.meta_space { Space::Meta } else { Space::User };
        let range = KeyRange { start: raft.start_key.clone(), end: raft.end_key.clone() };
        let in_the_way = self.env.shared.ranges.lock().obstacles(space, &range, region);
        if !in_the_way.is_empty() && !is_vote(kind) {
            return;
        }
        match self.create_uninitialised(region, space, epoch, to) {
            Ok(Creation::Done) => {
                if let Some((peer, env)) = self.touch(region) {
                    deliver(peer, from, epoch, raft, env);
                }
            }
            Ok(Creation::HasLog) if in_the_way.is_empty() && !self.awaits_births(space, &range) => {
                self.on_orphan(region, to.id);
            }
            Ok(Creation::Unborn) if is_vote(kind) => {
                self.early_votes.put(self.env.now, from, epoch, raft);
            }
            Ok(Creation::HasLog | Creation::Refused | Creation::Unborn) => {}
            Err(error) => self.on_damaged_record(region, None, to.id, error),
        }
    }

    /// Whether a region here, though it became part of another one since, is still to apply a split that gives its
    /// children their data.
    fn awaits_births(&self, space: Space, range: &KeyRange) -> bool {
        let Shared { engine, ranges, origin, .. } = &*self.env.shared;
        let there = ranges.lock().overlapping(space, range, RegionId::ZERO);
        there.into_iter().any(|parent| {
            let stored = engine.get(&keys::region_state(parent)).ok().flatten();
            match stored.and_then(RegionState::decode) {
                Some(RegionState::Normal(region)) => region
                    .peer_on(origin.store)
                    .is_some_and(|me| !orphans(&**engine, parent, me.id).is_empty()),
                _ => false,
            }
        })
    }

    /// Creates a peer without range or data; its epoch is that of the message. Refused if it was removed before, and if
    /// `log` holds entries of it: then a split that is still to be replayed will bring it back with its data (rule W6).
    fn create_uninitialised(
        &mut self,
        region: RegionId,
        space: Space,
        epoch: RegionEpoch,
        me: PeerInfo,
    ) -> Result<Creation, StoreError> {
        let engine = self.env.shared.engine.clone();
        let stored = engine.get(&keys::region_state(region))?.and_then(RegionState::decode);
        let removed = matches!(stored, Some(RegionState::Tombstone { peer, epoch: last, .. })
            if peer == me.id || epoch.conf_ver <= last.conf_ver);
        if removed || self.dead.contains(&(region, me.id)) {
            return Ok(Creation::Refused);
        }
        if let Some(RegionState::Normal(here)) = stored {
            let is_unborn = here.peer(me.id).is_some();
            return Ok(if is_unborn { Creation::Unborn } else { Creation::Refused });
        }
        if PeerLog::has_entries(&*engine, region, me.id)? {
            return Ok(Creation::HasLog);
        }
        let conf_state = flotilla_raft::ConfState::default();
        let loaded = PeerLog::load(self.env.shared.clone(), region, me.id, None, conf_state)?;
        let descriptor = Arc::new(Region { id: region, space, epoch, ..Region::default() });
        let applied = LogId::default();
        let new = NewPeer { region: descriptor, me, applied, loaded, merge: None, restarted: false };
        let peer = Peer::new(new, &mut self.env)?;
        self.insert(peer);
        Ok(Creation::Done)
    }

    /// A damaged region ends here: its children that it has not given their data have the same end.
    pub(super) fn tell_orphans(&mut self, parent: RegionId, peer: PeerId) {
        for (child, peer) in orphans(&*self.env.shared.engine, parent, peer) {
            let damage = Damage::Record("data of a child");
            self.env.tell(child, RaftMsg::Damaged { region: child, peer, damage });
        }
    }

    /// There is a log of a peer, and neither its data nor a region here whose split could bring that back: its parent was
    /// damaged before it had applied the split again, and is gone. A voter must not begin anew; it goes the way of all
    /// damaged ones.
    pub(super) fn on_orphan(&mut self, id: RegionId, peer: PeerId) {
        let engine = &*self.env.shared.engine;
        let has_data = !matches!(engine.get(&keys::region_state(id)), Ok(None));
        if has_data || self.quarantine.has(id) || !matches!(PeerLog::has_entries(engine, id, peer), Ok(true))
        {
            return;
        }
        let damage = Damage::Record("data of a child");
        self.quarantine(Bad { id, region: None, peers: vec![peer], damage });
    }
}
