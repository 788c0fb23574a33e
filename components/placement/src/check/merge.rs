//! Merge of small neighbours, in the manner of PD's merge checker: a small region that was neither cut nor busy
//! for long becomes part of a neighbour, if the two are not large together. The neighbour's stores come first:
//! as replicas must lie on the same stores, the small one's are moved onto them.

use flotilla_region::{Peer, StoreId};

use super::balance::{is_complete, start_move};
use super::round::Round;
use crate::{Move, PlacementConfig, Reason, RegionInfo, Step};

/// Merges, or prepares to merge, as many regions as limits leave room for.
pub(super) fn merge_regions(round: &mut Round<'_>) {
    let view = round.view;
    let config = round.config;
    for source in view.regions().iter().filter(|info| is_small(info, config)) {
        if !round.has_merge_slot() {
            return;
        }
        let Some(leader) = calm_leader(round, source) else { continue };
        let Some((target, target_leader)) = best_target(round, source) else { continue };
        match strays(source, target) {
            None => {
                let step = Step::Merge(Box::new((*source.region).clone()));
                round.ask(target, target_leader, Reason::Merge, step);
            }
            Some((from, to)) => {
                let is_possible = round.has_move_slot()
                    && round.is_placeable(source, to)
                    && round.has_fill_slot(source, leader.store, to);
                let join = Some(target.region.id);
                let plan = Move { from: from.id, from_store: from.store, to, join };
                if is_possible && !start_move(round, source, leader, plan, Reason::BalanceRegions) {
                    return;
                }
            }
        }
    }
}

/// Whether a region is small, as far as its leader measured it.
fn is_small(info: &RegionInfo, config: &PlacementConfig) -> bool {
    let has_few = config.merge_keys == 0 || info.keys < config.merge_keys;
    info.is_counted() && info.bytes > 0 && info.bytes < config.merge_bytes && has_few
}

/// Whether two regions are not large together.
fn fit(source: &RegionInfo, target: &RegionInfo, config: &PlacementConfig) -> bool {
    let have_few = config.merge_keys == 0 || target.keys + source.keys <= 2 * config.merge_keys;
    target.bytes > 0 && target.bytes + source.bytes <= 2 * config.merge_bytes && have_few
}

/// The leader of a region to which nothing happens or happened lately.
fn calm_leader(round: &Round<'_>, info: &RegionInfo) -> Option<Peer> {
    round.reachable_leader(info).filter(|_| is_quiet(round, info) && is_complete(round, info))
}

/// Whether a region was neither cut nor busy for long.
fn is_quiet(round: &Round<'_>, info: &RegionInfo) -> bool {
    let is_busy = info.is_busy(round.config.merge_requests_max);
    info.is_counted() && !is_busy && round.calm_ms(info.region.id) >= round.config.merge_wait_ms
}

/// Whether a small region is to become part of a neighbour, or a neighbour of it. Balance that took either of them away
/// would undo what is done for the merge, and be undone in turn.
pub(super) fn is_to_merge(round: &Round<'_>, info: &RegionInfo) -> bool {
    let wants = |source: &RegionInfo, target: &RegionInfo| {
        is_small(source, round.config)
            && fit(source, target, round.config)
            && strays(source, target).is_none_or(|(_, to)| round.is_placeable(source, to))
    };
    round.config.merge_regions
        && is_quiet(round, info)
        && neighbours(round, info)
            .any(|other| is_quiet(round, other) && (wants(info, other) || wants(other, info)))
}

/// The regions before and after one.
fn neighbours<'v>(round: &Round<'v>, info: &RegionInfo) -> impl Iterator<Item = &'v RegionInfo> {
    let (space, range) = (info.region.space, &info.region.range);
    let before = round.view.regions().before_key(space, &range.start);
    let after = (!range.end.is_empty()).then(|| round.view.regions().by_key(space, &range.end)).flatten();
    [before, after].into_iter().flatten()
}

/// The neighbour that takes the region over: one on the same stores rather than another, then the smaller one.
fn best_target<'v>(round: &Round<'v>, source: &RegionInfo) -> Option<(&'v RegionInfo, Peer)> {
    let candidates = neighbours(round, source).filter(|target| fit(source, target, round.config));
    let calm = candidates.filter_map(|target| Some((target, calm_leader(round, target)?)));
    calm.min_by_key(|(target, _)| (strays(source, target).is_some(), target.bytes, target.region.id))
}

/// The source's first replica on a store where the target has none, and a store of the target that lacks the source.
fn strays(source: &RegionInfo, target: &RegionInfo) -> Option<(Peer, StoreId)> {
    let from = source.region.peers.iter().find(|p| target.region.peer_on(p.store).is_none())?;
    let to = target.region.peers.iter().find(|p| source.region.peer_on(p.store).is_none())?;
    Some((*from, to.store))
}
