use bytes::Bytes;
use flotilla_proto::metapb;
use flotilla_region::Peer;

use super::*;

const EPOCH: RegionEpoch = RegionEpoch { conf_ver: 5, version: 5 };

fn descriptor(
    id: u64,
    start: &'static str,
    end: &'static str,
    conf_ver: u64,
    version: u64,
) -> metapb::Region {
    let peers =
        (1..=3).map(|store_id| metapb::Peer { id: id * 10 + store_id, store_id, ..Default::default() });
    metapb::Region {
        id,
        start_key: Bytes::from_static(start.as_bytes()),
        end_key: Bytes::from_static(end.as_bytes()),
        region_epoch: Some(metapb::RegionEpoch { conf_ver, version }),
        peers: peers.collect(),
        meta_space: false,
    }
}

/// A cache of region 1 over everything, led from store 2, which was asked.
fn asked() -> (RegionCache, Asked) {
    let mut cache = RegionCache::new();
    cache.insert(region_from_proto(&descriptor(1, "", "", 5, 5)).unwrap(), Some(PeerId(12)));
    let asked = Asked::on(cache.locate(b"k").unwrap()).unwrap();
    assert_eq!(asked, Asked { region: RegionId(1), epoch: EPOCH, peer: PeerId(12), store: StoreId(2) });
    (cache, asked)
}

fn target(cache: &RegionCache) -> Option<u64> {
    cache.locate(b"k").and_then(Route::target).map(|p: Peer| p.id.get())
}

fn not_leader(leader: Option<metapb::Peer>) -> errorpb::Error {
    errorpb::Error { not_leader: Some(errorpb::NotLeader { region_id: 1, leader }), ..Default::default() }
}

fn epoch_not_match(current_regions: Vec<metapb::Region>) -> errorpb::Error {
    errorpb::Error { epoch_not_match: Some(errorpb::EpochNotMatch { current_regions }), ..Default::default() }
}

#[test]
fn a_hint_is_followed() {
    let (mut cache, asked) = asked();
    let hint = metapb::Peer { id: 13, store_id: 3, ..Default::default() };
    assert_eq!(learn(&mut cache, asked, &not_leader(Some(hint))).kind, FailureKind::NotLeader);
    assert_eq!(target(&cache), Some(13));
}

#[test]
fn without_a_usable_hint_the_next_peer_is_asked() {
    let itself = metapb::Peer { id: 12, store_id: 2, ..Default::default() };
    for hint in [None, Some(metapb::Peer::default()), Some(itself)] {
        let (mut cache, asked) = asked();
        assert_eq!(learn(&mut cache, asked, &not_leader(hint)).kind, FailureKind::NoLeader);
        assert_eq!(target(&cache), Some(13));
    }
}

#[test]
fn a_hint_at_an_unknown_peer_forgets_the_region() {
    let (mut cache, asked) = asked();
    let stranger = metapb::Peer { id: 77, store_id: 7, ..Default::default() };
    assert_eq!(learn(&mut cache, asked, &not_leader(Some(stranger))).kind, FailureKind::RouteUnknown);
    assert!(cache.is_empty());
}

#[test]
fn both_halves_of_a_split_are_taken_with_the_likely_leader() {
    let (mut cache, asked) = asked();
    let halves = vec![descriptor(1, "m", "", 5, 6), descriptor(2, "", "m", 5, 6)];
    assert_eq!(learn(&mut cache, asked, &epoch_not_match(halves)).kind, FailureKind::EpochNotMatch);
    assert_eq!(target(&cache), Some(22), "the asked store most likely leads the left half");
    assert_eq!(cache.locate(b"x").and_then(Route::target).map(|p| p.id.get()), Some(12));
    cache.check_invariants();
}

