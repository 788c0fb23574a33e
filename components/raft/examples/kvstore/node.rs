//! The loop around the core: everything that happens to one peer happens here, one event after another.
//!
//! A turn takes the events that have come in ([`Node::on_event`]), then does what the core wants done
//! ([`Node::work`]) until it wants nothing more. Events that came in together share one write to the disk. The loop
//! knows no clock (ticks are events) and no sockets; it blocks on nothing but the disk.

use bytes::Bytes;
use flotilla_raft::{
    ConfChange, ConfChangeKind, ConfChangeV2, Config, ConfigError, Entry, EntryKind, Index, Message,
    MessageKind, PeerId, Progress, ProgressState, RawNode, Role, Snapshot, SoftState, StepError,
};
use tokio::sync::mpsc;

use crate::{
    machine::{Addresses, ChangeContext, Command, Machine, Operation},
    network::Network,
    requests::{Event, Member, Refusal, Reply, Request, Requests, Status, check_change},
    storage::DiskStorage,
    wal::WalError,
};

/// Events of one turn at most: a caller should not wait for all those behind him.
const TURN_EVENTS_MAX: usize = 256;
/// Ticks between two attempts to confirm a read.
const READ_RETRY_TICKS: u64 = 3;
/// Entries that a learner may lack and still be made a voter: less than comes in while that is decided.
const PROMOTION_LAG: u64 = 64;

/// What a peer is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Own id.
    pub id: PeerId,
    /// All members of a new group, this one included; empty for a peer that joins. Ignored by a peer that has a log.
    pub founders: Vec<(PeerId, Addresses)>,
    /// Entries between two snapshots.
    pub snapshot_entries: u64,
    /// A number that no other life of this peer had.
    pub session: u64,
}

/// Why a peer cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The disk fails.
    #[error("{0}")]
    Wal(#[from] WalError),
    /// What is stored contradicts itself.
    #[error("the stored state cannot be used: {0}")]
    Config(#[from] ConfigError),
    /// Its data cannot be read.
    #[error("the snapshot at index {0} was written by another version of this program")]
    Snapshot(Index),
    /// This disk lost what this peer has acknowledged.
    #[error(
        "this peer once acknowledged entries up to {commit} and has {last}: its disk lost data; \
         remove it from the group and let it join again under a new id, with an empty folder"
    )]
    LostData {
        /// What the leader counts on.
        commit: Index,
        /// Last entry that is there.
        last: Index,
    },
}

/// One peer: core, state machine, and who waits for either.
#[derive(Debug)]
pub struct Node {
    raft: RawNode<DiskStorage>,
    machine: Machine,
    network: Network,
    requests: Requests,
    snapshot_entries: u64,
    snapshots_received: u64,
    ticks: u64,
}

impl Node {
    /// The peer as its disk has it: the state machine is that of the last snapshot, and catches up as the core hands
    /// out the committed entries that follow.
    ///
    /// # Errors
    /// The stored state cannot be used.
    pub fn open(options: &Options, storage: DiskStorage, network: Network) -> Result<Self, NodeError> {
        let machine = restore(storage.last_snapshot())?;
        let config = Config {
            applied: machine.applied,
            // A peer that was cut off returns without forcing an election.
            pre_vote: true,
            // A leader that is cut off stops leading.
            check_quorum: true,
            // A leader may be removed, see the crate's "What the owner must keep to".
            step_down_on_removal: true,
            commit_fast_forward: true,
            // Clients that are faster than the disks are refused, instead of filling the memory.
            uncommitted_bytes_max: 64 << 20,
            committed_bytes_max: 4 << 20,
            inflight_messages_max: 64,
            ..Config::new(options.id)
        };
        let is_new = storage.is_empty();
        let mut raft = RawNode::new(&config, storage)?;
        if is_new && !options.founders.is_empty() {
            // The first entries of the log add the founders. Every founder writes the same ones.
            let context = |addresses| ChangeContext { addresses: Some(addresses), ..Default::default() };
            let founders = options.founders.iter().map(|(id, at)| (*id, context(*at).encode()));
            raft.bootstrap(&founders.collect::<Vec<_>>())?;
        }
        let requests = Requests::new(options.session);
        let snapshot_entries = options.snapshot_entries;
        let mut node =
            Self { raft, machine, network, requests, snapshot_entries, snapshots_received: 0, ticks: 0 };
        node.connect();
        Ok(node)
    }

