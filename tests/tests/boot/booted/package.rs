//! The life of the package on a server that was there before: inert without a configuration, a
//! founder with its data afterwards, upgraded, removed; PostgreSQL serves throughout.

use super::{all_hold_the_load, begin_load, end_load, is_sound, make_table, starts_of_postgres};
use crate::image::package;
use crate::machine::Machine;
use crate::seconds;
use crate::yard::{Yard, play, play_with};
use anyhow::{Result, ensure};
use pgaa_core::state::NodeState;
use pgaa_tests::workload::token;
use std::path::Path;

const NEXT_VERSION: &str = "0.1.1";

#[test]
fn an_existing_server_keeps_what_it_has() -> Result<()> {
    play_with(1, "#cloud-config\n{}\n".to_owned(), |yard| {
        let [a] = yard.each()?;
        yard.switch_on()?;
        is_inert(yard, a)?;
        a.shell(
            "pg_createcluster 15 main >/dev/null; systemctl start postgresql@15-main\n\
             cd /; runuser -u postgres -- createdb shop",
        )?;
        a.sql("create table visit (who text primary key); insert into visit values ('old')")?;
        becomes_founder(yard, a)?;
        settings_are_kept_right(a)?;
        let next = package(yard.directory(), NEXT_VERSION)?;
        is_upgraded(yard, a, &next)?;
        is_removed(a)
    })
}

/// One machine after the other gets a newer package while all are written to.
#[test]
fn an_upgrade_under_load_breaks_no_edge() -> Result<()> {
    play(3, |yard| {
        yard.switch_on()?;
        let all: Vec<&Machine> = yard.machines().iter().collect();
        yard.await_mesh(seconds(120), &all)?;
        make_table(yard, &all)?;
        let before: Vec<String> = all.iter().map(|m| senders(m)).collect::<Result<_>>()?;
        all.iter().try_for_each(|machine| begin_load(machine))?;
        let next = package(yard.directory(), NEXT_VERSION)?;
        for machine in &all {
            is_upgraded(yard, machine, &next)?;
        }
        yard.await_mesh(seconds(30), &all)?;
        end_load(&all)?;
        let after: Vec<String> = all.iter().map(|m| senders(m)).collect::<Result<_>>()?;
        ensure!(
            before == after,
            "streams broke off: {before:?}, then {after:?}"
        );
        all_hold_the_load(yard, &all)
    })
}

/// The processes that send to the other nodes: an edge that broke has another one.
fn senders(machine: &Machine) -> Result<String> {
    machine.sql("select string_agg(pid::text, ' ' order by pid) from pg_stat_replication")
}

/// Installed and enabled, and nothing happens.
fn is_inert(yard: &Yard, machine: &Machine) -> Result<()> {
    yard.eventually(seconds(60), "a boot without a configuration", || {
        is_sound(machine)
    })?;
    for unit in ["pgaa-provision", "pgaa-agent"] {
        let enabled = machine.property(unit, "UnitFileState")?;
        let met = machine.property(unit, "ConditionResult")?;
        ensure!(
            enabled == "enabled" && met == "no",
            "{unit} is {enabled}, {met}"
        );
    }
    let asked = machine.try_run("pgaa-agent", &["status"])?;
    ensure!(asked.status.code() == Some(3), "{asked:?}");
    machine
        .shell(
            "test ! -e /var/lib/pgaa/node.json; test ! -e /etc/postgresql/15\n\
             for file in /usr/share/pgaa/*-data*; do cloud-init schema --config-file $file; done\n\
             render() { pgaa-agent cloud-init render --name books --expect 3 --seeds db.example.org \
                 \"$@\" >rendered; cloud-init schema --config-file rendered; \
                 grep -q 'name = \"books\"' rendered; }\n\
             render; grep -q pgaa1 rendered\n\
             render --token-to token; ! grep -q 'pgaa1[.][0-9a-f]' rendered\n\
             test \"$(stat --format=%a token)\" = 600; grep -q '^pgaa1[.]' token\n\
             render --package-url https://example.org/p.deb \
                 --package-sha256 $(sha256sum token | cut -d' ' -f1)",
        )
        .map(drop)
}

