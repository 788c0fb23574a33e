//! What others are told about a peer: placement of led regions, operators of all.

use flotilla_region::{Index, PeerId};

use super::Peer;
use crate::msg::PeerStatus;
use crate::placement::{LedRegion, PlacementMsg};
use crate::worker::Env;

impl Peer {
    /// Tells placement, and so clients, that the region began or ceased to be led here or changed its shape.
    pub(super) fn report(&mut self, env: &mut Env) {
        let led = self.has_applied_own_term();
        let is_news = match &self.reported {
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
            if self.reported.take().is_some() {
                env.shared.links.placement.send(PlacementMsg::NotLed(self.id()));
            }
            return;
        }
        let report = LedRegion {
            region: self.region.clone(),
            leader: self.me,
            term: self.node.term(),
            pending: self.pending_peers(),
        };
        if self.reported.as_ref() != Some(&report) {
            self.reported = Some(report.clone());
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
