//! What may happen to a mesh: one random story in two acts per seed. In the first the machines
//! come up and found the mesh, in the second something befalls the mesh that stands.

use super::agent::{Agent, Disk, Outside, Setup};
use super::server::{Server, Servers};
use crate::world::{Fault, Weather, World};
use pgaa_core::ids::{DataEpoch, Name, NodeId};
use pgaa_core::policy::{ConflictResolution, FoundingSet, Policy};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use uuid::Uuid;

/// How long each act takes.
pub const ACT_MS: u64 = 15_000;

/// What befalls a machine, at some time after the act began.
#[derive(Debug, Clone)]
pub enum Mishap {
    /// To agents and wires.
    World(Fault),
    /// To a server: it stops, or starts.
    Server(usize, bool),
}

/// One story.
#[derive(Debug, Clone)]
pub struct Story {
    pub setups: Vec<Setup>,
    /// The machine that comes with rows of its own.
    pub rich: Option<usize>,
    pub acts: [Vec<(u64, Mishap)>; 2],
    /// Which machine is destroyed at the end of the second act, and then forgotten.
    pub destroyed: Option<usize>,
    weather: Weather,
    seed: u64,
}

fn address(machine: usize, moves: u8) -> SocketAddr {
    SocketAddr::new(
        IpAddr::V4(Ipv4Addr::new(10, 0, moves, machine as u8 + 1)),
        7432,
    )
}

impl Story {
    pub fn of(seed: u64) -> Story {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(0xA24B_AED4_963E_E407));
        let rng = &mut rng;
        let machines: usize = *[2, 3, 3, 3, 4, 5].choose(rng).unwrap();
        // Sometimes more machines come than found: the last ones join.
        let founders = if rng.random_bool(0.3) {
            machines.div_ceil(2) + 1
        } else {
            machines
        };
        let founders = founders.min(machines);
        let weather = Weather {
            loss: *[0.0, 0.0, 0.02, 0.1].choose(rng).unwrap(),
            twice: 0.0,
            delay_ms: (1, *[2, 5, 40].choose(rng).unwrap()),
        };
        let mut story = Story {
            setups: (0..machines)
                .map(|m| setup(rng, m, machines, founders))
                .collect(),
            rich: rng.random_bool(0.2).then(|| rng.random_range(0..founders)),
            acts: [Vec::new(), Vec::new()],
            destroyed: None,
            weather,
            seed,
        };
        let late_ms = *[1, 1_000, 10_000].choose(rng).unwrap();
        let mut first: Vec<(u64, Mishap)> = (0..machines)
            .map(|m| (rng.random_range(0..late_ms), Mishap::World(Fault::Start(m))))
            .collect();
        if rng.random_bool(0.8) {
            first.extend(trouble(rng, machines));
        }
        story.acts = [end(first, machines), end(trouble(rng, machines), machines)];
        if machines > 2 && rng.random_bool(0.15) {
            story.destroyed = Some(rng.random_range(0..machines));
        } else if rng.random_bool(0.3) {
            let moved = rng.random_range(0..machines);
            let at = rng.random_range(0..ACT_MS);
            let fault = Fault::Move(moved, address(moved, 1));
            story.acts[1].push((at, Mishap::World(fault)));
            story.acts[1].sort_by_key(|(at, _)| *at);
        }
        story
    }

    /// A story in which machines come up, and nothing befalls them.
    pub fn quiet(seed: u64) -> Story {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let machines = rng.random_range(2..=4);
        let start = |machine| (0, Mishap::World(Fault::Start(machine)));
        Story {
            setups: (0..machines)
                .map(|machine| setup(&mut rng, machine, machines, machines))
                .collect(),
            rich: None,
            acts: [(0..machines).map(start).collect(), Vec::new()],
            destroyed: None,
            weather: Weather {
                loss: 0.0,
                twice: 0.0,
                delay_ms: (1, 5),
            },
            seed,
        }
    }

    /// The world in which it happens. Nothing has happened yet.
    pub fn world(&self, traced: bool) -> World<Agent> {
        let server = |(machine, setup): (usize, &Setup)| {
            let rows = if self.rich == Some(machine) { 5 } else { 0 };
            Server::new((setup.node, setup.epoch), address(machine, 0), rows)
        };
        let servers = Servers {
            all: self.setups.iter().enumerate().map(server).collect(),
            applications: true,
            ..Servers::default()
        };
        let nodes = self.setups.iter().map(|s| (s.node, s.epoch)).collect();
        let outside = Outside {
            servers,
            nodes,
            ..Outside::default()
        };
        let mut world = World::new(self.seed, outside, self.weather, traced);
        for (machine, setup) in self.setups.iter().enumerate() {
            world.add(address(machine, 0), Disk::new(setup.clone()));
        }
        world
    }
}

