//! The raft worker: owner of the peers with `worker_of(region, raft_workers) == number`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::wire::pb;
use crate::wire::pb::merge_message::Message as MergeNews;
use flotilla_raft::MessageKind;
use flotilla_region::{
    KeyRange, Peer as PeerInfo, PeerId, Region, RegionEpoch, RegionId, Space, StoreId, keys,
};

use crate::admin::merge::MergeState;
use crate::admin::transfer::Handover;
use crate::error::{Damage, RequestError, StoreError};
use crate::mailbox::{Mailbox, Turn};
use crate::msg::{Applied, ApplyMsg, Incarnation, LogTask, RaftMsg, ReceivedSnapshot};
use crate::outbox::raft_message;
use crate::peer::log::PeerLog;
use crate::peer::{NewPeer, Peer, Phase};
use crate::placement::PlacementMsg;
use crate::quarantine::{Bad, Quarantine};
use crate::state::{LogId, RegionState, is_without};
use crate::time::Time;
use crate::wire::{self, HeartbeatCell};

mod birth;
mod env;
mod flow;
mod peers;
mod rest;
mod stale;

use birth::EarlyVotes;
pub(crate) use env::Env;
use peers::Peers;
use rest::Unrest;
use stale::Farewells;
pub(crate) use stale::ask_others;

/// Ticks between looks at what only changes slowly: reports to placement, stale peers.
const SLOW_TICKS: u64 = 10;
/// Ticks between questions whether damaged peers are still members; a multiple of the above.
const QUARANTINE_TICKS: u64 = 50;
/// Regions that give up cached entries in one turn, at most.
const SHED_MAX: usize = 256;

/// One raft worker.
pub(crate) struct RaftWorker {
    number: usize,
    env: Env,
    mailbox: Mailbox<RaftMsg>,
    peers: Peers,
    /// Peers to look at before the turn ends.
    touched: Vec<RegionId>,
    /// Peers that are ticked. Without store liveness all of them.
    awake: BTreeSet<RegionId>,
    /// Peers that were awake at some time since the size check last asked.
    recent: BTreeSet<RegionId>,
    unrest: Unrest,
    farewells: Farewells,
    /// Regions that are out of service.
    quarantine: Quarantine,
    early_votes: EarlyVotes,
    /// Removed peers whose log goes once their tombstone is durable (rule W4).
    dead: BTreeSet<(RegionId, PeerId)>,
    next_tick: Time,
    ticks: u64,
    /// The tick that is under way goes on with this region.
    ticking: Option<RegionId>,
    /// Last round of proofs in which the worker showed that it lives.
    proven: u64,
}

