//! Who owns the backups, in virtual time: records that spread over lossy lines, partitions,
//! restarts. At most one owner on each side of a partition once it has settled, one in all after
//! the heal, and none that moves because of loss or restarts.

use crate::seeds::{Run, Tally, try_all};
use pgaa_core::backup::claim::{
    Claim, Inputs, Member, Standing, Vacancy, Verdict, Wish, decide, highest, settle,
};
use pgaa_core::ids::{ClusterId, NodeId};
use pgaa_core::time::{Mono, Wall};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::time::Duration;
use uuid::Uuid;

/// Between two looks of a node.
const TICK_S: u64 = 5;

/// As in a default configuration.
const HAND_OVER_S: u64 = 600;

/// Who was not heard of for this long doesn't answer.
const SILENT_S: u64 = 15;

/// After the last change of the network it is settled: the hand-over, each candidate's turn, and
/// some rounds of records.
const SETTLED_S: u64 = HAND_OVER_S + 10 * 20 + 120;

/// Until two that reach one another know of both claims.
const HEARD_S: u64 = 120;

const DAY_S: u64 = 24 * 3_600;

/// What a node says of itself, as it spreads.
#[derive(Clone, Copy, Default)]
struct Word {
    version: u64,
    able: bool,
    claim: Option<Claim>,
    wish: Option<Wish>,
}

/// What survives a restart.
#[derive(Clone, Default)]
struct Disk {
    standing: Standing,
    words: Vec<Word>,
}

struct Node {
    disk: Disk,
    vacancy: Vacancy,
    wish: Option<Wish>,
    /// When each other was last heard of; never since the start of the agent by `None`.
    heard: Vec<Option<u64>>,
    up: bool,
    back_at: u64,
    able: bool,
    place: Option<usize>,
}

struct World {
    now_s: u64,
    cluster: ClusterId,
    nodes: Vec<Node>,
    side: Vec<usize>,
    loss: f64,
    rng: SmallRng,
    moves: u64,
    trace: Option<Vec<String>>,
}

fn id(number: usize) -> NodeId {
    NodeId(Uuid::from_u128(number as u128 + 1))
}

