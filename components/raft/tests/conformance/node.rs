//! One node of the interaction environment: a raw node, its storage and its state machine.

use std::collections::VecDeque;

use bytes::Bytes;
use flotilla_raft::{
    ConfChange, ConfChangeV2, ConfState, Config, Entry, EntryKind, FetchContext, HardState, Index,
    MemStorage, Message, PeerId, RawNode, Ready, Snapshot, SnapshotMeta, Storage, StorageResult, Term,
};

/// A storage that hands out the state machine's last state as snapshot.
pub struct NodeStorage {
    pub memory: MemStorage,
    /// States of the state machine, never empty.
    pub history: Vec<Snapshot>,
}

impl NodeStorage {
    pub fn last_state(&self) -> &Snapshot {
        self.history.last().expect("the history starts with the bootstrap snapshot")
    }

    /// Where the state machine stands: a received snapshot may be newer than what was applied.
    fn newest(&self) -> &SnapshotMeta {
        let (received, applied) = (&self.memory.snapshot_ref().meta, &self.last_state().meta);
        if received.index > applied.index { received } else { applied }
    }
}

impl Storage for NodeStorage {
    /// The membership is that of the newest state: entries that were applied are not applied again.
    fn initial_state(&self) -> StorageResult<(HardState, ConfState)> {
        Ok((self.memory.hard_state(), self.newest().conf_state.clone()))
    }

    fn entries_into(
        &self,
        low: Index,
        high: Index,
        bytes_max: u64,
        context: FetchContext,
        out: &mut Vec<Entry>,
    ) -> StorageResult<()> {
        self.memory.entries_into(low, high, bytes_max, context, out)
    }

    fn term(&self, index: Index) -> StorageResult<Term> {
        self.memory.term(index)
    }

    fn first_index(&self) -> StorageResult<Index> {
        self.memory.first_index()
    }

    fn last_index(&self) -> StorageResult<Index> {
        self.memory.last_index()
    }

    fn snapshot(&self, _at_least: Index, _to: PeerId) -> StorageResult<Snapshot> {
        Ok(self.last_state().clone())
    }
}

/// One node.
pub struct Node {
    pub raw: RawNode<NodeStorage>,
    pub config: Config,
    pub append_work: VecDeque<Message>,
    pub apply_work: VecDeque<Message>,
}

impl Node {
    pub fn new(config: Config, storage: NodeStorage) -> Result<Self, String> {
        let raw = RawNode::new(&config, storage).map_err(|error| error.to_string())?;
        Ok(Self { raw, config, append_work: VecDeque::new(), apply_work: VecDeque::new() })
    }

    /// Builds the node anew from what is stored and applied; what is under way in its threads is lost.
    pub fn restart(&mut self) -> Result<(), String> {
        let storage = self.raw.storage_mut();
        let history = std::mem::replace(&mut storage.history, vec![Snapshot::default()]);
        let storage = NodeStorage { memory: std::mem::take(&mut storage.memory), history };
        let config = Config { applied: storage.newest().index, ..self.config.clone() };
        *self = Self::new(config, storage)?;
        Ok(())
    }

    /// What the append thread does.
    pub fn store(
        &mut self,
        hard_state: HardState,
        snapshot: Option<Snapshot>,
        entries: &[Entry],
    ) -> Result<(), String> {
        let memory = &mut self.raw.storage_mut().memory;
        if !hard_state.is_empty() {
            memory.set_hard_state(hard_state);
        }
        match snapshot.filter(|snapshot| !snapshot.is_empty()) {
            Some(_) if !entries.is_empty() => {
                Err("can't apply snapshot and entries at the same time".to_owned())
            }
            Some(snapshot) => memory.apply_snapshot(snapshot).map_err(|error| error.to_string()),
            None => {
                memory.append(&mut entries.to_vec());
                Ok(())
            }
        }
    }

    /// What the apply thread does.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<(), String> {
        for entry in entries {
            let change = match entry.kind {
                EntryKind::Normal => None,
                EntryKind::ConfChange => Some(ConfChange::decode(&entry.data).map(ConfChange::into_v2)),
                EntryKind::ConfChangeV2 => Some(ConfChangeV2::decode(&entry.data)),
            };
            let change = change.transpose().map_err(|error| error.to_string())?;
            let conf_state = change.as_ref().map(|change| self.raw.try_apply_conf_change(change));
            let conf_state = conf_state.transpose().map_err(|error| error.to_string())?;
            let history = &mut self.raw.storage_mut().history;
            let last = history.last().expect("the history starts with the bootstrap snapshot");
            let appended = change.map_or(entry.data.clone(), |change| change.context);
            let data: Vec<u8> = [&last.data[..], &appended].concat();
            let conf_state = conf_state.unwrap_or_else(|| last.meta.conf_state.clone());
            let meta = SnapshotMeta { index: entry.index, term: entry.term, conf_state };
            history.push(Snapshot { meta, data: Bytes::from(data) });
        }
        Ok(())
    }

    /// Does the work of a Ready. Returns the messages to others.
    pub fn handle(&mut self, ready: Ready) -> Result<Vec<Message>, String> {
        if !self.config.async_storage_writes {
            let hard_state = ready.hard_state.unwrap_or_default();
            self.store(hard_state, ready.snapshot.map(|snapshot| *snapshot), &ready.entries)?;
            self.apply(&ready.committed_entries)?;
            return Ok(ready.messages);
        }
        let mut network = Vec::new();
        for message in ready.messages {
            match message.to {
                PeerId::APPEND_THREAD => self.append_work.push_back(message),
                PeerId::APPLY_THREAD => self.apply_work.push_back(message),
                _ => network.push(message),
            }
        }
        Ok(network)
    }
}
