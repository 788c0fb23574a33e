//! Requests that make no sense, over the wire: each gets an error of the protocol's kind, nothing is applied, and the
//! connection goes on serving.

use std::future::Future;

use flotilla_proto::errorpb;
use flotilla_proto::kvrpcpb as rpc;
use flotilla_proto::metapb;
use flotilla_proto::pdpb;
use flotilla_proto::pdpb::pd_client::PdClient;
use flotilla_proto::tikvpb::tikv_client::TikvClient;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::harness::{Cluster, RegionView, Settings, eventually};
use crate::load::runtime;

/// Entry limit of these stores, so that a value over it is cheap to send.
const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Longest legal key.
const KEY_BYTES_MAX: usize = 8 << 10;
/// The key where the cluster is split.
const MIDDLE: &str = "m";

/// One connection to a store that leads the region of the key "a".
struct Wire {
    cluster: Cluster,
    runtime: Runtime,
    tikv: TikvClient<Channel>,
    channel: Channel,
    /// The region up to [`MIDDLE`].
    region: RegionView,
    /// Address of the leader.
    address: String,
}

impl Wire {
    fn open() -> Self {
        let settings = Settings::default()
            .with("store.entry_bytes_max", ENTRY_BYTES_MAX)
            .with("placement.balance_leaders", false);
        let mut cluster = Cluster::start(3, settings);
        cluster.split(&[MIDDLE]);
        let region = cluster.region_of("a");
        let (_, leader) = region.leader.expect("replicated");
        let leader = cluster.index_of(leader);
        let address = cluster.store(leader).ports.address();
        let runtime = runtime();
        let channel = connect(&runtime, &address);
        Self { tikv: TikvClient::new(channel.clone()), cluster, runtime, channel, region, address }
    }

    /// The right context for the leader.
    fn context(&self) -> Option<rpc::Context> {
        let (peer, store) = self.region.leader.expect("replicated");
        Some(rpc::Context {
            region_id: self.region.id,
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: self.region.conf_ver,
                version: self.region.version,
            }),
            peer: Some(metapb::Peer { id: peer, store_id: store, ..Default::default() }),
            ..Default::default()
        })
    }

    /// The context with something wrong.
    fn changed(&self, change: impl FnOnce(&mut rpc::Context)) -> Option<rpc::Context> {
        let mut context = self.context().expect("made here");
        change(&mut context);
        Some(context)
    }

    /// Makes one call on the connection and then shows that the connection serves.
    fn call<T, W: Future<Output = Result<Response<T>, Status>>>(
        &self,
        call: impl FnOnce(TikvClient<Channel>) -> W,
    ) -> Result<T, Status> {
        let result = self.runtime.block_on(call(self.tikv.clone())).map(Response::into_inner);
        self.assert_serves();
        result
    }

    fn assert_serves(&self) {
        let mut tikv = self.tikv.clone();
        let put = rpc::RawPutRequest {
            context: self.context(),
            key: "alive".into(),
            value: "yes".into(),
            ..Default::default()
        };
        let reply = self.runtime.block_on(tikv.raw_put(put)).expect("the connection serves").into_inner();
        assert_eq!(reply, rpc::RawPutResponse::default());
        let found = self.get(b"alive");
        assert_eq!(found.value, "yes");
    }

    fn get(&self, key: &[u8]) -> rpc::RawGetResponse {
        let request =
            rpc::RawGetRequest { context: self.context(), key: key.to_vec().into(), ..Default::default() };
        let mut tikv = self.tikv.clone();
        self.runtime.block_on(tikv.raw_get(request)).expect("the connection serves").into_inner()
    }

    fn put(&self, context: Option<rpc::Context>, key: &[u8], value: &[u8], cf: &str) -> rpc::RawPutResponse {
        let request = rpc::RawPutRequest {
            context,
            key: key.to_vec().into(),
            value: value.to_vec().into(),
            cf: cf.into(),
            ..Default::default()
        };
        self.call(|mut tikv| async move { tikv.raw_put(request).await }).expect("an answer of the protocol")
    }

    /// A put that a region must refuse.
    fn refused_put(&self, context: Option<rpc::Context>, key: &[u8]) -> errorpb::Error {
        let reply = self.put(context, key, b"v", "");
        assert_eq!(reply.error, "");
        reply.region_error.expect("refused")
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: u32) -> rpc::RawScanResponse {
        let request = rpc::RawScanRequest {
            context: self.context(),
            start_key: start.to_vec().into(),
            end_key: end.to_vec().into(),
            limit,
            ..Default::default()
        };
        self.call(|mut tikv| async move { tikv.raw_scan(request).await }).expect("an answer of the protocol")
    }
}

fn connect(runtime: &Runtime, address: &str) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
    runtime.block_on(endpoint.connect()).expect("a store that listens")
}

fn assert_contains(text: &str, part: &str) {
    assert!(text.contains(part), "{text:?} does not say {part:?}");
}

