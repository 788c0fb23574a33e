//! The raft worker: owner of the peers with `worker_of(region, raft_workers) == number`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::wire::pb;
use crate::wire::pb::merge_message::Message as MergeNews;
use flotilla_raft::MessageKind;
use flotilla_region::{
    KeyRange, Peer as PeerInfo, PeerId, Region, RegionEpoch, RegionId, Space, StoreId, keys,
};

use crate::admin::merge::MergeState;
use crate::admin::split::INIT_LOG;
use crate::error::{Damage, RequestError, StoreError};
use crate::liveness::LivenessMsg;
use crate::mailbox::{Mailbox, Turn};
use crate::msg::{Applied, ApplyMsg, CreatePeer, Incarnation, LogTask, RaftMsg, ReceivedSnapshot};
use crate::outbox::raft_message;
use crate::peer::log::PeerLog;
use crate::peer::{NewPeer, Peer, Phase};
use crate::placement::PlacementMsg;
use crate::quarantine::{Bad, Quarantine};
use crate::state::{LogId, RegionState};
use crate::time::Time;
use crate::wire::{self, HeartbeatCell};

mod env;
mod rest;

pub(crate) use env::Env;
use rest::Unrest;

/// Ticks between looks at what only changes slowly: reports to placement, stale peers.
const SLOW_TICKS: u64 = 10;
/// Ticks between questions whether damaged peers are still members; a multiple of the above.
const QUARANTINE_TICKS: u64 = 50;

/// One raft worker.
pub(crate) struct RaftWorker {
    number: usize,
    env: Env,
    mailbox: Mailbox<RaftMsg>,
    /// Boxed: a look-up shall not drag its neighbours through the caches.
    peers: BTreeMap<RegionId, Box<Peer>>,
    /// Peers to look at before the turn ends.
    touched: Vec<RegionId>,
    /// Peers that are ticked. Without store liveness all of them.
    awake: BTreeSet<RegionId>,
    /// Peers that were awake at some time since the size check last asked.
    recent: BTreeSet<RegionId>,
    unrest: Unrest,
    /// Regions that are out of service.
    quarantine: Quarantine,
    /// Removed peers whose log goes once their tombstone is durable (rule W4).
    dead: BTreeSet<(RegionId, PeerId)>,
    next_tick: Time,
    ticks: u64,
}

impl RaftWorker {
    pub(crate) fn new(number: usize, env: Env, mailbox: Mailbox<RaftMsg>) -> Self {
        Self {
            number,
            env,
            mailbox,
            peers: BTreeMap::new(),
            touched: Vec::new(),
            awake: BTreeSet::new(),
            recent: BTreeSet::new(),
            unrest: Unrest::default(),
            quarantine: Quarantine::default(),
            dead: BTreeSet::new(),
            next_tick: Time::default(),
            ticks: 0,
        }
    }

    /// Adds a region found on disk.
    ///
    /// # Errors
    /// Its stored state contradicts itself.
    pub(crate) fn restore(
        &mut self,
        region: Region,
        applied: LogId,
        merge: Option<MergeState>,
        now: Time,
    ) -> Result<(), StoreError> {
        self.env.now = now;
        let me =
            region.peer_on(self.env.shared.origin.store).copied().ok_or(StoreError::Damaged("descriptor"))?;
        let engine = self.env.shared.engine.clone();
        let loaded = PeerLog::load(engine, region.id, me.id, Some(applied), region.conf_state())?;
        {
            let mut ranges = self.env.shared.ranges.lock();
            ranges.take(region.id, region.space, &region.range);
            if let Some(MergeState::Prepared(prepared)) = &merge {
                ranges.doom(region.id, prepared.target);
            }
        }
        let region = Arc::new(region);
        let alone = region.peers.len() == 1;
        let new = NewPeer { region: region.clone(), me, applied, loaded, merge, restarted: !alone };
        let mut peer = Peer::new(new, &mut self.env)?;
        if alone {
            // Nobody else can have been promised anything.
            let _ = peer.node.campaign();
        }
        self.insert(peer);
        self.env.hand_over();
        Ok(())
    }

    /// Takes a region out of service that was found damaged.
    pub(crate) fn quarantine(&mut self, bad: Bad) {
        self.quarantine.add(bad, &mut self.env);
    }

