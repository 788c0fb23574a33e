//! Scans that walk over regions, in both directions.

use bytes::Bytes;
use flotilla_proto::kvrpcpb;
use flotilla_region::KeyRange;

use super::Client;
use super::call::Position;
use crate::error::{Error, Result};
use crate::retry::CallClass;
use crate::walk::{bounded, left_after};

/// A key and its value.
pub type Pair = (Bytes, Bytes);

/// Bytes that a page should have; a guess from the pages before it decides how many pairs to ask for.
const PAGE_BYTES: usize = 1024 * 1024;
/// Pairs in the first page.
const PAGE_PAIRS_FIRST: u32 = 64;
/// Pairs in any page.
const PAGE_PAIRS_MAX: u32 = 1024;

/// What to scan.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Keys to visit; an empty end is unbounded.
    pub range: KeyRange,
    /// Descending instead of ascending.
    pub reverse: bool,
    /// Values stay behind: every pair has an empty one.
    pub key_only: bool,
}

impl Scan {
    /// All pairs of a range in ascending order.
    pub fn forward(range: KeyRange) -> Self {
        Self { range, ..Self::default() }
    }

    /// All pairs of a range in descending order.
    pub fn backward(range: KeyRange) -> Self {
        Self { range, reverse: true, ..Self::default() }
    }

    /// Leaves the values behind.
    pub fn keys_only(mut self) -> Self {
        self.key_only = true;
        self
    }
}

/// A scan in progress. Each page is read at one moment in one region; pages are read at different moments, so
/// writes between them may be seen or not.
#[derive(Debug)]
pub struct Scanner {
    client: Client,
    scan: Scan,
    /// What is left; `None` when done. Its end is never empty.
    left: Option<KeyRange>,
    page_pairs: u32,
}

impl Client {
    /// Starts a scan.
    pub fn scanner(&self, scan: Scan) -> Scanner {
        let left = bounded(&scan.range);
        Scanner {
            client: self.clone(),
            scan,
            left: (!left.is_empty()).then_some(left),
            page_pairs: PAGE_PAIRS_FIRST,
        }
    }

    /// Up to `limit` pairs in the order of the scan.
    ///
    /// # Errors
    /// As for any call; pairs read before the error are lost.
    pub async fn scan(&self, scan: Scan, limit: usize) -> Result<Vec<Pair>> {
        let mut scanner = self.scanner(scan);
        let mut pairs = Vec::new();
        while pairs.len() < limit {
            match scanner.next_page(limit - pairs.len()).await? {
                Some(page) => pairs.extend(page),
                None => break,
            }
        }
        Ok(pairs)
    }
}

impl Scanner {
    /// The next pairs, at most `limit` (at least 1 is asked for); may be empty where a region is. `None` when the
    /// range is done.
    ///
    /// # Errors
    /// As for any call; the scanner stays where it was, so the page can be asked for again.
    pub async fn next_page(&mut self, limit: usize) -> Result<Option<Vec<Pair>>> {
        let Some(left) = self.left.clone() else { return Ok(None) };
        loop {
            let asked = self.page_pairs.min(u32::try_from(limit).unwrap_or(u32::MAX)).max(1);
            let position = match self.scan.reverse {
                false => Position::At(left.start.clone()),
                true => Position::Before(left.end.clone()),
            };
            let reverse = self.scan.reverse;
            let key_only = self.scan.key_only;
            let reply = self
                .client
                .call_at(position, CallClass::Read, |route| {
                    let part = route.region.range.intersect(&left);
                    let (start_key, end_key) =
                        if reverse { (part.end, part.start) } else { (part.start, part.end) };
                    kvrpcpb::RawScanRequest {
                        start_key,
                        end_key,
                        limit: asked,
                        key_only,
                        reverse,
                        ..Default::default()
                    }
                })
                .await;
            let (route, reply) = match reply {
                Err(Error::Status(status)) if is_too_large(&status) && asked > 1 => {
                    self.page_pairs = asked / 2;
                    continue;
                }
                reply => reply?,
            };
            let pairs: Vec<Pair> = reply.kvs.into_iter().map(|pair| (pair.key, pair.value)).collect();
            self.adapt(asked, &pairs);
            let is_full = pairs.len() >= asked as usize;
            let last = pairs.last().filter(|_| is_full).map(|(key, _)| key);
            self.left = left_after(&left, &route.region.range, reverse, last);
            return Ok(Some(pairs));
        }
    }

    fn adapt(&mut self, asked: u32, pairs: &[Pair]) {
        let bytes: usize = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        let fitting = match bytes.checked_div(pairs.len()) {
            Some(average) => PAGE_BYTES / average.max(1),
            None => return,
        };
        let fitting = u32::try_from(fitting).unwrap_or(u32::MAX);
        // At most twice as many as now: the next pairs may be larger.
        self.page_pairs = fitting.clamp(1, asked.saturating_mul(2).max(PAGE_PAIRS_FIRST)).min(PAGE_PAIRS_MAX);
    }
}

/// tonic's answer to a reply over its limit.
fn is_too_large(status: &tonic::Status) -> bool {
    matches!(status.code(), tonic::Code::OutOfRange | tonic::Code::ResourceExhausted)
}
