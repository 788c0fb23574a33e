//! One pass of all checkers and schedulers over the view.
//!
//! Order, by what an outage there would cost: the meta region; regions in a joint configuration; other regions that
//! need a replica, those with the fewest live voters to spare first; moves that were asked for by hand; then, as far as
//! limits leave room, leaders' balance; and only while nothing is being repaired, merges of small neighbours and regions' balance.

mod balance;
mod merge;
mod ordered;
mod replica;
mod round;

use flotilla_region::{RegionId, Space, StoreId};

use crate::{ClusterView, IdPool, InFlight, Operator, PlacementConfig, StoreHealth, StoreInfo, StoreState};
use replica::Verdict;
use round::Round;

/// Decides the next steps of all regions. `ids` gives the ids of new peers; when it runs dry, replicas are added once
/// it has been refilled.
///
/// Returns nothing before the view is complete ([`is_report_complete`]). Each operator returned is remembered in
/// `flight` and not returned again until it expired or [`InFlight::failed`] said so; send it to the leader it names.
/// A pass costs a visit to every region: run it when [`ClusterView::revision`] or [`standing`] moved, every few seconds
/// while something is under way, and now and then for what else time alone changes.
pub fn check(
    view: &ClusterView,
    config: &PlacementConfig,
    flight: &mut InFlight,
    ids: &mut IdPool,
    now_ms: u64,
) -> Vec<Operator> {
    flight.settle(view, config, now_ms);
    if !is_report_complete(view, config, now_ms) {
        return Vec::new();
    }
    let mut round = Round::new(view, config, flight, ids, now_ms);
    // Before the checkers, which would remove a learner that an order is about to need.
    ordered::begin_orders(&mut round);
    let mut is_repairing = false;
    for id in by_urgency(&round) {
        let info = view.regions().by_id(id).expect("listed from the same view");
        is_repairing |= replica::check_region(&mut round, info) == Verdict::Repairing;
    }
    balance::leave_slow_disks(&mut round);
    if config.balance_leaders {
        balance::balance_leaders(&mut round);
    }
    if config.merge_regions && !is_repairing {
        merge::merge_regions(&mut round);
    }
    if config.balance_regions && !is_repairing {
        balance::balance_regions(&mut round);
    }
    round.into_operators()
}

/// What a pass could decide differently on as time passes, regions and what is under way aside: whether enough is known,
/// and of every store whether it answers and has done so for long enough to be given leaders.
pub fn standing(
    view: &ClusterView,
    config: &PlacementConfig,
    now_ms: u64,
) -> (bool, Vec<(StoreHealth, bool)>) {
    let of_store = |store: &StoreInfo| {
        let is_settled = now_ms.saturating_sub(store.settled_since_ms) >= config.store_settle_ms;
        (view.health(store.record.id, config, now_ms), is_settled)
    };
    (is_report_complete(view, config, now_ms), view.stores().map(of_store).collect())
}

/// Whether enough is known to schedule anything: every store of the registry sent a full report in this leadership,
/// or it had time enough to.
pub fn is_report_complete(view: &ClusterView, config: &PlacementConfig, now_ms: u64) -> bool {
    now_ms.saturating_sub(view.since_ms()) >= config.report_wait_ms
        || view.stores().all(|s| {
            // A disk whose address another one took over will not report.
            let is_replaced = s.record.state == StoreState::Offline && s.record.address.is_empty();
            s.record.state == StoreState::Tombstone || is_replaced || s.has_reported
        })
}

/// Stores being drained that no known region has a peer on: they may become tombstones. Empty unless every store
/// that is not gone reported, and the known regions cover both key spaces.
pub fn drained_stores(view: &ClusterView, config: &PlacementConfig, now_ms: u64) -> Vec<StoreId> {
    let has_all_reports = view.stores().all(|s| {
        s.record.state != StoreState::Up
            || s.has_reported
            || view.health(s.record.id, config, now_ms) == StoreHealth::Gone
    });
    let covers_all = view.regions().covers(Space::User) && view.regions().covers(Space::Meta);
    if !has_all_reports || !covers_all || !is_report_complete(view, config, now_ms) {
        return Vec::new();
    }
    view.stores()
        .filter(|s| s.record.state == StoreState::Offline && view.load(s.record.id).all_peers == 0)
        .map(|s| s.record.id)
        .collect()
}

/// All regions, the most urgent first.
fn by_urgency(round: &Round<'_>) -> Vec<RegionId> {
    let mut keyed: Vec<_> = round
        .view
        .regions()
        .iter()
        .map(|info| {
            let id = info.region.id;
            (id != RegionId::META, !info.region.is_joint(), round.spare_voters(info), id)
        })
        .collect();
    keyed.sort_unstable();
    keyed.into_iter().map(|key| key.3).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
