//! The client against a cluster of fake stores on loopback: splits, merges, leader changes, membership changes,
//! stale placement, injected errors, broken connections.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "a test's own wiring")]

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_proto::errorpb;
use flotilla_region::{KEY_BYTES_MAX, KeyRange};
use flotilla_router::testing::{FakeCluster, Fault};
use flotilla_router::{Checksum, Client, ClientOptions, Error, FailureKind, KeyTtl, RetryPolicy, Scan};

fn key(at: usize) -> Bytes {
    Bytes::from(format!("key-{at:05}"))
}

fn quick() -> ClientOptions {
    let retry = RetryPolicy { budget_ms: 1_000, ..RetryPolicy::default() };
    ClientOptions { retry, ..ClientOptions::default() }
}

/// A cluster of three stores with keys 0..count in `regions` regions whose leaders alternate, and a client.
async fn cluster(count: usize, regions: usize) -> (FakeCluster, Client) {
    let cluster = FakeCluster::start(3);
    for at in 1..regions {
        let split = key(at * count / regions);
        let mut state = cluster.state();
        state.split(split.clone());
        state.transfer_leader(&split, (at % 3 + 1) as u64);
    }
    let client = Client::connect(&cluster.addresses()).await.unwrap();
    let pairs = (0..count).map(|at| (key(at), Bytes::from(format!("value-{at}"))));
    client.batch_put(pairs, 0).await.unwrap();
    (cluster, client)
}