    /// Runs until the inbox is closed.
    ///
    /// # Errors
    /// The peer cannot go on; the process must end.
    pub fn run(mut self, mut inbox: mpsc::Receiver<Event>) -> Result<(), NodeError> {
        self.work()?;
        while let Some(event) = inbox.blocking_recv() {
            self.on_event(event)?;
            for _ in 1..TURN_EVENTS_MAX {
                let Ok(event) = inbox.try_recv() else { break };
                self.on_event(event)?;
            }
            if let Some(round) = self.requests.start_round() {
                self.raft.read_index(round.encode().into());
            }
            self.work()?;
        }
        Ok(())
    }

    /// Step 1 of the loop: feed the core.
    fn on_event(&mut self, event: Event) -> Result<(), NodeError> {
        match event {
            Event::Tick => self.on_tick(),
            Event::Message(message) => return self.on_message(message),
            Event::Met(peer, address) => {
                // A peer that joins does not know yet who is a member, and answers those who speak to it.
                let is_known = self.machine.members.contains_key(&peer);
                if !is_known && !self.machine.removed.contains(&peer) {
                    self.network.connect(peer, address);
                }
            }
            Event::Unreachable(peer) => self.raft.report_unreachable(peer),
            Event::SnapshotSent(peer, ok) => self.raft.report_snapshot(peer, ok),
            Event::Request(request) => self.on_request(request),
        }
        Ok(())
    }

    fn on_tick(&mut self) {
        self.ticks += 1;
        self.raft.tick();
        self.requests.forget_the_gone();
        if self.ticks.is_multiple_of(READ_RETRY_TICKS) {
            for round in self.requests.open_rounds() {
                self.raft.read_index(round.encode().into());
            }
        }
        self.maybe_promote();
    }

    fn on_message(&mut self, message: Message) -> Result<(), NodeError> {
        match self.raft.step(message) {
            // The leader has an acknowledgement of ours for more than we have. To go on would be to forget a vote,
            // or an entry that others count as stored here.
            Err(StepError::CommitBeyondLog { commit, last }) => Err(NodeError::LostData { commit, last }),
            // Whatever else is wrong with a message concerns nobody but its sender.
            Err(_) | Ok(()) => Ok(()),
        }
    }

    fn on_request(&mut self, request: Request) {
        let is_removed = self.machine.removed.contains(&self.raft.id());
        match request {
            Request::Status(reply) => answer(reply, Ok(self.status())),
            Request::Get(_, reply) if is_removed => answer(reply, Err(Refusal::Removed)),
            Request::Get(key, reply) => self.requests.on_get(key, reply),
            Request::Write(_, _, reply) | Request::AddPeer(_, _, reply) | Request::RemovePeer(_, reply)
                if is_removed =>
            {
                answer(reply, Err(Refusal::Removed));
            }
            Request::Write(key, operation, reply) => self.on_write(key, operation, reply),
            // A newcomer learns first, so that its empty log weakens no majority; see `maybe_promote`.
            Request::AddPeer(peer, at, reply) => {
                self.on_change(ConfChangeKind::AddLearner, peer, Some(at), reply);
            }
            Request::RemovePeer(peer, reply) => {
                self.on_change(ConfChangeKind::RemovePeer, peer, None, reply);
            }
        }
    }

