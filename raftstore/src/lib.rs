//! One store's regions: propose, persist, replicate, apply, split, membership, snapshots and log GC
