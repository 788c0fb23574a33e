//! Stores, regions and pairs as tables and as JSON.

use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use flotilla_proto::flotilla::region_event::Kind as EventKind;
use flotilla_proto::flotilla::{CheckReply, DamagedPeer, RegionEvent, RegionInfo, StoreInfo};
use flotilla_proto::metapb;
use flotilla_raftstore::wire;
use serde_json::{Value, json};

use super::common::Common;
use super::text::{show_short, show_size, show_time, to_hex};

/// Characters of a key in a table.
const KEY_CHARS_MAX: usize = 40;

/// An empty table with these columns.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_header(header.iter().copied());
    table
}

/// A pair as an object: text where the bytes are UTF-8 and `--hex` does not ask otherwise.
pub(super) fn pair_json(common: &Common, key: &[u8], value: Option<&[u8]>) -> Value {
    let mut object = serde_json::Map::new();
    for (name, bytes) in [("key", Some(key)), ("value", value)] {
        let Some(bytes) = bytes else { continue };
        match std::str::from_utf8(bytes) {
            Ok(text) if !common.hex => object.insert(name.to_owned(), text.into()),
            _ => object.insert(format!("{name}_hex"), to_hex(bytes).into()),
        };
    }
    Value::Object(object)
}

/// Stores for people.
pub fn store_table(stores: &[StoreInfo]) -> String {
    let mut table = table(&[
        "store",
        "address",
        "state",
        "regions",
        "leaders",
        "size",
        "keys",
        "pending",
        "down",
        "reads/s",
        "writes/s",
        "free",
        "capacity",
        "log sync",
        "last heard",
        "damaged",
    ]);
    for info in stores {
        let store = info.store.clone().unwrap_or_default();
        table.add_row([
            store.id.to_string(),
            store.address.clone(),
            match (store.state(), info.is_silent) {
                (metapb::StoreState::Up, true) => "silent".to_owned(),
                (state, _) => format!("{state:?}"),
            },
            info.region_count.to_string(),
            info.leader_count.to_string(),
            show_size(info.region_bytes),
            info.region_keys.to_string(),
            info.pending_peers.to_string(),
            info.down_peers.to_string(),
            show_rate(info.reads, info.read_bytes),
            show_rate(info.writes, info.write_bytes),
            show_known_size(info.available_bytes, info.capacity_bytes > 0),
            show_known_size(info.capacity_bytes, info.capacity_bytes > 0),
            if info.log_sync_us == 0 {
                "-".into()
            } else {
                format!("{:.1} ms", info.log_sync_us as f64 / 1e3)
            },
            heard_ms(info).map_or("never".into(), |ms| format!("{:.1} s ago", ms as f64 / 1_000.0)),
            info.damaged.iter().map(|d| d.region_id.to_string()).collect::<Vec<_>>().join(" "),
        ]);
    }
    table.to_string()
}

/// How long ago the asked store heard of another one; `None` = not since it started.
fn heard_ms(info: &StoreInfo) -> Option<u64> {
    Some(info.last_heard_ms).filter(|ms| *ms < u64::MAX)
}

fn show_known_size(bytes: u64, is_known: bool) -> String {
    if is_known { show_size(bytes) } else { "-".into() }
}

/// A store for machines.
pub(super) fn store_json(info: &StoreInfo) -> Value {
    let store = info.store.clone().unwrap_or_default();
    json!({
        "id": store.id,
        "address": store.address,
        "status_address": store.status_address,
        "state": format!("{:?}", store.state()),
        "version": store.version,
        "labels": store.labels.iter().map(|l| (l.key.clone(), json!(l.value))).collect::<serde_json::Map<_, _>>(),
        "region_count": info.region_count,
        "leader_count": info.leader_count,
        "capacity_bytes": info.capacity_bytes,
        "available_bytes": info.available_bytes,
        "last_heard_ms": heard_ms(info),
        "is_silent": info.is_silent,
        "region_bytes": info.region_bytes,
        "region_keys": info.region_keys,
        "pending_peers": info.pending_peers,
        "down_peers": info.down_peers,
        "reads_per_second": info.reads,
        "read_bytes_per_second": info.read_bytes,
        "writes_per_second": info.writes,
        "write_bytes_per_second": info.write_bytes,
        "log_sync_us": info.log_sync_us,
        "damaged": info.damaged.iter().map(damaged_json).collect::<Vec<_>>(),
    })
}

