//! The part of placement that runs on the store that leads the meta region: the cluster view, and what follows from
//! it. Born with a leadership, gone with it.

use std::sync::Arc;

use crate::wire::pb;
use flotilla_placement::meta::{self, MetaReply};
use flotilla_placement::{
    ClusterView, InFlight, MoveOrder, MovePhase, MoveRefusal, Operator, PlacementConfig, RegionInfo, Step,
    StoreHealth, StoreRecord, StoreStats,
};
use flotilla_placement::{PeerChangeKind, Rates, check, drained_stores, order_move, standing};
use flotilla_region::{PeerId, RegionId, StoreId, Term};

use super::machine::StoredFacts;
use crate::msg::{AdminCommand, PeerChange};
use crate::shared::Shared;
use crate::time::Time;
use crate::wire;

/// A pass is made at least so often while something is under way, or enough is not known yet.
const PASS_MS: u64 = 2_000;
/// While nothing is, passes over so many regions cost no more than those over a few.
const PASS_REGIONS: u64 = 1_000;

/// One leadership of the meta region.
pub(super) struct Driver {
    config: PlacementConfig,
    pub(super) view: ClusterView,
    flight: InFlight,
    seen_revision: u64,
    seen_standing: (bool, Vec<(StoreHealth, bool)>),
    next_pass: Time,
    next_drained: Time,
}

impl Driver {
    /// Begins a leadership: the registry is read from the meta region's own data, everything else must be reported
    /// anew.
    pub(super) fn new(shared: &Shared, term: Term, now: Time) -> Self {
        let mut config = shared.config.placement.clone();
        if shared.config.split_bytes > 0 {
            // What a merge makes must not be split at once.
            config.merge_bytes = config.merge_bytes.min(shared.config.split_bytes / 3);
        }
        if shared.config.split_keys > 0 && config.merge_keys > 0 {
            config.merge_keys = config.merge_keys.min(shared.config.split_keys / 3).max(1);
        }
        let mut driver = Self {
            config,
            view: ClusterView::new(term, now.0 / 1_000),
            flight: InFlight::new(),
            seen_revision: 0,
            seen_standing: (false, Vec::new()),
            next_pass: now,
            next_drained: now,
        };
        driver.reload_stores(shared);
        driver
    }

    /// Reads the registry again. Returns it; `None` if it cannot be read: nobody may take that for an empty one.
    pub(super) fn reload_stores(&mut self, shared: &Shared) -> Option<Vec<StoreRecord>> {
        let snapshot = shared.engine.snapshot();
        // A fact that cannot be read counts as missing; a registry without stores is one of those.
        let stores = meta::stores(&StoredFacts(&*snapshot)).ok().filter(|stores| !stores.is_empty());
        let Some(stores) = stores else {
            tracing::error!("the registry of stores cannot be read");
            return None;
        };
        for record in &stores {
            self.view.put_store(record.clone());
        }
        Some(stores)
    }

    /// A heartbeat of a store.
    pub(super) fn on_heartbeat(&mut self, from: StoreId, beat: &pb::StoreHeartbeat, now: Time) {
        let stats = stats_of(beat);
        self.view.heartbeat(from, beat.boot_id, stats, now.0 / 1_000, &self.config);
        let damaged = beat.damaged.iter().map(|d| (RegionId(d.region_id), PeerId(d.peer_id)));
        self.view.damaged(from, damaged.collect());
    }

    /// Reports of a store; a report since the beginning makes it a full one.
    pub(super) fn on_reports(
        &mut self,
        from: StoreId,
        infos: impl IntoIterator<Item = RegionInfo>,
        dropped: &[u64],
        (boot_id, since): (u64, u64),
    ) {
        for info in infos {
            self.view.report(info);
        }
        for id in dropped {
            self.view.dropped(RegionId(*id), from);
        }
        if since == 0 {
            self.view.reported(from, boot_id);
        }
    }

    /// What to do next.
    pub(super) fn pass(&mut self, shared: &Shared, now: Time) -> Vec<Operator> {
        self.view.judge_disks(&self.config, now.0 / 1_000);
        let standing = standing(&self.view, &self.config, now.0 / 1_000);
        let is_same = self.view.revision() == self.seen_revision && standing == self.seen_standing;
        if is_same && now < self.next_pass {
            return Vec::new();
        }
        self.seen_revision = self.view.revision();
        self.seen_standing = standing;
        let mut ids = shared.ids.lock();
        let operators = check(&self.view, &self.config, &mut self.flight, &mut ids, now.0 / 1_000);
        let is_calm = self.seen_standing.0 && self.flight.is_idle() && ids.remaining() > 0;
        let regions = if is_calm { self.view.regions().len() as u64 } else { 0 };
        self.next_pass = now.plus_ms(PASS_MS * (regions / PASS_REGIONS).max(1));
        operators
    }

    /// Drained stores that hold nothing any more, asked for once in a while. A disk whose address another one took over
    /// may come back and say so itself.
    pub(super) fn drained(&mut self, shared: &Shared, now: Time) -> Vec<StoreId> {
        if now < self.next_drained || !shared.config.placement.remove_drained {
            return Vec::new();
        }
        self.next_drained = now.plus_ms(PASS_MS);
        let empty = drained_stores(&self.view, &shared.config.placement, now.0 / 1_000);
        let has_address =
            |id: &StoreId| self.view.store(*id).is_some_and(|store| !store.record.address.is_empty());
        empty.into_iter().filter(has_address).collect()
    }