    /// Proposes a write. A follower's core passes it on to the leader; the caller waits here in either case, until
    /// the entry comes back to be applied. If it never does (lost with a leader), the caller's patience ends, and he
    /// cannot know whether the write was made.
    fn on_write(&mut self, key: String, operation: Operation, reply: Reply<()>) {
        let request = self.requests.next_id();
        match self.raft.propose(Command { request, key, operation }.encode()) {
            Ok(()) => self.requests.await_applied(request, reply),
            Err(_) => answer(reply, Err(Refusal::NoLeader)),
        }
    }

    /// Proposes a membership change, on the leader only: it alone can tell whether the change can be made.
    fn on_change(
        &mut self,
        kind: ConfChangeKind,
        peer: PeerId,
        addresses: Option<Addresses>,
        reply: Reply<()>,
    ) {
        let context = ChangeContext { request: self.requests.next_id(), addresses };
        let change = ConfChange { kind, peer, context: context.encode() };
        match self.propose_change(change) {
            Ok(()) => self.requests.await_applied(context.request, reply),
            Err(refusal) => answer(reply, Err(refusal)),
        }
    }

    fn propose_change(&mut self, change: ConfChange) -> Result<(), Refusal> {
        let leader = self.raft.leader();
        if leader != self.raft.id() {
            let known = self.machine.members.get(&leader);
            return Err(known.map_or(Refusal::NoLeader, |at| Refusal::NotLeader(at.http)));
        }
        if self.raft.pending_conf_index() > self.raft.applied() {
            return Err(Refusal::ChangePending);
        }
        check_change(&self.machine, change.kind, change.peer)?;
        let index = self.raft.last_index().next();
        self.raft.propose_conf_change(change).map_err(|_| Refusal::NoLeader)?;
        // A change that leads nowhere is logged as an empty entry.
        let is_admitted = self.raft.pending_conf_index() == index;
        if is_admitted { Ok(()) } else { Err(Refusal::Impossible) }
    }

    /// As the leader, makes a learner a voter as soon as it has nearly all of the log.
    fn maybe_promote(&mut self) {
        let raft = &self.raft;
        if raft.role() != Role::Leader || raft.pending_conf_index() > raft.applied() {
            return;
        }
        let is_caught_up = |progress: &Progress| {
            let is_close = progress.matched.0 + PROMOTION_LAG >= raft.last_index().0;
            progress.is_learner && progress.state == ProgressState::Replicate && is_close
        };
        let caught_up =
            raft.progress_iter().find(|(_, progress)| is_caught_up(progress)).map(|(peer, _)| peer);
        if let Some(peer) = caught_up {
            let context = ChangeContext::default().encode();
            let change = ConfChange { kind: ConfChangeKind::AddVoter, peer, context };
            // Dropped during a handover; the next tick tries again.
            let _ = self.raft.propose_conf_change(change);
        }
    }

    /// Steps 2 to 6 of the loop: take the work, store, send, apply, acknowledge.
    fn work(&mut self) -> Result<(), NodeError> {
        while self.raft.has_ready() {
            let ready = self.raft.ready();
            // Store. Everything after this line may rest on it.
            self.raft.storage_mut().save(&ready)?;
            // Send. (A leader's appends could leave before its own write: its disk would then work at the same time
            // as the followers'.)
            let lost = self.send(ready.messages);
            // Apply.
            if let Some(soft_state) = ready.soft_state {
                self.on_soft_state(soft_state);
            }
            if let Some(snapshot) = ready.snapshot {
                self.machine = restore(&snapshot)?;
                self.snapshots_received += 1;
                self.connect();
            }
            for entry in ready.committed_entries {
                self.apply(entry);
            }
            for read_state in ready.read_states {
                self.requests.on_read_state(read_state);
            }
            self.requests.answer_reads(&self.machine);
            // Acknowledge.
            self.raft.advance();
            for (peer, is_snapshot) in lost {
                self.raft.report_unreachable(peer);
                if is_snapshot {
                    self.raft.report_snapshot(peer, false);
                }
            }
        }
        self.maybe_compact()
    }

