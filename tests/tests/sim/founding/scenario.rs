//! What may happen to machines that found a cluster: one random story per seed.

use super::node::{Disk, Ledger, Node, Seeds, Setup};
use crate::world::{Fault, Weather, World};
use pgaa_core::founding::DataHeld;
use pgaa_core::ids::{ClusterId, NodeId};
use pgaa_core::policy::FoundingSet;
use pgaa_core::time::Mono;
use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use uuid::Uuid;

/// No fault happens later than this,
const QUIET_AT: Mono = Mono(25_000);
/// or than this where the founding is contested: a candidate stands again some seconds after a
/// better one has fallen silent, and there shall be many rounds.
const CONTEST_ENDS: Mono = Mono(90_000);

const FINE: Weather = Weather {
    loss: 0.0,
    twice: 0.0,
    delay_ms: (1, 5),
};

/// What a story is about, beside its faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Empty machines, or one with data.
    Plain,
    /// Two machines with data.
    TwoWithData,
    /// A member of a cluster that exists is among the seeds.
    Foreign,
    /// Members of two clusters are among the seeds.
    TwoForeign,
    /// One machine is destroyed for ever on the way.
    Destroyed,
}

/// One story.
#[derive(Debug, Clone)]
pub struct Story {
    pub kind: Kind,
    pub setups: Vec<Setup>,
    /// Is the founding set given by addresses?
    pub fixed: bool,
    /// Does nothing bad happen?
    pub calm: bool,
    /// Which machine is destroyed, and when.
    pub destroyed: Option<(usize, Mono)>,
    /// When the last fault ends.
    pub quiet_at: Mono,
    faults: Vec<(Mono, Fault)>,
    weather: Weather,
    seed: u64,
}

pub fn address(machine: usize) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, machine as u8 + 1)), 7432)
}

impl Story {
    pub fn of(seed: u64) -> Story {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let rng = &mut rng;
        let kind = match rng.random_range(0..20) {
            0..10 => Kind::Plain,
            10..12 => Kind::TwoWithData,
            12..15 => Kind::Foreign,
            15 => Kind::TwoForeign,
            _ => Kind::Destroyed,
        };
        let least = if matches!(kind, Kind::TwoWithData | Kind::Destroyed) {
            2
        } else {
            1
        };
        let expect: usize = rng.random_range(least..=5);
        let foreign = match kind {
            Kind::Foreign => 1,
            Kind::TwoForeign => 2,
            Kind::Plain | Kind::TwoWithData | Kind::Destroyed => 0,
        };
        let fixed = rng.random_bool(0.5) && foreign == 0;
        let extra = if fixed {
            0
        } else {
            rng.random_range(0..expect)
        };
        let forming = expect + extra;
        let mut story = Story {
            kind,
            setups: setups(rng, kind, fixed, expect, forming, foreign),
            fixed,
            calm: rng.random_bool(0.1),
            destroyed: None,
            quiet_at: QUIET_AT,
            faults: Vec::new(),
            weather: FINE,
            seed,
        };
        story.boots(rng);
        if !story.calm {
            story.weather = weather(rng);
            story.trouble(rng);
        }
        if kind == Kind::Destroyed {
            let at = Mono(rng.random_range(500..12_000));
            // Not the only seed of all others: no newcomer could be found after that.
            let only = |setup: &Setup| matches!(&setup.seeds, Seeds::Fixed(a) if a.len() == 1);
            let seed = story
                .setups
                .iter()
                .position(|s| only(s) && s.seeds.names(s.address));
            let mortal: Vec<usize> = (0..forming).filter(|m| Some(*m) != seed).collect();
            story.destroyed = mortal.choose(rng).map(|machine| (*machine, at));
        }
        story
    }

