//! The worker's part in store liveness: who is awake, who is bound to whom, and who must be told that a leadership ended.

use std::collections::{BTreeMap, VecDeque};

use flotilla_region::{Peer as PeerInfo, PeerId, RegionId, StoreId, Term};

use super::RaftWorker;
use crate::outbox::raft_message;
use crate::peer::fortify::Release;
use crate::time::Time;
use crate::wire::pb;
use crate::wire::pb::FortifyKind;

/// Regions that a worker wakes per tick at most: when a store dies, those that it led are elected anew within a few
/// seconds, and not all at once.
const WAKE_MAX: usize = 400;
/// A release is repeated after so long.
const RELEASE_AGAIN_MS: u64 = 500;

/// Regions to wake, and releases under way.
#[derive(Default)]
pub(super) struct Unrest {
    waking: VecDeque<RegionId>,
    /// What sleeping leaders have to hear, in order.
    hearing: VecDeque<Hearing>,
    /// With the time at which each is repeated.
    releases: BTreeMap<(RegionId, PeerId), (Time, Release)>,
}

/// Another store supports this one in an epoch, or does no more; leaders from a region on do not know it yet.
#[derive(Clone, Copy)]
struct Hearing {
    store: StoreId,
    held: Option<u64>,
    from: RegionId,
}

impl RaftWorker {
    /// This store does, or does no more, support another one.
    pub(super) fn on_supporting(&mut self, store: StoreId, epoch: u64, is_held: bool) {
        if is_held {
            self.env.supporting.insert(store, epoch);
            return;
        }
        if self.env.supporting.get(&store) == Some(&epoch) {
            self.env.supporting.remove(&store);
        }
        let freed = self.env.bound_to.remove(&store).unwrap_or_default();
        self.unrest.waking.extend(freed);
        self.wake_some();
    }

    /// Another store does, or does no more, support this one. Leaders with a follower there have work if it does: the
    /// follower's promise was one of an earlier epoch; and if it does not, those that have lost their quorum.
    pub(super) fn on_support(&mut self, store: StoreId, is_held: bool) {
        let support = self.env.shared.supports.of(store).filter(|_| is_held);
        if is_held && support.is_none() {
            return;
        }
        let held = support.map(|support| support.epoch);
        self.unrest.hearing.push_back(Hearing { store, held, from: RegionId::ZERO });
    }

    /// Tells the next sleeping leaders what became of another store's support.
    pub(super) fn hear_some(&mut self) {
        let Some(Hearing { store, held, from }) = self.unrest.hearing.front().copied() else { return };
        let (led, next) = self.peers.asleep_beside(store, from, self.env.shared.config.turn_messages_max);
        for id in led {
            let Some(peer) = self.peers.get(&id) else { continue };
            peer.hear_of(store, held.is_some(), &mut self.env);
            if peer.is_concerned(store, held, &self.env) {
                self.unrest.waking.push_back(id);
            }
            // Not all of them whole at the same time.
            self.peers.pack(id);
        }
        match next {
            Some(next) => self.unrest.hearing[0].from = next,
            None => {
                self.unrest.hearing.pop_front();
                self.wake_some();
            }
        }
    }

    /// Whether sleeping leaders are still to hear of something.
    pub(super) fn has_news(&self) -> bool {
        !self.unrest.hearing.is_empty()
    }

    /// Wakes the next regions that wait for it.
    pub(super) fn wake_some(&mut self) {
        for _ in 0..WAKE_MAX {
            let Some(id) = self.unrest.waking.pop_front() else { return };
            if let Some((peer, env)) = self.touch(id) {
                peer.settle_promise(env);
            }
        }
    }

    /// Looks at sleeping leaders of which placement must hear more.
    pub(super) fn look_at_some(&mut self) {
        for _ in 0..WAKE_MAX {
            let Some((at, id)) = self.env.looks.first().copied().filter(|(at, _)| *at <= self.env.now) else {
                return;
            };
            self.env.looks.remove(&(at, id));
            if let Some(peer) = self.peers.get(&id) {
                peer.look(at, &mut self.env);
            }
        }
    }

    /// What peers of one region say about promises and sleep.
    pub(super) fn on_fortification(
        &mut self,
        region: RegionId,
        from: PeerInfo,
        to: PeerInfo,
        note: &pb::Fortification,
    ) {
        let term = Term(note.term);
        let found = self.touch(region).filter(|(peer, _)| peer.info().id == to.id);
        match (FortifyKind::try_from(note.kind), found) {
            (Ok(FortifyKind::Fortify), Some((peer, env))) => peer.on_fortify(from, note, env),
            (Ok(FortifyKind::Fortified), Some((peer, env))) => peer.on_fortified(from, note, env),
            (Ok(FortifyKind::Wake), Some((peer, env))) => peer.on_wake(from, term, env),
            (Ok(FortifyKind::Rest), Some((peer, env))) => peer.on_rest(from, note, env),
            (Ok(FortifyKind::Rested), Some((peer, _))) => peer.on_rested(from.id, note),
            (Ok(FortifyKind::Defortify), found) => {
                if let Some((peer, env)) = found {
                    peer.on_defortify(from, term, env);
                }
                self.reply(FortifyKind::Defortified, region, to, from, note);
            }
            (Ok(FortifyKind::Defortified), _) => {
                let key = (region, from.id);
                if self.unrest.releases.get(&key).is_some_and(|(_, release)| release.term <= term) {
                    self.unrest.releases.remove(&key);
                }
            }
            // A peer that is gone leads in no term.
            (Ok(FortifyKind::Wake | FortifyKind::Fortified), None) => {
                self.reply(FortifyKind::Defortify, region, to, from, note);
            }
            _ => {}
        }
    }

    fn reply(
        &mut self,
        kind: FortifyKind,
        region: RegionId,
        me: PeerInfo,
        to: PeerInfo,
        note: &pb::Fortification,
    ) {
        let region = flotilla_region::Region { id: region, ..Default::default() };
        let note = pb::Fortification { kind: kind as i32, ..*note };
        self.env.post_note(&region, me, to, note);
    }

    /// Takes over what peers want repeated, and repeats what is due: to stores that support this one now, for no other is
    /// bound by a promise. One that comes back still is; one that was removed for good never does.
    pub(super) fn pump_releases(&mut self) {
        for release in std::mem::take(&mut self.env.releases) {
            let key = (release.region.id, release.to.id);
            self.unrest.releases.insert(key, (self.env.now, release));
        }
        let env = &mut self.env;
        self.unrest.releases.retain(|_, (at, release)| {
            let (store, shared) = (release.to.store, env.shared.clone());
            let is_over = shared.supports.of(store).is_none_or(|s| s.epoch != release.epoch);
            if is_over || env.now < *at {
                return !is_over;
            }
            *at = env.now.plus_ms(RELEASE_AGAIN_MS);
            if shared.supports.held_by(store, env.now).is_some() {
                let note = pb::Fortification {
                    kind: FortifyKind::Defortify as i32,
                    term: release.term.0,
                    epoch: release.epoch,
                    index: 0,
                };
                let mut message = raft_message(&release.region, release.from, release.to, None, false);
                message.fortification = Some(note);
                env.outbox.push(release.to.store, message);
            }
            !shared.directory.read().is_removed(store)
        });
    }
}