    /// Hands messages to the network, which may drop them: Raft sends again what matters. Returns whom it cannot
    /// reach, and whether a snapshot was among what was dropped.
    fn send(&self, messages: Vec<Message>) -> Vec<(PeerId, bool)> {
        let mut lost = Vec::new();
        for message in messages {
            let (to, is_snapshot) = (message.to, message.kind == MessageKind::Snapshot);
            if !self.network.send(message) {
                lost.push((to, is_snapshot));
            }
        }
        lost
    }

    fn apply(&mut self, entry: Entry) {
        self.machine.applied = entry.index;
        match entry.kind {
            EntryKind::Normal => {
                // The entry that a new leader appends is empty, and no command.
                if let Ok(command) = Command::decode(entry.data) {
                    let request = command.request;
                    self.machine.apply(command);
                    self.requests.on_applied(request);
                }
            }
            EntryKind::ConfChange => {
                if let Ok(change) = ConfChange::decode(&entry.data) {
                    self.apply_conf_change(&change.into_v2());
                }
            }
            EntryKind::ConfChangeV2 => {
                if let Ok(change) = ConfChangeV2::decode(&entry.data) {
                    self.apply_conf_change(&change);
                }
            }
        }
    }

    fn apply_conf_change(&mut self, change: &ConfChangeV2) {
        if self.raft.try_apply_conf_change(change).is_err() {
            return;
        }
        let context = ChangeContext::decode(change.context.clone()).unwrap_or_default();
        for step in &change.changes {
            self.machine.apply_change(step.kind, step.peer, context.addresses);
        }
        self.connect();
        self.requests.on_applied(context.request);
    }

    /// Links to all other members, and to nobody who was removed.
    fn connect(&mut self) {
        for (peer, addresses) in &self.machine.members {
            if *peer != self.raft.id() {
                self.network.connect(*peer, addresses.raft);
            }
        }
        self.machine.removed.iter().for_each(|peer| self.network.forget(*peer));
    }

    /// Makes a snapshot if the log has grown by enough, or if a peer cannot be helped without a new one.
    fn maybe_compact(&mut self) -> Result<(), NodeError> {
        let last = self.raft.storage().last_snapshot().meta.index;
        let grown = self.machine.applied.0 - last.0;
        let is_wanted = self.raft.storage().take_snapshot_wanted() && grown > 0;
        if grown >= self.snapshot_entries || is_wanted {
            let (applied, conf_state) = (self.machine.applied, self.raft.conf_state());
            let kept = self.snapshot_entries / 2;
            let data: Bytes = self.machine.encode();
            self.raft.storage_mut().compact(applied, conf_state, data, kept as usize)?;
        }
        Ok(())
    }

    fn on_soft_state(&self, SoftState { lead, role }: SoftState) {
        let (id, term) = (self.raft.id(), self.raft.term());
        eprintln!("peer {id}: {role:?} in term {term}, leader {lead}");
    }

    fn status(&self) -> Status {
        let raft = &self.raft;
        let voters = raft.conf_state().voters;
        let members = self.machine.members.iter().map(|(peer, at)| Member {
            id: peer.0,
            is_voter: voters.contains(peer),
            raft: at.raft,
            http: at.http,
        });
        Status {
            id: raft.id().0,
            role: format!("{:?}", raft.role()),
            leader: raft.leader().0,
            term: raft.term().0,
            commit: raft.commit().0,
            applied: self.machine.applied.0,
            log: (raft.first_index().0, raft.last_index().0),
            snapshot: raft.storage().last_snapshot().meta.index.0,
            snapshots_received: self.snapshots_received,
            members: members.collect(),
        }
    }
}

/// The state machine that a snapshot holds.
fn restore(snapshot: &Snapshot) -> Result<Machine, NodeError> {
    if snapshot.is_empty() {
        return Ok(Machine::default());
    }
    let index = snapshot.meta.index;
    Machine::decode(index, snapshot.data.clone()).map_err(|_| NodeError::Snapshot(index))
}

/// Answers a caller, who may have gone.
fn answer<T>(reply: Reply<T>, result: Result<T, Refusal>) {
    let _ = reply.send(result);
}