/// A damaged replica for machines.
fn damaged_json(damaged: &DamagedPeer) -> Value {
    json!({ "region_id": damaged.region_id, "peer_id": damaged.peer_id, "why": damaged.why })
}

/// What a comparison of replicas showed, for machines.
pub(super) fn check_json(region: u64, reply: &CheckReply) -> Value {
    let replicas = reply.replicas.iter().map(|replica| {
        let digest = replica
            .has_digest
            .then(|| json!({ "crc": replica.crc, "keys": replica.keys, "bytes": replica.bytes }));
        json!({
            "peer": replica.peer.as_ref().map(peer_json),
            "digest": digest,
            "is_odd": replica.is_odd,
        })
    });
    json!({ "region": region, "index": reply.index, "replicas": replicas.collect::<Vec<_>>() })
}

/// What comparisons of replicas showed, for people.
pub(super) fn check_table(checked: &[(u64, CheckReply)]) -> String {
    let mut table = table(&["region", "index", "replica", "keys", "bytes", "crc", "verdict"]);
    for (region, reply) in checked {
        for replica in &reply.replicas {
            let shown = |text: String| if replica.has_digest { text } else { String::new() };
            table.add_row([
                region.to_string(),
                reply.index.to_string(),
                replica.peer.as_ref().map(show_peer).unwrap_or_default(),
                shown(replica.keys.to_string()),
                shown(replica.bytes.to_string()),
                shown(format!("{:08x}", replica.crc)),
                match (replica.has_digest, replica.is_odd) {
                    (false, _) => "no answer",
                    (true, true) => "differs: is replaced",
                    (true, false) => "",
                }
                .to_owned(),
            ]);
        }
    }
    table.to_string()
}

/// Regions for people.
pub fn region_table(regions: &[RegionInfo], hex: bool) -> String {
    let mut table = table(&[
        "region", "start", "end", "epoch", "peers", "leader", "size", "keys", "reads/s", "writes/s",
        "troubled",
    ]);
    for info in regions {
        let region = info.region.clone().unwrap_or_default();
        let mut row = descriptor_row(&region, hex).to_vec();
        row.extend([
            info.leader.as_ref().filter(|l| l.id != 0).map_or("none".to_owned(), |l| {
                match info.silent_peers.contains(&l.id) {
                    true => format!("none (store {} is silent)", l.store_id),
                    false => format!("store {}", l.store_id),
                }
            }),
            show_size(info.approximate_bytes),
            info.approximate_keys.to_string(),
            show_rate(info.reads, info.read_bytes),
            show_rate(info.writes, info.write_bytes),
            troubled(info),
        ]);
        table.add_row(row);
    }
    table.to_string()
}

/// Descriptors for people.
pub(super) fn descriptor_table(regions: &[metapb::Region], hex: bool) -> String {
    let mut table = table(&["region", "start", "end", "epoch", "peers"]);
    for region in regions {
        table.add_row(descriptor_row(region, hex));
    }
    table.to_string()
}