    /// Begins a move, or tells how far it is.
    ///
    /// # Errors
    /// Why the replica is not moved.
    pub(super) fn order(&mut self, order: MoveOrder, now: Time) -> Result<MovePhase, MoveRefusal> {
        let phase = order_move(&self.view, &self.config, &mut self.flight, order, now.0 / 1_000);
        if matches!(phase, Ok(MovePhase::Waiting(_))) {
            self.next_pass = now;
        }
        phase
    }

    /// An operator was refused.
    pub(super) fn failed(&mut self, region: RegionId, epoch: flotilla_region::RegionEpoch) {
        self.flight.failed(region, epoch);
    }
}

/// A heartbeat's numbers.
pub(super) fn stats_of(beat: &pb::StoreHeartbeat) -> StoreStats {
    StoreStats {
        capacity_bytes: beat.capacity_bytes,
        available_bytes: beat.available_bytes,
        region_count: beat.region_count,
        leader_count: beat.leader_count,
        sending_snapshots: beat.sending_snapshots,
        receiving_snapshots: beat.receiving_snapshots,
        log_sync_us: beat.log_sync_us,
    }
}

/// A report as placement understands it.
pub(super) fn info_of(report: &pb::RegionReport) -> Option<RegionInfo> {
    let down = report.down_peers.iter().zip(&report.down_seconds);
    let rates = Rates {
        reads: report.reads,
        read_bytes: report.read_bytes,
        writes: report.writes,
        write_bytes: report.write_bytes,
    };
    Some(RegionInfo {
        region: Arc::new(wire::region_from_wire(report.region.as_ref()?)),
        leader: report.leader.as_ref().map(|p| PeerId(p.id)),
        term: Term(report.term),
        bytes: report.approximate_bytes,
        keys: report.approximate_keys,
        down: down.map(|(peer, seconds)| (PeerId(*peer), seconds * 1_000)).collect(),
        pending: report.pending_peers.iter().map(|p| PeerId(*p)).collect(),
        ready: report.ready,
        is_hot: report.is_hot,
        rates,
    })
}

/// What is known of a led region, as a report.
pub(super) fn report_of(info: &RegionInfo) -> pb::RegionReport {
    pb::RegionReport {
        region: Some(wire::region_to_wire(&info.region)),
        leader: info.leader_peer().map(wire::peer_to_wire),
        term: info.term.0,
        approximate_bytes: info.bytes,
        approximate_keys: info.keys,
        pending_peers: info.pending.iter().map(|p| p.0).collect(),
        down_peers: info.down.keys().map(|peer| peer.0).collect(),
        down_seconds: info.down.values().map(|ms| ms / 1_000).collect(),
        ready: info.ready,
        is_hot: info.is_hot,
        reads: info.rates.reads,
        read_bytes: info.rates.read_bytes,
        writes: info.rates.writes,
        write_bytes: info.rates.write_bytes,
    }
}

/// An operator for the region's leader.
pub(super) fn operator_to_wire(operator: &Operator) -> pb::Operator {
    use pb::operator::Step as WireStep;
    use pb::peer_change::Kind;
    let step = match &operator.step {
        Step::TransferLeader(to) => WireStep::TransferLeader(wire::peer_to_wire(to)),
        Step::LeaveJoint => WireStep::LeaveJoint(pb::LeaveJoint {}),
        Step::Merge(source) => WireStep::MergeSource(wire::region_to_wire(source)),
        Step::ChangePeers(changes) => {
            let changes = changes.iter().map(|change| {
                let kind = match change.kind {
                    PeerChangeKind::AddVoter => Kind::AddVoter,
                    PeerChangeKind::AddLearner => Kind::AddLearner,
                    PeerChangeKind::Remove => Kind::Remove,
                };
                pb::PeerChange { kind: kind as i32, peer: Some(wire::peer_to_wire(&change.peer)) }
            });
            WireStep::ChangePeers(pb::ChangePeers { changes: changes.collect() })
        }
    };
    pb::Operator {
        region_id: operator.region.0,
        epoch: Some(wire::epoch_to_wire(operator.epoch)),
        step: Some(step),
    }
}

/// What an operator asks of the region's leader.
pub(super) fn command_of(operator: &pb::Operator) -> Option<AdminCommand> {
    use pb::operator::Step as WireStep;
    use pb::peer_change::Kind;
    Some(match operator.step.as_ref()? {
        WireStep::TransferLeader(to) => AdminCommand::TransferLeader(PeerId(to.id)),
        WireStep::LeaveJoint(_) => AdminCommand::LeaveJoint,
        WireStep::MergeSource(source) => AdminCommand::Merge(Box::new(wire::region_from_wire(source))),
        WireStep::Split(split) => AdminCommand::Split { keys: split.keys.clone() },
        WireStep::ChangePeers(changes) => {
            let changes = changes.changes.iter().map(|change| {
                let peer = wire::peer_from_wire(change.peer.as_ref()?);
                Some(match change.kind() {
                    Kind::AddVoter => PeerChange::AddVoter(peer),
                    Kind::AddLearner => PeerChange::AddLearner(peer),
                    Kind::Remove => PeerChange::Remove(peer.id),
                })
            });
            AdminCommand::ChangePeers(changes.collect::<Option<_>>()?)
        }
    })
}

/// A meta command's reply as bytes; `None` if this version cannot read it.
pub(super) fn decode_reply(reply: &[u8]) -> Option<MetaReply> {
    MetaReply::decode(reply).ok()
}
