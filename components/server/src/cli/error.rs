//! What the client commands report.

use std::io;
use std::path::PathBuf;

use flotilla_router::EndpointError;

/// Why a command did not do all of what it was asked to. Each is one line for a person.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// A call to the cluster did not succeed.
    #[error(transparent)]
    Client(#[from] flotilla_router::Error),
    /// No store gave an answer to an administrative call.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The cluster refused an administrative command.
    #[error("refused: {message}")]
    Refused {
        /// The cluster's own words.
        message: String,
    },
    /// No such key.
    #[error("key not found: {key}")]
    KeyNotFound {
        /// As shown to people.
        key: String,
    },
    /// No such region.
    #[error("region {id} does not exist")]
    RegionNotFound {
        /// What was asked for.
        id: u64,
    },
    /// The region ended by becoming part of another one.
    #[error("region {id} is part of region {into} since they were merged")]
    RegionMerged {
        /// What was asked for.
        id: u64,
        /// Which region took it over.
        into: u64,
    },
    /// Not an even number of hexadecimal digits.
    #[error("{text:?} is not hexadecimal")]
    BadHex {
        /// What was given.
        text: String,
    },
    /// Something about a file or folder.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// `--dir` names something else.
    #[error("{}: not a directory", path.display())]
    NotADirectory {
        /// What was given.
        path: PathBuf,
    },
    /// Export writes into a new or empty directory only.
    #[error("{}: not empty", path.display())]
    NotEmpty {
        /// What was given.
        path: PathBuf,
    },
    /// Standard output failed.
    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
    /// Standard input failed.
    #[error("cannot read standard input: {0}")]
    Input(#[source] io::Error),
    /// Entries are over the limit; nothing was written.
    #[error("{}; nothing was written (--skip-large leaves them out)", over_limit(.entries, *.limit))]
    OverLimit {
        /// Names and sizes in bytes.
        entries: Vec<(String, u64)>,
        /// The limit in bytes.
        limit: u64,
    },
    /// A line of an import file.
    #[error("line {line}: {source}")]
    BadRecord {
        /// Counted from 1.
        line: u64,
        /// What is wrong with it.
        source: super::records::RecordError,
    },
    /// Some entries were not stored.
    #[error(
        "{failed} of {total} entries were not stored, {untried} of them not tried; run the same command again"
    )]
    Incomplete {
        /// Entries not stored.
        failed: u64,
        /// Entries of those that were not tried after too many failures.
        untried: u64,
        /// Entries to store.
        total: u64,
    },
    /// Values in the cluster are not those of the source.
    #[error("verification failed: {missing} missing, {different} different, {unread} not read, of {total}")]
    Mismatch {
        /// Keys without a value.
        missing: usize,
        /// Keys with another value.
        different: usize,
        /// Keys that could not be read here or there.
        unread: usize,
        /// Keys compared.
        total: u64,
    },
    /// Some keys cannot be files.
    #[error("{refused} of {total} keys were not written")]
    NotWritten {
        /// Keys left out.
        refused: u64,
        /// Keys exported.
        total: u64,
    },
    /// The resume record is about something else.
    #[error("{}: belongs to another import; remove it to start anew", path.display())]
    ForeignRecord {
        /// The record.
        path: PathBuf,
    },
    /// A data directory cannot be used.
    #[error("{}: {why}", path.display())]
    Disk {
        /// Which one.
        path: PathBuf,
        /// The store's own words.
        why: String,
    },
    /// Something on a disk is not what was written.
    #[error("{regions} regions are damaged, or the log is")]
    DamagedDisk {
        /// Regions with damage.
        regions: usize,
    },
    /// Replicas of regions hold different things.
    #[error("replicas differ in regions {regions:?}")]
    ReplicasDiffer {
        /// The regions.
        regions: Vec<u64>,
    },
    /// Replicas did not say what they hold.
    #[error("not all replicas of regions {regions:?} could be compared")]
    ReplicasSilent {
        /// The regions.
        regions: Vec<u64>,
    },
    /// A data directory is that of a store that is said to be lost.
    #[error("{} is store {store}, which --failed names", path.display())]
    FailedSurvives {
        /// The directory.
        path: PathBuf,
        /// The store.
        store: u64,
    },
    /// Not a file that `ctl recover --report` wrote.
    #[error("{}: not a report of survivors", path.display())]
    BadReport {
        /// Which one.
        path: PathBuf,
    },
    /// A store is not drained in time; it goes on without being waited for.
    #[error("store {id} still has {regions} regions; ask again with `ctl stores`")]
    NotDrained {
        /// The store.
        id: u64,
        /// Regions with a replica there.
        regions: u64,
    },
    /// A move has not ended in time; it goes on without being waited for.
    #[error("region {region} is not moved yet ({phase}); ask again with the same command")]
    NotMoved {
        /// The region.
        region: u64,
        /// How far it is.
        phase: String,
    },
    /// The resume record cannot be understood.
    #[error("{}: not a resume record", path.display())]
    BadResume {
        /// The record.
        path: PathBuf,
    },
}

impl CliError {
    /// A data directory cannot be used.
    pub(super) fn disk(path: &std::path::Path, error: &flotilla_raftstore::StoreError) -> Self {
        Self::Disk { path: path.to_owned(), why: error.to_string() }
    }

    /// For `map_err` after an operation on a file.
    pub(super) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}

fn over_limit(entries: &[(String, u64)], limit: u64) -> String {
    const NAMED_MAX: usize = 10;
    let named: Vec<String> =
        entries.iter().take(NAMED_MAX).map(|(name, bytes)| format!("{name} ({bytes} bytes)")).collect();
    let more = match entries.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("over the entry limit of {limit} bytes: {}{more}", named.join(", "))
}
