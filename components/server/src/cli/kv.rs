//! `flotilla get`, `put`, `delete` and `scan`.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use flotilla_region::KeyRange;
use flotilla_router::{Pair, Scan};
use serde_json::{Value, json};

use super::common::{Common, Output};
use super::error::CliError;
use super::render::{pair_json, table};
use super::text::{show_short, to_hex};

/// Print the value of a key, as it is: nothing is added to it. A missing key is an error.
#[derive(Debug, clap::Args)]
pub struct Get {
    #[command(flatten)]
    common: Common,
    /// The key
    key: String,
}

impl Get {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        let key = self.common.parse(&self.key)?;
        let client = self.common.client().await?;
        let value = client.get(key.clone()).await?;
        let value = value.ok_or_else(|| CliError::KeyNotFound { key: self.common.show(&key) })?;
        let written = match self.common.output {
            Output::Json => writeln!(out, "{}", pair_json(&self.common, &key, Some(&value))),
            Output::Table if self.common.hex => writeln!(out, "{}", to_hex(&value)),
            Output::Table => out.write_all(&value),
        };
        written.map_err(CliError::Output)
    }
}

/// Store a value under a key.
#[derive(Debug, clap::Args)]
pub struct Put {
    #[command(flatten)]
    common: Common,
    /// The key
    key: String,
    /// The value
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    value: Option<String>,
    /// Take the value from a file as it is; - is standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Seconds after which the key is gone; 0 = never
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    ttl: u64,
}

impl Put {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        let key = self.common.parse(&self.key)?;
        let value = match (&self.value, &self.file) {
            (Some(value), _) => self.common.parse(value)?,
            (None, Some(file)) if file != Path::new("-") => {
                tokio::fs::read(file).await.map_err(CliError::file(file))?.into()
            }
            (None, _) => {
                let mut value = Vec::new();
                io::stdin().read_to_end(&mut value).map_err(CliError::Input)?;
                value.into()
            }
        };
        self.common.client().await?.put(key, value, self.ttl).await?;
        done(&self.common, out)
    }
}

/// Remove keys, or all keys of a range. Missing keys are no error.
#[derive(Debug, clap::Args)]
pub struct Delete {
    #[command(flatten)]
    common: Common,
    /// The keys
    #[arg(required_unless_present_any = ["range", "prefix"])]
    keys: Vec<String>,
    /// All keys from START to before END; an empty END is unbounded
    #[arg(long, num_args = 2, value_names = ["START", "END"], conflicts_with_all = ["keys", "prefix"])]
    range: Option<Vec<String>>,
    /// All keys that begin so
    #[arg(long, conflicts_with = "keys")]
    prefix: Option<String>,
}

impl Delete {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        let parse = |text: &String| self.common.parse(text);
        let range = match (&self.range, &self.prefix) {
            (Some(bounds), _) => Some(KeyRange::new(parse(&bounds[0])?, parse(&bounds[1])?)),
            (None, Some(prefix)) => Some(prefix_range(parse(prefix)?)),
            (None, None) => None,
        };
        let keys = self.keys.iter().map(parse).collect::<Result<Vec<Bytes>, CliError>>()?;
        let client = self.common.client().await?;
        match range {
            Some(range) => client.delete_range(range).await?,
            None => client.batch_delete(keys).await?,
        }
        done(&self.common, out)
    }
}

/// A range of keys.
#[derive(Debug, clap::Args)]
pub(super) struct RangeArgs {
    /// First key
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    start: Option<String>,
    /// End, itself not included
    #[arg(long, value_name = "KEY", conflicts_with = "prefix")]
    end: Option<String>,
    /// Only keys that begin so
    #[arg(long, value_name = "KEY")]
    prefix: Option<String>,
}

impl RangeArgs {
    pub(super) fn parse(&self, common: &Common) -> Result<KeyRange, CliError> {
        let parse =
            |text: &Option<String>| text.as_deref().map_or(Ok(Bytes::new()), |text| common.parse(text));
        Ok(match &self.prefix {
            Some(_) => prefix_range(parse(&self.prefix)?),
            None => KeyRange::new(parse(&self.start)?, parse(&self.end)?),
        })
    }
}

/// The keys that begin with `prefix`.
fn prefix_range(prefix: Bytes) -> KeyRange {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    KeyRange::new(prefix, end)
}

/// List keys and values in order.
#[derive(Debug, clap::Args)]
pub struct ScanArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    range: RangeArgs,
    /// Pairs at most
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// From the last key down
    #[arg(long)]
    reverse: bool,
    /// Without values
    #[arg(long)]
    keys_only: bool,
}

impl ScanArgs {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> Result<(), CliError> {
        let scan =
            Scan { range: self.range.parse(&self.common)?, reverse: self.reverse, key_only: self.keys_only };
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let pairs = self.common.client().await?.scan(scan, limit).await?;
        let written = match self.common.output {
            Output::Json => {
                let value = |value: &Bytes| (!self.keys_only).then(|| value.clone());
                let pairs = pairs.iter().map(|(k, v)| pair_json(&self.common, k, value(v).as_deref()));
                writeln!(out, "{}", Value::from_iter(pairs))
            }
            Output::Table => writeln!(out, "{}", self.table(&pairs)),
        };
        written.map_err(CliError::Output)
    }

    fn table(&self, pairs: &[Pair]) -> String {
        const CELL_CHARS_MAX: usize = 60;
        let show = |bytes: &Bytes| match self.common.hex {
            true => to_hex(bytes),
            false => show_short(bytes, CELL_CHARS_MAX),
        };
        let mut table = table(if self.keys_only { &["key"] } else { &["key", "value"] });
        for (key, value) in pairs {
            match self.keys_only {
                true => table.add_row([show(key)]),
                false => table.add_row([show(key), show(value)]),
            };
        }
        table.to_string()
    }
}

/// Silence for people, something to parse for machines.
fn done(common: &Common, out: &mut dyn Write) -> Result<(), CliError> {
    match common.output {
        Output::Table => Ok(()),
        Output::Json => writeln!(out, "{}", json!({"ok": true})).map_err(CliError::Output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_the_range_of_the_keys_that_begin_with_it() {
        let range = |prefix: &'static [u8]| prefix_range(Bytes::from_static(prefix));
        assert_eq!(range(b"ab"), KeyRange::new("ab", "ac"));
        assert_eq!(range(b"a\xff"), KeyRange::new(&b"a\xff"[..], "b"));
        assert_eq!(range(b"\xff\xff"), KeyRange::new(&b"\xff\xff"[..], ""));
        assert_eq!(range(b""), KeyRange::ALL);
    }
}
