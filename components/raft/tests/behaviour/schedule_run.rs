//! The nodes of a random schedule, and its steps.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use flotilla_raft::{
    Applying, ConfChange, ConfChangeKind, ConfChangeSingle, ConfChangeTransition, ConfChangeV2, ConfState,
    Config, Entry, EntryKind, HardState, Index, MemStorage, Message, MessageKind, PeerId, RawNode, Role,
    Snapshot, SnapshotMeta, Storage, Storing, Term, Work,
};

use crate::schedules::{Cluster, first_index, is_snapshot};

/// For the append thread.
#[derive(Default)]
struct AppendWork {
    hard_state: HardState,
    snapshot: Option<Box<Snapshot>>,
    entries: Vec<Entry>,
    responses: Vec<Message>,
    storing: Option<Storing>,
}

/// For the apply thread.
#[derive(Default)]
struct ApplyWork {
    entries: Vec<Entry>,
    responses: Vec<Message>,
    applying: Option<Applying>,
}

/// A process with its disk. The state machine lives in memory and is rebuilt from snapshot and log, or is on the disk and
/// loses nothing.
pub struct Node {
    /// `None` while down.
    pub raw: Option<RawNode<MemStorage>>,
    /// What a crash leaves.
    disk: MemStorage,
    append_work: VecDeque<AppendWork>,
    apply_work: VecDeque<ApplyWork>,
    pub applied: Index,
    pub state: u64,
    pub conf_state: ConfState,
    pub applied_term: Term,
    keeps_state: bool,
}

impl Node {
    pub fn new(disk: MemStorage, keeps_state: bool) -> Self {
        Self {
            raw: None,
            disk,
            append_work: VecDeque::new(),
            apply_work: VecDeque::new(),
            applied: Index::ZERO,
            state: 0,
            conf_state: ConfState::default(),
            applied_term: Term::ZERO,
            keeps_state,
        }
    }

    /// Lets the log begin behind a state machine that is ahead of it, and the commit index be no less than what is
    /// applied: it may be logged late, behind the snapshot that stands for it.
    fn mend(&mut self) {
        let (index, term) = (self.applied, self.applied_term);
        if self.keeps_state && index > self.disk.snapshot_ref().meta.index {
            let conf_state = self.conf_state.clone();
            let data = Bytes::copy_from_slice(&self.state.to_be_bytes());
            if self.disk.term(index) == Ok(term) {
                self.disk.create_snapshot(index, conf_state, data).expect("newer, and in the log");
            } else {
                let meta = SnapshotMeta { index, term, conf_state };
                self.disk.apply_snapshot(Snapshot { meta, data }).expect("newer");
            }
        }
        let start = self.disk.snapshot_ref().meta.clone();
        let mut hard_state = self.disk.hard_state();
        hard_state.commit = hard_state.commit.max(start.index);
        if hard_state.term < start.term {
            (hard_state.term, hard_state.vote) = (start.term, PeerId::ZERO);
        }
        self.disk.set_hard_state(hard_state);
    }

    pub fn start(&mut self, config: &Config) {
        self.mend();
        let snapshot = self.disk.snapshot_ref().clone();
        self.applied = snapshot.meta.index;
        self.state = snapshot.data[..].try_into().map(u64::from_be_bytes).unwrap_or(0);
        self.conf_state = snapshot.meta.conf_state.clone();
        self.applied_term = snapshot.meta.term;
        let config = Config { applied: self.applied, ..config.clone() };
        self.raw = Some(RawNode::new(&config, self.disk.clone()).expect("the disk is consistent"));
    }

    /// Loses everything that was not synced.
    pub fn crash(&mut self) {
        self.raw = None;
        self.append_work.clear();
        self.apply_work.clear();
    }

    fn sync(&mut self) {
        if let Some(raw) = &self.raw {
            self.disk = raw.storage().clone();
        }
    }

