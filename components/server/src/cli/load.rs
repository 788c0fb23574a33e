//! Many entries into the cluster: bounded concurrency, figures, precise failures, a mark to resume from.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_router::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::CliError;
use super::rates::RateLog;

/// Default limit in bytes of an entry, key and value together: the store's own default.
pub const ENTRY_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// An entry to store or to compare.
#[derive(Clone, Debug)]
pub enum Item {
    /// The content of a file, read when its turn comes.
    File {
        /// Key.
        key: Bytes,
        /// The file.
        path: PathBuf,
        /// Its size when it was found.
        bytes: u64,
    },
    /// A pair in memory.
    Record {
        /// Key.
        key: Bytes,
        /// Value.
        value: Bytes,
        /// Seconds to live; 0 = for ever.
        ttl_seconds: u64,
    },
}

impl Item {
    /// The entry's key.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::File { key, .. } | Self::Record { key, .. } => key,
        }
    }

    /// Size of key and value, as far as known before a file is read.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::File { key, bytes, .. } => key.len() as u64 + bytes,
            Self::Record { key, value, .. } => (key.len() + value.len()) as u64,
        }
    }

    /// The value and its seconds to live.
    pub(super) async fn read(self) -> io::Result<(Bytes, u64)> {
        match self {
            Self::File { path, .. } => Ok((tokio::fs::read(path).await?.into(), 0)),
            Self::Record { value, ttl_seconds, .. } => Ok((value, ttl_seconds)),
        }
    }
}

/// Where entries come from.
#[derive(Debug)]
pub enum Items {
    /// A list known as a whole.
    List(std::vec::IntoIter<Item>),
    /// A stream; the first error ends it.
    Stream(mpsc::Receiver<Result<Item, CliError>>),
}

impl Items {
    /// The items of a list.
    pub fn list(items: Vec<Item>) -> Self {
        Self::List(items.into_iter())
    }

    /// Number and bytes of what is left, if known.
    pub fn total(&self) -> Option<(u64, u64)> {
        match self {
            Self::List(items) => {
                let items = items.as_slice();
                Some((items.len() as u64, items.iter().map(Item::bytes).sum()))
            }
            Self::Stream(_) => None,
        }
    }

    async fn next(&mut self) -> Option<Result<Item, CliError>> {
        match self {
            Self::List(items) => items.next().map(Ok),
            Self::Stream(items) => items.recv().await,
        }
    }
}

/// How [`load`] and [`super::verify()`] work.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Calls under way at once.
    pub concurrency: usize,
    /// Bytes of entries under way at once; a single entry may be larger.
    pub bytes_under_way_max: u64,
    /// Limit in bytes of key and value, for files that grew since they were found.
    pub entry_bytes_max: u64,
    /// Failures after which nothing further is tried.
    pub failures_max: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            concurrency: 64,
            bytes_under_way_max: 64 * 1024 * 1024,
            entry_bytes_max: ENTRY_BYTES_MAX,
            failures_max: 16,
        }
    }
}

/// How far it is; passed to the callback after every entry.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Entries done with success.
    pub done: u64,
    /// Their bytes, keys and values.
    pub done_bytes: u64,
    /// Entries failed.
    pub failed: u64,
    /// Entries at the front of the order that are all done with success.
    pub front: u64,
    /// Key of the last of them.
    pub front_key: Option<Bytes>,
    /// Time since the start.
    pub elapsed: Duration,
}

/// An entry that was not stored, or not compared.
#[derive(Debug)]
pub struct LoadFailure {
    /// Its key.
    pub key: Bytes,
    /// Why.
    pub reason: FailureReason,
}

