//! Keys of sampled requests, and the key that divides them best.

use bytes::Bytes;

/// The keys that one request touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    start: Bytes,
    /// Last key of a scan; `None` = a single key.
    last: Option<Bytes>,
}

/// What a key must be like to divide a region, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Least number of samples that say anything.
    pub samples_min: usize,
    /// Difference between the sides, of the requests that lie on one of them: a key is refused from here on.
    pub imbalance_percent: u64,
    /// Requests that would be cut, of all: a key is refused from here on.
    pub contained_percent: u64,
}

impl Sample {
    pub(crate) fn key(key: Bytes) -> Self {
        Self { start: key, last: None }
    }

    pub(crate) fn scan(first: Bytes, last: Bytes) -> Self {
        Self { last: (first < last).then_some(last), start: first }
    }

    #[cfg(test)]
    pub(crate) fn start(&self) -> &Bytes {
        &self.start
    }

    fn last(&self) -> &Bytes {
        self.last.as_ref().unwrap_or(&self.start)
    }
}

/// Where in a reservoir the `n`-th request (from 0) goes: uniform in `0..=n`, so that a slot from [`SAMPLES_MAX`] on means
/// nowhere. And a random number for whoever has to choose further.
pub(crate) fn place(seed: u64, n: u64) -> (u64, u64) {
    let drawn = mix(seed ^ mix(n));
    let slot = ((u128::from(drawn) * (u128::from(n) + 1)) >> 64) as u64;
    // The first requests fill the reservoir in order.
    (if n < SAMPLES_MAX as u64 { n } else { slot }, mix(drawn))
}

/// Samples that are kept of one interval.
pub(crate) const SAMPLES_MAX: usize = 20;

/// The finaliser of SplitMix64.
fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// How requests lie around a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Division {
    left: u64,
    right: u64,
    contained: u64,
}

impl Division {
    /// The smaller, the better; `None` = not to be cut here.
    fn score(self, limits: &Limits) -> Option<u64> {
        let Self { left, right, contained } = self;
        let (beside, all) = (left + right, left + right + contained);
        if left == 0 || right == 0 {
            return None;
        }
        let imbalance = 100 * left.abs_diff(right) / beside;
        let cut = 100 * contained / all;
        let fits = imbalance < limits.imbalance_percent && cut < limits.contained_percent;
        // In hundredths of a percent, so that near ones are told apart.
        fits.then(|| 10_000 * left.abs_diff(right) / beside + 10_000 * contained / all)
    }
}

