//! The house rules as a test: who may import whom, what may not be named below the wiring, how long a file may be,
//! which words do not land, and that the documents name files which exist.
//!
//! Each rule is a function from text or metadata to findings. The tests here run it over the tree and expect none;
//! beside each rule stand tests that feed it a bad snippet and expect one, so no rule can rot into always passing.
//! What clippy can say better (function length, `unwrap`, called methods by their resolved path) is in clippy.toml;
//! what is checked twice is checked twice on purpose, since an `allow` silences clippy but not this.

mod documents;
mod graph;
mod manifests;
mod rules;
mod source;
mod traps;

use std::fs;
use std::path::{Path, PathBuf};

use source::Source;

/// The checkout's root folder.
fn root() -> PathBuf {
    // Asked when it runs: one target directory may serve several checkouts.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and nextest name the package's folder");
    Path::new(&manifest).parent().expect("the tests' package is a folder of the workspace").to_path_buf()
}

/// Text of a file named relative to the root.
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every .rs file of the workspace, parsed, in path order; files that `#[cfg(test)] mod name;` brings in are marked
/// as test code.
fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    collect(&root(), "", &mut paths);
    let rust = paths.iter().filter(|path| path.ends_with(".rs"));
    let mut all: Vec<Source> = rust.map(|path| Source::parse(path, &read(path))).collect();
    source::mark_test_files(&mut all);
    assert!(all.len() >= 20, "only {} .rs files found: looking in the wrong place", all.len());
    all
}

/// Appends the files under `root/folder`, build products and dot-folders aside.
fn collect(root: &Path, folder: &str, into: &mut Vec<String>) {
    let entries = fs::read_dir(root.join(folder)).expect("a listed folder can be read");
    let mut names: Vec<(String, bool)> = entries
        .map(|entry| entry.expect("a folder entry can be read"))
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path().is_dir()))
        .collect();
    names.sort();
    for (name, is_dir) in names {
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        if name.starts_with('.') || (is_dir && name == "target") {
            continue;
        }
        if is_dir { collect(root, &path, into) } else { into.push(path) }
    }
}

/// Fails with the findings, one a line.
fn expect_none(rule: &str, findings: Vec<String>) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

fn over_sources(rule: &str, check: impl Fn(&Source) -> Vec<String>) {
    expect_none(rule, sources().iter().flat_map(check).collect());
}

#[test]
fn imports_follow_the_table() {
    expect_none(
        "a crate imports against the table in ARCHITECTURE.md",
        graph::check_imports(&graph::workspace()),
    );
}

#[test]
fn the_table_in_architecture_md_is_the_one_enforced() {
    expect_none("ARCHITECTURE.md and tidy disagree", graph::check_table(&read("ARCHITECTURE.md")));
}

#[test]
fn outside_crates_below_the_wiring_are_the_named_ones() {
    expect_none("an outside crate below the wiring", graph::check_outside(&graph::workspace()));
}

#[test]
fn nothing_below_the_wiring_reaches_a_runtime_or_randomness_through_others() {
    let below = graph::BELOW_THE_WIRING.iter().map(|name| (*name, graph::reached_from(name)));
    expect_none(
        "reached through dependencies",
        below.flat_map(|(name, all)| graph::check_reached(name, &all)).collect(),
    );
}

#[test]
fn sources_below_the_wiring_name_no_clock_thread_or_random_order() {
    over_sources("named below the wiring", rules::check_below_the_wiring);
}

#[test]
fn wire_types_and_ids_stay_where_the_table_says() {
    over_sources("imported wider than the table allows", rules::check_narrow_imports);
}

#[test]
fn files_are_short() {
    over_sources("too long", rules::check_length);
}

#[test]
fn banned_words_do_not_land() {
    over_sources("banned", rules::check_words);
}

#[test]
fn only_tests_unwrap() {
    over_sources("unwrap() outside tests", rules::check_unwrap);
}

#[test]
fn tests_do_not_sleep_to_synchronise() {
    over_sources("sleeps in a test", rules::check_sleep);
}

#[test]
fn limits_are_not_lifted_by_allow() {
    over_sources("lifted by an allow", rules::check_allows);
}

#[test]
fn manifests_inherit_from_the_workspace() {
    let found = manifests::members(&read("Cargo.toml"));
    assert!(found.len() >= 11, "only {} members read from Cargo.toml", found.len());
    let findings = found.iter().flat_map(|member| {
        let path = format!("{member}/Cargo.toml");
        manifests::check_inherits(&path, &read(&path))
    });
    expect_none("does not inherit", findings.collect());
}

#[test]
fn every_clippy_toml_has_the_same_limits() {
    let findings = manifests::WIRING.iter().flat_map(|folder| {
        let path = format!("{folder}/clippy.toml");
        manifests::check_limits(&path, &read(&path), &read("clippy.toml"))
    });
    expect_none("clippy limits", findings.collect());
    for folder in graph::BELOW_THE_WIRING.iter().map(|name| graph::folder(name)) {
        assert!(
            !root().join(&folder).join("clippy.toml").exists(),
            "{folder} must be held to the root's clippy.toml"
        );
    }
}

#[test]
fn files_named_in_documents_exist() {
    let exists = |path: &str| root().join(path).exists();
    let findings = ["README.md", "ARCHITECTURE.md"].iter().flat_map(|name| {
        let text = read(name);
        assert!(!documents::named_files(&text).is_empty(), "{name} names no file at all");
        documents::check_named_files(name, &text, exists)
    });
    expect_none("named but missing", findings.collect());
}

#[test]
fn every_trap_has_a_row_and_what_catches_it_exists() {
    let findings = traps::check_traps(&read("tests/TRAPS.md"), &read("tests/src/sim/planted.rs"), |path| {
        root().join(path).exists()
    });
    expect_none("tests/TRAPS.md", findings);
}
