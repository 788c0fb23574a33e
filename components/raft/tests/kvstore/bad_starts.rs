//! Processes that must start in spite of something, and processes that must not.

use std::{fs, io::Write, net::TcpStream, path::PathBuf};

use crate::{
    cluster::Cluster,
    process::{Process, program, wait_for},
};

/// A group of one with ten keys, killed; its log.
fn killed_with_ten_keys() -> (Cluster, PathBuf) {
    let mut cluster = Cluster::start(1, 1000);
    for number in 0..10 {
        cluster.peer(1).wait_put(&format!("key{number}"), &format!("value{number}"));
    }
    cluster.peer_mut(1).kill9();
    let log = cluster.peer(1).folder.join("log");
    (cluster, log)
}

fn check_ten_keys(peer: &Process) {
    for number in 0..10 {
        assert_eq!(peer.wait_get(&format!("key{number}")), Some(format!("value{number}")));
    }
}

/// Waits for a process that refuses to start, for the reason given.
fn wait_refused(peer: &mut Process, reason: &str) {
    let before = peer.said().len();
    peer.spawn();
    assert_eq!(peer.wait_ended().code(), Some(1));
    let said = peer.said();
    assert!(said[before..].contains(reason), "{}", &said[before..]);
    assert!(!said[before..].contains("panicked"), "{}", &said[before..]);
}

#[test]
fn a_torn_tail_is_cut_off_and_nothing_acknowledged_is_lost() {
    let (mut cluster, log) = killed_with_ten_keys();
    for torn in [&[7_u8][..], &[0; 5000], b"half a record that never got its second half"] {
        let whole = fs::read(&log).unwrap();
        fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(torn).unwrap();
        cluster.peer_mut(1).spawn();
        check_ten_keys(cluster.peer(1));
        cluster.peer(1).wait_put("after", "the tear");
        cluster.peer_mut(1).kill9();
        let cut = fs::read(&log).unwrap();
        assert!(cut.starts_with(&whole) && !cut[whole.len()..].starts_with(torn));
    }
    cluster.peer_mut(1).spawn();
    check_ten_keys(cluster.peer(1));
    assert_eq!(cluster.peer(1).wait_get("after").as_deref(), Some("the tear"));
}

#[test]
fn a_write_that_fails_ends_the_process_and_loses_nothing_acknowledged() {
    let (mut cluster, log) = killed_with_ten_keys();
    let before = fs::metadata(&log).unwrap().len();
    cluster.peer_mut(1).spawn_on_full_disk(before / 512 + 10);
    check_ten_keys(cluster.peer(1));
    let mut acknowledged = 0;
    wait_for("the disk is full", || {
        if cluster.peer(1).put(&format!("more{acknowledged}"), &"x".repeat(700)).is_ok() {
            acknowledged += 1;
        }
        let said = cluster.peer(1).said();
        if said.contains("File too large") { Ok(()) } else { Err(format!("{acknowledged} puts: {said}")) }
    });
    assert!((1..=10).contains(&acknowledged), "{acknowledged}");
    assert_eq!(cluster.peer_mut(1).wait_ended().code(), Some(1));
    cluster.peer_mut(1).spawn();
    check_ten_keys(cluster.peer(1));
    for number in 0..acknowledged {
        assert_eq!(cluster.peer(1).wait_get(&format!("more{number}")), Some("x".repeat(700)));
    }
}

#[test]
fn a_log_damaged_in_the_middle_is_refused_with_a_sentence() {
    let (mut cluster, log) = killed_with_ten_keys();
    let whole = fs::read(&log).unwrap();
    let at = whole.windows(6).position(|window| window == b"value3").expect("it is in there");
    let mut damaged = whole.clone();
    damaged[at] ^= 1;
    fs::write(&log, &damaged).unwrap();
    wait_refused(cluster.peer_mut(1), "log is damaged at byte");
    assert_eq!(fs::read(&log).unwrap(), damaged, "it is left as it was found");
    fs::write(&log, "something else").unwrap();
    wait_refused(cluster.peer_mut(1), "is not a log of this program");
    fs::write(&log, &whole).unwrap();
    cluster.peer_mut(1).spawn();
    check_ten_keys(cluster.peer(1));
}

#[test]
fn a_peer_whose_disk_was_wiped_stops_instead_of_voting_again() {
    let mut cluster = Cluster::start(3, 1000);
    let leader = cluster.wait_leader();
    for number in 0..10 {
        cluster.peer(leader).wait_put(&format!("key{number}"), "value");
    }
    let wiped = cluster.others(leader)[0];
    assert_eq!(cluster.peer(wiped).wait_get("key9").as_deref(), Some("value"));
    cluster.peer_mut(wiped).kill9();
    fs::remove_dir_all(&cluster.peer(wiped).folder).unwrap();
    wait_refused(cluster.peer_mut(wiped), "its disk lost data");
    cluster.peer(leader).wait_put("key", "the others go on");
}

#[test]
fn a_folder_of_another_peer_and_a_wrong_command_line_are_refused() {
    let (mut cluster, _) = killed_with_ten_keys();
    let folder = cluster.peer(1).folder.clone();
    cluster.spawn_newcomer(2);
    cluster.peer_mut(2).kill9();
    cluster.peer_mut(2).folder = folder;
    wait_refused(cluster.peer_mut(2), "is the folder of peer 1");
    for arguments in [
        &[][..],
        &["--id", "1"],
        &["--id", "1", "--dir", "/nowhere", "--join", "127.0.0.1:1"],
        &["--id", "2", "--dir", "/nowhere", "--group", "1=127.0.0.1:1/127.0.0.1:2"],
        &["--id", "1", "--dir", "/nowhere", "--group", "1=127.0.0.1:1/127.0.0.1:2", "--tick-ms", "0"],
    ] {
        let output = program().args(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.contains("usage: kvstore"), "{arguments:?}: {said}");
    }
}

#[test]
fn nonsense_on_the_port_for_peers_harms_nobody() {
    let cluster = Cluster::start(1, 1000);
    let peer = cluster.peer(1);
    let hello = |to: u64| {
        let mut frame = vec![31, 0, 0, 0];
        frame.extend_from_slice(&9_u64.to_le_bytes());
        frame.extend_from_slice(&to.to_le_bytes());
        frame.extend_from_slice(&7_u64.to_le_bytes());
        frame.extend_from_slice(b"1.2.3:4");
        frame
    };
    let long = [&u32::MAX.to_le_bytes()[..], &[0; 100]].concat();
    for bytes in [b"GET / HTTP/1.0\r\n\r\n".to_vec(), long, hello(1), hello(2)] {
        let mut stream = TcpStream::connect(peer.raft).unwrap();
        // It may hang up before everything is written.
        let _ = stream.write_all(&bytes);
    }
    wait_for("a word about it", || {
        let said = peer.said();
        if said.contains("nonsense from") { Ok(()) } else { Err(said) }
    });
    peer.wait_put("key", "value");
    assert!(!peer.said().contains("panicked"), "{}", peer.said());
}