/// A region for machines.
pub(super) fn region_json(info: &RegionInfo) -> Value {
    let mut value = descriptor_json(&info.region.clone().unwrap_or_default());
    value["leader"] = info.leader.as_ref().filter(|leader| leader.id != 0).map_or(Value::Null, peer_json);
    value["term"] = info.term.into();
    value["approximate_bytes"] = info.approximate_bytes.into();
    value["approximate_keys"] = info.approximate_keys.into();
    value["down_peers"] = json!(info.down_peers);
    value["pending_peers"] = json!(info.pending_peers);
    value["down_seconds"] = json!(info.down_seconds);
    value["silent_peers"] = json!(info.silent_peers);
    value["has_quorum"] = json!(has_quorum(info));
    value["reads_per_second"] = info.reads.into();
    value["read_bytes_per_second"] = info.read_bytes.into();
    value["writes_per_second"] = info.writes.into();
    value["write_bytes_per_second"] = info.write_bytes.into();
    value["history"] = info.history.iter().map(event_json).collect();
    value
}

/// One region for people, with its history.
pub(super) fn region_text(info: &RegionInfo, hex: bool) -> String {
    let regions = region_table(std::slice::from_ref(info), hex);
    if info.history.is_empty() {
        return regions;
    }
    let mut table = table(&["when", "what", "regions", "keys", "epoch"]);
    for event in &info.history {
        let what = match event.kind() {
            EventKind::Split => "split into",
            EventKind::SplitFrom => "split from",
            EventKind::Merged => "merged with",
            EventKind::Unknown => "?",
        };
        let key = |key: &bytes::Bytes| match (key.is_empty(), hex) {
            (true, _) => "∞".to_owned(),
            (false, true) => to_hex(key),
            (false, false) => show_short(key, KEY_CHARS_MAX),
        };
        let epoch = event.epoch.unwrap_or_default();
        table.add_row([
            show_time(event.time_ms),
            what.to_owned(),
            event.regions.iter().map(u64::to_string).collect::<Vec<_>>().join(" "),
            event.keys.iter().map(key).collect::<Vec<_>>().join(" .. "),
            format!("{}/{}", epoch.conf_ver, epoch.version),
        ]);
    }
    format!("{regions}\n{table}")
}

fn event_json(event: &RegionEvent) -> Value {
    let epoch = event.epoch.unwrap_or_default();
    json!({
        "kind": match event.kind() {
            EventKind::Split => "split",
            EventKind::SplitFrom => "split_from",
            EventKind::Merged => "merged",
            EventKind::Unknown => "unknown",
        },
        "regions": event.regions,
        "keys": event.keys.iter().map(|key| to_hex(key)).collect::<Vec<_>>(),
        "epoch": { "conf_ver": epoch.conf_ver, "version": epoch.version },
        "time_ms": event.time_ms,
    })
}

/// Requests, and what they move; nothing for nothing.
fn show_rate(requests: u64, bytes: u64) -> String {
    if requests == 0 && bytes == 0 { String::new() } else { format!("{requests} ({})", show_size(bytes)) }
}

/// A descriptor for machines.
pub(super) fn descriptor_json(region: &metapb::Region) -> Value {
    let epoch = region.region_epoch.unwrap_or_default();
    json!({
        "id": region.id,
        "start_key": to_hex(&region.start_key),
        "end_key": to_hex(&region.end_key),
        "meta_space": region.meta_space,
        "epoch": { "conf_ver": epoch.conf_ver, "version": epoch.version },
        "peers": region.peers.iter().map(peer_json).collect::<Vec<_>>(),
    })
}

fn peer_json(peer: &metapb::Peer) -> Value {
    json!({ "id": peer.id, "store_id": peer.store_id, "role": format!("{:?}", peer.role()) })
}

fn descriptor_row(region: &metapb::Region, hex: bool) -> [String; 5] {
    let key = |bytes: &[u8], empty: &str| match (bytes.is_empty(), hex) {
        (true, _) => empty.to_owned(),
        (false, true) => to_hex(bytes),
        (false, false) => show_short(bytes, KEY_CHARS_MAX),
    };
    let (first, last) = if region.meta_space { ("(meta)", "(meta)") } else { ("-∞", "+∞") };
    let epoch = region.region_epoch.unwrap_or_default();
    let peers: Vec<String> = region.peers.iter().map(show_peer).collect();
    [
        region.id.to_string(),
        key(&region.start_key, first),
        key(&region.end_key, last),
        format!("{}/{}", epoch.conf_ver, epoch.version),
        peers.join(" "),
    ]
}

