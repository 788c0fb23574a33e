//! A single peer that is fed by hand, and a network of peers that settles by itself.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flotilla_raft::{
    ConfChange, ConfChangeKind, ConfChangeV2, ConfState, Config, Entry, EntryKind, Extra, HardState, Index,
    MemStorage, Message, MessageKind as Kind, PeerId, RawNode, ReadState, Ready, Role, Snapshot,
    SnapshotMeta, StepError, Storage, Term,
};

pub const ELECTION_TICKS: usize = 10;

/// Peer ids.
pub fn ids(list: &[u64]) -> Vec<PeerId> {
    list.iter().copied().map(PeerId).collect()
}

pub fn config(id: u64) -> Config {
    Config { election_ticks: ELECTION_TICKS, seed: 7, ..Config::new(PeerId(id)) }
}

/// A membership of plain voters and learners.
pub fn members(voters: &[u64], learners: &[u64]) -> ConfState {
    ConfState { voters: ids(voters), learners: ids(learners), ..ConfState::default() }
}

/// Entries from `from` on with the given terms.
pub fn entries(from: u64, terms: &[u64]) -> Vec<Entry> {
    let entry = |(position, term): (usize, &u64)| Entry {
        index: Index(from + position as u64),
        term: Term(*term),
        ..Entry::default()
    };
    terms.iter().enumerate().map(entry).collect()
}

pub fn snapshot(index: u64, term: u64, conf_state: ConfState) -> Snapshot {
    let meta = SnapshotMeta { index: Index(index), term: Term(term), conf_state };
    Snapshot { meta, data: Bytes::from_static(b"state") }
}

/// A storage with entries of the given terms, in the last entry's term.
pub fn storage(conf_state: ConfState, terms: &[u64]) -> MemStorage {
    let mut storage = MemStorage::with_conf_state(conf_state);
    storage.append(&mut entries(1, terms));
    if let Some(term) = terms.last() {
        storage.set_hard_state(HardState { term: Term(*term), ..HardState::default() });
    }
    storage
}

/// A message with the fields that all have.
pub fn message(kind: Kind, from: u64, term: u64) -> Message {
    Message { kind, from: PeerId(from), term: Term(term), ..Message::default() }
}

/// An append after (`index`, `log_term`).
pub fn append(from: u64, term: u64, (index, log_term): (u64, u64), terms: &[u64], commit: u64) -> Message {
    Message {
        index: Index(index),
        log_term: Term(log_term),
        entries: entries(index + 1, terms),
        commit: Index(commit),
        ..message(Kind::Append, from, term)
    }
}

pub fn ack(from: u64, term: u64, index: u64) -> Message {
    Message { index: Index(index), ..message(Kind::AppendResponse, from, term) }
}

pub fn refusal(from: u64, term: u64, index: u64, (hint, hint_term): (u64, u64)) -> Message {
    let extra = Extra { reject_hint: Index(hint), ..Extra::default() }.boxed();
    Message { reject: true, extra, log_term: Term(hint_term), ..ack(from, term, index) }
}

pub fn heartbeat(from: u64, term: u64, commit: u64) -> Message {
    Message { commit: Index(commit), ..message(Kind::Heartbeat, from, term) }
}

/// A vote request for a log that ends at (`index`, `log_term`).
pub fn vote(kind: Kind, from: u64, term: u64, (index, log_term): (u64, u64)) -> Message {
    Message { index: Index(index), log_term: Term(log_term), ..message(kind, from, term) }
}

pub fn snapshot_message(from: u64, term: u64, snapshot: Snapshot) -> Message {
    Message { snapshot: Some(Box::new(snapshot)), ..message(Kind::Snapshot, from, term) }
}

pub fn of_kind(messages: &[Message], kind: Kind) -> Vec<&Message> {
    messages.iter().filter(|message| message.kind == kind).collect()
}

/// One peer whose work is done at once.
pub struct Peer {
    pub raw: RawNode<MemStorage>,
    pub applied: Vec<Entry>,
    pub reads: Vec<ReadState>,
}

