//! Consistency check: every replica hashes its region as of one position of the log, and the leader compares.
//!
//! An entry names the position. The apply worker ends its round with it and takes a view of `data` there, which the
//! background worker hashes at leisure. The digest of most replicas is right; a replica that has another one goes out
//! of service and is replaced. (CockroachDB's consistency queue and TiKV's ComputeHash do the same in two steps; here
//! the odd one is told by a vote, so that it may be the leader.)

use std::collections::BTreeMap;

use flotilla_region::{Index, KeyRange, Peer as PeerInfo, PeerId, Region, RegionId, Term};

use crate::entry::{AdminCommand, encode_admin};
use crate::error::{Damage, RequestError};
use crate::msg::{Callers, Incarnation};
use crate::outbox::raft_message;
use crate::peer::Peer;
use crate::placement::PlacementMsg;
use crate::shared::Counters;
use crate::state::LogId;
use crate::time::Time;
use crate::wire::pb;
use crate::worker::Env;

/// A check for which some replica has not answered for so long is decided without it.
const ANSWER_MS: u64 = 30_000;

/// What a replica holds at one position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest {
    /// CRC-32 of descriptor, term and all keys and values in order.
    pub crc: u32,
    /// Number of keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// One replica's part in a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedReplica {
    /// The replica.
    pub peer: PeerInfo,
    /// What it holds; `None` = it did not answer in time.
    pub digest: Option<Digest>,
    /// It differs from most others and goes out of service.
    pub is_odd: bool,
}

/// Outcome of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckReport {
    /// The region as it was checked.
    pub region: RegionId,
    /// The position.
    pub index: Index,
    /// Its replicas.
    pub replicas: Vec<CheckedReplica>,
}

impl CheckReport {
    /// Whether replicas differ, no matter whether it is known which of them are wrong.
    pub fn differs(&self) -> bool {
        let mut digests = self.replicas.iter().filter_map(|replica| replica.digest);
        let first = digests.next();
        digests.any(|digest| Some(digest) != first)
    }
}

/// Told the outcome of a check.
pub type CheckDone = Box<dyn FnOnce(Result<CheckReport, RequestError>) + Send>;

/// A check that the leader has under way.
pub(crate) struct Check {
    at: LogId,
    began: Time,
    replicas: Vec<PeerInfo>,
    answers: BTreeMap<PeerId, Digest>,
    done: Vec<CheckDone>,
}

/// Begins a digest: descriptor and position belong to it.
pub(crate) fn digest_header(region: &Region, at: LogId) -> crc32fast::Hasher {
    let KeyRange { start, end } = &region.range;
    let mut hasher = crc32fast::Hasher::new();
    let mut number = |n: u64| hasher.update(&n.to_le_bytes());
    number(at.term.0);
    number(region.epoch.conf_ver);
    number(region.epoch.version);
    for peer in &region.peers {
        number(peer.id.0);
        number(peer.store.0);
        number(peer.role as u64);
    }
    for key in [start, end] {
        hasher.update(&(key.len() as u32).to_le_bytes());
        hasher.update(key);
    }
    hasher
}

/// The digest that most of the replicas that answered have; `None` if there is no such.
fn majority(answers: &BTreeMap<PeerId, Digest>) -> Option<Digest> {
    let mut counts: BTreeMap<Digest, usize> = BTreeMap::new();
    answers.values().for_each(|digest| *counts.entry(*digest).or_default() += 1);
    counts.into_iter().find(|(_, count)| 2 * count > answers.len()).map(|(digest, _)| digest)
}

impl Peer {
    /// Begins a check of a region led here, or joins the one under way.
    pub(crate) fn begin_check(&mut self, done: Option<CheckDone>, env: &mut Env) {
        let refuse = |done: Option<CheckDone>, error: RequestError| {
            done.into_iter().for_each(|done| done(Err(error.clone())));
        };
        if !self.has_applied_own_term() {
            return refuse(done, self.not_leader());
        }
        if let Some(check) = &mut self.check {
            return check.done.extend(done);
        }
        if self.split_in_flight() {
            return refuse(done, RequestError::Refused("a split is under way"));
        }
        if self.is_in_merge() {
            return refuse(done, RequestError::Merging(self.id()));
        }
        self.propose_gathered(env);
        let data = encode_admin(self.region.epoch, &AdminCommand::Check);
        if self.propose(data, Callers::Admin(Box::new(|_| {})), env.now).is_err() {
            return refuse(done, RequestError::Stale);
        }
        self.check = Some(Box::new(Check {
            at: LogId { index: self.node.last_index(), term: self.node.term() },
            began: env.now,
            replicas: self.region.peers.clone(),
            answers: BTreeMap::new(),
            done: done.into_iter().collect(),
        }));
    }

    /// The digest of this replica is ready.
    pub(crate) fn on_digest(&mut self, at: LogId, digest: Result<Digest, String>, env: &mut Env) {
        let digest = match digest {
            Ok(digest) => digest,
            Err(why) => return self.condemn(Damage::Bytes(why)),
        };
        if self.is_leader() {
            return self.on_answer(self.me.id, at, digest, env);
        }
        let Some(leader) = self.leader() else { return };
        self.tell(leader, at, digest, false, env);
    }