impl World {
    fn new(seed: u64, traced: bool) -> World {
        let mut rng = SmallRng::seed_from_u64(seed);
        let count = rng.random_range(2..=7);
        let node = |_| Node {
            disk: Disk {
                standing: Standing::default(),
                words: vec![Word::default(); count],
            },
            vacancy: Vacancy::default(),
            wish: None,
            heard: vec![None; count],
            up: true,
            back_at: 0,
            able: true,
            place: Some(0),
        };
        World {
            now_s: 0,
            cluster: ClusterId(Uuid::from_u128(u128::from(seed))),
            nodes: (0..count).map(node).collect(),
            side: vec![0; count],
            loss: 0.0,
            rng,
            moves: 0,
            trace: traced.then(Vec::new),
        }
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>7} s  {}", self.now_s, text()));
        }
    }

    fn run(&mut self, seconds: u64) {
        let until = self.now_s + seconds;
        while self.now_s < until {
            self.now_s += TICK_S;
            for number in 0..self.nodes.len() {
                let node = &mut self.nodes[number];
                if !node.up && self.now_s >= node.back_at {
                    node.up = true;
                    node.vacancy = Vacancy::default();
                    node.heard.fill(None);
                    node.wish = None;
                }
                if self.nodes[number].up {
                    self.turn(number);
                }
            }
            self.talk();
        }
    }

    /// Every node says something to every other; each message may be lost. Records are pulled
    /// from one of them.
    fn talk(&mut self) {
        let count = self.nodes.len();
        for from in 0..count {
            for to in 0..count {
                if from != to && self.arrives(from, to) {
                    self.nodes[to].heard[from] = Some(self.now_s);
                }
            }
            let to = self.rng.random_range(0..count);
            if to != from && self.arrives(from, to) && self.arrives(to, from) {
                self.exchange(from, to);
            }
        }
    }

    fn arrives(&mut self, from: usize, to: usize) -> bool {
        let joined = self.side[from] == self.side[to];
        joined && self.nodes[from].up && self.nodes[to].up && !self.rng.random_bool(self.loss)
    }

    fn exchange(&mut self, one: usize, other: usize) {
        for about in 0..self.nodes.len() {
            let words = [one, other].map(|n| self.nodes[n].disk.words[about]);
            let newest = if words[0].version >= words[1].version {
                words[0]
            } else {
                words[1]
            };
            for reader in [one, other] {
                if reader != about {
                    self.nodes[reader].disk.words[about] = newest;
                }
            }
        }
    }

    fn members(&self, reader: usize) -> Vec<Member> {
        let node = &self.nodes[reader];
        let view = |(number, word): (usize, &Word)| {
            let heard = node.heard[number].is_some_and(|at| self.now_s - at < SILENT_S);
            Member {
                node: id(number),
                reachable: heard || number == reader,
                able: if number == reader {
                    node.able
                } else {
                    word.able
                },
                place: self.nodes[number].place,
                claim: word.claim,
                wish: if number == reader {
                    node.wish
                } else {
                    word.wish
                },
            }
        };
        node.disk.words.iter().enumerate().map(view).collect()
    }

    fn turn(&mut self, number: usize) {
        let members = self.members(number);
        let inputs = Inputs {
            now: Mono(self.now_s * 1_000),
            me: id(number),
            cluster: self.cluster,
            hand_over: Duration::from_secs(HAND_OVER_S),
            members: &members,
        };
        let node = &mut self.nodes[number];
        let verdict = decide(&inputs, &node.disk.standing, &mut node.vacancy);
        let heard = highest(&inputs, &node.disk.standing);
        let now = Wall(i64::try_from(self.now_s).unwrap_or(i64::MAX));
        node.disk.standing = settle(&node.disk.standing, verdict, heard, now);
        if let Some(claim) = &mut node.disk.standing.claim {
            // A full backup takes a minute here.
            claim.covered |= now.0 - claim.since.0 > 60;
        }
        let standing = node.disk.standing.clone();
        let word = &mut node.disk.words[number];
        let next = Word {
            version: word.version,
            able: node.able,
            claim: standing.claim,
            wish: node.wish,
        };
        let changed = (word.able, word.claim, word.wish) != (next.able, next.claim, next.wish);
        *word = Word {
            version: word.version + u64::from(changed || word.version == 0),
            ..next
        };
        if matches!(verdict, Verdict::Take { .. }) {
            self.moves += 1;
        }
        if verdict != Verdict::Stay {
            self.note(|| format!("node {number}: {verdict:?}"));
        }
    }

    fn restart(&mut self, number: usize, seconds: u64) {
        self.note(|| format!("node {number} restarts, {seconds} s"));
        self.nodes[number].up = false;
        self.nodes[number].back_at = self.now_s + seconds;
    }

    fn owners(&self, side: usize) -> Vec<usize> {
        let here = |n: &usize| self.side[*n] == side && self.nodes[*n].up;
        let claims = |n: &usize| self.nodes[*n].disk.standing.claim.is_some();
        (0..self.nodes.len()).filter(here).filter(claims).collect()
    }

    fn candidates(&self, side: usize) -> usize {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter(|(n, node)| self.side[*n] == side && node.up && node.able)
            .filter(|(_, node)| node.place.is_some())
            .count()
    }

    /// One owner on each side that has a candidate.
    fn settled(&self) -> Result<(), String> {
        let mut sides = self.side.clone();
        sides.sort_unstable();
        sides.dedup();
        for side in sides {
            let (owners, candidates) = (self.owners(side), self.candidates(side));
            if owners.len() > 1 || (owners.is_empty() && candidates > 0) {
                return Err(format!(
                    "at {} s side {side} with {candidates} candidates is owned by {owners:?}",
                    self.now_s
                ));
            }
        }
        Ok(())
    }

    fn part(&mut self) {
        let sides = self.rng.random_range(1..=3);
        for number in 0..self.side.len() {
            self.side[number] = self.rng.random_range(0..sides);
        }
        let side = self.side.clone();
        self.note(|| format!("sides {side:?}"));
    }
}

/// Partitions, nodes that come and go for long, nodes that become unable, excluded ones, and an
/// operator who moves the ownership.
fn troubles(seed: u64, traced: bool) -> Run {
    let mut world = World::new(seed, traced);
    let mut tally = Tally::new();
    let verdict = unfold(&mut world, &mut tally);
    tally.insert("moves", world.moves);
    Run {
        verdict,
        trace: world.trace.take().unwrap_or_default(),
        tally,
    }
}

