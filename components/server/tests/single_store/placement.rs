//! What the placement protocol answers.

use flotilla_proto::keyspacepb::LoadKeyspaceRequest;
use flotilla_proto::keyspacepb::keyspace_client::KeyspaceClient;
use flotilla_proto::{kvrpcpb as rpc, pdpb};
use prost::Message;
use tonic::Code;

use crate::harness::{StoreProcess, http_get};

#[tokio::test]
async fn members_regions_and_stores_are_told_as_clients_expect() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let (mut pd, header) = store.pd().await;
    let header = Some(header);
    let members = pd.get_members(pdpb::GetMembersRequest::default()).await.unwrap().into_inner();
    let leader = members.leader.unwrap();
    assert_eq!(leader.client_urls, [format!("http://{}", store.address)]);
    assert_eq!(members.members.len(), 1);
    assert_eq!(members.members[0].encode_to_vec(), leader.encode_to_vec(), "byte for byte");

    let by_key = |key: &[u8]| pdpb::GetRegionRequest {
        header: header.clone(),
        region_key: key.to_vec().into(),
        ..Default::default()
    };
    let first = pd.get_region(by_key(b"k")).await.unwrap().into_inner();
    let region = first.region.unwrap();
    assert_eq!((&region.start_key[..], region.end_key.len(), region.peers.len()), (&b""[..], 8_193, 1));
    assert!(region.region_epoch.is_some());
    assert_eq!(first.leader, Some(region.peers[0]));
    let last = pd.get_region(by_key(&[0xFF; 8_193])).await.unwrap().into_inner().region.unwrap();
    assert_eq!((last.start_key.len(), last.end_key.len()), (8_193, 0), "the sentinel");
    let previous = pd.get_prev_region(by_key(&[0xFF; 9_000])).await.unwrap().into_inner();
    assert_eq!(previous.region, Some(region.clone()));
    assert_eq!(pd.get_prev_region(by_key(b"k")).await.unwrap().into_inner().region, None);
    let by_id =
        |region_id| pdpb::GetRegionByIdRequest { header: header.clone(), region_id, ..Default::default() };
    let found = pd.get_region_by_id(by_id(region.id)).await.unwrap().into_inner();
    assert_eq!((found.region, found.leader), (Some(region.clone()), first.leader));
    let meta = pd.get_region_by_id(by_id(1)).await.unwrap().into_inner();
    assert_eq!(meta.region, None, "the meta region is nobody's business");
    assert!(meta.header.is_some(), "every reply carries a header");

    let scan = pdpb::ScanRegionsRequest { header: header.clone(), limit: 64, ..Default::default() };
    let scanned = pd.scan_regions(scan).await.unwrap().into_inner();
    assert_eq!(scanned.region_metas, [region.clone(), last.clone()]);
    assert_eq!(scanned.leaders.len(), 2);
    assert_eq!(
        scanned.regions.iter().filter_map(|r| r.region.clone()).collect::<Vec<_>>(),
        scanned.region_metas
    );
    let batch = pdpb::BatchScanRegionsRequest {
        header: header.clone(),
        ranges: vec![pdpb::KeyRange { start_key: "a".into(), end_key: "b".into() }],
        contain_all_key_range: true,
        ..Default::default()
    };
    assert_eq!(pd.batch_scan_regions(batch).await.unwrap().into_inner().regions.len(), 1);

    let by_id = |store_id| pdpb::GetStoreRequest { header: header.clone(), store_id };
    let known = pd.get_store(by_id(1)).await.unwrap().into_inner().store.unwrap();
    assert_eq!((known.address, known.labels), (store.address.clone(), Vec::new()));
    let unknown = pd.get_store(by_id(99)).await.unwrap().into_inner();
    let error = unknown.header.unwrap().error.unwrap();
    assert_eq!((unknown.store, error.message.as_str()), (None, "invalid store ID 99, not found"));
    let all = pdpb::GetAllStoresRequest { header: header.clone(), ..Default::default() };
    assert_eq!(pd.get_all_stores(all).await.unwrap().into_inner().stores.len(), 1);
}