    fn handle(&mut self, message: RaftMsg) {
        match message {
            RaftMsg::Network(messages) => messages.into_iter().for_each(|m| self.on_network(m)),
            RaftMsg::Heartbeats(from, cells) => cells.into_iter().for_each(|c| self.on_heartbeat(from, c)),
            RaftMsg::Write(request) => {
                let region = request.context.region;
                match self.touch(region) {
                    Some((peer, env)) => peer.write(request, env),
                    None => (request.done)(Err(RequestError::RegionNotFound(region))),
                }
            }
            RaftMsg::Read(request) => {
                let region = request.context.region;
                match self.touch(region) {
                    Some((peer, env)) => peer.read(request, env),
                    None => (request.done)(Err(RequestError::RegionNotFound(region))),
                }
            }
            RaftMsg::Admin(request) => {
                let region = request.region;
                match self.touch(region) {
                    Some((peer, env)) => peer.admin(request, env),
                    None => (request.done)(Err(RequestError::RegionNotFound(region))),
                }
            }
            RaftMsg::Persisted(list) => list.into_iter().for_each(|persisted| {
                if let Some((peer, _)) = self.touch_life(persisted.region, persisted.incarnation) {
                    peer.on_persisted(persisted.responses);
                }
            }),
            RaftMsg::Applied(list) => list.into_iter().for_each(|applied| self.on_applied(applied)),
            RaftMsg::SnapshotInstalled { region, incarnation, descriptor, applied, swallowed } => {
                if let Some((peer, env)) = self.touch_life(region, incarnation) {
                    peer.on_snapshot_installed(descriptor, applied, &swallowed, env);
                }
            }
            RaftMsg::SnapshotReceived(received) => self.on_snapshot(received),
            RaftMsg::SnapshotSent { region, to, ok } => {
                if let Some((peer, _)) = self.touch(region) {
                    peer.node.report_snapshot(to, ok);
                }
            }
            other => self.handle_rare(other),
        }
    }

    fn on_applied(&mut self, applied: Applied) {
        match self.touch_life(applied.region, applied.incarnation) {
            Some((peer, env)) => peer.on_applied(applied, env),
            None => self.quarantine.on_applied(applied, &mut self.env),
        }
    }

    fn handle_rare(&mut self, message: RaftMsg) {
        match message {
            RaftMsg::Durable(list) => {
                list.into_iter().for_each(|(region, peer, at)| self.on_durable(region, peer, at))
            }
            RaftMsg::Create(create) => {
                let region = create.region.clone();
                let me = region.peer_on(self.env.shared.origin.store).map(|p| p.id).unwrap_or_default();
                if let Err(error) = self.on_create(*create) {
                    self.on_damaged_record(region.id, Some(region), me, error);
                }
            }
            RaftMsg::Destroyed { region, incarnation } => self.on_destroyed(region, incarnation),
            RaftMsg::Unreachable(store) => self.on_unreachable(store),
            RaftMsg::Supporting { store, epoch, is_held } => self.on_supporting(store, epoch, is_held),
            RaftMsg::Support { store, is_held } => self.on_support(store, is_held),
            RaftMsg::Prove(round) => self.env.shared.links.liveness.send(LivenessMsg::Proof(round)),
            RaftMsg::Check { region, done } => match self.touch(region) {
                Some((peer, env)) => peer.begin_check(done, env),
                None => done.into_iter().for_each(|done| done(Err(RequestError::RegionNotFound(region)))),
            },
            RaftMsg::Digest { region, incarnation, at, digest } => {
                if let Some((peer, env)) = self.touch_life(region, incarnation) {
                    peer.on_digest(at, digest, env);
                }
            }
            RaftMsg::Damaged { region, peer: damaged, damage } => {
                if let Some((peer, _)) = self.touch(region)
                    && (damaged.is_zero() || damaged == peer.info().id)
                {
                    peer.condemn(damage);
                }
            }
            RaftMsg::Crowded { region, version, until } => {
                if let Some(peer) = self.peers.get_mut(&region) {
                    peer.writes.crowd(version, until);
                }
            }
            RaftMsg::Inspect(tell) => tell(self.peers.values().filter_map(|peer| peer.status()).collect()),
            RaftMsg::InspectRecent(tell) => {
                let recent = std::mem::replace(&mut self.recent, self.awake.clone());
                tell(recent.iter().filter_map(|id| self.peers.get(id)?.status()).collect());
            }
            RaftMsg::ShedLeaders => self.shed_leaders(),
            RaftMsg::Retire(retire) => match self.touch(retire.source) {
                Some((peer, env)) => peer.on_retire(*retire, env),
                None => self.quarantine.on_retire(&retire, &mut self.env),
            },
            RaftMsg::Quiet { region, incarnation } => {
                if let Some((peer, env)) = self.touch_life(region, incarnation) {
                    peer.on_quiet(env);
                }
            }
            RaftMsg::Retired { target, source } => {
                if let Some((peer, env)) = self.touch(target) {
                    peer.on_retired(source, env);
                }
            }
            RaftMsg::Abandoned { source, target, version } => {
                if let Some((peer, env)) = self.touch(source) {
                    peer.on_abandoned(target, version, env);
                }
            }
            RaftMsg::Merged { region, peer } => self.on_merged(region, peer),
            _ => {}
        }
    }

