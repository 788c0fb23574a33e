//! What a node is told once, at construction.

use crate::{
    error::ConfigError,
    types::{Index, PeerId},
};

/// How a leader makes sure that it may answer a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadOnlyOption {
    /// By a round of heartbeats to a quorum.
    #[default]
    Safe,
    /// By the lease that `check_quorum` gives it. Correct only while clocks advance at about the same rate.
    /// During and after a leadership transfer the leader falls back to `Safe`.
    LeaseBased,
}

/// Configuration of a node. [`Config::new`] gives the behaviour of etcd-io/raft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Own id, unique for ever.
    pub id: PeerId,
    /// Ticks without a leader before an election, and ticks of a leader's quorum check.
    pub election_ticks: usize,
    /// Ticks between heartbeats.
    pub heartbeat_ticks: usize,
    /// Least randomized election timeout in ticks, inclusive; 0 = `election_ticks`.
    pub election_ticks_min: usize,
    /// Greatest randomized election timeout in ticks, exclusive; 0 = twice `election_ticks`.
    pub election_ticks_max: usize,
    /// Last index the application has applied; 0 = everything up to the storage's start. The membership that
    /// [`crate::Storage::initial_state`] returns is that of this index.
    pub applied: Index,
    /// Whether storage work is handed out as messages to storage threads instead of by `advance`.
    pub async_storage_writes: bool,
    /// Greatest size of the entries of one append, in [`crate::entry_size`] bytes; at least one entry is sent.
    pub append_bytes_max: u64,
    /// Greatest size of committed entries handed out and not acknowledged as applied; at least one is handed out.
    pub committed_bytes_max: u64,
    /// Greatest payload of uncommitted proposals on a leader; more are dropped. 0 = no limit.
    pub uncommitted_bytes_max: u64,
    /// Greatest number of unacknowledged appends to one peer.
    pub inflight_messages_max: usize,
    /// Greatest payload of unacknowledged appends to one peer; 0 = no limit.
    pub inflight_bytes_max: u64,
    /// Whether a leader steps down when it does not hear from a quorum for `election_ticks`, and peers that hear
    /// from a leader ignore candidates.
    pub check_quorum: bool,
    /// Whether a candidate first asks whether it would win (Raft dissertation, section 9.6).
    pub pre_vote: bool,
    /// How reads are confirmed.
    pub read_only: ReadOnlyOption,
    /// Whether followers drop proposals instead of forwarding them to the leader.
    pub disable_proposal_forwarding: bool,
    /// Whether conf changes are accepted that the leader would refuse (tests only).
    pub disable_conf_change_validation: bool,
    /// Whether a leader steps down when it is removed or demoted.
    pub step_down_on_removal: bool,
    /// Election priority: at equal logs a voter refuses candidates of lower priority (raft-rs). Default 0.
    pub priority: i64,
    /// Whether entries commit only once two commit groups have them (raft-rs); see
    /// [`crate::RawNode::assign_commit_groups`].
    pub group_commit: bool,
    /// Whether followers learn commits only from heartbeats and later appends, to save messages (raft-rs). They say in the
    /// answers to heartbeats what they know ([`crate::RawNode::tick_beside`]).
    pub skip_commit_broadcast: bool,
    /// Whether appends are gathered until the next Ready, so that each peer gets one large append (raft-rs).
    pub batch_append: bool,
    /// Whether vote messages and read answers carry a commit index that lets voters catch up (raft-rs). It resolves
    /// a stalemate where the best candidate waits for a conf change whose commit it does not know of.
    pub commit_fast_forward: bool,
    /// Whether a candidate leads only once its own vote is stored too, however many others voted for it. With async
    /// storage writes its requests leave before that: a candidate that led, crashed and had lost its vote would be
    /// voted for again in the same term, and log another entry at the same index and term. An extension; without async
    /// storage writes it changes nothing.
    pub own_vote_first: bool,
    /// With async storage writes, committed entries that a leader may be given to apply before it has stored them
    /// itself, so that its own disk does not set the pace while a quorum of others has them (TiKV's apply of unpersisted
    /// entries). The state machine may then be found ahead of the log after a crash: who loads it must begin the log
    /// behind what is applied, with the term of that entry at least. An extension; 0 = none, as etcd-io/raft.
    pub apply_ahead_max: u32,
    /// Seed of the randomized election timeouts; mixed with `id`.
    pub seed: u64,
}

const MIB: u64 = 1024 * 1024;

impl Config {
    /// Defaults: 10 election ticks, 1 heartbeat tick, appends of 1 MiB, 256 in flight; nothing else limited or on.
    pub fn new(id: PeerId) -> Self {
        Self {
            id,
            election_ticks: 10,
            heartbeat_ticks: 1,
            election_ticks_min: 0,
            election_ticks_max: 0,
            applied: Index::ZERO,
            async_storage_writes: false,
            append_bytes_max: MIB,
            committed_bytes_max: u64::MAX,
            uncommitted_bytes_max: 0,
            inflight_messages_max: 256,
            inflight_bytes_max: 0,
            check_quorum: false,
            pre_vote: false,
            read_only: ReadOnlyOption::Safe,
            disable_proposal_forwarding: false,
            disable_conf_change_validation: false,
            step_down_on_removal: false,
            priority: 0,
            group_commit: false,
            skip_commit_broadcast: false,
            batch_append: false,
            commit_fast_forward: false,
            own_vote_first: false,
            apply_ahead_max: 0,
            seed: 0,
        }
    }

