//! Edges that have lost what they need next, and what this node does about it.

use super::fixture::{World, epoch, node, pglogical_name};
use crate::ids::subscription_name;
use crate::record::EdgeState;

impl World {
    /// The name of this node's slot for `subscriber`.
    fn slot_name(subscriber: u128) -> String {
        let me = (node(1), epoch(1));
        let subscription = subscription_name((node(subscriber), epoch(subscriber)), me);
        format!("pgl_shop_{}_{subscription}", pglogical_name(1))
    }

    /// Node 2 has lost the slot of this node.
    fn lost() -> World {
        let mut world = World::converged();
        world.record_mut(2).slots_for.remove(&node(1));
        world
    }
}

#[test]
fn a_slot_that_somebody_made_anew_is_no_slot() {
    let mut world = World::converged();
    let slots = &mut world.postgres_mut().slots;
    slots.get_mut(&World::slot_name(2)).unwrap().made_anew = true;
    assert_eq!(world.text(), "Critical slot_made_anew\n");
    let holders = world.with_inputs(crate::plan::slots_for).unwrap();
    assert!(!holders.contains(&node(2)) && holders.contains(&node(3)));
}

#[test]
fn an_edge_whose_slot_is_gone_is_not_called_replicating() {
    let world = World::lost();
    let report = world.with_inputs(crate::plan::edge_reports)[&node(2)].clone();
    assert_eq!(report.state, EdgeState::NeedsResync, "heartbeats arrive");
}
