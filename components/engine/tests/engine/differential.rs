//! The same random calls on RocksDB and on the model: every read agrees, and what RocksDB has after a power cut is
//! something that the model could have lost.

use std::sync::Arc;

use flotilla_engine::{
    CrashPlan, Engine, EngineSnapshot, MemEngine, Prng, RocksConfig, RocksEngine, SstFile, WriteBatch,
};

use crate::{Content, data_content, log_content, tempdir};

/// A pair of engines that should not be told apart.
struct Pair {
    seed: u64,
    rocks: Arc<RocksEngine>,
    model: Arc<MemEngine>,
    /// Snapshots of the same moments, with the content they must go on to show.
    snapshots: Vec<(Arc<dyn EngineSnapshot>, Arc<dyn EngineSnapshot>)>,
    prng: Prng,
    dir: tempfile::TempDir,
}

fn config() -> RocksConfig {
    RocksConfig { record_synced_length: true, ..RocksConfig::small() }
}

impl Pair {
    fn new(seed: u64) -> Self {
        let dir = tempdir();
        Self {
            seed,
            rocks: RocksEngine::open(dir.path(), config()).unwrap(),
            model: MemEngine::new(seed),
            snapshots: Vec::new(),
            prng: Prng::new(seed),
            dir,
        }
    }

    /// A key out of few, so that calls meet each other; sometimes empty, sometimes a prefix of another.
    fn key(&mut self) -> Vec<u8> {
        let letters = [b'a', b'b', 0x00, 0xFF];
        let len = self.prng.index(4);
        (0..len).map(|_| *self.prng.pick(&letters)).collect()
    }

    fn value(&mut self) -> Vec<u8> {
        let len = if self.prng.chance(1, 10) { self.prng.index(5_000) } else { self.prng.index(20) };
        let mut value = vec![0; len];
        self.prng.fill(&mut value);
        value
    }

