//! Callers that wait for an answer, and the events that come to the loop.

use std::{collections::BTreeMap, net::SocketAddr};

use bytes::Bytes;
use flotilla_raft::{ConfChangeKind, Index, Message, PeerId, ReadState};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::machine::{Addresses, Machine, Operation, RequestId};

/// What comes to the loop.
#[derive(Debug)]
pub enum Event {
    /// Time passes.
    Tick,
    /// From another peer.
    Message(Message),
    /// Another peer opened a connection, and this is where it listens.
    Met(PeerId, SocketAddr),
    /// A message could not be delivered.
    Unreachable(PeerId),
    /// A snapshot was delivered, or not.
    SnapshotSent(PeerId, bool),
    /// From a client.
    Request(Request),
}

/// What a client wants.
#[derive(Debug)]
pub enum Request {
    /// The value of a key, as of now or later.
    Get(String, Reply<Option<Bytes>>),
    /// A change of a key.
    Write(String, Operation, Reply<()>),
    /// A peer to join as a learner.
    AddPeer(PeerId, Addresses, Reply<()>),
    /// A peer to leave.
    RemovePeer(PeerId, Reply<()>),
    /// How this peer stands.
    Status(Reply<Status>),
}

/// Where an answer goes. The caller may have gone.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Why a request was surely not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// An election is under way, or most of the group is out of reach. Try again.
    #[error("no leader is known, or it cannot take more; try again")]
    NoLeader,
    /// Only the leader changes the membership; it listens there.
    #[error("the leader is at {0}")]
    NotLeader(SocketAddr),
    /// This peer is no member any more.
    #[error("this peer was removed from the group")]
    Removed,
    /// The group changes one peer at a time.
    #[error("another membership change is under way; try again")]
    ChangePending,
    /// The peer to be added is there.
    #[error("the peer is a member already")]
    AlreadyMember,
    /// The peer to be added was there once.
    #[error("the id was used before; a peer that returns takes a new one")]
    UsedBefore,
    /// The peer to be removed is not there.
    #[error("the peer is not a member")]
    NotMember,
    /// The last voter cannot leave, and ids have bounds.
    #[error("the group cannot make this change")]
    Impossible,
}

/// How a peer stands, as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Own id.
    pub id: u64,
    /// `Leader`, `Follower`, `Candidate`, `PreCandidate`.
    pub role: String,
    /// Known leader; 0 = none.
    pub leader: u64,
    /// Current term.
    pub term: u64,
    /// Commit index.
    pub commit: u64,
    /// Applied index.
    pub applied: u64,
    /// First and last index of the log.
    pub log: (u64, u64),
    /// Index of the last snapshot; 0 = none.
    pub snapshot: u64,
    /// Snapshots that came from leaders since the process started.
    pub snapshots_received: u64,
    /// Members.
    pub members: Vec<Member>,
}

/// A member of the group, as JSON.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Whether it votes; otherwise it is a learner.
    pub is_voter: bool,
    /// Where it listens for peers.
    pub raft: SocketAddr,
    /// Where it listens for clients.
    pub http: SocketAddr,
}

/// A read that waits: the key, and who wants it.
type Get = (String, Reply<Option<Bytes>>);

/// Everyone who waits at this peer.
///
/// A write waits until its entry is applied here. Reads that arrive together share one ReadIndex round; they wait
/// until the round is confirmed, and then until its index is applied. A round may be lost with a leader, or for want
/// of one, so unconfirmed ones are asked for again: that is safe, as each answer is at least as new as the question.
#[derive(Debug)]
pub struct Requests {
    session: u64,
    sequence: u64,
    writes: BTreeMap<RequestId, Reply<()>>,
    arrived: Vec<Get>,
    rounds: BTreeMap<RequestId, Vec<Get>>,
    confirmed: Vec<(Index, Vec<Get>)>,
}

impl Requests {
    /// Nobody waits yet. `session` must differ from that of every earlier life: a late answer to a request of an
    /// earlier life must not be taken for an answer to one of this life.
    pub fn new(session: u64) -> Self {
        Self {
            session,
            sequence: 0,
            writes: BTreeMap::new(),
            arrived: Vec::new(),
            rounds: BTreeMap::new(),
            confirmed: Vec::new(),
        }
    }

    /// A name for a new request.
    pub fn next_id(&mut self) -> RequestId {
        self.sequence += 1;
        RequestId { session: self.session, sequence: self.sequence }
    }

    /// `reply` waits for the entry that carries `request`.
    pub fn await_applied(&mut self, request: RequestId, reply: Reply<()>) {
        self.writes.insert(request, reply);
    }

    /// The entry that carries `request` is applied; nothing happens if its caller is elsewhere.
    pub fn on_applied(&mut self, request: RequestId) {
        if let Some(reply) = self.writes.remove(&request) {
            // A caller that has gone needs no answer, here and below.
            let _ = reply.send(Ok(()));
        }
    }

    /// A read has arrived.
    pub fn on_get(&mut self, key: String, reply: Reply<Option<Bytes>>) {
        self.arrived.push((key, reply));
    }

    /// The round for the reads that have arrived since the last one, if any has.
    pub fn start_round(&mut self) -> Option<RequestId> {
        if self.arrived.is_empty() {
            return None;
        }
        let round = self.next_id();
        self.rounds.insert(round, std::mem::take(&mut self.arrived));
        Some(round)
    }

    /// Rounds that are not confirmed.
    pub fn open_rounds(&self) -> Vec<RequestId> {
        self.rounds.keys().copied().collect()
    }

    /// The core has confirmed a round, of this life or an earlier one.
    pub fn on_read_state(&mut self, state: ReadState) {
        let round = RequestId::decode(state.context).ok();
        if let Some(reads) = round.and_then(|round| self.rounds.remove(&round)) {
            self.confirmed.push((state.index, reads));
        }
    }

    /// Answers the reads whose index is applied.
    pub fn answer_reads(&mut self, machine: &Machine) {
        for (_, reads) in self.confirmed.extract_if(.., |(index, _)| *index <= machine.applied) {
            for (key, reply) in reads {
                let _ = reply.send(Ok(machine.values.get(&key).cloned()));
            }
        }
    }

    /// Forgets callers that have gone.
    pub fn forget_the_gone(&mut self) {
        self.writes.retain(|_, reply| !reply.is_closed());
        for reads in self.rounds.values_mut() {
            reads.retain(|(_, reply)| !reply.is_closed());
        }
        self.rounds.retain(|_, reads| !reads.is_empty());
    }
}

/// Whether a client may ask for this change of `machine`'s members.
///
/// # Errors
/// Why not.
pub fn check_change(machine: &Machine, kind: ConfChangeKind, peer: PeerId) -> Result<(), Refusal> {
    let is_member = machine.members.contains_key(&peer);
    match kind {
        ConfChangeKind::RemovePeer if !is_member => Err(Refusal::NotMember),
        ConfChangeKind::RemovePeer => Ok(()),
        _ if is_member => Err(Refusal::AlreadyMember),
        _ if machine.removed.contains(&peer) => Err(Refusal::UsedBefore),
        _ if peer.is_zero() || peer.is_storage_thread() => Err(Refusal::Impossible),
        _ => Ok(()),
    }
}
