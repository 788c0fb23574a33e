//! Arguments that all client commands share.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use flotilla_router::{Client, ClientOptions, RetryPolicy};

use super::admin::Admin;
use super::error::CliError;
use super::text::{from_hex, show};

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For machines.
    Json,
}

/// Where the cluster is and how to talk about keys.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Addresses of any stores of the cluster; those that are down are passed over
    #[arg(long, env = "FLOTILLA_PD", value_name = "HOST:PORT,...", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:20160")]
    pub pd: Vec<String>,
    /// How to write the result
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
    /// Keys and values are hexadecimal instead of UTF-8
    #[arg(long)]
    pub hex: bool,
    /// Longest time to try, in seconds [default: 15; of `ctl`, for each request: 30]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

/// Time for reads and writes of keys, in seconds.
const TIMEOUT_S: u64 = 15;

impl Common {
    /// Administration of the cluster.
    ///
    /// # Errors
    /// As [`Admin::new`].
    pub(super) fn admin(&self) -> Result<Admin, CliError> {
        Admin::new(&self.pd, self.timeout.map(Duration::from_secs))
    }

    /// Connects to the cluster.
    ///
    /// # Errors
    /// No address answered in time.
    pub async fn client(&self) -> Result<Client, CliError> {
        let retry = RetryPolicy {
            budget_ms: self.timeout.unwrap_or(TIMEOUT_S).saturating_mul(1_000),
            ..RetryPolicy::default()
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let seed = now.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32);
        Ok(Client::connect_with(&self.pd, ClientOptions { retry, seed, ..ClientOptions::default() }).await?)
    }

    /// A key or value as given on the command line.
    pub(super) fn parse(&self, text: &str) -> Result<Bytes, CliError> {
        if self.hex { from_hex(text) } else { Ok(Bytes::copy_from_slice(text.as_bytes())) }
    }

    /// A key or value for people.
    pub(super) fn show(&self, bytes: &[u8]) -> String {
        if self.hex { super::text::to_hex(bytes) } else { show(bytes) }
    }
}
