//! Golden texts: given this, the plan is that.

mod clock;
mod fixture;
mod guard;
mod history;
mod parting;
mod resync;

use super::*;
use crate::action::Action;
use crate::ids::subscription_name;
use crate::observed::{HeartbeatFacts, Reach, TableFacts};
use crate::record::{EdgeState, JoinPhase};
use crate::state::NodeState;
use crate::time::Wall;
use fixture::{NOW, World, epoch, link, node, pglogical_name, record};
use std::collections::BTreeSet;

#[test]
fn a_converged_mesh_has_an_empty_plan() {
    assert_eq!(World::converged().text(), "");
}

#[test]
fn founding_makes_edges_side_by_side() {
    let mut world = World::founding();
    let local = "do admit 2 members\ndo create or correct the pglogical node\n";
    assert!(world.text().starts_with(local), "{}", world.text());
    world.postgres_mut().admitted = [2, 3].map(node).into_iter().collect();
    world.postgres_mut().local_node = Some((pglogical_name(1), "dsn 1".to_owned()));
    assert_eq!(
        world.text(),
        "do create the slot for 00000002\ndo create the slot for 00000003\n\
         do subscribe to 00000002\ndo subscribe to 00000003\n\
         wait for the edges between this node and n2\nwait for the edges between this node and n3\n"
    );
}

#[test]
fn a_founding_subscription_waits_for_its_slot() {
    let mut world = World::founding();
    world.postgres_mut().admitted = [2, 3].map(node).into_iter().collect();
    world.postgres_mut().local_node = Some((pglogical_name(1), "dsn 1".to_owned()));
    for n in [2, 3] {
        link(world.postgres_mut(), n);
        let subscription = world.subscription_mut(n);
        subscription.enabled = false;
        subscription.worker = false;
    }
    world.record_mut(2).slots_for.insert(node(1));
    let text = world.text();
    assert!(
        text.contains("do enable the subscription to 00000002"),
        "{text}"
    );
    assert!(
        text.contains("wait for the slot for this node on n3"),
        "{text}"
    );
    assert!(
        !text.contains("do enable the subscription to 00000003"),
        "{text}"
    );
}

#[test]
fn founding_ends_when_every_edge_is_seen_both_ways() {
    let mut world = World::converged();
    world.life.stage = Stage::Founding;
    world.postgres_mut().gate_open = false;
    for n in 1..=3 {
        let record = world.record_mut(n);
        record.state = NodeState::Joining;
        record.phase = Some(JoinPhase::Founding);
    }
    assert_eq!(world.text(), "do become ready\ndo open the gate\n");
    world.record_mut(3).edges.clear();
    assert_eq!(
        world.text(),
        "wait for the edges between this node and n3\n"
    );
}

#[test]
fn a_silent_founder_is_left_behind_by_a_majority_after_the_wait() {
    let mut world = World::converged();
    world.life.stage = Stage::Founding;
    world.postgres_mut().gate_open = false;
    world.record_mut(2).state = NodeState::Joining;
    world.record_mut(2).phase = Some(JoinPhase::Founding);
    world.roster.as_mut().unwrap().records.remove(&node(3));
    let text = world.text();
    assert!(
        text.contains("do drop slot") && text.contains("do become ready"),
        "{text}"
    );
    world.memory.stage_since = Some(Mono(NOW.0 - 59_000));
    assert!(!world.text().contains("do become ready"));
}

#[test]
fn a_minority_of_the_founders_never_opens() {
    let mut world = World::converged();
    world.life.stage = Stage::Founding;
    world.postgres_mut().gate_open = false;
    let roster = world.roster.as_mut().unwrap();
    roster.records.remove(&node(2));
    roster.records.remove(&node(3));
    assert!(!world.text().contains("become ready"), "{}", world.text());
}

#[test]
fn a_founder_that_others_left_behind_joins_in_the_ordinary_way() {
    let mut world = World::founding();
    world.postgres_mut().admitted = [2, 3].map(node).into_iter().collect();
    world.record_mut(2).state = NodeState::Ready;
    let text = world.text();
    assert!(
        text.contains("do start joining") && !text.contains("become ready"),
        "{text}"
    );
}

/// A world of three ready founders and node 4, which has enrolled after them, with its phase.
fn newcomer(mut world: World, phase: JoinPhase) -> World {
    let mut late = record(4);
    late.phase = Some(phase);
    world.roster.as_mut().unwrap().learn(&late);
    world.dsns.insert(node(4), "dsn 4".to_owned());
    world
}

