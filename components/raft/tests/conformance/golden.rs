//! This crate's own scripts, in `tests/golden/`: what the published files do not reach.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use crate::{
    datadriven::{Handler, parse, without_log_lines},
    files::{Kind, TestFile},
    interaction::Environment,
};

/// All scripts, sorted.
pub fn scripts() -> Vec<TestFile> {
    // Asked when it runs: one target directory may serve several checkouts.
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and nextest name the package's folder");
    let folder = Path::new(&package).join("tests/golden");
    let listing = std::fs::read_dir(&folder).expect("the scripts lie beside the runner");
    let paths = listing.map(|entry| entry.expect("the folder can be read").path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension() == Some(OsStr::new("txt"))).collect();
    paths.sort();
    paths.into_iter().map(|path| TestFile { path, kind: Kind::Interaction }).collect()
}

/// Writes what the commands of a script print now in place of what it expects. Only for outputs in the single form,
/// and only where every command already has its separator.
pub fn rewrite(script: &TestFile) -> Result<(), String> {
    let text = std::fs::read_to_string(&script.path).map_err(|error| error.to_string())?;
    let lines: Vec<&str> = text.lines().collect();
    let mut environment = Environment::default();
    let (mut out, mut copied) = (String::new(), 0);
    let mut push = |line: &str| {
        out.push_str(line);
        out.push('\n');
    };
    for case in parse(&text)? {
        let (start, end) = case.output_lines;
        lines[copied..start].iter().for_each(|line| push(line));
        let printed = without_log_lines(&environment.run(&case));
        let printed = if printed.is_empty() { "ok" } else { printed.as_str() };
        printed.lines().for_each(&mut push);
        copied = end;
    }
    lines[copied..].iter().for_each(|line| push(line));
    std::fs::write(&script.path, out).map_err(|error| error.to_string())
}
