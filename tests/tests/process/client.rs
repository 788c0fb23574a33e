//! The unmodified crate `tikv-client` against three stores, while regions split, leaders move and a store is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tikv_client::{ColumnFamily, Error, RawClient};
use tokio::task::JoinHandle;

use crate::harness::{Cluster, PATIENCE, Settings, wait_for};
use crate::load::{connect, pace_retry, runtime};
use crate::model::{Choices, Progress, Worker, split_keys};

const WORKERS: u64 = 4;
/// Rounds of trouble; each waits for so many calls to succeed first.
const ROUNDS: usize = 26;
const CALLS_PER_ROUND: u64 = 60;
/// Rounds at which a store is killed, and comes back.
const KILL_ROUND: usize = 8;
const RESTART_ROUND: usize = 14;

/// Every call of the crate's raw client, its error cases aside.
const CALLS: [&str; 17] = [
    "batch_delete",
    "batch_get",
    "batch_put",
    "batch_put_with_ttl",
    "batch_scan",
    "batch_scan_keys",
    "compare_and_swap",
    "delete",
    "delete_range",
    "get",
    "get_key_ttl_secs",
    "put",
    "put_with_ttl",
    "scan",
    "scan_keys",
    "scan_keys_reverse",
    "scan_reverse",
];

/// What was done to the cluster.
#[derive(Debug, Default)]
struct Trouble {
    splits: usize,
    transfers: usize,
}

fn wait_calls(progress: &Progress, more: u64) {
    let wanted = progress.calls.load(Ordering::Relaxed) + more;
    wait_for("calls succeed", PATIENCE, || match progress.calls.load(Ordering::Relaxed) {
        calls if calls >= wanted => Ok(()),
        calls => Err(format!("{calls} of {wanted}, {} failures", progress.failures.load(Ordering::Relaxed))),
    });
}

/// The process whose store leads most regions.
fn busiest(cluster: &Cluster) -> usize {
    let mut led: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, store) in cluster.regions().iter().filter_map(|region| region.leader) {
        *led.entry(store).or_default() += 1;
    }
    let (store, _) = led.into_iter().max_by_key(|(_, count)| *count).expect("somebody leads");
    cluster.index_of(store)
}

fn make_trouble(cluster: &mut Cluster, progress: &Progress) -> Trouble {
    let mut trouble = Trouble::default();
    let mut choices = Choices::new(0);
    let mut splits = split_keys(WORKERS);
    let mut down = None;
    for round in 0..ROUNDS {
        wait_calls(progress, CALLS_PER_ROUND);
        if round == KILL_ROUND {
            let victim = busiest(cluster);
            down = Some((victim, progress.batches.blocking_write()));
            cluster.kill9(victim);
        }
        if round == RESTART_ROUND
            && let Some((victim, _batches)) = down.take()
        {
            cluster.restart(victim);
        }
        // While a store is down or a leader new, a command may fail; it is tried again in a later round.
        if !splits.is_empty() {
            let at = choices.below(splits.len() as u64) as usize;
            if cluster.try_split(&splits[at]).is_ok() {
                trouble.splits += 1;
                splits.swap_remove(at);
            }
        }
        let regions = cluster.regions();
        let region = &regions[choices.below(regions.len() as u64) as usize];
        let to = region.voters[choices.below(region.voters.len() as u64) as usize].1;
        if region.leader.is_some_and(|(_, store)| store != to) && cluster.try_transfer(region.id, to).is_ok()
        {
            trouble.transfers += 1;
        }
    }
    trouble
}

