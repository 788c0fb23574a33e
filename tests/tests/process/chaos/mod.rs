//! Everything at once: clients that write, read and scan; a split, merge, move or transfer every second; a kill -9 of a
//! store now and then. Whatever was acknowledged is there, and the cluster is whole soon after.

mod changes;
mod clients;
mod registers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

use self::changes::Changes;
use self::clients::{Clients, sure_client};
use self::registers::{Holdings, anchor, violation};
use crate::harness::{Cluster, PATIENCE, RegionView, Settings, number_of, wait_for};
use crate::load::{connect, runtime};
use crate::merges::check_tiles;
use crate::model::Choices;

const STORES: usize = 3;
/// Slots of keys in each region at the founding.
const SLOTS_PER_REGION: u64 = 20;
const EVERY: Duration = Duration::from_secs(1);
/// Time after the last fault until every region has three replicas again.
const WHOLE_LIMIT: Duration = Duration::from_secs(60);
/// Keys of one request when everything is read back.
const READ_KEYS: usize = 200;

/// How long, and how much.
struct Plan {
    seconds: u64,
    regions: u64,
    kill_every: u64,
    /// Seconds for which a store is down.
    down: u64,
}

impl Plan {
    fn new() -> Self {
        match number_of("FLOTILLA_CHAOS_SECONDS") {
            Some(seconds) => Self { seconds, regions: 200, kill_every: 20, down: 5 },
            None => Self { seconds: 30, regions: 40, kill_every: 9, down: 3 },
        }
    }

    fn slots(&self) -> u64 {
        self.regions * SLOTS_PER_REGION
    }

    fn settings(&self) -> Settings {
        let keys: Vec<String> =
            (1..self.regions).map(|region| format!("{:?}", anchor(region * SLOTS_PER_REGION))).collect();
        Settings::default()
            .with("server.pre_split_keys", format!("[{}]", keys.join(", ")))
            .with("store.check_interval_ms", 200)
    }
}

/// The next change is not due before.
fn pace_until(due: Instant) {
    thread::sleep(due.saturating_duration_since(Instant::now()));
}

/// Changes and kills for as long as planned. Returns when the last of them began, and the number of kills.
fn wreak(
    cluster: &mut Cluster,
    clients: &mut Clients,
    changes: &mut Changes,
    plan: &Plan,
    seed: u64,
) -> (Instant, u64) {
    let mut choices = Choices::new(seed);
    let (begun, mut last_fault) = (Instant::now(), Instant::now());
    let (mut down, mut kills) = (None, 0);
    for second in 1..=plan.seconds {
        let due = begun + EVERY * u32::try_from(second).expect("a short test");
        pace_until(due);
        clients.check();
        for i in 0..STORES {
            let ended = cluster.store(i).ended();
            assert!(ended.is_none(), "store {i} ended by itself: {ended:?}");
        }
        if let Some((i, back)) = down
            && second >= back
        {
            cluster.restart(i);
            down = None;
        }
        last_fault = Instant::now();
        if second.is_multiple_of(plan.kill_every) {
            let victim = choices.below(STORES as u64) as usize;
            cluster.kill9(victim);
            down = Some((victim, second + plan.down));
            kills += 1;
        }
        changes.begin();
    }
    if let Some((i, _)) = down {
        cluster.restart(i);
    }
    (last_fault, kills)
}

