//! One process of the example, and what a client says to it.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

/// Longest wait for anything that must happen, on two busy cores.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for an answer; the server gives up before.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Ports below those that the kernel gives to outgoing connections, so that nobody takes that of a killed process.
const PORT_MIN: u16 = 30_000;
const PORTS: u16 = 2_560;

/// Looks until there is something to see.
///
/// # Panics
/// There is nothing within [`LIMIT`].
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(why) if Instant::now() > deadline => panic!("{what}: not within {LIMIT:?}: {why}"),
            Err(_) => thread::sleep(LOOK_EVERY),
        }
    }
}

/// A port for a server that may be down at times. Until this is dropped, no other test takes it: whoever wants the
/// port of that number binds its counterpart of UDP first, which the server does not use.
#[derive(Debug)]
struct ReservedPort {
    address: SocketAddr,
    _reservation: UdpSocket,
}

impl ReservedPort {
    fn new() -> Self {
        // Tests that run at the same time begin at different places, to find one soon.
        let first = std::process::id() * 64;
        let reserve = |step: u32| {
            let port = PORT_MIN + ((first + step) % u32::from(PORTS)) as u16;
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let reservation = UdpSocket::bind(address).ok()?;
            TcpListener::bind(address).ok()?;
            Some(Self { address, _reservation: reservation })
        };
        (0..u32::from(PORTS)).find_map(reserve).expect("a free port")
    }
}

/// The example that the same cargo command has built, beside this test.
pub fn program() -> Command {
    let me = std::env::current_exe().expect("a test has a path");
    let profile = me.parent().and_then(|deps| deps.parent()).expect("target/<profile>/deps/<test>");
    let path = profile.join("examples").join("kvstore");
    assert!(path.exists(), "{} is built by `cargo test` and `cargo nextest run`", path.display());
    Command::new(path)
}

/// What a server answers.
#[derive(Clone, Debug)]
pub struct Answer {
    pub code: u16,
    /// Where a redirect leads.
    pub location: Option<String>,
    pub body: String,
}

/// One request of HTTP on a connection of its own. An error says nothing about whether it was carried out.
pub fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> Result<Answer, String> {
    let failed = |error: std::io::Error| format!("{method} http://{address}{path}: {error}");
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT).map_err(failed)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(failed)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).map_err(failed)?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).map_err(failed)?;
    parse(&reply).ok_or_else(|| format!("{method} http://{address}{path}: {reply:?} is not HTTP"))
}

fn parse(reply: &str) -> Option<Answer> {
    let (head, body) = reply.split_once("\r\n\r\n")?;
    let code = head.split_whitespace().nth(1)?.parse().ok()?;
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let location = lines.find(|(name, _)| name.eq_ignore_ascii_case("location"));
    let location = location.map(|(_, value)| value.to_owned());
    // A process that is killed in the middle of an answer has not given it.
    let lengths = head.lines().filter_map(|line| line.split_once(": "));
    let mut lengths = lengths.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let is_whole = lengths.all(|(_, length)| length.parse() == Ok(body.len()));
    is_whole.then(|| Answer { code, location, body: body.to_owned() })
}

/// A peer: its disk, its addresses and, while it runs, its process. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    pub raft: SocketAddr,
    pub http: SocketAddr,
    pub folder: PathBuf,
    /// What it says, over all its lives.
    log: PathBuf,
    /// What follows the addresses and the folder on its command line.
    pub arguments: Vec<String>,
    child: Option<Child>,
    _ports: [ReservedPort; 2],
}

impl Process {
    /// A peer with everything it has in `folder` under `id`; not running yet, and without a group.
    pub fn new(folder: &Path, id: u64) -> Self {
        let ports = [ReservedPort::new(), ReservedPort::new()];
        Self {
            raft: ports[0].address,
            http: ports[1].address,
            folder: folder.join(id.to_string()),
            log: folder.join(format!("{id}.log")),
            arguments: vec!["--id".into(), id.to_string()],
            child: None,
            _ports: ports,
        }
    }

    /// Its addresses as the command line takes them.
    pub fn addresses(&self) -> String {
        format!("{}/{}", self.raft, self.http)
    }

