//! Commands of the `interaction` files: a few nodes, the messages between them, and what a script makes of them.

#[path = "own_commands.rs"]
mod own_commands;

use bytes::Bytes;
use flotilla_raft::{
    Config, Message, MessageKind, PeerId, ReadOnlyOption, Role, Snapshot, SnapshotMeta, Storage, Term,
};

use crate::{
    changes::parse_changes,
    datadriven::{Case, Handler},
    format,
    node::{Node, NodeStorage},
};

type Outcome = Result<(), String>;

const ELECTION_TICKS: usize = 3;
const LEVELS: [&str; 6] = ["DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE"];

/// Nodes, messages under way, and the output of the present command.
#[derive(Default)]
pub struct Environment {
    nodes: Vec<Node>,
    messages: Vec<Message>,
    /// Copies for `replay-msgs`.
    remembered: Vec<Message>,
    output: String,
    /// Position in `LEVELS`.
    level: usize,
}

impl Handler for Environment {
    fn run(&mut self, case: &Case) -> String {
        self.output.clear();
        let outcome = self.dispatch(case);
        let mut text = std::mem::take(&mut self.output);
        match outcome {
            Err(error) if self.is_silent() => text = error,
            Err(error) => text += &error,
            Ok(()) => {}
        }
        if text.is_empty() {
            text = "ok".to_owned();
        }
        if text.ends_with('\n') { text } else { text + "\n" }
    }
}

/// Which storage thread.
#[derive(Clone, Copy)]
enum Thread {
    Append,
    Apply,
}

impl Thread {
    fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Apply => "apply",
        }
    }
}

impl Environment {
    fn is_silent(&self) -> bool {
        self.level == LEVELS.len() - 1
    }

    fn print(&mut self, text: &str) {
        if !self.is_silent() {
            self.output += text;
        }
    }

    /// Runs `step` and indents what it prints by two spaces.
    fn indented(&mut self, step: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        let outer = std::mem::take(&mut self.output);
        let outcome = step(self);
        let inner = std::mem::replace(&mut self.output, outer);
        for line in inner.lines() {
            self.print(&format!("  {line}\n"));
        }
        outcome
    }

    fn dispatch(&mut self, case: &Case) -> Outcome {
        match case.command.as_str() {
            "add-nodes" => self.add_nodes(case),
            "campaign" => self.node(case)?.raw.campaign().map_err(|error| error.to_string()),
            "propose" => self.propose(case),
            "propose-conf-change" => self.propose_conf_change(case),
            "process-ready" => self.for_each(case, "handling Ready", Self::process_ready),
            "process-append-thread" => {
                let step = |env: &mut Self, id| env.process_thread(id, Thread::Append);
                self.for_each(case, "processing append thread", step)
            }
            "process-apply-thread" => {
                let step = |env: &mut Self, id| env.process_thread(id, Thread::Apply);
                self.for_each(case, "processing apply thread", step)
            }
            "deliver-msgs" => self.deliver_command(case),
            "stabilize" => self.stabilize(case),
            "tick-election" => self.tick(case, ELECTION_TICKS),
            "tick-heartbeat" => self.tick(case, 1),
            "set-randomized-election-timeout" => {
                let ticks = case.value("timeout")?.ok_or("timeout is missing")?;
                self.node(case)?.raw.set_randomized_election_ticks(ticks);
                Ok(())
            }
            "status" => self.status(case),
            "raft-state" => self.raft_state(),
            "raft-log" => self.raft_log(case),
            "compact" => self.compact(case),
            "log-level" => self.set_level(case.positional().next().unwrap_or_default()),
            "transfer-leadership" => {
                let from: u64 = case.value("from")?.ok_or("from is missing")?;
                let to = case.value("to")?.ok_or("to is missing")?;
                self.by_id(PeerId(from))?.raw.transfer_leader(PeerId(to));
                Ok(())
            }
            "forget-leader" => {
                self.node(case)?.raw.forget_leader();
                Ok(())
            }
            "report-unreachable" => {
                let (from, peer) = self.pair(case)?;
                self.by_id(from)?.raw.report_unreachable(peer);
                Ok(())
            }
            "send-snapshot" => self.send_snapshot(case),
            _ => self.dispatch_own(case),
        }
    }

    fn ids(&self, case: &Case) -> Result<Vec<PeerId>, String> {
        let parse = |text: &str| text.parse().map(PeerId).map_err(|_| format!("bad node id {text}"));
        case.positional().map(parse).collect()
    }

