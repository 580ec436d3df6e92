//! A peer that takes nothing any more, dead or stuck, must not fill anybody's disk; and nobody
//! loses a slot while the disk has room for it.

use super::server::disk::{Disk, ENTRY_BYTES, GivenUp};
use super::story::Story;
use super::{Agent, agents, befall, unbroken, whole};
use crate::seeds::{Run, Tally, try_all};
use crate::world::{Fault, World};
use pgaa_core::ids::NodeId;
use pgaa_core::policy::SlotPolicy;
use pgaa_core::record::EdgeState;
use pgaa_core::time::Mono;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Long enough for every disk to fill several times over.
const TROUBLE_MS: u64 = 240_000;

/// Between two looks of the test.
const LOOK_MS: u64 = 500;

/// How far a slot may get beyond its budget: what is written until a look has seen it and an
/// action that fails now and then has worked.
const SLACK_BYTES: u64 = 20 * ENTRY_BYTES;

/// How a peer ceases to take what others write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ailment {
    Dead,
    Stuck,
    /// Only its server has stopped; its agent answers.
    Stopped,
}

#[derive(Debug)]
struct Case {
    story: Story,
    victim: usize,
    ailment: Ailment,
    /// The disks, in entries of the WAL; or room without end.
    disk_entries: Option<u64>,
    /// What others put on the disk, in the end, percent.
    other_percent: u64,
    /// What the operator allows each slot, in entries.
    budget_entries: Option<u64>,
}

impl Case {
    fn of(seed: u64) -> Case {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(0xD15C_F111_D15C_F111));
        let mut story = Story::quiet(seed);
        let victim = rng.random_range(0..story.setups.len());
        let ailment = match rng.random_range(0..3) {
            0 => Ailment::Dead,
            1 => Ailment::Stuck,
            _ => Ailment::Stopped,
        };
        let roomy = rng.random_bool(0.2);
        let disk_entries = (!roomy).then(|| rng.random_range(120..450));
        let budget_entries = rng.random_bool(0.3).then(|| rng.random_range(40..100));
        let budget_entries = budget_entries.filter(|_| !roomy);
        for setup in &mut story.setups {
            setup.policy.slots.budget_bytes = budget_entries.map(|entries| entries * ENTRY_BYTES);
        }
        Case {
            story,
            victim,
            ailment,
            disk_entries,
            other_percent: rng.random_range(0..40),
            budget_entries,
        }
    }
}

#[test]
fn no_peer_fills_a_disk() {
    let tally = try_all("no_peer_fills_a_disk", &[], 300, play);
    if std::env::var_os("SEED").is_none() {
        for what in ["given up", "kept"] {
            assert!(tally.get(what).is_some_and(|n| *n > 0), "none {what}");
        }
    }
}

fn play(seed: u64, traced: bool) -> Run {
    let case = Case::of(seed);
    let mut world = case.story.world(traced);
    if let Some(trace) = &mut world.trace {
        trace.push(format!("{case:#?}"));
    }
    let verdict = unfold(&case, &mut world);
    let given_up = world.shared.servers.given_up.len() as u64;
    let tally = Tally::from([
        ("given up", given_up),
        ("kept", u64::from(given_up == 0)),
        ("acted", world.shared.acts),
    ]);
    Run {
        verdict,
        trace: world.trace.take().unwrap_or_default(),
        tally,
    }
}

fn unfold(case: &Case, world: &mut World<Agent>) -> Result<(), String> {
    for (_, mishap) in &case.story.acts[0] {
        befall(world, mishap);
    }
    whole(world, 60_000)?;
    if let Some(entries) = case.disk_entries {
        for server in &mut world.shared.servers.all {
            server.disk = Disk::of(entries * ENTRY_BYTES);
        }
        (0..world.machines.len()).for_each(|machine| world.shared.servers.checkpoint(machine));
    }
    world.shared.servers.applications = true;
    world.shared.rough = true;
    strike(case, world);
    let begun = world.now.0;
    while world.now.0 < begun + TROUBLE_MS {
        world.run(Mono(world.now.0 + LOOK_MS));
        unbroken(world)?;
        others_write(case, world, world.now.0 - begun);
        within_budget(case, world)?;
    }
    world.shared.rough = false;
    world.run(Mono(world.now.0 + 10_000));
    unbroken(world)?;
    let given_up = world.shared.servers.given_up.clone();
    given_up
        .iter()
        .try_for_each(|one| justified(case, world, one))?;
    no_gap_replicates(world, &given_up)?;
    survivors_agree(case, world)?;
    if case.disk_entries.is_none() {
        recovers(case, world)?;
    }
    Ok(())
}

