//! Machines from one image with one and the same user-data become a mesh, with nobody typing
//! anything; and the service is what systemd expects of one.

use super::{READY_TO_ACCEPT, is_sound, log_of_postgres, make_table, starts_of_postgres, visit};
use crate::machine::{Machine, words};
use crate::seconds;
use crate::yard::{Yard, alone, filled, play, play_with};
use anyhow::{Context, Result, ensure};
use pgaa_tests::workload::token;

#[test]
fn three_machines_become_one_mesh() -> Result<()> {
    play(3, |yard| {
        yard.switch_on()?;
        let all: Vec<&Machine> = yard.machines().iter().collect();
        yard.await_mesh(seconds(120), &all)?;
        let clusters: Vec<String> = all.iter().map(|m| cluster_of(m)).collect::<Result<_>>()?;
        ensure!(
            clusters.iter().all(|id| *id == clusters[0]),
            "there is more than one cluster: {clusters:?}"
        );
        make_table(yard, &all)?;
        visit(yard, &all, "first")?;
        yard.eventually(seconds(60), "every boot is done, no unit failed", || {
            all.iter().try_for_each(|machine| is_sound(machine))
        })?;
        for machine in &all {
            tells_its_times(machine)?;
            ensure!(
                starts_of_postgres(machine)? == 1,
                "PostgreSQL was started more than once"
            );
            tells_its_story(machine)?;
        }
        Ok(())
    })
}

/// On a mesh of one: nothing here needs another machine. Its token is no file but a credential,
/// which keeps it out of the user-data.
#[test]
fn the_service_is_what_systemd_expects_of_one() -> Result<()> {
    let without_token = alone(&filled("user-data-credential")?);
    play_with(1, without_token, |yard| {
        let [machine] = yard.each()?;
        machine.hand_over("pgaa.token", &token(1));
        yard.switch_on()?;
        yard.await_mesh(seconds(120), &[machine])?;
        // The mesh is there before systemd has seen that PostgreSQL is.
        yard.eventually(seconds(60), "the boot is done", || is_sound(machine))?;
        hardened(machine)?;
        read_socket_is_for_its_group(machine)?;
        a_killed_server_comes_back(yard, machine)?;
        a_hung_agent_is_replaced(yard, machine)?;
        yard.await_mesh(seconds(30), &[machine])?;
        only_what_is_no_node_is_sealed(machine)
    })
}

fn cluster_of(machine: &Machine) -> Result<String> {
    let cluster = machine.status()?.cluster.context("no cluster")?;
    Ok(cluster.id.to_string())
}

/// Prints how long it took from power on, and from PostgreSQL's first connection, until the node
/// was ready, by the machine's own clock.
fn tells_its_times(machine: &Machine) -> Result<()> {
    let first = machine.shell("journalctl --boot --quiet --output=json | head -n1")?;
    let on_ms = realtime_ms(&serde_json::from_str(&first)?)?;
    let entries = machine.journal(&["--unit=pgaa-agent", "EVENT=state_changed"])?;
    let ready = entries
        .iter()
        .find(|entry| entry["MESSAGE"] == "joining -> ready");
    let ready_ms = realtime_ms(ready.context("nothing says that the node became ready")?)?;
    let accepts_ms = accepts_ms(machine)?;
    eprintln!(
        "{:>7} ms from power on to ready, {} ms since PostgreSQL took connections: {}",
        ready_ms - on_ms,
        ready_ms - accepts_ms,
        machine.name()
    );
    Ok(())
}

fn realtime_ms(entry: &serde_json::Value) -> Result<i64> {
    let text = entry["__REALTIME_TIMESTAMP"].as_str();
    let micros: i64 = text.context("an entry without a time")?.parse()?;
    Ok(micros / 1000)
}

/// When PostgreSQL took connections, by its log, Unix time.
fn accepts_ms(machine: &Machine) -> Result<i64> {
    let log = log_of_postgres(machine)?;
    let line = log.lines().find(|line| line.contains(READY_TO_ACCEPT));
    // "2026-11-21 13:38:13.512 UTC [147] LOG: ..."
    let time = line.and_then(|line| line.get(..27));
    let time = time.context("PostgreSQL's log has no start")?;
    let said = machine.run("date", &["+%s%3N", "--date", time])?;
    Ok(said.parse()?)
}

/// `systemctl status` says how things are, and the journal how they came about, in fields that
/// programs can ask for.
fn tells_its_story(machine: &Machine) -> Result<()> {
    let status = machine.run("systemctl", &["status", "--no-pager", "pgaa-agent"])?;
    let line = "Status: \"ready; 3 of 3 members ready\"";
    ensure!(status.contains(line), "{}:\n{status}", machine.name());
    ensure!(machine.property("pgaa-agent", "NRestarts")? == "0");
    let entries = machine.journal(&["--unit=pgaa-agent", "EVENT=state_changed"])?;
    let told: Vec<&str> = entries
        .iter()
        .filter_map(|entry| entry["MESSAGE"].as_str())
        .collect();
    // Who starts first, the agent or PostgreSQL, is a race that systemd leaves open: an agent that
    // finds the server there passes over `booting`.
    let waited = told.contains(&"started -> booting") && told.contains(&"booting -> configuring");
    let found_it = told.contains(&"started -> configuring");
    ensure!(waited || found_it, "{}: {told:?}", machine.name());
    let ready = told.contains(&"joining -> ready");
    ensure!(ready, "{}: {told:?}", machine.name());
    for entry in &entries {
        ensure!(entry["PGAA_NODE"] == machine.name(), "{entry}");
        ensure!(
            entry["TARGET"]
                .as_str()
                .is_some_and(|t| t.starts_with("pgaa_agent"))
        );
    }
    Ok(())
}

