//! Finds test files.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

/// Which runner a file is for.
#[derive(Clone, Copy)]
pub enum Kind {
    Interaction,
    ConfChange,
    Quorum,
}

/// One file of test cases.
pub struct TestFile {
    pub path: PathBuf,
    pub kind: Kind,
}

/// All files below the colon-separated `roots`, sorted, and the roots without any.
pub fn find(roots: &OsStr) -> (Vec<TestFile>, Vec<String>) {
    let (mut files, mut missing) = (Vec::new(), Vec::new());
    for root in std::env::split_paths(roots) {
        let before = files.len();
        let names: Vec<&OsStr> = root.file_name().into_iter().collect();
        walk(&root, kind_of(None, &names), &mut files);
        if files.len() == before {
            missing.push(root.display().to_string());
        }
    }
    (files, missing)
}

/// The runner for files below a folder of this name: the nearest telling ancestor decides.
fn kind_of(inherited: Option<Kind>, names: &[&OsStr]) -> Option<Kind> {
    names.iter().fold(inherited, |kind, name| match name.to_str() {
        Some("interaction") => Some(Kind::Interaction),
        Some("confchange") => Some(Kind::ConfChange),
        Some("quorum") => Some(Kind::Quorum),
        Some("testdata") => kind.or(Some(Kind::Interaction)),
        _ => kind,
    })
}

fn walk(folder: &Path, kind: Option<Kind>, files: &mut Vec<TestFile>) {
    let Ok(listing) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = listing.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            let names: Vec<&OsStr> = path.file_name().into_iter().collect();
            walk(&path, kind_of(kind, &names), files);
        } else if path.extension() == Some(OsStr::new("txt"))
            && let Some(kind) = kind
        {
            files.push(TestFile { path, kind });
        }
    }
}
