//! Raw key-value commands: encoding, apply with TTL and compare-and-swap, reads.
