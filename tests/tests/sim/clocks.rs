//! Clocks that are measured over lopsided, jittery and lossy lines: the true offset always lies
//! inside the reported interval, and nobody is called odd whose clock agrees.

use crate::seeds::{Run, Tally, try_all};
use pgaa_core::clock::consensus::{Rated, consensus};
use pgaa_core::clock::interval::Interval;
use pgaa_core::clock::pair::{DRIFT_PPM, Exchange, Instants, Taken, Window};
use pgaa_core::ids::NodeId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::f64::consts::TAU;
use uuid::Uuid;

/// How long one run lasts, and how often each measures the other, seconds.
const LASTS_S: f64 = 600.0;
const PERIOD_S: f64 = 5.0;

/// What one machine's clocks do. Time is true time, seconds.
struct Machine {
    /// Where the raw clock began, and by how much it runs wrong; it wavers, too.
    start_s: f64,
    rate: f64,
    wavering: (f64, f64),
    /// The raw clock jumps at this time by so much: a restart, a pause.
    jump: Option<(f64, f64)>,
    /// The wall clock is ahead of the raw one by the sum of all (from, by, slewed within).
    set: Vec<(f64, f64, f64)>,
}

impl Machine {
    fn new(rng: &mut StdRng) -> Machine {
        // Together they stay within what the core allows two clocks.
        let limit = DRIFT_PPM as f64 / 2.0 * 1e-6;
        let wavers = rng.random_range(0.0..limit / 2.0);
        let period = rng.random_range(20.0..500.0);
        let mut set = vec![(0.0, rng.random_range(1e6..2e9), 0.0)];
        for _ in 0..rng.random_range(0..4) {
            let within = if rng.random_bool(0.5) {
                0.0
            } else {
                rng.random_range(1.0..60.0)
            };
            let by = rng.random_range(-6.0..6.0) * if within > 0.0 { 0.05 } else { 1.0 };
            set.push((rng.random_range(0.0..LASTS_S), by, within));
        }
        let jump = rng.random_bool(0.2).then(|| {
            let by = rng.random_range(2.0..1e5) * if rng.random_bool(0.5) { 1.0 } else { -1.0 };
            (rng.random_range(0.0..LASTS_S), by)
        });
        Machine {
            start_s: rng.random_range(0.0..1e7),
            rate: rng.random_range(-limit / 2.0..limit / 2.0),
            wavering: (wavers, period),
            jump,
            set,
        }
    }

    fn raw_s(&self, at: f64) -> f64 {
        let (wavers, period) = self.wavering;
        let wavered = wavers * period / TAU * (TAU * at / period).sin();
        let jumped = self
            .jump
            .filter(|(from, _)| at >= *from)
            .map_or(0.0, |(_, by)| by);
        self.start_s + at * (1.0 + self.rate) + wavered + jumped
    }

    fn ahead_s(&self, at: f64) -> f64 {
        let share = |(from, _, within): &(f64, f64, f64)| match at - from {
            passed if passed < 0.0 => 0.0,
            passed if passed < *within => passed / within,
            _ => 1.0,
        };
        self.set.iter().map(|set| share(set) * set.1).sum()
    }

    /// What the agent reads: whole microseconds, the wall clock somewhat wrong.
    fn read(&self, at: f64, rng: &mut StdRng) -> Instants {
        let error_us = rng.random_range(2..40);
        let wrong = rng.random_range(-1.0..1.0) * f64::from(error_us - 1);
        Instants {
            raw_us: (self.raw_s(at) * 1e6).floor() as i64,
            ahead_us: (self.ahead_s(at) * 1e6 + wrong).round() as i64,
            error_us,
        }
    }
}

/// One direction of a line.
struct Way {
    base_s: f64,
    jitter_s: f64,
    loss: f64,
}

impl Way {
    fn new(rng: &mut StdRng) -> Way {
        Way {
            base_s: 10f64.powf(rng.random_range(-4.5..-1.0)),
            jitter_s: 10f64.powf(rng.random_range(-5.0..-0.5)),
            loss: rng.random_range(0.0..0.4),
        }
    }

