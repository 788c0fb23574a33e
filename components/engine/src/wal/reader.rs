//! Records of one WAL file, good or bad.
//!
//! The format is public (RocksDB's wiki, "Write Ahead Log File Format"; numbers from `db/log_format.h`): blocks of
//! 32 KiB; in a block fragments {masked CRC-32C u32, length u16, type u8, payload}, little-endian, the checksum over
//! type and payload; a record is one full fragment or first, middle*, last; fewer than 7 bytes at the end of a block
//! are zero. Fragments of recycled files carry their file's number too; we never recycle.

use std::borrow::Cow;

use crate::crc32c;

const BLOCK_BYTES: usize = 32 * 1024;
const HEADER_BYTES: usize = 7;
const RECYCLABLE_HEADER_BYTES: usize = 11;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;
const SET_COMPRESSION: u8 = 9;
const TIMESTAMP_SIZES: u8 = 10;
const RECYCLABLE: [u8; 6] = [5, 6, 7, 8, 11, 131];
/// Readers skip unknown types with this bit, such as 130: what the WAL before this one was.
const IGNORABLE: u8 = 0x80;

/// What comes next in a file.
pub(super) enum Item<'a> {
    /// A whole record.
    Record {
        /// Where it begins.
        offset: usize,
        /// Length of the file before it, less the padding.
        good_bytes: usize,
        /// Its content.
        payload: Cow<'a, [u8]>,
    },
    /// Bytes that are not a whole record; the reader goes on behind them at the next thing that is one.
    Bad {
        /// Where the damage begins.
        offset: usize,
        /// Length of the file up to the end of the last whole record before it.
        good_bytes: usize,
        why: &'static str,
    },
    /// A whole record of a kind that RocksDB does not write with our options.
    Foreign { offset: usize, why: &'static str },
    /// The end of the file.
    End,
}

/// One fragment.
enum Fragment<'a> {
    Whole { offset: usize, kind: u8, payload: &'a [u8] },
    Bad { offset: usize, why: &'static str },
    Foreign { offset: usize, why: &'static str },
    End,
}

/// Reads the records of a file in order.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// Where the next fragment is looked for.
    position: usize,
    /// End of the last whole record.
    good_bytes: usize,
    /// After damage: try every offset instead of trusting lengths, until a whole fragment turns up.
    searching: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0, good_bytes: 0, searching: false }
    }

    /// The next item. After [`Item::Bad`] the rest of the file is searched for whole records.
    pub(super) fn next(&mut self) -> Item<'a> {
        let mut parts: Option<(usize, Vec<u8>)> = None;
        loop {
            let (offset, kind, payload) = match self.fragment() {
                Fragment::Whole { offset, kind, payload } => (offset, kind, payload),
                Fragment::Foreign { offset, why } => return Item::Foreign { offset, why },
                Fragment::Bad { offset, why } => {
                    return self.bad(parts.map_or(offset, |(first, _)| first), why);
                }
                Fragment::End => match parts {
                    Some((first, _)) => return self.bad(first, "a record without its end"),
                    None => return Item::End,
                },
            };
            match (kind, &mut parts) {
                (FULL, None) => return self.record(offset, Cow::Borrowed(payload)),
                (FIRST, None) => parts = Some((offset, payload.to_vec())),
                (MIDDLE, Some((_, record))) => record.extend_from_slice(payload),
                (LAST, Some((_, record))) => {
                    record.extend_from_slice(payload);
                    let (first, record) = parts.take().expect("a record was begun");
                    return self.record(first, Cow::Owned(record));
                }
                (FULL | FIRST, Some((first, _))) => {
                    // Read this fragment again as the beginning of a record.
                    self.position = offset;
                    return Item::Bad {
                        offset: *first,
                        good_bytes: self.good_bytes,
                        why: "a record without its end",
                    };
                }
                (MIDDLE | LAST, None) => {
                    return Item::Bad {
                        offset,
                        good_bytes: self.good_bytes,
                        why: "a record without its beginning",
                    };
                }
                // Says something about the file and holds no writes.
                (_, None) => self.good_bytes = self.position,
                (_, Some(_)) => {}
            }
        }
    }

    fn record(&mut self, offset: usize, payload: Cow<'a, [u8]>) -> Item<'a> {
        let good_bytes = std::mem::replace(&mut self.good_bytes, self.position);
        Item::Record { offset, good_bytes, payload }
    }

    fn bad(&mut self, offset: usize, why: &'static str) -> Item<'a> {
        self.searching = true;
        Item::Bad { offset, good_bytes: self.good_bytes, why }
    }

    fn fragment(&mut self) -> Fragment<'a> {
        loop {
            let offset = self.position;
            let in_block = BLOCK_BYTES - offset % BLOCK_BYTES;
            let rest = self.bytes.len() - offset;
            if rest == 0 {
                return Fragment::End;
            }
            if in_block < HEADER_BYTES && rest > in_block {
                self.position += in_block;
                continue;
            }
            let block = &self.bytes[offset..offset + rest.min(in_block)];
            match parse(block, offset) {
                Fragment::Bad { offset, why } => {
                    self.position += 1;
                    if !self.searching {
                        return Fragment::Bad { offset, why };
                    }
                }
                fragment => {
                    if let Fragment::Whole { payload, .. } = &fragment {
                        self.position += HEADER_BYTES + payload.len();
                    }
                    self.searching = false;
                    return fragment;
                }
            }
        }
    }
}

