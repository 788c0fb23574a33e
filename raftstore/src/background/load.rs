//! Once an interval: what clients did to the regions of the store, for placement, and for splits of the busy ones.

use std::collections::BTreeMap;

use flotilla_region::{RegionId, Space};

use crate::load::detector::Detector;
use crate::msg::{AdminCommand, AdminRequest, RaftMsg};
use crate::placement::PlacementMsg;
use crate::shared::{Counters, Shared};
use crate::time::Time;

/// The load of a store's regions.
#[derive(Default)]
pub(super) struct LoadWatch {
    detector: Detector,
    last: Time,
}

impl LoadWatch {
    /// Ends an interval.
    pub(super) fn look(&mut self, shared: &Shared, now: Time) {
        let elapsed_ms = now.ms_since(self.last);
        let is_first = std::mem::replace(&mut self.last, now) == Time::default();
        let busy = shared.loads.take().into_iter();
        let harvests: BTreeMap<_, _> =
            busy.map(|(id, load)| (id, (load.is_splittable(), load.harvest()))).collect();
        if is_first {
            // Nobody knows how long that took.
            return;
        }
        let verdicts = self.detector.observe(harvests, elapsed_ms, &shared.config);
        if !verdicts.rates.is_empty() {
            shared.links.placement.send(PlacementMsg::Rates(verdicts.rates));
        }
        for (id, key) in verdicts.cuts {
            let key = shared.machine(Space::User).cut_at(key);
            tracing::info!(region = id.0, key = ?key, "region is busy and shall be split");
            split(shared, id, key);
        }
    }
}

/// Asks the region to be cut, if it is led here and nothing else happens to it. If not, it goes on being watched.
fn split(shared: &Shared, region: RegionId, key: bytes::Bytes) {
    Counters::add(&shared.counters.load_splits, 1);
    shared.links.raft_of(region).send(RaftMsg::Admin(AdminRequest {
        region,
        epoch: None,
        command: AdminCommand::Split { keys: vec![key] },
        done: Box::new(move |result| {
            if let Err(error) = result {
                tracing::info!(region = region.0, %error, "split refused");
            }
        }),
    }));
}