    /// How long a message takes; `None` when it is lost.
    fn pass(&self, rng: &mut StdRng) -> Option<f64> {
        let jitter = -self.jitter_s * rng.random_range(1e-9..1.0f64).ln();
        (!rng.random_bool(self.loss)).then_some(self.base_s + jitter)
    }
}

struct Line {
    us: Machine,
    them: Machine,
    there: Way,
    back: Way,
    window: Window,
    /// When the other last answered: its wall clock is known as it was then.
    answered: f64,
    /// (when, round trip) of what can be in the window.
    trips: Vec<(f64, f64)>,
    tally: Tally,
}

impl Line {
    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// One exchange, begun at `at`. Returns when it ended.
    fn exchange(&mut self, at: f64, rng: &mut StdRng) -> Result<Option<f64>, String> {
        let (Some(there), Some(back)) = (self.there.pass(rng), self.back.pass(rng)) else {
            self.count("lost");
            return Ok(None);
        };
        let took = rng.random_range(0.000_01..0.002);
        let (received, answered) = (at + there, at + there + took);
        let arrived = answered + back;
        let times = Exchange {
            sent_us: self.us.read(at, rng).raw_us,
            received_us: self.them.read(received, rng).raw_us,
            answered: self.them.read(answered, rng),
            arrived_us: self.us.read(arrived, rng).raw_us,
        };
        let jumps: Vec<f64> = [&self.us, &self.them]
            .iter()
            .filter_map(|machine| machine.jump.map(|(when, _)| when))
            .collect();
        if jumps.iter().any(|jump| (at..=arrived).contains(jump)) {
            // Between the four times everything is possible; what comes of it is dropped, as the
            // agent drops it when it sees its own machine jump.
            self.window.clear();
            self.trips.clear();
            return Ok(None);
        }
        let before = self.trips.last().map_or(at, |(when, _)| *when);
        let jumped = jumps.iter().any(|jump| (before..arrived).contains(jump));
        let taken = self
            .window
            .take(&times)
            .map_err(|bad| format!("at {at}: {bad}"))?;
        match (taken, jumped && !self.trips.is_empty()) {
            (Taken::Fits, false) => {}
            // Our own clock has jumped so far ahead that what it knew was too old at once.
            (Taken::Fits, true) if self.us.jump.is_some_and(|(_, by)| by > 60.0) => {
                self.trips.clear();
            }
            (Taken::Jumped, true) => {
                self.trips.clear();
                self.count("jumped");
            }
            (taken, jumped) => return Err(format!("at {at}: {taken:?}, jumped: {jumped}")),
        }
        self.answered = answered;
        self.trips.push((arrived, there + back));
        self.count("measured");
        Ok(Some(arrived))
    }

    /// Is the truth within the interval, and the interval no wider than it has to be?
    fn check(&mut self, at: f64, rng: &mut StdRng) -> Result<(), String> {
        let own = self.us.read(at, rng);
        let Some(reading) = self.window.reading(own) else {
            return Ok(());
        };
        let truth = self.them.raw_s(at) - self.us.raw_s(at) + self.them.ahead_s(self.answered)
            - self.us.ahead_s(at);
        let truth_us = (truth * 1e6).round() as i64;
        if !reading.interval().contains(truth_us) {
            return Err(format!(
                "at {at}: the truth is {truth_us} us, reported {reading:?}"
            ));
        }
        let drift = DRIFT_PPM as f64 * 1e-6;
        let widths = self
            .trips
            .iter()
            .rev()
            .take(30)
            .filter(|(when, _)| at - when < 110.0)
            .map(|(when, trip)| trip / 2.0 + (at - when) * drift + trip * drift * 2.0);
        // Both readings of the wall clocks, and the rounding.
        let most = widths.fold(f64::INFINITY, f64::min) * 1e6 + 100.0;
        if reading.error_us as f64 > most {
            return Err(format!("at {at}: {reading:?} could be within {most} us"));
        }
        self.count("checked");
        Ok(())
    }
}