fn unfold(world: &mut World, tally: &mut Tally) -> Result<(), String> {
    let count = world.nodes.len();
    world.loss = world.rng.random_range(0.0..0.2);
    if world.rng.random_bool(0.3) {
        let excluded = world.rng.random_range(0..count);
        world.nodes[excluded].place = None;
    }
    world.run(SETTLED_S);
    world.settled()?;
    for _ in 0..4 {
        world.part();
        let victim = world.rng.random_range(0..count);
        match world.rng.random_range(0..4) {
            0 => {
                let seconds = world.rng.random_range(10..3_000);
                world.restart(victim, seconds);
            }
            1 => world.nodes[victim].able ^= true,
            _ => {}
        }
        let middle = world.rng.random_range(0..SETTLED_S);
        world.run(middle);
        world.run(3_000 + SETTLED_S - middle);
        world.settled()?;
        let owners: usize = (0..3).map(|side| world.owners(side).len()).sum();
        *tally.entry("two owners").or_default() += u64::from(owners > 1);
        world.side.fill(0);
        world.note(|| "healed".to_owned());
        world.run(HEARD_S);
        let owners = world.owners(0);
        if owners.len() > 1 {
            return Err(format!(
                "{HEARD_S} s after the heal it is owned by {owners:?}"
            ));
        }
        // With nobody able there may have been none.
        world.run(SETTLED_S);
        world.settled()?;
        wished(world, tally)?;
    }
    Ok(())
}

/// An operator asks any node to have another own the backups.
fn wished(world: &mut World, tally: &mut Tally) -> Result<(), String> {
    let count = world.nodes.len();
    let (asked, target) = (
        world.rng.random_range(0..count),
        world.rng.random_range(0..count),
    );
    let node = &world.nodes[target];
    if !node.able || node.place.is_none() {
        return Ok(());
    }
    let members = world.members(asked);
    let inputs = Inputs {
        now: Mono(0),
        me: id(asked),
        cluster: world.cluster,
        hand_over: Duration::from_secs(HAND_OVER_S),
        members: &members,
    };
    let epoch = highest(&inputs, &world.nodes[asked].disk.standing) + 1;
    world.nodes[asked].wish = Some(Wish {
        target: id(target),
        epoch,
    });
    world.note(|| format!("node {asked} is told: move to {target}"));
    world.run(HEARD_S);
    let owners = world.owners(0);
    if owners != [target] {
        return Err(format!("asked for node {target}, owned by {owners:?}"));
    }
    *tally.entry("wished").or_default() += 1;
    Ok(())
}

#[test]
fn each_side_of_a_partition_has_one_owner_and_the_whole_mesh_one() {
    let tally = try_all(
        "each_side_of_a_partition_has_one_owner_and_the_whole_mesh_one",
        &[],
        2_000,
        troubles,
    );
    if std::env::var_os("SEED").is_none() {
        for what in ["two owners", "wished"] {
            assert!(tally.get(what).is_some_and(|n| *n > 0), "never {what}");
        }
    }
}

/// A day with loss and restarts that are shorter than the hand-over.
fn day(seed: u64, traced: bool) -> Run {
    let mut world = World::new(seed, traced);
    world.loss = world.rng.random_range(0.0..0.25);
    world.run(SETTLED_S);
    let first = world.moves;
    let mut verdict = world.settled();
    let mut restarts = 0;
    while world.now_s < DAY_S && verdict.is_ok() {
        let pause = world.rng.random_range(60..3_600);
        world.run(pause);
        let victim = world.rng.random_range(0..world.nodes.len());
        let seconds = world.rng.random_range(2..HAND_OVER_S - 60);
        if world.nodes[victim].up {
            world.restart(victim, seconds);
            restarts += 1;
        }
    }
    if verdict.is_ok() && world.moves != first {
        verdict = Err(format!(
            "the ownership moved {} times in a day",
            world.moves - first
        ));
    }
    Run {
        verdict,
        trace: world.trace.take().unwrap_or_default(),
        tally: Tally::from([
            ("days", 1),
            ("restarts", restarts),
            ("moves", world.moves - first),
        ]),
    }
}

#[test]
fn loss_and_restarts_move_nothing() {
    try_all("loss_and_restarts_move_nothing", &[], 200, day);
}
