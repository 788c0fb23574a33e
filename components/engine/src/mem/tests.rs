//! What a crash of the model loses, and what its faults do.

use std::collections::BTreeSet;

use super::*;

fn batch(key: &str) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(key.as_bytes(), b"1");
    batch
}

fn log_keys(engine: &MemEngine) -> String {
    let mut keys = String::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        keys.push_str(&key.escape_ascii().to_string());
        true
    };
    engine.log_scan(b"", b"z", &mut visit).unwrap();
    keys
}

fn data_keys(engine: &MemEngine) -> String {
    let mut keys = String::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        keys.push_str(&key.escape_ascii().to_string());
        true
    };
    engine.snapshot().scan(b"", b"z", &mut visit).unwrap();
    keys
}

/// What a scan meets, and whether it fails.
fn met(
    view: &dyn EngineSnapshot,
    (start, end): (&[u8], &[u8]),
    reverse: bool,
    limit: usize,
) -> (Vec<Bytes>, bool) {
    let mut keys = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        keys.push(Bytes::copy_from_slice(key));
        keys.len() < limit
    };
    let scanned =
        if reverse { view.scan_reverse(start, end, &mut visit) } else { view.scan(start, end, &mut visit) };
    (keys, scanned.is_err())
}

#[test]
fn a_view_in_place_shows_what_every_view_shows() {
    let engine = MemEngine::new(1);
    let mut pairs = WriteBatch::new();
    (0..=150u8).for_each(|key| pairs.put(&[key], b"1"));
    engine.write(&pairs).unwrap();
    let (copied, in_place) = (engine.snapshot(), engine.snapshot_in_place());
    let mut later = WriteBatch::new();
    later.delete(&[3]);
    engine.write(&later).unwrap();
    let same = |bounds: (&[u8], &[u8])| {
        for (reverse, limit) in [(false, 1), (true, 1), (false, 1000), (true, 1000)] {
            assert_eq!(met(&*copied, bounds, reverse, limit), met(&*in_place, bounds, reverse, limit));
        }
    };
    same((&[2], &[140]));
    same((&[9], &[9]));
    same((&[9], &[2]));
    assert_eq!(met(&*in_place, (&[2], &[140]), false, 1000).0.len(), 138);
    engine.rot(&[70]);
    same((&[2], &[140]));
    assert!(met(&*in_place, (&[2], &[140]), true, 1000).1);
    engine.set_faults(Faults::none().fail(Call::Read, Fault::always(FaultKind::Io)));
    assert_eq!(met(&*copied, (&[2], &[10]), false, 1000), (Vec::new(), true), "a read that fails");
    assert_eq!(met(&*in_place, (&[2], &[10]), false, 1000).0.len(), 8, "a checker's does not");
}

fn file(engine: &MemEngine, key: &str) -> SstFile {
    let mut writer = engine.sst_writer().unwrap();
    writer.put(key.as_bytes(), b"1").unwrap();
    writer.finish().unwrap()
}

/// Outcomes of a thousand crashes after the same calls.
fn outcomes(calls: impl Fn(&MemEngine), keys: impl Fn(&MemEngine) -> String) -> BTreeSet<String> {
    (0..1_000)
        .map(|seed| {
            let engine = MemEngine::new(seed);
            calls(&engine);
            engine.crash();
            keys(&engine)
        })
        .collect()
}

#[test]
fn unsynced_log_batches_survive_in_every_combination() {
    let write = |engine: &MemEngine| {
        engine.log_write(&batch("a")).unwrap();
        engine.log_sync().unwrap();
        for key in ["b", "c", "d"] {
            engine.log_write(&batch(key)).unwrap();
        }
    };
    let expected = ["a", "ab", "ac", "ad", "abc", "abd", "acd", "abcd"].map(str::to_owned);
    assert_eq!(outcomes(write, log_keys), BTreeSet::from(expected));
}

#[test]
fn unflushed_writes_survive_as_any_prefix() {
    let write = |engine: &MemEngine| {
        engine.write(&batch("a")).unwrap();
        engine.flush().unwrap();
        for key in ["b", "c", "d"] {
            engine.write(&batch(key)).unwrap();
        }
    };
    assert_eq!(outcomes(write, data_keys), BTreeSet::from(["a", "ab", "abc", "abcd"].map(str::to_owned)));
}