fn strike(case: &Case, world: &mut World<Agent>) {
    let now = world.now;
    match case.ailment {
        Ailment::Dead => {
            world.schedule(now, Fault::Crash(case.victim, None));
            let servers = &mut world.shared.servers;
            servers.set_up(case.victim, false, now, &world.links);
        }
        Ailment::Stopped => {
            let servers = &mut world.shared.servers;
            servers.set_up(case.victim, false, now, &world.links);
        }
        Ailment::Stuck => world.shared.servers.all[case.victim].stuck = true,
    }
}

fn others_write(case: &Case, world: &mut World<Agent>, elapsed_ms: u64) {
    for server in &mut world.shared.servers.all {
        let share = case.other_percent * elapsed_ms / TROUBLE_MS;
        server.disk.other_bytes = server.disk.total_bytes / 100 * share;
    }
}

fn within_budget(case: &Case, world: &World<Agent>) -> Result<(), String> {
    let Some(budget) = case.budget_entries else {
        return Ok(());
    };
    for machine in (0..world.machines.len()).filter(|machine| *machine != case.victim) {
        let held = world.shared.servers.most_held_bytes(machine);
        if held > budget * ENTRY_BYTES + SLACK_BYTES {
            return Err(format!(
                "a slot of {machine} holds back {held} bytes of {budget} MB"
            ));
        }
    }
    Ok(())
}

/// The disk was nearly full, or the operator's budget nearly spent, by a slot that held back more
/// than any other; and it was the slot of the peer that took nothing.
fn justified(case: &Case, world: &World<Agent>, one: &GivenUp) -> Result<(), String> {
    let policy = SlotPolicy::default();
    let reserve = one.disk.total_bytes / 100 * u64::from(policy.reserve_percent);
    let room = (one.disk.free_bytes + one.held_bytes).saturating_sub(reserve);
    let budget = case.budget_entries.map_or(u64::MAX, |n| n * ENTRY_BYTES);
    let budget = budget.min(room.max(reserve / 4));
    // What was written between the look and the deed is not the guard's fault.
    let spent = one.held_bytes + 2 * ENTRY_BYTES >= budget / 100 * u64::from(policy.alarm_percent);
    let sick = world.shared.nodes[case.victim].0 == one.subscriber;
    // The server of a stopped victim serves nobody; its own slots are its own affair.
    let own = one.machine == case.victim;
    if !spent || one.held_bytes < one.most_bytes || !(sick || own) {
        return Err(format!("a slot was given up for nothing: {one:?}"));
    }
    Ok(())
}

/// A subscriber whose slot is gone never takes its edge for a sound one.
fn no_gap_replicates(world: &World<Agent>, given_up: &[GivenUp]) -> Result<(), String> {
    for one in given_up {
        let provider: NodeId = world.shared.nodes[one.machine].0;
        for (_, agent) in agents(world) {
            let record = agent
                .roster
                .as_ref()
                .and_then(|r| r.records.get(&agent.id()));
            let edge = record.and_then(|record| record.edges.get(&provider));
            let state = edge.map(|edge| edge.state);
            if agent.id() == one.subscriber && state == Some(EdgeState::Replicating) {
                return Err(format!(
                    "{provider} has dropped the slot of an edge that replicates"
                ));
            }
        }
    }
    Ok(())
}

/// All others hold one another's rows.
fn survivors_agree(case: &Case, world: &mut World<Agent>) -> Result<(), String> {
    world.shared.servers.applications = false;
    world.run(Mono(world.now.0 + 5_000));
    let machines: Vec<usize> = (0..world.machines.len())
        .filter(|machine| *machine != case.victim)
        .collect();
    for subscriber in &machines {
        for provider in machines.iter().filter(|provider| *provider != subscriber) {
            if !world.shared.servers.all_carried(*subscriber, *provider) {
                return Err(format!("rows of {provider} are missing on {subscriber}"));
            }
        }
    }
    Ok(())
}

/// With room enough nothing was given up, and the peer catches up.
fn recovers(case: &Case, world: &mut World<Agent>) -> Result<(), String> {
    if !world.shared.servers.given_up.is_empty() {
        return Err("a slot was given up although the disks have room without end".to_owned());
    }
    let now = world.now;
    world.schedule(now, Fault::Start(case.victim));
    let servers = &mut world.shared.servers;
    servers.all[case.victim].stuck = false;
    if !servers.all[case.victim].up {
        servers.set_up(case.victim, true, now, &world.links);
    }
    servers.applications = true;
    whole(world, 20_000).map(drop)
}