impl Peer {
    pub fn new(config: &Config, storage: MemStorage) -> Self {
        let raw = RawNode::new(config, storage).expect("valid configuration and storage");
        Self { raw, applied: Vec::new(), reads: Vec::new() }
    }

    /// A follower of voters 1, 2, 3 with entries of the given terms.
    pub fn follower(id: u64, terms: &[u64]) -> Self {
        Self::new(&config(id), storage(members(&[1, 2, 3], &[]), terms))
    }

    /// A leader of `voters` in the next term, its first entry stored here but acknowledged by nobody else.
    pub fn leader(config: &Config, storage: MemStorage) -> Self {
        let mut peer = Self::new(config, storage);
        peer.win();
        peer
    }

    /// Campaigns and gets every vote, pre-votes too.
    pub fn win(&mut self) {
        self.raw.campaign().expect("never refused");
        let mut messages = self.work();
        while self.raw.role() != Role::Leader {
            let (requested, kind) = match self.raw.role() {
                Role::PreCandidate => (Kind::PreVote, Kind::PreVoteResponse),
                _ => (Kind::Vote, Kind::VoteResponse),
            };
            let requests: Vec<Message> = of_kind(&messages, requested).into_iter().cloned().collect();
            assert!(!requests.is_empty(), "nobody to ask: {:?}", self.raw.status());
            for request in requests {
                self.step(message(kind, request.to.0, request.term.0));
            }
            messages = self.work();
        }
        self.work();
    }

    pub fn step(&mut self, message: Message) {
        self.raw.step(message).expect("a message that is taken");
    }

    pub fn refused(&mut self, message: Message) -> StepError {
        self.raw.step(message).expect_err("a message that is refused")
    }

    /// Steps a message and does the resulting work. Returns what is sent.
    pub fn exchange(&mut self, message: Message) -> Vec<Message> {
        self.step(message);
        self.work()
    }

    pub fn propose(&mut self, data: &'static str) -> Result<(), StepError> {
        self.raw.propose(Bytes::from_static(data.as_bytes()))
    }

    pub fn tick(&mut self, ticks: usize) {
        for _ in 0..ticks {
            self.raw.tick();
        }
    }

    /// Does all work there is. Returns what is sent.
    pub fn work(&mut self) -> Vec<Message> {
        let mut sent = Vec::new();
        while self.raw.has_ready() {
            let ready = self.raw.ready();
            sent.extend(self.handle(ready));
            self.raw.advance();
            self.raw.check_invariants();
        }
        sent
    }

    /// Stores and applies; does not advance.
    pub fn handle(&mut self, mut ready: Ready) -> Vec<Message> {
        let storage = self.raw.storage_mut();
        if let Some(snapshot) = ready.snapshot {
            storage.apply_snapshot(*snapshot).expect("newer than the stored one");
        }
        storage.append(&mut ready.entries);
        if let Some(hard_state) = ready.hard_state {
            storage.set_hard_state(hard_state);
        }
        self.reads.extend(ready.read_states);
        for entry in ready.committed_entries {
            let change = match entry.kind {
                EntryKind::Normal => None,
                EntryKind::ConfChange => {
                    Some(ConfChange::decode(&entry.data).expect("well encoded").into_v2())
                }
                EntryKind::ConfChangeV2 => Some(ConfChangeV2::decode(&entry.data).expect("well encoded")),
            };
            if let Some(change) = change {
                self.raw.apply_conf_change(&change);
            }
            self.applied.push(entry);
        }
        ready.messages
    }

    /// The peer after a restart from its storage, nothing applied.
    pub fn restart(self, config: &Config) -> Self {
        Self::new(config, self.raw.storage().clone())
    }

    /// Terms of the whole log.
    pub fn terms(&self) -> Vec<u64> {
        let (first, last) = (self.raw.first_index().0, self.raw.last_index().0);
        (first..=last).map(|index| self.raw.term_at(Index(index)).expect("within the log").0).collect()
    }