    fn batch(&mut self) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for _ in 0..self.prng.index(6) {
            let (key, other) = (self.key(), self.key());
            match self.prng.below(6) {
                0 => batch.delete(&key),
                1 => batch.delete_range(&key, &other),
                _ => {
                    let value = self.value();
                    batch.put(&key, &value);
                }
            }
        }
        batch
    }

    fn files(&mut self) -> (Vec<SstFile>, Vec<SstFile>) {
        let mut files = (Vec::new(), Vec::new());
        for _ in 0..1 + self.prng.index(3) {
            let mut writers = (self.rocks.sst_writer().unwrap(), self.model.sst_writer().unwrap());
            let mut keys: Vec<Vec<u8>> = (0..self.prng.index(5)).map(|_| self.key()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let (value, start, end) = (self.value(), self.key(), self.key());
                if self.prng.chance(1, 3) {
                    writers.0.clear(&start, &end).unwrap();
                    writers.1.clear(&start, &end).unwrap();
                }
                writers.0.put(&key, &value).unwrap();
                writers.1.put(&key, &value).unwrap();
            }
            assert_eq!(writers.0.bytes(), writers.1.bytes());
            files.0.push(writers.0.finish().unwrap());
            files.1.push(writers.1.finish().unwrap());
        }
        files
    }

    fn step(&mut self) {
        match self.prng.below(20) {
            0..6 => {
                let batch = self.batch();
                self.rocks.write(&batch).unwrap();
                self.model.write(&batch).unwrap();
            }
            6..10 => {
                let batch = self.batch();
                self.rocks.log_write(&batch).unwrap();
                self.model.log_write(&batch).unwrap();
            }
            10..12 => {
                self.rocks.log_sync().unwrap();
                self.model.log_sync().unwrap();
            }
            12 => {
                self.rocks.log_flush().unwrap();
                self.model.log_flush().unwrap();
            }
            13 => {
                self.rocks.flush().unwrap();
                self.model.flush().unwrap();
            }
            14 => {
                let (rocks, model) = self.files();
                self.rocks.ingest(rocks).unwrap();
                self.model.ingest(model).unwrap();
            }
            15 => {
                let (start, end) = (self.key(), self.key());
                self.rocks.compact(&start, &end).unwrap();
                self.model.compact(&start, &end).unwrap();
            }
            16 => {
                self.snapshots.push((self.rocks.snapshot(), self.model.snapshot()));
                if self.snapshots.len() > 4 {
                    let dropped = self.prng.index(self.snapshots.len());
                    self.snapshots.remove(dropped);
                }
            }
            _ => self.compare_reads(),
        }
    }

    fn compare_reads(&mut self) {
        let seed = self.seed;
        let (key, end) = (self.key(), self.key());
        assert_eq!(self.rocks.get(&key).unwrap(), self.model.get(&key).unwrap(), "seed {seed}");
        assert_eq!(self.rocks.log_get(&key).unwrap(), self.model.log_get(&key).unwrap(), "seed {seed}");
        let limit = 1 + self.prng.index(20);
        let log = |engine: &dyn Engine| take(limit, |visit| engine.log_scan(&key, &end, visit).unwrap());
        assert_eq!(log(&*self.rocks), log(&*self.model), "seed {seed}");
        self.snapshots.push((self.rocks.snapshot(), self.model.snapshot()));
        for (rocks, model) in &self.snapshots {
            assert_eq!(rocks.get(&key).unwrap(), model.get(&key).unwrap(), "seed {seed}");
            let forward = |snapshot: &dyn EngineSnapshot| {
                take(limit, |visit| snapshot.scan(&key, &end, visit).unwrap())
            };
            assert_eq!(forward(&**rocks), forward(&**model), "seed {seed}");
            let backward = |snapshot: &dyn EngineSnapshot| {
                take(limit, |visit| snapshot.scan_reverse(&key, &end, visit).unwrap())
            };
            assert_eq!(backward(&**rocks), backward(&**model), "seed {seed}");
        }
        self.snapshots.pop();
    }

    /// Cuts the power of both: RocksDB loses what it loses, the model must be able to have lost the same.
    fn crash(&mut self) {
        self.snapshots.clear();
        let to = tempdir();
        self.rocks.power_cut(to.path()).unwrap();
        self.rocks = RocksEngine::open(to.path(), config()).unwrap();
        self.dir = to;
        let (log, data) = (log_content(&*self.rocks), data_content(&*self.rocks));
        let plan =
            CrashPlan { log_kept: vec![true; self.log_prefix(&log)], data_kept: self.data_prefix(&data) };
        self.model.crash_with(&plan);
        assert_eq!(log_content(&*self.model), log);
        assert_eq!(data_content(&*self.model), data);
    }

    fn log_prefix(&self, log: &Content) -> usize {
        let (batches, _) = self.model.at_risk();
        (0..=batches)
            .find(|kept| {
                let model = self.model.clone_disk(0);
                model.crash_with(&CrashPlan { log_kept: vec![true; *kept], data_kept: 0 });
                log_content(&*model) == *log
            })
            .unwrap_or_else(|| panic!("seed {}: no prefix of {batches} batches gives {log:?}", self.seed))
    }

    fn data_prefix(&self, data: &Content) -> usize {
        let (_, steps) = self.model.at_risk();
        (0..=steps)
            .find(|kept| {
                let model = self.model.clone_disk(0);
                model.crash_with(&CrashPlan { log_kept: Vec::new(), data_kept: *kept });
                data_content(&*model) == *data
            })
            .unwrap_or_else(|| panic!("seed {}: no prefix of {steps} writes gives {data:?}", self.seed))
    }
}

/// The first `limit` pairs that a scan visits.
fn take(limit: usize, scan: impl FnOnce(&mut dyn FnMut(&[u8], &[u8]) -> bool)) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut seen = Vec::new();
    scan(&mut |key, value| {
        seen.push((key.to_vec(), value.to_vec()));
        seen.len() < limit
    });
    seen
}

/// Runs the pair of one seed; FLOTILLA_SEED=n runs that one only.
fn run(seed: u64) {
    eprintln!("seed {seed}: replay with FLOTILLA_SEED={seed}");
    let mut pair = Pair::new(seed);
    for _ in 0..3 {
        for _ in 0..150 {
            pair.step();
        }
        assert_eq!(data_content(&*pair.rocks), data_content(&*pair.model), "seed {seed}");
        assert_eq!(log_content(&*pair.rocks), log_content(&*pair.model), "seed {seed}");
        pair.crash();
    }
}

#[test]
fn rocksdb_and_the_model_cannot_be_told_apart() {
    if let Ok(seed) = std::env::var("FLOTILLA_SEED") {
        return run(seed.parse().expect("a seed is a number"));
    }
    (0..16).for_each(run);
}
