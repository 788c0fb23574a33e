//! Micro and cluster benchmarks, side by side with peers
