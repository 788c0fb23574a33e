//! The life of regions as an operator sees and steers it: moves, views, history, splits by load and at the founding.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Cluster, PATIENCE, RegionView, Settings, run, wait_for};
use crate::ledger::Ledger;
use crate::load::{Load, verify};

/// A program that refuses to start says so at once.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The JSON of one region, its history included.
fn shown(cluster: &Cluster, id: u64) -> Value {
    let id = id.to_string();
    wait_for("ctl region", PATIENCE, || cluster.ctl(&["region", "--id", &id]))
}

/// (kind, regions) of each event.
fn history(cluster: &Cluster, id: u64) -> Vec<(String, Vec<u64>)> {
    let region = shown(cluster, id);
    let events = region["history"].as_array().expect("history").iter();
    let ids =
        |event: &Value| event["regions"].as_array().expect("ids").iter().filter_map(Value::as_u64).collect();
    events.map(|event| (event["kind"].as_str().expect("kind").to_owned(), ids(event))).collect()
}

/// `flotilla ctl move`: exit status, standard output, standard error.
fn try_move(cluster: &Cluster, region: u64, from: u64, to: u64) -> (Option<i32>, String, String) {
    let [region, from, to] = [region, from, to].map(|id| id.to_string());
    let words = ["ctl", "move", "--region", &region, "--from", &from, "--to", &to, "--output", "json"];
    let done = cluster.flotilla(&words);
    (done.code, done.stdout, done.stderr)
}

#[test]
fn a_replica_is_moved_by_command_under_load_with_the_leader_handed_over_first() {
    let settings = Settings::default()
        .with("placement.balance_regions", false)
        .with("placement.balance_leaders", false)
        .with("placement.merge_regions", false);
    let mut cluster = Cluster::start_wide(4, settings);
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&cluster.addresses(), &ledger);
    load.wait_acks(100);
    let region = cluster.region_of("w00");
    let all = cluster.store_ids().expect("ids");
    let to = *all.iter().find(|id| !region.stores().contains(id)).expect("a store without it");
    // The leader's own replica, there and back.
    let (_, from) = cluster.region_of("w00").leader.expect("a leader");
    for (from, to) in [(from, to), (to, from)] {
        // Leadership has to move each time.
        wait_for("a transfer", PATIENCE, || cluster.try_transfer(region.id, from));
        let (code, out, err) = try_move(&cluster, region.id, from, to);
        assert_eq!(code, Some(0), "{out} {err}");
        let moved: Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(moved[0]["id"].as_u64(), Some(region.id), "{out}");
        // A phase may be over before it is asked for, and leadership is handed over at any time before the exchange.
        let phases = ["learner", "exchanging the voters", "removing the old replica"];
        let places: Vec<usize> = phases.iter().filter_map(|phase| err.find(phase)).collect();
        assert!(places.len() >= 2 && places.is_sorted(), "progress is shown: {err}");
        let now = cluster.region_of("w00");
        assert!(now.stores().contains(&to) && !now.stores().contains(&from), "{from} to {to}: {now:?}");
        assert_eq!((now.voters.len(), now.others), (3, 0), "{now:?}");
        load.wait_acks(50);
        // The same order again: it is so already.
        assert_eq!(try_move(&cluster, region.id, from, to).0, Some(0));
    }
    let (has, lacks) = (region.stores()[0], to);
    for (id, from, to, why) in [
        (region.id, has, 99, "store 99 does not exist"),
        (region.id, has, region.stores()[1], "has a peer on store"),
        (region.id, 99, lacks, "has no peer on store 99"),
        (region.id, has, has, "is on store"),
        (77_777, has, lacks, "region 77777 does not exist"),
    ] {
        let (code, _, err) = try_move(&cluster, id, from, to);
        assert_eq!(code, Some(1));
        assert!(err.contains("refused: ") && err.contains(why), "{err:?} instead of {why:?}");
    }
    load.stop();
    assert_eq!(verify(&cluster.addresses(), &ledger), []);
    cluster.wait_ready();
}

