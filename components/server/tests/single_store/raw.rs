//! What the raw requests do.

use flotilla_proto::kvrpcpb as rpc;
use flotilla_proto::tikvpb::batch_commands_request::{Request as BatchRequest, request::Cmd};
use flotilla_proto::tikvpb::batch_commands_response::response::Cmd as Answer;
use flotilla_proto::tikvpb::tikv_client::TikvClient;
use flotilla_proto::tikvpb::{BatchCommandsEmptyRequest, BatchCommandsRequest};
use tonic::transport::Channel;

use crate::harness::StoreProcess;

type Tikv = TikvClient<Channel>;

fn pair(key: &'static str, value: &'static str) -> rpc::KvPair {
    rpc::KvPair { key: key.into(), value: value.into(), ..Default::default() }
}

fn range(start: &'static str, end: &'static str) -> rpc::KeyRange {
    rpc::KeyRange { start_key: start.into(), end_key: end.into() }
}

async fn put(tikv: &mut Tikv, context: &rpc::Context, key: &'static str, value: &'static str, ttl: u64) {
    let request = rpc::RawPutRequest {
        context: Some(context.clone()),
        key: key.into(),
        value: value.into(),
        ttl,
        ..Default::default()
    };
    let reply = tikv.raw_put(request).await.expect("answered").into_inner();
    assert_eq!(reply, rpc::RawPutResponse::default());
}

/// Fills `a` to `e` with values `1` to `5`.
async fn fill(tikv: &mut Tikv, context: &rpc::Context) {
    let pairs = vec![pair("a", "1"), pair("b", "2"), pair("c", "3"), pair("d", "4"), pair("e", "5")];
    let request = rpc::RawBatchPutRequest {
        context: Some(context.clone()),
        pairs,
        ttls: vec![0; 5],
        ..Default::default()
    };
    let reply = tikv.raw_batch_put(request).await.expect("answered").into_inner();
    assert_eq!(reply, rpc::RawBatchPutResponse::default());
}

async fn scan(tikv: &mut Tikv, request: rpc::RawScanRequest) -> String {
    let reply = tikv.raw_scan(request).await.expect("answered").into_inner();
    assert_eq!(reply.region_error, None);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    reply.kvs.iter().map(|kv| format!("{}{} ", text(&kv.key), text(&kv.value))).collect()
}

#[tokio::test]
async fn values_are_put_read_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let (mut tikv, context) = (store.tikv().await, store.context(b"a").await);
    let get = |key: &'static str| rpc::RawGetRequest {
        context: Some(context.clone()),
        key: key.into(),
        ..Default::default()
    };
    let found = |value: &'static str| rpc::RawGetResponse { value: value.into(), ..Default::default() };
    let absent = rpc::RawGetResponse { not_found: true, ..Default::default() };
    assert_eq!(tikv.raw_get(get("a")).await.unwrap().into_inner(), absent);
    put(&mut tikv, &context, "a", "value", 0).await;
    assert_eq!(tikv.raw_get(get("a")).await.unwrap().into_inner(), found("value"));
    put(&mut tikv, &context, "a", "", 0).await;
    assert_eq!(tikv.raw_get(get("a")).await.unwrap().into_inner(), found(""), "an empty value is a value");
    let delete =
        rpc::RawDeleteRequest { context: Some(context.clone()), key: "a".into(), ..Default::default() };
    for _ in 0..2 {
        let reply = tikv.raw_delete(delete.clone()).await.unwrap().into_inner();
        assert_eq!(reply, rpc::RawDeleteResponse::default(), "deleting what is gone is no error");
    }
    assert_eq!(tikv.raw_get(get("a")).await.unwrap().into_inner(), absent);
    fill(&mut tikv, &context).await;
    let keys = ["e", "x", "a"].map(Into::into).to_vec();
    let request = rpc::RawBatchGetRequest { context: Some(context.clone()), keys, ..Default::default() };
    let reply = tikv.raw_batch_get(request).await.unwrap().into_inner();
    assert_eq!(reply.pairs, [pair("e", "5"), pair("a", "1")], "pairs that exist, and no others");
    let keys = ["a", "b", "x"].map(Into::into).to_vec();
    let request = rpc::RawBatchDeleteRequest { context: Some(context.clone()), keys, ..Default::default() };
    tikv.raw_batch_delete(request).await.unwrap();
    let request = rpc::RawDeleteRangeRequest {
        context: Some(context.clone()),
        start_key: "d".into(),
        end_key: "e".into(),
        ..Default::default()
    };
    let reply = tikv.raw_delete_range(request).await.unwrap().into_inner();
    assert_eq!(reply, rpc::RawDeleteRangeResponse::default());
    let all = rpc::RawScanRequest { context: Some(context.clone()), limit: 10, ..Default::default() };
    assert_eq!(scan(&mut tikv, all).await, "c3 e5 ");
}