    fn by_id(&mut self, id: PeerId) -> Result<&mut Node, String> {
        let position = usize::try_from(id.0).ok().and_then(|id| id.checked_sub(1));
        position.and_then(|position| self.nodes.get_mut(position)).ok_or_else(|| format!("no node {id}"))
    }

    fn node(&mut self, case: &Case) -> Result<&mut Node, String> {
        let id = case.positional().next().and_then(|id| id.parse().ok()).ok_or("node id is missing")?;
        self.by_id(PeerId(id))
    }

    fn pair(&self, case: &Case) -> Result<(PeerId, PeerId), String> {
        match self.ids(case)?.as_slice() {
            [from, to] => Ok((*from, *to)),
            _ => Err("two node ids are needed".to_owned()),
        }
    }

    fn for_each(
        &mut self,
        case: &Case,
        header: &str,
        step: impl Fn(&mut Self, PeerId) -> Outcome,
    ) -> Outcome {
        let ids = self.ids(case)?;
        if let [id] = ids.as_slice() {
            return step(self, *id);
        }
        for id in ids {
            self.print(&format!("> {id} {header}\n"));
            self.indented(|env| step(env, id))?;
        }
        Ok(())
    }

    fn add_nodes(&mut self, case: &Case) -> Outcome {
        let count: usize =
            case.positional().next().and_then(|n| n.parse().ok()).ok_or("node count is missing")?;
        let ids = |key: &str| -> Result<Vec<PeerId>, String> {
            let values = case.values(key).unwrap_or_default();
            values.iter().map(|id| id.parse().map(PeerId).map_err(|_| format!("bad id {id}"))).collect()
        };
        let mut snapshot = Snapshot::default();
        snapshot.meta.conf_state.voters = ids("voters")?;
        snapshot.meta.conf_state.learners = ids("learners")?;
        snapshot.meta.index.0 = case.value("index")?.unwrap_or(0);
        if let Some(content) = case.value::<String>("content")? {
            snapshot.data = Bytes::from(content);
        }
        if snapshot != Snapshot::default() {
            if snapshot.meta.index.0 <= 1 {
                return Err("index must be specified as > 1 due to bootstrap".to_owned());
            }
            snapshot.meta.term = Term(1);
        }
        for _ in 0..count {
            let id = PeerId(self.nodes.len() as u64 + 1);
            let config = Self::config(case, id, &snapshot.meta)?;
            let memory = if snapshot.is_empty() {
                flotilla_raft::MemStorage::new()
            } else {
                flotilla_raft::MemStorage::with_snapshot(snapshot.clone())
            };
            let storage = NodeStorage { memory, history: vec![snapshot.clone()] };
            self.nodes.push(Node::new(config, storage)?);
        }
        Ok(())
    }

    fn config(case: &Case, id: PeerId, bootstrap: &SnapshotMeta) -> Result<Config, String> {
        let flag = |key: &str| -> Result<bool, String> { Ok(case.value(key)?.unwrap_or(false)) };
        let read_only = match case.value::<String>("read-only")?.as_deref() {
            None | Some("safe") => ReadOnlyOption::Safe,
            Some("lease-based") => ReadOnlyOption::LeaseBased,
            Some(other) => return Err(format!("invalid read-only option \"{other}\"")),
        };
        Ok(Config {
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: 1,
            applied: bootstrap.index,
            append_bytes_max: case.value("max-size-per-msg")?.unwrap_or(u64::MAX),
            inflight_bytes_max: case.value("max-inflight-bytes")?.unwrap_or(0),
            uncommitted_bytes_max: case.value("max-uncommitted-size")?.unwrap_or(0),
            disable_proposal_forwarding: flag("disable-proposal-forwarding")?,
            committed_bytes_max: case.value("max-committed-size-per-ready")?.unwrap_or(u64::MAX),
            inflight_messages_max: case.value("inflight")?.unwrap_or(i32::MAX as usize),
            async_storage_writes: flag("async-storage-writes")?,
            pre_vote: flag("prevote")?,
            check_quorum: flag("checkquorum")?,
            disable_conf_change_validation: flag("disable-conf-change-validation")?,
            step_down_on_removal: flag("step-down-on-removal")?,
            read_only,
            seed: id.0,
            ..Config::new(id)
        })
    }

