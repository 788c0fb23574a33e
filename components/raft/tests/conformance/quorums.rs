//! Commands of the `quorum` files.

use std::{collections::BTreeMap, fmt::Write};

use flotilla_raft::{
    Index, PeerId, PeerSet,
    quorum::{self, INDEX_INFINITE, JointConfig, VoteResult},
};

use crate::datadriven::{Case, Handler};

/// Stateless.
pub struct Quorums;

impl Handler for Quorums {
    fn run(&mut self, case: &Case) -> String {
        let result = match case.command.as_str() {
            "committed" => committed(case),
            "vote" => vote(case),
            _ => Err("unknown command".to_owned()),
        };
        let text = result.unwrap_or_else(|error| error);
        if text.ends_with('\n') { text } else { text + "\n" }
    }
}

/// Ids of a config argument; `zero` and a missing one are empty.
fn ids(case: &Case, key: &str) -> Result<Vec<PeerId>, String> {
    let values = case.values(key).unwrap_or_default();
    let real = values.iter().filter(|value| *value != "zero" && !value.is_empty());
    real.map(|value| value.parse().map(PeerId).map_err(|_| format!("bad id {value}"))).collect()
}

struct Setting {
    config: JointConfig,
    is_joint: bool,
    /// Value of each id; `_` is left out.
    values: BTreeMap<PeerId, String>,
}

/// Both configs, and the values by id in order of first appearance.
fn setting(case: &Case, key: &str) -> Result<Setting, String> {
    let (incoming, outgoing) = (ids(case, "cfg")?, ids(case, "cfgj")?);
    let mut order: Vec<PeerId> = Vec::new();
    for id in incoming.iter().chain(&outgoing) {
        if !order.contains(id) {
            order.push(*id);
        }
    }
    let values = case.values(key).unwrap_or_default();
    if values.len() != order.len() {
        let config: PeerSet = order.iter().copied().collect();
        return Err(format!("error: mismatched input (explicit or _) for voters {config:?}: {values:?}"));
    }
    let known = order.into_iter().zip(values.iter().cloned()).filter(|(_, value)| value != "_");
    let config =
        JointConfig { incoming: incoming.into_iter().collect(), outgoing: outgoing.into_iter().collect() };
    Ok(Setting { config, is_joint: case.values("cfgj").is_some(), values: known.collect() })
}

fn vote(case: &Case) -> Result<String, String> {
    let Setting { config, values, .. } = setting(case, "votes")?;
    let votes = |id| values.get(&id).map(|value| value == "y");
    let swapped = JointConfig { incoming: config.outgoing.clone(), outgoing: config.incoming.clone() };
    let result = config.vote_result(votes);
    if swapped.vote_result(votes) != result {
        return Err("the halves are not treated alike".to_owned());
    }
    Ok(match result {
        VoteResult::Won => "VoteWon".to_owned(),
        VoteResult::Pending => "VotePending".to_owned(),
        VoteResult::Lost => "VoteLost".to_owned(),
    })
}

fn committed(case: &Case) -> Result<String, String> {
    let Setting { config, is_joint, values } = setting(case, "idx")?;
    let mut acked: BTreeMap<PeerId, Index> = BTreeMap::new();
    for (id, value) in &values {
        let index =
            value.parse().ok().filter(|index| *index != 0).ok_or_else(|| format!("bad index {value}"))?;
        acked.insert(*id, Index(index));
    }
    let lookup = |id| acked.get(&id).copied();
    let result = if is_joint {
        config.committed_index(lookup)
    } else {
        quorum::committed_index(&config.incoming, lookup)
    };
    let mut out = chart(&config.ids(), &acked);
    let shown = if result == INDEX_INFINITE { "∞".to_owned() } else { result.to_string() };
    writeln!(out, "{shown}").expect("writing to a string");
    for line in cross_checks(&config, is_joint, &acked, result) {
        writeln!(out, "{line}").expect("writing to a string");
    }
    Ok(out)
}

/// Other ways to the same result; a line for each that disagrees.
fn cross_checks(
    config: &JointConfig,
    is_joint: bool,
    acked: &BTreeMap<PeerId, Index>,
    result: Index,
) -> Vec<String> {
    let lookup = |id| acked.get(&id).copied();
    let mut others = Vec::new();
    let by_counting = |voters: &PeerSet| {
        let have =
            |index: Index| voters.iter().filter(|id| lookup(*id).is_some_and(|own| own >= index)).count();
        let reached = |index: &Index| have(*index) >= quorum::majority(voters.len());
        let candidates = acked.values().copied().chain([Index::ZERO]);
        if voters.is_empty() { INDEX_INFINITE } else { candidates.filter(reached).max().unwrap_or_default() }
    };
    if is_joint {
        let swapped = JointConfig { incoming: config.outgoing.clone(), outgoing: config.incoming.clone() };
        others.push(("counting", by_counting(&config.incoming).min(by_counting(&config.outgoing))));
        others.push(("swapping the halves", swapped.committed_index(lookup)));
    } else {
        let joint = |outgoing| JointConfig { incoming: config.incoming.clone(), outgoing };
        others.push(("counting", by_counting(&config.incoming)));
        others.push(("zero joint", joint(PeerSet::default()).committed_index(lookup)));
        others.push(("self joint", joint(config.incoming.clone()).committed_index(lookup)));
    }
    for (id, index) in acked {
        if *index < result {
            let mut lowered = acked.clone();
            lowered.insert(*id, index.prev());
            others.push(("lowering a late ack", config.committed_index(|id| lowered.get(&id).copied())));
        }
    }
    let disagrees = |(_, index): &(&str, Index)| *index != result;
    others.into_iter().filter(disagrees).map(|(way, index)| format!("{index} <-- via {way}")).collect()
}

fn chart(ids: &PeerSet, acked: &BTreeMap<PeerId, Index>) -> String {
    if ids.is_empty() {
        return "<empty majority quorum>".to_owned();
    }
    let len = ids.len();
    let mut by_index: Vec<(Index, PeerId)> =
        ids.iter().map(|id| (acked.get(&id).copied().unwrap_or_default(), id)).collect();
    by_index.sort_unstable();
    let mut bars: BTreeMap<PeerId, usize> = BTreeMap::new();
    let mut bar = 0;
    for position in 0..len {
        if position > 0 && by_index[position].0 > by_index[position - 1].0 {
            bar = position;
        }
        bars.insert(by_index[position].1, bar);
    }
    let mut out = format!("{}    idx\n", " ".repeat(len));
    for id in ids.iter() {
        let index = acked.get(&id);
        let drawn = match index {
            None => format!("?{}", " ".repeat(len)),
            Some(_) => format!("{}>{}", "x".repeat(bars[&id]), " ".repeat(len - bars[&id])),
        };
        let shown = index.copied().unwrap_or_default().0;
        writeln!(out, "{drawn} {shown:>5}    (id={:x})", id.0).expect("writing to a string");
    }
    out
}