#[tokio::test]
async fn scans_go_both_ways_within_bounds_and_limits() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let (mut tikv, context) = (store.tikv().await, store.context(b"a").await);
    fill(&mut tikv, &context).await;
    let base = |start: &'static str, end: &'static str, limit, reverse| rpc::RawScanRequest {
        context: Some(context.clone()),
        start_key: start.into(),
        end_key: end.into(),
        limit,
        reverse,
        ..Default::default()
    };
    for (request, expected) in [
        (base("", "", 10, false), "a1 b2 c3 d4 e5 "),
        (base("b", "d", 10, false), "b2 c3 "),
        (base("b", "", 2, false), "b2 c3 "),
        (base("a", "", 0, false), ""),
        (base("a", "", u32::MAX, false), "a1 b2 c3 d4 e5 "),
        (base("", "", 10, true), "e5 d4 c3 b2 a1 "),
        (base("d", "b", 10, true), "c3 b2 "),
        (base("d", "", 1, true), "c3 "),
        (base("d", "b", 10, false), ""),
        (rpc::RawScanRequest { key_only: true, ..base("c", "", 10, false) }, "c d e "),
        // Clients mean infinity by a bound longer than any key.
        (rpc::RawScanRequest { start_key: vec![0xFF; 8_193].into(), ..base("", "c", 10, true) }, "e5 d4 c3 "),
    ] {
        assert_eq!(scan(&mut tikv, request.clone()).await, expected, "{request:?}");
    }
    let request = rpc::RawBatchScanRequest {
        context: Some(context.clone()),
        ranges: vec![range("a", "c"), range("d", "")],
        each_limit: 1,
        ..Default::default()
    };
    let reply = tikv.raw_batch_scan(request).await.unwrap().into_inner();
    assert_eq!(reply.kvs, [pair("a", "1"), pair("d", "4")]);
}

#[tokio::test]
async fn compare_and_swap_says_what_it_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let (mut tikv, context) = (store.tikv().await, store.context(b"a").await);
    let swap = |expected: Option<&'static str>, value: &'static str, delete| rpc::RawCasRequest {
        context: Some(context.clone()),
        key: "k".into(),
        value: value.into(),
        previous_not_exist: expected.is_none(),
        previous_value: expected.unwrap_or_default().into(),
        delete,
        ..Default::default()
    };
    for (request, succeed, previous) in [
        (swap(Some("x"), "1", false), false, None),
        (swap(None, "1", false), true, None),
        (swap(None, "2", false), false, Some("1")),
        (swap(Some("1"), "", false), true, Some("1")),
        (swap(None, "3", false), false, Some("")),
        (swap(Some(""), "", true), true, Some("")),
        (swap(Some(""), "4", false), false, None),
    ] {
        let reply = tikv.raw_compare_and_swap(request).await.unwrap().into_inner();
        let expected = rpc::RawCasResponse {
            succeed,
            previous_not_exist: previous.is_none(),
            previous_value: previous.unwrap_or_default().into(),
            ..Default::default()
        };
        assert_eq!(reply, expected);
    }
}

