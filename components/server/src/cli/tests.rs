//! The commands as a user types them, against a cluster of fake stores on loopback.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use clap::Parser;
use flotilla_router::testing::{FakeCluster, Fault};
use serde_json::Value;

use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Runs a command line on the cluster; the arguments are bytes, as a shell passes them.
async fn flotilla(cluster: &FakeCluster, args: &[&str]) -> Result<Vec<u8>, CliError> {
    let addresses = cluster.addresses().join(",");
    let cli = ["flotilla"].iter().chain(args).chain(&["--pd", &addresses]).copied().collect::<Vec<_>>();
    let mut out = Vec::new();
    run(Cli::try_parse_from(cli).expect("a legal command line").command, &mut out).await.map(|()| out)
}

async fn text(cluster: &FakeCluster, args: &[&str]) -> String {
    String::from_utf8(flotilla(cluster, args).await.expect("success")).expect("UTF-8")
}

async fn json(cluster: &FakeCluster, args: &[&str]) -> Value {
    let args: Vec<&str> = args.iter().chain(&["--output", "json"]).copied().collect();
    serde_json::from_str(&text(cluster, &args).await).expect("JSON")
}

async fn error(cluster: &FakeCluster, args: &[&str]) -> String {
    let error = flotilla(cluster, args).await.expect_err("an error").to_string();
    assert!(!error.contains('\n'), "one line: {error}");
    error
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A cluster with regions that split at these keys.
fn cluster(splits: &[&'static str]) -> FakeCluster {
    let cluster = FakeCluster::start(3);
    for (at, key) in splits.iter().enumerate() {
        cluster.state().split(*key);
        cluster.state().transfer_leader(key.as_bytes(), (at % 3 + 1) as u64);
    }
    cluster
}

#[test]
fn every_command_is_well_formed() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
    for bad in [
        "import",
        "import --dir a --format tsv b",
        "import --format tsv",
        "import file",
        "import --skip-large --format tsv f",
        "export",
        "export file",
        "export --dir a b",
        "put k",
        "put k v --file f",
        "delete",
        "delete k --range a b",
        "scan --limit 0",
        "scan --prefix a --start b",
        "ctl split --region 1",
        "ctl region",
        "ctl region 1 --id 2",
        "ctl move --region 1 --from 2",
    ] {
        let args = std::iter::once("flotilla").chain(bad.split(' '));
        assert!(Cli::try_parse_from(args).is_err(), "{bad}");
    }
    let export = Cli::try_parse_from(["flotilla", "export", "--format", "tsv"]).unwrap();
    assert!(matches!(export.command, Command::Export(_)), "to standard output");
}

#[tokio::test]
async fn values_are_put_read_listed_and_removed() {
    let cluster = cluster(&["k3"]);
    for at in 0..6 {
        assert_eq!(text(&cluster, &["put", &format!("k{at}"), &format!("v{at}")]).await, "");
    }
    assert_eq!(text(&cluster, &["get", "k4"]).await, "v4");
    assert_eq!(text(&cluster, &["get", "--hex", "6b34"]).await, "7634\n");
    assert_eq!(error(&cluster, &["get", "k\n"]).await, "key not found: k\\n");
    assert_eq!(error(&cluster, &["get", "--hex", "k"]).await, "\"k\" is not hexadecimal");
    text(&cluster, &["put", "--hex", "ff00", "fe"]).await;
    assert_eq!(
        flotilla(&cluster, &["get", "--hex", "ff00", "--output", "json"]).await.unwrap(),
        b"{\"key_hex\":\"ff00\",\"value_hex\":\"fe\"}\n"
    );
    let pairs = json(&cluster, &["scan", "--reverse", "--limit", "3"]).await;
    assert_eq!(pairs[0]["key_hex"], "ff00");
    assert_eq!((&pairs[1]["key"], &pairs[2]["value"]), (&"k5".into(), &"v4".into()));
    let table = text(&cluster, &["scan", "--start", "k2", "--end", "k4"]).await;
    assert!(table.contains("k2") && table.contains("v3") && !table.contains("k4"), "{table}");
    let keys = text(&cluster, &["scan", "--prefix", "k", "--keys-only"]).await;
    assert!(keys.contains("k0") && !keys.contains("v0"), "{keys}");
    text(&cluster, &["delete", "k0", "k5", "missing"]).await;
    text(&cluster, &["delete", "--range", "k2", "k4"]).await;
    assert_eq!(
        json(&cluster, &["scan", "--prefix", "k", "--keys-only"]).await,
        serde_json::json!([{"key": "k1"}, {"key": "k4"}])
    );
    text(&cluster, &["delete", "--prefix", "k"]).await;
    assert_eq!(cluster.state().data.len(), 1);
}

#[tokio::test]
async fn a_value_comes_from_a_file_and_lives_for_its_time() {
    let cluster = cluster(&[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("value");
    fs::write(&file, [0, 255, b'\n']).unwrap();
    assert_eq!(json(&cluster, &["put", "k", "--file", path(&file), "--ttl", "9"]).await["ok"], true);
    assert_eq!(cluster.state().data[&b"k"[..]], (vec![0, 255, b'\n'].into(), 9));
    assert_eq!(flotilla(&cluster, &["get", "k"]).await.unwrap(), [0, 255, b'\n']);
    let missing = folder.path().join("missing");
    assert!(error(&cluster, &["put", "k", "--file", path(&missing)]).await.contains("No such file"));
    assert!(error(&cluster, &["put", "", "v"]).await.contains("key is empty"));
}

/// Files of many kinds go in and come out the same.
#[tokio::test]
async fn a_directory_goes_in_and_comes_out_the_same() {
    let cluster = cluster(&["dir/5", "g"]);
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir_all(source.join("dir/deep")).unwrap();
    for at in 0..200_usize {
        fs::write(source.join(format!("dir/{at}")), vec![at as u8; at * 7]).unwrap();
    }
    fs::write(source.join("dir/deep/zeros"), [0; 100_000]).unwrap();
    fs::write(source.join(std::ffi::OsStr::from_bytes(b"\xff\n")), "odd").unwrap();
    std::os::unix::fs::symlink("dir", source.join("link")).unwrap();
    let summary = json(&cluster, &["import", "--dir", path(&source), "--verify"]).await;
    assert_eq!(summary["entries"], 202);
    assert_eq!(summary["verified"], 202);
    assert_eq!(summary["symlinks_not_followed"], 1);
    assert_eq!(cluster.state().data[&b"dir/0"[..]].0.len(), 0, "an empty file is an entry");
    assert_eq!(cluster.state().data[&b"\xff\n"[..]].0, "odd");

    let target = folder.path().join("target");
    let summary = json(&cluster, &["export", "--dir", path(&target)]).await;
    assert_eq!((&summary["entries"], &summary["refused"]), (&202.into(), &0.into()));
    let contents = |root: &Path| -> Vec<(Vec<u8>, Vec<u8>)> {
        let files = tree::Tree::read(root).unwrap().files;
        files
            .iter()
            .map(|f| (f.key().to_vec(), fs::read(tree::path_of(root, f.key()).unwrap()).unwrap()))
            .collect()
    };
    assert_eq!(contents(&target), contents(&source));
    assert!(error(&cluster, &["export", "--dir", path(&target)]).await.ends_with("not empty"));
}

#[tokio::test]
async fn files_over_the_limit_are_named_and_nothing_is_written() {
    let cluster = cluster(&[]);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("small"), "x").unwrap();
    fs::write(folder.path().join("big"), vec![0; 98]).unwrap();
    fs::write(folder.path().join("fits"), vec![0; 96]).unwrap();
    let args = ["import", "--dir", path(folder.path()), "--entry-limit", "100"];
    let message = error(&cluster, &args).await;
    assert!(message.contains("big (101 bytes)") && !message.contains("fits"), "{message}");
    assert!(cluster.state().data.is_empty());
    let summary = json(&cluster, &[&args[..], &["--skip-large"]].concat()).await;
    assert_eq!((&summary["entries"], &summary["skipped_large"]), (&2.into(), &1.into()));
}

#[tokio::test]
async fn records_go_in_and_come_out_the_same() {
    let cluster = cluster(&["b"]);
    let folder = tempfile::tempdir().unwrap();
    for (key, value) in [(&b"a"[..], &b"1"[..]), (b"b\t", b""), (b"\xff", b"\0\n\\")] {
        cluster.state().data.insert(key.into(), (value.into(), 0));
    }
    let data = cluster.state().data.clone();
    for format in ["tsv", "jsonl"] {
        let file = folder.path().join(format);
        let lines = text(&cluster, &["export", "--format", format]).await;
        assert_eq!(json(&cluster, &["export", "--format", format, path(&file)]).await["entries"], 3);
        assert_eq!(fs::read_to_string(&file).unwrap(), lines);
        cluster.state().data.clear();
        let summary = json(&cluster, &["import", "--format", format, path(&file), "--verify"]).await;
        assert_eq!((&summary["entries"], &summary["verified"]), (&3.into(), &3.into()));
        assert_eq!(cluster.state().data, data);
    }
    let bad = folder.path().join("bad");
    fs::write(&bad, "good\tline\nbad line\n").unwrap();
    cluster.state().data.clear();
    let message = error(&cluster, &["import", "--format", "tsv", path(&bad)]).await;
    assert_eq!(message, "line 2: expected a key, a tab and a value");
    assert!(cluster.state().data.is_empty(), "the file is checked before anything is written");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "no partial file is left");
}

#[tokio::test]
async fn keys_that_leave_the_directory_are_not_written() {
    let cluster = cluster(&[]);
    let folder = tempfile::tempdir().unwrap();
    for key in ["ok/file", "../escape", "/abs", "a//b", "nul\0", "ok/file/below"] {
        cluster.state().data.insert(key.into(), ("x".into(), 0));
    }
    let target = folder.path().join("target");
    let message = error(&cluster, &["export", "--dir", path(&target)]).await;
    assert_eq!(message, "5 of 6 keys were not written");
    assert_eq!(fs::read_to_string(target.join("ok/file")).unwrap(), "x");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn an_import_that_failed_says_what_and_goes_on_from_its_record() {
    let cluster = cluster(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (source, record) = (folder.path().join("source"), folder.path().join("record"));
    fs::create_dir(&source).unwrap();
    for at in 0..50 {
        fs::write(source.join(format!("{at:02}")), "x").unwrap();
    }
    let too_large = flotilla_proto::errorpb::Error {
        raft_entry_too_large: Some(Default::default()),
        ..Default::default()
    };
    // The first ten are stored, the rest is refused.
    cluster.state().faults.extend(std::iter::repeat_n(Fault::Pass, 10));
    cluster.inject(too_large, 100);
    let args = ["import", "--dir", path(&source), "--resume", path(&record), "--concurrency", "1"];
    let message = error(&cluster, &args).await;
    assert_eq!(message, "40 of 50 entries were not stored, 24 of them not tried; run the same command again");
    cluster.state().faults.clear();
    cluster.state().data.clear();
    let summary = json(&cluster, &args).await;
    assert_eq!((&summary["entries"], &summary["already_stored"]), (&40.into(), &10.into()));
    assert_eq!(cluster.state().data.len(), 40);
    assert!(!record.exists(), "nothing is left to resume");
}

#[tokio::test]
async fn verification_finds_every_missing_and_different_value() {
    let cluster = cluster(&["m"]);
    let folder = tempfile::tempdir().unwrap();
    for name in ["same", "different", "missing"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    let client = flotilla_router::Client::connect(&cluster.addresses()).await.unwrap();
    client.put("same", "same", 0).await.unwrap();
    client.put("different", "Different", 0).await.unwrap();
    let mut files = tree::Tree::read(folder.path()).unwrap().files;
    let gone = folder.path().join("gone");
    files.push(Item::File { key: "gone".into(), path: gone, bytes: 1 });
    let mut calls = 0;
    let report = verify(&client, Items::list(files), &LoadOptions::default(), |_| calls += 1).await;
    assert_eq!((report.matched, calls), (1, 4));
    assert_eq!(
        (report.missing.clone(), report.different.clone()),
        (vec!["missing".into()], vec!["different".into()])
    );
    assert_eq!(report.unread.len(), 1);
    assert!(!report.is_clean());
}

#[tokio::test]
async fn a_load_survives_a_dead_store_and_shows_its_figures() {
    let mut cluster = cluster(&["100", "200", "300"]);
    let client = flotilla_router::Client::connect(&cluster.addresses()).await.unwrap();
    let items = (0..400_u64).map(|at| Item::Record {
        key: format!("{at:03}").into(),
        value: at.to_string().into(),
        ttl_seconds: 0,
    });
    let items: Vec<Item> = items.collect();
    let mut victim = Some(1);
    let options = LoadOptions { concurrency: 8, ..LoadOptions::default() };
    let report = load(&client, Items::list(items.clone()), &options, |progress| {
        if progress.done > 200 {
            victim.take().into_iter().for_each(|store| cluster.kill(store, true));
        }
    })
    .await;
    assert_eq!((report.progress.done, report.failures.len(), report.untried), (400, 0, 0));
    assert_eq!(report.progress.front, 400);
    assert!(report.rates.writes_per_second(std::time::Duration::ZERO, report.progress.elapsed) > 0.0);
    assert!(verify(&client, Items::list(items), &options, |_| ()).await.is_clean());
}

#[tokio::test]
async fn stores_and_regions_are_shown_and_changed() {
    let cluster = cluster(&["m"]);
    let stores = json(&cluster, &["ctl", "stores"]).await;
    assert_eq!(stores.as_array().map(Vec::len), Some(3));
    assert_eq!(stores[0]["region_count"], 3);
    assert!(text(&cluster, &["ctl", "stores"]).await.contains(&cluster.addresses()[2]));
    let regions = json(&cluster, &["ctl", "regions"]).await;
    assert_eq!(regions[0]["end_key"], "6d");
    assert_eq!((&regions[0]["start_key"], &regions[0]["epoch"]["version"]), (&"".into(), &2.into()));
    assert_eq!(regions[1]["peers"][2]["store_id"], 3);
    let id = regions[1]["id"].to_string();
    let shown = text(&cluster, &["ctl", "regions"]).await;
    assert!(shown.contains("-∞") && shown.contains("+∞") && shown.contains("(8193 bytes)"), "{shown}");

    json(&cluster, &["ctl", "transfer-leader", "--region", &id, "--store", "3"]).await;
    assert_eq!(json(&cluster, &["ctl", "region", "--id", &id]).await["leader"]["store_id"], 3);
    json(&cluster, &["ctl", "remove-peer", "--region", &id, "--store", "1"]).await;
    let region = json(&cluster, &["ctl", "region", "--id", &id]).await;
    assert_eq!(region["peers"].as_array().map(Vec::len), Some(2));
    json(&cluster, &["ctl", "add-peer", "--region", &id, "--store", "1"]).await;
    assert!(
        error(&cluster, &["ctl", "add-peer", "--region", &id, "--store", "1"]).await.starts_with("refused: ")
    );
    json(&cluster, &["ctl", "remove-peer", "--region", &id, "--store", "1"]).await;
    let order = ["ctl", "move", "--region", &id, "--from", "2", "--to", "1"];
    assert_eq!(json(&cluster, &order).await[0]["peers"].as_array().map(Vec::len), Some(2));
    json(&cluster, &order).await;
    let stores = json(&cluster, &["ctl", "region", &id]).await["peers"].clone();
    let stores: Vec<_> =
        stores.as_array().expect("peers").iter().map(|peer| peer["store_id"].clone()).collect();
    assert!(stores.contains(&1.into()) && !stores.contains(&2.into()), "{stores:?}");
    let back = ["ctl", "move", "--region", &id, "--from", "2", "--to", "9"];
    assert!(error(&cluster, &back).await.starts_with("refused: region"), "nothing to move");
    json(&cluster, &["ctl", "add-peer", "--region", &id, "--store", "2"]).await;
    text(&cluster, &["ctl", "split", "--region", &id, "--key", "p", "--key", "t"]).await;
    assert_eq!(json(&cluster, &["ctl", "regions"]).await.as_array().map(Vec::len), Some(5));
    assert_eq!(error(&cluster, &["ctl", "region", "--id", "999999"]).await, "region 999999 does not exist");
    assert_eq!(error(&cluster, &["ctl", "region", "--id", "0"]).await, "region 0 does not exist");
}

#[tokio::test]
async fn commands_pass_over_dead_stores_and_name_them_when_none_is_left() {
    let mut cluster = cluster(&[]);
    cluster.kill(1, true);
    text(&cluster, &["put", "k", "v"]).await;
    assert_eq!(json(&cluster, &["ctl", "stores"]).await.as_array().map(Vec::len), Some(3));
    cluster.kill(2, true);
    cluster.kill(3, false);
    let addresses = cluster.addresses();
    let message = error(&cluster, &["ctl", "stores"]).await;
    assert!(addresses.iter().all(|address| message.contains(address)), "{message}");
    assert!(error(&cluster, &["get", "k", "--timeout", "1"]).await.contains("placement does not answer"));
}