#[test]
fn founders_do_not_wait_for_a_node_that_waits_for_them() {
    let mut world = newcomer(World::converged(), JoinPhase::Leasing);
    world.life.stage = Stage::Founding;
    world.postgres_mut().gate_open = false;
    let text = world.text();
    assert!(text.contains("do become ready"), "{text}");
}

#[test]
fn a_joiner_waits_for_a_member_that_is_restarting_but_for_no_other_joiner() {
    for (state, phase, ready) in [
        (NodeState::Ready, None, true),
        (NodeState::Booting, None, false),
        (NodeState::Joining, Some(JoinPhase::Founding), false),
        (NodeState::Joining, Some(JoinPhase::Leasing), true),
    ] {
        let mut world = World::converged();
        world.life.stage = Stage::Joining(JoinPhase::Linking);
        world.postgres_mut().gate_open = false;
        let record = world.record_mut(3);
        record.state = state;
        record.phase = phase;
        if state != NodeState::Ready {
            record.edges.clear();
        }
        // First the members promise to keep its slots; only then does it take writes.
        let text = world.text();
        let commits = text.contains("do have the members keep the slots");
        assert_eq!(commits, ready, "{state:?}: {text}");
        assert!(!text.contains("do become ready"), "{state:?}: {text}");
        world.life.stage = Stage::Joining(JoinPhase::Checking);
        let text = world.text();
        assert_eq!(text.contains("do become ready"), ready, "{state:?}: {text}");
    }
}

#[test]
fn nothing_is_done_while_postgres_is_unknown() {
    let mut world = World::converged();
    world.observed.postgres = Fact::Unknown("connection refused".to_owned());
    assert_eq!(
        world.text(),
        "wait for PostgreSQL does not answer: connection refused\n"
    );
}

#[test]
fn an_unreachable_peer_keeps_its_slot_and_subscription() {
    let mut world = World::converged();
    world.observed.peers.insert(node(2), Reach::Down);
    world.subscription_mut(2).worker = false;
    world.memory.heartbeats.remove(&node(2));
    assert_eq!(world.text(), "Degraded peer_unreachable\n");
}

#[test]
fn a_peer_that_returns_is_reconnected_once() {
    let mut world = World::converged();
    let back = Mono(NOW.0 - 400);
    world
        .memory
        .returned
        .insert(node(2), (back, Duration::from_secs(60)));
    world
        .memory
        .heartbeats
        .insert(node(2), (epoch(2), 7, Mono(NOW.0 - 60_000)));
    let text = world.text();
    assert!(text.contains("do reconnect to 00000002"), "{text}");
    assert!(
        text.contains("do end the stale sender for 00000002"),
        "{text}"
    );
    let subscription = subscription_name((node(1), epoch(1)), (node(2), epoch(2)));
    world.memory.note_kick(&subscription, NOW);
    world.memory.senders_ended.insert(node(2), NOW);
    assert!(!world.text().contains("do "), "{}", world.text());
}

/// Node 2 says that it has no worker for what this node sends it, and one sender has served it
/// since this agent started.
fn unread() -> World {
    let mut world = World::converged();
    let edge = world.record_mut(2).edges.get_mut(&node(1)).unwrap();
    edge.state = EdgeState::Down;
    let long_ago = Mono(NOW.0 - 2_000);
    for since in [long_ago, NOW] {
        world.memory.note(&world.observed, since);
        let roster = world.roster.as_ref().unwrap();
        world.memory.note_roster(node(1), roster, since);
    }
    world
}

#[test]
fn a_sender_that_its_subscriber_does_not_read_is_ended() {
    let ends = "do end the stale sender for 00000002\n";
    assert_eq!(unread().text(), ends);
    let mut away = unread();
    away.observed.peers.insert(node(2), Reach::Down);
    assert!(!away.text().contains("stale sender"), "it may not be there");
    let mut connects = unread();
    for slot in connects.postgres_mut().slots.values_mut() {
        slot.sender = Some(101);
    }
    connects.memory.note(&connects.observed, NOW);
    assert_eq!(connects.text(), "", "a sender that has only just begun");
    let mut early = unread();
    early.memory.unread.get_mut(&node(2)).unwrap().since = Mono(NOW.0 - 1_900);
    assert_eq!(early.text(), "");
    let mut reads = unread();
    let edge = reads.record_mut(2).edges.get_mut(&node(1)).unwrap();
    edge.state = EdgeState::Connecting;
    assert_eq!(reads.text(), "", "a worker runs again");
}

