//! From a caller's command to a log entry, and back to the caller.

use std::collections::VecDeque;

use flotilla_region::{Index, RegionId, Term};

use super::Peer;
use crate::entry::{COMMANDS_HEADER_BYTES, CommandsEncoder};
use crate::error::RequestError;
use crate::msg::{Callers, Few, Quota, Waiting, WriteDone, WriteRequest};
use crate::shared::Counters;
use crate::time::Time;
use crate::worker::Env;

/// While this many of its entries are uncommitted a region gathers commands instead of proposing a next entry: under
/// load the entries grow, and their count follows the disk's pace.
const ENTRIES_IN_FLIGHT: usize = 2;
/// A gathered entry of so many bytes is proposed at once.
const ENTRY_BYTES_TARGET: usize = 128 << 10;

/// Commands and callers of one region.
#[derive(Default)]
pub(crate) struct Writes {
    encoder: CommandsEncoder,
    gathered: Few<(WriteDone, Quota)>,
    /// Proposed, in log order.
    proposed: VecDeque<Waiting>,
    /// Waiting for a leader to appear, with the time at which they are answered without one.
    parked: VecDeque<(Time, WriteRequest)>,
    /// The region, in this version, is far beyond its size, and until when that is believed.
    crowded: Option<(u64, Time)>,
}

impl Writes {
    /// The region is far larger than it should be, and about to be split.
    pub(crate) fn crowd(&mut self, version: u64, until: Time) {
        self.crowded = Some((version, until));
    }

    fn is_crowded(&self, version: u64, now: Time) -> bool {
        self.crowded.is_some_and(|(crowded, until)| crowded == version && now < until)
    }

    /// Whether commands wait to be proposed.
    pub(crate) fn has_gathered(&self) -> bool {
        !self.gathered.is_empty()
    }

    /// Whether nobody waits here.
    pub(crate) fn is_idle(&self) -> bool {
        self.gathered.is_empty() && self.proposed.is_empty() && self.parked.is_empty()
    }

    /// Whether nothing is remembered here.
    pub(crate) fn is_blank(&self) -> bool {
        self.is_idle() && self.encoder.bytes() == 0 && self.crowded.is_none()
    }

    /// Gives back room that nobody needs now.
    pub(crate) fn shrink(&mut self, now: Time) {
        self.crowded = self.crowded.filter(|(_, until)| now < *until);
        self.gathered.shrink_to_fit();
        self.proposed.shrink_to_fit();
        self.parked.shrink_to_fit();
    }

    /// Remembers the caller of a proposed entry.
    pub(crate) fn push_proposed(&mut self, waiting: Waiting) {
        self.proposed.push_back(waiting);
    }

    /// Entries proposed and not handed to apply.
    pub(crate) fn in_flight(&self) -> usize {
        self.proposed.len()
    }

    /// Callers of entries up to `index`.
    pub(crate) fn take_up_to(&mut self, index: Index) -> Few<Waiting> {
        let n = self.proposed.iter().take_while(|w| w.index <= index).count();
        self.proposed.drain(..n).collect()
    }

    /// Ends proposals of earlier terms than `term`, which an entry committed before their indexes has: a later entry
    /// of the log cannot be of an earlier term, so they never commit.
    pub(crate) fn fail_overtaken(&mut self, term: Term) {
        let (overtaken, rest): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.proposed).into_iter().partition(|w| w.term < term);
        self.proposed = rest;
        overtaken.into_iter().for_each(|w| w.callers.fail(&RequestError::Stale));
    }

    /// Answers parked requests whose time is over.
    pub(crate) fn expire(&mut self, now: Time, region: RegionId) {
        while self.parked.front().is_some_and(|(deadline, _)| *deadline <= now) {
            if let Some((_, request)) = self.parked.pop_front() {
                (request.done)(Err(RequestError::NotLeader { region, leader: None }));
            }
        }
    }

    /// Ends everything: the peer is going away, and what was proposed may or may not be committed.
    pub(crate) fn fail_all(&mut self, region: RegionId) {
        self.encoder = CommandsEncoder::default();
        for (done, _) in self.gathered.drain(..) {
            done(Err(RequestError::RegionNotFound(region)));
        }
        for (_, request) in self.parked.drain(..) {
            (request.done)(Err(RequestError::RegionNotFound(region)));
        }
        for waiting in self.proposed.drain(..) {
            waiting.callers.fail(&RequestError::Undetermined);
        }
    }
}

impl Callers {
    /// Tells all callers the same error.
    pub(crate) fn fail(self, error: &RequestError) {
        match self {
            Self::Writes(writes) => writes.into_iter().for_each(|(done, _)| done(Err(error.clone()))),
            Self::Admin(done) => done(Err(error.clone())),
        }
    }
}

