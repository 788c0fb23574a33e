//! The on-disk keys byte by byte, and ranges, epochs and configurations against naive models.

use flotilla_region::keys::{self, LogKey};
use flotilla_region::{
    Index, KeyRange, Peer, PeerId, PeerRole, Region, RegionEpoch, RegionId, Space, StoreId,
};
use proptest::prelude::*;

const REGION: RegionId = RegionId(0x0102_0304_0506_0708);
const PEER: PeerId = PeerId(0x1112_1314_1516_1718);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The byte table in `keys.rs`, one line each. A change here is a new on-disk format.
#[test]
fn keys_are_laid_out_as_the_table_says() {
    let golden: Vec<(&str, Vec<u8>, &str)> = vec![
        ("round", keys::LOG_ROUND.to_vec(), "01"),
        ("hard state", keys::log_hard_state(REGION, PEER).to_vec(), "020102030405060708111213141516171801"),
        ("base", keys::log_base(REGION, PEER).to_vec(), "020102030405060708111213141516171802"),
        ("promise", keys::log_promise(REGION, PEER).to_vec(), "020102030405060708111213141516171804"),
        ("own epoch", keys::OWN_EPOCH.to_vec(), "0301"),
        ("proof", keys::LOG_PROOF.to_vec(), "0302"),
        ("supported", keys::supported(flotilla_region::StoreId(7)).to_vec(), "03030000000000000007"),
        (
            "entry",
            keys::log_entry(REGION, PEER, Index(0x2122_2324_2526_2728)).to_vec(),
            "0201020304050607081112131415161718032122232425262728",
        ),
        (
            "peer start",
            keys::log_peer_bounds(REGION, PEER).0.to_vec(),
            "020102030405060708111213141516171800",
        ),
        ("peer end", keys::log_peer_bounds(REGION, PEER).1.to_vec(), "0201020304050607081112131415161718ff"),
        ("log start", keys::log_bounds().0, "02"),
        ("log end", keys::log_bounds().1, "03"),
        ("ident", keys::STORE_IDENT.to_vec(), "01"),
        ("region state", keys::region_state(REGION).to_vec(), "02010203040506070801"),
        ("apply state", keys::apply_state(REGION).to_vec(), "02010203040506070802"),
        ("merge state", keys::merge_state(REGION).to_vec(), "02010203040506070803"),
        ("history", keys::history(REGION).to_vec(), "02010203040506070805"),
        ("regions start", keys::region_bounds().0, "02"),
        ("regions end", keys::region_bounds().1, "03"),
        ("store fact", keys::store_fact(b"ids"), "03696473"),
        ("positions", keys::positions(0x0203, 0x0405)[0].to_vec(), "0402030405"),
        ("positions again", keys::positions(0x0203, 0x0405)[1].to_vec(), "3002030405"),
        ("positions start", keys::positions_bounds()[0].0.to_vec(), "04"),
        ("positions end", keys::positions_bounds()[1].1.to_vec(), "31"),
        ("meta key", keys::data_key(Space::Meta, b"ids"), "10696473"),
        ("user key", keys::data_key(Space::User, b"k\x00\xff"), "206b00ff"),
        ("empty user key", keys::data_key(Space::User, b""), "20"),
        ("user range", keys::data_bounds(Space::User, &KeyRange::new("a", "b")).1, "2062"),
        ("user end", keys::data_bounds(Space::User, &KeyRange::ALL).1, "21"),
        ("meta start", keys::data_bounds(Space::Meta, &KeyRange::ALL).0, "10"),
        ("meta end", keys::data_bounds(Space::Meta, &KeyRange::ALL).1, "11"),
    ];
    for (name, key, expected) in golden {
        assert_eq!(hex(&key), expected, "{name}");
    }
}

