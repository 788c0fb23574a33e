//! Regions that are out of service on this store because what it has of them is damaged.
//!
//! Such a region steps no messages, serves nothing and keeps its key range; the store reports it, placement replaces
//! its peer from the others, and its end comes as that of any removed peer: with a tombstone. What is wrong is written
//! down in `data`, so that a restart does not bring a replica back that is known to be wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::WriteBatch;
use flotilla_region::{Peer as PeerInfo, PeerId, Region, RegionEpoch, RegionId, keys};

use crate::admin::merge::{MergeState, Retire, is_merge_over};
use crate::background::BackgroundMsg;
use crate::codec::{get_bytes, get_u64, put_bytes, put_u64};
use crate::error::{Damage, Quarantined};
use crate::msg::{Applied, ApplyMsg, CreatePeer, Effect, Incarnation, RaftMsg};
use crate::shared::Counters;
use crate::worker::{Env, ask_others};

/// What is known of a damaged region.
pub(crate) struct Bad {
    pub id: RegionId,
    /// Its descriptor, if that can be read. Otherwise its key range is not kept from others.
    pub region: Option<Arc<Region>>,
    /// The peer here; several if only the log tells, none if nothing does.
    pub peers: Vec<PeerId>,
    pub damage: Damage,
}

struct Entry {
    region: Option<Arc<Region>>,
    peers: Vec<PeerId>,
    /// The removal under way.
    closing: Option<Incarnation>,
    /// The region is part of another one, which had this version then: others say so.
    told: Option<(RegionId, u64)>,
    /// That one waits until nothing is applied here any more.
    retiring: Option<(Incarnation, RegionId)>,
}

/// The damaged regions of one raft worker.
#[derive(Default)]
pub(crate) struct Quarantine {
    entries: BTreeMap<RegionId, Entry>,
}

/// Serialised note in `data`: {peer u64, reason}.
pub(crate) fn encode_note(peer: PeerId, why: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_u64(&mut out, peer.0);
    put_bytes(&mut out, why.as_bytes());
    out
}

/// Reads a note; `None` if it is none.
pub(crate) fn decode_note(mut data: Bytes) -> Option<(PeerId, String)> {
    let peer = PeerId(get_u64(&mut data)?);
    let why = get_bytes(&mut data)?;
    Some((peer, String::from_utf8_lossy(&why).into_owned()))
}

impl Quarantine {
    /// Whether a region is in here.
    pub(crate) fn has(&self, id: RegionId) -> bool {
        self.entries.contains_key(&id)
    }

    /// Takes a region out of service.
    pub(crate) fn add(&mut self, bad: Bad, env: &mut Env) {
        let Bad { id, region, peers, damage } = bad;
        let peer = peers.first().copied().unwrap_or_default();
        tracing::error!(region = id.0, peer = peer.0, why = %damage, "region is damaged: out of service on this store");
        Counters::add(&env.shared.counters.regions_quarantined, 1);
        if let Some(region) = &region {
            let merge = env.shared.engine.get(&keys::merge_state(id)).ok().flatten();
            let mut ranges = env.shared.ranges.lock();
            ranges.take(region);
            if let Some(MergeState::Prepared(prepared)) = merge.and_then(MergeState::decode) {
                ranges.doom(id, prepared.target);
            }
        }
        let why = damage.to_string();
        // Without a descriptor, the note is of whoever that names, should it be readable again after a restart.
        let noted = if region.is_some() { peer } else { PeerId::ZERO };
        let is_nobodys = region.is_some() && peer.is_zero();
        if !is_nobodys && !matches!(damage, Damage::Command(_)) {
            let mut batch = WriteBatch::new();
            batch.put(&keys::quarantine(id), &encode_note(noted, &why));
            if let Err(error) = env.shared.engine.write(&batch) {
                return env.shared.fail(&error.into());
            }
            env.shared.links.background.send(BackgroundMsg::Checkpoint(Box::new(|| {})));
        }
        self.entries.insert(id, Entry { region, peers, closing: None, told: None, retiring: None });
        self.publish(id, &why, env);
    }

    /// Lets the store's reports say it.
    fn publish(&self, id: RegionId, why: &str, env: &Env) {
        let Some(entry) = self.entries.get(&id) else { return };
        let unknown = [PeerId::ZERO];
        let peers = if entry.peers.is_empty() { &unknown[..] } else { &entry.peers };
        let list = peers.iter().map(|peer| Quarantined { region: id, peer: *peer, why: why.to_owned() });
        env.shared.quarantine.lock().insert(id, list.collect());
    }

