//! Reads and writes while processes are killed, restarted and paused.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    cluster::Cluster,
    process::{request, wait_for},
};

/// Entries between snapshots: every run of a few seconds sees several.
const SNAPSHOT_ENTRIES: u64 = 50;

/// Writes that were acknowledged.
type Acknowledged = Mutex<BTreeMap<String, String>>;

/// Writes keys of its own through one peer until it is stopped, whatever happens to the peer.
fn write_until_stopped(id: u64, http: SocketAddr, stop: &AtomicBool, acknowledged: &Acknowledged) {
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let (key, value) = (format!("by{id}/{number}"), format!("{id}-{number}"));
        match request(http, "PUT", &format!("/kv/{key}"), &value) {
            Ok(answer) if answer.code == 204 => {
                acknowledged.lock().expect("no writer panics").insert(key, value);
            }
            // Refused, or nobody knows. The key is not used again.
            Ok(_) | Err(_) => pace_writer(),
        }
    }
}

fn pace_writer() {
    thread::sleep(Duration::from_millis(5));
}

fn wait_more_acknowledged(acknowledged: &Acknowledged, count: usize) {
    let number = || acknowledged.lock().expect("no writer panics").len();
    let wanted = number() + count;
    wait_for("writes go on", || {
        let found = number();
        if found >= wanted { Ok(()) } else { Err(format!("{found} of {wanted}")) }
    });
}

#[test]
fn puts_gets_and_deletes_go_through_every_peer() {
    let cluster = Cluster::start(3, SNAPSHOT_ENTRIES);
    for via in 1..=3 {
        let key = format!("a key/of {via}").replace(' ', "%20");
        cluster.peer(via).wait_put(&key, "first");
        for reader in 1..=3 {
            assert_eq!(cluster.peer(reader).wait_get(&key).as_deref(), Some("first"));
        }
        cluster.peer(via % 3 + 1).wait_put(&key, "");
        for reader in 1..=3 {
            assert_eq!(cluster.peer(reader).wait_get(&key).as_deref(), Some(""), "an empty value is a value");
        }
        cluster.peer(via).wait_delete(&key);
        for reader in 1..=3 {
            assert_eq!(cluster.peer(reader).wait_get(&key), None);
        }
    }
    let large = "x".repeat((1 << 20) + 1);
    let answer = cluster.peer(1).request("PUT", "/kv/large", &large).expect("an answer");
    assert_eq!(answer.code, 413, "{answer:?}");
    cluster.peer(1).wait_put("large", &large[1..]);
    assert_eq!(cluster.peer(2).wait_get("large").as_deref(), Some(&large[1..]));
}

