//! Three store processes of this program on loopback.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::DemoError;

/// How long a store that is asked to end may take.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// One store.
pub struct StoreProcess {
    binary: PathBuf,
    folder: PathBuf,
    number: usize,
    /// Where it listens.
    pub address: String,
    /// Where its status page is.
    pub status_address: String,
    cluster: String,
    child: Child,
}

/// Starts `count` stores with fresh disks under `folder`, sharing a configuration file.
pub fn start_all(folder: &Path, config: &Path, count: usize) -> Result<Vec<StoreProcess>, DemoError> {
    let binary = std::env::current_exe().map_err(|error| DemoError::Start { what: "this program", error })?;
    let ports = free_ports(2 * count).map_err(|error| DemoError::Start { what: "free ports", error })?;
    let addresses: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let (services, pages) = addresses.split_at(count);
    let cluster = services.join(",");
    let each = services.iter().zip(pages).enumerate();
    each.map(|(number, (address, status_address))| {
        let command = command(&binary, folder, config, number, address, status_address, &cluster)?;
        Ok(StoreProcess {
            binary: binary.clone(),
            folder: folder.to_path_buf(),
            number,
            address: address.clone(),
            status_address: status_address.clone(),
            cluster: cluster.clone(),
            child: spawn(command)?,
        })
    })
    .collect()
}

/// Ports that were free a moment ago, all different.
fn free_ports(count: usize) -> std::io::Result<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

fn command(
    binary: &Path,
    folder: &Path,
    config: &Path,
    number: usize,
    address: &str,
    status_address: &str,
    cluster: &str,
) -> Result<Command, DemoError> {
    let log = |error| DemoError::Start { what: "a log file", error };
    let open = || -> std::io::Result<File> {
        OpenOptions::new().create(true).append(true).open(log_path(folder, number))
    };
    let (out, err) = (open().map_err(log)?, open().map_err(log)?);
    let mut command = Command::new(binary);
    command.arg("server").arg("--config").arg(config);
    command.arg("--data-dir").arg(folder.join(format!("store{}", number + 1)));
    command.args(["--addr", address, "--status-addr", status_address, "--cluster", cluster]);
    command.stdin(Stdio::null()).stdout(out).stderr(err).kill_on_drop(true);
    Ok(command)
}

fn log_path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("store{}.log", number + 1))
}

fn spawn(mut command: Command) -> Result<Child, DemoError> {
    command.spawn().map_err(|error| DemoError::Start { what: "a store", error })
}

impl StoreProcess {
    /// Process id; 0 = it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Ends it like `kill -9`: no chance to write or say anything.
    pub async fn kill(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill().await;
    }

    /// Starts it again on its disk and addresses.
    pub fn restart(&mut self, config: &Path) -> Result<(), DemoError> {
        let (folder, number) = (&self.folder, self.number);
        let (address, page) = (&self.address, &self.status_address);
        self.child = spawn(command(&self.binary, folder, config, number, address, page, &self.cluster)?)?;
        Ok(())
    }

    /// An error if the process has ended, with the last line it logged.
    pub fn check_alive(&mut self) -> Result<(), DemoError> {
        let Ok(Some(status)) = self.child.try_wait() else { return Ok(()) };
        let log = std::fs::read_to_string(log_path(&self.folder, self.number)).unwrap_or_default();
        let last = log.lines().last().unwrap_or("it logged nothing").to_string();
        Err(DemoError::Ended { address: self.address.clone(), status, last })
    }

    /// Asks it to end, and ends it if it does not.
    pub async fn end(&mut self) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id as i32));
        let asked = pid.is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
        if !asked || timeout(END_TIMEOUT, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }
}