    fn insert(&mut self, peer: Peer) {
        let mut peer = Box::new(peer);
        peer.touch(&mut self.touched);
        self.awake.insert(peer.id());
        self.recent.insert(peer.id());
        if let Some(promise) = &peer.promise {
            self.env.promised(promise.store, peer.id());
        }
        self.peers.insert(peer.id(), peer);
    }

    fn take_away(&mut self, region: &RegionId) -> Option<Box<Peer>> {
        self.awake.remove(region);
        self.peers.remove(region)
    }

    /// A peer to which something happens; it is awake from now on.
    fn touch(&mut self, region: RegionId) -> Option<(&mut Peer, &mut Env)> {
        let peer = self.peers.get_mut(&region)?;
        rouse(peer, &mut self.env, &mut self.awake, &mut self.recent);
        peer.touch(&mut self.touched);
        Some((peer, &mut self.env))
    }

    fn touch_life(&mut self, region: RegionId, incarnation: Incarnation) -> Option<(&mut Peer, &mut Env)> {
        self.touch(region).filter(|(peer, _)| peer.incarnation == incarnation)
    }

    // ---- messages from other stores ----

    fn on_heartbeat(&mut self, from: StoreId, cell: HeartbeatCell) {
        let Some(peer) = self.peers.get_mut(&cell.region).filter(|peer| cell.message.to == peer.info().id)
        else {
            return;
        };
        if peer.is_routine(&cell.message) {
            // The last ones of a region that fell asleep on the other side, or has not yet.
            peer.touch(&mut self.touched);
            return peer.step((from, cell.message.from), cell.message, &mut self.env);
        }
        let Some((peer, env)) = self.touch(cell.region) else { return };
        if peer.region.peer(cell.message.from).is_none() && cell.epoch.conf_ver < peer.region.epoch.conf_ver {
            return;
        }
        peer.step((from, cell.message.from), cell.message, env);
    }

    fn on_network(&mut self, raft: pb::RaftMessage) {
        let (Some(from), Some(to)) = (raft.from_peer.as_ref(), raft.to_peer.as_ref()) else { return };
        let (from, to) = (wire::peer_from_wire(from), wire::peer_from_wire(to));
        let region = RegionId(raft.region_id);
        let epoch = raft.epoch.as_ref().map(wire::epoch_from_wire).unwrap_or_default();
        if to.store != self.env.shared.origin.store {
            return;
        }
        if !raft.merge.is_empty() {
            return self.on_merge_message(region, from, to, &raft.merge);
        }
        if raft.is_tombstone {
            return self.on_tombstone(region, to, epoch);
        }
        if let Some(note) = &raft.fortification {
            return self.on_fortification(region, from, to, note);
        }
        if let Some(check) = &raft.check {
            if let Some((peer, env)) = self.touch(region).filter(|(peer, _)| peer.info().id == to.id) {
                peer.on_check_message(from.id, check, env);
            }
            return;
        }
        let conf_ver_here = match self.peers.get_mut(&region) {
            Some(peer) if peer.info().id == to.id => {
                rouse(peer, &mut self.env, &mut self.awake, &mut self.recent);
                peer.touch(&mut self.touched);
                return deliver(peer, from, epoch, raft, &mut self.env);
            }
            other => other.map(|peer| peer.region.epoch.conf_ver),
        };
        // Other kinds are also sent to peers that the sender does not count among the members: they prove nothing.
        let kind = raft.message.as_ref().and_then(wire::message_kind).filter(|kind| is_for_members(*kind));
        match conf_ver_here {
            // The peer here was removed and another one added in its place. Ids come from windows of many stores, so
            // that their order says nothing; the membership's version does.
            Some(conf_ver) if conf_ver < epoch.conf_ver && kind.is_some() => self.close(region),
            Some(_) => {}
            None if self.quarantine.has(region) => {
                if kind.is_some() {
                    self.quarantine.on_message(region, to, epoch, &mut self.env);
                }
            }
            None if self.answer_for_merged(region, from, to) => {}
            None => {
                if let Some(kind) = kind {
                    self.maybe_create(region, from, to, epoch, raft, kind);
                }
            }
        }
    }