#[test]
fn every_raw_call_of_tikv_client_agrees_with_a_model_over_splits_transfers_and_a_kill() {
    let mut cluster = Cluster::start(3, Settings::default());
    let runtime = runtime();
    let client = connect(&runtime, &cluster.addresses());
    let progress = Arc::new(Progress::default());
    let start = |number| runtime.spawn(Worker::new(number, &client, &progress).work());
    let workers: Vec<_> = (0..WORKERS).map(start).collect();
    let trouble = make_trouble(&mut cluster, &progress);
    progress.stop.store(true, Ordering::Relaxed);
    let join = |worker: JoinHandle<Worker>| {
        runtime.block_on(worker).unwrap_or_else(|error| panic!("a worker: {error}"))
    };
    let mut workers: Vec<Worker> = workers.into_iter().map(join).collect();
    cluster.wait_ready();
    cluster.wait_replicated();
    for worker in &mut workers {
        runtime.block_on(worker.check_all());
    }
    let made: BTreeSet<&str> = workers.iter().flat_map(|worker| worker.made.iter().copied()).collect();
    assert_eq!(made.into_iter().collect::<Vec<_>>(), CALLS);
    println!(
        "{} calls, {} attempts given up by the crate, {trouble:?}",
        progress.calls.load(Ordering::Relaxed),
        progress.failures.load(Ordering::Relaxed)
    );
    assert!(trouble.splits >= 8 && trouble.transfers >= 4, "{trouble:?}");
}

/// A call that must fail for good; the crate's retries come first.
fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    format!("{:?}", result.expect_err("must be refused"))
}

#[test]
fn what_the_cluster_does_not_offer_is_refused_by_name_and_the_client_goes_on() {
    let cluster = Cluster::start(3, Settings::default());
    let runtime = runtime();
    let client = connect(&runtime, &cluster.addresses());
    let asked = client.with_cf(ColumnFamily::Write);
    let refused = refusal(runtime.block_on(asked.put("k".to_owned(), "v".to_owned())));
    assert!(refused.contains("invalid cf name: write"), "{refused}");
    let asked = client.coprocessor("plugin", "1.0.0", ["a".to_owned().."b".to_owned()], |_, _| Vec::new());
    let refused = refusal(runtime.block_on(asked));
    assert!(refused.contains("coprocessor"), "{refused}");
    let refused = refusal(runtime.block_on(client.put(String::new(), "v".to_owned())));
    assert!(refused.contains("key must not be empty"), "{refused}");
    let refused = refusal(runtime.block_on(client.get(vec![b'k'; 9 << 10])));
    assert!(refused.contains("max key size exceeded"), "{refused}");
    let named = client.with_cf(ColumnFamily::Default);
    runtime.block_on(named.put("k".to_owned(), "v".to_owned())).expect("the one there is");
    assert_eq!(runtime.block_on(client.get("k".to_owned())).expect("a read"), Some(b"v".to_vec()));
}

/// Polls until the key is gone; how long that took.
async fn wait_gone(client: &RawClient, key: &str) -> Duration {
    let started = Instant::now();
    while client.get(key.to_owned()).await.expect("a read").is_some() {
        assert!(started.elapsed() < PATIENCE, "{key} does not expire");
        pace_retry().await;
    }
    started.elapsed()
}

#[test]
fn a_value_with_a_ttl_is_there_until_it_expires_and_then_gone_for_every_call() {
    let cluster = Cluster::start(3, Settings::default());
    let runtime = runtime();
    let client = connect(&runtime, &cluster.addresses());
    let key = || "short".to_owned();
    let range = || "a".to_owned().."z".to_owned();
    let work: std::pin::Pin<Box<dyn Future<Output = Result<(), Error>>>> = Box::pin(async {
        let before = Instant::now();
        client.put_with_ttl(key(), "v".to_owned(), 3).await?;
        assert_eq!(client.get(key()).await?, Some(b"v".to_vec()));
        assert!(matches!(client.get_key_ttl_secs(key()).await?, Some(1..=3)));
        wait_gone(&client, "short").await;
        let lived = before.elapsed();
        assert!((Duration::from_secs(2)..Duration::from_secs(10)).contains(&lived), "{lived:?}");
        assert_eq!(client.get_key_ttl_secs(key()).await?, None);
        assert!(client.scan(range(), 10).await?.is_empty());
        assert!(client.batch_get([key()]).await?.is_empty());
        let atomic = client.with_atomic_for_cas();
        let swapped = atomic.compare_and_swap(key(), None, b"again".to_vec()).await?;
        assert_eq!(swapped, (None, true), "nothing is there to compare with");
        assert_eq!(client.get_key_ttl_secs(key()).await?, Some(0), "the new value does not expire");
        Ok(())
    });
    runtime.block_on(work).expect("every call succeeds");
}