#[test]
fn bad_keys_values_limits_and_families_are_refused_and_nothing_is_applied() {
    let wire = Wire::open();
    let here = || wire.context();
    let long = vec![b'a'; KEY_BYTES_MAX + 1];
    assert_contains(&wire.put(here(), b"", b"v", "").error, "key must not be empty");
    assert_contains(&wire.put(here(), &long, b"v", "").error, "max key size exceeded");
    assert_contains(&wire.put(here(), b"a", b"v", "nonsense").error, "invalid cf name: nonsense");
    assert_contains(&wire.get(b"").error, "key must not be empty");
    assert_contains(&wire.get(&long).error, "max key size exceeded");
    assert!(wire.get(b"a").not_found, "nothing was applied");

    let reply = wire.put(here(), b"a", &vec![0; ENTRY_BYTES_MAX + 1], "");
    let error = reply.region_error.expect("an entry over the limit");
    let too_large = error.raft_entry_too_large.expect("and no other kind");
    assert!(too_large.entry_size > ENTRY_BYTES_MAX as u64, "{too_large:?}");
    let pair = |i: u64| rpc::KvPair {
        key: format!("a{i}").into(),
        value: vec![0; ENTRY_BYTES_MAX / 4].into(),
        ..Default::default()
    };
    let batch =
        rpc::RawBatchPutRequest { context: here(), pairs: (0..5).map(pair).collect(), ..Default::default() };
    let reply = wire.call(|mut tikv| async move { tikv.raw_batch_put(batch).await }).expect("an answer");
    assert!(reply.region_error.is_some_and(|error| error.raft_entry_too_large.is_some()));
    let unequal = rpc::RawBatchPutRequest {
        context: here(),
        pairs: (0..3).map(pair).collect(),
        ttls: vec![1, 2],
        ..Default::default()
    };
    let reply = wire.call(|mut tikv| async move { tikv.raw_batch_put(unequal).await }).expect("an answer");
    assert_contains(&reply.error, "2 ttls for 3 pairs");
    assert!(wire.scan(b"a", b"ab", 100).kvs.is_empty(), "nothing was applied");

    assert_eq!(
        wire.put(here(), &long[1..], b"v", ""),
        rpc::RawPutResponse::default(),
        "the longest legal key"
    );
    assert_eq!(wire.get(&long[1..]).value, "v");
    assert_eq!(wire.scan(b"a", b"b", 0), rpc::RawScanResponse::default(), "limit 0 asks for nothing");
    let all = wire.scan(b"a", b"", u32::MAX);
    assert_eq!(all.kvs.len(), 2, "the rest of the region, clipped to it");
    assert_batch_scan_bounds(&wire);
}

/// tikv-client puts an empty range at the end of a region into a batch before a range that starts there.
fn assert_batch_scan_bounds(wire: &Wire) {
    let range = |start: &str, end: &str| rpc::KeyRange {
        start_key: start.to_owned().into(),
        end_key: end.to_owned().into(),
    };
    let scan = |ranges| {
        let request =
            rpc::RawBatchScanRequest { context: wire.context(), ranges, each_limit: 9, ..Default::default() };
        wire.call(|mut tikv| async move { tikv.raw_batch_scan(request).await }).expect("an answer")
    };
    let reply = scan(vec![range("al", "b"), range(MIDDLE, MIDDLE)]);
    assert_eq!((reply.region_error, reply.kvs.len()), (None, 1));
    let reply = scan(vec![range("al", "b"), range(MIDDLE, "z")]);
    assert!(reply.region_error.is_some_and(|error| error.key_not_in_region.is_some()));
}

#[test]
fn wrong_addressees_get_the_region_errors_of_the_protocol_in_its_order() {
    let mut wire = Wire::open();
    let (peer, store) = wire.region.leader.expect("replicated");
    let other_store = wire.region.voters.iter().find(|(_, s)| *s != store).expect("three voters").1;
    let foreign = metapb::Peer { id: peer, store_id: other_store, ..Default::default() };
    let all_wrong = |c: &mut rpc::Context| {
        c.peer = Some(foreign);
        c.region_id = 999_999;
        c.region_epoch = Some(metapb::RegionEpoch { conf_ver: 1, version: 77 });
    };
    let error = wire.refused_put(wire.changed(all_wrong), b"zz");
    let mismatch = error.store_not_match.expect("the store comes first");
    assert_eq!((mismatch.request_store_id, mismatch.actual_store_id), (other_store, store));
    let error = wire.refused_put(wire.changed(|c| c.region_id = 999_999), b"zz");
    assert_eq!(error.region_not_found.expect("then the region").region_id, 999_999);
    let error = wire.refused_put(wire.changed(|c| c.region_id = 1), b"a");
    assert!(error.region_not_found.is_some(), "clients do not see the meta region: {error:?}");
    let stranger = metapb::Peer { id: peer + 1_000, store_id: store, ..Default::default() };
    let error = wire.refused_put(wire.changed(|c| c.peer = Some(stranger)), b"zz");
    assert!(error.mismatch_peer_id.is_some(), "then the peer: {error:?}");
    for version in [wire.region.version - 1, wire.region.version + 1] {
        let epoch = Some(metapb::RegionEpoch { conf_ver: wire.region.conf_ver, version });
        let error = wire.refused_put(wire.changed(|c| c.region_epoch = epoch), b"zz");
        let current = error.epoch_not_match.expect("then the epoch").current_regions;
        assert!(current.iter().any(|region| region.id == wire.region.id), "{current:?}");
    }
    let old_members = Some(metapb::RegionEpoch { conf_ver: 1, version: wire.region.version });
    let reply = wire.put(wire.changed(|c| c.region_epoch = old_members), b"b", b"v", "");
    assert_eq!(reply, rpc::RawPutResponse::default(), "data requests do not look at the members' epoch");
    let error = wire.refused_put(wire.context(), b"zz");
    let outside = error.key_not_in_region.expect("then the key");
    assert_eq!((&outside.key[..], &outside.end_key[..]), (&b"zz"[..], MIDDLE.as_bytes()));
    assert_not_leader(&mut wire, other_store);
}

