//! The hash of everything that happened in a run, and its readable form on demand.

/// FNV-1a over the events of a run, so that two runs of a seed can be compared.
pub struct Trace {
    hash: u64,
    events: u64,
    print: bool,
}

impl Trace {
    /// An empty trace; with `print`, events are written to the standard output.
    pub fn new(print: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, print }
    }

    /// Records an event: `numbers` enter the hash, `text` is only made when it is printed.
    pub fn note(&mut self, now_us: u64, numbers: &[u64], text: impl FnOnce() -> String) {
        self.events += 1;
        for byte in numbers.iter().chain([&now_us]).flat_map(|n| n.to_le_bytes()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.print {
            println!("{:>10.3} {}", now_us as f64 / 1_000.0, text());
        }
    }

    /// Whether events are printed.
    pub fn prints(&self) -> bool {
        self.print
    }

    /// Hash so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }
}