/// The key that divides the requests best, in the manner of TiKV's load-based split: as many on one side as on the other,
/// and as few as possible cut in two. It is the first key of one of them, so that it is a key that clients use. `None`
/// if there are too few samples, or none of their keys divides well: a single hot key, or scans of everything.
pub(crate) fn divide(samples: &[Sample], limits: &Limits) -> Option<Bytes> {
    if samples.len() < limits.samples_min.max(2) {
        return None;
    }
    let mut starts: Vec<&Bytes> = samples.iter().map(|sample| &sample.start).collect();
    let mut lasts: Vec<&Bytes> = samples.iter().map(Sample::last).collect();
    starts.sort_unstable();
    lasts.sort_unstable();
    let mut best: Option<(u64, &Bytes)> = None;
    let all = samples.len() as u64;
    for (i, key) in starts.iter().enumerate() {
        if i > 0 && starts[i - 1] == *key {
            continue;
        }
        // Those that begin at the key or after it are right of it; those that end before it are left of it.
        let right = all - i as u64;
        let left = lasts.partition_point(|last| last < key) as u64;
        let score = Division { left, right, contained: all - right - left }.score(limits);
        if let Some(score) = score
            && best.is_none_or(|(known, _)| score < known)
        {
            best = Some((score, key));
        }
    }
    best.map(|(_, key)| key.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flotilla_engine::Prng;

    const LIMITS: Limits = Limits { samples_min: 4, imbalance_percent: 25, contained_percent: 50 };

    fn key(n: u64) -> Bytes {
        Bytes::copy_from_slice(&n.to_be_bytes())
    }

    /// Every key, every request, by the definition.
    fn naive(samples: &[Sample], limits: &Limits) -> Option<(u64, Bytes)> {
        let score = |cut: &Bytes| {
            let mut division = Division::default();
            for sample in samples {
                if sample.last() < cut {
                    division.left += 1;
                } else if sample.start >= *cut {
                    division.right += 1;
                } else {
                    division.contained += 1;
                }
            }
            division.score(limits)
        };
        let scored = samples.iter().filter_map(|s| Some((score(&s.start)?, s.start.clone())));
        scored.min().filter(|_| samples.len() >= limits.samples_min)
    }

    #[test]
    fn the_key_is_the_one_that_a_naive_search_finds() {
        let mut rng = Prng::new(5);
        let mut found = 0;
        for _ in 0..2_000 {
            let (count, keys, scans) = (rng.range(0..60), rng.range(1..40), rng.below(101));
            let samples: Vec<Sample> = (0..count)
                .map(|_| {
                    let first = rng.below(keys);
                    let last = if rng.chance(scans, 100) { first + rng.below(10) } else { first };
                    Sample::scan(key(first), key(last))
                })
                .collect();
            let limits = Limits {
                samples_min: rng.index(20),
                imbalance_percent: rng.range(1..101),
                contained_percent: rng.range(1..101),
            };
            let expected = naive(&samples, &limits).filter(|_| samples.len() >= 2).map(|(_, key)| key);
            assert_eq!(divide(&samples, &limits), expected, "{samples:?} {limits:?}");
            found += u64::from(expected.is_some());
        }
        assert!(found > 200, "only {found} of 2000 draws could be divided");
    }

    #[test]
    fn even_load_is_cut_in_the_middle_and_skewed_load_where_it_weighs_the_same() {
        let even: Vec<Sample> = (0..100).map(|n| Sample::key(key(n))).collect();
        assert_eq!(divide(&even, &LIMITS), Some(key(50)));
        let skewed: Vec<Sample> =
            (0..100).map(|n| Sample::key(key(if n < 50 { 1_000 + n } else { n }))).collect();
        assert_eq!(divide(&skewed, &LIMITS), Some(key(1_000)));
    }

    #[test]
    fn one_hot_key_and_too_few_samples_are_not_divided() {
        let hot: Vec<Sample> = (0..100).map(|_| Sample::key(key(7))).collect();
        assert_eq!(divide(&hot, &LIMITS), None);
        // Nine of ten requests for one key: no border balances.
        let mostly: Vec<Sample> =
            (0..100).map(|n| Sample::key(key(if n % 10 == 0 { n } else { 47 }))).collect();
        assert_eq!(divide(&mostly, &LIMITS), None);
        assert_eq!(divide(&[Sample::key(key(1)), Sample::key(key(2)), Sample::key(key(3))], &LIMITS), None);
        assert_eq!(divide(&[], &LIMITS), None);
    }

    #[test]
    fn hot_scans_are_not_cut() {
        let everything: Vec<Sample> = (0..100).map(|_| Sample::scan(key(0), key(999))).collect();
        assert_eq!(divide(&everything, &LIMITS), None);
        // Two hot scans side by side: between them, not through them.
        let two: Vec<Sample> =
            (0..100)
                .map(|n| {
                    if n % 2 == 0 { Sample::scan(key(0), key(499)) } else { Sample::scan(key(500), key(999)) }
                })
                .collect();
        assert_eq!(divide(&two, &LIMITS), Some(key(500)));
        // A few scans across do not keep many single keys together.
        let mixed: Vec<Sample> = (0..100)
            .map(|n| if n % 10 == 0 { Sample::scan(key(0), key(999)) } else { Sample::key(key(n)) })
            .collect();
        assert!(divide(&mixed, &LIMITS).is_some());
    }
}
