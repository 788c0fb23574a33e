//! Beginning of moves that were asked for by hand; [`super::replica`] carries them through like any other.

use super::balance::start_move;
use super::round::Round;
use crate::order::{Order, OrderState, check_order};
use crate::{Move, MoveRefusal, OrderWait, Reason};

/// Begins the orders that wait, as far as their regions and limits leave room.
pub(super) fn begin_orders(round: &mut Round<'_>) {
    for order in round.waiting_orders() {
        let state = match begin(round, order) {
            Ok(state) => state,
            Err(refusal) => OrderState::Ended(Err(refusal), round.now_ms),
        };
        round.put_order(Order { state, ..order });
    }
}

fn begin(round: &mut Round<'_>, order: Order) -> Result<OrderState, MoveRefusal> {
    let (id, wanted) = (order.order.region, order.order);
    let view = round.view;
    let info = view.regions().by_id(id).ok_or(MoveRefusal::RegionGone(id))?;
    let planned = round.planned_move(id);
    if let Some(plan) = planned.filter(|plan| (plan.from_store, plan.to) == (wanted.from, wanted.to)) {
        // Balance had the same idea.
        return Ok(OrderState::Begun(plan.from));
    }
    if planned.is_some() || info.region.is_joint() || round.is_busy(id) {
        return Ok(OrderState::Waiting(OrderWait::Region));
    }
    check_order(view, round.config, wanted, round.now_ms)?;
    if round.spare_voters(info) < 0 {
        return Err(MoveRefusal::NoQuorum(id));
    }
    let Some(leader) = round.reachable_leader(info) else {
        return Ok(OrderState::Waiting(OrderWait::Leader));
    };
    let no_peer = MoveRefusal::NoPeer { region: id, store: wanted.from };
    let from = info.region.peer_on(wanted.from).ok_or(no_peer)?.id;
    let plan = Move { from, from_store: wanted.from, to: wanted.to, join: None };
    if info.region.peer_on(wanted.to).is_some() {
        // The learner of an earlier attempt.
        round.plan_move(id, plan);
        return Ok(OrderState::Begun(from));
    }
    if !round.has_fill_slot(info, leader.store, wanted.to) {
        return Ok(OrderState::Waiting(OrderWait::Slots));
    }
    if !start_move(round, info, leader, plan, Reason::Ordered) {
        return Ok(OrderState::Waiting(OrderWait::Ids));
    }
    Ok(OrderState::Begun(from))
}