/// Everything that differs from what must be there: each key read by itself, then all of them in one scan by an
/// unmodified client.
fn verify(cluster: &Cluster, holdings: &Holdings) -> Vec<String> {
    let runtime = runtime();
    let client = sure_client(&runtime, &cluster.addresses(), 0);
    let keys: Vec<&String> = holdings.keys().collect();
    let mut violations = Vec::new();
    for keys in keys.chunks(READ_KEYS) {
        let wanted = keys.iter().map(|key| Bytes::from((*key).clone()));
        let read = runtime.block_on(client.batch_get(wanted)).expect("a cluster at rest answers");
        let read: BTreeMap<_, _> = read.into_iter().collect();
        let check = |key: &&String| violation(holdings, key, read.get(key.as_bytes()).map(|v| &v[..]));
        violations.extend(keys.iter().filter_map(check));
    }
    let client = connect(&runtime, &cluster.addresses());
    let (mut from, mut found) = (Vec::new(), BTreeMap::new());
    loop {
        let range = from.clone()..b"d".to_vec();
        let page = runtime.block_on(client.scan(range, READ_KEYS as u32)).expect("a cluster at rest answers");
        if page.is_empty() {
            break;
        }
        for pair in page {
            let key: Vec<u8> = pair.0.into();
            assert!(from <= key, "a key is there twice or out of order: {key:?} after {from:?}");
            from = [&key[..], &[0]].concat();
            found.insert(String::from_utf8(key).expect("written as text"), pair.1);
        }
    }
    runtime.shutdown_background();
    let all = holdings.keys().chain(found.keys());
    violations.extend(all.filter_map(|key| violation(holdings, key, found.get(key).map(Vec::as_slice))));
    violations
}

/// The leaders compare their replicas now.
fn check_replicas(cluster: &Cluster) {
    wait_for("ctl check", PATIENCE, || {
        let checked = cluster.ctl(&["check"]);
        assert!(!matches!(&checked, Err(why) if why.contains("differ")), "{checked:?}");
        checked
    });
}

/// Nothing that a store takes for damage or a bug, in any of its lives.
fn check_logs(cluster: &mut Cluster) {
    for i in 0..STORES {
        let log = fs::read(&cluster.store(i).log).expect("a log");
        let log = String::from_utf8_lossy(&log);
        let bad = log.lines().find(|line| line.contains("ERROR") || line.contains("panicked at"));
        assert_eq!(bad, None, "store {i}");
    }
}

#[test]
fn a_cluster_stays_right_while_regions_change_every_second_and_stores_are_killed_under_load() {
    let plan = Plan::new();
    let seed = number_of("FLOTILLA_CHAOS_SEED").unwrap_or(1);
    println!("FLOTILLA_CHAOS_SEED={seed}, {} s, {} regions", plan.seconds, plan.regions);
    let mut cluster = Cluster::start(STORES, plan.settings());
    let founded = cluster.regions().iter().filter(|region| !region.is_meta).count() as u64;
    assert!(founded >= plan.regions, "{founded} regions");
    let mut clients = Clients::start(&cluster.addresses(), plan.slots(), seed);
    let mut changes = Changes::new(cluster.operator(), plan.slots(), seed);
    let (last_fault, kills) = wreak(&mut cluster, &mut clients, &mut changes, &plan, seed);
    changes.finish();
    let left = WHOLE_LIMIT.saturating_sub(last_fault.elapsed());
    let regions = wait_for("every region has three replicas", left, || cluster.try_replicated());
    let whole = last_fault.elapsed();
    let progress = clients.progress.clone();
    let holdings = clients.stop();
    let [acks, unknown, given_up, reads, walks] =
        [&progress.acks, &progress.unknown, &progress.given_up, &progress.reads, &progress.walks]
            .map(|counter| counter.load(Ordering::Relaxed));
    println!("{acks} writes acknowledged, {unknown} of unknown outcome, {given_up} calls given up");
    println!("{reads} reads and scans, {walks} walks over all keys; {} keys in the end", holdings.len());
    println!("{kills} kills; three replicas of {} regions after {whole:.1?}", regions.len());
    for (kind, tally) in &changes.tallies {
        println!("{kind:?}: {tally}");
    }
    println!("{} changes left out: too many under way", changes.left_out);
    check_tiles(&regions);
    let ids: BTreeSet<u64> = regions.iter().map(|region: &RegionView| region.id).collect();
    assert_eq!(ids.len(), regions.len(), "a region is there twice");
    let violations = verify(&cluster, &holdings);
    assert!(violations.is_empty(), "{violations:#?}");
    check_replicas(&cluster);
    check_logs(&mut cluster);
    assert_eq!(kills, plan.seconds / plan.kill_every);
    assert!(acks > plan.seconds * 20 && walks > 0, "hardly any load");
    for (kind, tally) in &changes.tallies {
        assert!(tally.done as u64 >= plan.seconds / 15, "{kind:?}: {tally}");
    }
}
