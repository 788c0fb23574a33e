//! Micro and cluster benchmarks, side by side with peers. Here: what they share.
//!
//! A benchmark fills a [`report::Report`]: figures, each with a series, a place on the horizontal axis, a metric and a
//! unit. Writing it makes `NAME.json`, the plot `NAME.svg` and, from all results of the folder, its `README.md`.

pub mod latency;
pub mod options;
pub mod plot;
pub mod process;
pub mod report;
pub mod summary;
