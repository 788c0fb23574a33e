//! What a simulated client knows of regions and leaders: the product's own route table, taught by the errors of stores
//! in the form in which the protocol carries them. Every change is checked.

use flotilla_proto::errorpb;
use flotilla_raftstore::{RequestError, wire};
use flotilla_region::{PeerId, Region};
use flotilla_router::{Asked, Lesson, RegionCache, Route, learn};

use super::wishes::Position;
use crate::check::routes::check_routes;

/// A client's routes.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    cache: RegionCache,
}

impl Routes {
    /// The route to a position.
    pub fn find(&self, position: &Position) -> Option<&Route> {
        match position {
            Position::At(key) => self.cache.locate(key),
            Position::Before(bound) => self.cache.locate_before(bound),
        }
    }

    /// Placement told of a region.
    ///
    /// # Errors
    /// The table went back to something older.
    pub fn insert(&mut self, region: Region, leader: Option<PeerId>) -> Result<(), String> {
        self.change(|cache| cache.insert(region, leader)).map(|_| ())
    }

    /// A store refused a request.
    ///
    /// # Errors
    /// The table went back to something older.
    pub fn learn(&mut self, asked: Asked, error: &RequestError) -> Result<Lesson, String> {
        self.change(|cache| learn(cache, asked, &in_the_protocol(error)))
    }

    /// A peer did not answer.
    pub fn failed(&mut self, asked: Asked) {
        self.cache.peer_failed(asked.region, asked.peer);
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut RegionCache) -> T) -> Result<T, String> {
        let before = self.cache.clone();
        let told = change(&mut self.cache);
        check_routes(&before, &self.cache).map(|()| told)
    }
}

/// A refusal as a store's service sends it; kinds that need no detail are left without one.
fn in_the_protocol(error: &RequestError) -> errorpb::Error {
    let mut reply = errorpb::Error { message: error.to_string(), ..Default::default() };
    match error {
        RequestError::NotLeader { region, leader } => {
            let leader = leader.as_ref().map(wire::peer_to_wire);
            reply.not_leader = Some(errorpb::NotLeader { region_id: region.0, leader });
        }
        RequestError::EpochNotMatch(regions) => {
            let current_regions = regions.iter().map(wire::region_to_wire).collect();
            reply.epoch_not_match = Some(errorpb::EpochNotMatch { current_regions });
        }
        RequestError::Busy => reply.server_is_busy = Some(errorpb::ServerIsBusy::default()),
        RequestError::Stale => reply.stale_command = Some(errorpb::StaleCommand {}),
        RequestError::ReadNotReady(_) => {
            reply.read_index_not_ready = Some(errorpb::ReadIndexNotReady::default());
        }
        _ => {}
    }
    reply
}
