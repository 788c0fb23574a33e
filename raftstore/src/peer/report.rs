//! What others are told about a peer: placement of led regions, operators of all.

use std::collections::BTreeMap;

use flotilla_region::{Index, PeerId};

use super::Peer;
use crate::msg::PeerStatus;
use crate::placement::{LedRegion, PlacementMsg};
use crate::time::Time;
use crate::worker::Env;

/// What placement was told, and what the leader remembers for what it tells next.
#[derive(Default)]
pub(crate) struct Reported {
    /// The last report, if the region is led here.
    led: Option<LedRegion>,
    /// Peers that do not answer, since when.
    silent: BTreeMap<PeerId, Time>,
}

impl Reported {
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
        let others = self.node.progress_iter().filter(|(id, _)| *id != me).map(|(id, p)| (id, p.is_alive()));
        let down = self.reported.listen(others, env.now, env.shared.config.peer_down_ms);
        let report = LedRegion {
            region: self.region.clone(),
            leader: self.me,
            term: self.node.term(),
            pending: self.pending_peers(),
            down,
        };
        if self.reported.led.as_ref() != Some(&report) {
            self.reported.led = Some(report.clone());
            env.shared.links.placement.send(PlacementMsg::Led(report));
        }
    }

    /// What there is to know about the peer.
    pub(crate) fn status(&self) -> PeerStatus {
        let matched = if self.is_leader() {
            self.node
                .progress_iter()
                .filter(|(id, _)| *id != self.me.id)
                .map(|(id, p)| (id, p.matched))
                .collect()
        } else {
            Vec::new()
        };
        PeerStatus {
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
        }
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

    #[test]
    fn a_silent_peer_is_down_after_the_limit_and_its_silence_is_told_by_doubling() {
        let mut reported = Reported::default();
        let mut listen = |seconds: u64, is_alive: bool| {
            let peers = [(PeerId(1), true), (PeerId(2), is_alive)];
            reported.listen(peers.into_iter(), Time(seconds * 1_000_000), 10_000)
        };
        assert_eq!(listen(100, false), []);
        assert_eq!(listen(109, false), [], "not for long enough");
        let told: Vec<u64> = (110..200).flat_map(|s| listen(s, false)).map(|(_, seconds)| seconds).collect();
        let (mut steps, count) = (told.clone(), told.len());
        steps.dedup();
        assert_eq!((steps, count), (vec![10, 20, 40, 80], 90));
        assert_eq!(listen(200, true), []);
        assert_eq!(listen(201, false), [], "from the beginning");
    }
}
