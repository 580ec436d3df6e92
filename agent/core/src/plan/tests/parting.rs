//! Leaving, and what others do about a node that is gone.

use super::fixture::{NOW, World, epoch, link, name, node, record};
use crate::action::Action;
use crate::ids::{LineageId, Ordinal};
use crate::life::Stage;
use crate::observed::Reach;
use crate::plan::recorded_edges;
use crate::record::{EdgeReport, EdgeState, JoinPhase};
use crate::roster::Tombstone;
use crate::state::NodeState;
use crate::time::Mono;
use uuid::Uuid;

/// A mesh that has buried its third node.
fn without(left: bool) -> World {
    let mut world = World::converged();
    let tombstone = Tombstone {
        name: name(3),
        epoch: epoch(3),
        ordinal: Some(Ordinal(3)),
        left,
        unsettled: false,
    };
    let link = LineageId(Uuid::from_u128(5));
    let roster = world.roster.as_mut().unwrap();
    roster.bury(node(3), tombstone, link);
    world
}

#[test]
fn the_buried_are_removed_and_nobody_else() {
    let mut world = without(false);
    second_follows(&mut world, None);
    let text = world.text();
    assert!(
        text.starts_with("do admit 1 members\ndo drop subscription"),
        "{text}"
    );
    assert!(text.contains("do drop slot"), "{text}");
    assert!(!text.contains("00000002"), "{text}");
}

/// The subscription to the buried node is dropped, and all tables are compared; `None`: it stays.
fn drop_compares(world: &World) -> Option<bool> {
    let actions = world.plan().actions;
    actions.into_iter().find_map(|action| {
        if let Action::DropSubscription { compare, .. } = action {
            Some(compare.is_some())
        } else {
            None
        }
    })
}

/// The second node still subscribes to the buried one, or does no more.
fn second_follows(world: &mut World, state: Option<EdgeState>) {
    let edges = &mut world.record_mut(2).edges;
    match state {
        None => drop(edges.remove(&node(3))),
        Some(state) => edges.get_mut(&node(3)).unwrap().state = state,
    }
}

/// What a forgotten node wrote last may be on one member only, and may be applied there still.
#[test]
fn the_last_that_follows_a_forgotten_node_compares_all_tables() {
    let mut first = without(false);
    // It doesn't know yet, it says so, it can't look, it has dropped it.
    for state in [
        EdgeState::Replicating,
        EdgeState::Disabled,
        EdgeState::Unknown,
    ] {
        second_follows(&mut first, Some(state));
        assert_eq!(drop_compares(&first), None, "{state:?}");
    }
    second_follows(&mut first, Some(EdgeState::Missing));
    assert_eq!(drop_compares(&first), Some(true));
    second_follows(&mut first, None);
    assert_eq!(drop_compares(&first), Some(true));

    // Another that is lower waits for this one.
    let mut second = without(false);
    let mut lower = record(0);
    lower.state = NodeState::Ready;
    lower.edges.clone_from(&second.record_mut(2).edges);
    second.roster.as_mut().unwrap().learn(&lower);
    assert_eq!(drop_compares(&second), Some(false));
    second.record_mut(0).state = NodeState::Leaving;
    assert_eq!(drop_compares(&second), None);
    second.life.stage = Stage::Resyncing;
    assert_eq!(drop_compares(&second), Some(false));
}

/// One that has left was drained, however long ago its last heartbeat came.
#[test]
fn when_another_has_left_nothing_is_compared() {
    assert_eq!(drop_compares(&without(true)), Some(false));
    let mut later = without(true);
    later.memory.heartbeats.remove(&node(3));
    assert_eq!(drop_compares(&later), Some(false));
}

/// Until it is dropped others see that it is there.
#[test]
fn a_subscription_to_one_that_is_gone_is_told() {
    let mut world = without(false);
    let told = |world: &World| {
        world.with_inputs(|inputs| recorded_edges(inputs).get(&node(3)).map(|edge| edge.state))
    };
    assert_eq!(told(&world), Some(EdgeState::Disabled));
    world.postgres_mut().subscriptions.clear();
    assert_eq!(told(&world), None);
}

/// A node that leaves: its gate is shut, and the others have seen the last of it.
fn leaving() -> World {
    let mut world = World::converged();
    world.life.stage = Stage::Leaving;
    world.life.leave_after = Some(7);
    world.postgres_mut().gate_open = false;
    world
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

/// Does it go, and if so, is something left to be compared by the others?
fn goes(world: &World) -> Option<bool> {
    let actions = world.plan().actions;
    actions.into_iter().find_map(|action| {
        if let Action::AnnounceLeaving { unsettled } = action {
            Some(unsettled)
        } else {
            None
        }
    })
}

#[test]
fn a_leaving_node_settles_what_it_knows_before_it_goes() {
    let mut world = leaving();
    world.memory.stage_since = Some(Mono(NOW.0 - 1_000));
    // Nothing was looked at yet, or before the last write.
    for early in [None, Some(Mono(NOW.0 - 1_001))] {
        world.observed.settled = early;
        assert_eq!(goes(&world), None, "{early:?}");
        assert!(world.text().contains("wait for rows that may differ"));
    }
    world.life.leave_by_force = true;
    assert_eq!(goes(&world), Some(true));
    world.life.leave_by_force = false;
    world.observed.settled = Some(Mono(NOW.0 - 1_000));
    assert_eq!(goes(&world), Some(false));
}

/// What it knew to be open nobody else knows: the last that follows it compares.
#[test]
fn after_one_has_left_unsettled_all_tables_are_compared() {
    let mut world = without(true);
    let roster = world.roster.as_mut().unwrap();
    roster.tombstones.get_mut(&node(3)).unwrap().unsettled = true;
    assert_eq!(drop_compares(&world), None);
    second_follows(&mut world, None);
    assert_eq!(drop_compares(&world), Some(true));
}

/// Its slot is gone: it waits for the leaving node to be ready again, which waits for it.
#[test]
fn a_leaving_node_goes_by_force_without_who_lacks_its_changes() {
    let mut world = leaving();
    world.record_mut(2).edges.get_mut(&node(1)).unwrap().state = EdgeState::NeedsResync;
    let text = world.text();
    assert!(text.contains("wait for n2, which lacks changes"), "{text}");
    world.life.leave_by_force = true;
    assert_eq!(goes(&world), Some(true), "n2 gets them from the others");
    // So it is with one that can't be reached, however lately it has heard of this node.
    let mut world = leaving();
    world.life.leave_by_force = true;
    assert_eq!(goes(&world), Some(false), "nobody lacks anything");
    world.life.leave_after = Some(8);
    assert_eq!(goes(&world), None, "they will receive it");
    for n in [2, 3] {
        world.observed.peers.insert(node(n), Reach::Down);
    }
    assert_eq!(goes(&world), Some(true));
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
    let mut world = leaving();
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