    /// A message for a region that is not here: a new replica of it, unless this store knows better.
    fn maybe_create(
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
            Ok(true) => {
                if let Some((peer, env)) = self.touch(region) {
                    deliver(peer, from, epoch, raft, env);
                }
            }
            Ok(false) => {}
            Err(error) => self.on_damaged_record(region, None, to.id, error),
        }
    }

    /// A record of a region without a living peer cannot be read.
    fn on_damaged_record(&mut self, id: RegionId, region: Option<Region>, peer: PeerId, error: StoreError) {
        match error.into_damage() {
            Ok(damage) => {
                self.quarantine(Bad { id, region: region.map(Arc::new), peers: vec![peer], damage });
            }
            Err(error) => self.env.shared.fail(&error),
        }
    }

    /// Creates a peer without range or data; its epoch is that of the message. Refused if it was removed before, and if `log` holds entries of it: then
    /// a split that is still to be replayed will bring it back with its data (rule W6).
    fn create_uninitialised(
        &mut self,
        region: RegionId,
        space: Space,
        epoch: RegionEpoch,
        me: PeerInfo,
    ) -> Result<bool, StoreError> {
        let engine = self.env.shared.engine.clone();
        let stored = engine.get(&keys::region_state(region))?.and_then(RegionState::decode);
        let removed = matches!(stored, Some(RegionState::Tombstone { peer, epoch: last, .. })
            if peer == me.id || epoch.conf_ver <= last.conf_ver);
        let closing = self.dead.contains(&(region, me.id)) || matches!(stored, Some(RegionState::Normal(_)));
        if removed || closing || PeerLog::has_entries(&*engine, region, me.id)? {
            return Ok(false);
        }
        let loaded = PeerLog::load(engine, region, me.id, None, flotilla_raft::ConfState::default())?;
        let descriptor = Arc::new(Region { id: region, space, epoch, ..Region::default() });
        let applied = LogId::default();
        let new = NewPeer { region: descriptor, me, applied, loaded, merge: None, restarted: false };
        let peer = Peer::new(new, &mut self.env)?;
        self.insert(peer);
        Ok(true)
    }

    /// A peer of a merge's other region has a question or an answer.
    fn on_merge_message(&mut self, region: RegionId, from: PeerInfo, to: PeerInfo, merge: &[u8]) {
        match (self.touch(region), wire::merge_from_wire(merge)) {
            (Some((peer, env)), Some(MergeNews::Ask(ask))) => peer.on_merge_ask(from, &ask, env),
            (Some((peer, env)), Some(MergeNews::Answer(answer))) => peer.on_merge_answer(answer, env),
            (Some((peer, env)), Some(MergeNews::MergedInto(merged))) if peer.info().id == to.id => {
                peer.on_told(RegionId(merged.target), merged.version, env);
            }
            (None, Some(MergeNews::Ask(ask))) => self.answer_for_gone(region, from, &ask),
            _ => {}
        }
    }

    /// A target asks after a region that was removed here: if it had a later shape by then, or is part of another region,
    /// it will never be part of the target in the one that is asked for.
    fn answer_for_gone(&mut self, region: RegionId, by: PeerInfo, ask: &pb::MergeAsk) {
        let stored = self.env.shared.engine.get(&keys::region_state(region)).ok().flatten();
        let Some(RegionState::Tombstone { epoch: last, merged, .. }) = stored.and_then(RegionState::decode)
        else {
            return;
        };
        if merged.is_some_and(|(target, _)| target.0 == ask.target) {
            // What is asked for has happened: whoever asks still will be overtaken.
            return;
        }
        let Some(expected) = ask.source.as_ref().map(wire::region_from_wire) else { return };
        let Some(me) = expected.peer_on(self.env.shared.origin.store).copied() else { return };
        // What is part of another region has come to its end.
        if merged.is_some() || expected.epoch.is_stale_against(&last) {
            let answer = pb::MergeAnswer {
                source: region.0,
                source_epoch: Some(wire::epoch_to_wire(expected.epoch)),
                is_void: true,
                ..Default::default()
            };
            let mut message = raft_message(&expected, me, by, None, false);
            message.region_id = ask.target;
            message.merge = wire::merge_to_wire(MergeNews::Answer(answer));
            self.env.post(by.store, message);
        }
    }

    /// A message for a region that this store has seen become part of another one: its sender has missed that.
    fn answer_for_merged(&mut self, region: RegionId, from: PeerInfo, to: PeerInfo) -> bool {
        let stored = self.env.shared.engine.get(&keys::region_state(region));
        let Some(RegionState::Tombstone { merged: Some((target, version)), epoch, .. }) =
            stored.ok().flatten().and_then(RegionState::decode)
        else {
            return false;
        };
        let gone = Region { id: region, epoch, ..Region::default() };
        let mut answer = raft_message(&gone, to, from, None, false);
        answer.is_tombstone = true;
        let merged = pb::MergedInto { target: target.0, version };
        answer.merge = wire::merge_to_wire(MergeNews::MergedInto(merged));
        self.env.outbox.push(from.store, answer);
        true
    }

    /// The group says that the peer here was removed.
    fn on_tombstone(&mut self, region: RegionId, me: PeerInfo, epoch: RegionEpoch) {
        let Some(peer) = self.peers.get(&region) else {
            return self.quarantine.on_tombstone(region, me, epoch, &mut self.env);
        };
        let listed = peer.phase != Phase::Uninitialised && epoch.conf_ver <= peer.region.epoch.conf_ver;
        if peer.info().id == me.id && !listed {
            self.close(region);
        }
    }

    /// The peer was removed. It hears of it again if it has something left to do.
    fn close(&mut self, region: RegionId) {
        if let Some((peer, env)) = self.touch(region).filter(|(peer, env)| !peer.has_child_to_bear(env)) {
            peer.close(env);
        }
    }

    fn on_snapshot(&mut self, received: Box<ReceivedSnapshot>) {
        let region = received.descriptor.id;
        match self.touch(region) {
            Some((peer, env)) => peer.on_snapshot(received, env),
            None => self.env.shared.ranges.lock().unreserve(region),
        }
    }

    // ---- life and death of peers ----

    /// A split made this region. A peer that a faster sibling's message created before keeps its vote (traps T1, T2).
    fn on_create(&mut self, create: CreatePeer) -> Result<(), StoreError> {
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
        let engine = self.env.shared.engine.clone();
        let mut loaded = PeerLog::load(engine, region.id, me.id, Some(INIT_LOG), region.conf_state())?;
        if let Some(state) = adopted {
            loaded.adopt(state);
        }
        let (region, applied) = (Arc::new(region), INIT_LOG);
        let new = NewPeer { region, me, applied, loaded, merge: None, restarted: false };
        let mut peer = Peer::new(new, &mut self.env)?;
        if campaign {
            let _ = peer.node.campaign();
        }
        self.insert(peer);
        Ok(())
    }

    fn on_destroyed(&mut self, region: RegionId, incarnation: Incarnation) {
        if self.peers.get(&region).is_some_and(|p| p.incarnation == incarnation)
            && let Some(peer) = self.take_away(&region)
        {
            self.dead.insert((region, peer.info().id));
            let mut ranges = self.env.shared.ranges.lock();
            ranges.forget(region);
            ranges.unreserve(region);
        }
        let buried = self.quarantine.on_destroyed(region, incarnation, &self.env);
        if !buried.is_empty() {
            self.env.shared.ranges.lock().forget(region);
            self.dead.extend(buried.into_iter().map(|peer| (region, peer)));
        }
    }

    /// The region became part of another one on this store's disk.
    fn on_merged(&mut self, region: RegionId, peer_id: PeerId) {
        if self.peers.get(&region).is_some_and(|p| p.info().id == peer_id)
            && let Some(peer) = self.take_away(&region)
        {
            let forget = ApplyMsg::Forget { region, incarnation: peer.incarnation };
            self.env.apply(region, forget);
            self.env.shared.links.placement.send(PlacementMsg::NotLed(region));
        }
        self.quarantine.on_merged(region, &self.env);
        self.env.shared.ranges.lock().forget(region);
        self.dead.insert((region, peer_id));
        // The tombstone is written; the next flush makes it durable, and then the log goes (rule W4).
        self.env.shared.dirty.lock().insert((region, peer_id), LogId::default());
    }

    fn on_durable(&mut self, region: RegionId, peer_id: PeerId, at: LogId) {
        // A flush that began before the tombstone was written tells of a position that the peer had applied.
        let is_tombstone = at == LogId::default();
        if is_tombstone && self.dead.remove(&(region, peer_id)) {
            // The tombstone is durable: nothing will ask for this log again.
            let task = LogTask { region, peer: peer_id, clear: true, ..LogTask::default() };
            self.env.log(task);
        } else if let Some(peer) = self.peers.get_mut(&region).filter(|p| p.info().id == peer_id) {
            // No reason to wake.
            peer.touch(&mut self.touched);
            peer.on_durable(at, &mut self.env);
        }
    }

    fn on_unreachable(&mut self, store: StoreId) {
        for peer in self.peers.values_mut().filter(|p| p.is_leader()) {
            let there = peer.region.peer_on(store).map(|p| p.id);
            if let Some(id) = there {
                peer.node.report_unreachable(id);
            }
        }
    }

    fn shed_leaders(&mut self) {
        for peer in self.peers.values_mut().filter(|p| p.is_leader()) {
            let me = peer.info().id;
            rouse(peer, &mut self.env, &mut self.awake, &mut self.recent);
            let best = peer
                .node
                .progress_iter()
                .filter(|(id, p)| *id != me && !p.is_learner && p.is_alive())
                .max_by_key(|(_, p)| p.matched)
                .map(|(id, _)| id);
            if let Some(to) = best {
                peer.node.transfer_leader(to);
                peer.touch(&mut self.touched);
            }
        }
    }

    // ---- time ----

    fn tick(&mut self) {
        self.ticks += 1;
        self.wake_some();
        self.look_at_some();
        let is_slow = self.ticks.is_multiple_of(SLOW_TICKS);
        if is_slow {
            self.ask_about_stale_peers();
        }
        let Self { peers, awake, env, touched, .. } = self;
        if awake.len() == peers.len() {
            // Nobody sleeps: a walk is cheaper than as many look-ups.
            for (id, peer) in peers.iter_mut() {
                if !tick_peer(peer, is_slow, env, touched) {
                    awake.remove(id);
                }
            }
        } else {
            awake.retain(|id| peers.get_mut(id).is_some_and(|peer| tick_peer(peer, is_slow, env, touched)));
        }
        self.pump_releases();
        if self.ticks.is_multiple_of(QUARANTINE_TICKS) {
            self.quarantine.ask_others(&mut self.env);
        }
    }

    /// A peer that has heard of no leader for long asks the others whether it is still one of them.
    fn ask_about_stale_peers(&mut self) {
        let (now, limit) = (self.env.now, self.env.shared.config.stale_peer_ms);
        for id in &self.awake {
            let Some(peer) = self.peers.get_mut(id) else { continue };
            let stale = peer.leaderless_since.is_some_and(|since| now.ms_since(since) >= limit);
            if !stale {
                continue;
            }
            peer.leaderless_since = Some(now);
            for other in peer.others() {
                let mut question = raft_message(&peer.region, peer.info(), other, None, false);
                question.check_stale = true;
                self.env.outbox.push(other.store, question);
            }
        }
    }

    fn drive_touched(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.drive(&mut self.env);
                peer.look_for_damage();
                if peer.phase == Phase::Stopped {
                    self.end_in_quarantine(id);
                }
            }
        }
        self.touched = touched;
    }

    fn end_in_quarantine(&mut self, id: RegionId) {
        let Some(mut peer) = self.take_away(&id) else { return };
        peer.end_in_quarantine(&mut self.env);
        let damage = peer.damage.take().unwrap_or(Damage::Record("state"));
        let peers = vec![peer.info().id];
        self.quarantine(Bad { id, region: Some(peer.region.clone()), peers, damage });
    }
}

