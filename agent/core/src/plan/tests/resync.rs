//! Edges that have lost what they need next, and what this node does about it.

use super::fixture::{NOW, World, epoch, name, node, pglogical_name, record};
use crate::action::Action;
use crate::beats;
use crate::check::{Flaw, check};
use crate::ids::subscription_name;
use crate::life::Stage;
use crate::observed::{Fact, HeartbeatFacts, Reach};
use crate::plan::Plan;
use crate::publish::{Publication, Publisher, Seen, publish};
use crate::record::{EdgeState, NodeRecord};
use crate::state::NodeState;
use crate::time::{Now, Wall};

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

    /// What `n` says of its edge from `from`.
    fn says(&mut self, n: u128, from: u128, state: EdgeState) {
        let record = self.record_mut(n);
        record.edges.get_mut(&node(from)).unwrap().state = state;
    }

    /// The plan does nothing, and the finding says this.
    fn waits(&self, for_what: &str) {
        let plan = self.plan();
        assert_eq!(plan.actions, []);
        let found = &plan.findings[0];
        assert_eq!(found.code, "needs_resync");
        assert!(found.text.contains(for_what), "{}", found.text);
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
fn a_heartbeat_of_a_series_that_nobody_told_of_vouches_for_nothing() {
    let mut world = World::converged();
    let state = |world: &World| world.with_inputs(crate::plan::edge_reports)[&node(2)].state;
    let beats = &mut world.postgres_mut().heartbeats;
    beats.get_mut(&node(2)).unwrap().number = beats::floor(4) + 1;
    world.record_mut(2).heartbeat = beats::floor(3) + 9_000;
    assert_eq!(state(&world), EdgeState::Connecting, "an old record");
    world.record_mut(2).heartbeat = beats::floor(4);
    assert_eq!(state(&world), EdgeState::Replicating);
    world.record_mut(2).slots_for.remove(&node(1));
    assert_eq!(state(&world), EdgeState::NeedsResync);
}

/// The next record of this node after `previous`, written at the same time.
fn published(world: &World, previous: &NodeRecord) -> Publication {
    let publisher = Publisher {
        node: node(1),
        name: name(1),
        site: String::new(),
        generation: previous.generation,
        agent_version: String::new(),
    };
    let wall = previous.written_at;
    let seen = Seen {
        now: Now { mono: NOW, wall },
        endpoints: Some(previous.endpoints),
        backup: Default::default(),
    };
    let publication = world.with_inputs(|inputs| publish(&publisher, inputs, seen, Some(previous)));
    publication.unwrap()
}

/// The same, that others should hear of.
fn news(world: &mut World, previous: &NodeRecord) -> NodeRecord {
    let Publication::Changed(record) = published(world, previous) else {
        panic!("others should hear of it at once");
    };
    let observed = world.observed.clone();
    world.memory.note_published(record.heartbeat, &observed);
    record
}

#[test]
fn heartbeats_begin_a_series_with_each_look_that_finds_slots_otherwise() {
    let mut world = World::converged();
    let mut old = record(1);
    old.heartbeat = beats::floor(3) + 9_000;
    let unseen = std::mem::replace(
        &mut world.observed.postgres,
        Fact::Unknown("it does not answer".to_owned()),
    );
    let blind = news(&mut world, &old);
    assert_eq!(blind.heartbeat, old.heartbeat, "nobody has looked");
    assert_eq!(world.memory.series, None);
    world.observed.postgres = unseen;
    let looked = news(&mut world, &blind);
    assert_eq!(looked.heartbeat, beats::floor(4));
    // A heartbeat more is no news.
    let beat = HeartbeatFacts {
        epoch: epoch(1),
        number: beats::floor(4) + 1,
        sent_at: Wall(0),
        lag_ms: 0,
        seen_at: NOW,
    };
    world.postgres_mut().heartbeats.insert(node(1), beat);
    assert_eq!(published(&world, &looked), Publication::Unchanged);
    // A slot that is another now is.
    let slots = &mut world.postgres_mut().slots;
    slots.get_mut(&World::slot_name(2)).unwrap().made_anew = true;
    let lost = news(&mut world, &looked);
    assert_eq!(lost.heartbeat, beats::floor(5));
    assert_eq!(published(&world, &lost), Publication::Unchanged);
    // One that is gone with its member is not.
    world.postgres_mut().slots.remove(&World::slot_name(3));
    world.roster.as_mut().unwrap().records.remove(&node(3));
    let left = news(&mut world, &lost);
    assert_eq!(beats::series(left.heartbeat), 5);
}

#[test]
fn an_edge_whose_slot_is_gone_is_not_called_replicating() {
    let world = World::lost();
    let report = world.with_inputs(crate::plan::edge_reports)[&node(2)].clone();
    assert_eq!(report.state, EdgeState::NeedsResync, "heartbeats arrive");
}

#[test]
fn a_node_that_lacks_changes_is_synchronised_anew_when_others_have_all_of_its_own() {
    let world = World::lost();
    let does = "do start to be synchronised anew\nwait for the slot for this node on n2\nCritical \
                needs_resync\n";
    assert_eq!(world.text(), does);
}

#[test]
fn it_waits_for_every_member_to_be_there_and_to_have_its_changes() {
    let mut world = World::lost();
    world.observed.peers.insert(node(3), Reach::Down);
    world.waits("as soon as n3 answers");
    let mut world = World::lost();
    world.record_mut(3).state = NodeState::Booting;
    world.waits("as soon as n3 is ready: it is booting");
    let mut world = World::lost();
    world.says(3, 1, EdgeState::Down);
    world.waits("as soon as changes of this node arrive on n3");
    let mut world = World::lost();
    world.record_mut(3).edges.clear();
    world.waits("as soon as changes of this node arrive on n3");
    let mut world = World::lost();
    world.says(3, 1, EdgeState::NeedsResync);
    world.waits("as soon as n3, which lacks changes of this node, was synchronised anew");
    let mut world = World::lost();
    world.says(3, 2, EdgeState::NeedsResync);
    world.says(2, 3, EdgeState::NeedsResync);
    world.waits("as soon as a member has all changes of the others");
}

#[test]
fn lost_on_both_sides_nobody_is_emptied() {
    let mut world = World::lost();
    world.says(2, 1, EdgeState::NeedsResync);
    world.waits("neither is emptied");
    // The slot is gone here, and node 2 has not said so yet.
    let mut world = World::lost();
    world.postgres_mut().slots.remove(&World::slot_name(2));
    world.waits("neither is emptied");
    let mut world = World::lost();
    let slots = &mut world.postgres_mut().slots;
    slots.get_mut(&World::slot_name(2)).unwrap().wal_status = "lost".to_owned();
    world.waits("neither is emptied");
}

#[test]
fn a_plan_that_empties_a_node_needs_evidence() {
    let plan = Plan {
        actions: vec![Action::StartResync],
        ..Plan::default()
    };
    let judged = |world: &World| world.with_inputs(|inputs| check(&plan, inputs));
    assert_eq!(judged(&World::converged()), Err(Flaw::ResyncUnproven));
    assert_eq!(judged(&World::lost()), Ok(()));
    let mut away = World::lost();
    away.observed.peers.insert(node(3), Reach::Down);
    assert_eq!(judged(&away), Err(Flaw::ResyncUnproven));
}

#[test]
fn its_gate_is_shut_and_others_follow_it_until_it_is_emptied() {
    let mut world = World::lost();
    world.life.stage = Stage::Resyncing;
    let text = world.text();
    assert!(text.contains("do shut the gate\n"), "{text}");
    assert!(text.contains("do start joining\n"), "{text}");
    let (state, _, _) = world.with_inputs(crate::plan::state_of);
    assert_eq!(state, NodeState::Resyncing);
    let mut other = World::converged();
    other.record_mut(2).state = NodeState::Resyncing;
    assert_eq!(other.text(), "", "its edge stays as it is");
    other.subscription_mut(2).enabled = false;
    assert!(other.text().contains("do enable the subscription"));
}

#[test]
fn what_was_exported_is_named_until_it_is_removed() {
    let mut world = World::converged();
    world.observed.exports = vec!["/somewhere/1.dump".to_owned()];
    assert_eq!(world.text(), "Ok exported\n");
    let text = &world.plan().findings[0].text;
    assert!(text.contains("/somewhere/1.dump"), "{text}");
}
