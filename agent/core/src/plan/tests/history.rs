//! Databases that were rolled back, this node's and others'.

use super::fixture::{World, epoch, node, record};
use crate::history::History;
use crate::ids::{DataEpoch, Lsn};
use crate::life::Stage;
use crate::record::{EdgeState, JoinPhase, NodeRecord};
use crate::state::NodeState;
use uuid::Uuid;

const MB: u64 = 1 << 20;

/// A newer record of a node, as it was but for where its WAL ends.
fn newer(world: &World, n: u128, wal: u64) -> NodeRecord {
    let known = &world.roster.as_ref().unwrap().records[&node(n)];
    NodeRecord {
        version: known.version + 1,
        wal: Lsn(wal * MB),
        ..known.clone()
    }
}

fn learn(world: &mut World, record: &NodeRecord) {
    assert!(world.roster.as_mut().unwrap().learn(record));
}

/// Node 2 has shown 1,000, and then 400.
fn rolled_back() -> World {
    let mut world = World::converged();
    for wal in [1_000, 400] {
        let newer = newer(&world, 2, wal);
        learn(&mut world, &newer);
    }
    world
}

#[test]
fn nothing_is_taken_from_a_member_that_was_rolled_back() {
    let mut world = rolled_back();
    let text = world.text();
    let does = "do disable subscription 1000000_20000002: n2: its database was rolled back: its \
                WAL ends at 0/19000000, and had reached 0/3E800000\nCritical rolled_back\n";
    assert_eq!(text, does);
    let report = |world: &World| world.with_inputs(crate::plan::edge_reports)[&node(2)].clone();
    assert_eq!(report(&world).state, EdgeState::Disabled, "still enabled");
    world.subscription_mut(2).enabled = false;
    assert_eq!(world.text(), "Critical rolled_back\n");
    // Once it has written as much again it is not what it was for all that.
    let far = newer(&world, 2, 5_000);
    learn(&mut world, &far);
    assert_eq!(world.text(), "Critical rolled_back\n");
}

#[test]
fn what_comes_later_or_starts_over_is_no_roll_back() {
    let mut world = World::converged();
    // A crash cuts off the record that was being flushed.
    for wal in [1_000, 1_000, 1_016, 1_000] {
        let newer = newer(&world, 2, wal);
        learn(&mut world, &newer);
    }
    assert_eq!(world.text(), "");
    let mut late = newer(&world, 2, 3);
    late.version -= 1;
    assert!(
        !world.roster.as_mut().unwrap().learn(&late),
        "an old record"
    );
    let mut anew = newer(&world, 2, 3);
    anew.epoch = DataEpoch(Uuid::from_u128(77));
    learn(&mut world, &anew);
    let history = &world.roster.as_ref().unwrap().history;
    assert!(history.rolled_back.is_empty(), "other contents");
}

#[test]
fn a_server_in_recovery_proves_nothing() {
    let mut world = World::converged();
    world.postgres_mut().wal = Lsn(400 * MB);
    let own = newer(&world, 1, 1_000);
    learn(&mut world, &own);
    world.postgres_mut().wal = Lsn(0);
    assert_eq!(world.text(), "");
    let silent = newer(&world, 2, 0);
    learn(&mut world, &silent);
    assert_eq!(world.text(), "");
}

#[test]
fn a_quarantined_member_is_not_followed() {
    let mut world = World::converged();
    world.record_mut(2).state = NodeState::Quarantined;
    let text = world.text();
    assert!(text.starts_with("do disable subscription"), "{text}");
    assert!(
        text.ends_with("it is quarantined\nCritical rolled_back\n"),
        "{text}"
    );
}

#[test]
fn a_node_of_which_others_have_seen_more_sets_itself_apart() {
    let mut world = World::converged();
    world.postgres_mut().wal = Lsn(400 * MB);
    let witness = |wal, of| NodeRecord {
        wal: Lsn(wal * MB),
        epoch: of,
        ..record(1)
    };
    let history = |world: &mut World, record: NodeRecord| {
        world.roster.as_mut().unwrap().history.vouch(&record)
    };
    assert!(history(&mut world, witness(400, epoch(1))));
    assert_eq!(world.text(), "");
    assert!(history(&mut world, witness(1_000, epoch(1))));
    assert!(!history(&mut world, witness(900, epoch(1))), "no news");
    let does = "do set this node apart: its database was rolled back: its WAL ends at 0/19000000, and \
                had reached 0/3E800000\n";
    assert_eq!(world.text(), does);
    let mut fresh = World::converged();
    fresh.postgres_mut().wal = Lsn(400 * MB);
    history(&mut fresh, witness(1_000, DataEpoch(Uuid::from_u128(77))));
    assert_eq!(fresh.text(), "", "it has other contents now");
}

