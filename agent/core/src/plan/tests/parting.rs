//! Leaving, and what others do about a node that is gone.

use super::fixture::{World, epoch, link, name, node, record};
use crate::action::Action;
use crate::ids::{LineageId, Ordinal};
use crate::life::Stage;
use crate::record::{EdgeReport, EdgeState, JoinPhase};
use crate::roster::Tombstone;
use crate::state::NodeState;
use uuid::Uuid;

/// A mesh that has buried its third node.
fn without(left: bool) -> World {
    let mut world = World::converged();
    let tombstone = Tombstone {
        name: name(3),
        epoch: epoch(3),
        ordinal: Some(Ordinal(3)),
        left,
    };
    let link = LineageId(Uuid::from_u128(5));
    let roster = world.roster.as_mut().unwrap();
    roster.bury(node(3), tombstone, link);
    world
}

#[test]
fn the_buried_are_removed_and_nobody_else() {
    let world = without(false);
    let text = world.text();
    assert!(
        text.starts_with("do admit 1 members\ndo drop subscription"),
        "{text}"
    );
    assert!(text.contains("do drop slot"), "{text}");
    assert!(!text.contains("00000002"), "{text}");
}

/// What a forgotten node wrote last may be on one member only: one of them compares. One that has
/// left was drained, unless nothing had come from it for a while.
#[test]
fn when_another_is_gone_all_tables_are_compared_where_it_is_needed() {
    let compares = |world: &World| {
        let actions = world.plan().actions;
        let drops = actions.into_iter().find_map(|action| {
            if let Action::DropSubscription { compare, .. } = action {
                Some(compare)
            } else {
                None
            }
        });
        drops.expect("the subscription is dropped").is_some()
    };
    assert!(compares(&without(false)));
    let mut second = without(false);
    second.record_mut(1).state = NodeState::Leaving;
    assert!(!compares(&second));
    assert!(!compares(&without(true)));
    let mut behind = without(true);
    behind.memory.heartbeats.remove(&node(3));
    assert!(compares(&behind));
}

#[test]
fn a_leaving_node_goes_when_the_others_have_seen_its_last_heartbeat() {
    let mut world = World::converged();
    world.life.stage = Stage::Leaving;
    world.life.leave_after = Some(8);
    assert_eq!(world.text(), "do shut the gate\n");
    world.postgres_mut().gate_open = false;
    assert!(
        world.text().contains("wait for n2 to receive"),
        "{}",
        world.text()
    );
    for n in [2, 3] {
        world
            .record_mut(n)
            .edges
            .get_mut(&node(1))
            .unwrap()
            .heartbeat = 8;
    }
    assert_eq!(world.text(), "do tell the others that this node is gone\n");
}

/// Its slot is gone: it waits for the leaving node to be ready again, which waits for it.
#[test]
fn a_leaving_node_goes_by_force_without_who_lacks_its_changes() {
    let mut world = World::converged();
    world.life.stage = Stage::Leaving;
    world.life.leave_after = Some(7);
    world.postgres_mut().gate_open = false;
    world.record_mut(2).edges.get_mut(&node(1)).unwrap().state = EdgeState::NeedsResync;
    let text = world.text();
    assert!(text.contains("wait for n2, which lacks changes"), "{text}");
    world.life.leave_by_force = true;
    assert_eq!(world.text(), "do tell the others that this node is gone\n");
}

#[test]
fn what_is_lost_on_a_leaving_node_is_lost() {
    let mut world = World::converged();
    world.record_mut(2).slots_for.clear();
    for state in [NodeState::Ready, NodeState::Leaving] {
        world.record_mut(2).state = state;
        let text = world.text();
        assert!(text.contains("needs_resync"), "{state:?}: {text}");
    }
}

#[test]
fn a_leaving_node_waits_for_those_who_join_only_while_they_follow_it() {
    let mut world = World::converged();
    world.life.stage = Stage::Leaving;
    world.life.leave_after = Some(7);
    world.postgres_mut().gate_open = false;
    // Its record tells of every edge, also of those that were never made.
    let mut joiner = record(4);
    joiner.phase = Some(JoinPhase::Leasing);
    let edge = world.record_mut(2).edges[&node(1)].clone();
    let missing = EdgeReport {
        state: EdgeState::Missing,
        heartbeat: 0,
        ..edge
    };
    joiner.edges.insert(node(1), missing);
    world.roster.as_mut().unwrap().learn(&joiner);
    world.postgres_mut().admitted = [2, 3, 4].map(node).into_iter().collect();
    assert_eq!(world.text(), "do tell the others that this node is gone\n");
    link(world.postgres_mut(), 4);
    let text = world.text();
    assert!(text.contains("wait for n4 to receive"), "{text}");
}