    /// A message for the region. One for another peer of a newer membership says that the peer here was removed.
    pub(crate) fn on_message(&mut self, id: RegionId, to: PeerInfo, epoch: RegionEpoch, env: &mut Env) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.peers.is_empty() {
            entry.peers.push(to.id);
            let known = env.shared.quarantine.lock().get(&id).and_then(|list| list.first().cloned());
            let why = known.map(|known| known.why).unwrap_or_default();
            return self.publish(id, &why, env);
        }
        let conf_ver = entry.region.as_ref().map_or(0, |region| region.epoch.conf_ver);
        if !entry.peers.contains(&to.id) && conf_ver < epoch.conf_ver {
            self.close(id, RegionEpoch::default(), env);
        }
    }

    /// The group says that the peer here was removed.
    pub(crate) fn on_tombstone(&mut self, id: RegionId, me: PeerInfo, epoch: RegionEpoch, env: &mut Env) {
        let Some(entry) = self.entries.get(&id) else { return };
        let is_mine = entry.peers.is_empty() || entry.peers.contains(&me.id);
        let is_listed = entry
            .region
            .as_ref()
            .is_some_and(|region| epoch.conf_ver <= region.epoch.conf_ver && region.peer(me.id).is_some());
        if is_mine && !is_listed {
            self.close(id, epoch, env);
        }
    }

    /// Removes what is here of the region, with a tombstone of its own epoch, or of `epoch` if that is not known.
    fn close(&mut self, id: RegionId, epoch: RegionEpoch, env: &mut Env) {
        let incarnation = env.next_incarnation();
        // One that a target is about to take over ends with that.
        let may_close = |entry: &&mut Entry| entry.closing.is_none() && entry.retiring.is_none();
        let Some(entry) = self.entries.get_mut(&id).filter(may_close) else { return };
        entry.closing = Some(incarnation);
        let peer = entry.peers.first().copied().unwrap_or_default();
        let descriptor = match &entry.region {
            Some(region) => {
                env.apply(id, ApplyMsg::Claim { region: region.clone(), peer, incarnation });
                region.clone()
            }
            None => Arc::new(Region { id, epoch, ..Region::default() }),
        };
        let merged = entry.told;
        env.apply(id, ApplyMsg::Destroy { descriptor, peer, incarnation, merged, early: false });
    }

    /// The removal is written. Returns the peers whose logs may go once that is durable.
    pub(crate) fn on_destroyed(&mut self, id: RegionId, incarnation: Incarnation, env: &Env) -> Vec<PeerId> {
        if self.entries.get(&id).is_none_or(|entry| entry.closing != Some(incarnation)) {
            return Vec::new();
        }
        tracing::info!(region = id.0, "damaged region is removed from this store");
        env.shared.quarantine.lock().remove(&id);
        self.entries.remove(&id).map(|entry| entry.peers).unwrap_or_default()
    }

    /// What the region's applier did before it learned of the end: a split still gives birth to its children.
    pub(crate) fn on_applied(&mut self, mut applied: Applied, env: &mut Env) {
        applied.effects.iter_mut().for_each(Effect::answer);
        let Some(entry) = self.entries.get_mut(&applied.region) else { return };
        for effect in applied.effects {
            match effect {
                Effect::Split { regions, .. } => {
                    env.shared.ranges.lock().split(&regions);
                    for region in regions {
                        if region.id == applied.region {
                            entry.region = Some(region);
                        } else {
                            let create = CreatePeer { region, campaign: false };
                            env.tell(create.region.id, RaftMsg::Create(Box::new(create)));
                        }
                    }
                }
                Effect::Membership { region, .. } => entry.region = Some(region),
                Effect::Prepared { region, .. } | Effect::Voided { region } => {
                    entry.region = Some(Arc::new(region));
                }
                Effect::Merged { region, source } => {
                    let region = Arc::new(region);
                    {
                        let mut ranges = env.shared.ranges.lock();
                        ranges.release(source.id);
                        ranges.take(&region);
                    }
                    entry.region = Some(region);
                    if let Some(peer) = source.peer_on(env.shared.origin.store) {
                        let gone = RaftMsg::Merged { region: source.id, peer: peer.id };
                        env.tell(source.id, gone);
                    }
                }
                Effect::MembershipRefused { .. } | Effect::Expecting { .. } | Effect::RolledBack => {}
            }
        }
    }

    /// A target on this store needs a damaged source to be applied up to its end, which it will never be: the target has
    /// to come back from another store too, and its snapshot takes the place of both.
    pub(crate) fn on_retire(&mut self, retire: &Retire, env: &mut Env) {
        let Retire { source, target, commit, .. } = retire;
        if !self.has(*source) {
            return;
        }
        if commit.is_some() {
            env.shared.ranges.lock().doom(*source, *target);
            let damage = Damage::Record("source of a merge");
            env.tell(*target, RaftMsg::Damaged { region: *target, peer: PeerId::ZERO, damage });
            return;
        }
        let is_doomed = env.shared.ranges.lock().is_doomed(*source, *target);
        let incarnation = env.next_incarnation();
        let entry = self.entries.get_mut(source).filter(|entry| is_doomed && entry.closing.is_none());
        if let Some(entry) = entry {
            entry.retiring = Some((incarnation, *target));
            env.apply(*source, ApplyMsg::Retire { region: *source, incarnation });
        }
    }

    /// What was under way when the region was taken out of service is applied, and all of it has returned.
    pub(crate) fn on_quiet(&mut self, source: RegionId, incarnation: Incarnation, env: &mut Env) {
        let retiring = self.entries.get(&source).and_then(|entry| entry.retiring);
        if let Some((_, target)) = retiring.filter(|(asked, _)| *asked == incarnation) {
            env.tell(target, RaftMsg::Retired { target, source });
        }
    }

    /// The target's peer went away before it took this region over, or is past the merge without that.
    pub(crate) fn on_abandoned(&mut self, source: RegionId, target: RegionId, version: u64, env: &Env) {
        let Some(entry) = self.entries.get_mut(&source) else { return };
        if entry.retiring.is_some_and(|(_, by)| by == target) {
            entry.retiring = None;
            if version > 0 {
                self.on_told(source, None, (target, version), env);
            }
        }
    }

    /// Another store has seen the region become part of a target, which had that version then: so it says, to one peer. A
    /// snapshot of the target may take its place.
    pub(crate) fn on_told(&mut self, id: RegionId, to: Option<PeerId>, told: (RegionId, u64), env: &Env) {
        let is_mine = |entry: &&mut Entry| to.is_none_or(|peer| entry.peers.contains(&peer));
        let Some(entry) = self.entries.get_mut(&id).filter(is_mine) else { return };
        if entry.told.is_none_or(|(_, known)| known < told.1) {
            entry.told = Some(told);
            if entry.region.is_some() {
                env.shared.ranges.lock().doom(id, told.0);
            }
        }
    }

    /// The region became part of another one on this store's disk.
    pub(crate) fn on_merged(&mut self, id: RegionId, env: &Env) {
        if self.entries.remove(&id).is_some() {
            env.shared.quarantine.lock().remove(&id);
        }
    }

    /// Asks the others whether the damaged peers are still members: the word that they are not may have been lost. Those
    /// that are part of another region end as soon as that one is past the merge.
    pub(crate) fn ask_others(&mut self, env: &mut Env) {
        let mut gone = Vec::new();
        for (id, entry) in &self.entries {
            let (Some(region), Some(peer)) = (&entry.region, entry.peers.first()) else { continue };
            // A record of the target that cannot be read is that one's quarantine's to decide.
            let is_over =
                entry.told.is_some_and(|told| is_merge_over(region, false, told, env).unwrap_or(false));
            if is_over || env.shared.directory.read().has_left(region, *peer) {
                gone.push(*id);
                continue;
            }
            let store = env.shared.origin.store;
            let listed = region.peer(*peer).copied();
            let me = listed.unwrap_or(PeerInfo { id: *peer, store, ..PeerInfo::default() });
            let others = region.peers.iter().filter(|p| p.store != store).copied().collect();
            ask_others(region, me, others, env);
        }
        gone.into_iter().for_each(|id| self.close(id, RegionEpoch::default(), env));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_survives_encoding() {
        let note = encode_note(PeerId(7), "a block of 4 KiB");
        assert_eq!(decode_note(note.into()), Some((PeerId(7), "a block of 4 KiB".to_owned())));
        assert_eq!(decode_note(Bytes::from_static(b"short")), None);
    }
}
