//! The raw reads.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_kv::{Pair, SCAN_BYTES_MAX, Scan, Ttl, View};
use flotilla_proto::kvrpcpb as rpc;
use flotilla_raftstore::{ReadGrant, RegionLoad};
use flotilla_region::KeyRange;

use super::access::{Read, check_inside};
use super::failure::Failure;
use super::{Kv, check};
use crate::threads::thread_cpu_us;

/// What a pair that is to be read counts as: nobody knows its size before.
const PAIR_BYTES: u64 = 1 << 10;

impl Kv {
    /// Whom a read may ask. A stale read may be answered by anybody at some old time; here it is answered at once by
    /// the leader, which promises more.
    fn read(&self, context: Option<&rpc::Context>) -> Result<Read, Failure> {
        let replica = context.is_some_and(|c| c.replica_read && !c.stale_read);
        Ok(Read { context: self.context(context)?, replica })
    }

    pub(super) async fn raw_get(&self, request: rpc::RawGetRequest) -> Result<rpc::RawGetResponse, Failure> {
        let read = self.read(request.context.as_ref())?;
        check::cf(&request.cf)?;
        check::key(&request.key)?;
        let found = self.access.get(read, &request.key, self.access.now_ms()).await?;
        Ok(rpc::RawGetResponse {
            not_found: found.is_none(),
            value: found.map(|value| value.bytes).unwrap_or_default(),
            ..Default::default()
        })
    }

    pub(super) async fn raw_get_key_ttl(
        &self,
        request: rpc::RawGetKeyTtlRequest,
    ) -> Result<rpc::RawGetKeyTtlResponse, Failure> {
        let read = self.read(request.context.as_ref())?;
        check::cf(&request.cf)?;
        check::key(&request.key)?;
        let now_ms = self.access.now_ms();
        let found = self.access.get(read, &request.key, now_ms).await?;
        let mut reply = rpc::RawGetKeyTtlResponse::default();
        match Ttl::of(found.as_ref(), now_ms) {
            Ttl::Absent => reply.not_found = true,
            Ttl::Forever => {}
            Ttl::Seconds(seconds) => reply.ttl = seconds,
        }
        Ok(reply)
    }

    pub(super) async fn raw_batch_get(
        &self,
        request: rpc::RawBatchGetRequest,
    ) -> Result<rpc::RawBatchGetResponse, Failure> {
        let read = self.read(request.context.as_ref())?;
        check::cf(&request.cf)?;
        check::keys(&request.keys)?;
        let (grant, now_ms) = self.access.grant(read).await?;
        request.keys.iter().try_for_each(|key| check_inside(read.context, &grant.region.range, key))?;
        let pairs = self
            .blocking(grant, now_ms, request.keys.len(), move |view, load| {
                let pairs = view.batch_get(&request.keys)?;
                load.read_keys(&request.keys, bytes_of(&pairs));
                Ok(pairs)
            })
            .await?;
        Ok(rpc::RawBatchGetResponse { pairs: to_pairs(pairs), ..Default::default() })
    }

    pub(super) async fn raw_scan(
        &self,
        request: rpc::RawScanRequest,
    ) -> Result<rpc::RawScanResponse, Failure> {
        let read = self.read(request.context.as_ref())?;
        check::cf(&request.cf)?;
        let scan = Scan {
            range: bounds(request.start_key, request.end_key, request.reverse),
            limit: request.limit as usize,
            key_only: request.key_only,
            reverse: request.reverse,
        };
        let (grant, now_ms) = self.access.grant(read).await?;
        check_routed(read, &grant, &scan)?;
        let pairs = self
            .blocking(grant, now_ms, scan.limit, move |view, load| counted_scan(&view, &scan, load))
            .await?;
        Ok(rpc::RawScanResponse { kvs: to_pairs(pairs), ..Default::default() })
    }

    pub(super) async fn raw_batch_scan(
        &self,
        request: rpc::RawBatchScanRequest,
    ) -> Result<rpc::RawBatchScanResponse, Failure> {
        let read = self.read(request.context.as_ref())?;
        check::cf(&request.cf)?;
        let (reverse, key_only) = (request.reverse, request.key_only);
        let limit = request.each_limit as usize;
        let ranges = request.ranges.into_iter().map(|r| bounds(r.start_key, r.end_key, reverse));
        let scans: Vec<Scan> = ranges.map(|range| Scan { range, limit, key_only, reverse }).collect();
        let (grant, now_ms) = self.access.grant(read).await?;
        scans.iter().try_for_each(|scan| check_routed(read, &grant, scan))?;
        let most = limit.saturating_mul(scans.len());
        let pairs =
            self.blocking(grant, now_ms, most, move |view, load| scan_all(&view, &scans, load)).await?;
        Ok(rpc::RawBatchScanResponse { kvs: to_pairs(pairs), ..Default::default() })
    }

