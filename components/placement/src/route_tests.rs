//! The route table, scenario by scenario, and against a history of splits and merges told in any order.

use flotilla_region::RegionEpoch;
use proptest::prelude::*;

use super::*;

fn region(id: u64, start: &'static str, end: &'static str, version: u64, conf_ver: u64) -> Region {
    let peers = (1..=3).map(|n| Peer { id: PeerId(id * 10 + n), store: StoreId(n), role: PeerRole::Voter });
    Region {
        id: RegionId(id),
        space: Space::User,
        range: KeyRange::new(start, end),
        epoch: RegionEpoch { conf_ver, version },
        peers: peers.collect(),
    }
}

fn led(region: Region, leader: u64, term: u64) -> RegionInfo {
    let leader = Some(PeerId(region.id.get() * 10 + leader));
    RegionInfo { region: region.into(), leader, term: Term(term), ready: true, ..RegionInfo::default() }
}

fn ids(infos: Vec<&RegionInfo>) -> Vec<u64> {
    infos.into_iter().map(|info| info.region.id.get()).collect()
}

fn three() -> RouteTable {
    let mut table = RouteTable::new();
    table.report(led(region(1, "", "f", 5, 1), 1, 6));
    table.report(led(region(2, "f", "p", 5, 1), 2, 6));
    table.report(led(region(3, "p", "", 5, 1), 3, 6));
    table
}

#[test]
fn keys_are_found_at_the_borders_and_inside() {
    let table = three();
    let at = |key: &[u8]| table.by_key(Space::User, key).map(|r| r.region.id.get());
    assert_eq!(
        [at(b""), at(b"e\xff"), at(b"f"), at(b"o"), at(b"p"), at(b"\xff")].map(Option::unwrap),
        [1, 1, 2, 2, 3, 3]
    );
    assert_eq!(table.by_key(Space::Meta, b"f"), None);
    let before = |key: &[u8]| table.before_key(Space::User, key).map(|r| r.region.id.get());
    assert_eq!([before(b"a"), before(b"f"), before(b"z")], [None, Some(1), Some(2)]);
    assert!(table.covers(Space::User) && !table.covers(Space::Meta));
}

#[test]
fn scans_begin_with_the_region_that_holds_the_start_and_obey_end_and_limit() {
    let table = three();
    let scan = |start, end, limit| ids(table.scan(Space::User, &KeyRange::new(start, end), limit));
    assert_eq!(scan("", "", 0), [1, 2, 3]);
    assert_eq!(scan("g", "", 0), [2, 3]);
    assert_eq!(scan("g", "p", 0), [2]);
    assert_eq!(scan("", "", 2), [1, 2]);
}

#[test]
fn a_gap_answers_nothing() {
    let mut table = three();
    table.remove(RegionId(2));
    assert_eq!(table.by_key(Space::User, b"g"), None);
    assert_eq!(table.before_key(Space::User, b"q"), None);
    assert_eq!(ids(table.scan(Space::User, &KeyRange::ALL, 0)), [1, 3]);
    assert!(!table.covers(Space::User));
}

#[test]
fn older_epochs_and_terms_change_nothing() {
    let mut table = three();
    table.report(led(region(2, "f", "p", 5, 3), 2, 8));
    let before = table.clone();
    for stale in [
        led(region(2, "f", "p", 4, 3), 1, 8),
        led(region(2, "f", "p", 5, 2), 1, 8),
        led(region(2, "f", "p", 6, 2), 1, 8),
        led(region(2, "f", "p", 5, 3), 1, 7),
        led(region(9, "a", "z", 5, 9), 1, 99),
    ] {
        assert_eq!(table.report(stale), Learned::Stale);
        assert_eq!(table, before);
    }
}

#[test]
fn a_new_leader_that_has_not_applied_the_newest_descriptor_is_believed_about_leading_only() {
    let mut table = three();
    table.report(led(region(2, "f", "m", 6, 1), 2, 6));
    let learned = table.report(led(region(2, "f", "p", 5, 1), 3, 7));
    assert_eq!(learned, Learned::Changed { replaced: vec![] });
    let info = table.by_id(RegionId(2)).unwrap();
    assert_eq!((info.leader, info.term, info.ready), (Some(PeerId(23)), Term(7), false));
    assert_eq!(info.region.range, KeyRange::new("f", "m"));
}

#[test]
fn a_child_of_a_split_replaces_the_parent_until_the_parent_reports() {
    let mut table = three();
    let learned = table.report(led(region(20, "f", "j", 6, 1), 2, 6));
    let Learned::Changed { replaced } = learned else { panic!("{learned:?}") };
    assert_eq!(replaced.len(), 1);
    assert_eq!(table.by_key(Space::User, b"k"), None);
    table.report(led(region(2, "j", "p", 6, 1), 2, 6));
    assert!(table.covers(Space::User));
    assert_eq!(table.report(led(region(2, "f", "p", 5, 1), 2, 6)), Learned::Stale);
}

#[test]
fn a_merged_region_replaces_its_source() {
    let mut table = three();
    table.report(led(region(3, "f", "", 7, 2), 3, 6));
    assert_eq!(ids(table.iter().collect()), [1, 3]);
    assert!(table.covers(Space::User));
    assert_eq!(table.report(led(region(2, "f", "p", 6, 2), 2, 6)), Learned::Stale);
}

