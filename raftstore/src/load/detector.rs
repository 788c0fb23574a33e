//! Which regions are busy, for how long, and where they are cut.

use std::collections::BTreeMap;

use bytes::Bytes;
use flotilla_placement::Rates;
use flotilla_region::RegionId;

use super::Harvest;
use super::samples::{Limits, Sample, divide};
use crate::config::StoreConfig;

/// Intervals without a request after which a region's rates are zero.
const QUIET_INTERVALS: u32 = 5;

/// A region with load now or lately.
#[derive(Debug, Default)]
struct Busy {
    rates: Rates,
    /// Intervals without a request.
    quiet: u32,
    shape: u64,
    /// Samples of each interval over the limits, of those that followed one another.
    over: Vec<Vec<Sample>>,
}

/// The busy regions of a store.
#[derive(Debug, Default)]
pub(crate) struct Detector {
    busy: BTreeMap<RegionId, Busy>,
}

/// What an interval led to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdicts {
    /// Rates of all busy regions, and of those that are it no more.
    pub rates: Vec<(RegionId, Rates)>,
    /// Regions to cut, and where.
    pub cuts: Vec<(RegionId, Bytes)>,
}

impl Detector {
    /// Takes what an interval of `elapsed_ms` brought the regions that had any load; `may_split` says which of them are
    /// ever split.
    pub(crate) fn observe(
        &mut self,
        harvests: BTreeMap<RegionId, (bool, Harvest)>,
        elapsed_ms: u64,
        config: &StoreConfig,
    ) -> Verdicts {
        let mut verdicts = Verdicts::default();
        let silent: Vec<RegionId> =
            self.busy.keys().filter(|id| !harvests.contains_key(id)).copied().collect();
        for id in silent {
            if let Some(busy) = self.busy.get_mut(&id) {
                busy.over.clear();
                busy.rates = busy.rates.blend(Rates::default());
                busy.quiet += 1;
                if busy.quiet >= QUIET_INTERVALS {
                    self.busy.remove(&id);
                    verdicts.rates.push((id, Rates::default()));
                }
            }
        }
        for (id, (may_split, harvest)) in harvests {
            let now = rates_of(&harvest, elapsed_ms);
            let cpu_ms = per_second(harvest.cpu_us, elapsed_ms) / 1_000;
            let busy = self.busy.entry(id).or_default();
            busy.rates = busy.rates.blend(now);
            busy.quiet = 0;
            verdicts.rates.push((id, busy.rates));
            if !may_split {
                continue;
            }
            if let Some(key) = busy.watch(harvest, now, cpu_ms, config) {
                verdicts.cuts.push((id, key));
            }
        }
        verdicts
    }
}

impl Busy {
    /// Adds an interval; where to cut, once there were enough of them over a limit one after the other.
    fn watch(&mut self, harvest: Harvest, now: Rates, cpu_ms: u64, config: &StoreConfig) -> Option<Bytes> {
        if harvest.shape != self.shape || !is_over(now, cpu_ms, config) {
            self.shape = harvest.shape;
            self.over.clear();
            return None;
        }
        self.over.push(harvest.samples);
        if self.over.len() < config.load_split_intervals {
            return None;
        }
        let samples: Vec<Sample> = self.over.drain(..).flatten().collect();
        let limits = Limits {
            samples_min: config.load_split_samples_min,
            imbalance_percent: config.load_split_imbalance_percent,
            contained_percent: config.load_split_contained_percent,
        };
        divide(&samples, &limits)
    }
}

fn is_over(now: Rates, cpu_ms: u64, config: &StoreConfig) -> bool {
    let exceeds = |value: u64, limit: u64| limit > 0 && value >= limit;
    exceeds(now.reads + now.writes, config.load_split_requests)
        || exceeds(now.read_bytes + now.write_bytes, config.load_split_bytes)
        || exceeds(cpu_ms, config.load_split_cpu_ms)
}

fn rates_of(harvest: &Harvest, elapsed_ms: u64) -> Rates {
    Rates {
        reads: per_second(harvest.reads, elapsed_ms),
        read_bytes: per_second(harvest.read_bytes, elapsed_ms),
        writes: per_second(harvest.writes, elapsed_ms),
        write_bytes: per_second(harvest.write_bytes, elapsed_ms),
    }
}

