//! Clocks that differ: who waits, who is warned, who is named.

use super::fixture::*;
use crate::clock::{ClockCause, ClockReading, ClockSource, ClockVerdict, PairReading};
use crate::life::Stage;
use crate::observed::Reach;
use crate::plan::clock::{findings, odd_clocks, pairs, withheld};
use crate::plan::state_of;
use crate::record::JoinPhase;
use crate::state::NodeState;
use crate::status::Finding;
use crate::time::Mono;
use std::collections::BTreeMap;

fn ahead_ms(offset_ms: i64) -> PairReading {
    PairReading {
        offset_us: offset_ms * 1000,
        error_us: 400,
        round_trip_us: 300,
        age_ms: 1_000,
    }
}

fn clocks(world: &mut World, ahead: &[(u128, i64)]) {
    let pairs = ahead.iter().map(|(n, ms)| (node(*n), ahead_ms(*ms)));
    world.observed.clock.pairs = pairs.collect();
}

/// The others are ready, this node has yet to ask for leases.
fn joiner(ahead: &[(u128, i64)]) -> World {
    let mut world = World::converged();
    world.life.stage = Stage::Joining(JoinPhase::Leasing);
    world.postgres_mut().gate_open = false;
    clocks(&mut world, ahead);
    world
}

fn starts(world: &World) -> bool {
    world.text().contains("do start joining")
}

fn state(world: &World) -> NodeState {
    world.with_inputs(|inputs| state_of(inputs).0)
}

fn found(world: &World) -> Vec<Finding> {
    world.with_inputs(findings)
}

fn codes(world: &World) -> Vec<String> {
    found(world)
        .into_iter()
        .map(|finding| finding.code)
        .collect()
}

const SYNCHRONIZED: ClockReading = ClockReading {
    verdict: ClockVerdict::Synchronized,
    cause: ClockCause::None,
    source: ClockSource::Chrony,
    offset_us: 0,
    error_us: Some(6_000),
};

/// Everybody's own source is content.
fn content(world: &mut World) {
    world.observed.clock.local = SYNCHRONIZED;
    for n in [2, 3] {
        world.record_mut(n).clock = SYNCHRONIZED;
    }
}

#[test]
fn a_joiner_whose_clock_agrees_asks_for_leases() {
    let world = joiner(&[(2, 3), (3, -3)]);
    assert!(starts(&world), "{}", world.text());
    assert_eq!(state(&world), NodeState::Joining);
}

#[test]
fn a_joiner_whose_clock_differs_waits_and_says_so() {
    let world = joiner(&[(2, -5_000), (3, -5_001)]);
    assert!(!starts(&world), "{}", world.text());
    assert_eq!(state(&world), NodeState::WaitingForClock);
    let text = world.text();
    assert!(
        text.contains("it is 5.0 s ahead of the clocks of 2 of 2 other nodes"),
        "{text}"
    );
}

#[test]
fn a_joiner_waits_for_the_measurement_but_not_for_ever() {
    let mut world = joiner(&[(2, 0)]);
    world.memory.stage_since = Some(Mono(NOW.0 - 9_000));
    assert!(!starts(&world) && state(&world) == NodeState::Joining);
    assert!(world.text().contains("the clocks of n3 to be compared"));
    world.memory.stage_since = Some(Mono(NOW.0 - 10_000));
    assert!(starts(&world));
    // One that doesn't answer at all is the join's business, not the clock's.
    world.memory.stage_since = Some(NOW);
    world.observed.peers.insert(node(3), Reach::Down);
    assert!(starts(&world));
}

#[test]
fn of_two_members_that_differ_a_joiner_must_agree_with_one() {
    assert!(starts(&joiner(&[(2, 0), (3, 5_000)])));
    assert!(!starts(&joiner(&[(2, 3_000), (3, 5_000)])));
}

#[test]
fn a_node_that_is_on_its_way_goes_on() {
    for stage in [
        Stage::Joining(JoinPhase::Copying),
        Stage::Joining(JoinPhase::Linking),
        Stage::Ready,
    ] {
        let mut world = joiner(&[(2, 5_000), (3, 5_000)]);
        world.life.stage = stage;
        assert_ne!(state(&world), NodeState::WaitingForClock, "{stage:?}");
    }
}

#[test]
fn a_founder_whose_clock_differs_makes_its_edges_and_keeps_its_gate_shut() {
    let mut world = World::converged();
    world.life.stage = Stage::Founding;
    world.postgres_mut().gate_open = false;
    for n in [2, 3] {
        let record = world.record_mut(n);
        record.state = NodeState::Joining;
        record.phase = Some(JoinPhase::Founding);
    }
    assert!(world.text().contains("do become ready"), "{}", world.text());
    clocks(&mut world, &[(2, 5_000), (3, 5_000)]);
    let text = world.text();
    assert!(
        !text.contains("do become ready") && text.contains("wait for this node's clock"),
        "{text}"
    );
    assert_eq!(state(&world), NodeState::WaitingForClock);
    // With its edges still to be made it makes them all the same.
    let mut fresh = World::founding();
    let agreeing = fresh.plan().actions;
    clocks(&mut fresh, &[(2, 5_000), (3, 5_000)]);
    assert_eq!(fresh.plan().actions, agreeing);
    assert!(!agreeing.is_empty());
}

