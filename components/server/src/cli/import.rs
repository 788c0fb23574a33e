//! `flotilla import`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio::sync::mpsc;

use super::bar::Bar;
use super::common::{Common, Output};
use super::error::CliError;
use super::load::{ENTRY_BYTES_MAX, Items, LoadFailure, LoadOptions, LoadReport, load};
use super::records::{Format, Reader};
use super::resume::Resume;
use super::text::{show, show_size};
use super::tree::Tree;
use super::verify::{VerifyReport, verify};

/// Failures that are listed one by one.
const LISTED_MAX: usize = 20;

/// Store the files of a directory (key = relative path, value = content), or the records of a file.
///
/// Storing is idempotent: an import that was cut short is simply run again. With --resume it goes on where it was cut
/// short instead of at the start.
#[derive(Debug, clap::Args)]
pub struct Import {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    source: SourceArgs,
    /// Largest key and value together, in bytes; larger ones are refused before anything is written
    #[arg(long, value_name = "BYTES", default_value_t = ENTRY_BYTES_MAX)]
    entry_limit: u64,
    /// Leave out files over the entry limit, and count them
    #[arg(long, conflicts_with = "file")]
    skip_large: bool,
    /// Puts under way at once
    #[arg(long, value_name = "COUNT", default_value_t = 64, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=4096))]
    concurrency: usize,
    /// Keep a record of what is stored in FILE and go on from it; it is removed when all is stored
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Afterwards read every value back and compare it
    #[arg(long)]
    verify: bool,
}

#[derive(Debug, clap::Args)]
#[group(id = "source", required = true, multiple = true)]
struct SourceArgs {
    /// Every file under this directory; symbolic links are not followed
    #[arg(long, value_name = "PATH", conflicts_with_all = ["format", "file"])]
    dir: Option<PathBuf>,
    /// Form of the records
    #[arg(long, value_enum, requires = "file")]
    format: Option<Format>,
    /// File with one record a line; - is standard input
    #[arg(requires = "format")]
    file: Option<PathBuf>,
}

/// What an import did.
#[derive(Debug, Default, Serialize)]
struct Summary {
    entries: u64,
    bytes: u64,
    failed: u64,
    already_stored: u64,
    skipped_large: usize,
    symlinks_not_followed: u64,
    special_files_left_out: u64,
    seconds: f64,
    entries_per_second: f64,
    bytes_per_second: f64,
    longest_time_without_a_write_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<u64>,
}

impl Import {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        let mut summary = Summary::default();
        // The source is read and checked before the cluster is talked to.
        let tree = match &self.source.dir {
            Some(dir) => Some(self.read_tree(dir, &mut summary)?),
            None => None,
        };
        if let Some(file) = self.source.file.as_deref().filter(|file| *file != Path::new("-")) {
            self.reader(file)?.try_for_each(|item| item.map(|_| ()))?;
        }
        let client = self.common.client().await?;
        let mut resume = match &self.resume {
            Some(path) => Some(Resume::open(path, client.cluster_id(), &self.source.name())?),
            None => None,
        };
        summary.already_stored = resume.as_ref().map_or(0, Resume::entries);
        let items = self.items(tree, resume.as_ref(), &mut summary)?;
        let total = items.total();
        let options = LoadOptions {
            concurrency: self.concurrency,
            entry_bytes_max: self.entry_limit,
            ..LoadOptions::default()
        };
        let bar = Bar::new("import", total.map(|(_, bytes)| bytes));
        let mut record_error = None;
        let before = summary.already_stored;
        let report = load(&client, items, &options, |progress| {
            bar.show(progress);
            if let Some(resume) = &mut resume {
                record_error = record_error.take().or(resume.update(before, progress).err());
            }
        })
        .await;
        drop(bar);
        let is_complete = report.failures.is_empty() && report.untried == 0 && report.source_error.is_none();
        if let Some(resume) = resume {
            resume.finish(is_complete)?;
        }
        list_failures("not stored", &report.failures);
        summary.take(&report);
        if is_complete && self.verify {
            summary.verified = Some(self.check(&client, &options).await?);
        }
        summary.write(self.common.output, out).map_err(CliError::Output)?;
        record_error.map_or(Ok(()), Err)?;
        verdict(report, total.map(|(entries, _)| entries))
    }

    fn read_tree(&self, dir: &Path, summary: &mut Summary) -> Result<Tree, CliError> {
        let mut tree = Tree::read(dir)?;
        let large = tree.split_off_large(self.entry_limit);
        if !large.is_empty() && !self.skip_large {
            return Err(CliError::OverLimit { entries: large, limit: self.entry_limit });
        }
        summary.skipped_large = large.len();
        summary.symlinks_not_followed = tree.symlinks;
        summary.special_files_left_out = tree.special;
        Ok(tree)
    }

    fn reader(&self, file: &Path) -> Result<Reader<Box<dyn BufRead + Send>>, CliError> {
        let input: Box<dyn BufRead + Send> = if file == Path::new("-") {
            Box::new(BufReader::new(std::io::stdin()))
        } else {
            Box::new(BufReader::new(File::open(file).map_err(CliError::file(file))?))
        };
        let format = self.source.format.expect("clap requires it beside a file");
        Ok(Reader::new(input, format, self.entry_limit))
    }

    /// What this run has to store: all, or what lies behind the resume record's mark.
    fn items(
        &self,
        tree: Option<Tree>,
        resume: Option<&Resume>,
        summary: &mut Summary,
    ) -> Result<Items, CliError> {
        if let Some(mut tree) = tree {
            if let Some(mark) = resume.and_then(Resume::last_key) {
                let before = tree.files.len();
                tree.files.retain(|item| *item.key() > mark);
                summary.already_stored = (before - tree.files.len()) as u64;
            }
            return Ok(Items::list(tree.files));
        }
        let file = self.source.file.as_deref().expect("clap requires a directory or a file");
        let skip = usize::try_from(summary.already_stored).unwrap_or(usize::MAX);
        let reader = self.reader(file)?.skip(skip);
        let (sender, receiver) = mpsc::channel(256);
        // Files and pipes block; nothing waits for this task but the receiver.
        tokio::task::spawn_blocking(move || {
            for item in reader {
                let is_last = item.is_err();
                if sender.blocking_send(item).is_err() || is_last {
                    break;
                }
            }
        });
        Ok(Items::Stream(receiver))
    }

    /// Compares everything with the cluster; returns how many entries agree.
    async fn check(&self, client: &flotilla_router::Client, options: &LoadOptions) -> Result<u64, CliError> {
        let mut summary = Summary::default();
        let tree = match &self.source.dir {
            Some(dir) => Some(self.read_tree(dir, &mut summary)?),
            None if self.source.file.as_deref() == Some(Path::new("-")) => return Ok(0),
            None => None,
        };
        let items = self.items(tree, None, &mut summary)?;
        let bar = Bar::new("verify", items.total().map(|(_, bytes)| bytes));
        let report = verify(client, items, options, |progress| bar.show(progress)).await;
        drop(bar);
        check_report(&report)
    }
}