/// The fragment at the beginning of `block`, which reaches to the end of a block or of the file.
fn parse(block: &[u8], offset: usize) -> Fragment<'_> {
    let bad = |why| Fragment::Bad { offset, why };
    let Some((header, _)) = block.split_at_checked(HEADER_BYTES) else {
        return bad("a header without its end");
    };
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let kind = header[6];
    let end = HEADER_BYTES + length;
    if RECYCLABLE.contains(&kind) {
        let end = RECYCLABLE_HEADER_BYTES + length;
        return match block.get(6..end) {
            Some(checked) if crc32c::masked(checked) == stored => {
                Fragment::Foreign { offset, why: "a record of a recycled file" }
            }
            _ => bad("checksum mismatch"),
        };
    }
    if kind == 0 && length == 0 {
        return bad("zeros instead of a record");
    }
    let known = matches!(kind, FULL..=LAST | SET_COMPRESSION | TIMESTAMP_SIZES) || kind & IGNORABLE != 0;
    if !known {
        return bad("a record of no known type");
    }
    let Some(checked) = block.get(6..end) else {
        return bad("a record longer than its block or file");
    };
    if crc32c::masked(checked) != stored {
        return bad("checksum mismatch");
    }
    if kind == SET_COMPRESSION {
        return Fragment::Foreign { offset, why: "a compressed file" };
    }
    Fragment::Whole { offset, kind, payload: &block[HEADER_BYTES..end] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut checked = vec![kind];
        checked.extend_from_slice(payload);
        let mut out = crc32c::masked(&checked).to_le_bytes().to_vec();
        out.extend_from_slice(&(payload.len() as u16).to_le_bytes());
        out.extend_from_slice(&checked);
        out
    }

    /// A line per item: what the reader says about a file.
    fn read(bytes: &[u8]) -> Vec<String> {
        let mut reader = Reader::new(bytes);
        let mut out = Vec::new();
        loop {
            out.push(match reader.next() {
                Item::End => return out,
                Item::Record { offset, good_bytes, payload } => {
                    format!("{offset} {good_bytes} record of {}", payload.len())
                }
                Item::Bad { offset, good_bytes, why } => format!("{offset} {good_bytes} {why}"),
                Item::Foreign { offset, why } => {
                    out.push(format!("{offset} foreign: {why}"));
                    return out;
                }
            });
        }
    }

    #[test]
    fn records_over_several_blocks_are_put_together() {
        let mut file = fragment(FULL, b"abc");
        let first = vec![1; BLOCK_BYTES - file.len() - 2 * HEADER_BYTES - 3];
        file.extend(fragment(FULL, &first));
        assert_eq!(BLOCK_BYTES - file.len(), HEADER_BYTES + 3);
        file.extend(fragment(FIRST, &[2; 3]));
        file.extend(fragment(MIDDLE, &vec![3; BLOCK_BYTES - HEADER_BYTES]));
        file.extend(fragment(LAST, &[4; 5]));
        file.extend(fragment(FULL, &[]));
        assert_eq!(
            read(&file),
            [
                "0 0 record of 3".to_owned(),
                format!("10 10 record of {}", first.len()),
                format!("{0} {0} record of {1}", BLOCK_BYTES - 10, BLOCK_BYTES - HEADER_BYTES + 8),
                format!("{0} {0} record of 0", 2 * BLOCK_BYTES + 12),
            ]
        );
    }

    #[test]
    fn padding_at_the_end_of_a_block_is_skipped() {
        let mut file = fragment(FULL, &vec![1; BLOCK_BYTES - HEADER_BYTES - 6]);
        file.extend([0; 6]);
        file.extend(fragment(FULL, b"x"));
        assert_eq!(read(&file)[1], format!("{} {} record of 1", BLOCK_BYTES, BLOCK_BYTES - 6));
        file.truncate(BLOCK_BYTES - 2);
        assert_eq!(read(&file)[1], format!("{0} {0} a header without its end", BLOCK_BYTES - 6));
    }

    #[test]
    fn records_behind_damage_are_found_again_whatever_was_damaged() {
        let mut file = fragment(FULL, b"first");
        let damaged = file.len();
        file.extend(fragment(FULL, b"second"));
        let last = file.len();
        file.extend(fragment(FULL, b"third!!"));
        for byte in damaged..last {
            for bit in 0..8 {
                let mut file = file.clone();
                file[byte] ^= 1 << bit;
                let lines = read(&file);
                assert_eq!(lines[0], "0 0 record of 5");
                assert!(lines[1].starts_with(&format!("{damaged} {damaged} ")), "{byte}.{bit}: {lines:?}");
                let third = format!("{last} {damaged} record of 7");
                assert!(lines.contains(&third), "{byte}.{bit}: {lines:?}");
            }
        }
    }

    #[test]
    fn records_about_the_file_are_skipped_and_foreign_ones_refused() {
        let mut file = fragment(130, &[9; 24]);
        file.extend(fragment(TIMESTAMP_SIZES, b""));
        file.extend(fragment(FULL, b"x"));
        assert_eq!(read(&file), ["38 38 record of 1"]);
        file.extend(fragment(SET_COMPRESSION, &[4; 4]));
        assert_eq!(read(&file)[1], "46 foreign: a compressed file");
        let mut recycled = vec![5, 7, 0, 0, 0];
        recycled.extend(b"abc");
        let mut file = crc32c::masked(&recycled).to_le_bytes().to_vec();
        file.extend([3, 0]);
        file.extend(recycled);
        assert_eq!(read(&file), ["0 foreign: a record of a recycled file"]);
    }

    #[test]
    fn zeros_are_damage_and_a_later_block_is_still_read() {
        let mut file = fragment(FULL, b"abc");
        let good = file.len();
        file.resize(BLOCK_BYTES, 0);
        file.extend(fragment(FULL, b"later"));
        let lines = read(&file);
        assert_eq!(lines[1], format!("{good} {good} zeros instead of a record"));
        assert_eq!(lines[2], format!("{BLOCK_BYTES} {good} record of 5"));
    }
}