    /// Starts the process.
    pub fn spawn(&mut self) {
        self.spawn_command(self.command());
    }

    /// Starts the process on a disk that takes no file larger than `blocks` of 512 bytes: what a full disk is to one
    /// writer. The signal that would end the process at once is ignored, so that a write fails, as a rule halfway.
    pub fn spawn_on_full_disk(&mut self, blocks: u64) {
        let plain = self.command();
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; ulimit -f \"$0\"; exec \"$@\""]).arg(blocks.to_string());
        command.arg(plain.get_program()).args(plain.get_args());
        self.spawn_command(command);
    }

    fn command(&self) -> Command {
        let mut command = program();
        command.args(&self.arguments).arg("--dir").arg(&self.folder);
        command
    }

    fn spawn_command(&mut self, mut command: Command) {
        assert!(self.child.is_none(), "{} runs already", self.http);
        let log = OpenOptions::new().create(true).append(true).open(&self.log).expect("a log");
        let also: File = log.try_clone().expect("a log");
        command.stdin(Stdio::null()).stdout(log).stderr(also).env("RUST_BACKTRACE", "1");
        self.child = Some(command.spawn().expect("the example starts"));
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Ends the process by kill -9.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("a child of this process");
        child.wait().expect("nothing survives kill -9");
    }

    /// Sends a signal that std has no call for.
    pub fn signal(&self, name: &str) {
        let id = self.child.as_ref().expect("it runs").id();
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {id}")).status();
        assert!(sent.expect("a shell").success());
    }

    /// Waits for the process to end by itself.
    pub fn wait_ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("it runs");
        let status = wait_for("the process ends", || match child.try_wait().expect("a child") {
            Some(status) => Ok(status),
            None => Err(String::from("it runs on")),
        });
        self.child = None;
        status
    }

    /// Everything it has said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// One request.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Result<Answer, String> {
        request(self.http, method, path, body)
    }

    /// Its status.
    pub fn status(&self) -> Result<Value, String> {
        let answer = self.request("GET", "/status", "")?;
        serde_json::from_str(&answer.body).map_err(|error| format!("{answer:?}: {error}"))
    }

    /// A number of its status, once it answers.
    pub fn wait_number(&self, pointer: &str) -> u64 {
        wait_for("the status", || {
            let status = self.status()?;
            status.pointer(pointer).and_then(Value::as_u64).ok_or_else(|| format!("{pointer} in {status}"))
        })
    }

    /// One attempt to set a key; `Ok` if it was acknowledged.
    pub fn put(&self, key: &str, value: &str) -> Result<(), String> {
        acknowledged(self.request("PUT", &format!("/kv/{key}"), value)?)
    }

    /// Sets a key; repeats what was refused or got no answer.
    pub fn wait_put(&self, key: &str, value: &str) {
        wait_for(&format!("a put through {}", self.http), || self.put(key, value));
    }

    /// Removes a key; repeats what was refused or got no answer.
    pub fn wait_delete(&self, key: &str) {
        wait_for("a delete", || acknowledged(self.request("DELETE", &format!("/kv/{key}"), "")?));
    }

    /// One attempt to read a key; `Err` if it was refused or got no answer.
    pub fn get(&self, key: &str) -> Result<Option<String>, String> {
        let answer = self.request("GET", &format!("/kv/{key}"), "")?;
        match answer.code {
            200 => Ok(Some(answer.body)),
            404 => Ok(None),
            _ => Err(format!("{answer:?}")),
        }
    }

    /// Reads a key; repeats what was refused or got no answer, but takes the first value it is given.
    pub fn wait_get(&self, key: &str) -> Option<String> {
        wait_for(&format!("a read through {}", self.http), || self.get(key))
    }
}

/// # Panics
/// It is the request that is wrong.
fn acknowledged(answer: Answer) -> Result<(), String> {
    assert!(answer.code == 204 || answer.code >= 500, "{answer:?}");
    if answer.code == 204 { Ok(()) } else { Err(format!("{answer:?}")) }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            eprintln!("--- {}\n{}", self.folder.display(), self.said());
        }
    }
}