#[test]
fn a_hot_region_is_split_by_itself_and_its_rates_and_history_are_shown() {
    let settings = Settings::default()
        .with("store.load_split_requests", 30)
        .with("store.load_interval_ms", 500)
        .with("store.load_split_intervals", 3)
        .with("store.load_split_samples_min", 20)
        .with("store.load_split_imbalance_percent", 50)
        .with("placement.merge_regions", false);
    let mut cluster = Cluster::start(3, settings);
    let before = cluster.regions().len();
    let first = cluster.region_of("w00").id;
    let ledger = Arc::new(Ledger::default());
    let load = Load::start(&cluster.addresses(), &ledger);
    let regions = wait_for("regions are split by load", PATIENCE, || {
        load.wait_acks(50);
        let regions = cluster.regions();
        if regions.len() > before + 1 { Ok(regions) } else { Err(format!("{} regions", regions.len())) }
    });
    let busy = |value: &Value| value["writes_per_second"].as_u64().is_some_and(|rate| rate > 0);
    wait_for("rates are shown", PATIENCE, || {
        load.wait_acks(20);
        let (regions, stores) = (cluster.ctl(&["regions"])?, cluster.ctl(&["stores"])?);
        let any = |list: &Value| list.as_array().is_some_and(|list| list.iter().any(busy));
        if any(&regions) && any(&stores) { Ok(()) } else { Err(format!("{regions} {stores}")) }
    });
    load.stop();
    assert_eq!(verify(&cluster.addresses(), &ledger), []);
    let parts: Vec<&RegionView> =
        regions.iter().filter(|r| !r.is_meta && r.start.starts_with(b"w")).collect();
    assert!(!parts.is_empty(), "cut at keys that clients use: {regions:?}");
    let events = history(&cluster, first);
    assert!(events.iter().any(|(kind, _)| kind == "split"), "{events:?}");
    wait_for("rates end", PATIENCE, || {
        let regions = cluster.ctl(&["regions"])?;
        let quiet = regions.as_array().is_some_and(|list| !list.iter().any(busy));
        if quiet { Ok(()) } else { Err(regions.to_string()) }
    });
    cluster.wait_replicated();
}

#[test]
fn a_regions_history_survives_kills_and_leaders_and_new_replicas() {
    let settings = Settings::default()
        .with("placement.balance_regions", false)
        .with("placement.balance_leaders", false)
        .with("placement.merge_regions", false);
    let mut cluster = Cluster::start_wide(4, settings);
    let whole = cluster.region_of("m").id;
    for key in ["f", "m"] {
        wait_for("a split", PATIENCE, || cluster.try_split(key));
    }
    let (left, middle) = (cluster.region_of("a").id, cluster.region_of("g").id);
    assert_eq!(history(&cluster, left), [("split_from".to_owned(), vec![whole])]);
    wait_for("a merge", PATIENCE, || cluster.try_merge(left, middle));
    let expected = [("split_from".to_owned(), vec![whole]), ("merged".to_owned(), vec![left])];
    wait_for("the merge is remembered", PATIENCE, || {
        let events = history(&cluster, middle);
        if events == expected { Ok(()) } else { Err(format!("{events:?}")) }
    });
    let event = &shown(&cluster, whole)["history"][1];
    assert_eq!((&event["kind"], &event["keys"][0]), (&Value::from("split"), &Value::from("6d")), "{event}");
    assert!(event["time_ms"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000), "{event}");
    // A region that is part of another one says so.
    let gone = cluster.flotilla(&["ctl", "region", "--id", &left.to_string()]);
    assert_eq!(gone.code, Some(1));
    assert!(gone.stderr.contains(&format!("is part of region {middle}")), "{}", gone.stderr);
    // A replica made by a snapshot leads and knows it all the same.
    let region = cluster.region_of("g");
    let all = cluster.store_ids().expect("ids");
    let to = *all.iter().find(|id| !region.stores().contains(id)).expect("a store without it");
    let (code, out, err) = try_move(&cluster, middle, region.stores()[0], to);
    assert_eq!(code, Some(0), "{out} {err}");
    wait_for("a transfer", PATIENCE, || cluster.try_transfer(middle, to));
    assert_eq!(history(&cluster, middle), expected);
    cluster.kill9_all();
    cluster.restart_all();
    assert_eq!(history(&cluster, middle), expected);
}

#[test]
fn a_leaders_own_replica_is_removed_by_command() {
    let settings = Settings::default().with("placement.balance_leaders", false);
    let mut cluster = Cluster::start(3, settings);
    let region = cluster.region_of("a");
    let (_, store) = region.leader.expect("a leader");
    let words = ["remove-peer", "--region", &region.id.to_string(), "--store", &store.to_string()];
    let left = wait_for("its removal", PATIENCE, || cluster.ctl(&words));
    let stores: Vec<u64> =
        left[0]["peers"].as_array().expect("peers").iter().filter_map(|p| p["store_id"].as_u64()).collect();
    assert!(stores.len() == 2 && !stores.contains(&store), "{left}");
    // Placement makes up for it.
    cluster.wait_replicated();
}

