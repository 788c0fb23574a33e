//! Bytes as text: hexadecimal, and an escaped form that reads as UTF-8 where the bytes are UTF-8.

use std::fmt::Write;

use bytes::Bytes;

use super::error::CliError;

/// Lower-case hexadecimal digits.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}

/// Bytes from hexadecimal digits of either case.
pub(super) fn from_hex(text: &str) -> Result<Bytes, CliError> {
    decode_hex(text).ok_or_else(|| CliError::BadHex { text: text.to_owned() })
}

pub(super) fn decode_hex(text: &str) -> Option<Bytes> {
    let digit = |byte: u8| (byte as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = text.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect();
    bytes.map(Bytes::from)
}

/// Text without control characters: backslash, tab, newline and carriage return as in C, other control characters and
/// bytes that are not UTF-8 as `\xHH`. [`unescape`] is its inverse.
pub(super) fn show(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\t' => text.push_str("\\t"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                c if c.is_ascii_control() => {
                    write!(text, "\\x{:02x}", c as u32).expect("writing to a string cannot fail");
                }
                c => text.push(c),
            }
        }
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    text
}

/// The bytes that [`show`] wrote; `None` after an escape that it does not write.
pub(crate) fn unescape(text: &[u8]) -> Option<Bytes> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (escape, tail) = rest.split_first()?;
        rest = tail;
        bytes.push(match escape {
            b'\\' => b'\\',
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'x' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                rest = tail;
                decode_hex(std::str::from_utf8(digits).ok()?)?[0]
            }
            _ => return None,
        });
    }
    Some(bytes.into())
}

/// At most `chars_max` characters of [`show`], with the length of what was cut.
pub(super) fn show_short(bytes: &[u8], chars_max: usize) -> String {
    // A character has at most four bytes, so what lies behind cannot be shown.
    let head = &bytes[..bytes.len().min(chars_max * 4 + 4)];
    let shown = show(head);
    if head.len() == bytes.len() && shown.chars().count() <= chars_max {
        return shown;
    }
    let cut: String = shown.chars().take(chars_max).collect();
    format!("{cut}… ({} bytes)", bytes.len())
}

/// A number of bytes for people.
pub(super) fn show_size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A moment in UTC, to the second; nothing for 0.
pub(super) fn show_time(unix_ms: u64) -> String {
    if unix_ms == 0 {
        return String::new();
    }
    let (days, seconds) = (unix_ms / 86_400_000, unix_ms / 1_000 % 86_400);
    // Years that begin in March, so that the leap day is the last one (Richards, "Calendars", 15.11).
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{of_month:02} {hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(show_time(0), "");
        for (ms, text) in [
            (1_000, "1970-01-01 00:00:01Z"),
            (951_782_399_999, "2000-02-28 23:59:59Z"),
            (951_782_400_000, "2000-02-29 00:00:00Z"),
            (1_709_251_199_000, "2024-02-29 23:59:59Z"),
            (1_709_251_200_000, "2024-03-01 00:00:00Z"),
            (1_735_689_599_000, "2024-12-31 23:59:59Z"),
            (4_102_444_800_000, "2100-01-01 00:00:00Z"),
        ] {
            assert_eq!(show_time(ms), text);
        }
    }

    #[test]
    fn hexadecimal_goes_both_ways() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&to_hex(&all)).unwrap(), all);
        assert_eq!(from_hex("0aFf").unwrap(), vec![0x0a, 0xff]);
        assert_eq!(from_hex("").unwrap(), Bytes::new());
        for bad in ["0", "0g", "+1", "é", "0x10"] {
            assert!(matches!(from_hex(bad), Err(CliError::BadHex { .. })), "{bad}");
        }
    }

    #[test]
    fn escaped_text_goes_both_ways() {
        assert_eq!(show("tab\tand \\ and ß".as_bytes()), "tab\\tand \\\\ and ß");
        assert_eq!(show(b"\0\xff\r\n"), "\\x00\\xff\\r\\n");
        for byte in 0..=255 {
            for bytes in [vec![byte], vec![0xC3, byte], vec![byte, b'x']] {
                let text = show(&bytes);
                assert!(!text.bytes().any(|b| b.is_ascii_control()));
                assert_eq!(unescape(text.as_bytes()).unwrap(), bytes);
            }
        }
        for bad in ["\\", "\\q", "\\x1", "\\xzz", "\\x+1"] {
            assert_eq!(unescape(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn long_values_are_cut_with_their_length() {
        assert_eq!(show_short(b"short", 8), "short");
        assert_eq!(show_short(&[b'a'; 100], 4), "aaaa… (100 bytes)");
        assert_eq!(show_short(&[0xFF; 3], 4), "\\xff… (3 bytes)");
    }
}
