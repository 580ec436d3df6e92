//! `make bench`: what the agent costs and gains, all measured in one run on one machine.
//!
//! Formation and overhead are ratios of two things that were measured side by side; absolute
//! numbers stand beside their goals. `pgaa-bench formation`, `join`, `verify`, `conflicts`,
//! `rest` and `overhead` measure a part alone; `admission`, `copy`, `pause` and `crossed` those
//! of `join`. Must not decide whether anything passed: machines differ.

mod conflicts;
mod cpu;
mod formation;
mod join;
mod overhead;
mod pause;
mod rest;
mod script;
mod verify;

use anyhow::{Result, bail};
use pgaa_tests::scenario::play;
use pgaa_tests::stale::be_alone;
use std::process::ExitCode;
use std::time::Duration;

/// How long anything here may take before it counts as broken.
const NEVER: Duration = Duration::from_secs(120);

/// Measures something, and reports it.
type Measure = fn() -> Result<()>;

/// What can be measured alone.
const PARTS: [&str; 10] = [
    "formation",
    "join",
    "admission",
    "copy",
    "pause",
    "crossed",
    "verify",
    "conflicts",
    "rest",
    "overhead",
];

fn main() -> ExitCode {
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = asked.iter().find(|part| !PARTS.contains(&part.as_str())) {
        bail!("{unknown:?} is none of {}", PARTS.join(", "));
    }
    be_alone()?;
    let wanted = |part: &str| asked.is_empty() || asked.iter().any(|name| name == part);
    if wanted("formation") {
        formation::compare(3)?;
        formation::compare(5)?;
    }
    let joins: [(&str, Measure); 4] = [
        ("admission", join::admission),
        ("copy", join::compare_copies),
        ("pause", pause::measure),
        ("crossed", join::crossed),
    ];
    for (part, measure) in joins {
        if wanted("join") || wanted(part) {
            measure()?;
        }
    }
    if wanted("verify") {
        verify::compare()?;
    }
    if wanted("conflicts") {
        conflicts::measure()?;
    }
    if !wanted("rest") && !wanted("overhead") {
        return Ok(());
    }
    play(3, |cluster| {
        cluster.await_assembly(NEVER)?;
        if wanted("rest") {
            rest::measure(cluster)?;
        }
        if wanted("overhead") {
            overhead::measure(cluster)?;
        }
        Ok(())
    })
}

/// One line of the result.
fn report(what: &str, value: &str, goal: &str) {
    println!("{what:<52} {value:>24}   goal {goal}");
}

/// The middle value; of an even number of values the upper one of the two in the middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
