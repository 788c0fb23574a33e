//! State machine safety (Raft thesis, figure 3.2): no two replicas apply different commands at the same index of a
//! region, and, since the state machine is deterministic, no two give different replies.

use std::collections::BTreeMap;

use flotilla_raftstore::ApplyContext;

/// What the first replica applied at (region, index), command by command: term, and a hash of command and reply.
#[derive(Default)]
pub struct Agreement {
    applied: BTreeMap<(u64, u64), Vec<(u64, u32)>>,
    violation: Option<String>,
}

impl Agreement {
    /// A replica applied the command number `ordinal` of an entry.
    pub fn on_apply(&mut self, context: &ApplyContext<'_>, ordinal: usize, command: &[u8], reply: &[u8]) {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&context.term.0.to_le_bytes());
        hasher.update(command);
        hasher.update(reply);
        let applied = (context.term.0, hasher.finalize());
        let (region, index) = (context.region.id.0, context.index.0);
        let entry = self.applied.entry((region, index)).or_default();
        match entry.get(ordinal) {
            Some(first) if *first == applied => {}
            None if entry.len() == ordinal => entry.push(applied),
            first => {
                let first = first.map_or(0, |(term, _)| *term);
                self.violation.get_or_insert_with(|| {
                    format!(
                        "two replicas of region {region} differ at index {index}, command {ordinal}: terms {first} \
                         and {}, the second one {} -> {}",
                        context.term.0,
                        command.escape_ascii(),
                        reply.escape_ascii()
                    )
                });
            }
        }
    }

    /// Number of entries seen.
    pub fn entries(&self) -> usize {
        self.applied.len()
    }

    /// The first violation.
    pub fn violation(&self) -> Option<&String> {
        self.violation.as_ref()
    }
}
