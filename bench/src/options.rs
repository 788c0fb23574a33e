//! Options that all benchmarks share.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::report::Report;

/// How long, and where to.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// A short run that only shows that it works; its result is written only with --results
    #[arg(long)]
    pub quick: bool,
    /// Folder for the result [default: bench/results]
    #[arg(long)]
    results: Option<PathBuf>,
    /// Folder for disks [default: a temporary one]
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// A folder that goes when this is dropped, unless somebody chose it.
pub struct Folder {
    path: PathBuf,
    _temporary: Option<TempDir>,
}

impl Folder {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Options {
    /// Where disks go.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self) -> Result<Folder, String> {
        if let Some(path) = &self.dir {
            std::fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))?;
            return Ok(Folder { path: path.clone(), _temporary: None });
        }
        let temporary = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        Ok(Folder { path: temporary.path().to_path_buf(), _temporary: Some(temporary) })
    }

    /// `full`, or `quick` in a quick run.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// The numbers chosen on the command line, or those of a full or a quick run.
    pub fn pick_list<T: Clone>(&self, chosen: &[T], full: &[T], quick: &[T]) -> Vec<T> {
        if chosen.is_empty() { self.pick(full, quick).to_vec() } else { chosen.to_vec() }
    }

    /// A result without figures.
    pub fn report(&self, name: &str, title: &str, axis: &str) -> Report {
        Report::new(name, title, axis, self.quick)
    }

    /// Writes a result; that of a quick run only where a folder was named.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn write(&self, report: &Report) -> Result<(), String> {
        let default = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/results"));
        let Some(folder) = self.results.clone().or_else(|| (!self.quick).then(default)) else {
            println!("a quick run, not written (--results FOLDER)");
            return Ok(());
        };
        report.write(&folder)?;
        println!("written: {}", folder.join(format!("{}.json", report.name)).display());
        Ok(())
    }
}