    fn write(&mut self, hard_state: HardState, snapshot: Option<&Snapshot>, entries: &[Entry]) {
        let Some(raw) = &mut self.raw else { return };
        let storage = raw.storage_mut();
        if let Some(snapshot) = snapshot
            && storage.snapshot_ref().meta.index < snapshot.meta.index
        {
            storage.apply_snapshot(snapshot.clone()).expect("newer than the stored one");
        }
        storage.append(&mut entries.to_vec());
        if !hard_state.is_empty() {
            storage.set_hard_state(hard_state);
        }
    }
}

/// Applies one entry to the state machine of `node`. Returns the state.
pub fn apply(node: &mut Node, entry: &Entry) -> u64 {
    let change = match entry.kind {
        EntryKind::Normal => None,
        EntryKind::ConfChange => Some(ConfChange::decode(&entry.data).expect("proposed well").into_v2()),
        EntryKind::ConfChangeV2 => Some(ConfChangeV2::decode(&entry.data).expect("proposed well")),
    };
    if let (Some(change), Some(raw)) = (change, &mut node.raw) {
        node.conf_state = raw.apply_conf_change(&change);
    }
    // FNV-1a over what was applied.
    for byte in entry.term.0.to_be_bytes().iter().chain(&entry.data[..]) {
        node.state = (node.state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    node.applied = entry.index;
    node.applied_term = entry.term;
    node.state
}

fn members(conf: &ConfState) -> BTreeSet<PeerId> {
    [&conf.voters, &conf.voters_outgoing, &conf.learners].into_iter().flatten().copied().collect()
}

/// Runs one schedule to its recovered end.
pub fn run_schedule(seed: u64, steps: usize, is_verbose: bool) -> Cluster {
    let mut cluster = Cluster::new(seed);
    if is_verbose {
        println!("{:?}", cluster.template);
    }
    for step in 0..steps {
        let ids = cluster.ids();
        let id = *cluster.random.pick(&ids);
        let is_coup = cluster.is_restless && cluster.random.one_in(12);
        let name = if is_coup { cluster.coup(id) } else { cluster.random_step(id) };
        if is_verbose {
            println!("{step}: {name} {id}");
        }
        cluster.check(id);
    }
    cluster.recover();
    cluster
}

impl Cluster {
    fn raw(&mut self, id: PeerId) -> Option<&mut RawNode<MemStorage>> {
        self.nodes.get_mut(&id)?.raw.as_mut()
    }

    fn random_step(&mut self, id: PeerId) -> &'static str {
        let mut drawn = self.random.below(100);
        // Trouble all the time leaves a group without a leader for most of it, and little is ever committed.
        if self.is_calm && matches!(drawn, 90 | 91 | 95 | 98 | 99) && !self.random.one_in(10) {
            drawn = 0;
        }
        match drawn {
            0..26 => {
                self.work(id, true);
                "work"
            }
            26..56 => {
                self.deliver_some();
                "deliver"
            }
            56..74 => {
                if let Some(raw) = self.raw(id) {
                    raw.tick();
                }
                "tick"
            }
            74..84 => {
                self.propose(id);
                "propose"
            }
            84..87 => {
                self.propose_change(id);
                "change"
            }
            87..90 => {
                self.issue_read(id);
                "read"
            }
            90..92 => {
                self.nodes.get_mut(&id).expect("known node").crash();
                "crash"
            }
            92..95 => {
                if self.nodes[&id].raw.is_none() {
                    self.start(id);
                }
                "start"
            }
            95 => {
                self.partition();
                "partition"
            }
            96 => {
                self.blocked.clear();
                "heal"
            }
            97 => {
                self.compact(id);
                "compact"
            }
            98 => {
                let ids = self.ids();
                let to = *self.random.pick(&ids);
                if let Some(raw) = self.raw(id) {
                    raw.transfer_leader(to);
                }
                "transfer"
            }
            _ => {
                if let Some(raw) = self.raw(id) {
                    raw.campaign().expect("campaigns are never refused");
                }
                "campaign"
            }
        }
    }

    /// `id` asks for votes, and has them before anything else is delivered; what it then proposes may reach one peer
    /// before it falls. A sequence of these is figure 8 of the Raft paper.
    fn coup(&mut self, id: PeerId) -> &'static str {
        if self.nodes[&id].raw.is_none() {
            self.start(id);
        }
        self.blocked.clear();
        for message in std::mem::take(&mut self.network) {
            self.deliver(message, true);
        }
        self.raw(id).expect("is up").campaign().expect("campaigns are never refused");
        for _ in 0..4 {
            self.settle_some(|message| {
                use MessageKind as Kind;
                matches!(
                    message.kind,
                    Kind::Vote | Kind::VoteResponse | Kind::PreVote | Kind::PreVoteResponse
                )
            });
        }
        self.propose(id);
        let ids = self.ids();
        let confidant = *self.random.pick(&ids);
        for _ in 0..self.random.below(6) {
            let pair = [id, confidant];
            self.settle_some(|message| pair.contains(&message.from) && pair.contains(&message.to));
        }
        if self.random.one_in(2) {
            self.nodes.get_mut(&id).expect("known node").crash();
        }
        "coup"
    }

    /// Everybody works, and then what `is_let_through` names is delivered.
    fn settle_some(&mut self, is_let_through: impl Fn(&Message) -> bool) {
        for id in self.ids() {
            self.work(id, false);
            self.check(id);
        }
        let (through, kept) = std::mem::take(&mut self.network).into_iter().partition(&is_let_through);
        self.network = kept;
        for message in through {
            self.deliver(message, false);
        }
    }

    fn propose(&mut self, id: PeerId) {
        self.proposals += 1;
        let data = Bytes::from(format!("proposal {}", self.proposals));
        if let Some(raw) = self.raw(id) {
            // Dropped without a leader.
            let _ = raw.propose(data);
        }
    }

    fn propose_change(&mut self, id: PeerId) {
        let ids = self.ids();
        let kinds = [ConfChangeKind::AddVoter, ConfChangeKind::RemovePeer, ConfChangeKind::AddLearner];
        let count = self.random.below(3);
        let changes = (0..count)
            .map(|_| ConfChangeSingle { kind: *self.random.pick(&kinds), peer: *self.random.pick(&ids) })
            .collect();
        let transitions = [
            ConfChangeTransition::Auto,
            ConfChangeTransition::JointImplicit,
            ConfChangeTransition::JointExplicit,
        ];
        let transition =
            if count == 0 { ConfChangeTransition::Auto } else { *self.random.pick(&transitions) };
        if let Some(raw) = self.raw(id) {
            let _ = raw.propose_conf_change(ConfChangeV2 { transition, changes, context: Bytes::new() });
        }
    }

    fn partition(&mut self) {
        let ids = self.ids();
        let left: Vec<bool> = ids.iter().map(|_| self.random.one_in(2)).collect();
        self.blocked.clear();
        for (from, from_left) in ids.iter().zip(&left) {
            for (to, to_left) in ids.iter().zip(&left) {
                if from_left != to_left {
                    self.blocked.insert((*from, *to));
                }
            }
        }
    }

    fn compact(&mut self, id: PeerId) {
        let keep = self.random.below(3) as u64;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let (applied, conf_state) = (node.applied, node.conf_state.clone());
        let data = Bytes::copy_from_slice(&node.state.to_be_bytes());
        let Some(raw) = &mut node.raw else { return };
        let stored = raw.storage().last_index().expect("in memory");
        // What was received but not stored yet cannot be compacted.
        if applied > stored || raw.applied() != applied || applied <= raw.storage().snapshot_ref().meta.index
        {
            return;
        }
        let mut hard_state = raw.storage().hard_state();
        hard_state.commit = hard_state.commit.max(applied);
        let storage = raw.storage_mut();
        storage.set_hard_state(hard_state);
        storage.create_snapshot(applied, conf_state, data).expect("applied entries are stored");
        let upto = Index(applied.0.saturating_sub(keep));
        if upto >= first_index(storage) {
            storage.compact(upto).expect("not compacted yet");
        }
        node.sync();
    }

    fn deliver_some(&mut self) {
        for _ in 0..1 + self.random.below(4) {
            if self.network.is_empty() {
                return;
            }
            // Often the oldest, sometimes any.
            let at = if self.random.one_in(4) { self.random.below(self.network.len()) } else { 0 };
            let message =
                if self.random.one_in(30) { self.network[at].clone() } else { self.network.remove(at) };
            let is_lost = self.blocked.contains(&(message.from, message.to)) || self.random.one_in(12);
            self.deliver(message, is_lost);
        }
    }

    fn deliver(&mut self, message: Message, is_lost: bool) {
        let (from, to) = (message.from, message.to);
        let is_snapshot = is_snapshot(&message);
        let is_up = self.nodes.get(&to).is_some_and(|node| node.raw.is_some());
        if !is_lost && is_up {
            // Peers unknown to each other, late messages and dropped proposals are part of the game.
            let stepped = self.raw(to).expect("is up").step(message);
            assert!(
                !matches!(
                    stepped,
                    Err(flotilla_raft::StepError::Malformed
                        | flotilla_raft::StepError::CommitBeyondLog { .. }
                        | flotilla_raft::StepError::ConflictsWithCommitted { .. }
                        | flotilla_raft::StepError::ImpossibleMembership)
                ),
                "{from} to {to}: {stepped:?}"
            );
            self.check(to);
        } else if let Some(raw) = self.raw(from) {
            raw.report_unreachable(to);
        }
        if is_snapshot && let Some(raw) = self.raw(from) {
            raw.report_snapshot(to, !is_lost && is_up);
        }
    }

    fn send(&mut self, messages: Vec<Message>) {
        self.network.extend(messages);
    }

    /// Does a Ready, or a piece of storage work. With `may_crash`, sometimes dies on the way.
    fn work(&mut self, id: PeerId, may_crash: bool) {
        if self.template.async_storage_writes {
            self.work_async(id, may_crash);
        } else {
            self.work_sync(id, may_crash);
        }
        if self.packs {
            self.repack(id);
        }
    }

    /// Takes a node that has nothing to do apart, and puts it together again.
    fn repack(&mut self, id: PeerId) {
        let config = Config { id, ..self.template.clone() };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(raw) = node.raw.take_if(|raw| raw.is_packable()) else { return };
        let (packed, storage) = raw.pack();
        node.raw = Some(RawNode::unpack(&config, packed, storage).expect("its own parts"));
        self.packed += 1;
    }

    fn work_sync(&mut self, id: PeerId, may_crash: bool) {
        let Some(raw) = self.raw(id) else { return };
        if !raw.has_ready() {
            return;
        }
        let ready = raw.ready();
        let crash_point = if may_crash && self.random.one_in(40) { self.random.below(3) } else { 3 };
        let node = self.nodes.get_mut(&id).expect("known node");
        let hard_state = ready.hard_state.unwrap_or_default();
        node.write(hard_state, ready.snapshot.as_deref(), &ready.entries);
        if crash_point == 0 {
            node.crash();
            return;
        }
        if ready.must_sync || ready.snapshot.is_some() {
            node.sync();
        }
        if crash_point == 1 {
            node.crash();
            return;
        }
        self.send(ready.messages);
        for read in &ready.read_states {
            self.on_read_state(read.index, &read.context);
        }
        if let Some(snapshot) = &ready.snapshot {
            self.install_snapshot(id, snapshot);
        }
        self.apply_entries(id, &ready.committed_entries);
        if crash_point == 2 {
            self.nodes.get_mut(&id).expect("known node").crash();
            return;
        }
        self.raw(id).expect("still up").advance();
    }

    fn work_async(&mut self, id: PeerId, may_crash: bool) {
        if !may_crash {
            self.take_ready(id);
            self.append_thread(id, false);
            self.apply_thread(id);
            return;
        }
        // Three steps, so that a node gets as far as one that does all of a Ready at once; in any order.
        for _ in 0..3 {
            match self.random.below(3) {
                0 => self.take_ready(id),
                1 if self.has_slow_disks && id.0 % 2 == 1 && !self.random.one_in(8) => {}
                1 => self.append_thread(id, may_crash),
                _ => self.apply_thread(id),
            }
        }
    }

    fn take_ready(&mut self, id: PeerId) {
        let takes_work = self.takes_work;
        let Some(raw) = self.raw(id) else { return };
        if !raw.has_ready() {
            return;
        }
        if takes_work {
            return self.take_work(id);
        }
        let ready = raw.ready();
        for read in &ready.read_states {
            self.on_read_state(read.index, &read.context);
        }
        let node = self.nodes.get_mut(&id).expect("known node");
        let mut network = Vec::new();
        for mut message in ready.messages {
            let responses = message.take_responses();
            match message.to {
                PeerId::APPEND_THREAD => node.append_work.push_back(AppendWork {
                    hard_state: message.hard_state().unwrap_or_default(),
                    snapshot: message.snapshot,
                    entries: message.entries,
                    responses,
                    storing: None,
                }),
                PeerId::APPLY_THREAD => {
                    let entries = message.entries;
                    node.apply_work.push_back(ApplyWork { entries, responses, applying: None });
                }
                _ => network.push(message),
            }
        }
        self.send(network);
    }

    /// The same without messages of the core to the threads, in buffers that all nodes use.
    fn take_work(&mut self, id: PeerId) {
        let mut work = std::mem::take(&mut self.work);
        self.raw(id).expect("is up").take_work(&mut work);
        let Work { ready, answers, storing, applying } = &mut work;
        for read in ready.read_states.drain(..) {
            self.on_read_state(read.index, &read.context);
        }
        let node = self.nodes.get_mut(&id).expect("known node");
        let hard_state = ready.hard_state.unwrap_or_default();
        let (entries, responses) = (std::mem::take(&mut ready.entries), std::mem::take(answers));
        if let Some(storing) = storing.take() {
            let (snapshot, storing) = (ready.snapshot.take(), Some(storing));
            node.append_work.push_back(AppendWork { hard_state, snapshot, entries, responses, storing });
        }
        let entries = ready.committed_entries.drain(..).collect();
        if let Some(applying) = applying.take() {
            node.apply_work.push_back(ApplyWork {
                entries,
                applying: Some(applying),
                ..ApplyWork::default()
            });
        }
        self.network.append(&mut ready.messages);
        assert!(work.is_taken_over(), "there is nothing else: {work:?}");
        self.work = work;
    }

    fn respond(&mut self, id: PeerId, responses: Vec<Message>) {
        for response in responses {
            if response.to == id {
                // Answers to an earlier leadership or configuration come late.
                let _ = self.raw(id).expect("still up").step(response);
            } else {
                self.network.push(response);
            }
        }
    }

    fn append_thread(&mut self, id: PeerId, may_crash: bool) {
        let crashes = may_crash && self.random.one_in(if self.is_calm { 300 } else { 30 });
        let node = self.nodes.get_mut(&id).expect("known node");
        let Some(work) = node.append_work.pop_front() else { return };
        node.write(work.hard_state, work.snapshot.as_deref(), &work.entries);
        if crashes {
            node.crash();
            return;
        }
        // Only what must survive is synced: a lone commit index need not.
        let is_waited_for =
            !work.responses.is_empty() || work.storing.as_ref().is_some_and(|s| !s.is_empty());
        if is_waited_for || !work.entries.is_empty() || work.snapshot.is_some() {
            node.sync();
        }
        if let Some(snapshot) = &work.snapshot
            && snapshot.meta.index > node.applied
        {
            self.install_snapshot(id, snapshot);
        }
        self.respond(id, work.responses);
        if let Some(storing) = work.storing {
            self.raw(id).expect("still up").on_stored(storing);
        }
    }

    fn apply_thread(&mut self, id: PeerId) {
        let node = self.nodes.get_mut(&id).expect("known node");
        let Some(work) = node.apply_work.pop_front() else { return };
        let applied = node.applied;
        let fresh: Vec<Entry> = work.entries.into_iter().filter(|entry| entry.index > applied).collect();
        self.apply_entries(id, &fresh);
        self.respond(id, work.responses);
        if let Some(applying) = work.applying {
            self.raw(id).expect("still up").on_applied(applying);
        }
    }

    /// Everything up and connected: the group must elect a leader and commit again, everywhere.
    fn recover(&mut self) {
        self.blocked.clear();
        for id in self.ids() {
            if self.nodes[&id].raw.is_none() {
                self.start(id);
            }
        }
        let mut target = None;
        for round in 0..4000 {
            let needed = self.needed();
            for id in self.ids() {
                if !needed.contains(&id) {
                    // A removed peer may not know, and would go on campaigning.
                    self.nodes.get_mut(&id).expect("known node").crash();
                    continue;
                }
                if self.nodes[&id].raw.is_none() {
                    self.start(id);
                }
                self.raw(id).expect("is up").tick();
                for _ in 0..4 {
                    self.work(id, false);
                }
                self.check(id);
            }
            for message in std::mem::take(&mut self.network) {
                self.deliver(message, false);
            }
            self.leave_joint();
            // A new peer needs a snapshot that names it.
            if round % 20 == 19
                && let Some(leader) = self.leader()
            {
                self.compact(leader);
            }
            if round % 50 == 49 && target.is_none() {
                target = self.propose_marker();
            }
            if let Some(index) = target {
                let has_it = |id: &PeerId| self.nodes[id].applied >= index;
                if self.latest_members().iter().all(has_it) {
                    return;
                }
                if round % 500 == 499 {
                    target = None;
                }
            }
        }
        // Known stalemate without it: the only peer that may lead does not know that the change is committed.
        if !self.template.commit_fast_forward {
            return;
        }
        for (id, node) in &self.nodes {
            println!("{id}: applied {}, {:?}", node.applied, node.raw.as_ref().map(RawNode::status));
        }
        panic!("the group did not recover");
    }

    /// Voters and learners by the state machine that is furthest.
    fn latest_members(&self) -> BTreeSet<PeerId> {
        let latest = self.nodes.values().max_by_key(|node| node.applied).expect("there are nodes");
        members(&latest.conf_state)
    }

    /// The latest members, and everybody that one of them still counts on.
    fn needed(&self) -> BTreeSet<PeerId> {
        let latest = self.latest_members();
        let known_to = |id: &PeerId| members(&self.nodes[id].conf_state);
        latest.iter().flat_map(known_to).chain(latest.iter().copied()).collect()
    }

    fn leader(&self) -> Option<PeerId> {
        let leads =
            |node: &Node| node.raw.as_ref().filter(|raw| raw.role() == Role::Leader).map(RawNode::term);
        let leaders = self.nodes.iter().filter_map(|(id, node)| Some((leads(node)?, *id)));
        leaders.max().map(|(_, id)| id)
    }

    fn leave_joint(&mut self) {
        let Some(leader) = self.leader() else { return };
        let raw = self.raw(leader).expect("leads");
        if raw.configuration().voters.is_joint() && raw.pending_conf_index() <= raw.applied() {
            let _ = raw.propose_conf_change(ConfChangeV2::default());
        }
    }

    /// Proposes an entry. Returns an index that it reaches if the leader stays.
    fn propose_marker(&mut self) -> Option<Index> {
        let leader = self.leader()?;
        let raw = self.raw(leader)?;
        raw.propose(Bytes::from_static(b"marker")).ok()?;
        Some(raw.last_index())
    }
}