impl RaftWorker {
    pub(crate) fn new(number: usize, env: Env, mailbox: Mailbox<RaftMsg>) -> Self {
        Self {
            number,
            peers: Peers::new(env.shared.clone()),
            env,
            mailbox,
            touched: Vec::new(),
            awake: BTreeSet::new(),
            recent: BTreeSet::new(),
            unrest: Unrest::default(),
            farewells: Farewells::default(),
            quarantine: Quarantine::default(),
            early_votes: EarlyVotes::default(),
            dead: BTreeSet::new(),
            next_tick: Time::default(),
            ticks: 0,
            ticking: None,
            proven: 0,
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
        let loaded =
            PeerLog::load(self.env.shared.clone(), region.id, me.id, Some(applied), region.conf_state())?;
        let region = Arc::new(region);
        {
            let mut ranges = self.env.shared.ranges.lock();
            ranges.take(&region);
            if let Some(MergeState::Prepared(prepared)) = &merge {
                ranges.doom(region.id, prepared.target);
            }
        }
        let alone = region.peers.len() == 1;
        let new = NewPeer { region: region.clone(), me, applied, loaded, merge, restarted: !alone };
        let mut peer = Peer::new(new, &mut self.env)?;
        if alone {
            // Nobody else can have been promised anything.
            let _ = peer.node.campaign();
        }
        self.insert(peer);
        self.shed_entries();
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
                    peer.node.on_stored(persisted.storing);
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
            RaftMsg::Durable { positions, keep_bytes } => {
                for (region, peer, at) in positions {
                    self.on_durable(region, peer, at, keep_bytes);
                }
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
            RaftMsg::Check { region, done } => match self.touch(region) {
                Some((peer, env)) => peer.begin_check(done, env),
                None => done.into_iter().for_each(|done| done(Err(RequestError::RegionNotFound(region)))),
            },
            RaftMsg::Digest { region, incarnation, at, digest } => {
                if let Some((peer, env)) = self.touch_life(region, incarnation) {
                    peer.on_digest(at, digest, env);
                }
            }
            RaftMsg::Damaged { region, peer: damaged, damage } => match self.touch(region) {
                Some((peer, _)) if damaged.is_zero() || damaged == peer.info().id => peer.condemn(damage),
                Some(_) => {}
                None => self.on_orphan(region, damaged),
            },
            RaftMsg::Crowded { region, version, until } => {
                if let Some(peer) = self.peers.get(&region) {
                    peer.writes.crowd(version, until);
                }
            }
            RaftMsg::Inspect(tell) => tell(self.peers.statuses()),
            RaftMsg::InspectRecent(tell) => {
                let recent = std::mem::replace(&mut self.recent, self.awake.clone());
                tell(recent.iter().filter_map(|id| self.peers.status(id)).collect());
            }
            RaftMsg::ShedLeaders => self.shed_leaders(),
            RaftMsg::Retire(retire) => match self.touch(retire.source) {
                Some((peer, env)) => peer.on_retire(*retire, env),
                None => self.quarantine.on_retire(&retire, &mut self.env),
            },
            RaftMsg::Quiet { region, incarnation } => match self.touch_life(region, incarnation) {
                Some((peer, env)) => peer.on_quiet(env),
                None => self.quarantine.on_quiet(region, incarnation, &mut self.env),
            },
            RaftMsg::Retired { target, source } => {
                if let Some((peer, env)) = self.touch(target) {
                    peer.on_retired(source, env);
                }
            }
            RaftMsg::Abandoned { source, target, version } => match self.touch(source) {
                Some((peer, env)) => peer.on_abandoned(target, version, env),
                None => self.quarantine.on_abandoned(source, target, version, &self.env),
            },
            RaftMsg::Merged { region, peer } => self.on_merged(region, peer),
            _ => {}
        }
    }

    fn insert(&mut self, peer: Peer) {
        let mut peer = Box::new(peer);
        peer.touch(&mut self.touched);
        if peer.node.storage_mut().list_cache() {
            self.env.cached.push_back(peer.id());
        }
        self.awake.insert(peer.id());
        self.recent.insert(peer.id());
        if let Some(promise) = &peer.promise {
            self.env.promised(promise.store, peer.id());
        }
        self.peers.insert(peer);
    }

    fn take_away(&mut self, region: &RegionId) -> Option<Box<Peer>> {
        self.awake.remove(region);
        self.peers.remove(region)
    }

    /// A peer to which something happens; it is awake from now on.
    fn touch(&mut self, region: RegionId) -> Option<(&mut Peer, &mut Env)> {
        let peer = self.peers.get(&region)?;
        rouse(peer, &mut self.env, &mut self.awake, &mut self.recent);
        peer.touch(&mut self.touched);
        Some((peer, &mut self.env))
    }

    fn touch_life(&mut self, region: RegionId, incarnation: Incarnation) -> Option<(&mut Peer, &mut Env)> {
        self.touch(region).filter(|(peer, _)| peer.incarnation == incarnation)
    }

    // ---- messages from other stores ----

    fn on_heartbeat(&mut self, from: StoreId, cell: HeartbeatCell) {
        let Some(peer) = self.peers.get(&cell.region).filter(|peer| cell.message.to == peer.info().id) else {
            return;
        };
        if peer.is_routine(&cell.message) {
            // The last ones of a region that fell asleep on the other side, or has not yet.
            peer.touch(&mut self.touched);
            return peer.step((from, cell.message.from), cell.message, &mut self.env);
        }
        let Some((peer, env)) = self.touch(cell.region) else { return };
        if is_without(&peer.region, cell.epoch.conf_ver, cell.message.from) {
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
            return self.on_tombstone(region, from, to, epoch);
        }
        if raft.is_gone {
            return self.farewells.end(region, from.id);
        }
        if raft.check_stale {
            return self.on_question(region, from, to, epoch);
        }
        if let Some(note) = &raft.fortification {
            return self.on_fortification(region, from, to, note);
        }
        if let Some(note) = &raft.transfer {
            if let Some((peer, env)) = self.touch(region).filter(|(peer, _)| peer.info().id == to.id) {
                peer.on_transfer_note(from, note, env);
            }
            return;
        }
        if let Some(check) = &raft.check {
            if let Some((peer, env)) = self.touch(region).filter(|(peer, _)| peer.info().id == to.id) {
                peer.on_check_message(from.id, check, env);
            }
            return;
        }
        let conf_ver_here = match self.peers.get(&region) {
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
            Some(_) => self.on_question(region, from, to, epoch),
            None if self.quarantine.has(region) => {
                if kind.is_some() {
                    self.quarantine.on_message(region, to, epoch, &mut self.env);
                }
            }
            None if self.answer_by_tombstone(region, from, to, epoch) => {}
            None => {
                if let Some(kind) = kind {
                    self.maybe_create(region, from, to, epoch, raft, kind);
                }
            }
        }
    }

    /// A record of a region without a living peer cannot be read.
    fn on_damaged_record(
        &mut self,
        id: RegionId,
        region: Option<Arc<Region>>,
        peer: PeerId,
        error: StoreError,
    ) {
        match error.into_damage() {
            Ok(damage) => {
                self.quarantine(Bad { id, region, peers: vec![peer], damage });
            }
            Err(error) => self.env.shared.fail(&error),
        }
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
            (None, Some(MergeNews::MergedInto(merged))) => {
                let told = (RegionId(merged.target), merged.version);
                self.quarantine.on_told(region, Some(to.id), told, &self.env);
            }
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
        if merged.is_some_and(|(target, version)| target.0 == ask.target && ask.target_version < version) {
            // What is asked for has happened: whoever asks still will be overtaken. Not so one that has come to expect it
            // since then, on old news.
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

    fn on_destroyed(&mut self, region: RegionId, incarnation: Incarnation) {
        if self.peers.get(&region).is_some_and(|p| p.incarnation == incarnation)
            && let Some(peer) = self.take_away(&region)
        {
            self.dead.insert((region, peer.info().id));
            let mut ranges = self.env.shared.ranges.lock();
            if !peer.region.peers.is_empty() {
                // A peer without data has no range; what there is belongs to one that a split is about to make.
                ranges.forget(region);
            }
            ranges.unreserve(region);
        }
        let buried = self.quarantine.on_destroyed(region, incarnation, &self.env);
        if !buried.is_empty() {
            self.env.shared.ranges.lock().forget(region);
            buried.iter().for_each(|peer| self.tell_orphans(region, *peer));
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
        if self.quarantine.has(region) {
            self.tell_orphans(region, peer_id);
            self.quarantine.on_merged(region, &self.env);
        }
        self.env.shared.ranges.lock().forget(region);
        self.dead.insert((region, peer_id));
        // The tombstone is written; the next flush makes it durable, and then the log goes (rule W4).
        self.env.shared.dirty.lock().insert((region, peer_id), LogId::default());
    }

    fn on_durable(&mut self, region: RegionId, peer_id: PeerId, at: LogId, keep_bytes: u64) {
        // A flush that began before the tombstone was written tells of a position that the peer had applied.
        let is_tombstone = at == LogId::default();
        if is_tombstone && self.dead.remove(&(region, peer_id)) {
            // The tombstone is durable: nothing will ask for this log again.
            let task = LogTask { region, peer: peer_id, clear: true, ..LogTask::default() };
            self.env.log(task);
        } else if let Some(peer) = self.peers.get(&region).filter(|p| p.info().id == peer_id) {
            // No reason to wake.
            peer.on_durable(at, keep_bytes, &mut self.env);
            if peer.rest.is_asleep {
                self.peers.pack(region);
            } else {
                peer.touch(&mut self.touched);
            }
        }
    }

    fn on_unreachable(&mut self, store: StoreId) {
        // What sleeps has sent nothing that could be lost.
        for (_, peer) in self.peers.whole_from(RegionId::ZERO).filter(|(_, p)| p.is_leader()) {
            let there = peer.region.peer_on(store).map(|p| p.id);
            if let Some(id) = there {
                peer.node.report_unreachable(id);
            }
        }
    }

    fn shed_leaders(&mut self) {
        for id in self.peers.led() {
            let Some((peer, env)) = self.touch(id) else { continue };
            let me = peer.info().id;
            let best = peer
                .node
                .progress_iter()
                .filter(|(id, p)| *id != me && !p.is_learner && p.is_alive())
                .max_by_key(|(_, p)| p.matched)
                .map(|(id, _)| id);
            if let Some(to) = best {
                peer.transfer(to, env);
            }
        }
    }

    // ---- time ----

    fn begin_tick(&mut self) {
        self.ticks += 1;
        self.ticking = Some(RegionId::ZERO);
        self.wake_some();
        self.look_at_some();
        if self.is_slow_tick() {
            self.ask_about_stale_peers();
            self.pump_farewells();
            self.peers.retry_stubborn(self.env.now);
        }
    }

    fn is_slow_tick(&self) -> bool {
        self.ticks.is_multiple_of(SLOW_TICKS)
    }

    fn end_tick(&mut self) {
        self.pump_releases();
        self.finish_handovers();
        self.early_votes.expire(self.env.now);
        if self.ticks.is_multiple_of(QUARANTINE_TICKS) {
            self.quarantine.ask_others(&mut self.env);
        }
    }

    /// Ticks the next peers that are awake. A hundred thousand take a while, and what other stores and this one's liveness
    /// wait for comes in between: else a store that is busy with ticks would count as dead, and waking all that it leads
    /// would keep all others as busy.
    fn tick_some(&mut self) {
        let Some(from) = self.ticking else { return };
        let (most, is_slow) = (self.env.shared.config.turn_messages_max, self.is_slow_tick());
        let Self { peers, awake, env, touched, .. } = self;
        let (mut count, mut last, mut asleep) = (0, from, Vec::new());
        if awake.len() == peers.len() {
            // Nobody sleeps: a walk is cheaper than as many look-ups.
            for (id, peer) in peers.whole_from(from).take(most) {
                (count, last) = (count + 1, *id);
                if !tick_peer(peer, is_slow, env, touched) {
                    asleep.push(*id);
                }
            }
        } else {
            for id in awake.range(from..).take(most) {
                (count, last) = (count + 1, *id);
                if peers.get(id).is_none_or(|peer| !tick_peer(peer, is_slow, env, touched)) {
                    asleep.push(*id);
                }
            }
        }
        self.ticking = (count == most).then(|| RegionId(last.0 + 1));
        for id in asleep {
            self.awake.remove(&id);
            self.peers.fell_asleep(id);
        }
        if self.ticking.is_none() {
            self.end_tick();
        }
    }

    /// Carries out transfers whose heirs have taken too long.
    fn finish_handovers(&mut self) {
        let now = self.env.now;
        let late = |(region, handover): (&RegionId, &Handover)| (now >= handover.until).then_some(*region);
        let late: Vec<RegionId> = self.env.handovers.iter().filter_map(late).collect();
        for region in late {
            if let Some(handover) = self.env.handovers.remove(&region)
                && let Some((peer, _)) = self.touch(region)
            {
                peer.finish_transfer(&handover);
            }
        }
    }

    fn drive_touched(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            if let Some(peer) = self.peers.get(&id) {
                peer.drive(&mut self.env);
                peer.look_for_damage();
                if peer.phase == Phase::Stopped {
                    self.end_in_quarantine(id);
                }
            }
        }
        self.touched = touched;
    }

    /// Keeps the entries in memory within the store's budget. Regions give up in turn, first what no follower that lives
    /// lacks, then everything that can be read from `log`.
    fn shed_entries(&mut self) {
        let bytes_max = self.env.shared.config.entry_cache_bytes;
        for needed_too in [false, true] {
            for _ in 0..self.env.cached.len().min(SHED_MAX) {
                if self.env.shared.cached_bytes.load(Ordering::Relaxed) <= bytes_max {
                    return;
                }
                let Some(id) = self.env.cached.pop_front() else { return };
                if self.peers.shed_entries(&id, needed_too) {
                    self.env.cached.push_back(id);
                }
            }
        }
    }

    fn end_in_quarantine(&mut self, id: RegionId) {
        let Some(mut peer) = self.take_away(&id) else { return };
        peer.end_in_quarantine(&mut self.env);
        self.env.shared.ranges.lock().unreserve(id);
        let damage = peer.damage.take().map_or(Damage::Record("state"), |damage| *damage);
        let peers = vec![peer.info().id];
        self.quarantine(Bad { id, region: Some(peer.region.clone()), peers, damage });
    }
}

/// A message for a peer that is here.
fn deliver(peer: &mut Peer, from: PeerInfo, epoch: RegionEpoch, raft: pb::RaftMessage, env: &mut Env) {
    let region = peer.id();
    if is_without(&peer.region, epoch.conf_ver, from.id) {
        // It was removed and does not know: it would campaign for ever (trap T20).
        return peer.tell_removed(from, env);
    }
    let range = KeyRange { start: raft.start_key, end: raft.end_key };
    let Some(message) = raft.message.and_then(wire::message_from_wire) else { return };
    if peer.phase == Phase::Uninitialised && !is_vote(message.kind) {
        let space = if raft.meta_space { Space::Meta } else { Space::User };
        if env.shared.ranges.lock().is_anothers(space, &range, region) {
            // The range is still another region's here, or its snapshot is arriving: a split on its way will bring this peer
            // to life. Answering an append would only ask for a needless snapshot.
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
        let mut left = self.env.shared.config.turn_messages_max;
        while left > 0 {
            let Some(message) = self.mailbox.pop() else { break };
            left = left.saturating_sub(message.weight().max(1));
            self.handle(message);
        }
        if now >= self.next_tick && self.ticking.is_none() {
            // A late tick is one tick, not a burst: slow timers are safe, fast ones are not.
            self.next_tick = now.plus_ms(self.env.shared.config.tick_ms);
            self.begin_tick();
        }
        self.tick_some();
        self.hear_some();
        self.resume_in_turn();
        self.drive_touched();
        self.shed_entries();
        self.env.outbox.flush(now);
        self.env.hand_over();
        self.peers.pack_loose();
        self.env.shared.prove(&mut self.proven);
        let has_begun = self.ticking.is_some() || self.has_news() || self.env.flow.has_turns();
        has_begun || !self.mailbox.is_empty()
    }

    fn has_messages(&self) -> bool {
        !self.mailbox.is_empty()
    }

    /// Peers that somebody waits for or that wait for room to send, removed ones whose log is not gone, and votes for ones
    /// that are not born.
    fn held(&self) -> usize {
        let is_asked = |peer: &Peer| !peer.writes.is_idle() || !peer.reads.is_idle();
        let asked = self.peers.whole().filter(|peer| is_asked(peer)).count();
        asked + self.env.flow.waiting() + self.dead.len() + self.early_votes.len()
    }

    fn deadline(&self) -> Time {
        self.env.outbox.deadline().map_or(self.next_tick, |held| held.min(self.next_tick))
    }

    fn wait(&mut self, timeout: Duration) {
        self.mailbox.wait(timeout);
    }
}
