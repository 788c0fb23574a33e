//! Who has a change of membership on disk knows there that the one before it is committed: otherwise, after a crash, it
//! would campaign among members of two configurations ago, who have had no say since (Raft thesis, section 4.1: a change
//! begins only when the one before it is committed; regression seed 1062862). A log record has both or neither, so that
//! it holds at every moment, also between a power cut and the next start.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_engine::Engine;
use flotilla_raft::EntryKind;
use flotilla_raftstore::{LogId, decode_entry, decode_hard_state};
use flotilla_region::keys::{self, LogKey};
use flotilla_region::{Index, PeerId, RegionId, StoreId};

#[derive(Default)]
struct Known {
    /// Up to where the log is known to be committed.
    commit: Option<Index>,
    /// Index of the change before the last one.
    last_but_one: Option<Index>,
    last: Option<Index>,
}

/// Checks a store's `log`.
///
/// # Errors
/// A sentence that names the peer.
pub fn check_knowledge(store: StoreId, disk: &dyn Engine) -> Result<(), String> {
    let (start, end) = keys::log_bounds();
    let mut peers: BTreeMap<(RegionId, PeerId), Known> = BTreeMap::new();
    let scanned = disk.log_scan(&start, &end, &mut |key, value| {
        let value = || Bytes::copy_from_slice(value);
        match keys::parse_log_key(key) {
            Some(LogKey::HardState(region, peer)) => {
                let known = peers.entry((region, peer)).or_default();
                known.commit = known.commit.max(decode_hard_state(value()).map(|state| state.commit));
            }
            Some(LogKey::Base(region, peer)) => {
                let known = peers.entry((region, peer)).or_default();
                known.commit = known.commit.max(LogId::decode(value()).map(|base| base.index));
            }
            Some(LogKey::Entry(region, peer, index))
                if decode_entry(index, value()).is_some_and(|entry| entry.kind != EntryKind::Normal) =>
            {
                let known = peers.entry((region, peer)).or_default();
                known.last_but_one = known.last.replace(index);
            }
            _ => {}
        }
        true
    });
    if scanned.is_err() {
        // A disk that cannot be read is not this checker's business.
        return Ok(());
    }
    for ((region, peer), known) in peers {
        // Without either record nothing is left of the peer but what is being deleted.
        let (Some(commit), Some(before)) = (known.commit, known.last_but_one) else { continue };
        if commit < before {
            let last = known.last.unwrap_or_default();
            return Err(format!(
                "peer {peer} of region {region} on store {store} has the changes of membership {} and {} on disk, and \
                 knows there of nothing committed after {}",
                before.0, last.0, commit.0
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flotilla_engine::{MemEngine, WriteBatch};
    use flotilla_raft::{Entry, HardState};
    use flotilla_raftstore::{encode_entry, encode_hard_state};
    use flotilla_region::Term;

    use super::*;

    #[test]
    fn a_change_without_the_commit_of_the_one_before_is_found() {
        let disk = MemEngine::new(1);
        let (region, peer) = (RegionId(7), PeerId(3));
        let write = |commit: u64, entries: &[(u64, EntryKind)]| {
            let mut batch = WriteBatch::new();
            let state = HardState { term: Term(1), commit: Index(commit), ..HardState::default() };
            batch.put(&keys::log_hard_state(region, peer), &encode_hard_state(&state));
            for (index, kind) in entries {
                let (index, mut value) = (Index(*index), Vec::new());
                let entry = Entry { term: Term(1), index, kind: *kind, ..Entry::default() };
                encode_entry(&entry, &mut value);
                batch.put(&keys::log_entry(region, peer, index), &value);
            }
            disk.log_write(&batch).unwrap();
            check_knowledge(StoreId(2), &*disk)
        };
        assert_eq!(write(3, &[(5, EntryKind::ConfChangeV2), (6, EntryKind::Normal)]), Ok(()), "one change");
        let found = write(4, &[(7, EntryKind::ConfChange)]).unwrap_err();
        assert!(found.contains("5 and 7") && found.contains("after 4"), "{found}");
        assert_eq!(write(5, &[]), Ok(()));
        assert!(write(6, &[(9, EntryKind::ConfChangeV2)]).is_err());
        let mut batch = WriteBatch::new();
        batch.put(&keys::log_base(region, peer), &LogId { index: Index(7), term: Term(1) }.encode());
        disk.log_write(&batch).unwrap();
        assert_eq!(check_knowledge(StoreId(2), &*disk), Ok(()), "a snapshot covers it");
    }
}
