//! Random commands through the machine and the engine, against a map.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::{Engine, MemEngine, WriteBatch};
use flotilla_raftstore::{ApplyContext, MachineError, apply_alone};
use flotilla_region::{Index, KeyRange, Region, RegionId, Term};
use proptest::prelude::*;

use crate::{Checksum, Command, KvMachine, Put, Reply, Scan, Ttl, View, get_latest};

/// A command that owns its bytes.
#[derive(Clone, Debug)]
enum Op {
    Put(Vec<(Vec<u8>, Vec<u8>, u64)>),
    Delete(Vec<Vec<u8>>),
    DeleteRange(Vec<u8>, Vec<u8>),
    Swap(Vec<u8>, Option<Vec<u8>>, Option<(Vec<u8>, u64)>),
}

impl Op {
    fn encode(&self) -> Bytes {
        match self {
            Self::Put(puts) => Command::Put(
                puts.iter().map(|(key, value, ttl_s)| Put { key, value, ttl_s: *ttl_s }).collect(),
            ),
            Self::Delete(keys) => Command::Delete(keys.iter().map(Vec::as_slice).collect()),
            Self::DeleteRange(start, end) => Command::DeleteRange { start, end },
            Self::Swap(key, expected, new) => Command::CompareAndSwap {
                key,
                expected: expected.as_deref(),
                new: new.as_ref().map(|(value, ttl_s)| (&value[..], *ttl_s)),
            },
        }
        .encode()
    }
}

/// What the region should hold: value and expiry.
#[derive(Default)]
struct Model(BTreeMap<Vec<u8>, (Vec<u8>, Option<u64>)>);

impl Model {
    fn live(&self, key: &[u8], now_ms: u64) -> Option<&Vec<u8>> {
        let (value, expiry) = self.0.get(key)?;
        expiry.is_none_or(|expiry| expiry > now_ms).then_some(value)
    }

    fn put(&mut self, key: &[u8], value: &[u8], ttl_s: u64, now_ms: u64) {
        let expiry = (ttl_s > 0).then(|| now_ms + ttl_s * 1_000);
        self.0.insert(key.to_vec(), (value.to_vec(), expiry));
    }

    fn apply(&mut self, region: &Region, op: &Op, now_ms: u64) -> Reply {
        let outside = |key: &[u8]| !region.range.contains(key);
        let refused = match op {
            Op::Put(puts) => puts.iter().map(|p| &p.0).find(|k| outside(k)),
            Op::Delete(keys) => keys.iter().find(|k| outside(k)),
            Op::Swap(key, ..) => outside(key).then_some(key),
            Op::DeleteRange(start, end) if !end.is_empty() && start >= end => None,
            Op::DeleteRange(start, _) if outside(start) => Some(start),
            Op::DeleteRange(_, end) => (end.is_empty() || end[..] > region.range.end[..]).then_some(end),
        };
        if let Some(key) = refused {
            return Reply::Outside(Bytes::copy_from_slice(key), region.range.clone());
        }
        match op {
            Op::Put(puts) => puts.iter().for_each(|(k, v, ttl_s)| self.put(k, v, *ttl_s, now_ms)),
            Op::Delete(keys) => keys.iter().for_each(|key| drop(self.0.remove(key))),
            Op::DeleteRange(start, end) => self.0.retain(|key, _| key < start || key >= end),
            Op::Swap(key, expected, new) => {
                let previous = self.live(key, now_ms).cloned();
                let succeeded = previous == *expected;
                match new {
                    Some((value, ttl_s)) if succeeded => self.put(key, value, *ttl_s, now_ms),
                    None if succeeded => drop(self.0.remove(key)),
                    _ => {}
                }
                return Reply::Swapped { succeeded, previous: previous.map(Bytes::from) };
            }
        }
        Reply::Done
    }

    fn scan(&self, region: &Region, scan: &Scan, now_ms: u64) -> Vec<(Vec<u8>, Vec<u8>)> {
        let inside = |key: &[u8]| scan.range.contains(key) && region.range.contains(key);
        let mut all: Vec<_> = self
            .0
            .keys()
            .filter(|key| inside(key))
            .filter_map(|key| Some((key.clone(), self.live(key, now_ms)?.clone())))
            .collect();
        if scan.reverse {
            all.reverse();
        }
        all.truncate(scan.limit);
        if scan.key_only {
            all.iter_mut().for_each(|(_, value)| value.clear());
        }
        all
    }
}