fn setup(rng: &mut SmallRng, machine: usize, machines: usize, founders: usize) -> Setup {
    let all: Vec<SocketAddr> = (0..machines).map(|m| address(m, 0)).collect();
    Setup {
        node: NodeId(Uuid::from_u128(rng.random())),
        epoch: DataEpoch(Uuid::from_u128(rng.random())),
        name: Name::new(&format!("node-{machine}")).unwrap(),
        policy: Policy {
            cluster_name: Name::new("shop").unwrap(),
            database: "shop".to_owned(),
            expect: founders as u16,
            max_nodes: 16,
            founding_set: FoundingSet::Addresses(all[..founders].to_vec()),
            founding_wait: Duration::from_secs(12),
            conflict_resolution: ConflictResolution::LastUpdateWins,
            excluded_schemas: Vec::new(),
            slots: Default::default(),
            clock: Default::default(),
            backup: Default::default(),
        },
        seeds: all,
    }
}

fn trouble(rng: &mut SmallRng, machines: usize) -> Vec<(u64, Mishap)> {
    let mut mishaps = Vec::new();
    for _ in 0..rng.random_range(0..6) {
        let at = rng.random_range(0..ACT_MS);
        let machine = rng.random_range(0..machines);
        let back = rng.random_range(0..8_000);
        let mut then = |after: u64, mishap| mishaps.push((at + after, mishap));
        match rng.random_range(0..7) {
            0 => then(0, Mishap::World(Fault::Crash(machine, Some(back)))),
            1 => {
                let fault = Fault::CrashAfter(machine, rng.random_range(0..10), Some(back));
                then(0, Mishap::World(fault));
            }
            2 => {
                then(0, Mishap::Server(machine, false));
                then(back, Mishap::Server(machine, true));
            }
            3 => {
                then(0, Mishap::World(Fault::Crash(machine, Some(back))));
                then(0, Mishap::Server(machine, false));
                then(back / 2, Mishap::Server(machine, true));
            }
            4 => then(
                0,
                Mishap::World(Fault::Cut(machine, rng.random_range(0..machines))),
            ),
            5 => {
                let sides = (0..machines).map(|_| rng.random_bool(0.5)).collect();
                then(0, Mishap::World(Fault::Partition(sides)));
            }
            _ => then(0, Mishap::World(Fault::Heal)),
        }
    }
    mishaps
}

/// Brings an act to its end: everything is mended, and everyone is there.
fn end(mut mishaps: Vec<(u64, Mishap)>, machines: usize) -> Vec<(u64, Mishap)> {
    mishaps.retain(|(at, _)| *at < ACT_MS);
    mishaps.push((ACT_MS, Mishap::World(Fault::Heal)));
    for machine in 0..machines {
        mishaps.push((ACT_MS, Mishap::Server(machine, true)));
        mishaps.push((ACT_MS, Mishap::World(Fault::Start(machine))));
    }
    mishaps.sort_by_key(|(at, _)| *at);
    mishaps
}

/// Where names lead, for the trace.
pub fn cast(story: &Story) -> BTreeMap<String, String> {
    let name = |setup: &Setup| (setup.name.to_string(), setup.node.to_string());
    story.setups.iter().map(name).collect()
}
