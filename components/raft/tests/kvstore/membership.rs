//! Peers that join and leave over HTTP.

use crate::{
    cluster::Cluster,
    process::{Answer, wait_for},
};

/// Repeats a change until it is made, or was made by an earlier attempt that got no answer.
fn wait_change(cluster: &Cluster, via: u64, method: &str, id: u64) {
    wait_for(&format!("{method} of member {id}"), || match cluster.change(via, method, id)? {
        Answer { code: 204 | 409, .. } => Ok(()),
        answer => Err(format!("{answer:?}")),
    });
}

/// Repeats a change until it is refused for good; the reason.
fn wait_refused(cluster: &Cluster, via: u64, method: &str, id: u64) -> String {
    wait_for("a refusal", || match cluster.change(via, method, id)? {
        Answer { code: 409, body, .. } => Ok(body),
        answer => Err(format!("{answer:?}")),
    })
}

#[test]
fn a_fourth_peer_joins_by_snapshot_and_the_leader_is_removed() {
    let mut cluster = Cluster::start(3, 30);
    for number in 0..100 {
        cluster.peer(1).wait_put(&format!("key{number}"), &format!("value{number}"));
    }
    let leader = cluster.wait_leader();
    let follower = cluster.others(leader)[0];
    assert!(cluster.peer(leader).wait_number("/log/0") > 1, "the first entries are gone");

    cluster.spawn_newcomer(4);
    let answer = cluster.peer(follower).request("DELETE", "/members/9", "").expect("an answer");
    assert_eq!(answer.code, 307, "a follower redirects: {answer:?}");
    wait_change(&cluster, follower, "PUT", 4);
    cluster.wait_members(4, &[1, 2, 3, 4]);
    assert_eq!(cluster.peer(4).wait_get("key7").as_deref(), Some("value7"));
    assert_eq!(cluster.peer(4).wait_number("/snapshots_received"), 1);
    assert_eq!(wait_refused(&cluster, 4, "PUT", 4), "the peer is a member already\n");
    assert_eq!(wait_refused(&cluster, 4, "DELETE", 9), "the peer is not a member\n");

    let leader = cluster.wait_leader();
    wait_change(&cluster, leader, "DELETE", leader);
    let gone = wait_for("the removed peer knows", || {
        let answer = cluster.peer(leader).request("GET", "/kv/key7", "")?;
        if answer.code == 410 { Ok(answer.body) } else { Err(format!("{answer:?}")) }
    });
    assert_eq!(gone, "this peer was removed from the group\n");
    cluster.peer_mut(leader).kill9();
    let next = cluster.wait_leader();
    let voters: Vec<u64> = (1..=4).filter(|id| *id != leader).collect();
    for voter in &voters {
        cluster.wait_members(*voter, &voters);
    }
    assert_eq!(
        wait_refused(&cluster, next, "PUT", leader),
        "the id was used before; a peer that returns takes a new one\n"
    );

    // The fourth counts: with it and one other of the three that are left, writes go on; also after a restart.
    let victim = voters.iter().copied().find(|id| *id != 4).expect("two founders are left");
    cluster.peer_mut(victim).kill9();
    cluster.peer(4).wait_put("after", "all");
    cluster.peer_mut(4).kill9();
    cluster.peer_mut(4).spawn();
    assert_eq!(cluster.peer(4).wait_get("after").as_deref(), Some("all"));
    cluster.wait_members(4, &voters);
}

#[test]
fn a_group_of_one_grows_to_three_and_shrinks_to_one() {
    let mut cluster = Cluster::start(1, 1000);
    cluster.peer(1).wait_put("key", "value");
    for id in [2, 3] {
        cluster.spawn_newcomer(id);
        wait_change(&cluster, 1, "PUT", id);
        cluster.wait_members(1, &(1..=id).collect::<Vec<_>>());
        assert_eq!(cluster.peer(id).wait_get("key").as_deref(), Some("value"));
        assert_eq!(cluster.peer(id).wait_number("/snapshots_received"), 0, "the log has everything");
    }
    for id in [2, 1] {
        wait_change(&cluster, 3, "DELETE", id);
        cluster.wait_members(3, if id == 2 { &[1, 3] } else { &[3] });
    }
    cluster.peer_mut(1).kill9();
    cluster.peer_mut(2).kill9();
    cluster.peer(3).wait_put("key", "other");
    assert_eq!(wait_refused(&cluster, 3, "DELETE", 3), "the group cannot make this change\n");
    assert_eq!(cluster.peer(3).wait_get("key").as_deref(), Some("other"));
}