fn region() -> Region {
    let range = KeyRange::new("b", "x");
    Region { id: RegionId(7), range, ..Region::default() }
}

struct Cluster {
    engine: Arc<MemEngine>,
    region: Region,
    index: u64,
}

impl Cluster {
    fn new() -> Self {
        Self { engine: MemEngine::new(1), region: region(), index: 5 }
    }

    fn apply(&mut self, command: &[u8], time_ms: u64) -> Result<Reply, MachineError> {
        self.index += 1;
        let context = ApplyContext { region: &self.region, index: Index(self.index), term: Term(6), time_ms };
        let mut batch = WriteBatch::new();
        let reply = apply_alone(&KvMachine, &*self.engine, &mut batch, &context, command)?;
        self.engine.write(&batch).expect("memory");
        Ok(Reply::decode(reply).expect("encoded"))
    }
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few keys, some outside of the region, one a prefix of others.
    prop_oneof![
        8 => "[b-f]{1,2}".prop_map(String::into_bytes),
        1 => "[awxyz]".prop_map(String::into_bytes),
        1 => Just(vec![b'c', 0xFF, 0x00]),
    ]
}

fn inner_key() -> impl Strategy<Value = Vec<u8>> {
    "[b-f]{1,2}".prop_map(String::into_bytes)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), "[a-b]{1,2}".prop_map(String::into_bytes)]
}

fn ttl() -> impl Strategy<Value = u64> {
    prop_oneof![3 => Just(0u64), 2 => 1u64..4]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => prop::collection::vec((inner_key(), value(), ttl()), 0..4).prop_map(Op::Put),
        1 => prop::collection::vec((key(), value(), ttl()), 1..3).prop_map(Op::Put),
        2 => prop::collection::vec(key(), 0..3).prop_map(Op::Delete),
        1 => (key(), prop_oneof![4 => key(), 1 => Just(Vec::new())]).prop_map(|(s, e)| Op::DeleteRange(s, e)),
        4 => (key(), prop::option::of(value()), prop::option::of((value(), ttl())))
            .prop_map(|(k, e, n)| Op::Swap(k, e, n)),
    ]
}

fn scan() -> impl Strategy<Value = Scan> {
    let bound = || prop_oneof![3 => key(), 1 => Just(Vec::new()), 1 => Just(vec![0xFF; 8_193])];
    (bound(), bound(), 0usize..12, any::<bool>(), any::<bool>()).prop_map(
        |(start, end, limit, key_only, reverse)| Scan {
            range: KeyRange::new(start, end),
            limit,
            key_only,
            reverse,
        },
    )
}

