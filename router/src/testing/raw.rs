//! The fake cluster's raw service.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use flotilla_proto::kvrpcpb::{self, KvPair};
use flotilla_proto::tikvpb::{self, tikv_server::Tikv};
use flotilla_proto::{errorpb, metapb};
use flotilla_region::{KEY_BYTES_MAX, KeyRange};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::Service;
use super::state::{Fault, State};

type Reply<T> = Result<Response<T>, Status>;
type Data = BTreeMap<Bytes, (Bytes, u64)>;

/// What the checks and faults leave of a request: the reply, or a region error.
type Outcome<T> = Result<Result<T, Box<errorpb::Error>>, Status>;

impl Service {
    /// Checks a request, lets a fault act on it, and applies it.
    fn serve<T>(
        &self,
        context: &Option<kvrpcpb::Context>,
        keys: &[&Bytes],
        apply: impl FnOnce(&mut State, &metapb::Region) -> T,
    ) -> Outcome<T> {
        let mut state = self.state.lock();
        state.raw_requests += 1;
        let bare: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let region = match state.check(self.store, context.as_ref(), &bare) {
            Ok(region) => region,
            Err(error) => return Ok(Err(error)),
        };
        match state.faults.pop_front() {
            None | Some(Fault::Pass) => Ok(Ok(apply(&mut state, &region))),
            Some(Fault::Refuse(error)) => Ok(Err(error)),
            Some(Fault::Break) => Err(Status::unavailable("injected")),
            Some(Fault::ApplyAndBreak) => {
                apply(&mut state, &region);
                Err(Status::unavailable("injected"))
            }
            Some(Fault::ApplyAndForget) => {
                apply(&mut state, &region);
                let undetermined_result = Some(errorpb::UndeterminedResult::default());
                Ok(Err(Box::new(errorpb::Error { undetermined_result, ..Default::default() })))
            }
        }
    }
}

/// The reply, or one with the region error in its place.
macro_rules! answer {
    ($reply:ident, $outcome:expr) => {
        Ok(Response::new(
            $outcome?
                .unwrap_or_else(|error| kvrpcpb::$reply { region_error: Some(*error), ..Default::default() }),
        ))
    };
}

fn check_key(key: &[u8]) -> String {
    match key.len() {
        0 => "key is empty".to_owned(),
        1..=KEY_BYTES_MAX => String::new(),
        length => format!("max key size exceeded, max: {KEY_BYTES_MAX}, actual: {length}"),
    }
}

fn scan(data: &Data, region: &metapb::Region, request: &kvrpcpb::RawScanRequest) -> Vec<KvPair> {
    let held = KeyRange::new(region.start_key.clone(), region.end_key.clone());
    let (start, end) = match request.reverse {
        false => (request.start_key.clone(), request.end_key.clone()),
        true => (request.end_key.clone(), request.start_key.clone()),
    };
    let range = KeyRange { start, end }.intersect(&held);
    if range.is_empty() {
        return Vec::new();
    }
    let end = if range.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(range.end) };
    let pairs = data.range((Bound::Included(range.start), end)).map(|(key, (value, _))| {
        let value = if request.key_only { Bytes::new() } else { value.clone() };
        KvPair { key: key.clone(), value, ..Default::default() }
    });
    let limit = request.limit as usize;
    if request.reverse { pairs.rev().take(limit).collect() } else { pairs.take(limit).collect() }
}

fn keys_in(data: &Data, region: &metapb::Region, start: &Bytes, end: &Bytes) -> Vec<Bytes> {
    let request = kvrpcpb::RawScanRequest {
        start_key: start.clone(),
        end_key: end.clone(),
        limit: u32::MAX,
        ..Default::default()
    };
    scan(data, region, &request).into_iter().map(|pair| pair.key).collect()
}

