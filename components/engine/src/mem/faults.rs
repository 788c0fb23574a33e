//! Faults that the simulator asks a disk for.

use std::collections::BTreeMap;

use crate::Error;

/// A class of engine calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// [`crate::Engine::log_write`].
    LogWrite,
    /// [`crate::Engine::log_sync`].
    LogSync,
    /// [`crate::Engine::log_flush`].
    LogFlush,
    /// Reads of `log`.
    LogRead,
    /// [`crate::Engine::write`].
    Write,
    /// [`crate::Engine::flush`].
    Flush,
    /// Reads of `data`, through snapshots too.
    Read,
    /// [`crate::Engine::ingest`].
    Ingest,
    /// Calls of an [`crate::SstWriter`].
    Sst,
    /// [`crate::Engine::compact`].
    Compact,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The device reports an error.
    Io,
    /// The device is full.
    NoSpace,
}

impl FaultKind {
    pub(super) fn error(self, during: Call) -> Error {
        let text = format!("injected, during {during:?}");
        match self {
            Self::Io => Error::Io(text),
            Self::NoSpace => Error::NoSpace(text),
        }
    }
}

/// When calls of one class fail: `after` calls succeed, then `times` calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// How they fail.
    pub kind: FaultKind,
    /// Calls that still succeed.
    pub after: u64,
    /// Calls that fail then.
    pub times: u64,
}

impl Fault {
    /// Every call fails from now on.
    pub const fn always(kind: FaultKind) -> Self {
        Self { kind, after: 0, times: u64::MAX }
    }
}

/// All faults of a disk; the default is a healthy one.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    failing: BTreeMap<Call, Fault>,
    latency_us: BTreeMap<Call, u64>,
    corrupt: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Faults {
    /// A healthy disk.
    pub fn none() -> Self {
        Self::default()
    }

    /// Makes calls of a class fail.
    pub fn fail(mut self, call: Call, fault: Fault) -> Self {
        self.failing.insert(call, fault);
        self
    }

    /// Makes calls of a class take this long, in microseconds of [`crate::MemEngine::take_elapsed_us`].
    pub fn slow(mut self, call: Call, latency_us: u64) -> Self {
        self.latency_us.insert(call, latency_us);
        self
    }

    /// Damages `[start, end)` of `data`: reads of keys in it, and scans that meet one, fail.
    pub fn corrupt(mut self, start: &[u8], end: &[u8]) -> Self {
        self.corrupt.push((start.to_vec(), end.to_vec()));
        self
    }

    /// Counts a call and says whether it fails.
    pub(super) fn on_call(&mut self, call: Call) -> Option<FaultKind> {
        let fault = self.failing.get_mut(&call)?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        if fault.times == 0 {
            return None;
        }
        fault.times -= 1;
        Some(fault.kind)
    }

    pub(super) fn latency_us(&self, call: Call) -> u64 {
        self.latency_us.get(&call).copied().unwrap_or(0)
    }

    pub(super) fn check_readable(&self, key: &[u8]) -> crate::Result<()> {
        for (start, end) in &self.corrupt {
            if &start[..] <= key && key < &end[..] {
                return Err(Error::Corruption(format!("injected, at key {}", key.escape_ascii())));
            }
        }
        Ok(())
    }
}