#[test]
fn bounds_hold_all_keys_of_their_kind_and_no_others() {
    let inside = |(start, end): (&[u8], &[u8]), key: &[u8]| start <= key && key < end;
    let (start, end) = keys::log_peer_bounds(REGION, PEER);
    let of_peer = [
        keys::log_hard_state(REGION, PEER).to_vec(),
        keys::log_base(REGION, PEER).to_vec(),
        keys::log_entry(REGION, PEER, Index(0)).to_vec(),
        keys::log_entry(REGION, PEER, Index(u64::MAX)).to_vec(),
    ];
    assert!(of_peer.iter().all(|key| inside((&start, &end), key)));
    for (region, peer) in [(REGION.0, PEER.0 + 1), (REGION.0, PEER.0 - 1), (REGION.0 + 1, PEER.0)] {
        let (region, peer) = (RegionId(region), PeerId(peer));
        assert!(!inside((&start, &end), &keys::log_hard_state(region, peer)));
        assert!(!inside((&start, &end), &keys::log_entry(region, peer, Index(u64::MAX))));
    }
    let (start, end) = keys::log_bounds();
    assert!(of_peer.iter().all(|key| inside((&start, &end), key)));
    assert!(!inside((&start, &end), keys::LOG_ROUND));
    let (start, end) = keys::region_bounds();
    for id in [0, REGION.0, u64::MAX] {
        assert!(inside((&start, &end), &keys::region_state(RegionId(id))));
        assert!(inside((&start, &end), &keys::apply_state(RegionId(id))));
        assert!(inside((&start, &end), &keys::merge_state(RegionId(id))));
    }
    assert!(!inside((&start, &end), &keys::store_fact(b"")) && !inside((&start, &end), keys::STORE_IDENT));
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    let letter = prop_oneof![Just(b'a'), Just(b'b'), Just(0x00), Just(0xFF)];
    prop::collection::vec(letter, 0..4)
}

fn any_range() -> impl Strategy<Value = KeyRange> {
    (any_key(), any_key()).prop_map(|(start, end)| KeyRange::new(start, end))
}

/// All keys of up to four letters: every bound of `any_range`, and keys on both sides of it.
fn all_keys() -> Vec<Vec<u8>> {
    let mut keys = vec![Vec::new()];
    let mut from = 0;
    for _ in 0..4 {
        let to = keys.len();
        for index in from..to {
            for letter in [b'a', b'b', 0x00, 0xFF] {
                let mut key = keys[index].clone();
                key.push(letter);
                keys.push(key);
            }
        }
        from = to;
    }
    keys
}

/// The naive model of a range: the keys that are in it.
fn members(range: &KeyRange) -> Vec<Vec<u8>> {
    let after_start = |key: &&Vec<u8>| key[..] >= range.start[..];
    let before_end = |key: &&Vec<u8>| range.end.is_empty() || key[..] < range.end[..];
    all_keys().iter().filter(after_start).filter(before_end).cloned().collect()
}