    fn propose(&mut self, case: &Case) -> Outcome {
        let word = case.positional().nth(1).ok_or("data is missing")?.to_owned();
        self.node(case)?.raw.propose(Bytes::from(word)).map_err(|error| error.to_string())
    }

    fn propose_conf_change(&mut self, case: &Case) -> Outcome {
        use flotilla_raft::{ConfChange, ConfChangeTransition, ConfChangeV2};
        let changes = parse_changes(&case.input)?;
        let transition = match case.value::<String>("transition")?.as_deref() {
            None | Some("auto") => ConfChangeTransition::Auto,
            Some("implicit") => ConfChangeTransition::JointImplicit,
            Some("explicit") => ConfChangeTransition::JointExplicit,
            Some(other) => return Err(format!("unknown transition {other}")),
        };
        let is_v1 = case.value("v1")?.unwrap_or(false);
        let raw = &mut self.node(case)?.raw;
        let proposed = match (is_v1, changes.as_slice()) {
            (true, [one]) if transition == ConfChangeTransition::Auto => {
                raw.propose_conf_change(ConfChange { kind: one.kind, peer: one.peer, context: Bytes::new() })
            }
            (true, _) => return Err("a V1 change has exactly one step and no transition".to_owned()),
            (false, _) => {
                raw.propose_conf_change(ConfChangeV2 { transition, changes, context: Bytes::new() })
            }
        };
        proposed.map_err(|error| error.to_string())
    }

    fn process_ready(&mut self, id: PeerId) -> Outcome {
        let ready = self.by_id(id)?.raw.ready();
        self.print(&format::ready(&ready));
        let node = self.by_id(id)?;
        let messages = node.handle(ready)?;
        self.messages.extend(messages);
        let node = self.by_id(id)?;
        if !node.config.async_storage_writes {
            node.raw.advance();
        }
        Ok(())
    }

    fn process_thread(&mut self, id: PeerId, thread: Thread) -> Outcome {
        let node = self.by_id(id)?;
        let queue = match thread {
            Thread::Append => &mut node.append_work,
            Thread::Apply => &mut node.apply_work,
        };
        let Some(mut message) = queue.pop_front() else {
            self.print(&format!("no {} work to perform", thread.name()));
            return Ok(());
        };
        let responses = message.take_responses();
        self.print(&format!("Processing:\n{}\n", format::message(&message, "")));
        let node = self.by_id(id)?;
        match thread {
            Thread::Append => {
                let hard_state = message.hard_state().unwrap_or_default();
                node.store(hard_state, message.snapshot.map(|snapshot| *snapshot), &message.entries)?;
            }
            Thread::Apply => node.apply(&message.entries)?,
        }
        self.print("Responses:\n");
        for response in &responses {
            self.print(&format!("{}\n", format::message(response, "")));
        }
        self.messages.extend(responses);
        Ok(())
    }

    fn deliver_command(&mut self, case: &Case) -> Outcome {
        let kind = case.value::<String>("type")?;
        let mut recipients = Vec::new();
        for argument in &case.arguments {
            let parse = |id: &String| id.parse().map(PeerId).map_err(|_| format!("bad id {id}"));
            match argument.key.as_str() {
                "type" => {}
                "drop" => {
                    for id in &argument.values {
                        recipients.push((parse(id)?, true));
                    }
                }
                id => recipients.push((parse(&id.to_owned())?, false)),
            }
        }
        let mut delivered = 0;
        for (id, drops) in recipients {
            delivered += self.deliver(id, kind.as_deref(), drops)?;
        }
        if delivered == 0 {
            self.print("no messages");
        }
        Ok(())
    }

    /// Hands all messages for `id` to it, or drops them. Returns how many.
    fn deliver(&mut self, id: PeerId, kind: Option<&str>, drops: bool) -> Result<usize, String> {
        let is_local = |m: &Message| m.from == m.to || m.from.is_storage_thread();
        let matches = |m: &mut Message| {
            m.to == id && kind.is_none_or(|kind| format::kind(m.kind) == kind) && !(drops && is_local(m))
        };
        let taken: Vec<Message> = self.messages.extract_if(.., matches).collect();
        let count = taken.len();
        for message in taken {
            let prefix = if drops { "dropped: " } else { "" };
            self.print(&format!("{prefix}{}\n", format::message(&message, "")));
            if !drops && let Err(error) = self.by_id(id)?.raw.step(message) {
                self.print(&format!("{error}\n"));
            }
        }
        Ok(count)
    }

