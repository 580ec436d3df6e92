//! What may happen during a join: one random story per seed.

use pgaa_core::join::POINTS;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// Faults begin before this time, ms.
pub const FAULTS_BEFORE: u64 = 20_000;

/// The points of a member's way to be synchronised anew, up to the hand-over.
const ANEW_POINTS: [&str; 8] = [
    "leased",
    "resyncing",
    "drained",
    "exported",
    "copying",
    "rows_copied",
    "caught_up",
    "handed_over",
];

/// Whom something befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Joiner,
    Source,
    /// Any member, by a number.
    Member(usize),
    /// The member that loses what it needs next.
    Loser,
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
    /// A member is destroyed for ever, and forgotten by an operator so many ms later.
    Die(Who, u64),
    /// A member leaves.
    Leave(Who),
    /// Somebody drops the slot of one on the other, and perhaps makes it anew.
    Lose { by: Who, of: Who, anew: bool },
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
    /// The member that loses what it needs next, if one does.
    pub loser: Option<usize>,
    /// One call in so many is lost, late, or comes twice; 0 for none.
    pub bad_calls: u32,
    /// One carrying of changes in so many stalls for a while; 0 for none.
    pub stalls: u32,
    /// One round of an agent's loop in so many takes long; 0 for none.
    pub slow_rounds: u32,
    /// One flush in so many takes long; 0 for none.
    pub slow_disks: u32,
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
            loser: None,
            bad_calls: *[0, 0, 60, 15].choose(rng).unwrap(),
            stalls: *[0, 200, 40].choose(rng).unwrap(),
            write_every: *[20, 60, 200].choose(rng).unwrap(),
            slow_disks: [0, 0, 20][usize::try_from(seed / 28 % 3).unwrap_or(0)],
            slow_rounds: [0, 0, 300, 40][usize::try_from(seed / 7 % 4).unwrap_or(0)],
        }
    }
}

impl Story {
    /// The same, and a member loses its slot on another. What else befalls it befalls it while it
    /// is synchronised anew.
    pub fn of_loss(seed: u64) -> Story {
        let mut story = Story::of(seed);
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5EED_0F10_55ED);
        let rng = &mut rng;
        story.members = story.members.max(2);
        story.joiners.truncate(rng.random_range(0..=1));
        let loser = rng.random_range(0..story.members);
        let by = (loser + rng.random_range(1..story.members)) % story.members;
        story.loser = Some(loser);
        for (when, what, _) in &mut story.faults {
            if rng.random_bool(0.5) {
                *when = When::Reached(ANEW_POINTS.choose(rng).unwrap(), 1);
                *what = anew_fault(rng);
            }
        }
        let lost = Fault::Lose {
            by: Who::Member(by),
            of: Who::Loser,
            anew: rng.random_bool(0.4),
        };
        let at = rng.random_range(1_500..FAULTS_BEFORE);
        story.faults.push((When::At(at), lost, 0));
        story
    }

    /// While a node joins through its source, the source loses its slot on another member: what
    /// comes through it has a gap, or comes no more.
    pub fn of_spoiled(seed: u64) -> Story {
        let mut story = Story::of(seed);
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x5901_1ED5_901E);
        let rng = &mut rng;
        story.members = story.members.max(2);
        story.joiners.truncate(1);
        let point = *["rows_copied", "caught_up", "prepared"]
            .choose(rng)
            .unwrap();
        let lost = Fault::Lose {
            by: Who::Member(rng.random_range(0..8)),
            of: Who::Source,
            anew: rng.random_bool(0.8),
        };
        story.faults = vec![(When::Reached(point, 1), lost, 0)];
        story
    }

    /// The joiner is cut off, or down, for longer than its lease lasts, when every edge of it is
    /// made, or is about to be.
    pub fn of_late(seed: u64) -> Story {
        let mut story = Story::of(seed);
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x1A7E_1A7E_1A7E);
        let rng = &mut rng;
        story.members = story.members.min(3);
        story.joiners.truncate(1);
        let last = u32::try_from(story.members).unwrap_or(1);
        let when = match rng.random_range(0..4) {
            0 => When::Reached("handed_over", 1),
            1 => When::Reached("linking", 1),
            2 => When::Reached("committed", rng.random_range(1..=last)),
            _ => When::Reached("committed", last),
        };
        let what = match rng.random_range(0..4) {
            0 => Fault::Agent(Who::Joiner),
            1 => Fault::Machine(Who::Joiner),
            _ => Fault::Cut(Who::Joiner, Who::Member(rng.random_range(0..8))),
        };
        story.faults = vec![(when, what, rng.random_range(17_000..40_000))];
        story
    }

    /// While nodes join, a member leaves, or dies and is forgotten.
    pub fn of_parting(seed: u64) -> Story {
        let mut story = Story::of(seed);
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x9A87_1462_9A87);
        let rng = &mut rng;
        story.members = rng.random_range(3..=5);
        story.faults.truncate(rng.random_range(0..=2));
        story.faults.retain(|(_, what, _)| *what != Fault::Destroy);
        let when = match rng.random_bool(0.7) {
            true => When::Reached(POINTS.choose(rng).unwrap(), 1),
            false => When::At(rng.random_range(1_500..10_000)),
        };
        let whom = match rng.random_bool(0.3) {
            true => Who::Source,
            false => Who::Member(rng.random_range(0..8)),
        };
        let what = match rng.random_bool(0.5) {
            true => Fault::Leave(whom),
            false => Fault::Die(whom, rng.random_range(0..20_000)),
        };
        story.faults.push((when, what, 0));
        story
    }

    /// Two members lose one another's slots, and nothing else happens.
    pub fn of_both_sides(seed: u64) -> Story {
        let mut story = Story::of_loss(seed);
        story.joiners.clear();
        story
            .faults
            .retain(|(_, what, _)| matches!(what, Fault::Lose { .. }));
        if let Some((when, Fault::Lose { by, of, anew }, _)) = story.faults.first().copied() {
            let back = Fault::Lose {
                by: of,
                of: by,
                anew: !anew,
            };
            story.faults.push((when, back, 0));
        }
        story
    }
}

fn anew_fault(rng: &mut SmallRng) -> Fault {
    let whom = *[Who::Loser, Who::Loser, Who::Member(0), Who::Member(1)]
        .choose(rng)
        .unwrap();
    match rng.random_range(0..4) {
        0 => Fault::Agent(whom),
        1 => Fault::Postgres(whom),
        2 => Fault::Machine(whom),
        _ => Fault::Cut(Who::Loser, Who::Member(rng.random_range(0..8))),
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
