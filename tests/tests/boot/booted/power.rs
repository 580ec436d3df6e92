//! Machines that go and come back: in order, by a power cut, all at once, and by standing still.

use super::{all_hold_the_load, begin_load, end_load, make_table, starts_of_postgres, visit};
use crate::machine::Machine;
use crate::seconds;
use crate::yard::{Yard, play};
use anyhow::{Result, ensure};
use std::thread::sleep;

#[test]
fn machines_come_back_by_themselves() -> Result<()> {
    play(3, |yard| {
        yard.switch_on()?;
        let all: Vec<&Machine> = yard.machines().iter().collect();
        yard.await_mesh(seconds(120), &all)?;
        make_table(yard, &all)?;
        visit(yard, &all, "first")?;
        let [a, b, c] = yard.each()?;

        a.reboot()?;
        visit(yard, &[b, c], "while a reboots")?;
        yard.await_mesh(seconds(120), &all)?;
        visit(yard, &all, "after the reboot")?;

        b.cut_power()?;
        visit(yard, &[a, c], "while b has no power")?;
        b.switch_on()?;
        yard.await_mesh(seconds(120), &all)?;
        visit(yard, &all, "after the power cut")?;

        all.iter().try_for_each(|machine| machine.cut_power())?;
        yard.switch_on()?;
        yard.await_mesh(seconds(120), &all)?;
        visit(yard, &all, "after the black-out")?;

        yard.await_answer(&all, "select count(*) from visit", "16")?;
        for (machine, boots) in [(a, 3), (b, 3), (c, 2)] {
            let starts = starts_of_postgres(machine)?;
            ensure!(
                starts == boots,
                "{}: {starts} starts of PostgreSQL in {boots} boots",
                machine.name()
            );
        }
        Ok(())
    })
}

/// A hypervisor pauses a machine in the middle of replication, for less time than the agent's
/// watchdog allows (30 s): it says so itself, in seconds.
#[test]
fn a_paused_machine_records_it() -> Result<()> {
    play(3, |yard| {
        yard.switch_on()?;
        let all: Vec<&Machine> = yard.machines().iter().collect();
        yard.await_mesh(seconds(120), &all)?;
        make_table(yard, &all)?;
        let [_, _, c] = yard.each()?;
        all.iter().try_for_each(|machine| begin_load(machine))?;
        c.freeze(true)?;
        // The length of the pause is the scenario.
        sleep(seconds(20));
        c.freeze(false)?;
        stood_still(yard, c, 20)?;
        yard.await_mesh(seconds(60), &all)?;
        end_load(&all)?;
        all_hold_the_load(yard, &all)
    })
}

/// Within 5 s its events say that it stood still, for how long.
fn stood_still(yard: &Yard, machine: &Machine, least_s: u64) -> Result<()> {
    yard.eventually(seconds(5), "the pause is recorded", || {
        let events = machine.run("pgaa-agent", &["events", "-o", "json"])?;
        let events = events
            .lines()
            .map(serde_json::from_str::<serde_json::Value>);
        let events: Vec<serde_json::Value> = events.collect::<Result<_, _>>()?;
        let told = events.iter().filter(|event| event["kind"] == "stood_still");
        let told: Vec<&str> = told.filter_map(|event| event["text"].as_str()).collect();
        let lengths = told
            .iter()
            .filter_map(|text| text.split("still for ").nth(1)?.split(' ').next())
            .filter_map(|length| length.parse::<f64>().ok());
        ensure!(
            lengths.fold(0.0, f64::max) >= least_s as f64 - 1.0,
            "{told:?}"
        );
        Ok(())
    })
    .map(drop)
}

/// A hypervisor that pauses a machine. The others go on; what they wrote is there soon after.
#[test]
fn a_machine_that_stood_still_catches_up() -> Result<()> {
    play(3, |yard| {
        yard.switch_on()?;
        let all: Vec<&Machine> = yard.machines().iter().collect();
        yard.await_mesh(seconds(120), &all)?;
        make_table(yard, &all)?;
        let [a, b, c] = yard.each()?;
        c.freeze(true)?;
        visit(yard, &[a, b], "while c stands still")?;
        // The length of the pause is the scenario: longer than gossip's suspicion, PostgreSQL's
        // wal_sender_timeout (60 s) and the agent's watchdog (30 s).
        sleep(seconds(90));
        visit(yard, &[a, b], "after wal_sender_timeout")?;
        c.freeze(false)?;
        yard.await_answer(&all, "select count(*) from visit", "4")?;
        yard.await_mesh(seconds(60), &all)?;
        visit(yard, &all, "afterwards")
    })
}