/// Why an entry was not stored, or not compared.
#[derive(Debug, thiserror::Error)]
pub enum FailureReason {
    /// Its file cannot be read.
    #[error("cannot read the file: {0}")]
    Unreadable(#[from] io::Error),
    /// Its file grew over the limit.
    #[error("grew to {bytes} bytes, over the entry limit")]
    Grew {
        /// Key and value.
        bytes: u64,
    },
    /// The call did not succeed.
    #[error(transparent)]
    Call(#[from] flotilla_router::Error),
}

/// What became of a load.
#[derive(Debug, Default)]
pub struct LoadReport {
    /// The final figures.
    pub progress: Progress,
    /// Entries not stored, in the order in which they failed.
    pub failures: Vec<LoadFailure>,
    /// Entries not tried after too many failures; of a stream, unknown and 0.
    pub untried: u64,
    /// What ended the stream of entries before its end.
    pub source_error: Option<CliError>,
    /// When writes were acknowledged, from the start of the load.
    pub rates: RateLog,
}

/// Stores all items. Puts are idempotent: a load that was cut short can be repeated from the start, or from
/// [`Progress::front`] on.
pub async fn load(
    client: &Client,
    mut items: Items,
    options: &LoadOptions,
    mut on_progress: impl FnMut(&Progress),
) -> LoadReport {
    let entry_bytes_max = options.entry_bytes_max;
    let mut report = LoadReport::default();
    let mut rates = RateLog::default();
    let put = |item: Item| {
        let client = client.clone();
        async move {
            let key = item.key().clone();
            let (value, ttl_seconds) = item.read().await?;
            let bytes = (key.len() + value.len()) as u64;
            if bytes > entry_bytes_max {
                return Err(FailureReason::Grew { bytes });
            }
            client.put(key, value, ttl_seconds).await?;
            Ok(bytes)
        }
    };
    let drive = drive(&mut items, options, put, |progress, at, outcome| {
        match outcome {
            Ok(bytes) => {
                progress.done_bytes += bytes;
                rates.record(at, bytes);
            }
            Err(failure) => report.failures.push(failure),
        }
        on_progress(progress);
    });
    let (progress, source_error) = drive.await;
    report.progress = progress;
    report.source_error = source_error;
    report.untried = items.total().map_or(0, |(left, _)| left);
    report.rates = rates;
    report
}

/// Which items are done: they finish in any order, but only the front without a hole can be skipped by a resumed run.
#[derive(Debug, Default)]
struct Front {
    next: u64,
    last_key: Option<Bytes>,
    beyond: BTreeMap<u64, Bytes>,
}

impl Front {
    fn done(&mut self, index: u64, key: Bytes) {
        self.beyond.insert(index, key);
        while let Some(key) = self.beyond.remove(&self.next) {
            self.next += 1;
            self.last_key = Some(key);
        }
    }
}

struct Finished<T> {
    index: u64,
    key: Bytes,
    bytes: u64,
    at: Duration,
    outcome: Result<T, FailureReason>,
}

/// Runs `work` on every item, so many at once as the options say, and hands each outcome with the time it was known
/// to `on_done`. Ends at the end of the items, at an error of theirs, or after too many failures.
pub(super) async fn drive<T, Fut>(
    items: &mut Items,
    options: &LoadOptions,
    work: impl Fn(Item) -> Fut,
    mut on_done: impl FnMut(&mut Progress, Duration, Result<T, LoadFailure>),
) -> (Progress, Option<CliError>)
where
    T: Send + 'static,
    Fut: Future<Output = Result<T, FailureReason>> + Send + 'static,
{
    let started = Arc::new(Instant::now());
    let mut tasks: JoinSet<Finished<T>> = JoinSet::new();
    let (mut progress, mut front) = (Progress::default(), Front::default());
    let (mut index, mut bytes_under_way) = (0, 0);
    let (mut is_over, mut source_error) = (false, None);
    while !is_over || !tasks.is_empty() {
        let has_room = tasks.is_empty()
            || (tasks.len() < options.concurrency && bytes_under_way < options.bytes_under_way_max);
        tokio::select! {
            biased;
            Some(finished) = tasks.join_next(), if !tasks.is_empty() => {
                let finished = finished.expect("the work does not panic and is not cancelled");
                bytes_under_way -= finished.bytes;
                progress.elapsed = started.elapsed();
                let outcome = match finished.outcome {
                    Ok(outcome) => {
                        progress.done += 1;
                        front.done(finished.index, finished.key);
                        progress.front = front.next;
                        progress.front_key.clone_from(&front.last_key);
                        Ok(outcome)
                    }
                    Err(reason) => {
                        progress.failed += 1;
                        is_over |= progress.failed >= options.failures_max as u64;
                        Err(LoadFailure { key: finished.key, reason })
                    }
                };
                on_done(&mut progress, finished.at, outcome);
            }
            item = items.next(), if !is_over && has_room => match item {
                Some(Ok(item)) => {
                    let (key, bytes, started) = (item.key().clone(), item.bytes(), started.clone());
                    bytes_under_way += bytes;
                    let work = work(item);
                    tasks.spawn(async move {
                        let outcome = work.await;
                        Finished { index, key, bytes, at: started.elapsed(), outcome }
                    });
                    index += 1;
                }
                Some(Err(error)) => {
                    source_error = Some(error);
                    is_over = true;
                }
                None => is_over = true,
            },
        }
    }
    progress.elapsed = started.elapsed();
    (progress, source_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_passes_no_hole() {
        let mut front = Front::default();
        let key = |n: u64| Bytes::from(n.to_string());
        for (index, expected) in [(1, 0), (2, 0), (0, 3), (4, 3), (3, 5)] {
            front.done(index, key(index));
            assert_eq!(front.next, expected);
        }
        assert_eq!(front.last_key, Some(key(4)));
    }
}