/// The exposure that `systemd-analyze security` counts stays below 2.5.
fn hardened(machine: &Machine) -> Result<()> {
    let arguments = [
        "security",
        "--no-pager",
        "--threshold=25",
        "pgaa-agent.service",
    ];
    let said = machine.run("systemd-analyze", &arguments)?;
    eprintln!(
        "           {}",
        said.lines().last().unwrap_or_default().trim()
    );
    Ok(())
}

/// Members of the group may read and nothing else; others may not even read.
fn read_socket_is_for_its_group(machine: &Machine) -> Result<()> {
    machine.run("useradd", &["--groups=pgaa", "reader"])?;
    machine.run("useradd", &["stranger"])?;
    let ask = |user: &str, arguments: &[&str]| machine.try_run_as(user, "pgaa-agent", arguments);
    let told = ask("reader", &["status"])?;
    ensure!(matches!(told.status.code(), Some(0 | 1)), "{told:?}");
    ensure!(
        words(&told.stdout).contains("1 of 1 nodes ready"),
        "{told:?}"
    );
    for act in [&["token", "create"][..], &["leave"], &["restart"]] {
        let refused = ask("reader", act)?;
        ensure!(refused.status.code() == Some(77), "{act:?}: {refused:?}");
        let why = words(&refused.stderr);
        ensure!(
            why.contains("read.sock only tells") && why.contains("sudo"),
            "{why}"
        );
    }
    let refused = ask("stranger", &["status"])?;
    ensure!(refused.status.code() == Some(77), "{refused:?}");
    let why = words(&refused.stderr);
    ensure!(why.contains("adduser $USER pgaa"), "{why}");
    Ok(())
}

/// Debian's unit alone would leave a postmaster that was killed where it is. One that its owner
/// has stopped stays down: he may be restoring a backup.
fn a_killed_server_comes_back(yard: &Yard, machine: &Machine) -> Result<()> {
    let unit = "postgresql@15-main";
    let arguments = ["kill", "--kill-who=main", "--signal=KILL", unit];
    machine.run("systemctl", &arguments)?;
    yard.eventually(seconds(30), "the killed server is back", || {
        let starts = starts_of_postgres(machine)?;
        ensure!(starts == 2, "{starts} starts");
        is_sound(machine)
    })?;
    yard.await_mesh(seconds(30), &[machine])?;
    let stop = ["--skip-systemctl-redirect", "15", "main", "stop"];
    machine.try_run_as("postgres", "pg_ctlcluster", &stop)?;
    yard.eventually(seconds(30), "the stopped server was looked at", || {
        let looked = machine.journal(&["--unit=pgaa-crashed@15-main", "JOB_RESULT=done"])?;
        ensure!(looked.len() == 2, "{} times", looked.len());
        Ok(())
    })?;
    let state = machine.property(unit, "ActiveState")?;
    ensure!(state == "failed", "it is {state}");
    ensure!(
        starts_of_postgres(machine)? == 2,
        "it was started all the same"
    );
    machine.run("systemctl", &["start", unit])?;
    yard.await_mesh(seconds(30), &[machine])?;
    let agent = machine.property("pgaa-agent", "NRestarts")?;
    ensure!(agent == "0", "the agent went with it");
    Ok(())
}

/// An agent that hangs is noticed by its silence and replaced; PostgreSQL goes on meanwhile.
fn a_hung_agent_is_replaced(yard: &Yard, machine: &Machine) -> Result<()> {
    let starts = starts_of_postgres(machine)?;
    ensure!(machine.property("pgaa-agent", "WatchdogUSec")? == "30s");
    let petted = || machine.property("pgaa-agent", "WatchdogTimestampMonotonic");
    let before = petted()?;
    yard.eventually(seconds(10), "the watchdog is petted", || {
        ensure!(petted()? != before, "not since {before}");
        Ok(())
    })?;
    machine.run("systemctl", &["kill", "--signal=STOP", "pgaa-agent"])?;
    yard.eventually(seconds(60), "the hung agent was replaced", || {
        let restarts = machine.property("pgaa-agent", "NRestarts")?;
        ensure!(restarts == "1", "{restarts} restarts");
        Ok(())
    })?;
    ensure!(
        starts_of_postgres(machine)? == starts,
        "PostgreSQL was restarted with it"
    );
    Ok(())
}

/// `cloud-init clean` prepares an image. A live node keeps its identity; afterwards everything
/// goes that belongs to one machine, but for the database, which is named.
fn only_what_is_no_node_is_sealed(machine: &Machine) -> Result<()> {
    let cleaned = machine.try_run("cloud-init", &["clean"])?;
    let said = words(&cleaned.stderr) + &words(&cleaned.stdout);
    ensure!(!cleaned.status.success(), "{said}");
    machine.shell("test -e /var/lib/pgaa/node.json; systemctl stop pgaa-agent")?;
    let cleaned = machine.try_run("cloud-init", &["clean"])?;
    ensure!(!cleaned.status.success(), "it is silent about the cluster");
    machine.shell("test ! -e /var/lib/pgaa/node.json; test ! -s /etc/machine-id")?;
    let checked = machine.try_run("pgaa-agent", &["image", "check"])?;
    let said = words(&checked.stderr);
    ensure!(checked.status.code() == Some(1), "{said}");
    ensure!(said.contains("pg_dropcluster --stop 15 main"), "{said}");
    machine
        .shell("pg_dropcluster --stop 15 main; pgaa-agent image check")
        .map(drop)
}
