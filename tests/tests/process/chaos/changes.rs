//! Administrative changes, chosen by a seed and made by command.

use std::collections::BTreeMap;
use std::fmt;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::registers::anchor;
use crate::harness::{Operator, RegionView, eventually};
use crate::model::Choices;

/// Changes under way at once; a command may wait for a store that is down.
const UNDER_WAY_MAX: usize = 8;
/// How long a replica that was removed may take to be back, before it is no matter of this change any more.
const BACK_LIMIT: Duration = Duration::from_secs(20);
/// Characters of a refusal that tell it from others.
const REASON_CHARS: usize = 90;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A region is cut at a random key.
    Split,
    /// A region becomes part of a neighbour.
    Merge,
    /// A replica is removed, and a new one made on the same store: with as many stores as replicas there is no other.
    Move,
    /// Another replica leads.
    Transfer,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Split, Self::Merge, Self::Move, Self::Transfer];
}

/// Changes of one kind.
#[derive(Debug, Default)]
pub struct Tally {
    /// Carried out.
    pub done: usize,
    /// Refused, or without a known outcome, by reason.
    pub refused: BTreeMap<String, usize>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} done, {} refused", self.done, self.refused.values().sum::<usize>())?;
        self.refused.iter().try_for_each(|(why, times)| write!(f, "\n    {times:3} {why}"))
    }
}

type Outcome = (Kind, Result<(), String>);

/// Makes changes, each in a thread of its own.
pub struct Changes {
    operator: Operator,
    choices: Choices,
    slots: u64,
    under_way: Vec<JoinHandle<Outcome>>,
    /// By kind.
    pub tallies: BTreeMap<Kind, Tally>,
    /// Left out because too many were under way.
    pub left_out: usize,
}

impl Changes {
    /// Of a cluster with so many slots of keys.
    pub fn new(operator: Operator, slots: u64, seed: u64) -> Self {
        let tallies = Kind::ALL.into_iter().map(|kind| (kind, Tally::default())).collect();
        let choices = Choices::new(seed);
        Self { operator, choices, slots, under_way: Vec::new(), tallies, left_out: 0 }
    }

    /// Begins the next change.
    pub fn begin(&mut self) {
        let kind = Kind::ALL[self.choices.below(4) as usize];
        let dice = Dice([0; 3].map(|_| self.choices.below(u64::MAX)), self.slots);
        let (ended, going) =
            std::mem::take(&mut self.under_way).into_iter().partition(JoinHandle::is_finished);
        self.under_way = going;
        self.count(ended);
        if self.under_way.len() >= UNDER_WAY_MAX {
            self.left_out += 1;
            return;
        }
        let operator = self.operator.clone();
        self.under_way.push(thread::spawn(move || (kind, change(&operator, kind, &dice))));
    }

    /// Waits for those that are under way.
    pub fn finish(&mut self) {
        let all = std::mem::take(&mut self.under_way);
        self.count(all);
    }

    fn count(&mut self, ended: Vec<JoinHandle<Outcome>>) {
        for ended in ended {
            let (kind, outcome) = ended.join().expect("a command ends");
            let tally = self.tallies.entry(kind).or_default();
            match outcome {
                Ok(()) => tally.done += 1,
                Err(why) => *tally.refused.entry(reason(&why)).or_default() += 1,
            }
        }
    }
}

/// A refusal without its command and its numbers.
fn reason(why: &str) -> String {
    let why = why.split_once("]: ").map_or(why, |(_, why)| why);
    let mut reason = String::new();
    for c in why.chars().take(REASON_CHARS) {
        match c {
            '0'..='9' if reason.ends_with('#') => {}
            '0'..='9' => reason.push('#'),
            c => reason.push(c),
        }
    }
    reason
}

/// Numbers drawn for one change, and the number of slots.
struct Dice([u64; 3], u64);

impl Dice {
    fn pick<'a, T>(&self, which: usize, from: &'a [T]) -> Option<&'a T> {
        let at = self.0[which].checked_rem(from.len() as u64)?;
        from.get(at as usize)
    }
}

fn change(operator: &Operator, kind: Kind, dice: &Dice) -> Result<(), String> {
    let regions = operator.regions()?;
    let users: Vec<&RegionView> = regions.iter().filter(|region| !region.is_meta).collect();
    match kind {
        Kind::Split => split(operator, &users, dice),
        Kind::Merge => merge(operator, &users, dice),
        Kind::Move => replace(operator, &users, dice),
        Kind::Transfer => transfer(operator, &users, dice),
    }
}

fn split(operator: &Operator, regions: &[&RegionView], dice: &Dice) -> Result<(), String> {
    // Behind the slot's first key, so that no border is there yet.
    let key = format!("{}/{:06}", anchor(dice.0[0] % dice.1), dice.0[1] % 1_000_000);
    let region = regions.iter().find(|region| region.holds(key.as_bytes())).ok_or("no such region")?;
    operator.ctl(&["split", "--region", &region.id.to_string(), "--key", &key]).map(drop)
}

fn merge(operator: &Operator, regions: &[&RegionView], dice: &Dice) -> Result<(), String> {
    let pairs: Vec<&[&RegionView]> = regions.windows(2).collect();
    let pair = dice.pick(0, &pairs).ok_or("one region")?;
    let [left, right] = [pair[0].id, pair[1].id].map(|id| id.to_string());
    let (source, target) = if dice.0[1].is_multiple_of(2) { (left, right) } else { (right, left) };
    operator.ctl(&["merge", "--region", &source, "--into", &target]).map(drop)
}

fn transfer(operator: &Operator, regions: &[&RegionView], dice: &Dice) -> Result<(), String> {
    let region = dice.pick(0, regions).ok_or("no region")?;
    let others: Vec<u64> = region
        .stores()
        .into_iter()
        .filter(|id| region.leader.is_none_or(|(_, store)| store != *id))
        .collect();
    let store = dice.pick(1, &others).ok_or("one voter")?;
    let (region, store) = (region.id.to_string(), store.to_string());
    operator.ctl(&["transfer-leader", "--region", &region, "--store", &store]).map(drop)
}

fn replace(operator: &Operator, regions: &[&RegionView], dice: &Dice) -> Result<(), String> {
    let whole: Vec<&RegionView> =
        regions.iter().copied().filter(|region| region.voters.len() == 3 && region.others == 0).collect();
    let region = dice.pick(0, &whole).ok_or("no region with three replicas")?;
    let (peer, store) = *dice.pick(1, &region.voters).ok_or("no replica")?;
    let (id, on) = (region.id.to_string(), store.to_string());
    operator.ctl(&["remove-peer", "--region", &id, "--store", &on])?;
    // By command or by placement, whoever is first.
    let added = operator.ctl(&["add-peer", "--region", &id, "--store", &on]);
    eventually(BACK_LIMIT, || {
        let regions = operator.regions()?;
        let region = regions.iter().find(|now| now.id == region.id).ok_or("merged meanwhile")?;
        let is_new = region.voters.iter().any(|(new, at)| *at == store && *new != peer);
        if is_new { Ok(()) } else { Err(format!("removed, no new one yet: {added:?}")) }
    })
}