impl Peer {
    /// Takes a command from a caller.
    pub(crate) fn write(&mut self, request: WriteRequest, env: &mut Env) {
        if let Err(error) = self.check_context(&request.context, true) {
            return self.refuse_write(request, error, env);
        }
        let bytes = COMMANDS_HEADER_BYTES + 4 + request.command.len();
        let bytes_max = env.shared.config.entry_bytes_max;
        if bytes > bytes_max {
            let error = RequestError::EntryTooLarge { region: self.id(), bytes, bytes_max };
            return (request.done)(Err(error));
        }
        if self.writes.encoder.bytes() + bytes > bytes_max {
            self.propose_gathered(env);
        }
        if self.writes.is_crowded(self.region.epoch.version, env.now) {
            Counters::add(&env.shared.counters.crowded_writes, 1);
            return (request.done)(Err(RequestError::Busy));
        }
        let machine = env.shared.machine(self.region.space);
        self.load.write(request.command.len() as u64, |drawn| machine.sample_key(&request.command, drawn));
        self.writes.encoder.push(&request.command);
        self.writes.gathered.push((request.done, request.quota));
    }

    /// Without a known leader a request waits for one: an election is shorter than what clients put up with.
    fn refuse_write(&mut self, request: WriteRequest, error: RequestError, env: &mut Env) {
        match error {
            RequestError::NotLeader { leader: None, .. } => {
                let deadline = env.now.plus_ms(env.shared.config.leader_wait_ms);
                self.writes.parked.push_back((deadline, request));
            }
            error => (request.done)(Err(error)),
        }
    }

    /// Who leads has changed: parked requests are proposed, or told where to go.
    pub(crate) fn unpark_writes(&mut self, env: &mut Env) {
        for (deadline, request) in std::mem::take(&mut self.writes.parked) {
            match self.check_context(&request.context, true) {
                Err(RequestError::NotLeader { leader: None, .. }) => {
                    self.writes.parked.push_back((deadline, request));
                }
                _ => self.write(request, env),
            }
        }
    }

    /// End of a turn: proposes what was gathered, unless enough of the region's entries are under way.
    pub(crate) fn flush_writes(&mut self, env: &mut Env) {
        if !self.node.lead_transferee().is_zero() {
            // The core refuses proposals while it hands over; who leads is decided within one election timeout.
            return;
        }
        let full = self.writes.encoder.bytes() >= ENTRY_BYTES_TARGET;
        if self.writes.has_gathered() && (full || self.writes.in_flight() < ENTRIES_IN_FLIGHT) {
            self.propose_gathered(env);
        }
    }

    pub(crate) fn propose_gathered(&mut self, env: &mut Env) {
        let callers = std::mem::take(&mut self.writes.gathered);
        if callers.is_empty() {
            return;
        }
        let data = self.writes.encoder.finish(self.region.epoch.version, env.shared.clock.unix_ms());
        let commands = callers.len() as u64;
        let proposed_at = env.now;
        match self.propose(data, Callers::Writes(callers), proposed_at) {
            Ok(()) => {
                Counters::add(&env.shared.counters.proposals, 1);
                Counters::add(&env.shared.counters.proposed_commands, commands);
            }
            Err(callers) => {
                let busy = self.is_leader() && self.node.lead_transferee().is_zero();
                callers.fail(&if busy { RequestError::Busy } else { self.not_leader() });
            }
        }
    }

    /// Proposes an entry; gives the callers back if the core drops it.
    pub(crate) fn propose(&mut self, data: bytes::Bytes, callers: Callers, at: Time) -> Result<(), Callers> {
        if !self.is_leader() || self.node.propose(data).is_err() {
            return Err(callers);
        }
        let (index, term) = (self.node.last_index(), self.node.term());
        self.writes.push_proposed(Waiting { index, term, proposed_at: at, callers });
        Ok(())
    }

    /// The region was cut: what was gathered was checked against the old shape, and an entry carries the version at
    /// which it is proposed.
    pub(crate) fn refuse_gathered(&mut self) {
        self.writes.encoder = CommandsEncoder::default();
        let error = self.epoch_not_match();
        for (done, _) in std::mem::take(&mut self.writes.gathered) {
            done(Err(error.clone()));
        }
    }

    /// This peer no longer leads in the term of its proposals: gathered commands were never proposed; proposed ones
    /// are decided when their index is applied.
    pub(crate) fn on_lost_leadership(&mut self) {
        // Its entry may be overwritten. If it is not, a later leadership applies it before it serves anything.
        self.pending_split = None;
        self.writes.encoder = CommandsEncoder::default();
        let error = self.not_leader();
        for (done, _) in std::mem::take(&mut self.writes.gathered) {
            done(Err(error.clone()));
        }
    }
}