    /// (match, next) of a peer.
    pub fn progress(&self, id: u64) -> (u64, u64) {
        let progress = self.raw.progress(PeerId(id)).expect("a member");
        (progress.matched.0, progress.next.0)
    }

    /// Payloads applied, empty ones left out.
    pub fn applied_data(&self) -> Vec<Bytes> {
        self.applied.iter().map(|entry| entry.data.clone()).filter(|data| !data.is_empty()).collect()
    }
}

/// Peers with a network that delivers in order until nothing is left.
#[derive(Default)]
pub struct Network {
    pub peers: BTreeMap<PeerId, Peer>,
    /// Directions that lose everything.
    pub cut: BTreeSet<(PeerId, PeerId)>,
    /// Kinds that are lost.
    pub ignored: Vec<Kind>,
    /// Under way.
    pub messages: Vec<Message>,
}

impl Network {
    /// Voters 1..=n with empty logs.
    pub fn new(voters: u64) -> Self {
        Self::with(voters, |_| {})
    }

    /// Voters 1..=n, configurations changed by `change`.
    pub fn with(voters: u64, change: impl Fn(&mut Config)) -> Self {
        let all: Vec<u64> = (1..=voters).collect();
        let mut network = Self::default();
        for id in &all {
            let mut config = config(*id);
            change(&mut config);
            network.add(*id, Peer::new(&config, storage(members(&all, &[]), &[])));
        }
        network
    }

    pub fn add(&mut self, id: u64, peer: Peer) {
        self.peers.insert(PeerId(id), peer);
    }

    pub fn peer(&mut self, id: u64) -> &mut Peer {
        self.peers.get_mut(&PeerId(id)).expect("a peer of the network")
    }

    pub fn raw(&mut self, id: u64) -> &mut RawNode<MemStorage> {
        &mut self.peer(id).raw
    }

    /// Cuts one peer off from all others.
    pub fn isolate(&mut self, id: u64) {
        for other in self.peers.keys().copied().filter(|other| *other != PeerId(id)) {
            self.cut.insert((PeerId(id), other));
            self.cut.insert((other, PeerId(id)));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
        self.ignored.clear();
    }

    /// Works and delivers until nothing is left to do.
    pub fn settle(&mut self) {
        loop {
            for peer in self.peers.values_mut() {
                self.messages.extend(peer.work());
            }
            if self.messages.is_empty() {
                return;
            }
            for message in std::mem::take(&mut self.messages) {
                let is_lost =
                    self.cut.contains(&(message.from, message.to)) || self.ignored.contains(&message.kind);
                if let Some(peer) = self.peers.get_mut(&message.to).filter(|_| !is_lost) {
                    // Dropped proposals and answers of removed peers are no failure of the network.
                    let _ = peer.raw.step(message);
                }
            }
        }
    }

    pub fn campaign(&mut self, id: u64) {
        self.raw(id).campaign().expect("never refused");
        self.settle();
    }

    pub fn propose(&mut self, id: u64, data: &'static str) -> Result<(), StepError> {
        let proposed = self.peer(id).propose(data);
        self.settle();
        proposed
    }

    pub fn tick(&mut self, id: u64, ticks: usize) {
        for _ in 0..ticks {
            self.raw(id).tick();
            self.settle();
        }
    }

    pub fn change(&mut self, id: u64, kind: ConfChangeKind, peer: u64) {
        let change = ConfChange { kind, peer: PeerId(peer), context: Bytes::new() };
        self.raw(id).propose_conf_change(change).expect("a leader or its follower");
        self.settle();
    }

    pub fn roles(&self) -> Vec<Role> {
        self.peers.values().map(|peer| peer.raw.role()).collect()
    }

    pub fn terms(&self) -> Vec<u64> {
        self.peers.values().map(|peer| peer.raw.term().0).collect()
    }

    pub fn commits(&self) -> Vec<u64> {
        self.peers.values().map(|peer| peer.raw.commit().0).collect()
    }
}

/// Last index as a storage has it.
pub fn stored_last(storage: &MemStorage) -> Index {
    storage.last_index().expect("in memory")
}