    /// As many machines as may be, who can't all hear one another: several candidates at once
    /// collect promises from nodes they share, while wires, agents and messages come and go.
    pub fn contested(seed: u64) -> Story {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(0xD1B5_4A32_D192_ED03));
        let rng = &mut rng;
        let expect: usize = rng.random_range(2..=4);
        let machines = 2 * expect - 1;
        let mut setups = setups(rng, Kind::Plain, false, expect, machines, 0);
        let disk_full_until = *[Mono(0), CONTEST_ENDS].choose(rng).unwrap();
        for setup in &mut setups {
            setup.postgres_ms = setup.postgres_ms.min(500);
            setup.disk_full_until = disk_full_until;
        }
        // Answers may come after the asker has given up, and has stood again.
        let late_ms = *[20, 300, 4_000, 12_000].choose(rng).unwrap();
        let mut story = Story {
            kind: Kind::Plain,
            setups,
            fixed: false,
            calm: false,
            destroyed: None,
            quiet_at: CONTEST_ENDS,
            faults: (0..machines)
                .map(|machine| (Mono(0), Fault::Start(machine)))
                .collect(),
            weather: Weather {
                delay_ms: (1, late_ms),
                ..weather(rng)
            },
            seed,
        };
        story.contest(rng);
        story.calm_down(rng);
        story
    }

    fn contest(&mut self, rng: &mut SmallRng) {
        let machines = self.setups.len();
        let cut = rng.random_range(0.3..0.7);
        let every_ms = rng.random_range(1_000..10_000);
        for at in (0..self.quiet_at.0).step_by(every_ms) {
            let mut cuts = Vec::new();
            for (a, b) in (0..machines).flat_map(|a| (0..a).map(move |b| (a, b))) {
                let one_way = rng.random_bool(0.1);
                if rng.random_bool(cut) {
                    cuts.push((a, b));
                    cuts.extend((!one_way).then_some((b, a)));
                }
            }
            self.faults.push((Mono(at), Fault::Rewire(cuts)));
            if rng.random_bool(0.6) {
                let machine = rng.random_range(0..machines);
                let back = Some(rng.random_range(0..3_000));
                let fault = Fault::CrashAfter(machine, rng.random_range(0..8), back);
                self.faults
                    .push((Mono(at + rng.random_range(0..every_ms as u64)), fault));
            }
        }
        self.faults.retain(|(at, _)| *at < self.quiet_at);
    }

    /// When the machines are switched on. In a third of the stories all at once.
    fn boots(&mut self, rng: &mut SmallRng) {
        let late_ms = *[0, 3_000, 18_000].choose(rng).unwrap();
        for (machine, setup) in self.setups.iter().enumerate() {
            let early = setup.member.is_some() && self.calm;
            let at = if late_ms == 0 || early {
                0
            } else {
                rng.random_range(0..late_ms)
            };
            self.faults.push((Mono(at), Fault::Start(machine)));
        }
    }

    fn trouble(&mut self, rng: &mut SmallRng) {
        let machines = self.setups.len();
        for _ in 0..rng.random_range(0..10) {
            // Most of it falls into the first seconds, where the founding happens.
            let end = if rng.random_bool(0.6) {
                6_000
            } else {
                QUIET_AT.0 - 1
            };
            let at = Mono(rng.random_range(0..end));
            let machine = rng.random_range(0..machines);
            let back = Some(rng.random_range(0..6_000_u64.min(QUIET_AT.0 - at.0)));
            let fault = match rng.random_range(0..8) {
                0 | 1 => Fault::Crash(machine, back),
                2..=4 => Fault::CrashAfter(machine, rng.random_range(0..12), back),
                5 => Fault::Cut(machine, rng.random_range(0..machines)),
                6 => Fault::Partition((0..machines).map(|_| rng.random_bool(0.5)).collect()),
                _ => Fault::Heal,
            };
            self.faults.push((at, fault));
        }
        self.calm_down(rng);
    }

    /// The end of all faults.
    fn calm_down(&mut self, rng: &mut SmallRng) {
        let machines = self.setups.len();
        let quiet_at = self.quiet_at;
        self.faults.push((quiet_at, Fault::Heal));
        let loss = if rng.random_bool(0.5) { 0.0 } else { 0.05 };
        let calmer = Weather {
            loss,
            twice: 0.0,
            delay_ms: (1, 20),
        };
        self.faults.push((quiet_at, Fault::Weather(calmer)));
        // Whoever crashed late and is still down.
        for machine in 0..machines {
            self.faults.push((quiet_at, Fault::Start(machine)));
        }
    }

    /// The world in which it happens.
    pub fn world(&self, traced: bool) -> World<Node> {
        let mut world: World<Node> = World::new(self.seed, Ledger::default(), self.weather, traced);
        for setup in &self.setups {
            world.add(setup.address, Disk::new(setup.clone()));
        }
        let members = self.setups.iter().filter(|setup| setup.member.is_some());
        world.shared.registered = members.map(|setup| setup.address).collect();
        let rich = self
            .setups
            .iter()
            .filter(|setup| setup.data == DataHeld::Rows);
        world.shared.with_rows = rich.map(|setup| setup.node).collect();
        for (at, fault) in &self.faults {
            world.schedule(*at, fault.clone());
        }
        world
    }
}

fn weather(rng: &mut SmallRng) -> Weather {
    Weather {
        loss: *[0.0, 0.02, 0.1, 0.3].choose(rng).unwrap(),
        twice: *[0.0, 0.1].choose(rng).unwrap(),
        delay_ms: (1, *[2, 20, 300, 4_000].choose(rng).unwrap()),
    }
}

fn setups(
    rng: &mut SmallRng,
    kind: Kind,
    fixed: bool,
    expect: usize,
    forming: usize,
    foreign: usize,
) -> Vec<Setup> {
    let machines = forming + foreign;
    let all: Vec<SocketAddr> = (0..machines).map(address).collect();
    let seeds = match rng.random_range(0..3) {
        _ if fixed => Seeds::Fixed(all.clone()),
        // Members don't look for newcomers: one of them must be the seed.
        0 if foreign == 1 => Seeds::Fixed(vec![address(machines - 1)]),
        0 if foreign == 0 => Seeds::Fixed(vec![*all.choose(rng).unwrap()]),
        1 => Seeds::Fixed(all.clone()),
        _ => Seeds::Registered,
    };
    let set = if fixed {
        FoundingSet::Addresses(all)
    } else {
        FoundingSet::Any
    };
    let with_data = match kind {
        Kind::TwoWithData => 2,
        Kind::Plain | Kind::Foreign | Kind::TwoForeign | Kind::Destroyed => {
            usize::from(rng.random_bool(0.3))
        }
    };
    let mut data = vec![DataHeld::Empty; forming];
    data[..with_data].fill(DataHeld::Rows);
    data.shuffle(rng);
    let postgres_ms = *[0, 1_000, 8_000].choose(rng).unwrap();
    let patience_ms = *[300, 1_000, 3_000].choose(rng).unwrap();
    (0..machines)
        .map(|machine| Setup {
            node: NodeId(Uuid::from_u128(rng.random())),
            name: format!("node-{machine}"),
            address: address(machine),
            expect: expect as u16,
            set: set.clone(),
            seeds: seeds.clone(),
            data: data.get(machine).copied().unwrap_or(DataHeld::Rows),
            member: (machine >= forming)
                .then(|| ClusterId(Uuid::from_u128(0xF0 + machine as u128))),
            postgres_ms: rng.random_range(0..=postgres_ms),
            patience_ms,
            disk_full_until: Mono(0),
        })
        .collect()
}
