use flotilla_region::StoreId;
use proptest::prelude::*;

use super::*;

fn key(at: u8) -> Bytes {
    if at == 0 { Bytes::new() } else { Bytes::from(vec![at]) }
}

fn epoch(conf_ver: u64, version: u64) -> RegionEpoch {
    RegionEpoch { conf_ver, version }
}

/// A region `[start, end)` with peers `id * 10 + 1..=3` on stores 1 to 3; an `end` of 0 is unbounded.
fn region(id: u64, start: u8, end: u8, epoch: RegionEpoch) -> Region {
    let peers = (1..=3).map(|store| Peer {
        id: PeerId(id * 10 + store),
        store: StoreId(store),
        role: PeerRole::Voter,
    });
    Region {
        id: RegionId(id),
        space: Space::User,
        range: KeyRange::new(key(start), key(end)),
        epoch,
        peers: peers.collect(),
    }
}

fn located(cache: &RegionCache, at: u8) -> Option<u64> {
    cache.locate(&key(at)).map(|route| route.region.id.get())
}

#[test]
fn a_key_is_found_in_the_region_that_holds_it() {
    let mut cache = RegionCache::new();
    assert!(cache.is_empty());
    cache.insert(region(1, 0, 10, epoch(1, 1)), None);
    cache.insert(region(2, 20, 0, epoch(1, 1)), None);
    assert_eq!(located(&cache, 0), Some(1));
    assert_eq!(located(&cache, 9), Some(1));
    assert_eq!(located(&cache, 10), None);
    assert_eq!(located(&cache, 20), Some(2));
    assert_eq!(located(&cache, 255), Some(2));
    assert_eq!(cache.locate_before(&key(10)).map(|r| r.region.id), Some(RegionId(1)));
    assert_eq!(cache.locate_before(&key(11)), None);
    assert_eq!(cache.locate_before(&key(20)), None);
    assert_eq!(cache.locate_before(&key(21)).map(|r| r.region.id), Some(RegionId(2)));
    cache.check_invariants();
}

#[test]
fn a_split_replaces_the_parent_and_the_parent_never_returns() {
    let mut cache = RegionCache::new();
    let parent = region(1, 0, 0, epoch(1, 1));
    assert_eq!(cache.insert(parent.clone(), None), Inserted::Installed);
    assert_eq!(cache.insert(region(2, 0, 50, epoch(1, 2)), None), Inserted::Installed);
    assert_eq!(located(&cache, 60), None, "what the parent said about the right half is outdated");
    assert_eq!(cache.insert(parent.clone(), None), Inserted::Stale, "a newer region holds part of its range");
    assert_eq!(cache.insert(region(1, 50, 0, epoch(1, 2)), None), Inserted::Installed);
    assert_eq!(cache.insert(parent, None), Inserted::Stale);
    assert_eq!((located(&cache, 49), located(&cache, 50)), (Some(2), Some(1)));
}

#[test]
fn an_epoch_older_in_either_part_is_refused() {
    let mut cache = RegionCache::new();
    cache.insert(region(1, 0, 0, epoch(3, 3)), None);
    for stale in [epoch(2, 3), epoch(3, 2), epoch(4, 2), epoch(2, 4)] {
        assert_eq!(cache.insert(region(1, 0, 0, stale), None), Inserted::Stale, "{stale:?}");
    }
    assert_eq!(cache.insert(region(1, 0, 0, epoch(4, 3)), None), Inserted::Installed);
}

#[test]
fn a_repeated_region_keeps_the_leader_that_stores_told_of() {
    let mut cache = RegionCache::new();
    cache.insert(region(1, 0, 0, epoch(1, 1)), Some(PeerId(11)));
    assert!(cache.set_leader(RegionId(1), PeerId(12)));
    assert_eq!(cache.insert(region(1, 0, 0, epoch(1, 1)), Some(PeerId(11))), Inserted::Known);
    assert_eq!(cache.get(RegionId(1)).unwrap().leader().map(|p| p.id), Some(PeerId(12)));
}

#[test]
fn regions_that_cannot_be_routed_to_are_left_out() {
    let mut cache = RegionCache::new();
    let meta = Region { space: Space::Meta, ..region(1, 0, 0, epoch(1, 1)) };
    assert_eq!(cache.insert(meta, None), Inserted::Unusable);
    assert_eq!(cache.insert(region(1, 9, 5, epoch(1, 1)), None), Inserted::Unusable);
    let without_peers = Region { peers: Vec::new(), ..region(1, 0, 0, epoch(1, 1)) };
    assert_eq!(cache.insert(without_peers, None), Inserted::Unusable);
    assert!(cache.is_empty());
}

