//! A server, or its whole machine, is put back to an earlier state and starts again. pglogical
//! calls the edges from it "replicating"; the mesh must not.

use super::story::Story;
use super::{Agent, agents, befall, unbroken, whole};
use crate::seeds::{Run, Tally, try_all};
use crate::world::{Fault, World};
use pgaa_core::ids::NodeId;
use pgaa_core::record::EdgeState;
use pgaa_core::state::NodeState;
use pgaa_core::time::Mono;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// How long after its return everybody must know.
const KNOWN_WITHIN_MS: u64 = 10_000;

#[derive(Debug)]
struct Case {
    story: Story,
    victim: usize,
    /// Is the agent's state put back as well?
    machine: bool,
    /// How much is lost, and how long the machine is away.
    lost_ms: u64,
    away_ms: u64,
}

impl Case {
    fn of(seed: u64) -> Case {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(0xB0BA_CAFE_0BAD_5EED));
        let story = Story::quiet(seed);
        Case {
            victim: rng.random_range(0..story.setups.len()),
            machine: rng.random_bool(0.5),
            lost_ms: rng.random_range(3_000..40_000),
            away_ms: rng.random_range(0..4_000),
            story,
        }
    }
}

#[test]
fn nothing_is_taken_from_a_server_that_was_rolled_back() {
    let name = "nothing_is_taken_from_a_server_that_was_rolled_back";
    try_all(name, &[], 500, play);
}

fn play(seed: u64, traced: bool) -> Run {
    let case = Case::of(seed);
    let mut world = case.story.world(traced);
    if let Some(trace) = &mut world.trace {
        trace.push(format!("{case:#?}"));
    }
    Run {
        verdict: unfold(&case, &mut world),
        trace: world.trace.take().unwrap_or_default(),
        tally: Tally::from([("acted", world.shared.acts)]),
    }
}

fn unfold(case: &Case, world: &mut World<Agent>) -> Result<(), String> {
    for (_, mishap) in &case.story.acts[0] {
        befall(world, mishap);
    }
    whole(world, 60_000)?;
    world.shared.servers.applications = true;
    world.run(Mono(world.now.0 + 2_000));
    let server = world.shared.servers.all[case.victim].clone();
    let disk = world.machines[case.victim].disk.clone();
    world.run(Mono(world.now.0 + case.lost_ms));
    world.schedule(world.now, Fault::Crash(case.victim, None));
    let (now, servers) = (world.now, &mut world.shared.servers);
    servers.set_up(case.victim, false, now, &world.links);
    world.run(Mono(now.0 + case.away_ms));
    if case.machine {
        world.machines[case.victim].disk = disk;
    }
    let (now, servers) = (world.now, &mut world.shared.servers);
    servers.put_back(case.victim, server, now);
    servers.set_up(case.victim, true, now, &world.links);
    world.schedule(now, Fault::Start(case.victim));
    world.run(Mono(now.0 + KNOWN_WITHIN_MS));
    unbroken(world)?;
    set_apart(case, world)?;
    distrusted(case, world)?;
    // It stays so, however much it and the others write.
    world.run(Mono(world.now.0 + 60_000));
    unbroken(world)?;
    set_apart(case, world)?;
    distrusted(case, world)
}

fn set_apart(case: &Case, world: &World<Agent>) -> Result<(), String> {
    let server = &world.shared.servers.all[case.victim];
    let life = &world.machines[case.victim].disk.life;
    if life.quarantined.is_none() {
        return Err("it does not know that it was rolled back".to_owned());
    }
    if server.gate_open || server.follows_anybody() {
        return Err("it is set apart, and still takes writes or follows others".to_owned());
    }
    Ok(())
}

/// The others follow it no longer, say why, and have lost nothing of one another.
fn distrusted(case: &Case, world: &World<Agent>) -> Result<(), String> {
    let victim: NodeId = world.shared.nodes[case.victim].0;
    let others = agents(world)
        .into_iter()
        .filter(|(machine, _)| *machine != case.victim);
    for (machine, agent) in others {
        let name = &agent.disk.setup.name;
        let roster = agent.roster.as_ref().ok_or("no roster")?;
        let edge = roster
            .records
            .get(&agent.id())
            .and_then(|record| record.edges.get(&victim));
        if edge.map(|edge| edge.state) != Some(EdgeState::Disabled) {
            return Err(format!("{name} says of its edge: {edge:?}"));
        }
        if world.shared.servers.all[machine].follows(case.victim) {
            return Err(format!("{name} still follows it"));
        }
        let told = agent.plan.findings.iter().any(|f| f.code == "rolled_back");
        let state = roster.records.get(&victim).map(|record| record.state);
        if !told || state != Some(NodeState::Quarantined) {
            return Err(format!("{name} takes it for {state:?}; told: {told}"));
        }
        if !agent.plan.actions.is_empty() {
            return Err(format!("{name} plans {:?}", agent.plan.actions));
        }
    }
    Ok(())
}
