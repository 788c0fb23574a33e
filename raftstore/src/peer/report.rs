//! What others are told about a peer: placement of led regions, operators of all.

use std::collections::BTreeMap;

use flotilla_region::{Index, PeerId, StoreId};

use super::{Peer, Phase};
use crate::msg::PeerStatus;
use crate::placement::{LedRegion, PlacementMsg};
use crate::time::Time;
use crate::worker::Env;

/// What placement was told, and what the leader remembers for what it tells next.
#[derive(Default)]
pub(crate) struct Reported {
    /// The last report, if the region is led here.
    led: Option<Box<LedRegion>>,
    /// Peers that do not answer, since when.
    silent: BTreeMap<PeerId, Time>,
}

impl Reported {
    /// Whether placement knows nothing.
    pub(crate) fn is_blank(&self) -> bool {
        self.led.is_none() && self.silent.is_empty()
    }

    /// Takes over which peers answer. Returns those that have not for `limit_ms` or longer, with seconds that grow by
    /// doubling, so that a long silence is no news every second.
    fn listen(
        &mut self,
        peers: impl Iterator<Item = (PeerId, bool)>,
        now: Time,
        limit_ms: u64,
    ) -> Vec<(PeerId, u64)> {
        let mut silent = BTreeMap::new();
        let mut down = Vec::new();
        for (peer, _) in peers.filter(|(_, is_alive)| !is_alive) {
            let since = self.silent.get(&peer).copied().unwrap_or(now);
            silent.insert(peer, since);
            if let Some(ms) = doubled(now.ms_since(since), limit_ms.max(1)) {
                down.push((peer, ms / 1_000));
            }
        }
        self.silent = silent;
        down
    }
}

impl Reported {
    /// When there is more to tell of peers that do not answer; the next `listen` then finds it.
    fn next_news(&self, now: Time, limit_ms: u64) -> Option<Time> {
        let limit_ms = limit_ms.max(1);
        let next = |since: &Time| {
            let told_ms = doubled(now.ms_since(*since), limit_ms);
            since.plus_ms(told_ms.map_or(limit_ms, |ms| 2 * ms))
        };
        self.silent.values().map(next).min()
    }
}

/// The largest of `limit_ms`, twice that, four times that, ... up to `ms`.
fn doubled(ms: u64, limit_ms: u64) -> Option<u64> {
    let times = (ms / limit_ms).checked_ilog2()?;
    Some(limit_ms << times)
}

impl Peer {
    /// Tells placement, and so clients, that the region began or ceased to be led here or changed its shape.
    pub(super) fn report(&mut self, env: &mut Env) {
        let led = self.has_applied_own_term();
        let is_news = match &self.reported.led {
            Some(known) => !led || known.term != self.node.term() || known.region.epoch != self.region.epoch,
            None => led,
        };
        if is_news {
            self.report_in_full(env);
        }
    }

    /// Tells placement whatever it does not know about the region.
    pub(crate) fn report_in_full(&mut self, env: &mut Env) {
        if !self.has_applied_own_term() {
            self.reported.silent.clear();
            if self.reported.led.take().is_some() {
                env.shared.links.placement.send(PlacementMsg::NotLed(self.id()));
            }
            return;
        }
        let me = self.me.id;
        // Nobody says anything to a leader that sleeps, but their stores to this one.
        let has_store = |id| {
            self.region.peer(id).is_some_and(|p| env.shared.supports.held_by(p.store, env.now).is_some())
        };
        let is_asleep = self.rest.is_asleep;
        let is_alive = |id, heard: bool| if is_asleep { has_store(id) } else { heard };
        let others = self
            .node
            .progress_iter()
            .filter(|(id, _)| *id != me)
            .map(|(id, p)| (id, is_alive(id, p.is_alive())));
        let down = self.reported.listen(others, env.now, env.shared.config.peer_down_ms);
        let report = LedRegion {
            region: self.region.clone(),
            leader: self.me,
            term: self.node.term(),
            pending: self.pending_peers(),
            down,
        };
        if self.reported.led.as_deref() != Some(&report) {
            self.reported.led = Some(Box::new(report.clone()));
            env.shared.links.placement.send(PlacementMsg::Led(report));
        }
    }