/// A message for a peer that is here.
fn deliver(peer: &mut Peer, from: PeerInfo, epoch: RegionEpoch, raft: pb::RaftMessage, env: &mut Env) {
    let region = peer.id();
    let stranger = peer.region.peer(from.id).is_none() && epoch.conf_ver < peer.region.epoch.conf_ver;
    if stranger && peer.phase != Phase::Uninitialised {
        // It was removed and does not know: it would campaign for ever (trap T20).
        let mut answer = raft_message(&peer.region, peer.info(), from, None, false);
        answer.is_tombstone = true;
        env.outbox.push(from.store, answer);
        return;
    }
    let range = KeyRange { start: raft.start_key, end: raft.end_key };
    let Some(message) = raft.message.and_then(wire::message_from_wire) else { return };
    if peer.phase == Phase::Uninitialised && !is_vote(message.kind) {
        let space = if raft.meta_space { Space::Meta } else { Space::User };
        if !env.shared.ranges.lock().obstacles(space, &range, region).is_empty() {
            // The range is still another region's here: a split on its way will bring this peer to life. Answering
            // an append would only ask for a needless snapshot.
            return;
        }
    }
    peer.step((from.store, from.id), message, env);
}

/// Wakes a peer if it sleeps: it is ticked from now on.
fn rouse(peer: &mut Peer, env: &mut Env, awake: &mut BTreeSet<RegionId>, recent: &mut BTreeSet<RegionId>) {
    if peer.rest.is_asleep {
        peer.wake(env);
        awake.insert(peer.id());
        recent.insert(peer.id());
    }
}

