//! What the kernel says about a process.

use std::fs;

/// Kernel clock ticks per second in /proc (USER_HZ, 100 on Linux).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process has used since it started, and holds now. Zero where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU seconds, user and system.
    pub cpu_s: f64,
    /// Bytes that it caused to be written to disks (pages made dirty, less those that were dropped before).
    pub disk_bytes: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
}

impl Usage {
    /// Of the process with this id, or `self`.
    pub fn of(pid: &str) -> Usage {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let io = read("io");
        Usage {
            cpu_s: cpu_s(&read("stat")).unwrap_or_default(),
            disk_bytes: number_after(&io, "write_bytes")
                .saturating_sub(number_after(&io, "cancelled_write_bytes")),
            resident_bytes: number_after(&read("status"), "VmRSS") * 1_024,
        }
    }

    /// Of several processes together.
    pub fn sum(all: impl IntoIterator<Item = Usage>) -> Usage {
        all.into_iter().fold(Usage::default(), |sum, one| Usage {
            cpu_s: sum.cpu_s + one.cpu_s,
            disk_bytes: sum.disk_bytes + one.disk_bytes,
            resident_bytes: sum.resident_bytes + one.resident_bytes,
        })
    }
}

/// Fields 14 and 15 of /proc/PID/stat, counted after the name in parentheses, which may hold blanks.
fn cpu_s(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / TICKS_PER_SECOND)
}

/// The number of the first line `key: number ...`.
fn number_after(text: &str, key: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(name, _)| *name == key).map(|(_, value)| value);
    found.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_used_time() {
        let usage = Usage::of("self");
        assert!(usage.resident_bytes > 1 << 20, "{usage:?}");
        assert_eq!(Usage::of("no such process"), Usage::default());
    }

    #[test]
    fn fields_are_found_behind_a_name_with_blanks() {
        assert_eq!(cpu_s("1 (a ) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0"), Some(2.0));
        assert_eq!(number_after("rchar: 1\nwrite_bytes: 42\ncancelled_write_bytes: 7\n", "write_bytes"), 42);
        assert_eq!(number_after("VmRSS:\t  12 kB\n", "VmRSS"), 12);
    }
}
