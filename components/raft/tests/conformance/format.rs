//! How etcd-io/raft's tests print states, messages and Readys.

use std::fmt::Write;

use flotilla_raft::{
    ConfChange, ConfChangeKind, ConfChangeSingle, ConfChangeV2, ConfState, Configuration, Entry, EntryKind,
    HardState, Message, MessageKind, PeerId, PeerSet, Progress, ProgressState, Ready, Role, Snapshot,
};

/// Writing to a string cannot fail.
macro_rules! put {
    ($out:expr, $($argument:tt)*) => {
        write!($out, $($argument)*).expect("writing to a string")
    };
}

pub fn role(role: Role) -> &'static str {
    match role {
        Role::Follower => "StateFollower",
        Role::PreCandidate => "StatePreCandidate",
        Role::Candidate => "StateCandidate",
        Role::Leader => "StateLeader",
    }
}

/// Names of message kinds, in the order of their numbers.
const KINDS: [&str; 24] = [
    "MsgHup",
    "MsgBeat",
    "MsgProp",
    "MsgApp",
    "MsgAppResp",
    "MsgVote",
    "MsgVoteResp",
    "MsgSnap",
    "MsgHeartbeat",
    "MsgHeartbeatResp",
    "MsgUnreachable",
    "MsgSnapStatus",
    "MsgCheckQuorum",
    "MsgTransferLeader",
    "MsgTimeoutNow",
    "MsgReadIndex",
    "MsgReadIndexResp",
    "MsgPreVote",
    "MsgPreVoteResp",
    "MsgStorageAppend",
    "MsgStorageAppendResp",
    "MsgStorageApply",
    "MsgStorageApplyResp",
    "MsgForgetLeader",
];

pub fn kind(kind: MessageKind) -> &'static str {
    KINDS[kind as usize]
}

fn endpoint(id: PeerId) -> String {
    match id {
        PeerId::ZERO => "None".to_owned(),
        PeerId::APPEND_THREAD => "AppendThread".to_owned(),
        PeerId::APPLY_THREAD => "ApplyThread".to_owned(),
        PeerId(id) => format!("{id:x}"),
    }
}

/// Go's `%q`.
fn quote(data: &[u8]) -> String {
    let mut out = String::from("\"");
    for chunk in data.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x07' => out.push_str("\\a"),
                '\x08' => out.push_str("\\b"),
                '\x0b' => out.push_str("\\v"),
                '\x0c' => out.push_str("\\f"),
                _ if char.is_ascii_control() => put!(out, "\\x{:02x}", char as u32),
                _ if char.is_control() => put!(out, "\\u{:04x}", char as u32),
                _ => out.push(char),
            }
        }
        for byte in chunk.invalid() {
            put!(out, "\\x{byte:02x}");
        }
    }
    out.push('"');
    out
}

fn changes(changes: &[ConfChangeSingle]) -> String {
    let one = |change: &ConfChangeSingle| {
        let letter = match change.kind {
            ConfChangeKind::AddVoter => 'v',
            ConfChangeKind::AddLearner => 'l',
            ConfChangeKind::RemovePeer => 'r',
            ConfChangeKind::Update => 'u',
        };
        format!("{letter}{}", change.peer)
    };
    changes.iter().map(one).collect::<Vec<_>>().join(" ")
}

pub fn entry(entry: &Entry) -> String {
    let decoded = |change: Result<ConfChangeV2, _>| change.map(|change| changes(&change.changes));
    let (kind, payload) = match entry.kind {
        EntryKind::Normal => ("EntryNormal", Ok(quote(&entry.data))),
        EntryKind::ConfChange => {
            ("EntryConfChange", decoded(ConfChange::decode(&entry.data).map(ConfChange::into_v2)))
        }
        EntryKind::ConfChangeV2 => ("EntryConfChangeV2", decoded(ConfChangeV2::decode(&entry.data))),
    };
    let payload = payload.unwrap_or_else(|error| error.to_string());
    let space = if payload.is_empty() { "" } else { " " };
    format!("{}/{} {kind}{space}{payload}", entry.term, entry.index)
}

fn entries(entries: &[Entry]) -> String {
    entries.iter().fold(String::new(), |out, one| out + &entry(one) + "\n")
}

fn hard_state(state: HardState) -> String {
    let vote = if state.vote.is_zero() { String::new() } else { format!(" Vote:{}", state.vote) };
    format!("Term:{}{vote} Commit:{}", state.term, state.commit)
}

pub fn conf_state(state: &ConfState) -> String {
    let list = |ids: &[PeerId]| {
        let ids: Vec<_> = ids.iter().map(|id| id.to_string()).collect();
        format!("[{}]", ids.join(" "))
    };
    format!(
        "Voters:{} VotersOutgoing:{} Learners:{} LearnersNext:{} AutoLeave:{}",
        list(&state.voters),
        list(&state.voters_outgoing),
        list(&state.learners),
        list(&state.learners_next),
        state.auto_leave
    )
}

