//! What is refused, in which words, and that the connection goes on afterwards.

use flotilla_proto::metapb;
use flotilla_proto::{errorpb, kvrpcpb as rpc};
use tonic::Code;

use crate::harness::StoreProcess;

fn get(context: &rpc::Context, key: &[u8]) -> rpc::RawGetRequest {
    rpc::RawGetRequest { context: Some(context.clone()), key: key.to_vec().into(), ..Default::default() }
}

fn put(context: &rpc::Context, key: &[u8], value: Vec<u8>) -> rpc::RawPutRequest {
    rpc::RawPutRequest {
        context: Some(context.clone()),
        key: key.to_vec().into(),
        value: value.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn keys_and_families_that_cannot_be_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let (mut tikv, context) = (store.tikv().await, store.context(b"a").await);
    let long = vec![b'k'; 8_193];
    let too_long = "max key size exceeded, size: 8193, limit: 8192";
    assert_eq!(
        tikv.raw_put(put(&context, b"", b"v".to_vec())).await.unwrap().into_inner().error,
        "key must not be empty"
    );
    assert_eq!(tikv.raw_put(put(&context, &long, b"v".to_vec())).await.unwrap().into_inner().error, too_long);
    assert_eq!(tikv.raw_get(get(&context, &long)).await.unwrap().into_inner().error, too_long);
    let request = rpc::RawGetRequest { cf: "write".into(), ..get(&context, b"k") };
    assert_eq!(tikv.raw_get(request).await.unwrap().into_inner().error, "invalid cf name: write");
    let request = rpc::RawBatchPutRequest {
        context: Some(context.clone()),
        pairs: vec![rpc::KvPair { key: "k".into(), ..Default::default() }, rpc::KvPair::default()],
        ..Default::default()
    };
    assert_eq!(tikv.raw_batch_put(request).await.unwrap().into_inner().error, "key must not be empty");
    assert!(tikv.raw_get(get(&context, b"k")).await.unwrap().into_inner().not_found, "nothing was applied");
    let request = rpc::RawScanRequest {
        context: Some(rpc::Context { api_version: 2, ..context.clone() }),
        limit: 1,
        ..Default::default()
    };
    let pairs = tikv.raw_scan(request).await.unwrap().into_inner().kvs;
    let text = pairs[0].error.as_ref().unwrap().abort.as_str();
    assert!(text.starts_with("Api version in request does not match"), "{text}");
    let reply = tikv.raw_coprocessor(rpc::RawCoprocessorRequest::default()).await.unwrap().into_inner();
    assert!(!reply.error.is_empty());
}

#[tokio::test]
async fn an_entry_over_the_limit_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let context = store.context(b"a").await;
    let mut tikv = store.tikv().await.max_encoding_message_size(64 << 20);
    let reply = tikv.raw_put(put(&context, b"k", vec![1; 9 << 20])).await.unwrap().into_inner();
    let error = reply.region_error.unwrap().raft_entry_too_large.unwrap();
    assert_eq!(error.region_id, context.region_id);
    assert!(error.entry_size > 9 << 20);
    let pair = |key: &'static str| rpc::KvPair {
        key: key.into(),
        value: vec![1; 3 << 20].into(),
        ..Default::default()
    };
    let request = rpc::RawBatchPutRequest {
        context: Some(context.clone()),
        pairs: vec![pair("a"), pair("b"), pair("c")],
        ..Default::default()
    };
    let reply = tikv.raw_batch_put(request).await.unwrap().into_inner();
    assert!(reply.region_error.unwrap().raft_entry_too_large.is_some());
    assert!(tikv.raw_get(get(&context, b"a")).await.unwrap().into_inner().not_found, "nothing was applied");
    let reply = tikv.raw_put(put(&context, b"k", vec![1; 7 << 20])).await.unwrap().into_inner();
    assert_eq!(reply, rpc::RawPutResponse::default(), "just below the limit is fine");
}

/// TiKV's order: store, region, peer, epoch, key. Each request is wrong from one point of that order on.
#[tokio::test]
async fn a_wrong_address_is_refused_at_the_first_point_where_it_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let (mut tikv, context) = (store.tikv().await, store.context(b"a").await);
    let peer = context.peer.unwrap();
    let mut wrong = rpc::Context {
        region_id: 999,
        peer: Some(metapb::Peer { id: 77, store_id: 88, ..peer }),
        region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: 99 }),
        ..Default::default()
    };
    let outside = vec![0xFF; 8_192];
    let mut ask = async |context: &rpc::Context| -> errorpb::Error {
        let reply = tikv.raw_put(put(context, &outside, b"v".to_vec())).await.unwrap().into_inner();
        let error = reply.region_error.unwrap();
        let read = tikv.raw_get(get(context, &outside)).await.unwrap().into_inner();
        assert_eq!(read.region_error.as_ref(), Some(&error), "reads and writes are refused alike");
        error
    };
    let error = ask(&wrong).await.store_not_match.unwrap();
    assert_eq!((error.request_store_id, error.actual_store_id), (88, peer.store_id));
    wrong.peer = Some(metapb::Peer { id: 77, ..peer });
    assert_eq!(ask(&wrong).await.region_not_found.unwrap().region_id, 999);
    wrong.region_id = 1;
    assert_eq!(ask(&wrong).await.region_not_found.unwrap().region_id, 1, "the meta region is nobody's");
    wrong.region_id = 3;
    let error = ask(&wrong).await.mismatch_peer_id.unwrap();
    assert_eq!((error.request_peer_id, error.store_peer_id), (77, 3));
    wrong.peer = Some(metapb::Peer { id: 3, ..peer });
    let error = ask(&wrong).await.epoch_not_match.unwrap();
    assert_eq!(error.current_regions.len(), 1);
    assert_eq!(error.current_regions[0].start_key, vec![0xFF; 8_193]);
    wrong.region_epoch = error.current_regions[0].region_epoch;
    let error = ask(&wrong).await.key_not_in_region.unwrap();
    assert_eq!((error.region_id, &error.key[..]), (3, &outside[..]));
    assert_eq!((error.start_key.len(), error.end_key.len()), (8_193, 0));
}

#[tokio::test]
async fn another_clusters_request_is_refused_and_the_connection_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let (mut tikv, context) = (store.tikv().await, store.context(b"a").await);
    let stranger = rpc::Context { cluster_id: 5, ..context.clone() };
    let status = tikv.raw_get(get(&stranger, b"k")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("cluster id mismatch"), "{status}");
    assert!(tikv.raw_get(get(&context, b"k")).await.unwrap().into_inner().not_found);
}
