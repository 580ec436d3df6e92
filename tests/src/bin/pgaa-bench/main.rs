//! `make bench`: what the agent costs and gains, all measured in one run on one machine.
//!
//! Formation and overhead are ratios of two things that were measured side by side; absolute
//! numbers stand beside their goals. Must not decide whether anything passed: machines differ.

mod cpu;
mod formation;
mod join;
mod overhead;
mod rest;
mod script;

use anyhow::Result;
use pgaa_tests::scenario::play;
use std::process::ExitCode;
use std::time::Duration;

/// How long anything here may take before it counts as broken.
const NEVER: Duration = Duration::from_secs(120);

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
    for count in [3, 5] {
        formation::compare(count)?;
    }
    join::admission()?;
    join::compare_copies()?;
    join::crossed()?;
    play(3, |cluster| {
        cluster.await_assembly(NEVER)?;
        rest::measure(cluster)?;
        overhead::measure(cluster)
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