#[tokio::test]
async fn another_clusters_request_is_refused_in_pds_words() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let (mut pd, header) = store.pd().await;
    let own = header.cluster_id;
    let stranger = pdpb::RequestHeader { cluster_id: 5, ..header };
    let request = pdpb::GetAllStoresRequest { header: Some(stranger), ..Default::default() };
    let status = pd.get_all_stores(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.message(), format!("mismatch cluster id, need {own} but got 5"));
}

#[tokio::test]
async fn timestamps_safe_points_key_spaces_and_the_count_of_regions_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let (mut pd, header) = store.pd().await;
    let header = Some(header);
    let ask = |count| pdpb::TsoRequest { header: header.clone(), count, ..Default::default() };
    let mut replies = pd.tso(tokio_stream::iter([ask(1), ask(64), ask(3)])).await.unwrap().into_inner();
    let mut last = 0;
    for count in [1, 64, 3] {
        let reply = replies.message().await.unwrap().unwrap();
        let at = reply.timestamp.unwrap();
        let first = (at.physical << 18) + at.logical - i64::from(count) + 1;
        assert_eq!(reply.count, count);
        assert!(first > last, "timestamps are unique and increase");
        last = (at.physical << 18) + at.logical;
    }
    let update = pdpb::UpdateGcSafePointRequest { header: header.clone(), safe_point: 7 };
    assert_eq!(pd.update_gc_safe_point(update).await.unwrap().into_inner().new_safe_point, 7);
    let mut keyspaces = KeyspaceClient::connect(format!("http://{}", store.address)).await.unwrap();
    let request = LoadKeyspaceRequest { header: header.clone(), name: "DEFAULT".into() };
    let reply = keyspaces.load_keyspace(request).await.unwrap().into_inner();
    assert!(reply.header.unwrap().error.is_some());
    let page = http_get(&store.address, "/pd/api/v1/regions").unwrap();
    assert!(page.ends_with("{\"count\":2}"), "{page}");
}

#[tokio::test]
async fn a_split_is_told_to_clients_that_know_the_old_region() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreProcess::start(dir.path());
    let before = store.context(b"a").await;
    let id = before.region_id.to_string();
    store.run_ok(&["put", "a", "1"]);
    store.run_ok(&["put", "z", "2"]);
    store.run_ok(&["ctl", "split", "--region", &id, "--key", "m"]);
    let mut tikv = store.tikv().await;
    let request = rpc::RawGetRequest { context: Some(before.clone()), key: "a".into(), ..Default::default() };
    let error = tikv.raw_get(request).await.unwrap().into_inner().region_error.unwrap();
    let halves = error.epoch_not_match.unwrap().current_regions;
    let mut bounds: Vec<_> = halves.iter().map(|r| (r.start_key.clone(), r.end_key.len())).collect();
    bounds.sort();
    assert_eq!(bounds, [("".into(), 1), ("m".into(), 8_193)], "both halves");
    assert_eq!(store.run_ok(&["get", "a"]).trim_end(), "1");
    assert_eq!(store.run_ok(&["get", "z"]).trim_end(), "2");
    let left = store.context(b"a").await;
    let request = rpc::RawScanRequest { context: Some(left.clone()), limit: 9, ..Default::default() };
    let reply = tikv.raw_scan(request).await.unwrap().into_inner();
    assert_eq!(reply.region_error, None);
    assert_eq!(reply.kvs.len(), 1, "a scan ends with its region");
    let request = rpc::RawDeleteRangeRequest {
        context: Some(left),
        start_key: "a".into(),
        end_key: "zz".into(),
        ..Default::default()
    };
    let reply = tikv.raw_delete_range(request).await.unwrap().into_inner();
    assert!(reply.region_error.unwrap().key_not_in_region.is_some());
    assert_eq!(store.run_ok(&["get", "a"]).trim_end(), "1", "nothing was applied");
}