    /// Checks the relations between the fields.
    ///
    /// # Errors
    /// The first relation that does not hold.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.id.is_zero() || self.id.is_storage_thread() {
            return Err(ConfigError::InvalidId);
        }
        if self.heartbeat_ticks == 0 {
            return Err(ConfigError::ZeroHeartbeatTicks);
        }
        if self.election_ticks <= self.heartbeat_ticks || self.election_ticks > i32::MAX as usize {
            return Err(ConfigError::ElectionTicks);
        }
        let (min, max) = self.election_range();
        if min < self.election_ticks || max <= min || max > u32::MAX as usize {
            return Err(ConfigError::ElectionTicksRange);
        }
        if self.inflight_messages_max == 0 {
            return Err(ConfigError::ZeroInflight);
        }
        if self.inflight_bytes_max != 0 && self.inflight_bytes_max < self.append_bytes_max {
            return Err(ConfigError::InflightBytes);
        }
        if self.read_only == ReadOnlyOption::LeaseBased && !self.check_quorum {
            return Err(ConfigError::LeaseWithoutCheckQuorum);
        }
        Ok(())
    }

    /// Bounds of the randomized election timeout: `[min, max)`.
    fn election_range(&self) -> (usize, usize) {
        let or = |ticks: usize, default: usize| if ticks == 0 { default } else { ticks };
        (
            or(self.election_ticks_min, self.election_ticks),
            or(self.election_ticks_max, 2 * self.election_ticks),
        )
    }

    pub(crate) fn settings(&self) -> Settings {
        let (min, max) = self.election_range();
        let ticks = |ticks: usize| u32::try_from(ticks).expect("validated to fit");
        let limit = |bytes: u64| if bytes == 0 { u64::MAX } else { bytes };
        Settings {
            append_bytes_max: self.append_bytes_max,
            uncommitted_bytes_max: limit(self.uncommitted_bytes_max),
            priority: self.priority,
            election_ticks: ticks(self.election_ticks),
            heartbeat_ticks: ticks(self.heartbeat_ticks),
            election_ticks_min: ticks(min),
            election_ticks_max: ticks(max),
            read_only: self.read_only,
            check_quorum: self.check_quorum,
            pre_vote: self.pre_vote,
            disable_proposal_forwarding: self.disable_proposal_forwarding,
            disable_conf_change_validation: self.disable_conf_change_validation,
            step_down_on_removal: self.step_down_on_removal,
            skip_commit_broadcast: self.skip_commit_broadcast,
            tell_known_commit: self.skip_commit_broadcast,
            batch_append: self.batch_append,
            commit_fast_forward: self.commit_fast_forward,
            own_vote_first: self.own_vote_first,
        }
    }
}

/// The part of [`Config`] that a running node consults, kept small: there is one per group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub append_bytes_max: u64,
    pub uncommitted_bytes_max: u64,
    pub priority: i64,
    pub election_ticks: u32,
    pub heartbeat_ticks: u32,
    pub election_ticks_min: u32,
    pub election_ticks_max: u32,
    pub read_only: ReadOnlyOption,
    pub check_quorum: bool,
    pub pre_vote: bool,
    pub disable_proposal_forwarding: bool,
    pub disable_conf_change_validation: bool,
    pub step_down_on_removal: bool,
    pub skip_commit_broadcast: bool,
    /// Whether answers to heartbeats tell the commit index; unlike the above it does not change.
    pub tell_known_commit: bool,
    pub batch_append: bool,
    pub commit_fast_forward: bool,
    pub own_vote_first: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Config)) -> Result<(), ConfigError> {
        let mut config = Config::new(PeerId(1));
        change(&mut config);
        config.validate()
    }

    #[test]
    fn defaults_are_valid_and_each_broken_relation_is_named() {
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(with(|c| c.id = PeerId::ZERO), Err(ConfigError::InvalidId));
        assert_eq!(with(|c| c.id = PeerId::APPLY_THREAD), Err(ConfigError::InvalidId));
        assert_eq!(with(|c| c.heartbeat_ticks = 0), Err(ConfigError::ZeroHeartbeatTicks));
        assert_eq!(with(|c| c.heartbeat_ticks = 10), Err(ConfigError::ElectionTicks));
        assert_eq!(with(|c| c.election_ticks_min = 9), Err(ConfigError::ElectionTicksRange));
        assert_eq!(with(|c| c.election_ticks_max = 10), Err(ConfigError::ElectionTicksRange));
        assert_eq!(with(|c| c.inflight_messages_max = 0), Err(ConfigError::ZeroInflight));
        assert_eq!(with(|c| c.inflight_bytes_max = 1), Err(ConfigError::InflightBytes));
        assert_eq!(
            with(|c| c.read_only = ReadOnlyOption::LeaseBased),
            Err(ConfigError::LeaseWithoutCheckQuorum)
        );
    }
}
