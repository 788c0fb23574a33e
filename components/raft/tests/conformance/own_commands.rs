//! Commands of this crate's own scripts, for what the published format has no words for:
//!
//! | command | what it does |
//! |---|---|
//! | `tick <id> <n>` | n ticks |
//! | `read-index <id> <word>` | asks for a read index; the word comes back with the read state |
//! | `restart <id>` | the node loses what its storage does not hold (storage work under way too) and is built anew |
//! | `duplicate-msgs <id> [type=]` | every message under way to the node is there twice, one after the other |
//! | `reverse-msgs <id> [type=]` | messages under way to the node change places, the last one comes first |
//! | `copy-msgs <id> [type=]`, `replay-msgs` | remembers messages under way; puts the remembered ones back |
//! | `report-snapshot <a> <b> ok=` | tells a whether its snapshot reached b |
//!
//! and `add-nodes` takes `max-size-per-msg`, `max-inflight-bytes`, `max-uncommitted-size` (bytes) and
//! `disable-proposal-forwarding`.

use bytes::Bytes;
use flotilla_raft::{Message, PeerId};

use super::{Environment, Outcome, format};
use crate::datadriven::Case;

impl Environment {
    pub(super) fn dispatch_own(&mut self, case: &Case) -> Outcome {
        match case.command.as_str() {
            "tick" => {
                let ticks =
                    case.positional().nth(1).and_then(|n| n.parse().ok()).ok_or("number is missing")?;
                self.tick(case, ticks)
            }
            "read-index" => {
                let word = case.positional().nth(1).ok_or("context is missing")?.to_owned();
                self.node(case)?.raw.read_index(Bytes::from(word));
                Ok(())
            }
            "restart" => self.node(case)?.restart(),
            "duplicate-msgs" => self.change_queued(case, |taken| {
                taken.into_iter().flat_map(|message| [message.clone(), message]).collect()
            }),
            "reverse-msgs" => self.change_queued(case, |taken| taken.into_iter().rev().collect()),
            "copy-msgs" => {
                let (id, kind) = receiver(case)?;
                let copied = self.messages.iter().filter(|message| is_wanted(message, id, kind.as_deref()));
                self.remembered.extend(copied.cloned());
                Ok(())
            }
            "replay-msgs" => {
                self.messages.append(&mut self.remembered);
                Ok(())
            }
            "report-snapshot" => {
                let ok = case.value("ok")?.ok_or("ok is missing")?;
                let mut ids = case.positional().map(|id| id.parse().map(PeerId));
                let (Some(Ok(from)), Some(Ok(peer))) = (ids.next(), ids.next()) else {
                    return Err("two node ids are needed".to_owned());
                };
                self.by_id(from)?.raw.report_snapshot(peer, ok);
                Ok(())
            }
            _ => Err("unknown command".to_owned()),
        }
    }

    /// Replaces the messages to one node by what `change` makes of them, and prints the new order.
    fn change_queued(&mut self, case: &Case, change: impl Fn(Vec<Message>) -> Vec<Message>) -> Outcome {
        let (id, kind) = receiver(case)?;
        let taken = self.messages.extract_if(.., |message| is_wanted(message, id, kind.as_deref())).collect();
        let changed = change(taken);
        for message in &changed {
            self.print(&format!("{}\n", format::message(message, "")));
        }
        self.messages.extend(changed);
        Ok(())
    }
}

fn receiver(case: &Case) -> Result<(PeerId, Option<String>), String> {
    let id = case.positional().next().and_then(|id| id.parse().ok()).ok_or("node id is missing")?;
    Ok((PeerId(id), case.value("type")?))
}

fn is_wanted(message: &Message, to: PeerId, kind: Option<&str>) -> bool {
    message.to == to && kind.is_none_or(|kind| format::kind(message.kind) == kind)
}