fn snapshot(snapshot: &Snapshot) -> String {
    let meta = &snapshot.meta;
    format!("Index:{} Term:{} ConfState:{}", meta.index, meta.term, conf_state(&meta.conf_state))
}

/// A message; lines after the first start with `indent`.
pub fn message(m: &Message, indent: &str) -> String {
    let mut out = format!(
        "{}->{} {} Term:{} Log:{}/{}",
        endpoint(m.from),
        endpoint(m.to),
        kind(m.kind),
        m.term,
        m.log_term,
        m.index
    );
    let extra = m.extra();
    if m.reject {
        put!(out, " Rejected (Hint: {})", extra.reject_hint);
    }
    if !m.commit.is_zero() {
        put!(out, " Commit:{}", m.commit);
    }
    if !extra.vote.is_zero() {
        put!(out, " Vote:{}", extra.vote);
    }
    match m.entries.as_slice() {
        [] => {}
        [one] => put!(out, " Entries:[{}]", entry(one)),
        many => {
            out.push_str(" Entries:[");
            for one in many {
                put!(out, "\n{indent}  {}", entry(one));
            }
            put!(out, "\n{indent}]");
        }
    }
    if let Some(carried) = m.snapshot.as_deref().filter(|snapshot| !snapshot.is_empty()) {
        put!(out, "\n{indent}  Snapshot: {}", snapshot(carried));
    }
    if !extra.responses.is_empty() {
        let inner = format!("{indent}  ");
        out.push_str(" Responses:[");
        for response in &extra.responses {
            put!(out, "\n{inner}{}", message(response, &inner));
        }
        put!(out, "\n{indent}]");
    }
    out
}

pub fn ready(ready: &Ready) -> String {
    if ready.is_empty() {
        return "<empty Ready>".to_owned();
    }
    let mut out = format!("Ready MustSync={}:\n", ready.must_sync);
    if let Some(state) = ready.soft_state {
        put!(out, "Lead:{} State:{}\n", state.lead, role(state.role));
    }
    if let Some(state) = ready.hard_state {
        put!(out, "HardState {}\n", hard_state(state));
    }
    if !ready.read_states.is_empty() {
        let read = |state: &flotilla_raft::ReadState| {
            let bytes: Vec<_> = state.context.iter().map(u8::to_string).collect();
            format!("{{{} [{}]}}", state.index, bytes.join(" "))
        };
        let states: Vec<_> = ready.read_states.iter().map(read).collect();
        put!(out, "ReadStates [{}]\n", states.join(" "));
    }
    if !ready.entries.is_empty() {
        put!(out, "Entries:\n{}", entries(&ready.entries));
    }
    if let Some(carried) = &ready.snapshot {
        put!(out, "Snapshot {}\n", snapshot(carried));
    }
    if !ready.committed_entries.is_empty() {
        put!(out, "CommittedEntries:\n{}", entries(&ready.committed_entries));
    }
    if !ready.messages.is_empty() {
        out.push_str("Messages:\n");
        for one in &ready.messages {
            put!(out, "{}\n", message(one, ""));
        }
    }
    out
}

pub fn progress(progress: &Progress) -> String {
    let state = match progress.state {
        ProgressState::Probe => "StateProbe",
        ProgressState::Replicate => "StateReplicate",
        ProgressState::Snapshot => "StateSnapshot",
    };
    let mut out = format!("{state} match={} next={}", progress.matched, progress.next);
    if progress.is_learner {
        out.push_str(" learner");
    }
    if progress.is_paused() {
        out.push_str(" paused");
    }
    if !progress.pending_snapshot.is_zero() {
        put!(out, " pendingSnap={}", progress.pending_snapshot);
    }
    if !progress.recent_active {
        out.push_str(" inactive");
    }
    let inflights = &progress.inflights;
    if !inflights.is_empty() {
        put!(out, " inflight={}", inflights.len());
        if inflights.is_full() {
            out.push_str("[full]");
        }
    }
    out
}

pub fn progress_lines<'a>(peers: impl Iterator<Item = (PeerId, &'a Progress)>) -> String {
    peers.fold(String::new(), |out, (id, pr)| out + &format!("{id}: {}\n", progress(pr)))
}

fn set(ids: &PeerSet) -> String {
    let ids: Vec<_> = ids.iter().map(|id| format!("{:x}", id.0)).collect();
    format!("({})", ids.join(" "))
}

pub fn configuration(config: &Configuration) -> String {
    let mut out = format!("voters={}", set(&config.voters.incoming));
    if !config.voters.outgoing.is_empty() {
        put!(out, "&&{}", set(&config.voters.outgoing));
    }
    if !config.learners.is_empty() {
        put!(out, " learners={}", set(&config.learners));
    }
    if !config.learners_next.is_empty() {
        put!(out, " learners_next={}", set(&config.learners_next));
    }
    if config.auto_leave {
        out.push_str(" autoleave");
    }
    out
}
