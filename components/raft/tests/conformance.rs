//! Runs data-driven tests: this crate's own scripts in `tests/golden/`, and the published ones of etcd-io/raft.
//!
//! The own scripts always run. After a change of behaviour that is meant,
//! `RAFT_GOLDEN_REWRITE=1 cargo test -p flotilla-raft --test conformance` writes what they print now in place of what
//! they expect; the difference is to be read before it is committed.
//!
//! `RAFT_CONFORMANCE_DIR` names folders, separated by colons, that are searched for files below `interaction/`,
//! `confchange/` and `quorum/` (and `testdata/`, as a checkout of etcd-io/raft has them):
//!
//! `RAFT_CONFORMANCE_DIR=../raft cargo test -p flotilla-raft --test conformance`
//!
//! Log lines are left out of the comparison on both sides. Without the variable none of them is run; with it, a missing
//! folder or one without a single file is a failure.

#[path = "conformance/changes.rs"]
mod changes;
#[path = "conformance/datadriven.rs"]
mod datadriven;
#[path = "conformance/files.rs"]
mod files;
#[path = "conformance/format.rs"]
mod format;
#[path = "conformance/golden.rs"]
mod golden;
#[path = "conformance/interaction.rs"]
mod interaction;
#[path = "conformance/node.rs"]
mod node;
#[path = "conformance/quorums.rs"]
mod quorums;

use std::{panic::AssertUnwindSafe, process::ExitCode};

use datadriven::{Case, Handler, differs, parse};
use files::{Kind, TestFile};

/// Runs one file. Returns the number of commands run, and whether all of them passed.
fn run_file(file: &TestFile) -> (usize, bool) {
    let text = match std::fs::read_to_string(&file.path) {
        Ok(text) => text,
        Err(error) => {
            println!("{}: {error}", file.path.display());
            return (0, false);
        }
    };
    let cases = match parse(&text) {
        Ok(cases) => cases,
        Err(error) => {
            println!("{}: {error}", file.path.display());
            return (0, false);
        }
    };
    let mut handler: Box<dyn Handler> = match file.kind {
        Kind::Interaction => Box::new(interaction::Environment::default()),
        Kind::ConfChange => Box::new(changes::Changes::default()),
        Kind::Quorum => Box::new(quorums::Quorums),
    };
    for (position, case) in cases.iter().enumerate() {
        let run = std::panic::catch_unwind(AssertUnwindSafe(|| handler.run(case)));
        let actual = run.unwrap_or_else(|_| "the core panicked\n".to_owned());
        if differs(&case.expected, &actual) {
            report(file, case, &actual);
            return (position + 1, false);
        }
    }
    (cases.len(), true)
}

fn report(file: &TestFile, case: &Case, actual: &str) {
    println!("{}:{}: {}", file.path.display(), case.line, case.directive);
    let (expected, actual) =
        (datadriven::without_log_lines(&case.expected), datadriven::without_log_lines(actual));
    for line in datadriven::diff(&expected, &actual) {
        println!("    {line}");
    }
}

fn main() -> ExitCode {
    // Arguments of the test harness (filters, --list) have no meaning here.
    let asked = |wanted: &str| std::env::args().any(|argument| argument == wanted);
    if asked("--list") {
        // With --ignored, a runner asks for the tests that it shall skip.
        if !asked("--ignored") {
            println!("conformance: test");
        }
        return ExitCode::SUCCESS;
    }
    let scripts = golden::scripts();
    if std::env::var_os("RAFT_GOLDEN_REWRITE").is_some() {
        let outcome = scripts.iter().try_for_each(golden::rewrite);
        return outcome.map_or_else(
            |error| {
                println!("{error}");
                ExitCode::FAILURE
            },
            |()| ExitCode::SUCCESS,
        );
    }
    let golden_passed = run_all("golden", &scripts, &[]);
    let Some(roots) = std::env::var_os("RAFT_CONFORMANCE_DIR") else {
        println!("conformance: skipped, RAFT_CONFORMANCE_DIR is not set");
        return if golden_passed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    };
    let (files, missing) = files::find(&roots);
    let passed = run_all("conformance", &files, &missing);
    if golden_passed && passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs `files` and prints a closing line. False if one of them failed, a folder is `missing` or there are none.
fn run_all(name: &str, files: &[TestFile], missing: &[String]) -> bool {
    for root in missing {
        println!("{root}: no such folder, or no test file in it");
    }
    let (mut commands, mut failed) = (0, missing.len());
    for file in files {
        let (run, passed) = run_file(file);
        commands += run;
        failed += usize::from(!passed);
    }
    println!("{name}: {} files, {commands} commands, {failed} failed", files.len());
    failed == 0 && !files.is_empty()
}