#[test]
fn an_ingestion_survives_without_the_unflushed_writes_before_it() {
    let write = |engine: &MemEngine| {
        engine.write(&batch("a")).unwrap();
        engine.ingest(vec![file(engine, "b")]).unwrap();
        engine.write(&batch("c")).unwrap();
    };
    assert_eq!(outcomes(write, data_keys), BTreeSet::from(["b", "ab", "abc"].map(str::to_owned)));
}

#[test]
fn what_survived_a_crash_survives_the_next() {
    for seed in 0..200 {
        let engine = MemEngine::new(seed);
        for key in ["a", "b", "c"] {
            engine.log_write(&batch(key)).unwrap();
            engine.write(&batch(key)).unwrap();
        }
        engine.crash();
        let (log, data) = (log_keys(&engine), data_keys(&engine));
        assert_eq!(engine.crash(), CrashReport { log_kept: (0, 0), data_kept: (0, 0) });
        assert_eq!((log, data), (log_keys(&engine), data_keys(&engine)));
    }
}

#[test]
fn the_same_seed_crashes_in_the_same_way() {
    let life = |seed| {
        let engine = MemEngine::new(seed);
        let mut reports = Vec::new();
        for n in 0..50 {
            engine.log_write(&batch(&format!("l{n}"))).unwrap();
            engine.write(&batch(&format!("d{n}"))).unwrap();
            if n % 7 == 0 {
                reports.push((engine.crash(), log_keys(&engine), data_keys(&engine)));
            }
        }
        reports
    };
    assert_eq!(life(5), life(5));
    assert_ne!(life(5), life(6));
}

#[test]
fn a_killed_process_loses_nothing_of_the_log() {
    for seed in 0..100 {
        let engine = MemEngine::new(seed);
        for key in ["a", "b", "c"] {
            engine.log_write(&batch(key)).unwrap();
        }
        engine.kill();
        assert_eq!(log_keys(&engine), "abc");
    }
}

#[test]
fn a_failed_log_call_closes_the_log_until_the_crash() {
    for call in [Call::LogWrite, Call::LogSync, Call::LogFlush] {
        let engine = MemEngine::new(1);
        engine.set_faults(Faults::none().fail(call, Fault { kind: FaultKind::Io, after: 1, times: 1 }));
        for _ in 0..3 {
            let _ = engine.log_write(&batch("a")).and_then(|()| engine.log_sync());
            let _ = engine.log_flush();
        }
        assert!(matches!(engine.log_write(&batch("b")), Err(Error::Io(_))), "{call:?}");
        assert!(engine.log_get(b"a").is_err() && engine.write(&batch("a")).is_ok());
        engine.crash();
        engine.log_write(&batch("b")).unwrap();
        engine.log_sync().unwrap();
    }
}

#[test]
fn a_failed_log_write_may_have_reached_the_disk() {
    let write = |engine: &MemEngine| {
        engine.set_faults(Faults::none().fail(Call::LogWrite, Fault::always(FaultKind::Io)));
        engine.log_write(&batch("a")).unwrap_err();
        engine.set_faults(Faults::none());
    };
    assert_eq!(outcomes(write, log_keys), BTreeSet::from(["", "a"].map(str::to_owned)));
}

#[test]
fn data_refuses_writes_after_an_error_and_reads_go_on() {
    let engine = MemEngine::new(1);
    engine.write(&batch("a")).unwrap();
    engine.set_faults(Faults::none().fail(Call::Flush, Fault::always(FaultKind::Io)));
    assert!(matches!(engine.flush(), Err(Error::Io(_))));
    engine.set_faults(Faults::none());
    assert!(engine.write(&batch("b")).is_err());
    assert!(engine.ingest(vec![file(&engine, "b")]).is_err());
    assert_eq!(data_keys(&engine), "a");
    engine.crash();
    engine.write(&batch("b")).unwrap();
}