    pub(super) async fn raw_checksum(
        &self,
        request: rpc::RawChecksumRequest,
    ) -> Result<rpc::RawChecksumResponse, Failure> {
        let read = self.read(request.context.as_ref())?;
        if request.algorithm != rpc::ChecksumAlgorithm::Crc64Xor as i32 {
            return Err(Failure::Text(format!("unknown checksum algorithm {}", request.algorithm)));
        }
        let ranges: Vec<KeyRange> =
            request.ranges.into_iter().map(|r| KeyRange::new(r.start_key, r.end_key)).collect();
        let (grant, now_ms) = self.access.grant(read).await?;
        let sum = self
            .blocking(grant, now_ms, 0, move |view, load| {
                let sum = view.checksum(&ranges)?;
                for range in &ranges {
                    load.scanned(&range.start, &range.end, sum.bytes / ranges.len() as u64);
                }
                Ok(sum)
            })
            .await?;
        Ok(rpc::RawChecksumResponse {
            checksum: sum.crc64_xor,
            total_kvs: sum.pairs,
            total_bytes: sum.bytes,
            ..Default::default()
        })
    }

    /// Reads up to `pairs` pairs on a thread that may wait for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        grant: ReadGrant,
        now_ms: u64,
        pairs: usize,
        read: impl FnOnce(View<'_>, &Arc<RegionLoad>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let most = (pairs as u64).saturating_mul(PAIR_BYTES).min(SCAN_BYTES_MAX as u64);
        let _place = self.access.reads().enter(most).await?;
        let region = grant.region.clone();
        let task = tokio::task::spawn_blocking(move || {
            let begun = thread_cpu_us();
            let result = read(View::new(&*grant.snapshot, &grant.region, now_ms), &grant.load);
            grant.load.add_cpu_us(thread_cpu_us() - begun);
            result
        });
        let read = task.await.unwrap_or_else(|_| Err(Failure::text("the read was given up")));
        self.access.judge(&region, read)
    }
}

/// Bounds of a scan. In reverse the start is the upper bound, exclusive like every end; empty = unbounded.
fn bounds(start: Bytes, end: Bytes, reverse: bool) -> KeyRange {
    if reverse { KeyRange { start: end, end: start } } else { KeyRange { start, end } }
}

/// Refuses a forward scan that starts in another region: its answer would be empty, which clients take for the truth.
/// A reverse scan is routed by either of its bounds, so it is only clipped. Nothing is in an empty range, wherever it
/// is: tikv-client's batch scans put one at the end of a region before a range that starts there.
fn check_routed(read: Read, grant: &ReadGrant, scan: &Scan) -> Result<(), Failure> {
    let is_empty = !scan.range.end.is_empty() && scan.range.start >= scan.range.end;
    if scan.reverse || is_empty {
        return Ok(());
    }
    Ok(check_inside(read.context, &grant.region.range, &scan.range.start)?)
}

/// Scans and tells the region's load what was touched: from the first to the last pair, whichever way.
fn counted_scan(view: &View<'_>, scan: &Scan, load: &Arc<RegionLoad>) -> Result<Vec<Pair>, Failure> {
    let pairs = view.scan(scan)?;
    match (pairs.first(), pairs.last()) {
        (Some(first), Some(last)) => {
            let (low, high) =
                (first.key.clone().min(last.key.clone()), first.key.clone().max(last.key.clone()));
            load.scanned(&low, &high, bytes_of(&pairs));
        }
        _ => load.read_key(&scan.range.start, 0),
    }
    Ok(pairs)
}

fn bytes_of(pairs: &[Pair]) -> u64 {
    pairs.iter().map(|pair| pair.key.len() + pair.value.len()).sum::<usize>() as u64
}

fn scan_all(view: &View<'_>, scans: &[Scan], load: &Arc<RegionLoad>) -> Result<Vec<Pair>, Failure> {
    let mut pairs = Vec::new();
    let mut bytes = 0;
    for scan in scans {
        let found = counted_scan(view, scan, load)?;
        bytes += found.iter().map(|pair| pair.key.len() + pair.value.len()).sum::<usize>();
        if bytes > SCAN_BYTES_MAX {
            return Err(flotilla_kv::Error::TooLarge { bytes_max: SCAN_BYTES_MAX }.into());
        }
        pairs.extend(found);
    }
    Ok(pairs)
}

fn to_pairs(pairs: Vec<Pair>) -> Vec<rpc::KvPair> {
    pairs
        .into_iter()
        .map(|pair| rpc::KvPair { key: pair.key, value: pair.value, ..Default::default() })
        .collect()
}