    fn stabilize(&mut self, case: &Case) -> Outcome {
        let level = self.level;
        if let Some(name) = case.value::<String>("log-level")? {
            self.set_level(&name)?;
        }
        let mut ids = self.ids(case)?;
        if ids.is_empty() {
            ids = (1..=self.nodes.len() as u64).map(PeerId).collect();
        }
        let outcome = loop {
            match self.stabilize_round(&ids) {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.level = level;
        outcome
    }

    fn stabilize_round(&mut self, ids: &[PeerId]) -> Result<bool, String> {
        let mut is_busy = false;
        for &id in ids {
            if self.by_id(id)?.raw.has_ready() {
                is_busy = true;
                self.print(&format!("> {id} handling Ready\n"));
                self.indented(|env| env.process_ready(id))?;
            }
        }
        for &id in ids {
            if self.messages.iter().any(|message| message.to == id) {
                is_busy = true;
                self.print(&format!("> {id} receiving messages\n"));
                self.indented(|env| env.deliver(id, None, false).map(|_| ()))?;
            }
        }
        for thread in [Thread::Append, Thread::Apply] {
            for &id in ids {
                let has_work = |node: &Node| match thread {
                    Thread::Append => !node.append_work.is_empty(),
                    Thread::Apply => !node.apply_work.is_empty(),
                };
                if !has_work(self.by_id(id)?) {
                    continue;
                }
                is_busy = true;
                self.print(&format!("> {id} processing {} thread\n", thread.name()));
                while has_work(self.by_id(id)?) {
                    self.indented(|env| env.process_thread(id, thread))?;
                }
            }
        }
        Ok(is_busy)
    }

    fn tick(&mut self, case: &Case, ticks: usize) -> Outcome {
        let raw = &mut self.node(case)?.raw;
        for _ in 0..ticks {
            raw.tick();
        }
        Ok(())
    }

    fn status(&mut self, case: &Case) -> Outcome {
        let status = self.node(case)?.raw.status();
        self.print(&format::progress_lines(status.progress.iter().map(|(id, progress)| (*id, progress))));
        Ok(())
    }

    fn raft_state(&mut self) -> Outcome {
        let line = |node: &Node| {
            let raw = &node.raw;
            let is_voter = raw.configuration().voters.contains(raw.id());
            let voter = if is_voter { "Voter" } else { "Non-Voter" };
            let role: Role = raw.role();
            format!(
                "{}: {} ({voter}) Term:{} Lead:{}\n",
                raw.id(),
                format::role(role),
                raw.term(),
                raw.leader()
            )
        };
        let lines: String = self.nodes.iter().map(line).collect();
        self.print(&lines);
        Ok(())
    }

    fn raft_log(&mut self, case: &Case) -> Outcome {
        let memory = &self.node(case)?.raw.storage().memory;
        let entries = memory.entries_slice();
        let text = if entries.is_empty() {
            let first = memory.first_index().map_err(|error| error.to_string())?;
            format!("log is empty: first index={first}, last index={}", first.prev())
        } else {
            entries.iter().map(|entry| format::entry(entry) + "\n").collect()
        };
        self.print(&text);
        Ok(())
    }

    fn compact(&mut self, case: &Case) -> Outcome {
        let index =
            case.positional().nth(1).and_then(|index| index.parse().ok()).ok_or("index is missing")?;
        let memory = &mut self.node(case)?.raw.storage_mut().memory;
        memory.compact(flotilla_raft::Index(index)).map_err(|error| error.to_string())?;
        self.raft_log(case)
    }

    fn set_level(&mut self, name: &str) -> Outcome {
        let position = LEVELS.iter().position(|level| level.eq_ignore_ascii_case(name));
        self.level =
            position.ok_or_else(|| format!("log levels must be either of [{}]", LEVELS.join(" ")))?;
        Ok(())
    }

    fn send_snapshot(&mut self, case: &Case) -> Outcome {
        let (from, to) = self.pair(case)?;
        let raw = &self.by_id(from)?.raw;
        let message = Message {
            kind: MessageKind::Snapshot,
            from,
            to,
            term: raw.term(),
            snapshot: Some(Box::new(raw.storage().last_state().clone())),
            ..Message::default()
        };
        self.print(&format::message(&message, ""));
        self.messages.push(message);
        Ok(())
    }
}