    /// Another replica has a digest, or the leader's verdict on this one's.
    pub(crate) fn on_check_message(&mut self, from: PeerId, message: &pb::CheckMessage, env: &mut Env) {
        if self.region.peer(from).is_none() {
            return;
        }
        let at = LogId { index: Index(message.index), term: Term(message.term) };
        if message.is_odd {
            self.condemn(Damage::Odd(at.index));
        } else if self.is_leader() {
            let digest = Digest { crc: message.crc, keys: message.keys, bytes: message.bytes };
            self.on_answer(from, at, digest, env);
        }
    }

    fn tell(&mut self, to: PeerInfo, at: LogId, digest: Digest, is_odd: bool, env: &mut Env) {
        let mut message = raft_message(&self.region, self.me, to, None, false);
        let Digest { crc, keys, bytes } = digest;
        let (index, term) = (at.index.0, at.term.0);
        message.check = Some(pb::CheckMessage { index, term, crc, keys, bytes, is_odd });
        env.outbox.push(to.store, message);
    }

    fn on_answer(&mut self, from: PeerId, at: LogId, digest: Digest, env: &mut Env) {
        let Some(check) = self.check.as_mut().filter(|check| check.at == at) else { return };
        check.answers.insert(from, digest);
        if check.replicas.iter().all(|peer| check.answers.contains_key(&peer.id)) {
            self.judge(env);
        }
    }

    /// Slow time: a check that waits for a replica too long is decided without it.
    pub(crate) fn tick_check(&mut self, env: &mut Env) {
        let is_due = |check: &Check| env.now.ms_since(check.began) >= ANSWER_MS;
        if self.check.as_deref().is_some_and(is_due) {
            self.judge(env);
        }
    }

    /// Gives the check up: whoever leads next makes another one.
    pub(crate) fn give_check_up(&mut self) {
        if let Some(check) = self.check.take() {
            check.done.into_iter().for_each(|done| done(Err(RequestError::Stale)));
        }
    }

    fn judge(&mut self, env: &mut Env) {
        let Some(check) = self.check.take() else { return };
        let Check { at, replicas, answers, done, .. } = *check;
        let right = majority(&answers);
        let is_odd = |id: PeerId| answers.get(&id).is_some_and(|digest| right.is_some_and(|r| r != *digest));
        let checked = |peer: &PeerInfo| CheckedReplica {
            peer: *peer,
            digest: answers.get(&peer.id).copied(),
            is_odd: is_odd(peer.id),
        };
        let replicas = replicas.iter().map(checked).collect();
        let report = CheckReport { region: self.id(), index: at.index, replicas };
        Counters::add(&env.shared.counters.consistency_checks, 1);
        if let Some(own) = answers.get(&self.me.id) {
            env.shared.links.placement.send(PlacementMsg::Keys(self.id(), own.keys));
        }
        if report.differs() {
            Counters::add(&env.shared.counters.inconsistencies, 1);
            tracing::error!(region = self.id().0, ?report, "replicas of a region differ");
        }
        for odd in report.replicas.iter().filter(|replica| replica.is_odd) {
            let (peer, store) = (odd.peer.id.0, odd.peer.store.0);
            tracing::error!(region = self.id().0, peer, store, index = at.index.0, "the odd replica");
            if odd.peer.id == self.me.id {
                self.condemn(Damage::Odd(at.index));
            } else {
                self.tell(odd.peer, at, Digest::default(), true, env);
            }
        }
        if self.node.last_index() == at.index {
            self.rest_soon(env);
        }
        done.into_iter().for_each(|done| done(Ok(report.clone())));
    }
}

/// A view of one region at the position of a check, to be hashed.
pub(crate) struct DigestTask {
    pub region: std::sync::Arc<Region>,
    pub incarnation: Incarnation,
    pub at: LogId,
    pub view: std::sync::Arc<dyn flotilla_engine::EngineSnapshot>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(crcs: &[u32]) -> BTreeMap<PeerId, Digest> {
        let digest = |crc: &u32| Digest { crc: *crc, ..Digest::default() };
        crcs.iter().enumerate().map(|(i, crc)| (PeerId(i as u64 + 1), digest(crc))).collect()
    }

    #[test]
    fn only_a_true_majority_is_right() {
        let right = |crcs: &[u32]| majority(&answers(crcs)).map(|digest| digest.crc);
        assert_eq!(right(&[7, 7, 7]), Some(7));
        assert_eq!(right(&[7, 8, 7]), Some(7));
        assert_eq!(right(&[7, 8]), None);
        assert_eq!(right(&[7, 8, 9]), None);
        assert_eq!(right(&[7, 7, 8, 8]), None);
        assert_eq!(right(&[7]), Some(7));
        assert_eq!(right(&[]), None);
    }
}
