//! How much memory a store may hold, and how that is shared out.
//!
//! Everything that grows with the load has a limit of its own. The sum of these, and of what a process holds in any case,
//! is the *budget*: what is to be left for a store by whoever starts several things on one machine. `memory_bytes` goes
//! the other way, as TiKV's `memory-usage-limit` does: limits that the file does not name share what is left of it, in the
//! proportions of their defaults.

use toml::{Table, Value};

/// Code, stacks, descriptors of files and regions, buffers of connections.
const FIXED_BYTES: u64 = 160 << 20;

/// Section, key, and how many times its bytes may be held: a queue for each of two other stores; memory tables that are
/// being written to files, beside those that fill; a write under way, and its entry.
const PARTS: [(&str, &str, u64); 7] = [
    ("server", "link_queue_bytes", 2),
    ("server", "read_bytes_max", 1),
    ("store", "pending_bytes_max", 2),
    ("store", "entry_cache_bytes", 1),
    ("rocksdb", "log_write_buffer_bytes", 2),
    ("rocksdb", "data_write_buffer_bytes", 8),
    ("rocksdb", "block_cache_bytes", 1),
];

/// A part is never made smaller than its default divided by this.
const SHRINK_MAX: u64 = 8;

fn bytes(all: &Table, section: &str, key: &str) -> u64 {
    let value = all.get(section).and_then(|section| section.get(key)).and_then(Value::as_integer);
    value.and_then(|value| value.try_into().ok()).unwrap_or_default()
}

fn set(all: &mut Table, section: &str, key: &str, bytes: u64) {
    if let Some(section) = all.get_mut(section).and_then(Value::as_table_mut) {
        section.insert(key.into(), Value::Integer(bytes.try_into().unwrap_or(i64::MAX)));
    }
}

/// What a store with these limits may hold.
pub(super) fn budget(all: &Table) -> u64 {
    PARTS.iter().fold(FIXED_BYTES, |sum, (section, key, times)| {
        sum.saturating_add(bytes(all, section, key).saturating_mul(*times))
    })
}

/// Shares `total` out to the limits that `named` does not hold.
///
/// # Errors
/// The least total that would do.
pub(super) fn share(total: u64, named: &Table, all: &mut Table) -> Result<(), u64> {
    let is_named =
        |section: &str, key: &str| named.get(section).is_some_and(|section| section.get(key).is_some());
    let (mut taken, mut free) = (FIXED_BYTES, 0_u64);
    for (section, key, times) in PARTS {
        let part = bytes(all, section, key).saturating_mul(times);
        let sum = if is_named(section, key) { &mut taken } else { &mut free };
        *sum = sum.saturating_add(part);
    }
    let needed = taken.saturating_add(free / SHRINK_MAX);
    if total < needed {
        return Err(needed);
    }
    let scaled = |bytes: u64| match free {
        0 => bytes,
        free => {
            u64::try_from(u128::from(bytes) * u128::from(total - taken) / u128::from(free)).unwrap_or(bytes)
        }
    };
    // A checkpoint comes before the log's memory table is full.
    for (section, key) in
        PARTS.map(|(section, key, _)| (section, key)).into_iter().chain([("store", "checkpoint_log_bytes")])
    {
        if !is_named(section, key) {
            let bytes = scaled(bytes(all, section, key));
            set(all, section, key, bytes);
        }
    }
    Ok(())
}
