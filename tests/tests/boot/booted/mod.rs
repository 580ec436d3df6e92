//! The scenarios: what a person does to machines, and what has to come of it.

mod assembly;
mod copies;
mod growth;
mod minors;
mod package;
mod power;
mod provisioning;
mod resources;
mod timekeeping;
mod trouble;

use crate::machine::Machine;
use crate::yard::Yard;
use anyhow::{Result, ensure};

/// Makes a table on every machine and waits until all replicate it.
fn make_table(yard: &Yard, among: &[&Machine]) -> Result<()> {
    for machine in among {
        machine.sql("create table visit (who text primary key, at timestamptz default now())")?;
    }
    yard.eventually(crate::seconds(30), "the table is replicated", || {
        among.iter().try_for_each(|machine| {
            let tables = machine.status()?.tables;
            ensure!(
                tables.replicated.iter().any(|name| name == "public.visit"),
                "{}: {:?}",
                machine.name(),
                tables.waiting
            );
            Ok(())
        })
    })
    .map(drop)
}

/// Writes a row on each machine, named after it and the occasion, and waits until all have all.
fn visit(yard: &Yard, among: &[&Machine], occasion: &str) -> Result<()> {
    for machine in among {
        let who = format!("{occasion}, {}", machine.name());
        machine.sql(&format!("insert into visit (who) values ('{who}')"))?;
    }
    let query = format!("select count(*) from visit where who like '{occasion},%'");
    yard.await_answer(among, &query, &among.len().to_string())
        .map(drop)
}

/// A row about every 10 ms, until the unit `load` is stopped.
fn begin_load(machine: &Machine) -> Result<()> {
    let script = format!(
        "n=0; while :; do n=$((n + 1)); echo \"insert into visit values ('load of {} $n');\"; \
         sleep 0.01; done | psql --quiet shop",
        machine.name()
    );
    let arguments = [
        "--quiet",
        "--unit=load",
        "--uid=postgres",
        "sh",
        "-c",
        &script,
    ];
    machine.run("systemd-run", &arguments).map(drop)
}

/// Ends it on these machines.
fn end_load(among: &[&Machine]) -> Result<()> {
    among
        .iter()
        .try_for_each(|machine| machine.run("systemctl", &["stop", "load"]).map(drop))
}

/// All hold what was written meanwhile; what the last one holds of its own is still on its way.
fn all_hold_the_load(yard: &Yard, among: &[&Machine]) -> Result<()> {
    let written = "select count(*) from visit where who like 'load of %'";
    yard.eventually(crate::seconds(30), "all hold what was written", || {
        let counts: Vec<String> = among
            .iter()
            .map(|machine| machine.sql(written))
            .collect::<Result<_>>()?;
        let enough = counts[0].parse::<u32>()? > 300;
        ensure!(
            enough && counts.iter().all(|count| *count == counts[0]),
            "{counts:?}"
        );
        Ok(())
    })
    .map(drop)
}

/// No unit of the machine has failed, and everything that belongs to a boot is done.
fn is_sound(machine: &Machine) -> Result<()> {
    let state = machine.try_run("systemctl", &["is-system-running"])?;
    let state = crate::machine::words(&state.stdout);
    let failed = machine.run("systemctl", &["--no-legend", "--plain", "--failed"])?;
    ensure!(
        state == "running",
        "{} is {state}: {failed}",
        machine.name()
    );
    Ok(())
}

/// What PostgreSQL says when it is up.
const READY_TO_ACCEPT: &str = "database system is ready to accept connections";

/// Everything PostgreSQL has logged on this machine.
fn log_of_postgres(machine: &Machine) -> Result<String> {
    // Before its collector runs, and after that.
    let all = "find /var/log/postgresql -name '*.log' -exec cat {} +";
    machine.run("sh", &["-c", all])
}

/// How often PostgreSQL has taken up work on this machine, over all its boots.
fn starts_of_postgres(machine: &Machine) -> Result<usize> {
    let log = log_of_postgres(machine)?;
    let starts = log.lines().filter(|line| line.contains(READY_TO_ACCEPT));
    Ok(starts.count())
}
