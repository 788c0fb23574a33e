//! Placement driver: cluster facts, checkers and schedulers as pure functions of the cluster view.
//!
//! The driver is not a process. Its durable facts ([`meta`]) are keys of the meta region, and the store that leads
//! that region builds a [`ClusterView`] from heartbeats and asks [`check`] what to do next. Nothing here does I/O,
//! reads a clock or draws a random number; the runtime around it lives in raftstore.
//!
//! In reading order:
//! - [`PlacementConfig`]: what may be tuned;
//! - [`RouteTable`]: the newest known descriptor of every region, in key order; every store has one;
//! - [`StoreInfo`] and [`ClusterView`]: what only the placement leader knows, loads of stores included;
//! - [`Operator`]: one step that a region's leader is asked to take, tagged with the region's epoch;
//! - [`InFlight`]: the steps asked for and not yet seen done, and the balance moves they belong to;
//! - [`order_move`]: a move of a replica that somebody asked for, and how far it is;
//! - [`check`]: one pass of all checkers and schedulers: joint states, replicas, balance of leaders and regions, merges;
//! - [`meta`]: commands and facts of the meta region: store registry, id windows, cluster version.
//!
//! **Level-triggered.** Every pass derives the next step of every region from the view alone, so an operator that is
//! lost, refused or overtaken does no harm: the region's epoch refuses it, and the next pass asks again. The one thing
//! remembered across passes is which learner belongs to which balance move; forgetting it costs the learner, no more.
//!
//! **What a pass promises.** A change is asked for only if the live voters are a quorum both before and after it. A
//! leader is never removed or demoted. A voter is never removed at one stroke: it is demoted, then removed. A region
//! has at most one unfinished operator. Loads end within a tolerance, and a balanced cluster is left alone.
//!
//! Missing: placement rules per key range, balance of hot regions (busy ones are split by their leaders, and nobody moves
//! the parts apart by their rates), balance by bytes.

#[macro_use(planted)]
extern crate flotilla_planted;

mod check;
mod config;
mod disks;
mod ids;
pub mod meta;
mod operator;
mod order;
pub mod planted;
mod relapses;
mod route;
mod store;
mod view;

pub use check::{check, drained_stores, is_report_complete, standing};
pub use config::{ConfigError, PlacementConfig};
pub use disks::Disk;
pub use ids::{IDS_KEPT_FOR_META, IdPool};
pub use operator::{
    InFlight, Move, Operator, PeerChange, PeerChangeKind, Reason, Step, after_change, after_leave,
};
pub use order::{MoveOrder, MovePhase, MoveRefusal, OrderWait, order_move};
pub use route::{Learned, Rates, RegionInfo, RouteTable};
pub use store::{StoreHealth, StoreInfo, StoreLoad, StoreRecord, StoreState, StoreStats, StoreUuid};
pub use view::ClusterView;

#[cfg(test)]
mod model_tests;