#[tokio::test]
async fn single_keys_are_stored_read_and_removed() {
    let (_cluster, client) = cluster(10, 3).await;
    assert_eq!(client.get(key(3)).await.unwrap(), Some(Bytes::from("value-3")));
    assert_eq!(client.get("missing").await.unwrap(), None);
    client.put("empty", "", 0).await.unwrap();
    assert_eq!(client.get("empty").await.unwrap(), Some(Bytes::new()));
    client.put("brief", "x", 60).await.unwrap();
    assert_eq!(client.get_ttl("brief").await.unwrap(), KeyTtl::Seconds(60));
    assert_eq!(client.get_ttl("empty").await.unwrap(), KeyTtl::Unlimited);
    assert_eq!(client.get_ttl("missing").await.unwrap(), KeyTtl::Absent);
    client.delete("empty").await.unwrap();
    client.delete("empty").await.unwrap();
    assert_eq!(client.get("empty").await.unwrap(), None);
    let refused = client.put(vec![b'k'; KEY_BYTES_MAX + 1], "v", 0).await;
    assert!(
        matches!(refused, Err(Error::Rejected { ref message }) if message.contains("max key size")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn compare_and_swap_tells_what_it_found() {
    let (_cluster, client) = cluster(0, 1).await;
    let value = |v: &'static str| Some(Bytes::from(v));
    let first = client.compare_and_swap("k", None, value("a"), 0).await.unwrap();
    assert_eq!((first.swapped, first.previous), (true, None));
    let second = client.compare_and_swap("k", None, value("b"), 0).await.unwrap();
    assert_eq!((second.swapped, second.previous), (false, value("a")));
    let third = client.compare_and_swap("k", value("a"), None, 0).await.unwrap();
    assert_eq!((third.swapped, third.previous), (true, value("a")));
    assert_eq!(client.get("k").await.unwrap(), None);
}

#[tokio::test]
async fn batches_are_split_by_region_and_size() {
    let (cluster, _) = cluster(500, 7).await;
    let options = ClientOptions { batch_keys_max: 20, ..quick() };
    let client = Client::connect_with(&cluster.addresses(), options).await.unwrap();
    let found = client.batch_get((0..600).rev().map(key).chain([key(1)])).await.unwrap();
    assert_eq!(found.len(), 500);
    assert!(found.is_sorted());
    client
        .batch_put([(key(1), "old".into()), (key(1), "new".into()), (key(499), "last".into())], 30)
        .await
        .unwrap();
    assert_eq!(client.get(key(1)).await.unwrap(), Some("new".into()));
    assert_eq!(client.get_ttl(key(499)).await.unwrap(), KeyTtl::Seconds(30));
    client.batch_put((0..500).map(|at| (key(at), "again".into())), 0).await.unwrap();
    assert!(cluster.state().last_batch_keys <= 20);
    client.batch_delete((0..499).map(key)).await.unwrap();
    assert_eq!(client.scan(Scan::default(), 10).await.unwrap(), [(key(499), "again".into())]);
}

/// Scans in both directions over every pair of bounds, compared with the map.
#[tokio::test]
async fn scans_are_right_across_regions_in_both_directions() {
    let (cluster, client) = cluster(60, 6).await;
    let data: BTreeMap<Bytes, Bytes> =
        cluster.state().data.iter().map(|(key, (value, _))| (key.clone(), value.clone())).collect();
    let bounds: Vec<Bytes> =
        [Bytes::new(), "a".into(), key(0), key(9), key(10), key(11), key(35), key(59), key(60), "z".into()]
            .into();
    for start in &bounds {
        for end in &bounds {
            let range = KeyRange::new(start.clone(), end.clone());
            let expected: Vec<(Bytes, Bytes)> =
                data.iter().filter(|(k, _)| range.contains(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
            for limit in [1, 7, 20, 1000] {
                let forward = client.scan(Scan::forward(range.clone()), limit).await.unwrap();
                assert_eq!(
                    forward,
                    expected.iter().take(limit).cloned().collect::<Vec<_>>(),
                    "{range:?} {limit}"
                );
                let backward = client.scan(Scan::backward(range.clone()), limit).await.unwrap();
                let reversed: Vec<_> = expected.iter().rev().take(limit).cloned().collect();
                assert_eq!(backward, reversed, "{range:?} reverse {limit}");
            }
        }
    }
    let keys = client.scan(Scan::default().keys_only(), 1000).await.unwrap();
    assert_eq!(keys.len(), 60);
    assert!(keys.iter().all(|(_, value)| value.is_empty()));
}

#[tokio::test]
async fn a_scan_goes_on_through_splits_and_merges() {
    let (cluster, client) = cluster(3_000, 4).await;
    for scan in [Scan::default(), Scan::backward(KeyRange::ALL)] {
        let mut scanner = client.scanner(scan.clone());
        let mut keys = Vec::new();
        let mut page_number = 0;
        while let Some(page) = scanner.next_page(100).await.unwrap() {
            keys.extend(page.into_iter().map(|(key, _)| key));
            page_number += 1;
            let at = key((page_number * 997 + usize::from(scan.reverse)) % 3_000);
            match page_number % 3 {
                0 if cluster
                    .state()
                    .region_at(&at)
                    .region
                    .as_ref()
                    .is_some_and(|r| !r.start_key.is_empty()) =>
                {
                    cluster.state().merge_left(&at)
                }
                0 => {}
                _ => cluster.state().split(at),
            }
        }
        if scan.reverse {
            keys.reverse();
        }
        assert_eq!(keys, (0..3_000).map(key).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn large_values_make_small_pages() {
    let (_cluster, client) = cluster(0, 1).await;
    for at in 0..24 {
        client.put(key(at), vec![at as u8; 3 * 1024 * 1024], 0).await.unwrap();
    }
    // 72 MiB in one page would be over the client's limit of 64.
    let pairs = client.scan(Scan::default(), 100).await.unwrap();
    assert_eq!(pairs.len(), 24);
    assert!(pairs.iter().enumerate().all(|(at, (_, v))| v.len() == 3 * 1024 * 1024 && v[0] == at as u8));
}

#[tokio::test]
async fn ranges_are_removed_and_summed_over_regions() {
    let (cluster, client) = cluster(300, 5).await;
    let whole = client.checksum(KeyRange::ALL).await.unwrap();
    assert_eq!(whole.keys, 300);
    let first = client.checksum(KeyRange::new("", key(150))).await.unwrap();
    let second = client.checksum(KeyRange::new(key(150), "")).await.unwrap();
    let sum = Checksum {
        crc64_xor: first.crc64_xor ^ second.crc64_xor,
        keys: first.keys + second.keys,
        bytes: first.bytes + second.bytes,
    };
    assert_eq!(whole, sum);
    client.delete_range(KeyRange::new(key(50), key(250))).await.unwrap();
    assert_eq!(cluster.state().data.len(), 100);
    client.delete_range(KeyRange::new(key(250), key(50))).await.unwrap();
    assert_eq!(cluster.state().data.len(), 100, "an inverted range holds nothing");
    client.delete_range(KeyRange::ALL).await.unwrap();
    assert!(cluster.state().data.is_empty());
}

#[tokio::test]
async fn splits_merges_and_leader_changes_are_learned_from_stores_alone() {
    let (cluster, client) = cluster(200, 2).await;
    cluster.state().freeze_placement();
    let asked_before = cluster.state().placement_requests;
    for at in (10..200).step_by(10) {
        cluster.state().split(key(at));
        cluster.state().transfer_leader(&key(at), (at % 3 + 1) as u64);
        assert_eq!(client.get(key(at)).await.unwrap(), Some(Bytes::from(format!("value-{at}"))));
    }
    assert_eq!(client.scan(Scan::default(), 1_000).await.unwrap().len(), 200);
    assert!(cluster.state().placement_requests - asked_before <= 2, "placement is hardly asked");
    for at in (10..200).step_by(20) {
        cluster.state().merge_left(&key(at));
    }
    cluster.state().placement_view = None;
    assert_eq!(client.scan(Scan::backward(KeyRange::ALL), 1_000).await.unwrap().len(), 200);
}

#[tokio::test]
async fn without_hints_every_peer_is_tried() {
    let (cluster, client) = cluster(10, 1).await;
    cluster.state().without_hints = true;
    for round in 0..6 {
        cluster.state().transfer_leader(&key(0), round % 3 + 1);
        cluster.state().freeze_placement();
        cluster.state().transfer_leader(&key(0), (round + 1) % 3 + 1);
        client.put(key(0), round.to_string(), 0).await.unwrap();
        assert_eq!(client.get(key(0)).await.unwrap(), Some(round.to_string().into()));
    }
}

#[tokio::test]
async fn a_moved_replica_is_found() {
    let cluster = FakeCluster::start(4);
    cluster.state().replace_peer(b"k", 4, 0);
    let client = Client::connect(&cluster.addresses()).await.unwrap();
    client.put("k", "1", 0).await.unwrap();
    cluster.state().replace_peer(b"k", 1, 4);
    cluster.state().transfer_leader(b"k", 4);
    client.put("k", "2", 0).await.unwrap();
    assert_eq!(client.get("k").await.unwrap(), Some("2".into()));
}

#[tokio::test]
async fn every_region_error_is_survived() {
    let (cluster, client) = cluster(50, 3).await;
    let e = errorpb::Error::default;
    let errors = [
        errorpb::Error { not_leader: Some(Default::default()), ..e() },
        errorpb::Error { region_not_found: Some(Default::default()), ..e() },
        errorpb::Error { key_not_in_region: Some(Default::default()), ..e() },
        errorpb::Error { epoch_not_match: Some(Default::default()), ..e() },
        errorpb::Error { server_is_busy: Some(Default::default()), ..e() },
        errorpb::Error { stale_command: Some(Default::default()), ..e() },
        errorpb::Error { store_not_match: Some(Default::default()), ..e() },
        errorpb::Error { read_index_not_ready: Some(Default::default()), ..e() },
        errorpb::Error { proposal_in_merging_mode: Some(Default::default()), ..e() },
        errorpb::Error { mismatch_peer_id: Some(Default::default()), ..e() },
        errorpb::Error { message: "something new".into(), ..e() },
    ];
    for error in errors {
        cluster.inject(error.clone(), 2);
        client.put(key(1), "v", 0).await.unwrap_or_else(|e| panic!("{error:?}: {e}"));
        cluster.inject(error.clone(), 2);
        assert_eq!(client.get(key(1)).await.unwrap(), Some("v".into()));
        cluster.inject(error.clone(), 3);
        assert_eq!(client.batch_get((0..50).map(key)).await.unwrap().len(), 50);
        cluster.inject(error.clone(), 3);
        assert_eq!(client.scan(Scan::default(), 100).await.unwrap().len(), 50);
    }
}

#[tokio::test]
async fn what_cannot_be_cured_is_reported_at_once() {
    let (cluster, client) = cluster(1, 1).await;
    let too_large = errorpb::RaftEntryTooLarge { region_id: 2, entry_size: 99 };
    cluster.inject(errorpb::Error { raft_entry_too_large: Some(too_large), ..Default::default() }, 1);
    assert!(matches!(client.put("k", "v", 0).await, Err(Error::EntryTooLarge { bytes: 99 })));
    assert!(cluster.state().faults.is_empty());
}

#[tokio::test]
async fn a_write_without_a_known_outcome_is_repeated_or_reported() {
    let (cluster, client) = cluster(1, 1).await;
    for fault in [Fault::ApplyAndBreak, Fault::Break, Fault::ApplyAndForget] {
        cluster.state().faults.push_back(fault.clone());
        client.put("k", "v", 0).await.unwrap();
        cluster.state().faults.push_back(fault);
        let swap = client.compare_and_swap("k", Some("v".into()), Some("v".into()), 0).await;
        assert!(matches!(swap, Err(Error::Undetermined { .. })), "{swap:?}");
        assert!(cluster.state().faults.is_empty(), "it was sent once");
    }
    let retry = RetryPolicy { retry_undetermined_writes: false, ..RetryPolicy::default() };
    let options = ClientOptions { retry, ..ClientOptions::default() };
    let careful = Client::connect_with(&cluster.addresses(), options).await.unwrap();
    cluster.state().faults.push_back(Fault::ApplyAndBreak);
    let put = careful.put("k", "w", 0).await;
    assert!(matches!(put, Err(Error::Undetermined { last: FailureKind::NoReply })), "{put:?}");
    assert_eq!(careful.get("k").await.unwrap(), Some("w".into()));
}

#[tokio::test]
async fn the_budget_ends_a_call_and_says_whether_the_write_may_stand() {
    let (cluster, _) = cluster(1, 1).await;
    let client = Client::connect_with(&cluster.addresses(), quick()).await.unwrap();
    let busy = errorpb::Error { not_leader: Some(Default::default()), ..Default::default() };
    cluster.inject(busy.clone(), 1_000);
    let put = client.put("k", "v", 0).await;
    assert!(matches!(put, Err(Error::Exhausted { last: FailureKind::NoLeader, .. })), "{put:?}");
    cluster.state().faults.push_front(Fault::Break);
    let put = client.put("k", "v", 0).await;
    assert!(matches!(put, Err(Error::Undetermined { .. })), "{put:?}");
}

#[tokio::test]
async fn a_dead_store_is_passed_over_by_placement_and_by_routes() {
    let (mut cluster, client) = cluster(90, 9).await;
    let addresses = cluster.addresses();
    cluster.state().freeze_placement();
    cluster.kill(1, true);
    // Placement still names the dead leader; the client finds the new one by itself.
    for at in 0..90 {
        client.put(key(at), "after", 0).await.unwrap();
    }
    let late = Client::connect(&addresses).await.unwrap();
    assert_eq!(late.batch_get((0..90).map(key)).await.unwrap().len(), 90);
    cluster.restart(1);
    cluster.state().transfer_leader(&key(0), 1);
    assert_eq!(client.get(key(0)).await.unwrap(), Some("after".into()), "at its new address");
}

#[tokio::test]
async fn other_members_become_known_from_one_address() {
    let (mut cluster, _) = cluster(10, 1).await;
    let first = cluster.addresses()[0].clone();
    let client = Client::connect(&[&first]).await.unwrap();
    assert_eq!(client.cluster_id(), 77);
    cluster.kill(1, true);
    assert_eq!(client.get(key(1)).await.unwrap(), Some("value-1".into()));
    assert_eq!(client.stores().await.unwrap().len(), 3);
    let regions = client.regions().await.unwrap();
    assert_eq!(regions.len(), 2, "the first and the sentinel");
    assert!(client.cached_regions() > 0);
}

#[tokio::test]
async fn bad_and_dead_addresses_are_named() {
    let none: [&str; 0] = [];
    assert!(matches!(Client::connect(&none).await, Err(Error::NoAddress)));
    for bad in ["localhost", "host:port", ":1", "a b:1"] {
        assert!(matches!(Client::connect(&[bad]).await, Err(Error::BadAddress { .. })), "{bad}");
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let dead = Client::connect_with(&[free], quick()).await;
    assert!(matches!(dead, Err(Error::Exhausted { last: FailureKind::NoPlacement, .. })), "{dead:?}");
}

/// Many tasks write while regions split, merge and change leaders; the map ends as the last acknowledged writes say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_share_a_client_while_regions_change() {
    let (cluster, client) = cluster(0, 1).await;
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..16_usize {
        let client = client.clone();
        tasks.spawn(async move {
            for round in 0..40_usize {
                client.put(key(task * 10 + round % 10), round.to_string(), 0).await.unwrap();
            }
        });
    }
    let mut step = 0_usize;
    while !tasks.is_empty() {
        while let Some(done) = tasks.try_join_next() {
            done.unwrap();
        }
        tokio::task::yield_now().await;
        step += 1;
        let at = key(step * 31 % 160);
        let mut state = cluster.state();
        match step % 64 {
            0 => state.split(at),
            16 => {
                state.transfer_leader(&at, (step / 64 % 3 + 1) as u64);
            }
            _ => {}
        }
    }
    let pairs = client.scan(Scan::default(), 1_000).await.unwrap();
    assert_eq!(pairs.len(), 160);
    for (at, (found, value)) in pairs.into_iter().enumerate() {
        assert_eq!((found, value), (key(at), (30 + at % 10).to_string().into()));
    }
}