#[test]
fn every_acknowledged_write_survives_the_kill_of_the_leader_and_of_all() {
    let mut cluster = Cluster::start(3, SNAPSHOT_ENTRIES);
    let acknowledged = Acknowledged::default();
    let stop = AtomicBool::new(false);
    let addresses: Vec<(u64, SocketAddr)> = cluster.running().map(|(id, peer)| (id, peer.http)).collect();
    thread::scope(|scope| {
        for (id, http) in addresses {
            let (stop, acknowledged) = (&stop, &acknowledged);
            scope.spawn(move || write_until_stopped(id, http, stop, acknowledged));
        }
        // The writers must not be waited for if something below fails.
        let stopper = StopOnDrop(&stop);
        wait_more_acknowledged(&acknowledged, 50);

        let leader = cluster.wait_leader();
        cluster.peer_mut(leader).kill9();
        wait_more_acknowledged(&acknowledged, 100);
        let next = cluster.wait_leader();
        assert_ne!(next, leader);

        cluster.peer_mut(leader).spawn();
        // A linearizable read through it: it has everything that was acknowledged before.
        cluster.peer(next).wait_put("while-it-was-down", "yes");
        assert_eq!(cluster.peer(leader).wait_get("while-it-was-down").as_deref(), Some("yes"));
        wait_more_acknowledged(&acknowledged, 50);

        cluster.peers.values_mut().for_each(|peer| peer.kill9());
        drop(stopper);
    });
    cluster.peers.values_mut().for_each(|peer| peer.spawn());
    cluster.wait_leader();
    let acknowledged = acknowledged.into_inner().expect("no writer panics");
    assert!(acknowledged.len() >= 200, "{}", acknowledged.len());
    for (number, (key, value)) in acknowledged.iter().enumerate() {
        let reader = cluster.peer(number as u64 % 3 + 1);
        assert_eq!(reader.wait_get(key).as_deref(), Some(value.as_str()), "{key}");
    }
    for (_, peer) in cluster.running() {
        assert!(peer.wait_number("/snapshot") > 0, "the logs were compacted");
        assert!(peer.wait_number("/log/0") > 1, "the logs were compacted");
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_peer_far_behind_gets_a_snapshot() {
    let mut cluster = Cluster::start(3, SNAPSHOT_ENTRIES);
    let leader = cluster.wait_leader();
    let behind = cluster.others(leader)[0];
    cluster.peer(leader).wait_put("before", "1");
    assert_eq!(cluster.peer(behind).wait_get("before").as_deref(), Some("1"));
    let last = cluster.peer(behind).wait_number("/log/1");
    cluster.peer_mut(behind).kill9();
    for number in 0..3 * SNAPSHOT_ENTRIES {
        cluster.peer(leader).wait_put(&format!("key{number}"), &format!("value{number}"));
    }
    cluster.peer(leader).wait_delete("before");
    for id in cluster.others(behind) {
        let first = cluster.peer(id).wait_number("/log/0");
        assert!(first > last + 1, "the entries that {behind} lacks are gone from {id}: {first} > {last}");
    }
    cluster.peer_mut(behind).spawn();
    assert_eq!(cluster.peer(behind).wait_get("before"), None);
    assert_eq!(cluster.peer(behind).wait_number("/snapshots_received"), 1);
    for number in 0..3 * SNAPSHOT_ENTRIES {
        let found = cluster.peer(behind).wait_get(&format!("key{number}"));
        assert_eq!(found, Some(format!("value{number}")));
    }
    // What it received is on its disk: it needs no second one.
    cluster.peer_mut(behind).kill9();
    cluster.peer_mut(behind).spawn();
    assert_eq!(cluster.peer(behind).wait_get("key0").as_deref(), Some("value0"));
    assert_eq!(cluster.peer(behind).wait_number("/snapshots_received"), 0);
}

#[test]
fn a_leader_that_was_paused_does_not_answer_from_the_past() {
    let cluster = Cluster::start(3, SNAPSHOT_ENTRIES);
    for round in 0..3 {
        let leader = cluster.wait_leader();
        cluster.peer(leader).wait_put("key", "old");
        cluster.peer(leader).signal("STOP");
        let other = cluster.others(leader)[0];
        cluster.peer(other).wait_put("key", &format!("new {round}"));
        // The question waits in the socket of the paused process, which still believes that it leads.
        let http = cluster.peer(leader).http;
        let asked = thread::spawn(move || request(http, "GET", "/kv/key", ""));
        cluster.peer(leader).signal("CONT");
        let answer = asked.join().expect("the client does not panic").expect("an answer");
        if answer.code == 200 {
            assert_eq!(answer.body, format!("new {round}"));
        } else {
            assert!(matches!(answer.code, 503 | 504), "{answer:?}");
        }
        assert_eq!(cluster.peer(leader).wait_get("key"), Some(format!("new {round}")));
    }
}

#[test]
fn a_peer_without_a_majority_answers_nothing() {
    let mut cluster = Cluster::start(3, SNAPSHOT_ENTRIES);
    let leader = cluster.wait_leader();
    cluster.peer(leader).wait_put("key", "value");
    for other in cluster.others(leader) {
        cluster.peer_mut(other).kill9();
    }
    let read = cluster.peer(leader).request("GET", "/kv/key", "").expect("an answer");
    assert!(matches!(read.code, 503 | 504), "{read:?}");
    let written = cluster.peer(leader).request("PUT", "/kv/key", "lost?").expect("an answer");
    assert!(matches!(written.code, 503 | 504), "{written:?}");
    let back = if leader == 1 { 2 } else { 1 };
    cluster.peer_mut(back).spawn();
    let found = cluster.peer(back).wait_get("key").expect("a value");
    assert!(["value", "lost?"].contains(&found.as_str()), "{found}");
}
