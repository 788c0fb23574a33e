//! A store process of this program on free ports of loopback, with a disk of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use flotilla_proto::kvrpcpb::Context;
use flotilla_proto::pdpb::pd_client::PdClient;
use flotilla_proto::pdpb::{GetMembersRequest, GetRegionRequest, RequestHeader};
use flotilla_proto::tikvpb::tikv_client::TikvClient;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::Channel;

/// Longest wait for something that a store does by itself.
const PATIENCE: Duration = Duration::from_secs(20);

pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_flotilla")
}

pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.each_ref().map(|listener| listener.local_addr().expect("bound").port())
}

pub struct StoreProcess {
    pub address: String,
    pub status_address: String,
    pub dir: PathBuf,
    child: Child,
}

impl StoreProcess {
    /// Starts a store in `dir` and waits until it is ready.
    pub fn start(dir: &Path) -> Self {
        let [port, status_port] = free_ports();
        Self::start_at(dir, format!("127.0.0.1:{port}"), format!("127.0.0.1:{status_port}"))
    }

    fn start_at(dir: &Path, address: String, status_address: String) -> Self {
        let child = Command::new(binary())
            .arg("server")
            .arg("--data-dir")
            .arg(dir)
            .args(["--addr", &address, "--status-addr", &status_address])
            .stdin(Stdio::null())
            .spawn()
            .expect("the program starts");
        let mut store = Self { address, status_address, dir: dir.to_path_buf(), child };
        store.wait_ready();
        store
    }

    /// Ends it without a chance to write anything, and starts it again on its disk.
    pub fn kill_and_restart(mut self) -> Self {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ended");
        let (dir, address, status) = (self.dir.clone(), self.address.clone(), self.status_address.clone());
        drop(self);
        Self::start_at(&dir, address, status)
    }

    /// Asks it to end and returns how it did.
    pub fn terminate(&mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process id");
        kill_process(pid, Signal::TERM).expect("it runs");
        let status = wait_for("the store to end", || self.child.try_wait().expect("a child"));
        (status, asked.elapsed())
    }

    fn wait_ready(&mut self) {
        wait_for("the store to be ready", || {
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("the store ended: {status}");
            }
            http_get(&self.status_address, "/ready").filter(|reply| reply.starts_with("HTTP/1.1 200"))
        });
    }

    pub async fn tikv(&self) -> TikvClient<Channel> {
        TikvClient::connect(format!("http://{}", self.address)).await.expect("it listens")
    }

    pub async fn pd(&self) -> (PdClient<Channel>, RequestHeader) {
        let mut pd = PdClient::connect(format!("http://{}", self.address)).await.expect("it listens");
        let members = pd.get_members(GetMembersRequest::default()).await.expect("it answers").into_inner();
        let cluster_id = members.header.expect("always there").cluster_id;
        assert_ne!(cluster_id, 0);
        (pd, RequestHeader { cluster_id, ..Default::default() })
    }

    /// Context for requests about `key`, as a client builds it from the placement's answer.
    pub async fn context(&self, key: &'static [u8]) -> Context {
        let (mut pd, header) = self.pd().await;
        let request = GetRegionRequest { header: Some(header), region_key: key.into(), ..Default::default() };
        let reply = pd.get_region(request).await.expect("it answers").into_inner();
        let region = reply.region.expect("every key has a region");
        Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: reply.leader,
            ..Default::default()
        }
    }

    /// Runs a client command of the program against this store.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(binary())
            .args(arguments)
            .args(["--pd", &self.address])
            .output()
            .expect("the program starts")
    }

    /// The same, and it must succeed; returns what it printed.
    pub fn run_ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

impl Drop for StoreProcess {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks until there is an answer, for as long as patience lasts.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < give_up, "no end of waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A whole HTTP/1.1 reply; `None` if nobody listens.
pub fn http_get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    Some(reply)
}
