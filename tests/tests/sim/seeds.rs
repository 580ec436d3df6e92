//! Runs one experiment over many seeds on two threads, and prints how to repeat what failed.

use std::collections::BTreeMap;
use std::env;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// How often each thing worth knowing happened, over all seeds.
pub type Tally = BTreeMap<&'static str, u64>;

/// What one run has to say.
pub struct Run {
    /// What was wrong, if anything.
    pub verdict: Result<(), String>,
    /// What happened, line by line, when it was recorded.
    pub trace: Vec<String>,
    /// What is worth counting.
    pub tally: Tally,
}

/// Threads: the machines that build this have two cores.
const THREADS: usize = 2;
/// So many failures are printed.
const SHOWN: usize = 12;

/// What `SEEDS` counts in: an experiment that plays fewer by default plays fewer always.
const USUAL: u64 = 2_000;

/// Runs `experiment(seed, traced)` for the kept seeds and then for `SEEDS` more (`many` of them
/// by default, which stand for [`USUAL`]), or for the one that `SEED` names. Panics when one fails.
pub fn try_all(
    test: &str,
    kept: &[u64],
    many: u64,
    experiment: impl Fn(u64, bool) -> Run + Sync,
) -> Tally {
    let number = |name: &str| {
        env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    if let Some(seed) = number("SEED") {
        return replay(seed, experiment);
    }
    let seeds = number("SEEDS").map_or(many, |seeds| (seeds * many / USUAL).max(1));
    let total = seeds + kept.len() as u64;
    let next = AtomicU64::new(0);
    let seed_of = |i: u64| match usize::try_from(i).ok().and_then(|i| kept.get(i)) {
        Some(seed) => *seed,
        None => i - kept.len() as u64,
    };
    let work = || {
        let mut failed = Vec::new();
        let mut tally = Tally::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= total {
                return (failed, tally);
            }
            let run = experiment(seed_of(i), false);
            for (what, count) in run.tally {
                *tally.entry(what).or_default() += count;
            }
            if let Err(wrong) = run.verdict {
                failed.push((seed_of(i), wrong));
            }
        }
    };
    let (mut failed, mut tally) = (Vec::new(), Tally::new());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let (more, counts) = worker.join().expect("a run panicked");
            failed.extend(more);
            for (what, count) in counts {
                *tally.entry(what).or_default() += count;
            }
        }
    });
    println!("{test}: {total} seeds, {tally:#?}");
    failed.sort();
    if let Some((seed, _)) = failed.first() {
        let shown: String = failed
            .iter()
            .take(SHOWN)
            .map(|(seed, wrong)| format!("  {seed}: {wrong}\n"))
            .collect();
        panic!(
            "{} of {total} seeds failed:\n{shown}replay with:\n  SEED={seed} cargo test -p \
             pgaa-tests --test sim {test} -- --nocapture",
            failed.len()
        );
    }
    tally
}

fn replay(seed: u64, experiment: impl Fn(u64, bool) -> Run) -> Tally {
    let run = experiment(seed, true);
    for line in &run.trace {
        println!("{line}");
    }
    if let Err(wrong) = run.verdict {
        panic!("seed {seed}: {wrong}");
    }
    run.tally
}
