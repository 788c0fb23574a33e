//! `flotilla export`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flotilla_region::KeyRange;
use flotilla_router::Scan;
use serde::Serialize;

use super::bar::Bar;
use super::common::{Common, Output};
use super::error::CliError;
use super::kv::RangeArgs;
use super::records::Format;
use super::text::{show, show_size};
use super::tree::path_of;

/// Keys that are listed one by one because they cannot be files.
const LISTED_MAX: u64 = 20;

/// Write keys and values to files: the inverse of import.
///
/// The range is read region by region, each page at its own moment: writes during the export may be in it or not.
#[derive(Debug, clap::Args)]
pub struct Export {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    range: RangeArgs,
}

#[derive(Debug, clap::Args)]
#[group(id = "target", required = true, multiple = true)]
struct TargetArgs {
    /// One file a key under this directory, which must be new or empty; keys that would leave it are refused
    #[arg(long, value_name = "PATH", conflicts_with_all = ["format", "file"])]
    dir: Option<PathBuf>,
    /// Form of the records
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// File to write, one record a line; - is standard output
    #[arg(
        requires = "format",
        default_value = "-",
        default_value_if("dir", clap::builder::ArgPredicate::IsPresent, None)
    )]
    file: Option<PathBuf>,
}

#[derive(Debug, Default, Serialize)]
struct Summary {
    entries: u64,
    bytes: u64,
    refused: u64,
}

impl Export {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        let range = self.range.parse(&self.common)?;
        if let Some(dir) = &self.target.dir {
            prepare(dir)?;
            let mut refused = 0;
            let summary = self
                .copy(range, |key, value| match write_file(dir, key, value) {
                    Ok(()) => Ok(true),
                    Err(reason) => {
                        refused += 1;
                        if refused <= LISTED_MAX {
                            eprintln!("not written: {}: {reason}", show(key));
                        }
                        Ok(false)
                    }
                })
                .await?;
            summary.write(self.common.output, out)?;
            if summary.refused > 0 {
                let total = summary.entries + summary.refused;
                return Err(CliError::NotWritten { refused: summary.refused, total });
            }
            return Ok(());
        }
        let format = self.target.format.expect("clap requires it without a directory");
        let file = self.target.file.as_deref().unwrap_or(Path::new("-"));
        if file == Path::new("-") {
            self.copy(range, |key, value| {
                format.write(out, key, value).map(|()| true).map_err(CliError::Output)
            })
            .await?;
            return Ok(());
        }
        // Under its own name only when it is whole.
        let mut name = file.as_os_str().to_owned();
        name.push(".part");
        let part = PathBuf::from(name);
        let mut lines = BufWriter::new(File::create(&part).map_err(CliError::file(&part))?);
        let summary = self
            .copy(range, |key, value| {
                format.write(&mut lines, key, value).map(|()| true).map_err(CliError::file(&part))
            })
            .await?;
        lines.flush().map_err(CliError::file(&part))?;
        fs::rename(&part, file).map_err(CliError::file(file))?;
        summary.write(self.common.output, out)
    }

    /// Hands every pair of the range to `write`, which says whether it took it.
    async fn copy(
        &self,
        range: KeyRange,
        mut write: impl FnMut(&Bytes, &Bytes) -> Result<bool, CliError>,
    ) -> Result<Summary, CliError> {
        let client = self.common.client().await?;
        let bar = Bar::new("export", self.estimate(&range).await);
        let mut scanner = client.scanner(Scan::forward(range));
        let mut summary = Summary::default();
        while let Some(page) = scanner.next_page(usize::MAX).await? {
            for (key, value) in &page {
                if write(key, value)? {
                    summary.entries += 1;
                    summary.bytes += (key.len() + value.len()) as u64;
                } else {
                    summary.refused += 1;
                }
            }
            bar.set(summary.entries, summary.bytes, summary.refused);
        }
        Ok(summary)
    }

    /// Bytes of the range, for the bar, if the cluster can tell: it knows sizes of whole regions only.
    async fn estimate(&self, range: &KeyRange) -> Option<u64> {
        if *range != KeyRange::ALL {
            return None;
        }
        let regions = self.common.admin().ok()?.regions(0).await.ok()?;
        let bytes = regions.iter().map(|region| region.approximate_bytes).sum();
        (bytes > 0).then_some(bytes)
    }
}

impl Summary {
    fn write(&self, output: Output, out: &mut dyn Write) -> Result<(), CliError> {
        let written = match output {
            Output::Json => {
                serde_json::to_string(self).map_err(io::Error::from).and_then(|s| writeln!(out, "{s}"))
            }
            Output::Table => writeln!(out, "exported {} entries, {}", self.entries, show_size(self.bytes)),
        };
        written.map_err(CliError::Output)
    }
}

/// Makes a directory that holds nothing, so that no link in it can lead elsewhere.
fn prepare(dir: &Path) -> Result<(), CliError> {
    fs::create_dir_all(dir).map_err(CliError::file(dir))?;
    match fs::read_dir(dir).map_err(CliError::file(dir))?.next() {
        Some(_) => Err(CliError::NotEmpty { path: dir.to_owned() }),
        None => Ok(()),
    }
}

/// Why a key is not a file.
#[derive(Debug, thiserror::Error)]
enum NotAFile {
    #[error(transparent)]
    Unsafe(#[from] super::tree::UnsafeKey),
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn write_file(dir: &Path, key: &Bytes, value: &Bytes) -> Result<(), NotAFile> {
    let path = path_of(dir, key)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    Ok(File::create_new(&path)?.write_all(value)?)
}
