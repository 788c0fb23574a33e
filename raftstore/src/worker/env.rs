//! What a raft worker and its peers have in common.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use flotilla_raft::Work;
use flotilla_region::{Peer as PeerInfo, Region, RegionId, StoreId};

use crate::admin::transfer::Handover;
use crate::msg::{ApplyMsg, Incarnation, LogMsg, LogTask, RaftMsg};
use crate::outbox::{Outbox, raft_message};
use crate::peer::fortify::Release;
use crate::shared::{Shared, worker_of};
use crate::time::Time;
use crate::wire::pb;
use crate::worker::flow::Flow;

/// What a worker lends to its peers.
pub(crate) struct Env {
    pub shared: Arc<Shared>,
    pub outbox: Outbox,
    /// Time of the turn.
    pub now: Time,
    /// Buffers for the work of one peer after the other.
    pub work: Option<Box<Work>>,
    /// What the turn has for the log writer, in order.
    log_tasks: Vec<LogTask>,
    /// What it has for each apply worker, in order.
    apply_messages: Vec<Vec<ApplyMsg>>,
    /// Epochs of other stores that this one supports: peers that promised something hold to it.
    pub supporting: BTreeMap<StoreId, u64>,
    /// Regions whose peer here may be bound to a leader on that store.
    pub bound_to: BTreeMap<StoreId, BTreeSet<RegionId>>,
    /// Leaders that sleep and have peers that do not answer, with when placement must hear more of it.
    pub looks: BTreeSet<(Time, RegionId)>,
    /// Transfers that wait for their heirs.
    pub handovers: BTreeMap<RegionId, Handover>,
    /// Regions with entries in memory, in the order in which they give them up.
    pub cached: VecDeque<RegionId>,
    /// What is under way to each store, and who waits for room.
    pub flow: Flow,
    /// Followers to be released, for the worker.
    pub releases: Vec<Release>,
    /// Peers that were removed from regions here, for the worker.
    pub removed: Vec<(RegionId, PeerInfo)>,
    number: u64,
    incarnations: u64,
}

impl Env {
    pub(crate) fn new(
        shared: Arc<Shared>,
        outbox: Outbox,
        number: u64,
        supporting: BTreeMap<StoreId, u64>,
    ) -> Self {
        let mut apply_messages = Vec::new();
        apply_messages.resize_with(shared.links.apply.len(), Vec::new);
        Self {
            flow: Flow::new(&shared.config),
            shared,
            outbox,
            now: Time::default(),
            work: None,
            log_tasks: Vec::new(),
            apply_messages,
            supporting,
            bound_to: BTreeMap::new(),
            looks: BTreeSet::new(),
            handovers: BTreeMap::new(),
            cached: VecDeque::new(),
            releases: Vec::new(),
            removed: Vec::new(),
            number,
            incarnations: 0,
        }
    }

    /// Has the log writer write a task, after all earlier ones.
    pub(crate) fn log(&mut self, task: LogTask) {
        self.log_tasks.push(task);
    }

    /// Gives a message to the apply worker of a region, after all earlier ones and what `log` was given before.
    pub(crate) fn apply(&mut self, region: RegionId, message: ApplyMsg) {
        self.apply_messages[worker_of(region, self.shared.links.apply.len())].push(message);
    }

    /// Tells the raft worker of another region something, after everything that log writer and apply workers were given
    /// before: what the other region does next may build on it (rule W6).
    pub(crate) fn tell(&mut self, region: RegionId, message: RaftMsg) {
        self.hand_over();
        self.shared.links.raft_of(region).send(message);
    }

    /// Hands over what the turn has for the log writer and the apply workers: one message and one wake-up each, however
    /// many regions took part. The log writer comes first, for apply workers give it tasks too.
    pub(crate) fn hand_over(&mut self) {
        if !self.log_tasks.is_empty() {
            self.shared.links.log.send(LogMsg::Tasks(std::mem::take(&mut self.log_tasks)));
        }
        for (worker, messages) in self.shared.links.apply.iter().zip(&mut self.apply_messages) {
            if !messages.is_empty() {
                worker.send(std::mem::take(messages));
            }
        }
    }

    /// Sends another peer of a region a word on promises and sleep.
    pub(crate) fn post_note(
        &mut self,
        region: &Region,
        from: PeerInfo,
        to: PeerInfo,
        note: pb::Fortification,
    ) {
        let mut message = raft_message(region, from, to, None, false);
        message.fortification = Some(note);
        self.outbox.push(to.store, message);
    }

    /// A peer here is bound to a leader on `store`.
    pub(crate) fn promised(&mut self, store: StoreId, region: RegionId) {
        self.bound_to.entry(store).or_default().insert(region);
    }

    /// It is not any more.
    pub(crate) fn released(&mut self, store: StoreId, region: RegionId) {
        if let Some(regions) = self.bound_to.get_mut(&store) {
            regions.remove(&region);
        }
    }

    /// Sends a message to a peer, which may live on this store.
    pub(crate) fn post(&mut self, to: StoreId, message: pb::RaftMessage) {
        if to == self.shared.origin.store {
            self.tell(RegionId(message.region_id), RaftMsg::Network(vec![message]));
        } else {
            self.outbox.push(to, message);
        }
    }

    /// A life that no peer of this process had before.
    pub(crate) fn next_incarnation(&mut self) -> Incarnation {
        self.incarnations += 1;
        Incarnation((self.number + 1) << 48 | self.incarnations)
    }
}
