//! What a person gets wrong: the unit's state, its exit code, and a message that says what to do.
//! README's table of troubles promises these.

use super::is_sound;
use crate::machine::Machine;
use crate::seconds;
use crate::yard::{Yard, play_with, user_data};
use anyhow::{Context, Result, ensure};

/// The configuration's exit code (EX_CONFIG of sysexits(3)).
const EX_CONFIG: &str = "78";

#[test]
fn every_trouble_is_named() -> Result<()> {
    let slip = user_data()?.replace("expect = 3", "expct = 3");
    play_with(2, slip, |yard| {
        let [a, b] = yard.each()?;
        b.hide("usr/lib/postgresql")?;
        yard.switch_on()?;
        configuration_is_wrong(yard, a)?;
        token_is_missing(yard, a)?;
        port_is_taken(yard, a)?;
        seeds_are_silent(yard, a)?;
        postgres_is_missing(yard, b)
    })
}

/// The unit has failed with this exit code, and its journal says this.
pub(super) fn has_failed(machine: &Machine, unit: &str, code: &str, says: &[&str]) -> Result<()> {
    let state = machine.property(unit, "ActiveState")?;
    ensure!(state == "failed", "{unit} is {state}");
    let status = machine.property(unit, "ExecMainStatus")?;
    ensure!(status == code, "{unit} ended with {status}, not {code}");
    has_said(machine, unit, says)
}

pub(super) fn has_said(machine: &Machine, unit: &str, says: &[&str]) -> Result<()> {
    let arguments = ["--no-pager", "--output=cat", "--boot", "--unit", unit];
    let said = machine.run("journalctl", &arguments)?;
    for words in says {
        ensure!(
            said.contains(words),
            "{unit} does not say {words:?}: {said}"
        );
    }
    Ok(())
}

/// A typing error in the user-data: both units fail with 78, and the message corrects it.
fn configuration_is_wrong(yard: &Yard, machine: &Machine) -> Result<()> {
    let says = ["/etc/pgaa/agent.toml", "cluster.expct", "cluster.expect"];
    yard.eventually(seconds(120), "the wrong configuration is named", || {
        has_failed(machine, "pgaa-provision", EX_CONFIG, &says)?;
        has_failed(machine, "pgaa-agent", EX_CONFIG, &says)
    })?;
    let restarts = machine.property("pgaa-agent", "NRestarts")?;
    ensure!(restarts == "0", "it was tried {restarts} times again");
    Ok(())
}

/// Nothing to prove: the agent fails with 78 and says where the token belongs.
fn token_is_missing(yard: &Yard, machine: &Machine) -> Result<()> {
    machine.shell(
        "sed -i 's/^expct/expect/' /etc/pgaa/agent.toml\n\
         mv /etc/pgaa/token /root/token\n\
         systemctl start --no-block pgaa-agent",
    )?;
    let says = [
        "there is no join token in",
        "/etc/pgaa/token",
        "pgaa-agent token create",
    ];
    yard.eventually(seconds(60), "the missing token is named", || {
        has_failed(machine, "pgaa-agent", EX_CONFIG, &says)
    })?;
    machine.shell("mv /root/token /etc/pgaa/token").map(drop)
}

/// Somebody else has the port: that may pass, so the agent is started again and again.
fn port_is_taken(yard: &Yard, machine: &Machine) -> Result<()> {
    machine.shell("systemd-run --quiet --unit=squatter systemd-socket-activate -l 7432 cat")?;
    machine.shell(
        "until ss -ltnH | grep -q ':7432 '; do sleep 0.1; done\n\
         systemctl start --no-block pgaa-agent",
    )?;
    let says = ["TCP port 7432 of 0.0.0.0 can't be bound", "ss -ltnp"];
    yard.eventually(seconds(60), "the taken port is named", || {
        has_said(machine, "pgaa-agent", &says)?;
        let state = machine.property("pgaa-agent", "ActiveState")?;
        ensure!(state == "activating", "it is {state}");
        let status = machine.property("pgaa-agent", "ExecMainStatus")?;
        ensure!(status == "1", "it ended with {status}");
        Ok(())
    })?;
    machine.shell("systemctl stop squatter").map(drop)
}

/// The two other founders never come: nothing is wrong with the unit, which says who is missing.
/// Everything that had failed was mended without a reboot.
fn seeds_are_silent(yard: &Yard, machine: &Machine) -> Result<()> {
    yard.eventually(seconds(60), "the missing founders are named", || {
        let state = machine.property("pgaa-agent", "ActiveState")?;
        ensure!(state == "active", "it is {state}");
        let line = machine.property("pgaa-agent", "StatusText")?;
        ensure!(line.contains("10.77.0.13"), "{line}");
        let report = machine.status()?;
        let founding = report.founding.context("no founding is told of")?;
        ensure!(founding.missing.len() == 2, "{founding:?}");
        is_sound(machine)
    })?;
    Ok(())
}

/// Without PostgreSQL the provision fails and says what to install; the agent stays to tell.
fn postgres_is_missing(yard: &Yard, machine: &Machine) -> Result<()> {
    machine.shell(
        "sed -i 's/^expct/expect/' /etc/pgaa/agent.toml; systemctl start --no-block pgaa-agent",
    )?;
    let says = ["apt install postgresql-15 postgresql-15-pglogical"];
    yard.eventually(seconds(60), "the missing PostgreSQL is named", || {
        has_failed(machine, "pgaa-provision", "1", &says)?;
        let state = machine.property("pgaa-agent", "ActiveState")?;
        ensure!(state == "active", "the agent is {state}");
        Ok(())
    })?;
    let line = machine.property("pgaa-agent", "StatusText")?;
    ensure!(line.contains("PostgreSQL has not answered yet"), "{line}");
    Ok(())
}
