//! Records as lines: tab-separated with escapes, or one JSON object each.

use std::io::{self, BufRead, Write};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::error::CliError;
use super::load::Item;
use super::text::{decode_hex, show, to_hex, unescape};

/// Form of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `key TAB value`, with \\ \t \n \r \xHH as escapes
    Tsv,
    /// {"key": ..., "value": ..., "ttl": seconds}; key_hex and value_hex where the bytes are not UTF-8
    Jsonl,
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not exactly one tab.
    #[error("expected a key, a tab and a value")]
    Columns,
    /// An escape that is not known.
    #[error("bad escape")]
    Escape,
    /// Not the JSON object expected.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// Neither or both of a field and its hexadecimal form.
    #[error("expected one of {name:?} and \"{name}_hex\"")]
    Field {
        /// The field.
        name: &'static str,
    },
    /// Not hexadecimal.
    #[error("{name}_hex is not hexadecimal")]
    Hex {
        /// The field.
        name: &'static str,
    },
    /// Keys have at least one byte.
    #[error("the key is empty")]
    EmptyKey,
    /// Key and value exceed the entry limit.
    #[error("the entry of {bytes} bytes is over the limit of {limit}")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}

/// A JSON line.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_hex: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<u64>,
}

impl Format {
    /// Writes one record as a line.
    pub(super) fn write(self, out: &mut dyn Write, key: &[u8], value: &[u8]) -> io::Result<()> {
        match self {
            Self::Tsv => writeln!(out, "{}\t{}", show(key), show(value)),
            Self::Jsonl => {
                serde_json::to_writer(&mut *out, &record(key, value))?;
                out.write_all(b"\n")
            }
        }
    }

    /// Parses one line without its newline.
    pub(super) fn parse(self, line: &[u8]) -> Result<(Bytes, Bytes, u64), RecordError> {
        let (key, value, ttl_seconds) = match self {
            Self::Tsv => {
                let mut columns = line.split(|byte| *byte == b'\t');
                let (Some(key), Some(value), None) = (columns.next(), columns.next(), columns.next()) else {
                    return Err(RecordError::Columns);
                };
                let bytes = |text| unescape(text).ok_or(RecordError::Escape);
                (bytes(key)?, bytes(value)?, 0)
            }
            Self::Jsonl => {
                let record: Record = serde_json::from_slice(line)?;
                let key = field("key", record.key, record.key_hex)?;
                (key, field("value", record.value, record.value_hex)?, record.ttl.unwrap_or(0))
            }
        };
        if key.is_empty() { Err(RecordError::EmptyKey) } else { Ok((key, value, ttl_seconds)) }
    }
}

fn field(name: &'static str, text: Option<String>, hex: Option<String>) -> Result<Bytes, RecordError> {
    match (text, hex) {
        (Some(text), None) => Ok(text.into()),
        (None, Some(hex)) => decode_hex(&hex).ok_or(RecordError::Hex { name }),
        _ => Err(RecordError::Field { name }),
    }
}

fn record(key: &[u8], value: &[u8]) -> Record {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let (key_text, value_text) = (text(key), text(value));
    Record {
        key_hex: key_text.is_none().then(|| to_hex(key)),
        key: key_text,
        value_hex: value_text.is_none().then(|| to_hex(value)),
        value: value_text,
        ttl: None,
    }
}

/// The records of a file, one after another.
pub(super) struct Reader<R> {
    input: R,
    format: Format,
    entry_bytes_max: u64,
    line: u64,
}

impl<R: BufRead> Reader<R> {
    pub(super) fn new(input: R, format: Format, entry_bytes_max: u64) -> Self {
        Self { input, format, entry_bytes_max, line: 0 }
    }

    fn read(&mut self) -> Result<Option<Item>, CliError> {
        let mut line = Vec::new();
        self.line += 1;
        if self.input.read_until(b'\n', &mut line).map_err(CliError::Input)? == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        let bad = |source| CliError::BadRecord { line: self.line, source };
        let (key, value, ttl_seconds) = self.format.parse(&line).map_err(bad)?;
        let item = Item::Record { key, value, ttl_seconds };
        if item.bytes() > self.entry_bytes_max {
            return Err(bad(RecordError::TooLarge { bytes: item.bytes(), limit: self.entry_bytes_max }));
        }
        Ok(Some(item))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Item, CliError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = vec![
            (b"plain".to_vec(), b"value".to_vec()),
            ("ключ".into(), b"".to_vec()),
            (vec![0, 255, 9, 10], (0..=255).collect()),
            (b"back\\slash".to_vec(), b"\\t\t".to_vec()),
        ];
        for format in [Format::Tsv, Format::Jsonl] {
            let mut text = Vec::new();
            for (key, value) in &pairs {
                format.write(&mut text, key, value).unwrap();
            }
            assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), pairs.len());
            let items: Vec<Item> = Reader::new(&text[..], format, 1_000).map(Result::unwrap).collect();
            for ((key, value), item) in pairs.iter().zip(items) {
                let Item::Record { key: k, value: v, ttl_seconds } = item else { panic!("a file") };
                assert_eq!((&k[..], &v[..], ttl_seconds), (&key[..], &value[..], 0));
            }
        }
    }

    #[test]
    fn a_bad_line_is_named_by_number_and_fault() {
        let fault = |format, text: &str| {
            let error = Reader::new(text.as_bytes(), format, 9).find_map(Result::err).expect("a fault");
            error.to_string()
        };
        assert_eq!(fault(Format::Tsv, "a\tb\nc\n"), "line 2: expected a key, a tab and a value");
        assert_eq!(fault(Format::Tsv, "a\tb\tc"), "line 1: expected a key, a tab and a value");
        assert_eq!(fault(Format::Tsv, "a\t\\q"), "line 1: bad escape");
        assert_eq!(fault(Format::Tsv, "\tb"), "line 1: the key is empty");
        assert_eq!(
            fault(Format::Tsv, "key\tvalue.."),
            "line 1: the entry of 10 bytes is over the limit of 9"
        );
        assert!(fault(Format::Jsonl, "{\"key\":").starts_with("line 1: EOF"));
        assert!(fault(Format::Jsonl, r#"{"key":"a","value":"b","x":1}"#).contains("unknown field"));
        assert_eq!(
            fault(Format::Jsonl, r#"{"key":"a"}"#),
            "line 1: expected one of \"value\" and \"value_hex\""
        );
        assert_eq!(
            fault(Format::Jsonl, r#"{"key_hex":"0","value":""}"#),
            "line 1: key_hex is not hexadecimal"
        );
        let (_, _, ttl) = Format::Jsonl.parse(br#"{"key":"a","value":"b","ttl":5}"#).unwrap();
        assert_eq!(ttl, 5);
    }
}