fn measure(seed: u64, _traced: bool) -> Run {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut line = Line {
        us: Machine::new(&mut rng),
        them: Machine::new(&mut rng),
        there: Way::new(&mut rng),
        back: Way::new(&mut rng),
        window: Window::default(),
        answered: 0.0,
        trips: Vec::new(),
        tally: Tally::new(),
    };
    let mut verdict = Ok(());
    let mut at = 1.0;
    while at < LASTS_S && verdict.is_ok() {
        verdict = period(&mut line, at, &mut rng);
        at += PERIOD_S;
    }
    Run {
        verdict,
        trace: Vec::new(),
        tally: line.tally,
    }
}

/// A burst, and some looks at what came of it before the next.
fn period(line: &mut Line, at: f64, rng: &mut StdRng) -> Result<(), String> {
    let mut begin = at;
    for _ in 0..2 {
        if let Some(arrived) = line.exchange(begin, rng)? {
            begin = arrived;
            line.check(arrived, rng)?;
        }
    }
    let until = at + PERIOD_S;
    for _ in 0..3 {
        let look = rng.random_range(begin.min(until - 0.001)..until);
        // Between a jump and the next exchange nobody can know; the agent sees its own.
        let since = line.trips.last().map_or(0.0, |(when, _)| *when);
        let jumps = [&line.us, &line.them];
        let unseen = jumps
            .iter()
            .filter_map(|machine| machine.jump)
            .any(|(when, _)| since < when && when <= look);
        if !unseen && look > since {
            line.check(look, rng)?;
        }
    }
    Ok(())
}

#[test]
fn the_true_offset_lies_in_the_interval() {
    let tally = try_all("the_true_offset_lies_in_the_interval", &[], 2_000, measure);
    for what in ["checked", "lost", "jumped"] {
        assert!(tally.contains_key(what), "never {what}: {tally:?}");
    }
}

const TOLERANCE_US: u64 = 50_000;

/// Some clocks agree within 10 ms, less than half are off; each is known give or take something.
fn judge(seed: u64, _traced: bool) -> Run {
    let mut rng = StdRng::seed_from_u64(seed);
    let count: i32 = rng.random_range(2..10);
    let wrong = rng.random_range(0..(count + 1) / 2);
    let mut clocks = BTreeMap::new();
    let (mut must, mut may) = (Vec::new(), Vec::new());
    for number in 0..count {
        let node = NodeId(Uuid::from_u128(rng.random()));
        let error_us: u64 = rng.random_range(0..20_000);
        let mut truth = rng.random_range(-5_000..=5_000);
        if number < wrong {
            truth = rng.random_range(20_000..200_000) * if rng.random_bool(0.5) { 1 } else { -1 };
        }
        // However the error falls out, the truth lies inside.
        let inside = i64::try_from(error_us).unwrap_or(0);
        let seen = truth + rng.random_range(-inside..=inside);
        let rated = Rated {
            at: Interval::around(seen, error_us),
            tolerance_us: TOLERANCE_US,
        };
        clocks.insert(node, rated);
        let far = truth.unsigned_abs();
        if far > TOLERANCE_US + 5_000 + 2 * (error_us + 20_000) {
            must.push(node);
        }
        if far > TOLERANCE_US - 5_000 {
            may.push(node);
        }
    }
    let found = consensus(&clocks);
    let odd = found.odd(&clocks);
    let missed = must.iter().filter(|node| !odd.contains(node)).count();
    let accused = odd.iter().filter(|node| !may.contains(node)).count();
    let majority = found.majority().is_some();
    let verdict = match (missed, accused) {
        (_, accused) if accused > 0 => Err(format!("{accused} of {odd:?} agree: {clocks:?}")),
        (missed, _) if missed > 0 && majority => Err(format!("{missed} not named: {clocks:?}")),
        _ => Ok(()),
    };
    let mut tally = Tally::new();
    tally.insert("odd", odd.len() as u64);
    tally.insert("majorities", u64::from(majority));
    Run {
        verdict,
        trace: Vec::new(),
        tally,
    }
}

#[test]
fn only_clocks_that_differ_are_odd() {
    let tally = try_all("only_clocks_that_differ_are_odd", &[], 20_000, judge);
    assert!(tally.values().all(|count| *count > 1_000), "{tally:?}");
}