fn check_reads(cluster: &Cluster, model: &Model, scans: &[Scan], now_ms: u64) {
    let snapshot = cluster.engine.snapshot();
    let view = View::new(&*snapshot, &cluster.region, now_ms);
    for key in model.0.keys() {
        let live = model.live(key, now_ms);
        let found = view.get(key).expect("memory");
        assert_eq!(found.as_ref().map(|v| &v.bytes[..]), live.map(Vec::as_slice));
        assert_eq!(get_latest(&*cluster.engine, key, now_ms).expect("memory"), found);
        let ttl = match (live, model.0[key].1) {
            (None, _) => Ttl::Absent,
            (Some(_), None) => Ttl::Forever,
            (Some(_), Some(expiry)) => Ttl::Seconds((expiry - now_ms).div_ceil(1_000)),
        };
        assert_eq!(view.ttl(key).expect("memory"), ttl);
    }
    for scan in scans {
        let pairs = view.scan(scan).expect("memory").into_iter();
        let found: Vec<_> = pairs.map(|pair| (pair.key.to_vec(), pair.value.to_vec())).collect();
        assert_eq!(found, model.scan(&cluster.region, scan, now_ms), "{scan:?}");
        let all = Scan { limit: usize::MAX, key_only: false, reverse: false, ..scan.clone() };
        let pairs = model.scan(&cluster.region, &all, now_ms);
        let mut sum = Checksum { pairs: pairs.len() as u64, ..Checksum::default() };
        for (key, value) in pairs {
            let mut digest = crc64fast::Digest::new();
            digest.write(&[&key[..], &value[..]].concat());
            sum.crc64_xor ^= digest.sum64();
            sum.bytes += (key.len() + value.len()) as u64;
        }
        assert_eq!(view.checksum(std::slice::from_ref(&scan.range)).expect("memory"), sum);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_region_holds_what_a_map_would(
        steps in prop::collection::vec((op(), 0u64..1_500), 1..40),
        scans in prop::collection::vec(scan(), 1..4),
        read_ahead_ms in 0u64..3_000,
    ) {
        let mut cluster = Cluster::new();
        let mut model = Model::default();
        let mut now_ms = 1_700_000_000_000;
        for (op, passed_ms) in steps {
            now_ms += passed_ms;
            let reply = cluster.apply(&op.encode(), now_ms).expect("known command");
            prop_assert_eq!(reply, model.apply(&cluster.region, &op, now_ms), "{:?}", op);
            check_reads(&cluster, &model, &scans, now_ms + read_ahead_ms);
        }
    }
}

#[test]
fn a_swap_takes_an_expired_value_for_absent_by_the_entrys_time() {
    let mut cluster = Cluster::new();
    let put = Command::Put([Put { key: b"k", value: b"old", ttl_s: 1 }].into()).encode();
    let swap = Command::CompareAndSwap { key: b"k", expected: None, new: Some((b"new", 0)) }.encode();
    cluster.apply(&put, 10_000).unwrap();
    let previous = Some(Bytes::from_static(b"old"));
    let lost = Reply::Swapped { succeeded: false, previous };
    assert_eq!(cluster.apply(&swap, 10_999).unwrap(), lost);
    assert_eq!(cluster.apply(&swap, 11_000).unwrap(), Reply::Swapped { succeeded: true, previous: None });
}

#[test]
fn an_unknown_command_stops_the_region() {
    let mut cluster = Cluster::new();
    assert!(matches!(cluster.apply(b"\x01\x09", 1), Err(MachineError::UnknownCommand)));
    assert!(matches!(cluster.apply(b"", 1), Err(MachineError::UnknownCommand)));
}

#[test]
fn a_damaged_value_is_an_error_and_not_a_missing_key() {
    let mut cluster = Cluster::new();
    let mut batch = WriteBatch::new();
    batch.put(&flotilla_region::keys::data_key(flotilla_region::Space::User, b"k"), b"\x07damaged");
    cluster.engine.write(&batch).unwrap();
    let swap = Command::CompareAndSwap { key: b"k", expected: None, new: None }.encode();
    assert!(matches!(cluster.apply(&swap, 1), Err(MachineError::Engine(_))));
    let snapshot = cluster.engine.snapshot();
    let view = View::new(&*snapshot, &cluster.region, 1);
    assert!(matches!(view.get(b"k"), Err(crate::Error::Malformed)));
    let all = Scan { range: KeyRange::ALL, limit: 9, key_only: true, reverse: false };
    assert!(matches!(view.scan(&all), Err(crate::Error::Malformed)));
}

/// Known answer: CRC-64/XZ of "123456789" is 995DC9BBDF1939FA.
#[test]
fn the_checksum_is_crc64_xz() {
    let mut cluster = Cluster::new();
    let put = Command::Put([Put { key: b"c123456789", value: b"", ttl_s: 0 }].into()).encode();
    cluster.apply(&put, 1).unwrap();
    let mut digest = crc64fast::Digest::new();
    digest.write(b"123456789");
    assert_eq!(digest.sum64(), 0x995D_C9BB_DF19_39FA);
    let mut whole = crc64fast::Digest::new();
    whole.write(b"c123456789");
    let snapshot = cluster.engine.snapshot();
    let sum = View::new(&*snapshot, &cluster.region, 1).checksum(&[KeyRange::ALL]).unwrap();
    assert_eq!(sum, Checksum { crc64_xor: whole.sum64(), pairs: 1, bytes: 10 });
}