proptest! {
    #[test]
    fn log_keys_are_read_back_and_sort_by_region_peer_and_index(
        ids in prop::collection::vec((any::<u64>(), 0..3u64, 0..3u64), 2..20),
    ) {
        let key = |&(region, peer, index): &(u64, u64, u64)| {
            keys::log_entry(RegionId(region), PeerId(peer), Index(index)).to_vec()
        };
        for id in &ids {
            let (region, peer) = (RegionId(id.0), PeerId(id.1));
            prop_assert_eq!(keys::parse_log_key(&key(id)), Some(LogKey::Entry(region, peer, Index(id.2))));
            let hard_state = keys::log_hard_state(region, peer);
            prop_assert_eq!(keys::parse_log_key(&hard_state), Some(LogKey::HardState(region, peer)));
            let base = keys::log_base(region, peer);
            prop_assert_eq!(keys::parse_log_key(&base), Some(LogKey::Base(region, peer)));
            prop_assert_eq!(keys::parse_region_state(&keys::region_state(region)), Some(region));
            prop_assert_eq!(keys::parse_region_state(&keys::apply_state(region)), None);
            prop_assert_eq!(keys::parse_region_state(&keys::merge_state(region)), None);
        }
        let (mut by_id, mut by_key) = (ids.clone(), ids);
        by_id.sort();
        by_key.sort_by_key(key);
        prop_assert_eq!(by_id, by_key);
    }

    #[test]
    fn bytes_that_are_no_log_key_are_not_read_as_one(bytes in prop::collection::vec(0..5u8, 0..28)) {
        let written = match keys::parse_log_key(&bytes) {
            None => return Ok(()),
            Some(LogKey::Round) => keys::LOG_ROUND.to_vec(),
            Some(LogKey::HardState(region, peer)) => keys::log_hard_state(region, peer).to_vec(),
            Some(LogKey::Base(region, peer)) => keys::log_base(region, peer).to_vec(),
            Some(LogKey::Promise(region, peer)) => keys::log_promise(region, peer).to_vec(),
            Some(LogKey::OwnEpoch) => keys::OWN_EPOCH.to_vec(),
            Some(LogKey::Proof) => keys::LOG_PROOF.to_vec(),
            Some(LogKey::Supported(store)) => keys::supported(store).to_vec(),
            Some(LogKey::Entry(region, peer, index)) => keys::log_entry(region, peer, index).to_vec(),
        };
        prop_assert_eq!(written, bytes);
    }

    #[test]
    fn data_bounds_hold_the_keys_of_the_range(range in any_range(), key in any_key()) {
        for space in [Space::User, Space::Meta] {
            let (start, end) = keys::data_bounds(space, &range);
            let key_in_data = keys::data_key(space, &key);
            prop_assert_eq!(start <= key_in_data && key_in_data < end, range.contains(&key));
            prop_assert!(end <= vec![keys::space_prefix(space) + 1]);
        }
    }

    #[test]
    fn a_range_contains_what_the_model_contains(range in any_range()) {
        let members = members(&range);
        for key in all_keys() {
            prop_assert_eq!(range.contains(&key), members.contains(&key));
        }
        // Between two neighbouring letters lies a key longer than the model's.
        if range.is_empty() {
            prop_assert!(members.is_empty());
        } else {
            prop_assert!(range.contains(&range.start) && members.contains(&range.start.to_vec()));
        }
    }

    #[test]
    fn two_ranges_relate_as_their_members_do(one in any_range(), other in any_range()) {
        let (in_one, in_other) = (members(&one), members(&other));
        let in_both: Vec<_> = in_one.iter().filter(|key| in_other.contains(key)).cloned().collect();
        prop_assert_eq!(one.overlaps(&other), !in_both.is_empty());
        prop_assert_eq!(other.overlaps(&one), one.overlaps(&other));
        let intersection = one.intersect(&other);
        if !one.is_empty() && !other.is_empty() {
            prop_assert_eq!(members(&intersection), in_both);
        }
        if one.contains_range(&other) {
            prop_assert!(in_other.iter().all(|key| in_one.contains(key)));
        } else {
            let is_bounded_where_other_is_not = !one.end.is_empty() && other.end.is_empty();
            prop_assert!(
                in_other.iter().any(|key| !in_one.contains(key)) || is_bounded_where_other_is_not
            );
        }
    }

    #[test]
    fn an_epoch_is_stale_exactly_if_a_component_is_older(one in (0..4u64, 0..4u64), other in (0..4u64, 0..4u64)) {
        let epoch = |(conf_ver, version)| RegionEpoch { conf_ver, version };
        let stale = epoch(one).is_stale_against(&epoch(other));
        prop_assert_eq!(stale, one.0 < other.0 || one.1 < other.1);
    }

    #[test]
    fn the_configuration_has_each_peer_where_its_role_says(roles in prop::collection::vec(0..4usize, 1..8)) {
        let kinds = [PeerRole::Voter, PeerRole::Learner, PeerRole::IncomingVoter, PeerRole::DemotingVoter];
        let peers: Vec<Peer> = roles
            .iter()
            .enumerate()
            .map(|(n, role)| Peer { id: PeerId(n as u64 + 1), store: StoreId(n as u64 + 11), role: kinds[*role] })
            .collect();
        let region = Region { id: RegionId(7), peers: peers.clone(), ..Region::default() };
        let state = region.conf_state();
        for peer in &peers {
            prop_assert_eq!(region.peer(peer.id), Some(peer));
            prop_assert_eq!(region.peer_on(peer.store), Some(peer));
            let place = (
                state.voters.contains(&peer.id),
                state.voters_outgoing.contains(&peer.id),
                state.learners.contains(&peer.id),
                state.learners_next.contains(&peer.id),
            );
            let joint = region.is_joint();
            let expected = match peer.role {
                PeerRole::Voter => (true, joint, false, false),
                PeerRole::Learner => (false, false, true, false),
                PeerRole::IncomingVoter => (true, false, false, false),
                PeerRole::DemotingVoter => (false, true, false, true),
            };
            prop_assert_eq!(place, expected);
        }
        let joint_roles = [PeerRole::IncomingVoter, PeerRole::DemotingVoter];
        prop_assert_eq!(region.is_joint(), peers.iter().any(|peer| joint_roles.contains(&peer.role)));
        prop_assert!(state.voters.is_sorted() && state.voters_outgoing.is_sorted());
    }
}