#[test]
fn a_missing_source_alone_is_a_warning() {
    let mut world = joiner(&[(2, 0), (3, 0)]);
    world.observed.clock.local.verdict = ClockVerdict::Unsynchronized;
    assert!(starts(&world));
    let found = found(&world);
    assert_eq!(codes(&world), ["clock"]);
    assert!(
        found[0].command.contains("apt-get install chrony"),
        "{found:?}"
    );
}

#[test]
fn the_odd_one_is_named_with_what_its_source_says() {
    let mut world = World::converged();
    content(&mut world);
    assert_eq!(codes(&world), [""; 0]);
    clocks(&mut world, &[(2, 1), (3, 5_000)]);
    let text = found(&world).remove(0).text;
    assert!(
        text.starts_with("the clock of n3 is 5.0 s ahead of the 2 others"),
        "{text}"
    );
    assert!(
        text.contains("its own time source (chrony) calls it right within 6.0 ms"),
        "{text}"
    );
    assert_eq!(codes(&world), ["clock_odd"]);
    // The same from the odd one's own point of view.
    clocks(&mut world, &[(2, 5_000), (3, 5_001)]);
    let finding = found(&world).remove(0);
    assert!(
        finding
            .text
            .starts_with("this node's clock is 5.0 s behind the 2"),
        "{finding:?}"
    );
    assert!(finding.command.starts_with("chronyc"), "{finding:?}");
    assert_eq!(world.with_inputs(odd_clocks), [node(1)].into());
}

#[test]
fn without_a_majority_the_pair_is_named_and_the_one_nobody_vouches_for() {
    let mut world = World::converged();
    content(&mut world);
    world.record_mut(2).clock.verdict = ClockVerdict::Unsynchronized;
    clocks(&mut world, &[(2, 5_000)]);
    let finding = found(&world).remove(0);
    assert_eq!(finding.code, "clock_apart");
    assert!(
        finding
            .text
            .contains("this node's clock and the clock of n2 are at least 5.0 s apart")
    );
    assert!(finding.command.starts_with("on n2: "), "{finding:?}");
}

#[test]
fn a_source_that_contradicts_the_others_is_named_before_the_clock_follows_it() {
    let mut world = World::converged();
    content(&mut world);
    clocks(&mut world, &[(2, 0), (3, 0)]);
    let clock = &mut world.record_mut(3).clock;
    clock.verdict = ClockVerdict::Drifting;
    clock.offset_us = 5_000_000;
    clock.error_us = Some(5_006_000);
    let finding = found(&world).remove(0);
    assert_eq!(finding.code, "clock_source");
    assert!(
        finding
            .text
            .contains("the clock of n3 follows a time source (chrony) that is 5.0 s behind"),
        "{finding:?}"
    );
}

#[test]
fn old_measurements_accuse_nobody() {
    let mut world = World::converged();
    content(&mut world);
    clocks(&mut world, &[(2, 1), (3, 5_000)]);
    for pair in world.observed.clock.pairs.values_mut() {
        pair.age_ms = 61_000;
    }
    assert_eq!(codes(&world), [""; 0]);
}

#[test]
fn readiness_is_withheld_in_strict_mode_alone() {
    let mut world = World::converged();
    clocks(&mut world, &[(2, 5_000), (3, 5_000)]);
    assert_eq!(world.with_inputs(withheld), None);
    world.policy.clock.strict = true;
    let why = world.with_inputs(withheld).unwrap();
    assert!(why.contains("does not agree"), "{why}");
    clocks(&mut world, &[(2, 0), (3, 0)]);
    let why = world.with_inputs(withheld).unwrap();
    assert!(why.contains("not synchronized"), "{why}");
    content(&mut world);
    assert_eq!(world.with_inputs(withheld), None);
    // Of two that differ neither can be trusted; of three the odd one can't.
    clocks(&mut world, &[(2, 5_000)]);
    assert!(world.with_inputs(withheld).is_some());
    clocks(&mut world, &[(2, 0), (3, 5_000)]);
    assert_eq!(world.with_inputs(withheld), None);
}

#[test]
fn pairs_of_others_come_from_their_records() {
    let mut world = World::converged();
    clocks(&mut world, &[(2, 1)]);
    world.record_mut(3).clock_pairs = BTreeMap::from([
        (node(2), ahead_ms(-5_000)),
        (node(1), ahead_ms(7_000)),
        (node(9), ahead_ms(1)),
    ]);
    let all = world.with_inputs(pairs);
    let seen: Vec<_> = all
        .iter()
        .map(|(pair, rated)| (*pair, rated.at.middle_us()))
        .collect();
    let expected = [((node(1), node(2)), 1_000), ((node(2), node(3)), 5_000_000)];
    assert_eq!(seen, expected);
}
