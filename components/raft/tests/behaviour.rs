//! Behaviour of the consensus core through its public interface, one module per concern.

#[path = "behaviour/async_storage.rs"]
mod async_storage;
#[path = "behaviour/bad_input.rs"]
mod bad_input;
#[path = "behaviour/elections.rs"]
mod elections;
#[path = "behaviour/extensions.rs"]
mod extensions;
#[path = "behaviour/harness.rs"]
mod harness;
#[path = "behaviour/membership.rs"]
mod membership;
#[path = "behaviour/metering.rs"]
mod metering;
#[cfg(feature = "planted")]
#[path = "behaviour/planted.rs"]
mod planted;
#[path = "behaviour/reads.rs"]
mod reads;
#[path = "behaviour/replication.rs"]
mod replication;
#[path = "behaviour/schedule_run.rs"]
mod schedule_run;
#[path = "behaviour/schedules.rs"]
mod schedules;
#[path = "../examples/single_node.rs"]
mod single_node;
#[path = "behaviour/snapshots.rs"]
mod snapshots;
#[path = "../examples/three_nodes.rs"]
mod three_nodes;

#[test]
fn the_examples_run() {
    single_node::main();
    three_nodes::main();
}