#[test]
fn failed_peers_are_passed_over_and_after_one_round_the_region_is_forgotten() {
    let mut cache = RegionCache::new();
    cache.insert(region(1, 0, 0, epoch(1, 1)), Some(PeerId(12)));
    let target = |cache: &RegionCache| cache.get(RegionId(1)).and_then(Route::target).map(|p| p.id.get());
    assert_eq!(target(&cache), Some(12));
    cache.peer_failed(RegionId(1), PeerId(11));
    assert_eq!(target(&cache), Some(12), "the route does not lead to the peer that failed");
    cache.peer_failed(RegionId(1), PeerId(12));
    assert_eq!(target(&cache), Some(13));
    cache.peer_failed(RegionId(1), PeerId(12));
    assert_eq!(target(&cache), Some(13), "a late report about a peer already passed over");
    cache.peer_failed(RegionId(1), PeerId(13));
    assert_eq!(target(&cache), Some(11));
    cache.peer_failed(RegionId(1), PeerId(11));
    assert_eq!(target(&cache), None);
}

#[test]
fn learners_are_not_asked_while_another_peer_may_lead() {
    let mut with_learner = region(1, 0, 0, epoch(1, 1));
    with_learner.peers[0].role = PeerRole::Learner;
    assert_eq!(Route::new(with_learner.clone(), None).target().map(|p| p.id), Some(PeerId(12)));
    with_learner.peers.truncate(1);
    assert_eq!(Route::new(with_learner, None).target().map(|p| p.id), Some(PeerId(11)));
}

#[test]
fn a_leader_that_is_no_known_peer_means_membership_moved_on() {
    let mut cache = RegionCache::new();
    cache.insert(region(1, 0, 0, epoch(1, 1)), Some(PeerId(11)));
    assert!(!cache.set_leader(RegionId(1), PeerId(99)));
    assert!(cache.is_empty());
    assert!(!cache.set_leader(RegionId(1), PeerId(11)), "nothing is known to set it on");
}

#[test]
fn invalidation_spares_what_was_learned_meanwhile() {
    let mut cache = RegionCache::new();
    cache.insert(region(1, 0, 0, epoch(1, 2)), None);
    cache.invalidate(RegionId(1), epoch(1, 1));
    assert_eq!(cache.len(), 1);
    cache.invalidate(RegionId(1), epoch(1, 2));
    assert_eq!(cache.len(), 0);
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Region, Option<u64>),
    Invalidate(u64, RegionEpoch),
    SetLeader(u64, u64),
    PeerFailed(u64, u64),
}

/// The same rules over a plain list.
#[derive(Default)]
struct Model(Vec<(Region, Option<u64>, usize, usize)>);

impl Model {
    fn apply(&mut self, op: &Op) {
        match op {
            Op::Insert(new, leader) => self.insert(new, *leader),
            Op::Invalidate(id, epoch) => self.0.retain(|(r, ..)| r.id.get() != *id || r.epoch != *epoch),
            Op::SetLeader(id, peer) => {
                let known = |r: &Region| r.peers.iter().any(|p| p.id.get() == *peer);
                self.0.retain(|(r, ..)| r.id.get() != *id || known(r));
                for (_, leader, _, failed) in self.0.iter_mut().filter(|(r, ..)| r.id.get() == *id) {
                    (*leader, *failed) = (Some(*peer), 0);
                }
            }
            Op::PeerFailed(id, peer) => {
                for (r, leader, cursor, failed) in self.0.iter_mut().filter(|(r, ..)| r.id.get() == *id) {
                    let target = leader.unwrap_or(r.peers[*cursor % 3].id.get());
                    if target == *peer {
                        let at = r.peers.iter().position(|p| p.id.get() == *peer).unwrap();
                        (*leader, *cursor, *failed) = (None, at + 1, *failed + 1);
                    }
                }
                self.0.retain(|(.., failed)| *failed < 3);
            }
        }
    }