impl SourceArgs {
    /// For the resume record: what is imported, independent of the working directory.
    fn name(&self) -> String {
        let path = self.dir.as_deref().or(self.file.as_deref()).unwrap_or(Path::new("-"));
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let kind = match self.format {
            None => "dir",
            Some(Format::Tsv) => "tsv",
            Some(Format::Jsonl) => "jsonl",
        };
        format!("{kind}:{}", show(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())))
    }
}

impl Summary {
    fn take(&mut self, report: &LoadReport) {
        let progress = &report.progress;
        self.entries = progress.done;
        self.bytes = progress.done_bytes;
        self.failed = progress.failed;
        self.seconds = progress.elapsed.as_secs_f64();
        let per_second = |count: u64| if self.seconds > 0.0 { count as f64 / self.seconds } else { 0.0 };
        self.entries_per_second = per_second(progress.done);
        self.bytes_per_second = per_second(progress.done_bytes);
        self.longest_time_without_a_write_seconds = report.rates.longest_gap().length.as_secs_f64();
    }

    fn write(&self, output: Output, out: &mut dyn Write) -> std::io::Result<()> {
        if output == Output::Json {
            serde_json::to_writer(&mut *out, self)?;
            return writeln!(out);
        }
        writeln!(
            out,
            "imported {} entries, {} in {:.1} s ({:.0} entries/s, {}/s)",
            self.entries,
            show_size(self.bytes),
            self.seconds,
            self.entries_per_second,
            show_size(self.bytes_per_second as u64),
        )?;
        for (count, what) in [
            (self.already_stored, "already stored by an earlier run"),
            (self.skipped_large as u64, "files over the entry limit left out"),
            (self.symlinks_not_followed, "symbolic links not followed"),
            (self.special_files_left_out, "sockets, pipes and devices left out"),
        ] {
            if count > 0 {
                writeln!(out, "{count} {what}")?;
            }
        }
        match self.verified {
            Some(count) => writeln!(out, "verified {count} entries: all agree"),
            None => Ok(()),
        }
    }
}

fn verdict(report: LoadReport, total: Option<u64>) -> Result<(), CliError> {
    if let Some(error) = report.source_error {
        return Err(error);
    }
    let failed = report.failures.len() as u64 + report.untried;
    if failed == 0 {
        return Ok(());
    }
    let total = total.unwrap_or(report.progress.done + failed);
    Err(CliError::Incomplete { failed, untried: report.untried, total })
}

fn check_report(report: &VerifyReport) -> Result<u64, CliError> {
    list_failures("not compared", &report.unread);
    for (what, keys) in [("missing", &report.missing), ("different", &report.different)] {
        for key in keys.iter().take(LISTED_MAX) {
            eprintln!("{what}: {}", show(key));
        }
    }
    if report.is_clean() {
        return Ok(report.matched);
    }
    Err(CliError::Mismatch {
        missing: report.missing.len(),
        different: report.different.len(),
        unread: report.unread.len(),
        total: report.progress.done + report.progress.failed,
    })
}

fn list_failures(what: &str, failures: &[LoadFailure]) {
    for failure in failures.iter().take(LISTED_MAX) {
        eprintln!("{what}: {}: {}", show(&failure.key), failure.reason);
    }
}
