//! A list of addresses that offer the same service: one that works is kept, another is tried when it fails.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::error::{Error, Result};

/// When a call goes on to the next address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// After any failure of the transport: for calls that may be made twice.
    Always,
    /// Only while nothing was sent: for commands.
    BeforeSending,
}

/// Why no address gave an answer.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// No address accepted a connection and kept it until it had answered.
    #[error("none of {} answers{}", .addresses.join(", "), last_words(.last))]
    Unreachable {
        /// All addresses tried.
        addresses: Vec<String>,
        /// How the last connection failed; `None` if there was none.
        last: Option<Box<Status>>,
    },
    /// The service's last answer.
    #[error("{}: {}", .0.code(), .0.message())]
    Status(Box<Status>),
}

fn last_words(last: &Option<Box<Status>>) -> String {
    last.as_ref().map(|status| format!(": {}: {}", status.code(), status.message())).unwrap_or_default()
}

/// Addresses of one service. The one that answered last is asked first.
#[derive(Debug)]
pub struct Endpoints {
    state: Mutex<State>,
    connect_timeout: Duration,
    rpc_timeout: Duration,
}

#[derive(Debug)]
struct State {
    addresses: Vec<String>,
    preferred: usize,
    channels: BTreeMap<String, Channel>,
}

impl Endpoints {
    /// A list of `host:port` addresses, of which at least one is needed. Nothing is connected yet.
    ///
    /// # Errors
    /// [`Error::NoAddress`], [`Error::BadAddress`].
    pub fn new<S: AsRef<str>>(
        addresses: &[S],
        connect_timeout: Duration,
        rpc_timeout: Duration,
    ) -> Result<Self> {
        let addresses: Vec<String> = addresses
            .iter()
            .map(|a| a.as_ref().trim().trim_start_matches("http://").to_owned())
            .filter(|a| !a.is_empty())
            .collect();
        if addresses.is_empty() {
            return Err(Error::NoAddress);
        }
        for address in &addresses {
            check_address(address)?;
        }
        let state = State { addresses, preferred: 0, channels: BTreeMap::new() };
        Ok(Self { state: Mutex::new(state), connect_timeout, rpc_timeout })
    }

    /// Adds addresses that others told of; malformed and known ones are left out.
    pub(crate) fn learn(&self, addresses: impl IntoIterator<Item = String>) {
        let mut state = self.state.lock();
        for address in addresses {
            let address = address.trim_start_matches("http://").to_owned();
            if check_address(&address).is_ok() && !state.addresses.contains(&address) {
                state.addresses.push(address);
            }
        }
    }

    /// Makes a call on the first address that works, beginning with the one that worked last.
    ///
    /// # Errors
    /// [`EndpointError::Unreachable`] if no connection brought an answer; else the service's status.
    pub async fn call<R, F, Fut>(&self, failover: Failover, call: F) -> std::result::Result<R, EndpointError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = std::result::Result<tonic::Response<R>, Status>>,
    {
        let (addresses, first) = {
            let state = self.state.lock();
            (state.addresses.clone(), state.preferred)
        };
        let mut last = None;
        for turn in 0..addresses.len() {
            let at = (first + turn) % addresses.len();
            let Some(channel) = self.channel(&addresses[at]).await else { continue };
            let reply = tokio::time::timeout(self.rpc_timeout, call(channel))
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("no reply in time")));
            let status = match reply {
                Ok(reply) => {
                    self.state.lock().preferred = at;
                    return Ok(reply.into_inner());
                }
                Err(status) => status,
            };
            if !is_transport_failure(status.code()) {
                return Err(EndpointError::Status(Box::new(status)));
            }
            self.state.lock().channels.remove(&addresses[at]);
            tracing::debug!(address = addresses[at], code = %status.code(), "placement address failed");
            if failover == Failover::BeforeSending {
                return Err(EndpointError::Status(Box::new(status)));
            }
            last = Some(status);
        }
        Err(EndpointError::Unreachable { addresses, last: last.map(Box::new) })
    }

    async fn channel(&self, address: &str) -> Option<Channel> {
        if let Some(channel) = self.state.lock().channels.get(address) {
            return Some(channel.clone());
        }
        let channel = connect(address, self.connect_timeout).await?;
        self.state.lock().channels.insert(address.to_owned(), channel.clone());
        Some(channel)
    }
}

/// Opens a connection now, so that "nothing was sent" is certain when it fails.
pub(crate) async fn connect(address: &str, timeout: Duration) -> Option<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .ok()?
        .connect_timeout(timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .initial_connection_window_size(8 * 1024 * 1024)
        .initial_stream_window_size(4 * 1024 * 1024);
    tokio::time::timeout(timeout, endpoint.connect()).await.ok()?.ok()
}

/// Whether a status stems from the way to the service rather than from the service.
pub(crate) fn is_transport_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::Aborted
    )
}

fn check_address(address: &str) -> Result<()> {
    let bad = || Error::BadAddress { address: address.to_owned() };
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    port.parse::<u16>().map_err(|_| bad())?;
    if host.is_empty() || Endpoint::from_shared(format!("http://{address}")).is_err() {
        return Err(bad());
    }
    Ok(())
}
