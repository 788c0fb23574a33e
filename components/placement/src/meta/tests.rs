//! The registry and the allocator, scenario by scenario, and against a naive model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::StoreUuid;

#[derive(Clone, Debug, Default, PartialEq)]
struct Facts(BTreeMap<Bytes, Bytes>);

impl FactRead for Facts {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.0.get(key).cloned()
    }
}

impl Facts {
    fn founded() -> Self {
        let founder = StoreRecord {
            id: StoreId(1),
            uuid: uuid(1),
            address: "a:1".into(),
            format_max: 1,
            ..StoreRecord::default()
        };
        let mut facts = Self::default();
        facts.write(bootstrap(ClusterId(77), &founder));
        facts
    }

    fn write(&mut self, writes: Vec<FactWrite>) {
        for FactWrite { key, value } in writes {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
    }

    fn run(&mut self, command: &MetaCommand) -> MetaReply {
        let effect = apply(self, &command.encode()).unwrap();
        self.write(effect.writes);
        MetaReply::decode(&effect.reply).unwrap()
    }

    fn put(&mut self, disk: u8, address: &str, format_max: u32) -> MetaReply {
        self.run(&put(disk, address, format_max))
    }

    fn set(&mut self, store: StoreId, state: StoreState) -> MetaReply {
        self.run(&MetaCommand::SetStoreState { store, state })
    }
}

fn uuid(disk: u8) -> StoreUuid {
    StoreUuid([disk; 16])
}

fn put(disk: u8, address: &str, format_max: u32) -> MetaCommand {
    let address = address.to_string();
    MetaCommand::PutStore(StoreProposal { uuid: uuid(disk), address, format_max, ..StoreProposal::default() })
}

fn stored(reply: MetaReply) -> StoreRecord {
    match reply {
        MetaReply::Store(record) => record,
        other => panic!("not a store: {other:?}"),
    }
}

#[test]
fn a_founded_cluster_knows_itself_and_its_founder() {
    let facts = Facts::founded();
    assert_eq!(cluster_id(&facts), Ok(ClusterId(77)));
    assert_eq!(cluster_version(&facts), Ok(1));
    assert_eq!(next_id(&facts), Ok(RegionId::FIRST_FREE.get()));
    assert_eq!(stores(&facts).unwrap().len(), 1);
    assert_eq!(cluster_id(&Facts::default()), Ok(ClusterId::ZERO));
}

#[test]
fn joining_twice_with_one_disk_gives_one_store() {
    let mut facts = Facts::founded();
    let first = stored(facts.put(2, "b:1", 1));
    let before = facts.clone();
    assert_eq!(stored(facts.put(2, "b:1", 1)), first);
    assert_eq!(facts, before);
    assert_eq!(stored(facts.put(2, "b:2", 1)).id, first.id);
    assert_eq!(store(&facts, first.id).unwrap().unwrap().address, "b:2");
    assert_eq!(stores(&facts).unwrap().len(), 2);
}

#[test]
fn a_wiped_disk_at_a_known_address_is_a_new_store_and_its_old_self_is_drained() {
    let mut facts = Facts::founded();
    let old = stored(facts.put(2, "b:1", 1));
    let new = stored(facts.put(3, "b:1", 1));
    assert_ne!(new.id, old.id);
    let old = store(&facts, old.id).unwrap().unwrap();
    assert_eq!((old.state, old.address.as_str()), (StoreState::Offline, ""));
    assert_eq!(facts.set(old.id, StoreState::Up), MetaReply::Refused(Refusal::BadTransition));
    // It was alive after all: it takes the address back.
    assert_eq!(stored(facts.put(2, "b:1", 1)).state, StoreState::Up);
    assert_eq!(store(&facts, new.id).unwrap().unwrap().state, StoreState::Offline);
}

#[test]
fn a_drained_store_stays_drained_when_it_restarts_and_a_removed_one_never_returns() {
    let mut facts = Facts::founded();
    let id = stored(facts.put(2, "b:1", 1)).id;
    assert_eq!(facts.set(id, StoreState::Tombstone), MetaReply::Refused(Refusal::BadTransition));
    assert_eq!(stored(facts.set(id, StoreState::Offline)).state, StoreState::Offline);
    assert_eq!(stored(facts.put(2, "b:1", 1)).state, StoreState::Offline);
    assert_eq!(stored(facts.set(id, StoreState::Up)).state, StoreState::Up);
    facts.set(id, StoreState::Offline);
    assert_eq!(stored(facts.set(id, StoreState::Tombstone)).state, StoreState::Tombstone);
    assert_eq!(facts.set(id, StoreState::Up), MetaReply::Refused(Refusal::BadTransition));
    assert_eq!(facts.put(2, "b:1", 1), MetaReply::Refused(Refusal::Removed));
}

#[test]
fn the_last_store_cannot_be_drained() {
    let mut facts = Facts::founded();
    assert_eq!(facts.set(StoreId(1), StoreState::Offline), MetaReply::Refused(Refusal::LastStore));
    assert_eq!(facts.set(StoreId(9), StoreState::Offline), MetaReply::Refused(Refusal::UnknownStore));
}

#[test]
fn the_cluster_version_is_the_oldest_stores_and_never_falls() {
    let mut facts = Facts::founded();
    let id = stored(facts.put(2, "b:1", 3)).id;
    assert_eq!(cluster_version(&facts), Ok(1));
    facts.put(1, "a:1", 2);
    assert_eq!(cluster_version(&facts), Ok(2));
    assert_eq!(facts.put(3, "c:1", 1), MetaReply::Refused(Refusal::TooOld));
    facts.set(StoreId(1), StoreState::Offline);
    assert_eq!(cluster_version(&facts), Ok(2));
    facts.set(StoreId(1), StoreState::Tombstone);
    assert_eq!((cluster_version(&facts), id), (Ok(3), StoreId(1_000)));
}

#[test]
fn senseless_requests_are_refused_and_change_nothing() {
    let mut facts = Facts::founded();
    let before = facts.clone();
    for command in [
        put(2, "", 1),
        MetaCommand::AllocIds { count: 0 },
        MetaCommand::AllocIds { count: ALLOC_COUNT_MAX + 1 },
    ] {
        assert_eq!(facts.run(&command), MetaReply::Refused(Refusal::Invalid));
    }
    assert_eq!(facts, before);
}

#[test]
fn the_allocator_stops_before_ids_that_mean_something_else() {
    let mut facts = Facts::founded();
    facts.write(vec![put_number(NEXT_ID, PeerId::APPLY_THREAD.get() - 2)]);
    let last = MetaReply::Ids { first: PeerId::APPLY_THREAD.get() - 2, count: 2 };
    assert_eq!(facts.run(&MetaCommand::AllocIds { count: 3 }), MetaReply::Refused(Refusal::Exhausted));
    assert_eq!(facts.run(&MetaCommand::AllocIds { count: 2 }), last);
    assert_eq!(facts.put(2, "b:1", 1), MetaReply::Refused(Refusal::Exhausted));
}

#[test]
fn unknown_commands_and_damaged_bytes_are_errors_not_refusals() {
    let facts = Facts::founded();
    assert_eq!(apply(&facts, &[2, 1]), Err(MetaError::Unknown { format: 2, kind: 1 }));
    assert_eq!(apply(&facts, &[1, 99]), Err(MetaError::Unknown { format: 1, kind: 99 }));
    let whole = put(2, "b:1", 1).encode();
    for len in 0..whole.len() {
        assert_eq!(apply(&facts, &whole[..len]), Err(MetaError::Malformed), "cut to {len}");
    }
    assert_eq!(apply(&facts, &[&whole[..], &[0]].concat()), Err(MetaError::Malformed));
    let mut damaged = facts.clone();
    damaged.write(vec![FactWrite { key: facts::store_key(StoreId(1)).into(), value: None }]);
    assert_eq!(apply(&damaged, &whole), Err(MetaError::Malformed));
}

#[test]
fn bytes_of_commands_replies_and_facts_are_as_documented() {
    let set = MetaCommand::SetStoreState { store: StoreId(5), state: StoreState::Offline };
    assert_eq!(set.encode()[..], [1, 2, 0, 0, 0, 0, 0, 0, 0, 5, 1]);
    assert_eq!(MetaCommand::AllocIds { count: 258 }.encode()[..], [1, 3, 0, 0, 0, 0, 0, 0, 1, 2]);
    let labelled = MetaCommand::PutStore(StoreProposal {
        uuid: uuid(7),
        address: "h:1".into(),
        status_address: String::new(),
        labels: [("z".to_string(), "é".to_string())].into(),
        version: "1".into(),
        format_max: 9,
    });
    let expected = [
        &[1, 1][..],
        &[7; 16],
        b"\0\0\0\x03h:1",
        b"\0\0\0\0",
        b"\0\0\0\x01\0\0\0\x01z\0\0\0\x02\xc3\xa9",
        b"\0\0\0\x011",
        b"\0\0\0\x09",
    ]
    .concat();
    assert_eq!(labelled.encode()[..], expected);
    assert_eq!(MetaCommand::decode(&expected), Ok(labelled));
    assert_eq!(MetaReply::Refused(Refusal::Exhausted).encode()[..], [1, 3, 7]);

    let facts = Facts::founded();
    let keys: Vec<_> = facts.0.keys().map(|k| k.to_vec()).collect();
    let store_key = [b"s".as_slice(), &[0, 0, 0, 0, 0, 0, 0, 1]].concat();
    let uuid_key = [b"u".as_slice(), &[1; 16]].concat();
    assert_eq!(keys, [b"c".to_vec(), b"i".to_vec(), b"l".to_vec(), store_key, uuid_key, b"v".to_vec()]);
    assert_eq!(facts.0[&b"c"[..]][..], [0, 0, 0, 0, 0, 0, 0, 77]);
    assert_eq!(facts.0[&b"v"[..]][..], [0, 0, 0, 1]);
}

#[derive(Clone, Debug)]
enum Do {
    Put(u8, u8),
    Set(u64, u8),
    Alloc(u64),
}

fn any_do() -> impl Strategy<Value = Do> {
    prop_oneof![
        (1..6u8, 1..5u8).prop_map(|(disk, address)| Do::Put(disk, address)),
        (0..8u64, 0..3u8).prop_map(|(store, state)| Do::Set(store, state)),
        (1..50u64).prop_map(Do::Alloc),
    ]
}

proptest! {
    #[test]
    fn no_id_is_ever_given_twice_and_no_two_stores_share_a_disk_or_an_address(
        commands in prop::collection::vec(any_do(), 1..60),
    ) {
        let mut facts = Facts::founded();
        let mut given = BTreeSet::from([1]);
        let mut id_of_disk = BTreeMap::from([(1, StoreId(1))]);
        for command in commands {
            let reply = match command {
                Do::Put(disk, address) => {
                    let reply = facts.put(disk, &format!("h:{address}"), 1);
                    if let MetaReply::Store(record) = &reply {
                        let id = *id_of_disk.entry(disk).or_insert_with(|| {
                            assert!(given.insert(record.id.get()), "store id given twice");
                            record.id
                        });
                        prop_assert_eq!(id, record.id);
                    }
                    reply
                }
                Do::Set(nth, state) => {
                    let all = stores(&facts).unwrap();
                    let store = all.get(nth as usize).map_or(StoreId(4), |s| s.id);
                    let states = [StoreState::Up, StoreState::Offline, StoreState::Tombstone];
                    facts.set(store, states[state as usize])
                }
                Do::Alloc(count) => facts.run(&MetaCommand::AllocIds { count }),
            };
            if let MetaReply::Ids { first, count } = reply {
                for id in first..first + count {
                    prop_assert!(id >= RegionId::FIRST_FREE.get() && given.insert(id));
                }
            }
            let all = stores(&facts).unwrap();
            let addresses: Vec<_> = all.iter().map(|s| &s.address).filter(|a| !a.is_empty()).collect();
            prop_assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), addresses.len());
            for record in &all {
                prop_assert_eq!(store_of_uuid(&facts, record.uuid).unwrap(), Some(record.clone()));
                prop_assert!(record.state != StoreState::Up || !record.address.is_empty());
            }
        }
    }
}