    /// Another store began or ceased to support this one: a leader that sleeps knows by it whether its peer there lives.
    pub(crate) fn hear_of(&mut self, store: StoreId, is_held: bool, env: &mut Env) {
        let Some(peer) = self.region.peer_on(store).filter(|_| self.rest.is_asleep && self.is_leader())
        else {
            return;
        };
        if !is_held {
            self.reported.silent.entry(peer.id).or_insert(env.now);
        } else if self.reported.silent.contains_key(&peer.id) {
            self.report_in_full(env);
        } else {
            return;
        }
        self.plan_look(env);
    }

    /// Falling asleep, or asleep: has the worker look again when there is more to tell of peers that do not answer.
    pub(super) fn plan_look(&mut self, env: &mut Env) {
        self.rest.look_at = self.reported.next_news(env.now, env.shared.config.peer_down_ms);
        if let Some(at) = self.rest.look_at {
            env.looks.insert((at, self.region.id));
        }
    }

    /// The time that was planned has come.
    pub(crate) fn look(&mut self, planned: Time, env: &mut Env) {
        if self.rest.is_asleep && self.rest.look_at == Some(planned) {
            self.report_in_full(env);
            self.plan_look(env);
        }
    }

    /// What there is to know about the peer. Nothing once it is being removed: its disk may be ahead of what it knows.
    pub(crate) fn status(&self) -> Option<PeerStatus> {
        if self.phase == Phase::Closing {
            return None;
        }
        let matched = if self.is_leader() {
            self.node
                .progress_iter()
                .filter(|(id, _)| *id != self.me.id)
                .map(|(id, p)| (id, p.matched))
                .collect()
        } else {
            Vec::new()
        };
        Some(PeerStatus {
            region: self.region.clone(),
            peer: self.me,
            leader: self.node.leader(),
            term: self.node.term(),
            vote: self.node.hard_state().vote,
            is_leader: self.is_leader(),
            commit: self.node.commit(),
            applied: self.applied,
            last_index: self.node.last_index(),
            base: self.node.storage().base(),
            written_bytes: self.written_bytes,
            matched,
        })
    }

    /// Followers that need a snapshot or much log before they can help.
    pub(crate) fn pending_peers(&self) -> Vec<PeerId> {
        if !self.is_leader() {
            return Vec::new();
        }
        let behind = |matched: Index| matched.0 + 1_024 < self.node.commit().0 || matched < self.gc.base();
        let others = self.node.progress_iter().filter(|(id, _)| *id != self.me.id);
        others.filter(|(_, p)| behind(p.matched)).map(|(id, _)| id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listen(reported: &mut Reported, seconds: u64, is_alive: bool) -> Vec<(PeerId, u64)> {
        let peers = [(PeerId(1), true), (PeerId(2), is_alive)];
        reported.listen(peers.into_iter(), Time(seconds * 1_000_000), 10_000)
    }

    #[test]
    fn a_silent_peer_is_down_after_the_limit_and_its_silence_is_told_by_doubling() {
        let mut reported = Reported::default();
        let mut listen = |seconds, is_alive| listen(&mut reported, seconds, is_alive);
        assert_eq!(listen(100, false), []);
        assert_eq!(listen(109, false), [], "not for long enough");
        let told: Vec<u64> = (110..200).flat_map(|s| listen(s, false)).map(|(_, seconds)| seconds).collect();
        let (mut steps, count) = (told.clone(), told.len());
        steps.dedup();
        assert_eq!((steps, count), (vec![10, 20, 40, 80], 90));
        assert_eq!(listen(200, true), []);
        assert_eq!(listen(201, false), [], "from the beginning");
    }

    #[test]
    fn it_is_known_when_there_is_more_to_tell() {
        let mut reported = Reported::default();
        let next = |reported: &Reported, seconds: u64| reported.next_news(Time(seconds * 1_000_000), 10_000);
        assert_eq!(next(&reported, 100), None);
        listen(&mut reported, 100, false);
        for (now, seconds) in [(100, 10), (109, 10), (110, 20), (139, 40), (140, 80)] {
            assert_eq!(next(&reported, now), Some(Time((100 + seconds) * 1_000_000)));
        }
        listen(&mut reported, 150, true);
        assert_eq!(next(&reported, 150), None);
    }
}
