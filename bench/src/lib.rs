//! Micro and cluster benchmarks, side by side with peers. Here: what they share.

pub mod report;