#[tonic::async_trait]
impl Tikv for Service {
    async fn raw_get(&self, request: Request<kvrpcpb::RawGetRequest>) -> Reply<kvrpcpb::RawGetResponse> {
        let r = request.into_inner();
        answer!(
            RawGetResponse,
            self.serve(&r.context, &[&r.key], |state, _| match state.data.get(&r.key) {
                Some((value, _)) => kvrpcpb::RawGetResponse { value: value.clone(), ..Default::default() },
                None => kvrpcpb::RawGetResponse { not_found: true, ..Default::default() },
            })
        )
    }

    async fn raw_batch_get(
        &self,
        request: Request<kvrpcpb::RawBatchGetRequest>,
    ) -> Reply<kvrpcpb::RawBatchGetResponse> {
        let r = request.into_inner();
        let keys: Vec<&Bytes> = r.keys.iter().collect();
        answer!(
            RawBatchGetResponse,
            self.serve(&r.context, &keys, |state, _| {
                let found = r.keys.iter().filter_map(|key| state.data.get_key_value(key));
                let pairs = found.map(|(key, (value, _))| KvPair {
                    key: key.clone(),
                    value: value.clone(),
                    ..Default::default()
                });
                kvrpcpb::RawBatchGetResponse { pairs: pairs.collect(), ..Default::default() }
            })
        )
    }

    async fn raw_put(&self, request: Request<kvrpcpb::RawPutRequest>) -> Reply<kvrpcpb::RawPutResponse> {
        let r = request.into_inner();
        answer!(
            RawPutResponse,
            self.serve(&r.context, &[&r.key], |state, _| {
                let error = check_key(&r.key);
                if error.is_empty() {
                    state.data.insert(r.key.clone(), (r.value.clone(), r.ttl));
                }
                kvrpcpb::RawPutResponse { error, ..Default::default() }
            })
        )
    }

    async fn raw_batch_put(
        &self,
        request: Request<kvrpcpb::RawBatchPutRequest>,
    ) -> Reply<kvrpcpb::RawBatchPutResponse> {
        let r = request.into_inner();
        let keys: Vec<&Bytes> = r.pairs.iter().map(|pair| &pair.key).collect();
        answer!(
            RawBatchPutResponse,
            self.serve(&r.context, &keys, |state, _| {
                state.last_batch_keys = keys.len();
                for (i, pair) in r.pairs.iter().enumerate() {
                    let ttl = r.ttls.get(i).or(r.ttls.first()).copied().unwrap_or(0);
                    state.data.insert(pair.key.clone(), (pair.value.clone(), ttl));
                }
                kvrpcpb::RawBatchPutResponse::default()
            })
        )
    }

    async fn raw_delete(
        &self,
        request: Request<kvrpcpb::RawDeleteRequest>,
    ) -> Reply<kvrpcpb::RawDeleteResponse> {
        let r = request.into_inner();
        answer!(
            RawDeleteResponse,
            self.serve(&r.context, &[&r.key], |state, _| {
                state.data.remove(&r.key);
                kvrpcpb::RawDeleteResponse::default()
            })
        )
    }

    async fn raw_batch_delete(
        &self,
        request: Request<kvrpcpb::RawBatchDeleteRequest>,
    ) -> Reply<kvrpcpb::RawBatchDeleteResponse> {
        let r = request.into_inner();
        let keys: Vec<&Bytes> = r.keys.iter().collect();
        answer!(
            RawBatchDeleteResponse,
            self.serve(&r.context, &keys, |state, _| {
                for key in &r.keys {
                    state.data.remove(key);
                }
                kvrpcpb::RawBatchDeleteResponse::default()
            })
        )
    }

    async fn raw_delete_range(
        &self,
        request: Request<kvrpcpb::RawDeleteRangeRequest>,
    ) -> Reply<kvrpcpb::RawDeleteRangeResponse> {
        let r = request.into_inner();
        answer!(
            RawDeleteRangeResponse,
            self.serve(&r.context, &[&r.start_key], |state, region| {
                for key in keys_in(&state.data, region, &r.start_key, &r.end_key) {
                    state.data.remove(&key);
                }
                kvrpcpb::RawDeleteRangeResponse::default()
            })
        )
    }

