//! A cluster under a random schedule: loss, duplication, reordering, partitions, crashes that lose what was not
//! synced, membership changes. After every step the properties of the Raft paper's figure 3 are checked.
//!
//! `RAFT_SCHEDULES=1000` runs that many seeds; `RAFT_SCHEDULE_SEED=42` replays one and prints its steps.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
};

use bytes::Bytes;
use flotilla_raft::{
    ConfState, Config, Entry, Index, MemStorage, Message, MessageKind, PeerId, RawNode, Role, Snapshot,
    SnapshotMeta, Storage, Term, Work,
};

use crate::schedule_run::{Node, apply, run_schedule};

/// Steps of a schedule before it is to recover.
pub const STEPS: usize = 3_000;

/// SplitMix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True in one of `n` cases.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Everything ever known about the group, and the cluster itself.
pub struct Cluster {
    pub random: Random,
    pub nodes: BTreeMap<PeerId, Node>,
    pub network: Vec<Message>,
    pub blocked: BTreeSet<(PeerId, PeerId)>,
    pub template: Config,
    pub proposals: u64,
    /// Whether one leader overthrows the other.
    pub is_restless: bool,
    /// Whether crashes and partitions are rare.
    pub is_calm: bool,
    /// Whether appends of every other peer take long.
    pub has_slow_disks: bool,
    /// Whether nodes that have nothing to do are taken apart and put together again.
    pub packs: bool,
    /// With async storage writes: work is taken in values, not in messages.
    pub takes_work: bool,
    pub work: Work,
    /// How often that was done.
    pub packed: u64,
    /// Entry term and earliest observing term, by committed index.
    committed: BTreeMap<Index, (Term, Term)>,
    /// State after applying each index.
    states: BTreeMap<Index, u64>,
    leaders: BTreeMap<Term, PeerId>,
    leader_ends: BTreeMap<(PeerId, Term), Index>,
    /// Greatest commit index when each read was issued.
    reads: BTreeMap<Bytes, Index>,
    pub reads_answered: u64,
}

impl Cluster {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let voters = if random.one_in(2) { 3 } else { 5 };
        let template = Self::template(&mut random, seed);
        let is_restless = random.one_in(8);
        let keeps_state = random.one_in(2);
        let is_calm = random.one_in(2);
        let has_slow_disks = random.one_in(2);
        let spare = 2;
        let conf_state = ConfState { voters: (1..=voters).map(PeerId).collect(), ..ConfState::default() };
        let meta = SnapshotMeta { index: Index(1), term: Term(1), conf_state };
        let snapshot = Snapshot { meta, data: Bytes::copy_from_slice(&0u64.to_be_bytes()) };
        let mut nodes = BTreeMap::new();
        for id in 1..=voters + spare {
            let storage =
                if id <= voters { MemStorage::with_snapshot(snapshot.clone()) } else { MemStorage::new() };
            nodes.insert(PeerId(id), Node::new(storage, keeps_state));
        }
        let mut cluster = Self {
            random,
            nodes,
            network: Vec::new(),
            blocked: BTreeSet::new(),
            template,
            proposals: 0,
            is_restless,
            is_calm,
            has_slow_disks,
            packs: seed % 2 == 1,
            takes_work: seed / 2 % 2 == 1,
            work: Work::default(),
            packed: 0,
            committed: BTreeMap::new(),
            states: BTreeMap::from([(Index(1), 0)]),
            leaders: BTreeMap::new(),
            leader_ends: BTreeMap::new(),
            reads: BTreeMap::new(),
            reads_answered: 0,
        };
        for id in cluster.ids() {
            cluster.start(id);
        }
        cluster
    }

    fn template(random: &mut Random, seed: u64) -> Config {
        Config {
            election_ticks: 5,
            heartbeat_ticks: 1 + random.below(3),
            async_storage_writes: random.one_in(2),
            append_bytes_max: *random.pick(&[0, 40, u64::MAX]),
            committed_bytes_max: *random.pick(&[0, 60, u64::MAX]),
            inflight_messages_max: *random.pick(&[1, 3, 256]),
            check_quorum: random.one_in(2),
            pre_vote: random.one_in(2),
            step_down_on_removal: random.one_in(2),
            skip_commit_broadcast: random.one_in(4),
            batch_append: random.one_in(4),
            commit_fast_forward: !random.one_in(4),
            own_vote_first: true,
            apply_ahead_max: *random.pick(&[0, 1, 100]),
            seed,
            ..Config::new(PeerId(1))
        }
    }

    pub fn ids(&self) -> Vec<PeerId> {
        self.nodes.keys().copied().collect()
    }

    /// Starts a node from what its disk holds.
    pub fn start(&mut self, id: PeerId) {
        let config = Config { id, seed: self.random.next(), ..self.template.clone() };
        let node = self.nodes.get_mut(&id).expect("known node");
        node.start(&config);
    }

    /// Greatest index that any node has known to be committed.
    pub fn greatest_commit(&self) -> Index {
        self.committed.keys().next_back().copied().unwrap_or(Index(1))
    }

    pub fn issue_read(&mut self, id: PeerId) {
        let context = Bytes::from(format!("read {} at {id}", self.reads.len()));
        let Some(raw) = self.nodes.get_mut(&id).and_then(|node| node.raw.as_mut()) else { return };
        raw.read_index(context.clone());
        let before = self.greatest_commit();
        self.reads.insert(context, before);
    }

    /// A read must reflect every commit that happened before it was issued.
    pub fn on_read_state(&mut self, index: Index, context: &Bytes) {
        let before = self.reads[context];
        assert!(index >= before, "{context:?} at {index} misses commits up to {before}");
        self.reads_answered += 1;
    }

    /// Applies entries to the state machine of `id` and compares it with every other replica's.
    pub fn apply_entries(&mut self, id: PeerId, entries: &[Entry]) {
        let node = self.nodes.get_mut(&id).expect("known node");
        for entry in entries {
            assert_eq!(entry.index, node.applied.next(), "peer {id} skips an entry");
            let state = apply(node, entry);
            let known = *self.states.entry(entry.index).or_insert(state);
            assert_eq!(
                state, known,
                "state machine safety: peer {id} applies another entry at {}",
                entry.index
            );
        }
    }

    pub fn install_snapshot(&mut self, id: PeerId, snapshot: &Snapshot) {
        let state = u64::from_be_bytes(snapshot.data[..].try_into().expect("eight bytes"));
        let known = self.states.get(&snapshot.meta.index);
        assert_eq!(known, Some(&state), "state machine safety: snapshot at {}", snapshot.meta.index);
        let node = self.nodes.get_mut(&id).expect("known node");
        node.applied = snapshot.meta.index;
        node.applied_term = snapshot.meta.term;
        node.state = state;
        node.conf_state = snapshot.meta.conf_state.clone();
    }

    /// All properties that concern `id`.
    pub fn check(&mut self, id: PeerId) {
        let Some(raw) = self.nodes[&id].raw.as_ref() else { return };
        raw.check_invariants();
        let (term, end) = (raw.term(), raw.last_index());
        if raw.role() == Role::Leader {
            let leader = *self.leaders.entry(term).or_insert(id);
            assert_eq!(leader, id, "election safety: two leaders in term {term}");
            let known_end = self.leader_ends.entry((id, term)).or_insert(end);
            assert!(*known_end <= end, "leader append-only: peer {id} cut its log in term {term}");
            *known_end = end;
            check_completeness(raw, &self.committed);
        }
        record_commits(raw, &mut self.committed);
        for (other, node) in &self.nodes {
            if let Some(other_raw) = node.raw.as_ref().filter(|_| *other != id) {
                check_log_matching(raw, other_raw);
            }
        }
    }
}

