//! The load generator against a cluster in memory whose regions move under it.

use super::*;
use flotilla_proto::errorpb;
use flotilla_router::testing::FakeCluster;
use tokio::runtime::Runtime;

const DATA: Data = Data { prefix: 'k', keys: 1000, value_bytes: 256 };

#[test]
fn keys_have_sixteen_bytes_and_are_in_order() {
    let keys: Vec<Bytes> = (0..1000).map(|number| DATA.key(number)).collect();
    assert!(keys.iter().all(|key| key.len() == 16) && keys.is_sorted());
}

#[test]
fn values_have_their_length_wherever_they_are_cut() {
    let (noise, mut random) = (DATA.noise(), Random::new(1));
    assert!((0..10_000).all(|_| noise.value(256, &mut random).len() == 256));
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// A cluster of three stores with `DATA` in eight regions led by all of them, and a client that knows it.
fn filled(runtime: &Runtime) -> (FakeCluster, Arc<Cluster>) {
    let fake = FakeCluster::start(3);
    for part in 1..8 {
        fake.state().split(DATA.key(DATA.keys * part / 8));
        fake.state().transfer_leader(&DATA.key(DATA.keys * part / 8), part % 3 + 1);
    }
    let cluster = runtime.block_on(Cluster::connect(&fake.addresses(), 1)).expect("the stores answer");
    let cluster = Arc::new(cluster);
    runtime.block_on(fill(&cluster, DATA)).expect("every batch is written");
    (fake, cluster)
}

const PLAN: Plan = Plan { clients: 8, warmup: Duration::ZERO, measured: Duration::from_millis(300), seed: 0 };

fn measure(runtime: &Runtime, cluster: &Arc<Cluster>, data: Data, op: Op) -> Outcome {
    let target = Target::Flotilla(cluster.clone());
    runtime.block_on(run(&target, Arc::new(Uniform::new(data, op)), PLAN))
}

#[test]
fn filling_writes_every_key_once_and_batches_stay_within_a_region() {
    let runtime = runtime();
    let (fake, _cluster) = filled(&runtime);
    let state = fake.state();
    assert_eq!(state.data.len() as u64, DATA.keys);
    assert!((0..DATA.keys).all(|number| state.data.contains_key(&DATA.key(number))));
    assert!(state.data.values().all(|(value, _)| value.len() == DATA.value_bytes));
    // 125 keys a region: a full batch and a short one each, none refused for reaching over an edge.
    assert_eq!(state.raw_requests, 16);
}

#[test]
fn every_request_is_counted_and_nothing_is_tried_twice_while_all_is_quiet() {
    let runtime = runtime();
    let (fake, cluster) = filled(&runtime);
    for op in [Op::Put, Op::Get] {
        let before = fake.state().raw_requests;
        let outcome = measure(&runtime, &cluster, DATA, op);
        assert_eq!(outcome.ops(), fake.state().raw_requests - before, "{outcome:?}");
        assert_eq!((outcome.errors, outcome.retries), (0, 0), "{outcome:?}");
        let all = outcome.all();
        let (p50, p99) = (all.quantile_us(0.5), all.quantile_us(0.99));
        assert!(outcome.ops() > 8 && p50 <= p99 && p99 <= all.max_us(), "{outcome:?}");
    }
}

#[test]
fn splits_moved_leaders_and_refusals_cost_retries_and_no_errors() {
    let runtime = runtime();
    let (fake, cluster) = filled(&runtime);
    {
        let mut state = fake.state();
        state.split(DATA.key(60));
        state.transfer_leader(&DATA.key(700), 1);
        state.transfer_leader(&DATA.key(100), 3);
        state.without_hints = true;
    }
    let busy = errorpb::ServerIsBusy { reason: "a test".to_string(), ..Default::default() };
    fake.inject(errorpb::Error { server_is_busy: Some(busy), ..Default::default() }, 5);
    let outcome = measure(&runtime, &cluster, DATA, Op::Get);
    assert_eq!(outcome.errors, 0, "{outcome:?}");
    assert!(outcome.retries >= 5 + 2, "{outcome:?}");
    assert_eq!(cluster.routes().len(), 8 + 1 + 1, "the split is known now, beside the sentinel");
}

#[test]
fn a_lost_value_is_an_error() {
    let runtime = runtime();
    let (fake, cluster) = filled(&runtime);
    fake.state().data.retain(|key, _| *key != DATA.key(500));
    let missing = Data { keys: 501, ..DATA };
    // Uniform over 501 keys, one of which is gone: a run of thousands of gets meets it.
    let (mut ops, mut found) = (0, None);
    while ops < 20_000 && found.is_none() {
        let outcome = measure(&runtime, &cluster, missing, Op::Get);
        ops += outcome.ops();
        found = outcome.check().err();
    }
    assert!(found.is_some_and(|why| why.contains("read a value of None bytes")));
}

#[test]
fn scans_go_on_in_the_next_region() {
    let runtime = runtime();
    let (_fake, cluster) = filled(&runtime);
    let scan = |from: u64, limit: usize| {
        runtime.block_on(cluster.scan(&DATA.key(from), limit)).expect("the stores answer").pairs
    };
    assert_eq!([scan(100, 10), scan(120, 300), scan(990, 100)], [10, 300, 10]);
}