#[tokio::test]
async fn a_key_lives_as_long_as_its_ttl_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let (mut tikv, context) = (store.tikv().await, store.context(b"a").await);
    put(&mut tikv, &context, "ever", "v", 0).await;
    put(&mut tikv, &context, "long", "v", 1_000).await;
    put(&mut tikv, &context, "short", "v", 1).await;
    let ttl = |key: &'static str| rpc::RawGetKeyTtlRequest {
        context: Some(context.clone()),
        key: key.into(),
        ..Default::default()
    };
    let reply = tikv.raw_get_key_ttl(ttl("ever")).await.unwrap().into_inner();
    assert_eq!(reply, rpc::RawGetKeyTtlResponse::default());
    let reply = tikv.raw_get_key_ttl(ttl("long")).await.unwrap().into_inner();
    assert!((990..=1_000).contains(&reply.ttl), "{reply:?}");
    let gone = rpc::RawGetKeyTtlResponse { not_found: true, ..Default::default() };
    assert_eq!(tikv.raw_get_key_ttl(ttl("never")).await.unwrap().into_inner(), gone);
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while tikv.raw_get_key_ttl(ttl("short")).await.unwrap().into_inner() != gone {
        assert!(std::time::Instant::now() < give_up, "the key outlives its second");
    }
}

#[tokio::test]
async fn a_checksum_is_the_xor_of_its_pairs() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let (mut tikv, context) = (store.tikv().await, store.context(b"a").await);
    fill(&mut tikv, &context).await;
    let mut sum = async |ranges| {
        let request =
            rpc::RawChecksumRequest { context: Some(context.clone()), ranges, ..Default::default() };
        let reply = tikv.raw_checksum(request).await.unwrap().into_inner();
        assert_eq!((reply.region_error, reply.error), (None, String::new()));
        (reply.checksum, reply.total_kvs, reply.total_bytes)
    };
    let all = sum(vec![range("", "")]).await;
    let (left, right) = (sum(vec![range("", "c")]).await, sum(vec![range("c", "")]).await);
    assert_eq!((all.1, all.2), (5, 10));
    assert_ne!(left.0, right.0);
    assert_eq!(all, (left.0 ^ right.0, left.1 + right.1, left.2 + right.2));
}

#[tokio::test]
async fn a_batch_stream_answers_each_request_under_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let (mut tikv, context) = (store.tikv().await, store.context(b"a").await);
    fill(&mut tikv, &context).await;
    let get = |key: &'static str| {
        let context = Some(context.clone());
        let request = rpc::RawGetRequest { context, key: key.into(), ..Default::default() };
        BatchRequest { cmd: Some(Cmd::RawGet(request)) }
    };
    let empty =
        BatchRequest { cmd: Some(Cmd::Empty(BatchCommandsEmptyRequest { test_id: 7, delay_time: 0 })) };
    let bad = rpc::RawGetRequest { context: Some(context.clone()), ..Default::default() };
    let bad = BatchRequest { cmd: Some(Cmd::RawGet(bad)) };
    let batch = BatchCommandsRequest {
        requests: vec![get("a"), empty, bad, get("x")],
        request_ids: vec![11, 12, 13, 14],
        ..Default::default()
    };
    let reply = tikv.batch_commands(tokio_stream::iter([batch])).await.unwrap();
    let mut stream = reply.into_inner();
    let mut answers = std::collections::BTreeMap::new();
    while let Some(message) = stream.message().await.unwrap() {
        answers.extend(message.request_ids.into_iter().zip(message.responses));
    }
    let answer = |id: u64| answers[&id].cmd.clone().unwrap();
    assert_eq!(answers.len(), 4);
    assert!(matches!(answer(11), Answer::RawGet(reply) if reply.value == "1"));
    assert!(matches!(answer(12), Answer::Empty(reply) if reply.test_id == 7));
    assert!(matches!(answer(13), Answer::RawGet(reply) if reply.error == "key must not be empty"));
    assert!(matches!(answer(14), Answer::RawGet(reply) if reply.not_found));
}