#[test]
fn a_member_that_has_applied_more_than_there_is_proves_it() {
    let mut world = World::converged();
    world.postgres_mut().wal = Lsn(400 * MB);
    let position = |world: &mut World, position| {
        let edge = world.record_mut(2).edges.get_mut(&node(1)).unwrap();
        edge.position = Lsn(position);
    };
    position(&mut world, 400 * MB);
    assert_eq!(world.text(), "");
    position(&mut world, 400 * MB + 1);
    assert!(world.text().starts_with("do set this node apart"));
    let edge = world.record_mut(2).edges.get_mut(&node(1)).unwrap();
    edge.state = EdgeState::Disabled;
    assert!(!world.text().contains("set this node apart"), "set aside");
    world.record_mut(2).edges.get_mut(&node(1)).unwrap().state = EdgeState::Down;
    world.life.stage = Stage::Founding;
    assert!(!world.text().contains("set this node apart"));
}

#[test]
fn a_node_remembers_where_its_own_wal_ended() {
    let mut world = World::converged();
    world.postgres_mut().wal = Lsn(400 * MB);
    let own = newer(&world, 1, 1_000);
    learn(&mut world, &own);
    assert!(world.text().starts_with("do set this node apart"));
    // It publishes what it shows now, before it acts.
    let lower = newer(&world, 1, 400);
    learn(&mut world, &lower);
    world.postgres_mut().wal = Lsn(5_000 * MB);
    assert!(world.text().starts_with("do set this node apart"));
}

#[test]
fn a_node_that_is_set_apart_takes_nothing_and_lets_nobody_in() {
    let mut world = World::converged();
    world.life.quarantined = Some("a reason".to_owned());
    let text = world.text();
    let does = "do shut the gate\n\
                do disable subscription 1000000_20000002: this node is quarantined\n\
                do disable subscription 1000000_30000003: this node is quarantined\n\
                wait for a reason\n";
    assert_eq!(text, does);
    world.postgres_mut().gate_open = false;
    for n in [2, 3] {
        world.subscription_mut(n).enabled = false;
    }
    assert_eq!(world.text(), "wait for a reason\n", "its slots stay");
    let (state, _, because) = world.with_inputs(crate::plan::state_of);
    assert_eq!(
        (state, because.as_str()),
        (NodeState::Quarantined, "a reason")
    );
}

#[test]
fn contents_that_were_given_up_set_nobody_apart() {
    let mut world = World::converged();
    world.postgres_mut().wal = Lsn(400 * MB);
    let witness = NodeRecord {
        wal: Lsn(1_000 * MB),
        epoch: epoch(1),
        ..record(1)
    };
    let roster = world.roster.as_mut().unwrap();
    assert!(roster.history.vouch(&witness));
    assert!(world.text().contains("set this node apart"));
    world.life.stage = Stage::Joining(JoinPhase::Leasing);
    world.life.renew = true;
    let text = world.text();
    assert!(!text.contains("set this node apart"), "{text}");
}

/// Its own file may have been put back with the database.
#[test]
fn others_know_how_often_a_node_has_started() {
    let mut history = History::default();
    let started = |generation, wal| NodeRecord {
        generation,
        wal: Lsn(wal * MB),
        ..record(1)
    };
    assert!(history.vouch(&started(7, 1_000)));
    assert!(history.vouch(&started(8, 900)), "news");
    assert!(!history.vouch(&started(6, 900)));
    assert!(history.vouch(&started(9, 0)), "PostgreSQL did not answer");
    assert_eq!(history.generation, 9);
    assert_eq!(
        history.vouched.map(|vouched| vouched.wal),
        Some(Lsn(1_000 * MB))
    );
}
