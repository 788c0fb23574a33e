//! The examples run, and say what they promise.

use std::process::Command;

/// An example that the same cargo command has built, beside this test.
fn example(name: &str) -> Command {
    let me = std::env::current_exe().expect("a test has a path");
    let profile = me.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps/<test>");
    let path = profile.join("examples").join(name);
    assert!(path.exists(), "{} is built by `cargo test` and `cargo nextest run`", path.display());
    Command::new(path)
}

#[test]
fn three_embedded_stores_replicate_an_own_command() {
    let output = example("embed").output().expect("the example starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("10 counters hold 500500; region 2 has three replicas"), "{text}");
}
