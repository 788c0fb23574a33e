//! The progress bar: on a terminal with rate and remaining time, elsewhere invisible.

use indicatif::{ProgressBar, ProgressStyle};

use super::load::Progress;

/// A bar on standard error.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// A bar over `total` bytes, or without an end if that is unknown.
    pub(super) fn new(what: &'static str, total: Option<u64>) -> Self {
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{prefix} {wide_bar} {msg} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left",
            ),
            None => (
                ProgressBar::new_spinner(),
                "{prefix} {spinner} {msg} {binary_bytes} {binary_bytes_per_sec} {elapsed}",
            ),
        };
        let style = ProgressStyle::with_template(template).expect("the template is well-formed");
        bar.set_style(style);
        bar.set_prefix(what);
        Self(bar)
    }

    /// Shows how far it is.
    pub(super) fn show(&self, progress: &Progress) {
        self.set(progress.done, progress.done_bytes, progress.failed);
    }

    /// Shows numbers.
    pub(super) fn set(&self, entries: u64, bytes: u64, failed: u64) {
        if self.0.length().is_some_and(|length| bytes > length) {
            self.0.set_length(bytes);
        }
        self.0.set_position(bytes);
        let failed = if failed == 0 { String::new() } else { format!(", {failed} failed") };
        self.0.set_message(format!("{entries} entries{failed}"));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