    fn insert(&mut self, new: &Region, leader: Option<u64>) {
        let refused = new.range.is_empty()
            || self.0.iter().any(|(old, ..)| {
                let same = old.id == new.id;
                let older = new.epoch.conf_ver < old.epoch.conf_ver || new.epoch.version < old.epoch.version;
                (same && (older || new.epoch == old.epoch))
                    || (old.range.overlaps(&new.range) && old.epoch.version > new.epoch.version)
            });
        if !refused {
            self.0.retain(|(old, ..)| old.id != new.id && !old.range.overlaps(&new.range));
            self.0.push((new.clone(), leader, 0, 0));
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let id = 1..6_u64;
    let any_epoch = (1..3_u64, 1..6_u64).prop_map(|(conf_ver, version)| epoch(conf_ver, version));
    let peer = (1..6_u64, 1..4_u64).prop_map(|(id, store)| id * 10 + store);
    prop_oneof![
        6 => (id.clone(), 0..12_u8, 0..12_u8, any_epoch.clone(), proptest::option::of(1..4_u64)).prop_map(
            |(id, start, end, epoch, leader)| {
                Op::Insert(region(id, start, end, epoch), leader.map(|store| id * 10 + store))
            }
        ),
        1 => (id.clone(), any_epoch).prop_map(|(id, epoch)| Op::Invalidate(id, epoch)),
        1 => (id.clone(), peer).prop_map(|(id, peer)| Op::SetLeader(id, peer)),
        3 => (id, 1..4_u64).prop_map(|(id, store)| Op::PeerFailed(id, id * 10 + store)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_table_agrees_with_a_plain_list(ops in proptest::collection::vec(op(), 1..80)) {
        let mut cache = RegionCache::new();
        let mut model = Model::default();
        for op in ops {
            model.apply(&op);
            match op {
                Op::Insert(region, leader) => { cache.insert(region, leader.map(PeerId)); }
                Op::Invalidate(id, epoch) => cache.invalidate(RegionId(id), epoch),
                Op::SetLeader(id, peer) => { cache.set_leader(RegionId(id), PeerId(peer)); }
                Op::PeerFailed(id, peer) => cache.peer_failed(RegionId(id), PeerId(peer)),
            }
            cache.check_invariants();
            prop_assert_eq!(cache.len(), model.0.len());
            for at in 0..14 {
                let expected = model.0.iter().find(|(r, ..)| r.range.contains(&key(at)));
                let found = cache.locate(&key(at));
                prop_assert_eq!(found.map(|r| &*r.region), expected.map(|(r, ..)| r));
                let target = expected.map(|(r, leader, cursor, _)| leader.unwrap_or(r.peers[*cursor % 3].id.get()));
                prop_assert_eq!(found.and_then(Route::target).map(|p| p.id.get()), target);
                if at > 0 {
                    let below = model.0.iter().find(|(r, ..)| {
                        r.range.start < key(at) && (r.range.end.is_empty() || key(at) <= r.range.end)
                    });
                    let found = cache.locate_before(&key(at));
                    prop_assert_eq!(found.map(|r| r.region.id), below.map(|(r, ..)| r.id));
                }
            }
        }
    }

    /// A cluster splits and merges; placement and stores report any of its past states in any order. No report
    /// replaces what the table says about a key by an older version (a key may become unknown, and what is then
    /// reported is taken).
    #[test]
    fn reports_out_of_order_never_replace_a_version_by_an_older_one(
        steps in proptest::collection::vec((0..16_u8, any::<bool>()), 1..12),
        reports in proptest::collection::vec((any::<proptest::sample::Index>(), any::<proptest::sample::Index>()), 1..60),
    ) {
        let history = lineage(&steps);
        let mut cache = RegionCache::new();
        for (state, member) in reports {
            let state = state.get(&history);
            let before = cache.clone();
            cache.insert(member.get(state).clone(), None);
            cache.check_invariants();
            for at in 0..16 {
                let version = |cache: &RegionCache| cache.locate(&key(at)).map(|r| r.region.epoch.version);
                if let (Some(before), Some(after)) = (version(&before), version(&cache)) {
                    prop_assert!(after >= before, "key {} went back from {} to {}", at, before, after);
                }
            }
        }
        // The newest state, reported whole, always prevails.
        let newest = history.last().unwrap();
        for region in newest {
            cache.insert(region.clone(), None);
        }
        let known: Vec<Region> = cache.iter().map(|route| (*route.region).clone()).collect();
        prop_assert_eq!(&known, newest);
    }
}

/// The states of a cluster that splits at (`true`) or merges around (`false`) the given keys, in key order each.
fn lineage(steps: &[(u8, bool)]) -> Vec<Vec<Region>> {
    let mut states = vec![vec![region(1, 0, 0, epoch(1, 1))]];
    let mut next_id = 2;
    for (at, is_split) in steps {
        let mut regions = states.last().unwrap().clone();
        let index = regions.iter().position(|r| r.range.contains(&key(*at))).unwrap();
        if *is_split && regions[index].range.start != key(*at) {
            let version = regions[index].epoch.version + 1;
            let mut left = region(next_id, 0, 0, epoch(1, version));
            left.range = KeyRange::new(regions[index].range.start.clone(), key(*at));
            regions[index].range.start = key(*at);
            regions[index].epoch.version = version;
            regions.insert(index, left);
            next_id += 1;
        } else if !*is_split && index > 0 {
            let source = regions.remove(index - 1);
            let target = &mut regions[index - 1];
            target.epoch.version = target.epoch.version.max(source.epoch.version) + 1;
            target.range.start = source.range.start;
        }
        states.push(regions);
    }
    states
}
