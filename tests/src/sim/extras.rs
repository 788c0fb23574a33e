//! What was added to the draws later, each part for some of the seeds. It is drawn from a stream of its own: a run
//! without it, [`Extras::none`], is the one that its seed meant before.

use flotilla_engine::Prng;

/// Sets the stream of these draws apart from that of the profile.
const STREAM: u64 = 0x0e87_4a50_0c0f_fee5;

/// Draws that not every run knows.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Disks fail at any call, for a while, and stay full for some time, over a restart of the store too.
    pub disks: bool,
    /// Clients read and write keys of several regions in one call, and scan backwards.
    pub wide: bool,
    /// A drained store that holds nothing any more is removed for good, and its machine switched off.
    pub remove_drained: bool,
    /// Share of a client's look-ups of routes that go to the stores, each of which tells what it knows; the operator, who
    /// sees the cluster as a whole, answers the others.
    pub asked_routes_percent: u64,
    /// Bytes per second for which a region is split; 0 = it never is because of them.
    pub load_split_bytes: u64,
    /// Processes stand still for 1 to 30 seconds, where the run is long enough to go on after that.
    pub long_pauses: bool,
    /// A child's first leader is waited for, which takes looks at the stores.
    pub births: bool,
    /// Wall clocks are set back and forth, which no promise depends on; not where values expire, which is judged by them.
    pub wall_jumps: bool,
    /// Damaged disks stay for some time, so that the store has to live with what it can read no more.
    pub kept_rot: bool,
    /// Entries that a leader may apply before its own disk has them.
    pub apply_ahead: u32,
    /// How long every other store's disk takes to sync, as long as it is in order.
    pub slow_syncs_us: u64,
    /// Every region is reported again after so long; 0 = never without news.
    pub report_refresh_ms: u64,
    /// Lists of applied positions before regions get their own records anew; 0 = as the product has it.
    pub position_records: u16,
    /// Bytes of entries under way to one store; 0 = as the product has it.
    pub store_inflight_bytes: u64,
}

impl Extras {
    /// Nothing of it.
    pub fn none() -> Self {
        Self::default()
    }

    /// What a seed draws.
    pub fn draw(seed: u64) -> Self {
        let mut rng = stream(seed, 0);
        Self {
            disks: rng.chance(1, 2),
            wide: rng.chance(1, 2),
            remove_drained: rng.chance(1, 2),
            asked_routes_percent: *rng.pick(&[0, 50, 100, 100]),
            load_split_bytes: *rng.pick(&[0, 0, 500, 3_000, 20_000]),
            long_pauses: rng.chance(1, 3),
            births: true,
            wall_jumps: rng.chance(1, 3),
            kept_rot: rng.chance(1, 2),
            apply_ahead: *rng.pick(&[0, 0, 1, 100]),
            slow_syncs_us: *rng.pick(&[0, 0, 2_000, 20_000]),
            report_refresh_ms: *rng.pick(&[0, 0, 5_000]),
            position_records: *rng.pick(&[0, 1, 4, 30]),
            store_inflight_bytes: *rng.pick(&[0, 1, 1 << 10, 8 << 10, 64 << 10]),
        }
    }
}

/// A generator for draws of a kind that the other draws of a seed do not see.
pub fn stream(seed: u64, kind: u64) -> Prng {
    Prng::new(Prng::new(seed ^ STREAM).next_u64() ^ kind)
}
