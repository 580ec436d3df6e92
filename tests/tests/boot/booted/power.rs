//! Machines that go and come back: in order, by a power cut, all at once, and by standing still.

use super::{make_table, starts_of_postgres, visit};
use crate::machine::Machine;
use crate::seconds;
use crate::yard::play;
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