#[test]
fn peers_on_a_dead_store_are_shown_as_down() {
    let settings = Settings::default().with("store.peer_down_ms", 2_000);
    let mut cluster = Cluster::start(3, settings);
    let dead = cluster.store_ids().expect("ids")[2];
    let index = cluster.index_of(dead);
    wait_for("another store leads", PATIENCE, || {
        let region = cluster.region_of("a");
        let other = region.stores().into_iter().find(|id| *id != dead).ok_or("one store")?;
        if region.leader.is_some_and(|(_, store)| store != dead) {
            return Ok(());
        }
        cluster.try_transfer(region.id, other)?;
        Err("asked".to_owned())
    });
    let id = cluster.region_of("a").id;
    let down = |region: &Value| region["down_peers"].as_array().map_or(0, Vec::len);
    assert_eq!(down(&shown(&cluster, id)), 0);
    cluster.kill9(index);
    wait_for("its peer is down", PATIENCE, || {
        let region = shown(&cluster, id);
        let seconds = region["down_seconds"][0].as_u64().unwrap_or(0);
        if down(&region) == 1 && seconds >= 2 { Ok(()) } else { Err(region.to_string()) }
    });
    let stores = wait_for("ctl stores", PATIENCE, || cluster.ctl(&["stores"]));
    let count = |id: u64| {
        let store = stores.as_array().expect("a list").iter().find(|store| store["id"] == id);
        store.expect("it is listed")["down_peers"].as_u64().expect("a count")
    };
    assert!(count(dead) > 0, "{stores}");
    assert_eq!(count(cluster.store_ids().expect("ids")[0]), 0, "{stores}");
    cluster.restart_all();
    wait_for("its peer is back", PATIENCE, || {
        let region = shown(&cluster, id);
        if down(&region) == 0 { Ok(()) } else { Err(region.to_string()) }
    });
}

#[test]
fn a_cluster_is_founded_with_a_pre_split_and_a_bad_one_is_refused() {
    let settings = Settings::default()
        .with("server.pre_split_keys", r#"["d", "m", '\xff']"#)
        .with("placement.merge_regions", false);
    let mut cluster = Cluster::start(3, settings);
    let regions = cluster.wait_replicated();
    let starts: Vec<&[u8]> = regions.iter().filter(|r| !r.is_meta).map(|r| &r.start[..]).take(4).collect();
    assert_eq!(starts, [&b""[..], b"d", b"m", b"\xff"], "the founder's list, once");
    let done = cluster.flotilla(&["put", "mm", "value"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(cluster.flotilla(&["get", "mm"]).stdout.trim_end(), "value");
    let split = cluster.region_of("mm");
    wait_for("a split", PATIENCE, || cluster.try_split("q"));
    assert_ne!(cluster.region_of("mm").version, split.version, "ids of new regions are new");
    // A list that is none, given to a store that would never use it.
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "b\na\n").expect("a file");
    cluster.kill9(2);
    let mut command = cluster.store(2).command();
    let refused = run(command.arg("--pre-split").arg(file.path()), START_LIMIT);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("pre-split: key 2 is less than the one before it"), "{}", refused.stderr);
}

#[test]
fn a_region_whose_writes_outrun_its_splits_takes_none_until_it_is_split() {
    const LIMIT: u64 = 64 << 10;
    let settings = Settings::default()
        .with("store.split_bytes", LIMIT)
        .with("store.split_busy_bytes", 2 * LIMIT)
        .with("store.split_check_ms", 200)
        .with("placement.merge_regions", false);
    let mut cluster = Cluster::start(3, settings);
    let before = cluster.regions().len();
    let value = "v".repeat(4_000);
    let refused = |cluster: &mut Cluster| {
        let pages = (0..3).map(|i| cluster.store(i).page("/metrics").expect("it runs").1);
        pages.map(|page| metric(&page, "flotilla_crowded_writes_total")).sum::<u64>()
    };
    // Writes are held back, and none is lost; how often depends on the machine. New keys each time: a region
    // that is split already is not outrun by the same keys again.
    let mut round = 0;
    let done = wait_for("writes outrun the splits", PATIENCE, || {
        let lines = (0..1_500).map(|n| format!("k{round:02}{n:06}\t{value}\n")).collect::<String>();
        round += 1;
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), lines).expect("a file");
        let path = file.path().to_str().expect("UTF-8");
        let done = cluster.flotilla(&["import", "--format", "tsv", path, "--verify"]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        if refused(&mut cluster) > 0 { Ok(done) } else { Err(done.stdout) }
    });
    assert!(done.stdout.contains("1500"), "{}", done.stdout);
    wait_for("it is split", PATIENCE, || {
        let regions = cluster.regions().len();
        if regions >= before + 4 { Ok(()) } else { Err(format!("{regions} regions")) }
    });
    wait_for("all parts take writes again", PATIENCE, || {
        let before = refused(&mut cluster);
        for key in ["k00000000", "k00000700", "k00001499"] {
            assert_eq!(cluster.flotilla(&["put", key, "value"]).code, Some(0));
        }
        let more = refused(&mut cluster) - before;
        if more == 0 { Ok(()) } else { Err(format!("{more} writes refused")) }
    });
}

fn metric(page: &str, name: &str) -> u64 {
    let line = page.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
    let value = line.and_then(|line| line.split_whitespace().nth(1));
    value.unwrap_or_else(|| panic!("no {name} in {page}")).parse().expect("a number")
}
