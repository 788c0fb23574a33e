//! One store process.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::command::wait_exit;
use super::wait::wait_for;

/// Longest wait for a page of the status address.
const HTTP_LIMIT: Duration = Duration::from_secs(5);
/// A killed process is gone at once.
const KILL_LIMIT: Duration = Duration::from_secs(20);
/// Unit of the shell's limit on the size of files.
const FILE_BLOCK_BYTES: u64 = 512;
/// Lines of a log that are shown when a test fails.
const TAIL_LINES: usize = 40;
/// Ports below those that the kernel gives to outgoing connections: a client that knocks at a dead store must not
/// be given that store's own port.
const PORT_MIN: u16 = 12_000;
const PORTS: u16 = 18_000;

/// The two ports of a store.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// All services.
    pub main: u16,
    /// Metrics, status, readiness.
    pub status: u16,
}

impl Ports {
    /// Two that were free a moment ago.
    pub fn free() -> Self {
        Self { main: free_port(), status: free_port() }
    }

    /// `host:port` of all services.
    pub fn address(self) -> String {
        format!("127.0.0.1:{}", self.main)
    }

    /// `host:port` of the status pages.
    pub fn status_address(self) -> String {
        format!("127.0.0.1:{}", self.status)
    }
}

fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Other test processes begin elsewhere.
    let first = (std::process::id() % u32::from(PORTS)) as u16;
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut tries = (0..PORTS).map(|_| {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        PORT_MIN + (first + step) % PORTS
    });
    tries.find(is_free).expect("a free port")
}

/// A store: its disk, its ports and, while it runs, its process. Dropping it kills the process.
#[derive(Debug)]
pub struct Store {
    binary: PathBuf,
    /// Ports.
    pub ports: Ports,
    /// Disk.
    pub data_dir: PathBuf,
    /// What it says, over all its lives.
    pub log: PathBuf,
    config: PathBuf,
    /// What `--cluster` gets.
    pub cluster: String,
    child: Option<Child>,
}

impl Store {
    /// A store with everything it has in `folder` under `name`; not running yet.
    pub fn new(binary: &Path, folder: &Path, name: &str, ports: Ports, cluster: &str) -> Self {
        Self {
            binary: binary.to_path_buf(),
            ports,
            data_dir: folder.join(name),
            log: folder.join(format!("{name}.log")),
            config: folder.join("flotilla.toml"),
            cluster: cluster.to_owned(),
            child: None,
        }
    }

    /// The command that runs it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("server").arg("--data-dir").arg(&self.data_dir);
        command.args(["--addr", &self.ports.address(), "--status-addr", &self.ports.status_address()]);
        command.args(["--cluster", &self.cluster]).arg("--config").arg(&self.config);
        command
    }

    /// The command that runs it on a disk that takes no file larger than `bytes_max`: what a full disk is to one
    /// writer, without root's rights. The signal that would end the process at once is ignored, so that a write fails.
    pub fn command_on_full_disk(&self, bytes_max: u64) -> Command {
        let plain = self.command();
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\""]);
        command.arg((bytes_max / FILE_BLOCK_BYTES).to_string());
        command.arg(plain.get_program()).args(plain.get_args());
        command
    }

    /// Starts the process.
    ///
    /// # Panics
    /// It runs already, or cannot be started.
    pub fn spawn(&mut self) {
        self.spawn_command(self.command());
    }

    /// Starts the process on a disk that takes no file larger than `bytes_max`.
    pub fn spawn_on_full_disk(&mut self, bytes_max: u64) {
        self.spawn_command(self.command_on_full_disk(bytes_max));
    }

    fn spawn_command(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "{} runs already", self.ports.address());
        let mut log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        writeln!(log, "--- start").expect("a log");
        let also: File = log.try_clone().expect("a log");
        command.stdin(Stdio::null()).stdout(log).stderr(also).env("RUST_BACKTRACE", "1");
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
    }

    /// Whether there is a process that was not ended by the harness.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Waits for a process to end by itself; its exit status.
    ///
    /// # Panics
    /// It does not within `limit`.
    pub fn wait_ended(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        match wait_exit(&mut child, limit) {
            Some(status) => status,
            None => {
                self.child = Some(child);
                panic!("{} runs on", self.ports.address());
            }
        }
    }

    /// The exit status of a process that ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().expect("a child of this process"))
    }

    /// Sends kill -9 without waiting for the end.
    pub fn kill9_now(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().expect("a child of this process");
        }
    }

    /// Ends the process by kill -9. Nothing happens if there is none.
    pub fn kill9(&mut self) {
        self.kill9_now();
        if let Some(mut child) = self.child.take() {
            wait_exit(&mut child, KILL_LIMIT).expect("nothing survives kill -9");
        }
    }

    /// Asks the process to end; its exit status and how long it took.
    ///
    /// # Panics
    /// It does not run, or does not end within `limit`.
    pub fn sigterm(&mut self, limit: Duration) -> (ExitStatus, Duration) {
        let mut child = self.child.take().expect("it runs");
        let asked = Instant::now();
        // The shell has a kill of its own; std can only send SIGKILL.
        let kill = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", child.id())).status();
        assert!(kill.expect("a shell").success());
        match wait_exit(&mut child, limit) {
            Some(status) => (status, asked.elapsed()),
            None => {
                self.child = Some(child);
                panic!("{} runs {limit:?} after SIGTERM", self.ports.address());
            }
        }
    }

    /// Status code and body of a page of the status address.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn page(&self, path: &str) -> Result<(u16, String), String> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.ports.status));
        let failed = |error: std::io::Error| format!("http://{address}{path}: {error}");
        let mut stream = TcpStream::connect_timeout(&address, HTTP_LIMIT).map_err(failed)?;
        stream.set_read_timeout(Some(HTTP_LIMIT)).map_err(failed)?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")
            .map_err(failed)?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).map_err(failed)?;
        let reply = String::from_utf8_lossy(&reply);
        let parsed = reply.split_once("\r\n\r\n").and_then(|(head, body)| {
            let code = head.split_whitespace().nth(1)?.parse().ok()?;
            Some((code, body.to_owned()))
        });
        parsed.ok_or_else(|| format!("http://{address}{path}: {reply:?} is not HTTP"))
    }

    /// `/status`.
    ///
    /// # Errors
    /// Nobody answers, or not with JSON.
    pub fn status(&self) -> Result<Value, String> {
        let (_, body) = self.page("/status")?;
        serde_json::from_str(&body).map_err(|error| format!("{body:?}: {error}"))
    }

    /// Waits until `/ready` says so.
    ///
    /// # Panics
    /// The process ended, or it is not ready within `limit`.
    pub fn wait_ready(&mut self, limit: Duration) {
        let what = format!("{} becomes ready", self.ports.address());
        wait_for(&what, limit, || {
            if let Some(status) = self.ended() {
                panic!("{} ended ({status}):\n{}", self.ports.address(), self.tail());
            }
            match self.page("/ready")? {
                (200, _) => Ok(()),
                (code, body) => Err(format!("{code} {body}")),
            }
        });
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
