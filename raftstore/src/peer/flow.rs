//! A leader's part in what is under way to each store: which meters count it, and what it does when it is its turn.

use flotilla_region::StoreId;

use super::Peer;
use crate::shared::Counters;
use crate::worker::Env;

impl Peer {
    /// Leading, or with other members than before: what is sent to each follower counts where it goes to.
    pub(crate) fn join_flow(&mut self, env: &mut Env) {
        for to in self.region.peers.iter().filter(|to| to.id != self.me.id) {
            let shared = &env.shared;
            let meter = env.flow.meter(to.store, |made| shared.meters.lock().push((to.store, made.clone())));
            self.node.set_meter(to.id, meter);
        }
    }

    /// It leads no more, or takes part in nothing: what was under way keeps nobody waiting.
    pub(crate) fn leave_flow(&mut self) {
        for to in self.region.peers.iter() {
            self.node.set_meter(to.id, None);
        }
    }

    /// End of a turn: waits for room where entries were held back.
    pub(crate) fn wait_for_room(&mut self, env: &mut Env) {
        if !self.node.take_held_back() {
            return;
        }
        for (id, _) in self.node.progress_iter().filter(|(_, progress)| progress.is_held_back()) {
            let Some(to) = self.region.peer(id) else { continue };
            if env.flow.wait(to.store, self.region.id) {
                Counters::add(&env.shared.counters.appends_held_back, 1);
            }
        }
    }

    /// Its turn to send to a store. True if it has more to send, and must wait again.
    pub(crate) fn resume(&mut self, store: StoreId) -> bool {
        let may_send = self.is_leader() && !self.rest.is_asleep;
        let to = self.region.peer_on(store).filter(|_| may_send).map(|to| to.id);
        to.is_some_and(|to| self.node.resume(to))
    }

    /// Before it sleeps: nothing is under way to followers that answer, and what is to others is lost.
    pub(crate) fn give_up_unanswered(&mut self) {
        let unanswered =
            self.node.progress_iter().filter(|(_, p)| !p.inflights.is_empty() || p.is_held_back());
        let unanswered: Vec<_> = unanswered.map(|(id, _)| id).collect();
        unanswered.into_iter().for_each(|id| self.node.report_unreachable(id));
    }
}
