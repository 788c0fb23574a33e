//! The engine against real files: RocksDB as it is, the check of its WAL, and the model beside it.

#![allow(clippy::unwrap_used)]

mod differential;
mod rocks;
mod wal;

use std::collections::BTreeMap;

use flotilla_engine::{Engine, Round, WriteBatch};
use flotilla_region::keys;

/// Content of an instance.
type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// A directory in memory where there is one: what these tests check does not depend on how fast a disk syncs.
fn tempdir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn batch(writes: &[(&str, &str)]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    for (key, value) in writes {
        batch.put(key.as_bytes(), value.as_bytes());
    }
    batch
}

/// A log batch as the log writer makes them.
fn round(round: u64, synced: u64, writes: &[(&str, &str)]) -> WriteBatch {
    let mut batch = batch(writes);
    batch.put(keys::LOG_ROUND, &Round { round, synced }.encode());
    batch
}

fn log_content(engine: &dyn Engine) -> Content {
    let mut content = Content::new();
    engine
        .log_scan(&[], &[0xFF; 32], &mut |key, value| {
            content.insert(key.to_vec(), value.to_vec());
            true
        })
        .unwrap();
    content
}

fn data_content(engine: &dyn Engine) -> Content {
    let mut content = Content::new();
    engine
        .snapshot()
        .scan(&[], &[0xFF; 32], &mut |key, value| {
            content.insert(key.to_vec(), value.to_vec());
            true
        })
        .unwrap();
    content
}

/// What a scan of `data` visits, in its order.
fn scan(engine: &dyn Engine, start: &str, end: &str, reverse: bool, limit: usize) -> Vec<String> {
    let mut seen = Vec::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        seen.push(format!("{}={}", key.escape_ascii(), value.escape_ascii()));
        seen.len() < limit
    };
    let snapshot = engine.snapshot();
    if reverse {
        snapshot.scan_reverse(start.as_bytes(), end.as_bytes(), &mut visit).unwrap();
    } else {
        snapshot.scan(start.as_bytes(), end.as_bytes(), &mut visit).unwrap();
    }
    seen
}