/// A follower names the leader.
fn assert_not_leader(wire: &mut Wire, follower: u64) {
    let i = wire.cluster.index_of(follower);
    let address = wire.cluster.store(i).ports.address();
    let mut tikv = TikvClient::new(connect(&wire.runtime, &address));
    let (peer, _) = wire.region.voters.iter().find(|(_, store)| *store == follower).expect("a voter");
    let peer = metapb::Peer { id: *peer, store_id: follower, ..Default::default() };
    let context = wire.changed(|c| c.peer = Some(peer));
    let request = rpc::RawPutRequest { context, key: "a".into(), ..Default::default() };
    let reply = wire.runtime.block_on(tikv.raw_put(request)).expect("an answer").into_inner();
    let error = reply.region_error.expect("refused").not_leader.expect("by a follower");
    let leader = error.leader.map(|leader| (leader.id, leader.store_id));
    assert_eq!((error.region_id, leader), (wire.region.id, wire.region.leader));
}

#[test]
fn requests_for_another_cluster_or_protocol_are_refused_and_the_connection_serves_on() {
    let wire = Wire::open();
    let request = |context| rpc::RawPutRequest { context, key: "a".into(), ..Default::default() };
    let foreign = request(wire.changed(|c| c.cluster_id = 4_711));
    let status = wire.call(|mut tikv| async move { tikv.raw_put(foreign).await }).unwrap_err();
    assert_contains(status.message(), "4711");
    let reply = wire.put(wire.changed(|c| c.api_version = 2), b"a", b"v", "");
    assert_contains(&reply.error, "Api version in request does not match");

    let mut pd = PdClient::new(wire.channel.clone());
    let header = Some(pdpb::RequestHeader { cluster_id: 4_711, ..Default::default() });
    let asked = pdpb::GetRegionRequest { header, region_key: "a".into(), ..Default::default() };
    let status = wire.runtime.block_on(pd.get_region(asked)).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_contains(status.message(), "mismatch cluster id");
    wire.assert_serves();

    // A number where the context's message must be.
    let malformed = Garbage { context: vec![0xff; 40] };
    let status = wire.unary("/tikvpb.Tikv/RawPut", malformed.clone()).unwrap_err();
    assert!(matches!(status.code(), Code::Internal | Code::InvalidArgument), "{status:?}");
    let status = wire.unary("/tikvpb.Tikv/KvPrewrite", malformed).unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert!(wire.get(b"a").not_found, "nothing was applied");
}

#[test]
fn a_message_over_every_limit_ends_nothing_but_itself() {
    let wire = Wire::open();
    let huge = Garbage { context: vec![0; 65 << 20] };
    let status = wire.unary("/tikvpb.Tikv/RawPut", huge).unwrap_err();
    assert_ne!(status.code(), Code::Ok);
    // The transport may have closed the connection; the store serves a new one, and the channel opens it.
    let served = eventually(crate::harness::PATIENCE, || {
        let mut tikv = wire.tikv.clone();
        let request = rpc::RawGetRequest { context: wire.context(), key: "a".into(), ..Default::default() };
        wire.runtime.block_on(tikv.raw_get(request)).map(drop).map_err(|status| status.to_string())
    });
    served.expect("the store serves");
    wire.assert_serves();
    drop(connect(&wire.runtime, &wire.address));
}

/// Bytes in the place of a request's context.
#[derive(Clone, PartialEq, prost::Message)]
struct Garbage {
    #[prost(bytes = "vec", tag = "1")]
    context: Vec<u8>,
}

impl Wire {
    /// A call by its path, with whatever message; shows that the connection serves if the call did not end it.
    fn unary(&self, path: &'static str, message: Garbage) -> Result<(), Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        let codec = tonic_prost::ProstCodec::<Garbage, Garbage>::default();
        let call = async {
            grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
            grpc.unary(Request::new(message), path.parse().expect("a path"), codec).await
        };
        self.runtime.block_on(call).map(drop)
    }
}
