//! What may happen during a join: one random story per seed.

use pgaa_core::join::POINTS;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// Faults begin before this time, ms.
pub const FAULTS_BEFORE: u64 = 20_000;

/// Whom something befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Joiner,
    Source,
    /// Any member, by a number.
    Member(usize),
}

/// What befalls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its agent is killed.
    Agent(Who),
    /// Its PostgreSQL is killed.
    Postgres(Who),
    /// The machine is cut off from the power.
    Machine(Who),
    /// These two don't reach one another.
    Cut(Who, Who),
    /// The joiner is destroyed for ever.
    Destroy,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    At(u64),
    /// When the joiner has come to this point for the so-many-th time.
    Reached(&'static str, u32),
}

#[derive(Debug, Clone)]
pub struct Story {
    pub members: usize,
    /// When each joiner comes, ms.
    pub joiners: Vec<u64>,
    pub faults: Vec<(When, Fault, u64)>,
    /// One call in so many is lost, late, or comes twice; 0 for none.
    pub bad_calls: u32,
    /// One carrying of changes in so many stalls for a while; 0 for none.
    pub stalls: u32,
    /// The mean pause between two writes of an application on one node, ms.
    pub write_every: u64,
}

impl Story {
    pub fn of(seed: u64) -> Story {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let rng = &mut rng;
        let joiners = *[1, 1, 2].choose(rng).unwrap();
        let count = *[0, 1, 1, 2, 2, 3, 4].choose(rng).unwrap();
        Story {
            members: *[1, 2, 2, 3, 3, 4].choose(rng).unwrap(),
            joiners: (0..joiners).map(|_| rng.random_range(0..3_000)).collect(),
            faults: (0..count).map(|_| fault(rng)).collect(),
            bad_calls: *[0, 0, 60, 15].choose(rng).unwrap(),
            stalls: *[0, 200, 40].choose(rng).unwrap(),
            write_every: *[20, 60, 200].choose(rng).unwrap(),
        }
    }
}

fn who(rng: &mut SmallRng) -> Who {
    match rng.random_range(0..4) {
        0 | 1 => Who::Joiner,
        2 => Who::Source,
        _ => Who::Member(rng.random_range(0..8)),
    }
}

fn fault(rng: &mut SmallRng) -> (When, Fault, u64) {
    let when = if rng.random_bool(0.6) {
        let nth = *[1, 1, 1, 2].choose(rng).unwrap();
        When::Reached(POINTS.choose(rng).unwrap(), nth)
    } else {
        When::At(rng.random_range(1_000..FAULTS_BEFORE))
    };
    let what = match rng.random_range(0..20) {
        0..=5 => Fault::Agent(who(rng)),
        6..=11 => Fault::Postgres(who(rng)),
        12..=14 => Fault::Machine(who(rng)),
        15..=18 => Fault::Cut(who(rng), Who::Member(rng.random_range(0..8))),
        _ => Fault::Destroy,
    };
    // A lease lasts for fifteen seconds.
    let lasts = *[300, 1_500, 5_000, 12_000, 25_000].choose(rng).unwrap();
    (when, what, rng.random_range(lasts / 2..lasts))
}