/// The one restart that its settings need is asked for, not done; then it is a mesh of one.
fn becomes_founder(yard: &Yard, machine: &Machine) -> Result<()> {
    machine.shell(&format!(
        "echo '{}' >/etc/pgaa/token; chown root:postgres /etc/pgaa/token; chmod 0640 \
         /etc/pgaa/token\n\
         cat >/etc/pgaa/agent.toml <<'END'\n[cluster]\nname = \"shop\"\nexpect = 1\n\
         seeds = [\"10.77.0.11\"]\n[postgres]\ndatabase = \"shop\"\nEND\nsystemctl start pgaa-agent",
        token(1)
    ))?;
    yard.eventually(seconds(60), "a restart is asked for", || {
        let findings = machine.status()?.findings;
        let pending = findings.iter().any(|f| f.code == "restart_pending");
        ensure!(pending, "{findings:?}");
        Ok(())
    })?;
    ensure!(
        starts_of_postgres(machine)? == 1,
        "PostgreSQL was restarted unasked"
    );
    machine.sql("insert into visit values ('before the restart')")?;
    machine.run("pgaa-agent", &["restart"])?;
    yard.eventually(seconds(60), "it is ready, a mesh of one", || {
        let report = machine.status()?;
        let state = report.node.state;
        ensure!(
            state == NodeState::Ready,
            "{}: {:?}",
            state.word(),
            report.waiting_on
        );
        Ok(())
    })?;
    ensure!(
        starts_of_postgres(machine)? == 2,
        "one restart was asked for"
    );
    ensure!(machine.sql("select count(*) from visit")? == "2");
    is_sound(machine)
}

/// A minor version that knows `output_plugin_libraries` needs it; the probe before each start
/// sees to it. Taken out by hand, as if written under a version that does not know it.
fn settings_are_kept_right(machine: &Machine) -> Result<()> {
    machine.shell(
        "sed -i '/^output_plugin_libraries/d' /etc/postgresql/15/main/conf.d/90-pgaa.conf\n\
         systemctl restart postgresql@15-main",
    )?;
    let set = machine.sql("show output_plugin_libraries")?;
    ensure!(set.contains("pglogical_output"), "it is {set:?}");
    Ok(())
}

fn is_upgraded(yard: &Yard, machine: &Machine, next: &Path) -> Result<()> {
    let starts = starts_of_postgres(machine)?;
    let generation = machine.status()?.node.generation;
    machine.put(next, "root/next.deb")?;
    machine.run("dpkg", &["--install", "/root/next.deb"])?;
    yard.eventually(seconds(30), "the new agent has taken over", || {
        let node = machine.status()?.node;
        ensure!(node.state == NodeState::Ready && node.generation > generation);
        Ok(())
    })?;
    let now = starts_of_postgres(machine)?;
    ensure!(now == starts, "the upgrade restarted PostgreSQL");
    is_sound(machine)
}

/// Gone, but for what PostgreSQL needs to start: and it does start.
fn is_removed(machine: &Machine) -> Result<()> {
    let removed = machine.run("dpkg", &["--remove", "pgaa-agent"])?;
    ensure!(removed.contains("pgaa-agent forget"), "{removed}");
    let purged = machine.run("dpkg", &["--purge", "pgaa-agent"])?;
    for left in [
        "/var/lib/pgaa",
        "/etc/postgresql/15/main/conf.d/90-pgaa.conf",
    ] {
        let told = format!("left in place, because PostgreSQL uses it: {left}");
        ensure!(purged.contains(&told), "{purged}");
    }
    machine.shell("test ! -e /etc/pgaa; systemctl restart postgresql@15-main")?;
    ensure!(machine.sql("select count(*) from visit")? == "2");
    is_sound(machine)
}