/// `peer@store`, with its role unless it is a voter.
fn show_peer(peer: &metapb::Peer) -> String {
    let role = match peer.role() {
        metapb::PeerRole::Voter => "",
        metapb::PeerRole::Learner => " learner",
        metapb::PeerRole::IncomingVoter => " incoming",
        metapb::PeerRole::DemotingVoter => " demoting",
    };
    format!("{}@{}{role}", peer.id, peer.store_id)
}

/// Whether a quorum of the voters is on stores that are heard of.
fn has_quorum(info: &RegionInfo) -> bool {
    let region = info.region.as_ref().map(wire::region_from_wire).unwrap_or_default();
    region.has_quorum(|peer| !info.silent_peers.contains(&peer.id.0))
}

fn troubled(info: &RegionInfo) -> String {
    let list = |what: &str, peers: &[u64]| {
        let peers: Vec<String> = peers.iter().map(u64::to_string).collect();
        if peers.is_empty() { None } else { Some(format!("{what} {}", peers.join(" "))) }
    };
    let silence = info.down_peers.iter().zip(info.down_seconds.iter().chain(std::iter::repeat(&0)));
    let down: Vec<String> = silence.map(|(peer, seconds)| format!("{peer} (over {seconds} s)")).collect();
    let down = (!down.is_empty()).then(|| format!("down {}", down.join(" ")));
    let no_quorum = (!has_quorum(info)).then(|| "no quorum".to_owned());
    let parts = [no_quorum, down, list("silent", &info.silent_peers), list("pending", &info.pending_peers)];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use metapb::PeerRole::{DemotingVoter, IncomingVoter, Learner, Voter};

    fn info(roles: &[metapb::PeerRole], silent: &[u64]) -> RegionInfo {
        let peers = roles.iter().zip(1..).map(|(role, id)| metapb::Peer {
            id,
            store_id: 10 * id,
            role: *role as i32,
            ..Default::default()
        });
        let region = metapb::Region { id: 7, peers: peers.collect(), ..Default::default() };
        let leader = region.peers.first().cloned();
        RegionInfo { region: Some(region), leader, silent_peers: silent.to_vec(), ..Default::default() }
    }

    #[test]
    fn a_leader_on_a_silent_store_is_none_and_a_lost_quorum_is_said() {
        let shown = region_table(&[info(&[Voter, Voter, Voter], &[1])], false);
        assert!(shown.contains("none (store 10 is silent)") && shown.contains("silent 1"), "{shown}");
        assert!(!shown.contains("no quorum"), "{shown}");
        let shown = region_table(&[info(&[Voter, Voter, Voter], &[2, 3])], false);
        assert!(shown.contains("store 10") && shown.contains("no quorum, silent 2 3"), "{shown}");
        for (roles, silent, has) in [
            (&[Voter, Learner, Learner][..], &[2, 3][..], true),
            (&[Voter, Voter], &[2], false),
            (&[Voter, DemotingVoter, IncomingVoter], &[], true),
            (&[Voter, DemotingVoter, IncomingVoter], &[3], false),
            (&[Voter, Voter, DemotingVoter, IncomingVoter], &[3], true),
        ] {
            assert_eq!(has_quorum(&info(roles, silent)), has, "{roles:?} without {silent:?}");
        }
    }

    #[test]
    fn a_store_that_was_never_heard_of_has_no_age() {
        let store = metapb::Store { id: 5, ..Default::default() };
        let info =
            StoreInfo { store: Some(store), last_heard_ms: u64::MAX, is_silent: true, ..Default::default() };
        let shown = store_table(std::slice::from_ref(&info));
        assert!(shown.contains("silent") && shown.contains("never"), "{shown}");
        assert_eq!(store_json(&info)["last_heard_ms"], Value::Null);
    }
}
