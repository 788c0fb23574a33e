//! Sizes of entries, by which messages and Readys are limited.

use crate::types::{Entry, EntryKind};

const fn varint_len(value: u64) -> u64 {
    (64 - (value | 1).leading_zeros() as u64).div_ceil(7)
}

/// Size in bytes that limits count for an entry: that of its protobuf form in etcd-io/raft (proto2, kind, term and
/// index always written).
pub fn entry_size(entry: &Entry) -> u64 {
    let data = entry.data.len() as u64;
    let head =
        3 + varint_len(entry_kind_tag(entry.kind)) + varint_len(entry.term.0) + varint_len(entry.index.0);
    if data == 0 { head } else { head + 1 + varint_len(data) + data }
}

const fn entry_kind_tag(kind: EntryKind) -> u64 {
    match kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::ConfChangeV2 => 2,
    }
}

/// Sum of [`entry_size`].
pub(crate) fn entries_size(entries: &[Entry]) -> u64 {
    entries.iter().map(entry_size).sum()
}

/// Sum of the payload lengths.
pub(crate) fn payload_size(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.data.len() as u64).sum()
}

/// How many leading entries stay within `bytes_max`, at least one if there is any.
pub(crate) fn limit_count(entries: &[Entry], bytes_max: u64) -> usize {
    if bytes_max == u64::MAX {
        return entries.len();
    }
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        bytes += entry_size(entry);
        bytes <= bytes_max
    };
    entries.iter().take_while(fits).count().max(entries.len().min(1))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::types::{Index, Term};

    fn entry(index: u64, data: usize) -> Entry {
        Entry { index: Index(index), term: Term(1), data: Bytes::from(vec![7; data]), ..Entry::default() }
    }

    #[test]
    fn an_entry_counts_its_encoded_size() {
        assert_eq!(entry_size(&Entry::default()), 6);
        assert_eq!(entry_size(&entry(127, 0)), 6);
        assert_eq!(entry_size(&entry(128, 0)), 7);
        assert_eq!(entry_size(&entry(1, 10)), 6 + 2 + 10);
        assert_eq!(entry_size(&entry(1, 200)), 6 + 3 + 200);
        assert_eq!(varint_len(u64::MAX), 10);
    }

    #[test]
    fn limits_admit_at_least_one_entry() {
        let entries = [entry(1, 10), entry(2, 10), entry(3, 10)];
        let one = entry_size(&entries[0]);
        for (bytes_max, count) in
            [(0, 1), (one - 1, 1), (one, 1), (2 * one - 1, 1), (2 * one, 2), (3 * one, 3), (u64::MAX, 3)]
        {
            assert_eq!(limit_count(&entries, bytes_max), count, "limit {bytes_max}");
        }
        assert_eq!(limit_count(&[], 0), 0);
    }
}