#[test]
fn current_regions_that_are_older_do_not_replace_what_is_known() {
    let (mut cache, asked) = asked();
    for (conf_ver, version) in [(5, 4), (4, 5), (4, 4)] {
        let older = vec![descriptor(1, "", "m", conf_ver, version)];
        assert_eq!(learn(&mut cache, asked, &epoch_not_match(older)).kind, FailureKind::StoreBehind);
        assert_eq!(cache.locate(b"k").unwrap().region.epoch, EPOCH);
        assert_eq!(target(&cache), Some(12));
    }
    // Newer knowledge arrived from elsewhere while the request was under way; the error's regions are older than it.
    cache.insert(region_from_proto(&descriptor(3, "", "f", 5, 9)).unwrap(), None);
    let between = vec![descriptor(1, "m", "", 5, 6), descriptor(2, "", "m", 5, 6)];
    learn(&mut cache, asked, &epoch_not_match(between));
    assert_eq!(cache.locate(b"a").unwrap().region.id, RegionId(3));
    assert_eq!(cache.locate(b"k"), None);
    assert_eq!(cache.locate(b"x").unwrap().region.id, RegionId(1));
    cache.check_invariants();
}

#[test]
fn an_epoch_error_without_regions_forgets_the_region() {
    let (mut cache, asked) = asked();
    assert_eq!(learn(&mut cache, asked, &epoch_not_match(Vec::new())).kind, FailureKind::RouteUnknown);
    assert!(cache.is_empty());
}

#[test]
fn regions_of_the_meta_space_never_enter_the_cache() {
    let (mut cache, asked) = asked();
    let meta = metapb::Region { meta_space: true, ..descriptor(9, "", "", 9, 9) };
    learn(&mut cache, asked, &epoch_not_match(vec![meta]));
    assert!(cache.is_empty());
}

#[test]
fn each_kind_has_its_lesson() {
    use FailureKind as K;
    let e = errorpb::Error::default;
    let cases = [
        (errorpb::Error { region_not_found: Some(Default::default()), ..e() }, K::RouteUnknown, false),
        (errorpb::Error { key_not_in_region: Some(Default::default()), ..e() }, K::RouteUnknown, false),
        (errorpb::Error { mismatch_peer_id: Some(Default::default()), ..e() }, K::RouteUnknown, false),
        (errorpb::Error { store_not_match: Some(Default::default()), ..e() }, K::StoreNotMatch, false),
        (errorpb::Error { message: "from the future".into(), ..e() }, K::RouteUnknown, false),
        (errorpb::Error { server_is_busy: Some(Default::default()), ..e() }, K::ServerIsBusy, true),
        (errorpb::Error { stale_command: Some(Default::default()), ..e() }, K::StaleCommand, true),
        (errorpb::Error { raft_entry_too_large: Some(Default::default()), ..e() }, K::EntryTooLarge, true),
        (errorpb::Error { read_index_not_ready: Some(Default::default()), ..e() }, K::NotReady, true),
        (errorpb::Error { proposal_in_merging_mode: Some(Default::default()), ..e() }, K::NotReady, true),
        (errorpb::Error { data_is_not_ready: Some(Default::default()), ..e() }, K::NotReady, true),
        (errorpb::Error { region_not_initialized: Some(Default::default()), ..e() }, K::NotReady, true),
        (
            errorpb::Error { undetermined_result: Some(Default::default()), ..e() },
            K::UndeterminedResult,
            true,
        ),
        (errorpb::Error { disk_full: Some(Default::default()), ..e() }, K::DiskFull, true),
        (errorpb::Error { is_witness: Some(Default::default()), ..e() }, K::NoLeader, true),
    ];
    for (error, kind, is_kept) in cases {
        let (mut cache, asked) = asked();
        let lesson = learn(&mut cache, asked, &error);
        assert_eq!(lesson.kind, kind, "{error:?}");
        assert_eq!(!cache.is_empty(), is_kept, "{error:?}");
        assert_eq!(lesson.forget_store, kind == K::StoreNotMatch);
    }
}

#[test]
fn a_busy_store_says_for_how_long() {
    let (mut cache, asked) = asked();
    for (backoff_ms, estimated_wait_ms, expected) in [(700, 0, 700), (0, 300, 300), (0, 0, 0)] {
        let busy = errorpb::ServerIsBusy { backoff_ms, estimated_wait_ms, ..Default::default() };
        let error = errorpb::Error { server_is_busy: Some(busy), ..Default::default() };
        assert_eq!(learn(&mut cache, asked, &error).pause_ms_min, expected);
    }
}
