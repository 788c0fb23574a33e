//! Commands that change a region itself, one operation a file: check, propose, apply, take notice.

pub(crate) mod check;
pub(crate) mod membership;
pub(crate) mod merge;
pub(crate) mod split;
pub(crate) mod transfer;

use crate::error::RequestError;
use crate::msg::{AdminCommand, AdminRequest};
use crate::peer::Peer;
use crate::worker::Env;

impl Peer {
    /// Takes an administrative command from a caller.
    pub(crate) fn admin(&mut self, request: AdminRequest, env: &mut Env) {
        if !self.is_leader() {
            return (request.done)(Err(self.not_leader()));
        }
        if !self.has_applied_own_term() {
            return (request.done)(Err(RequestError::Refused("the leader is new: try again")));
        }
        if request.epoch.is_some_and(|epoch| epoch != self.region.epoch) {
            return (request.done)(Err(self.epoch_not_match()));
        }
        if self.is_prepared() {
            return (request.done)(Err(RequestError::Merging(self.id())));
        }
        match request.command {
            AdminCommand::Split { keys } => self.propose_split(keys, request.done, env),
            AdminCommand::TransferLeader(to) => {
                let known =
                    self.region.peer(to).is_some_and(|p| p.role != flotilla_region::PeerRole::Learner);
                if !known {
                    return (request.done)(Err(RequestError::Refused("not a voter of the region")));
                }
                self.transfer(to, env);
                (request.done)(Ok(vec![(*self.region).clone()]));
            }
            AdminCommand::ChangePeers(changes) => self.propose_change(&changes, request.done, env),
            AdminCommand::Merge(source) => self.propose_merge(*source, request.done, env),
            AdminCommand::LeaveJoint => self.propose_leave(request.done, env),
        }
    }
}
