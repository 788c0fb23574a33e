//! Running a program to its end, within a time.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::wait::eventually;

/// What a program left.
#[derive(Debug)]
pub struct Finished {
    /// Exit status; nothing if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a program that must end within `limit`.
///
/// # Panics
/// It cannot be started or does not end.
pub fn run(command: &mut Command, limit: Duration) -> Finished {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = read_all(child.stdout.take().expect("piped"));
    let stderr = read_all(child.stderr.take().expect("piped"));
    let status = wait_exit(&mut child, limit);
    if status.is_none() {
        child.kill().expect("a child of this process");
        child.wait().expect("a child of this process");
    }
    let [stdout, stderr] = [stdout, stderr].map(|reader| reader.join().expect("reading does not panic"));
    let status = status.unwrap_or_else(|| panic!("{command:?} runs after {limit:?}\n{stdout}\n{stderr}"));
    Finished { code: status.code(), stdout, stderr }
}

/// Waits for a child to end.
pub fn wait_exit(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let ended = eventually(limit, || match child.try_wait().expect("a child of this process") {
        Some(status) => Ok(status),
        None => Err(String::new()),
    });
    ended.ok()
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks ends the text.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
