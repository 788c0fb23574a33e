//! Peers that were removed and may not know it: the leader tells them until they have acknowledged it, or they ask, and
//! whoever can prove it tells them.
//!
//! Proof is one thing only: a later membership of the region, of a higher `conf_ver`, without that peer. Every
//! `conf_ver` of a region stands for one membership, and an id that left one is in none that follows.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_region::{Peer as PeerInfo, PeerId, Region, RegionEpoch, RegionId, keys};

use super::{Env, RaftWorker, rouse};
use crate::outbox::raft_message;
use crate::peer::Phase;
use crate::peer::log::PeerLog;
use crate::state::{RegionState, is_without};
use crate::time::Time;
use crate::wire::pb::merge_message::Message as MergeNews;
use crate::wire::{self, pb};

impl RaftWorker {
    /// A peer that has heard of no leader for long may be none any more: the others are asked, and what placement has
    /// told this store of the region.
    pub(super) fn ask_about_stale_peers(&mut self) {
        let (now, limit) = (self.env.now, self.env.shared.config.stale_peer_ms);
        let mut gone = Vec::new();
        for id in &self.awake {
            let Some(peer) = self.peers.get(id) else { continue };
            if peer.leaderless_since.is_none_or(|since| now.ms_since(since) < limit) {
                continue;
            }
            peer.leaderless_since = Some(now);
            if self.env.shared.directory.read().has_left(&peer.region, peer.info().id) {
                gone.push(*id);
            } else {
                ask_others(&peer.region, peer.info(), peer.others(), &mut self.env);
            }
        }
        for id in gone {
            tracing::info!(region = id.0, "peer ends: placement knows a later membership without it");
            self.close(id);
        }
    }

    /// A peer asks, or shows, that it does not know whether it is still a member. Silence is the answer to whoever is, or
    /// may be.
    pub(super) fn on_question(&mut self, id: RegionId, from: PeerInfo, to: PeerInfo, epoch: RegionEpoch) {
        let asker = Region { id, epoch, ..Region::default() };
        let here = self.peers.get(&id).map(|peer| {
            if peer.info().id == to.id {
                // A leader that sleeps has lost sight of it.
                rouse(peer, &mut self.env, &mut self.awake, &mut self.recent);
                peer.touch(&mut self.touched);
            }
            peer.region.clone()
        });
        if let Some(region) = here.as_ref().filter(|region| is_without(region, epoch.conf_ver, from.id)) {
            return self.tell_removed(region.clone(), from, to);
        }
        if here.is_none() && self.answer_by_tombstone(id, from, to, epoch) {
            return;
        }
        let later = {
            let directory = self.env.shared.directory.read();
            directory.has_left(&asker, from.id).then(|| directory.routes.by_id(id).cloned()).flatten()
        };
        if let Some(info) = later {
            self.tell_removed(info.region, from, to);
        }
    }

    fn tell_removed(&mut self, region: Arc<Region>, gone: PeerInfo, me: PeerInfo) {
        let mut answer = raft_message(&region, me, gone, None, false);
        answer.is_tombstone = true;
        self.env.outbox.push(gone.store, answer);
    }

    /// A message for a region that this store has seen end, here or altogether: its sender may have missed that.
    pub(super) fn answer_by_tombstone(
        &mut self,
        id: RegionId,
        from: PeerInfo,
        to: PeerInfo,
        epoch: RegionEpoch,
    ) -> bool {
        let stored = self.env.shared.engine.get(&keys::region_state(id)).ok().flatten();
        let Some(RegionState::Tombstone { epoch: last, merged, members, .. }) =
            stored.and_then(RegionState::decode)
        else {
            return false;
        };
        let gone = Region { id, epoch: last, ..Region::default() };
        let mut answer = raft_message(&gone, to, from, None, false);
        answer.is_tombstone = true;
        // Who is not among the last ones is not needed for the merge either.
        let is_without = epoch.conf_ver < last.conf_ver && !members.is_empty() && !members.contains(&from.id);
        match merged {
            _ if is_without => {}
            Some(merged) => {
                let (target, version) = self.end_of_merges(merged);
                let merged = pb::MergedInto { target: target.0, version };
                answer.merge = wire::merge_to_wire(MergeNews::MergedInto(merged));
            }
            None => return false,
        }
        self.env.outbox.push(from.store, answer);
        true
    }

    /// Where the keys of a merged region went, as far as this store has seen: its target may have become part of another
    /// one since.
    fn end_of_merges(&self, (mut target, mut version): (RegionId, u64)) -> (RegionId, u64) {
        let record = |id| self.env.shared.engine.get(&keys::region_state(id)).ok().flatten();
        while let Some(RegionState::Tombstone { merged: Some((next, later)), .. }) =
            record(target).and_then(RegionState::decode)
            && later > version
        {
            (target, version) = (next, later);
        }
        (target, version)
    }

