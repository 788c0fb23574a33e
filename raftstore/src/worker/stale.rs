//! Peers that were removed and may not know it: they ask, and whoever can prove it tells them.
//!
//! Proof is one thing only: a later membership of the region, of a higher `conf_ver`, without that peer. Every
//! `conf_ver` of a region stands for one membership, and an id that left one is in none that follows.

use std::sync::Arc;

use flotilla_region::{Peer as PeerInfo, Region, RegionEpoch, RegionId, keys};

use super::{Env, RaftWorker, rouse};
use crate::outbox::raft_message;
use crate::peer::Phase;
use crate::state::RegionState;
use crate::wire::pb::merge_message::Message as MergeNews;
use crate::wire::{self, pb};

impl RaftWorker {
    /// A peer that has heard of no leader for long may be none any more: the others are asked, and what placement has
    /// told this store of the region.
    pub(super) fn ask_about_stale_peers(&mut self) {
        let (now, limit) = (self.env.now, self.env.shared.config.stale_peer_ms);
        let mut gone = Vec::new();
        for id in &self.awake {
            let Some(peer) = self.peers.get_mut(id) else { continue };
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
        let here = self.peers.get_mut(&id).map(|peer| {
            if peer.info().id == to.id {
                // A leader that sleeps has lost sight of it.
                rouse(peer, &mut self.env, &mut self.awake, &mut self.recent);
                peer.touch(&mut self.touched);
            }
            (peer.phase, peer.region.clone())
        });
        let live =
            here.as_ref().filter(|(phase, _)| *phase != Phase::Uninitialised).map(|(_, region)| region);
        if live.is_some_and(|region| is_without(region, &asker, from)) {
            return self.tell_removed(live.cloned().unwrap_or_default(), from, to);
        }
        if here.is_none() && self.answer_by_tombstone(id, from, to, epoch) {
            return;
        }
        let later = {
            let directory = self.env.shared.directory.read();
            directory.has_left(&asker, from.id).then(|| directory.routes.by_id(id).cloned()).flatten()
        };
        if let Some(info) = later {
            self.tell_removed(Arc::new(info.region), from, to);
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
            Some((target, version)) => {
                let merged = pb::MergedInto { target: target.0, version };
                answer.merge = wire::merge_to_wire(MergeNews::MergedInto(merged));
            }
            None => return false,
        }
        self.env.outbox.push(from.store, answer);
        true
    }

    /// The group says that the peer here was removed.
    pub(super) fn on_tombstone(&mut self, region: RegionId, me: PeerInfo, epoch: RegionEpoch) {
        let Some(peer) = self.peers.get(&region) else {
            return self.quarantine.on_tombstone(region, me, epoch, &mut self.env);
        };
        let listed = peer.phase != Phase::Uninitialised && epoch.conf_ver <= peer.region.epoch.conf_ver;
        if peer.info().id == me.id && !listed {
            self.close(region);
        }
    }
}

/// Whether `known` is a later membership than the asker's, and without it.
fn is_without(known: &Region, asker: &Region, from: PeerInfo) -> bool {
    asker.epoch.conf_ver < known.epoch.conf_ver && known.peer(from.id).is_none()
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