fn record_commits(raw: &RawNode<MemStorage>, committed: &mut BTreeMap<Index, (Term, Term)>) {
    let mut index = raw.commit();
    while let Some(entry_term) = raw.term_at(index).filter(|_| index >= raw.first_index()) {
        let known = committed.entry(index).or_insert((entry_term, raw.term()));
        assert_eq!(known.0, entry_term, "two entries committed at {index}");
        if known.1 <= raw.term() && known.1 != raw.term() {
            break;
        }
        known.1 = raw.term().min(known.1);
        index = index.prev();
    }
}

/// Every entry committed in an earlier (or its own) term is in a leader's log.
fn check_completeness(raw: &RawNode<MemStorage>, committed: &BTreeMap<Index, (Term, Term)>) {
    for (index, (entry_term, observed)) in committed.range(raw.first_index()..) {
        if *observed <= raw.term() {
            let own = raw.term_at(*index);
            assert_eq!(own, Some(*entry_term), "leader completeness: {} lacks {index}", raw.id());
        }
    }
}

/// Logs that agree at one index agree at all lower ones.
fn check_log_matching(left: &RawNode<MemStorage>, right: &RawNode<MemStorage>) {
    let first = left.first_index().max(right.first_index());
    let mut index = left.last_index().min(right.last_index());
    let mut agreed = false;
    while index >= first && !index.is_zero() {
        let same = left.term_at(index) == right.term_at(index);
        assert!(same || !agreed, "log matching: {} and {} differ below {index}", left.id(), right.id());
        agreed |= same;
        index = index.prev();
    }
}

/// Whether `m` must be answered with a snapshot report when it is lost or delivered.
pub fn is_snapshot(m: &Message) -> bool {
    m.kind == MessageKind::Snapshot
}

/// First index of a storage's log.
pub fn first_index(storage: &MemStorage) -> Index {
    storage.first_index().expect("in memory")
}

/// A number from the environment.
pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn random_schedules_keep_every_safety_property_and_recover() {
    if let Some(seed) = number("RAFT_SCHEDULE_SEED") {
        run_schedule(seed, STEPS, true);
        return;
    }
    let (mut answered, mut packed) = (0, 0);
    for seed in 0..number("RAFT_SCHEDULES").unwrap_or(200) {
        match std::panic::catch_unwind(AssertUnwindSafe(|| run_schedule(seed, STEPS, false))) {
            Ok(cluster) => {
                answered += cluster.reads_answered;
                packed += cluster.packed;
            }
            Err(cause) => {
                println!(
                    "replay: RAFT_SCHEDULE_SEED={seed} cargo test -p flotilla-raft --test behaviour schedules"
                );
                std::panic::resume_unwind(cause);
            }
        }
    }
    assert!(answered > 0, "no read was ever answered");
    assert!(packed > 0, "no node was ever packed");
}