#[test]
fn a_follower_without_a_leader_hides_no_leader_that_is_known() {
    let mut table = three();
    let one = table.by_id(RegionId(1)).unwrap().clone();
    assert_eq!(table.learn(&one.region, None, Term(6)), Learned::Same);
    assert_eq!(table.by_id(RegionId(1)), Some(&one));
    table.learn(&one.region, None, Term(7));
    assert_eq!(table.by_id(RegionId(1)).unwrap().leader, None);
    table.learn(&one.region, Some(PeerId(12)), Term(7));
    assert_eq!(table.by_id(RegionId(1)).unwrap().leader_store(), Some(StoreId(2)));
    assert_eq!(table.learn(&one.region, Some(PeerId(11)), Term(6)), Learned::Same);
    assert_eq!(table.by_id(RegionId(1)).unwrap().leader, Some(PeerId(12)));
}

#[test]
fn sizes_alone_are_no_change() {
    let mut table = three();
    let report = RegionInfo { bytes: 7, keys: 1, ..led(region(1, "", "f", 5, 1), 1, 6) };
    assert_eq!(table.report(report), Learned::Same);
    assert_eq!(table.by_id(RegionId(1)).unwrap().bytes, 7);
}

/// A key space of eight cells whose regions split and merge; gives every descriptor there ever was.
fn history(moves: &[(bool, usize, usize)]) -> (Vec<Region>, Vec<Region>) {
    const CELLS: [&str; 9] = ["", "b", "c", "d", "e", "f", "g", "h", ""];
    let make = |id: u64, from: usize, to: usize, version: u64| region(id, CELLS[from], CELLS[to], version, 1);
    let mut now = vec![(1u64, 0usize, 8usize, 1u64)];
    let mut told = vec![make(1, 0, 8, 1)];
    let mut next_id = 2;
    for (is_split, nth, at) in moves {
        let nth = nth % now.len();
        let (id, from, to, version) = now[nth];
        if *is_split && to - from > 1 {
            let cut = from + 1 + at % (to - from - 1);
            now[nth] = (id, cut, to, version + 1);
            now.insert(nth, (next_id, from, cut, version + 1));
            next_id += 1;
            told.extend([nth, nth + 1].map(|n| make(now[n].0, now[n].1, now[n].2, now[n].3)));
        } else if !*is_split && nth + 1 < now.len() {
            let (target, _, end, other) = now.remove(nth + 1);
            now[nth] = (target, from, end, version.max(other) + 1);
            told.push(make(target, from, end, now[nth].3));
        }
    }
    (told, now.into_iter().map(|(id, from, to, version)| make(id, from, to, version)).collect())
}

proptest! {
    #[test]
    fn reports_in_any_order_end_in_the_newest_regions(
        moves in prop::collection::vec((any::<bool>(), 0..8usize, 0..8usize), 0..24),
        shuffle in prop::collection::vec(any::<prop::sample::Index>(), 1..80),
    ) {
        let (told, newest) = history(&moves);
        let mut table = RouteTable::new();
        let newest_of = |id| newest.iter().find(|r| r.id == id);
        for pick in shuffle {
            let next = pick.get(&told).clone();
            let known = table.by_id(next.id).cloned();
            table.report(led(next.clone(), 1, 6));
            table.check_invariants();
            if let (Some(known), Some(after)) = (known, table.by_id(next.id)) {
                prop_assert!(!after.region.epoch.is_stale_against(&known.region.epoch));
            }
        }
        for region in &newest {
            table.report(led(region.clone(), 1, 6));
        }
        table.check_invariants();
        prop_assert!(table.covers(Space::User));
        for info in table.iter() {
            prop_assert_eq!(Some(&*info.region), newest_of(info.region.id));
        }
        prop_assert_eq!(table.len(), newest.len());
    }
}

#[test]
fn rates_are_told_when_they_give_another_picture() {
    let rates = |reads, read_bytes| Rates { reads, read_bytes, ..Rates::default() };
    let told = rates(300, 90_000);
    assert!(!rates(400, 120_000).differ_from(&told), "a third more");
    assert!(rates(401, 90_000).differ_from(&told));
    assert!(rates(300, 59_999).differ_from(&told));
    assert!(rates(0, 0).differ_from(&rates(1, 0)), "nothing is always told");
    assert!(rates(1, 0).differ_from(&rates(0, 0)));
    assert!(!rates(0, 0).differ_from(&rates(0, 0)));
    assert!(!rates(4, 500).differ_from(&rates(1, 100)), "a little");
    let (mut near, target) = (rates(0, 0), rates(100, 7_000));
    (0..60).for_each(|_| near = near.blend(target));
    assert!(near.reads.abs_diff(100) < 4 && near.read_bytes.abs_diff(7_000) < 4, "{near:?}");
    assert_eq!(rates(0, 0).blend(rates(3, 9_000)), Rates::default(), "as good as none");
    (0..40).for_each(|_| near = near.blend(Rates::default()));
    assert_eq!(near, Rates::default());
}