#[test]
fn a_full_disk_takes_writes_again_when_there_is_room() {
    let engine = MemEngine::new(1);
    engine.set_faults(Faults::none().fail(Call::Write, Fault::always(FaultKind::NoSpace)));
    assert!(matches!(engine.write(&batch("a")), Err(Error::NoSpace(_))));
    engine.set_faults(Faults::none());
    engine.write(&batch("a")).unwrap();
}

#[test]
fn damage_fails_reads_that_meet_it_and_no_others() {
    let engine = MemEngine::new(1);
    for key in ["a", "b", "c"] {
        engine.write(&batch(key)).unwrap();
    }
    engine.set_faults(Faults::none().corrupt(b"b", b"c"));
    assert!(engine.get(b"a").is_ok() && matches!(engine.get(b"b"), Err(Error::Corruption(_))));
    let snapshot = engine.snapshot();
    assert!(matches!(snapshot.scan(b"a", b"z", &mut |_, _| true), Err(Error::Corruption(_))));
    snapshot.scan(b"c", b"z", &mut |_, _| true).unwrap();
    snapshot.scan_reverse(b"a", b"b", &mut |_, _| true).unwrap();
}

#[test]
fn slow_calls_take_simulated_time() {
    let engine = MemEngine::new(1);
    engine.set_faults(Faults::none().slow(Call::LogSync, 300_000));
    engine.log_write(&batch("a")).unwrap();
    engine.log_sync().unwrap();
    assert_eq!((engine.take_elapsed_us(), engine.take_elapsed_us()), (300_000, 0));
}

#[test]
fn a_wiped_disk_is_empty_and_a_clone_is_not_touched() {
    let engine = MemEngine::new(1);
    engine.log_write(&batch("a")).unwrap();
    engine.write(&batch("a")).unwrap();
    let clone = engine.clone_disk(2);
    engine.wipe();
    assert_eq!((log_keys(&engine), data_keys(&engine)), (String::new(), String::new()));
    assert_eq!((log_keys(&clone), data_keys(&clone)), ("a".to_owned(), "a".to_owned()));
    assert_eq!(clone.at_risk(), (1, 1));
}

#[test]
fn a_visitor_may_call_the_engine() {
    let engine = MemEngine::new(1);
    for n in 0..300u32 {
        engine.write(&batch(&format!("{n:04}"))).unwrap();
    }
    let mut seen = 0;
    let mut visit = |key: &[u8], _: &[u8]| {
        seen += 1;
        let mut batch = WriteBatch::new();
        batch.delete(key);
        batch.put(b"9999", b"new");
        engine.write(&batch).is_ok()
    };
    engine.snapshot().scan_reverse(b"", b"z", &mut visit).unwrap();
    assert_eq!(seen, 300, "the scan is of one moment");
    assert_eq!(data_keys(&engine), "9999");
}

#[test]
#[should_panic(expected = "a snapshot outlives the crash")]
fn a_snapshot_that_outlives_the_crash_is_a_bug_of_the_harness() {
    let engine = MemEngine::new(1);
    let _snapshot = engine.snapshot();
    engine.crash();
}

#[cfg(feature = "planted")]
#[test]
fn a_planted_sync_that_is_none_loses_batches() {
    let write = |engine: &MemEngine| {
        engine.plant_skip_log_sync();
        engine.log_write(&batch("a")).unwrap();
        engine.log_sync().unwrap();
    };
    assert_eq!(outcomes(write, log_keys), BTreeSet::from(["", "a"].map(str::to_owned)));
}

#[test]
fn a_rotten_record_is_never_read_again_and_the_others_are() {
    let engine = MemEngine::new(1);
    for key in ["a", "b", "c"] {
        engine.write(&batch(key)).unwrap();
        engine.log_write(&batch(key)).unwrap();
    }
    engine.flush().unwrap();
    engine.log_sync().unwrap();
    engine.rot(b"b");
    engine.rot_log(b"c");
    engine.crash();
    assert!(matches!(engine.get(b"b"), Err(Error::Corruption(_))));
    assert!(engine.get(b"a").unwrap().is_some());
    let view = engine.snapshot();
    assert!(matches!(view.scan(b"a", b"z", &mut |_, _| true), Err(Error::Corruption(_))));
    assert!(view.scan(b"c", b"z", &mut |_, _| true).is_ok());
    assert!(matches!(engine.log_get(b"c"), Err(Error::Corruption(_))));
    assert!(engine.log_scan(b"a", b"c", &mut |_, _| true).is_ok());
    assert!(matches!(engine.log_scan(b"a", b"z", &mut |_, _| true), Err(Error::Corruption(_))));
    drop(view);
    engine.wipe();
    assert!(engine.get(b"b").is_ok());
}

