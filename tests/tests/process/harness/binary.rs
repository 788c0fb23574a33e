//! The program under test: the one beside this test if it is up to date, else a new build of the same profile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use super::command::run;

/// Cold, with RocksDB, on two busy cores.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);

/// Path of the `flotilla` program, built from the sources as they are; `FLOTILLA_PROGRAM` names another.
///
/// # Panics
/// It does not build.
pub fn flotilla() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(named) = std::env::var_os("FLOTILLA_PROGRAM") {
            return named.into();
        }
        let test = std::env::current_exe().expect("this process has a path");
        // target/<profile>/deps/process-<hash>
        let folder = test.ancestors().nth(2).expect("cargo's layout").to_path_buf();
        let binary = folder.join("flotilla");
        if !is_fresh(&binary) {
            build(&folder);
        }
        assert!(binary.exists(), "{} is missing", binary.display());
        binary
    })
}

fn root() -> PathBuf {
    // Asked when it runs: one target directory may serve several checkouts.
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and nextest name the package's folder");
    Path::new(&package).parent().expect("tests is a folder of the workspace").to_path_buf()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Whether a program is newer than everything that cargo says it was made from, all of it in this checkout.
fn is_fresh(binary: &Path) -> bool {
    let Some(built) = modified(binary) else { return false };
    let Ok(list) = fs::read_to_string(binary.with_extension("d")) else { return false };
    let Some((_, sources)) = list.split_once(": ") else { return false };
    let sources: Vec<PathBuf> = words(sources).iter().map(PathBuf::from).collect();
    let manifests =
        ["Cargo.toml", "Cargo.lock", "components/server/Cargo.toml"].map(|name| root().join(name));
    let is_older = |path: &Path| modified(path).is_some_and(|changed| changed <= built);
    let is_ours = sources.contains(&root().join("components/server/src/main.rs"));
    is_ours && sources.iter().chain(&manifests).all(|path| is_older(path))
}

/// Words of a makefile's dependency list, where a blank in a name follows a backslash.
fn words(list: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = list.trim_end().chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.peek() == Some(&' ') => words.last_mut().expect("never empty").extend(chars.next()),
            ' ' => words.push(String::new()),
            _ => words.last_mut().expect("never empty").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn build(folder: &Path) {
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("{} is no folder of cargo's", folder.display()),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = folder.parent().expect("target/<profile>");
    let mut command = Command::new(cargo);
    command.current_dir(root()).args(["build", "--package", "flotilla-server", "--bin", "flotilla"]);
    command.args(["--profile", profile, "--target-dir"]).arg(target);
    let built = run(&mut command, BUILD_LIMIT);
    assert_eq!(built.code, Some(0), "flotilla does not build:\n{}", built.stderr);
}

#[test]
fn names_with_blanks_stay_whole_in_a_dependency_list() {
    assert_eq!(words("/a/b.rs /c\\ d/e.rs\n"), ["/a/b.rs", "/c d/e.rs"]);
}

#[test]
fn a_program_older_than_a_source_or_of_another_checkout_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("flotilla");
    let list = |source: &Path| {
        let text = format!("{}: {}\n", binary.display(), source.display());
        fs::write(binary.with_extension("d"), text).unwrap();
    };
    let source = root().join("components/server/src/main.rs");
    assert!(!is_fresh(&binary), "there is none");
    fs::write(&binary, "").unwrap();
    assert!(!is_fresh(&binary), "nobody knows what it was made from");
    list(&source);
    assert!(is_fresh(&binary));
    let elsewhere = folder.path().join("src/main.rs");
    fs::create_dir(elsewhere.parent().unwrap()).unwrap();
    fs::write(&elsewhere, "").unwrap();
    list(&elsewhere);
    fs::File::options().write(true).open(&binary).unwrap().set_modified(SystemTime::now()).unwrap();
    assert!(!is_fresh(&binary), "made from another checkout");
    list(&source);
    fs::File::options().write(true).open(&binary).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    assert!(!is_fresh(&binary), "a source is newer");
}