    async fn raw_scan(&self, request: Request<kvrpcpb::RawScanRequest>) -> Reply<kvrpcpb::RawScanResponse> {
        let r = request.into_inner();
        let lower = if r.reverse { &r.end_key } else { &r.start_key };
        answer!(
            RawScanResponse,
            self.serve(&r.context, &[lower], |state, region| kvrpcpb::RawScanResponse {
                kvs: scan(&state.data, region, &r),
                ..Default::default()
            })
        )
    }

    async fn raw_get_key_ttl(
        &self,
        request: Request<kvrpcpb::RawGetKeyTtlRequest>,
    ) -> Reply<kvrpcpb::RawGetKeyTtlResponse> {
        let r = request.into_inner();
        answer!(
            RawGetKeyTtlResponse,
            self.serve(&r.context, &[&r.key], |state, _| match state.data.get(&r.key) {
                Some((_, ttl)) => kvrpcpb::RawGetKeyTtlResponse { ttl: *ttl, ..Default::default() },
                None => kvrpcpb::RawGetKeyTtlResponse { not_found: true, ..Default::default() },
            })
        )
    }

    async fn raw_compare_and_swap(
        &self,
        request: Request<kvrpcpb::RawCasRequest>,
    ) -> Reply<kvrpcpb::RawCasResponse> {
        let r = request.into_inner();
        answer!(
            RawCasResponse,
            self.serve(&r.context, &[&r.key], |state, _| {
                let found = state.data.get(&r.key).map(|(value, _)| value.clone());
                let expected = (!r.previous_not_exist).then(|| r.previous_value.clone());
                let succeed = found == expected;
                if succeed && r.delete {
                    state.data.remove(&r.key);
                } else if succeed {
                    state.data.insert(r.key.clone(), (r.value.clone(), r.ttl));
                }
                kvrpcpb::RawCasResponse {
                    succeed,
                    previous_not_exist: found.is_none(),
                    previous_value: found.unwrap_or_default(),
                    ..Default::default()
                }
            })
        )
    }

    /// Not a CRC, but additive over parts in the same way.
    async fn raw_checksum(
        &self,
        request: Request<kvrpcpb::RawChecksumRequest>,
    ) -> Reply<kvrpcpb::RawChecksumResponse> {
        let r = request.into_inner();
        let starts: Vec<&Bytes> = r.ranges.iter().map(|range| &range.start_key).collect();
        answer!(
            RawChecksumResponse,
            self.serve(&r.context, &starts, |state, region| {
                let mut reply = kvrpcpb::RawChecksumResponse::default();
                for range in &r.ranges {
                    for key in keys_in(&state.data, region, &range.start_key, &range.end_key) {
                        let bytes = key.len() + state.data[&key].0.len();
                        reply.checksum ^= key.iter().fold(7, |sum, byte| sum * 31 + u64::from(*byte));
                        reply.total_kvs += 1;
                        reply.total_bytes += bytes as u64;
                    }
                }
                reply
            })
        )
    }

    async fn raw_batch_scan(
        &self,
        _: Request<kvrpcpb::RawBatchScanRequest>,
    ) -> Reply<kvrpcpb::RawBatchScanResponse> {
        Err(Status::unimplemented("not asked by the client"))
    }

    async fn raw_coprocessor(
        &self,
        _: Request<kvrpcpb::RawCoprocessorRequest>,
    ) -> Reply<kvrpcpb::RawCoprocessorResponse> {
        Err(Status::unimplemented("not asked by the client"))
    }

    type BatchCommandsStream = BoxStream<tikvpb::BatchCommandsResponse>;

    async fn batch_commands(
        &self,
        _: Request<Streaming<tikvpb::BatchCommandsRequest>>,
    ) -> Reply<Self::BatchCommandsStream> {
        Err(Status::unimplemented("not asked by the client"))
    }
}