#[test]
fn after_a_failure_in_the_background_data_takes_no_writes_until_it_is_opened_again() {
    let engine = MemEngine::new(1);
    engine.write(&batch("a")).unwrap();
    engine.refuse_writes();
    assert!(engine.write(&batch("b")).is_err());
    assert!(engine.flush().is_err());
    engine.set_faults(Faults::none());
    assert!(engine.write(&batch("b")).is_err());
    assert!(engine.get(b"a").unwrap().is_some());
    engine.kill();
    engine.write(&batch("b")).unwrap();
}

#[test]
fn files_are_counted_until_they_are_ingested_or_dropped() {
    let engine = MemEngine::new(1);
    let begun = engine.sst_writer().unwrap();
    let finished = file(&engine, "a");
    assert_eq!(engine.files(), 2);
    drop(begun);
    engine.ingest(vec![finished]).unwrap();
    assert_eq!(engine.files(), 0);
}

fn log_news(engine: &MemEngine) -> String {
    let mut pairs = String::new();
    let mut visit = |key: &[u8], value: &[u8]| {
        pairs.push_str(&format!("{}{} ", key.escape_ascii(), value.escape_ascii()));
        true
    };
    match engine.log_scan_news((b"a", b"z"), &mut visit) {
        Ok(()) => pairs,
        Err(_) => format!("{pairs}failed"),
    }
}

#[test]
fn news_of_the_log_are_what_was_set_since_the_last_look() {
    let engine = MemEngine::new(1);
    for key in ["c", "b"] {
        engine.log_write(&batch(key)).unwrap();
    }
    engine.log_sync().unwrap();
    assert_eq!(log_news(&engine), "b1 c1 ");
    assert_eq!(log_news(&engine), "");
    let mut next = batch("z");
    for key in [b"d", b"b", b"a"] {
        next.put(key, b"2");
    }
    next.delete(b"d");
    next.delete(b"c");
    next.put(b"b", b"3");
    engine.log_write(&next).unwrap();
    assert_eq!(log_news(&engine), "a2 b3 ");
    engine.crash_with(&CrashPlan { log_kept: vec![], data_kept: 0 });
    assert_eq!(log_news(&engine), "b1 c1 ", "an older value is back");
    assert_eq!(log_news(&engine.clone_disk(2)), "b1 c1 ");
    engine.wipe();
    engine.log_write(&batch("b")).unwrap();
    assert_eq!(log_news(&engine), "b1 ");
}

#[test]
fn a_look_at_the_log_that_sees_less_makes_no_later_one_see_less() {
    let engine = MemEngine::new(1);
    for key in ["a", "b", "c"] {
        engine.log_write(&batch(key)).unwrap();
    }
    engine.log_scan_news((b"a", b"z"), &mut |_, _| false).unwrap();
    assert_eq!(log_news(&engine), "a1 b1 c1 ");
    engine.log_write(&batch("d")).unwrap();
    engine.set_faults(Faults::none().fail(Call::LogRead, Fault { kind: FaultKind::Io, after: 0, times: 1 }));
    // Checkers are not the store: its next read fails, not theirs.
    assert_eq!(log_news(&engine), "d1 ");
    engine.log_get(b"a").unwrap_err();
    engine.log_write(&batch("d")).unwrap();
    engine.rot_log(b"b");
    assert_eq!(log_news(&engine), "a1 failed");
    assert_eq!(log_news(&engine), "a1 failed");
    let mut next = WriteBatch::new();
    next.delete(b"b");
    engine.log_write(&next).unwrap();
    assert_eq!(log_news(&engine), "a1 c1 d1 ");
}