/// One tick of a peer that is awake; whether it still is afterwards.
fn tick_peer(peer: &mut Peer, is_slow: bool, env: &mut Env, touched: &mut Vec<RegionId>) -> bool {
    if peer.may_sleep(env) {
        return false;
    }
    peer.tick(env);
    peer.tick_merge(env);
    if is_slow {
        peer.log_commit(env);
        peer.report_in_full(env);
        peer.tick_check(env);
        match peer.maybe_bury(env) {
            // Its target's record is damaged: that one's quarantine decides.
            Ok(()) | Err(flotilla_engine::Error::Corruption(_)) => {}
            Err(error) => env.shared.fail(&error.into()),
        }
    }
    if peer.node.has_ready() || peer.reads.has_waiting() {
        peer.touch(touched);
    }
    true
}

fn is_vote(kind: MessageKind) -> bool {
    matches!(kind, MessageKind::Vote | MessageKind::PreVote)
}

/// Whether such messages are sent to none but members of the region as the sender knows it.
fn is_for_members(kind: MessageKind) -> bool {
    is_vote(kind) || matches!(kind, MessageKind::Append | MessageKind::Heartbeat)
}

impl Turn for RaftWorker {
    fn name(&self) -> String {
        format!("raft-{}", self.number)
    }

    fn turn(&mut self, now: Time) -> bool {
        if self.env.shared.has_failed() {
            return false;
        }
        self.env.now = now;
        for _ in 0..self.env.shared.config.turn_messages_max {
            let Some(message) = self.mailbox.pop() else { break };
            self.handle(message);
        }
        if now >= self.next_tick {
            // A late tick is one tick, not a burst: slow timers are safe, fast ones are not.
            self.next_tick = now.plus_ms(self.env.shared.config.tick_ms);
            self.tick();
        }
        self.drive_touched();
        self.env.outbox.flush(now);
        self.env.hand_over();
        !self.mailbox.is_empty()
    }

    fn has_messages(&self) -> bool {
        !self.mailbox.is_empty()
    }

    /// Peers that somebody waits for, and removed ones whose log is not gone.
    fn held(&self) -> usize {
        let is_asked = |peer: &Peer| !peer.writes.is_idle() || !peer.reads.is_idle();
        self.peers.values().filter(|peer| is_asked(peer)).count() + self.dead.len()
    }

    fn deadline(&self) -> Time {
        self.env.outbox.deadline().map_or(self.next_tick, |held| held.min(self.next_tick))
    }

    fn wait(&mut self, timeout: Duration) {
        self.mailbox.wait(timeout);
    }
}
