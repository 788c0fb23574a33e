//! Looks at the running cluster: what must hold at every moment is checked at drawn moments.

use std::collections::BTreeMap;

use flotilla_raftstore::{PeerStatus, RegionContext};
use flotilla_region::{PeerId, RegionId, StoreId, Term};

use super::world::{Event, World};
use crate::check::leases::{Lease, check_leases};
use crate::check::positions::Positions;
use crate::check::replicas::Replicas;
use crate::check::tiling::check_disjoint;

/// Longest pause between looks.
const LOOK_US_MAX: u64 = 40_000;

/// What the checkers remember between looks.
#[derive(Default)]
pub struct Watch {
    /// Positions of every peer in the present life of its store.
    pub positions: Positions,
    /// Who led in which term.
    leaders: BTreeMap<(RegionId, Term), PeerId>,
    /// Shapes of regions that were seen, for asking after leases.
    shapes: BTreeMap<RegionId, BTreeMap<u64, RegionContext>>,
    /// Contents by position.
    pub replicas: Replicas,
    /// Looks so far.
    pub looks: u64,
}

impl Watch {
    /// A store's process ended: what it had in memory may fall back.
    pub fn on_death(&mut self, store: StoreId) {
        self.positions.forget(store);
    }
}

impl World {
    /// One look at everything.
    pub(super) fn look(&mut self) {
        let pause = 1 + self.rng.below(LOOK_US_MAX);
        self.plan(pause, Event::Watch);
        self.watch.looks += 1;
        if let Err(what) = self.look_at_leases().and_then(|()| self.look_at_disks()) {
            self.violate(what);
        }
    }

    /// A peer told its state.
    pub(super) fn check_status(&mut self, store: StoreId, status: &PeerStatus) {
        let region = &status.region;
        if status.is_leader {
            let first = *self.watch.leaders.entry((region.id, status.term)).or_insert(status.peer.id);
            if first != status.peer.id {
                let (id, term) = (region.id, status.term.0);
                return self.violate(format!(
                    "region {id} has two leaders in term {term}: {first} and {}",
                    status.peer.id
                ));
            }
        }
        let context =
            RegionContext { region: region.id, epoch: region.epoch, peer: PeerId::ZERO, term: Term::ZERO };
        let shapes = self.watch.shapes.entry(region.id).or_default();
        shapes.insert(region.epoch.version, context);
        if shapes.len() > 4 {
            shapes.pop_first();
        }
        if let Err(what) = self.watch.positions.check(store, status) {
            self.violate(what);
        }
    }

    fn look_at_leases(&mut self) -> Result<(), String> {
        let mut held = Vec::new();
        for host in self.hosts.values() {
            let Some(store) = host.store() else { continue };
            for context in self.watch.shapes.values().flat_map(|shapes| shapes.values()) {
                if let Some(read) = store.begin_local_read(context) {
                    held.push(Lease { store: host.id, region: read.region().clone() });
                }
            }
        }
        check_leases(&held)
    }

    fn look_at_disks(&mut self) -> Result<(), String> {
        for host in self.hosts.values().filter(|h| h.running.is_some()) {
            let view = host.engine_snapshot();
            let regions = check_disjoint(host.id, &*view)?;
            if !regions.is_empty() {
                let region = self.rng.pick(&regions);
                self.watch.replicas.check(host.id, region, &*view)?;
            }
        }
        Ok(())
    }
}