#[test]
fn each_version_of_a_record_ends_one_sender_and_the_pauses_grow() {
    let mut world = unread();
    let ended_at = |world: &mut World, ago: u64, times: u32| {
        let at = Mono(NOW.0 - ago);
        for _ in 0..times {
            let roster = world.roster.as_ref();
            world.memory.note_sender_ended(node(2), roster, at);
        }
    };
    ended_at(&mut world, 4_100, 1);
    assert_eq!(world.text(), "", "it has said nothing new");
    world.record_mut(2).version += 1;
    assert!(world.text().contains("stale sender"));
    ended_at(&mut world, 4_100, 1);
    world.record_mut(2).version += 1;
    assert_eq!(world.text(), "", "the second pause is 8 s");
    let edge = world.record_mut(2).edges.get_mut(&node(1)).unwrap();
    edge.state = EdgeState::Replicating;
    let roster = world.roster.as_ref().unwrap();
    world.memory.note_roster(node(1), roster, NOW);
    assert!(world.memory.unread.is_empty(), "all is forgotten");
}

#[test]
fn a_stream_that_is_silent_since_the_agent_started_is_reconnected_once() {
    let mut world = World::converged();
    let started = Mono(NOW.0 - 5_000);
    let subscription = subscription_name((node(1), epoch(1)), (node(2), epoch(2)));
    let inherited = BTreeSet::from([subscription.clone()]);
    world.memory.inherited = Some((started, inherited.clone()));
    world.memory.heartbeats.get_mut(&node(2)).unwrap().2 = started;
    let kick = "do reconnect to 00000002 (nothing has come through it since the agent started)\n";
    assert!(world.text().starts_with(kick), "{}", world.text());
    world.memory.note_kick(&subscription, NOW);
    assert!(
        !world.text().contains("do "),
        "it may be a large transaction"
    );
    world.memory.kicked.clear();
    world.memory.inherited = Some((Mono(NOW.0 - 4_900), inherited));
    assert!(!world.text().contains("do "), "it is early");
    world.memory.inherited = Some((started, BTreeSet::new()));
    assert!(!world.text().contains("do "), "the worker is new");
}

#[test]
fn a_server_that_was_away_returns_although_its_agent_answered_all_the_while() {
    let mut world = World::converged();
    let subscription = subscription_name((node(1), epoch(1)), (node(2), epoch(2)));
    for (state, at) in [(NodeState::Booting, 60_000), (NodeState::Ready, 400)] {
        world.record_mut(2).state = state;
        let roster = world.roster.as_ref().unwrap();
        world.memory.note_roster(node(1), roster, Mono(NOW.0 - at));
    }
    // It was kicked in vain, and the next kick would be half a minute away.
    let vain = (Mono(NOW.0 - 1_000), 9);
    world.memory.kicked.insert(subscription, vain);
    world.memory.heartbeats.get_mut(&node(2)).unwrap().2 = Mono(NOW.0 - 60_000);
    let text = world.text();
    assert!(text.contains("do reconnect to 00000002"), "{text}");
}

#[test]
fn a_new_address_cuts_connections_that_gossip_never_missed() {
    let then = Mono(NOW.0 - 60_000);
    for (moved, reconnected) in [(1, "23"), (2, "2"), (3, "3")] {
        let mut world = World::converged();
        let me = node(1);
        world
            .memory
            .note_addresses(me, world.roster.as_ref().unwrap(), then);
        world
            .record_mut(moved)
            .endpoints
            .postgres
            .set_ip([192, 0, 2, 9].into());
        world
            .memory
            .note_addresses(me, world.roster.as_ref().unwrap(), Mono(NOW.0 - 400));
        world
            .memory
            .note_addresses(me, world.roster.as_ref().unwrap(), NOW);
        for heartbeat in world.memory.heartbeats.values_mut() {
            heartbeat.2 = then;
        }
        let text = world.text();
        for peer in ["2", "3"] {
            let expected = reconnected.contains(peer);
            let ends = format!("do end the stale sender for 0000000{peer}");
            assert_eq!(text.contains(&ends), expected, "{moved} moved:\n{text}");
            let kicks = format!("do reconnect to 0000000{peer}");
            assert_eq!(text.contains(&kicks), expected, "{moved} moved:\n{text}");
        }
    }
}