    /// The group says that the peer here was removed.
    pub(super) fn on_tombstone(&mut self, id: RegionId, from: PeerInfo, me: PeerInfo, epoch: RegionEpoch) {
        if self.quarantine.has(id) {
            return self.quarantine.on_tombstone(id, me, epoch, &mut self.env);
        }
        if let Some(peer) = self.peers.get(&id).filter(|peer| peer.info().id == me.id) {
            let listed = peer.phase != Phase::Uninitialised && epoch.conf_ver <= peer.region.epoch.conf_ver;
            if !listed {
                self.close(id);
            }
            return;
        }
        // Until its end is durable a crash may bring it back, as may the replay of a split if it has a log.
        let has_log = || PeerLog::has_entries(&*self.env.shared.engine, id, me.id).unwrap_or(true);
        if !self.dead.contains(&(id, me.id)) && !has_log() {
            let gone = Region { id, epoch, ..Region::default() };
            let mut answer = raft_message(&gone, me, from, None, false);
            answer.is_gone = true;
            self.env.outbox.push(from.store, answer);
        }
    }

    /// Repeats what removed peers have not acknowledged. Nobody has to be awake for it.
    pub(super) fn pump_farewells(&mut self) {
        let Self { farewells, peers, env, .. } = self;
        for (region, gone) in std::mem::take(&mut env.removed) {
            farewells.begin(region, gone, env.now);
        }
        let now = env.now;
        farewells.waiting.retain(|(id, _), farewell| {
            let Some(peer) = peers.get(id).filter(|peer| !peer.phase.is_over()) else { return false };
            let shared = env.shared.clone();
            let config = &shared.config;
            if !peer.is_leader() {
                // Whoever leads has it too. Later leaders leave it to the peer's own questions.
                return now.ms_since(farewell.since) < FAREWELL_KEPT * config.stale_peer_ms;
            }
            let directory = shared.directory.read();
            let store = farewell.gone.store;
            if directory.is_removed(store) {
                return false;
            }
            let heard = directory.last_heard.get(&store);
            let is_silent = heard.is_none_or(|at| now.ms_since(*at) >= config.peer_down_ms);
            if !is_silent && farewell.is_due(now, config.stale_peer_ms) {
                peer.tell_removed(farewell.gone, env);
            }
            true
        });
    }
}

/// Pause before the first repetition; each one is twice as long, up to `stale_peer_ms`.
const FAREWELL_AGAIN_MS: u64 = 1_000;
/// Peers that do not lead remember removed ones for so many times `stale_peer_ms`.
const FAREWELL_KEPT: u64 = 4;

/// Peers that were removed from regions here and have not acknowledged it. Every replica that applies a removal has it,
/// so that it outlives the leader; it is not on disk, for a peer that nobody tells asks by itself.
#[derive(Default)]
pub(super) struct Farewells {
    waiting: BTreeMap<(RegionId, PeerId), Farewell>,
}

struct Farewell {
    gone: PeerInfo,
    since: Time,
    again: Time,
    pause_ms: u64,
}

impl Farewells {
    fn begin(&mut self, region: RegionId, gone: PeerInfo, now: Time) {
        let pause_ms = FAREWELL_AGAIN_MS;
        let farewell = Farewell { gone, since: now, again: now.plus_ms(pause_ms), pause_ms };
        self.waiting.insert((region, gone.id), farewell);
    }

    /// The peer is gone.
    pub(super) fn end(&mut self, region: RegionId, gone: PeerId) {
        self.waiting.remove(&(region, gone));
    }
}

impl Farewell {
    fn is_due(&mut self, now: Time, pause_ms_max: u64) -> bool {
        let is_due = now >= self.again;
        if is_due {
            self.pause_ms = (2 * self.pause_ms).min(pause_ms_max.max(FAREWELL_AGAIN_MS));
            self.again = now.plus_ms(self.pause_ms);
        }
        is_due
    }
}

/// Asks `others`, as whom the peer `me` knows the rest of the region, whether it is still a member; and all stores, if the
/// region seems to have become part of another one: it may have moved away from those others before.
pub(crate) fn ask_others(region: &Region, me: PeerInfo, mut others: Vec<PeerInfo>, env: &mut Env) {
    {
        let directory = env.shared.directory.read();
        if directory.seems_merged(region) {
            let unasked = directory.stores.keys().filter(|store| **store != me.store);
            let unasked = unasked.filter(|store| others.iter().all(|other| other.store != **store));
            let somebody = unasked.map(|store| PeerInfo { store: *store, ..PeerInfo::default() });
            let somebody: Vec<PeerInfo> = somebody.collect();
            others.extend(somebody);
        }
    }
    for other in others {
        let mut question = raft_message(region, me, other, None, false);
        question.check_stale = true;
        env.outbox.push(other.store, question);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_farewell_is_repeated_ever_more_rarely_until_it_is_acknowledged() {
        let mut farewells = Farewells::default();
        let gone = PeerInfo { id: PeerId(7), ..PeerInfo::default() };
        farewells.begin(RegionId(1), gone, Time::default());
        let farewell = farewells.waiting.values_mut().next().expect("one");
        let due = (0..60).filter(|s| farewell.is_due(Time::default().plus_ms(s * 1_000), 8_000));
        assert_eq!(due.collect::<Vec<_>>(), [1, 3, 7, 15, 23, 31, 39, 47, 55]);
        farewells.end(RegionId(2), PeerId(7));
        assert_eq!(farewells.waiting.len(), 1);
        farewells.end(RegionId(1), PeerId(7));
        assert!(farewells.waiting.is_empty());
    }
}