fn per_second(count: u64, elapsed_ms: u64) -> u64 {
    count.saturating_mul(1_000) / elapsed_ms.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: RegionId = RegionId(9);

    fn config() -> StoreConfig {
        StoreConfig {
            load_split_requests: 100,
            load_split_bytes: 1_000_000,
            load_split_cpu_ms: 300,
            load_split_intervals: 3,
            load_split_samples_min: 10,
            ..StoreConfig::default()
        }
    }

    fn harvest(reads: u64, shape: u64) -> Harvest {
        let samples = (0..20u8).map(|n| Sample::key(Bytes::copy_from_slice(&[n]))).collect();
        Harvest { reads, samples, shape, ..Harvest::default() }
    }

    fn observe(detector: &mut Detector, harvest: Option<Harvest>, may_split: bool) -> Verdicts {
        let harvests = harvest.map(|harvest| (ID, (may_split, harvest))).into_iter().collect();
        detector.observe(harvests, 1_000, &config())
    }

    fn cuts(detector: &mut Detector, harvest: Harvest) -> usize {
        observe(detector, Some(harvest), true).cuts.len()
    }

    #[test]
    fn a_region_is_cut_after_enough_busy_intervals_one_after_the_other() {
        let mut detector = Detector::default();
        assert_eq!(cuts(&mut detector, harvest(100, 0)), 0);
        assert_eq!(cuts(&mut detector, harvest(100, 0)), 0);
        assert_eq!(cuts(&mut detector, harvest(99, 0)), 0, "not over the limit: from the beginning");
        assert_eq!(cuts(&mut detector, harvest(100, 0)), 0);
        assert_eq!(cuts(&mut detector, harvest(100, 0)), 0);
        let verdict = observe(&mut detector, Some(harvest(100, 0)), true);
        assert_eq!(verdict.cuts, [(ID, Bytes::from_static(&[10]))]);
        assert_eq!(cuts(&mut detector, harvest(100, 0)), 0, "it has been asked for");
        observe(&mut detector, None, true);
        assert_eq!(cuts(&mut detector, harvest(100, 0)) + cuts(&mut detector, harvest(100, 0)), 0, "a pause");
    }

    #[test]
    fn another_range_begins_anew() {
        let mut detector = Detector::default();
        assert_eq!(cuts(&mut detector, harvest(100, 0)) + cuts(&mut detector, harvest(100, 0)), 0);
        assert_eq!(cuts(&mut detector, harvest(100, 1)), 0);
        let later: usize = (0..3).map(|_| cuts(&mut detector, harvest(100, 1))).sum();
        assert_eq!(later, 1);
    }

    #[test]
    fn bytes_and_processor_time_count_too_and_what_is_never_split_does_not() {
        let samples = harvest(1, 0).samples;
        let large =
            Harvest { writes: 1, write_bytes: 1_000_000, samples: samples.clone(), ..Harvest::default() };
        let slow = Harvest { reads: 1, cpu_us: 300_000, samples, ..Harvest::default() };
        for busy in [large, slow] {
            let mut detector = Detector::default();
            let found: usize = (0..3).map(|_| cuts(&mut detector, busy.clone())).sum();
            assert_eq!(found, 1, "{busy:?}");
            let mut detector = Detector::default();
            let verdicts: Vec<_> =
                (0..9).map(|_| observe(&mut detector, Some(busy.clone()), false)).collect();
            assert!(verdicts.iter().all(|verdict| verdict.cuts.is_empty()));
        }
    }

    #[test]
    fn rates_follow_the_load_and_end_at_zero_once() {
        let mut detector = Detector::default();
        let rate = |verdicts: Verdicts| verdicts.rates.first().map(|(_, rates)| rates.reads);
        assert_eq!(rate(observe(&mut detector, Some(harvest(80, 0)), true)), Some(20));
        assert_eq!(rate(observe(&mut detector, Some(harvest(160, 0)), true)), Some(55));
        for _ in 1..QUIET_INTERVALS {
            assert_eq!(rate(observe(&mut detector, None, true)), None);
        }
        assert_eq!(rate(observe(&mut detector, None, true)), Some(0));
        assert_eq!(observe(&mut detector, None, true), Verdicts::default(), "an idle region costs nothing");
        // A long interval holds more.
        let harvests = [(ID, (true, harvest(160, 0)))].into();
        assert_eq!(rate(detector.observe(harvests, 2_000, &config())), Some(20));
    }
}