#[test]
fn a_worker_that_is_down_is_kicked_with_growing_pauses() {
    let mut world = World::converged();
    world.subscription_mut(2).worker = false;
    let subscription = subscription_name((node(1), epoch(1)), (node(2), epoch(2)));
    world
        .memory
        .down_since
        .insert(subscription.clone(), Mono(NOW.0 - 700));
    assert!(
        !world.text().contains("reconnect"),
        "workers need a moment to start"
    );
    world
        .memory
        .down_since
        .insert(subscription.clone(), Mono(NOW.0 - 900));
    assert!(world.text().contains("do reconnect to 00000002"));
    world
        .memory
        .kicked
        .insert(subscription.clone(), (Mono(NOW.0 - 1_500), 1));
    assert!(
        !world.text().contains("reconnect"),
        "the second kick rests 2 s"
    );
    world
        .memory
        .kicked
        .insert(subscription, (Mono(NOW.0 - 2_100), 1));
    assert!(world.text().contains("reconnect"));
}

#[test]
fn a_lost_slot_is_never_made_anew() {
    let mut world = World::converged();
    world.record_mut(2).slots_for.clear();
    let text = world.text();
    assert!(
        text.contains("Critical needs_resync") && !text.contains("create the slot"),
        "{text}"
    );
    world.postgres_mut().slots.clear();
    assert!(
        !world.text().contains("create the slot"),
        "{}",
        world.text()
    );
}

#[test]
fn a_new_address_is_followed() {
    let mut world = World::converged();
    world.dsns.insert(node(2), "dsn elsewhere".to_owned());
    assert_eq!(world.text(), "do follow 00000002 to its new address\n");
}

#[test]
fn a_restart_waits_for_the_operator_once_writes_were_taken() {
    let mut world = World::converged();
    world.postgres_mut().restart_pending = vec!["wal_level".to_owned()];
    assert_eq!(world.text(), "Degraded restart_pending\n");
    let mut fresh = World::founding();
    fresh.postgres_mut().restart_pending = vec!["wal_level".to_owned()];
    assert!(
        fresh
            .plan()
            .actions
            .iter()
            .any(|a| matches!(a, Action::RestartPostgres { .. }))
    );
}

#[test]
fn a_table_enters_the_set_when_all_have_it() {
    let mut world = World::converged();
    world.postgres_mut().tables = vec![TableFacts {
        name: "public.t".to_owned(),
        structure: 1,
        primary_key: true,
        replicated: false,
        plain_sequences: Vec::new(),
        replicable: true,
    }];
    for n in [2, 3] {
        world
            .catalogs
            .insert(node(n), Fact::Known(Catalog::default()));
    }
    assert!(!world.text().contains("replicate"), "nobody else has it");
    let tables = BTreeMap::from([("public.t".to_owned(), (1, true))]);
    for n in [2, 3] {
        let catalog = Catalog {
            digest: 1,
            tables: tables.clone(),
        };
        world.catalogs.insert(node(n), Fact::Known(catalog));
    }
    assert_eq!(world.text(), "do replicate table public.t\n");
}

#[test]
fn what_arrives_ends_the_pauses_between_kicks() {
    let mut world = World::converged();
    let subscription = subscription_name((node(1), epoch(1)), (node(2), epoch(2)));
    for _ in 0..5 {
        world.memory.note_kick(&subscription, Mono(NOW.0 - 10_000));
    }
    world.memory.note(&world.observed, Mono(NOW.0 - 9_000));
    assert!(
        world.memory.kicked.contains_key(&subscription),
        "nothing has come through it yet"
    );
    let heartbeat = HeartbeatFacts {
        epoch: epoch(2),
        number: 8,
        sent_at: Wall(0),
        lag_ms: 1,
        seen_at: NOW,
    };
    world.postgres_mut().heartbeats.insert(node(2), heartbeat);
    world.memory.note(&world.observed, Mono(NOW.0 - 8_000));
    assert!(!world.memory.kicked.contains_key(&subscription));
    world.subscription_mut(2).worker = false;
    world.memory.note(&world.observed, Mono(NOW.0 - 900));
    let kick = "do reconnect to 00000002 (it is down, and its provider answers)\n";
    assert!(world.text().starts_with(kick), "{}", world.text());
}
