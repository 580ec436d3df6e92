//! PostgreSQL made ready: on both layouts, on new servers and on those that were there before.
//!
//! Each test makes a cluster of its own on a free port of the loopback address.

mod place;

use anyhow::{Context, Result, bail, ensure};
use pgaa_agent::postgres::provision::provision;
use pgaa_agent::postgres::{Gate, admit, set_gate};
use pgaa_tests::command::{as_server, clean, failure, output, run, server_directory, server_file};
use place::{BIN, Place};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

fn accepted(mut command: Command) -> Result<()> {
    run(&mut command).map(drop)
}

/// It is refused, and by pg_hba.conf or pg_ident.conf (`because`).
fn refused(mut command: Command, because: &str) -> Result<()> {
    let output = output(&mut command)?;
    let said = failure(&command, &output);
    ensure!(
        !output.status.success() && said.contains(because),
        "not {because:?}: {said}"
    );
    Ok(())
}

#[test]
fn a_new_server_is_right_at_its_first_start() -> Result<()> {
    first_start(&Place::bare()?)
}

#[test]
fn a_new_server_in_debian_s_layout_is_right_at_its_first_start() -> Result<()> {
    first_start(&Place::debian()?)
}

fn first_start(place: &Place) -> Result<()> {
    let first = provision(&place.settings)?;
    ensure!(
        first.created && first.gate == Gate::Shut && first.notes.is_empty(),
        "{first:?}"
    );
    let again = provision(&place.settings)?;
    ensure!(
        again.done.is_empty() && again.gate == Gate::Shut,
        "not idempotent: {again:?}"
    );
    place.start()?;
    let found = place.audit()?;
    ensure!(
        found.drifts.is_empty() && found.errors.is_empty(),
        "{found:?}"
    );
    ensure!(found.restart_pending.is_empty(), "{found:?}");
    let checked = place.sql("show data_checksums")?;
    ensure!(checked == "on", "data_checksums is {checked}");
    let log = place.sql("select pg_read_file(pg_current_logfile('jsonlog'), 0, 1)")?;
    ensure!(log == "{", "no JSON log: {log}");
    place.make_roles()?;
    place.sql("create extension pglogical")?;
    gate_holds(place)?;
    let running = provision(&place.settings)?;
    ensure!(
        running.done.is_empty() && running.gate == Gate::Open,
        "not idempotent: {running:?}"
    );
    Ok(())
}

fn gate_holds(place: &Place) -> Result<()> {
    place.reload()?;
    refused(place.application(), "pg_hba.conf rejects connection")?;
    accepted(place.local(clean("psql"), "select 'root'"))?;
    let mut nobody = clean("setpriv");
    nobody.args([
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
        "--",
        "psql",
    ]);
    refused(
        place.local(nobody, "select 'nobody'"),
        "Peer authentication failed",
    )?;
    refused(place.mesh(""), "certificate authentication failed")?;
    let changed = admit(&place.settings, &BTreeSet::from([place.member]))?;
    ensure!(changed.ident && !changed.hba, "{changed:?}");
    place.reload()?;
    accepted(place.mesh(""))?;
    accepted(place.mesh("replication=database"))?;
    refused(
        place.mesh("replication=true"),
        "pg_hba.conf rejects replication connection",
    )?;
    refused(
        place.mesh("sslcert=/none"),
        "connection requires a valid client certificate",
    )?;
    refused(
        place.mesh("sslmode=disable"),
        "pg_hba.conf rejects connection",
    )?;
    refused(place.application(), "pg_hba.conf rejects connection")?;

    set_gate(&place.settings, Gate::Open)?;
    place.reload()?;
    accepted(place.application())?;
    accepted(place.mesh(""))?;
    refused(
        place.mesh("sslmode=disable"),
        "pg_hba.conf rejects connection",
    )?;
    place.sql("select 1")?;

    admit(&place.settings, &BTreeSet::new())?;
    place.reload()?;
    refused(place.mesh(""), "certificate authentication failed")
}

/// A server that somebody configured and used before.
fn used() -> Result<Place> {
    let place = Place::bare()?;
    let data = &place.settings.postgres.data_dir;
    let mut initdb = as_server(format!("{BIN}/initdb"));
    initdb.args([
        "--auth-local=trust",
        "--auth-host=scram-sha-256",
        "--username=postgres",
        "-D",
    ]);
    run(initdb.arg(data))?;
    amend(
        &data.join("postgresql.conf"),
        &format!(
            "port = {}\nunix_socket_directories = '{}'\nlisten_addresses = '127.0.0.1'\n\
             shared_preload_libraries = 'auto_explain'\nmax_wal_senders = 50\n\
             archive_mode = on\narchive_command = 'true'",
            place.settings.postgres.port,
            place.settings.postgres.socket_dir.display()
        ),
    )?;
    place.start()?;
    place.make_roles()?;
    Ok(place)
}

fn amend(path: &Path, text: &str) -> Result<()> {
    server_file(path, &(fs::read_to_string(path)? + text), 0o600)
}

#[test]
fn what_an_operator_configured_is_kept() -> Result<()> {
    let place = used()?;
    let before = fs::read(place.hba())?;
    // Identity and certificate are minted then.
    fs::remove_dir_all(place.settings.paths.state_dir.join("tls"))?;
    let report = provision(&place.settings)?;
    ensure!(!report.created && report.gate == Gate::Open, "{report:?}");
    let features: Vec<_> = report.notes.iter().map(|note| note.feature).collect();
    ensure!(features == ["backups"], "{:?}", report.notes);
    let after = fs::read(place.hba())?;
    ensure!(
        after.ends_with(&before) && after.len() > before.len(),
        "pg_hba.conf was rewritten"
    );
    let waiting = place.audit_after_reload()?;
    ensure!(
        waiting.restart_pending.contains(&"wal_level".to_owned()),
        "{waiting:?}"
    );
    let drift = waiting
        .drifts
        .iter()
        .find(|drift| drift.name == "wal_level");
    ensure!(
        drift.is_some_and(|drift| drift.source.contains("90-pgaa.conf")),
        "{drift:?}"
    );

    place.restart()?;
    let found = place.audit()?;
    ensure!(
        found.drifts.is_empty() && found.restart_pending.is_empty(),
        "{found:?}"
    );
    let kept = [
        ("shared_preload_libraries", "auto_explain, pglogical"),
        ("max_wal_senders", "50"),
        ("archive_command", "true"),
        ("listen_addresses", "127.0.0.1"),
    ];
    for (name, value) in kept {
        let now = place.sql(&format!("show {name}"))?;
        ensure!(now == value, "{name} is {now}, and not {value}");
    }
    accepted(place.application())?;
    let again = provision(&place.settings)?;
    ensure!(again.done.is_empty(), "not idempotent: {again:?}");
    overrides_are_named(&place)
}

fn overrides_are_named(place: &Place) -> Result<()> {
    place.sql("alter system set pglogical.conflict_resolution = 'apply_remote'")?;
    // Minor releases before August 2026 don't know it.
    let known = "select count(*) from pg_settings where name = 'output_plugin_libraries'";
    let restricts_plugins = place.sql(known)? == "1";
    if restricts_plugins {
        // The one quoted string becomes one library of that odd name.
        place.sql("alter system set output_plugin_libraries = 'pgoutput, pglogical_output'")?;
    }
    amend(
        &place.settings.postgres.data_dir.join("postgresql.conf"),
        "wal_sender_timeout = 10s\n",
    )?;
    let found = place.audit_after_reload()?;
    let (output, others): (Vec<_>, Vec<_>) = found
        .drifts
        .iter()
        .map(|drift| (drift.name.as_str(), drift.source.as_str()))
        .partition(|(name, _)| *name == "output_plugin_libraries");
    let by_alter_system = output.iter().filter(|(_, s)| s.starts_with("ALTER SYSTEM"));
    ensure!(
        by_alter_system.count() == usize::from(restricts_plugins),
        "{found:?}"
    );
    let [resolution, timeout] = others.as_slice() else {
        bail!("{found:?}");
    };
    ensure!(resolution.0 == "pglogical.conflict_resolution");
    ensure!(
        resolution
            .1
            .starts_with("ALTER SYSTEM (postgresql.auto.conf:"),
        "{resolution:?}"
    );
    ensure!(timeout.0 == "wal_sender_timeout" && timeout.1.contains("postgresql.conf:"));
    Ok(())
}

#[test]
fn nothing_is_written_through_a_link_of_the_owner_s() -> Result<()> {
    let place = Place::bare()?;
    provision(&place.settings)?;
    let target = place.directory.path().join("root-only");
    fs::write(&target, "untouched")?;
    fs::set_permissions(&target, fs::Permissions::from_mode(0o600))?;
    chown(&target, Some(0), Some(0))?;
    let ours = place
        .settings
        .postgres
        .config_dir
        .join("conf.d/90-pgaa.conf");
    fs::remove_file(&ours)?;
    symlink(&target, &ours)?;
    let error = provision(&place.settings)
        .err()
        .context("it was provisioned")?;
    ensure!(
        fs::read_to_string(&target)? == "untouched",
        "root wrote through the link: {error}"
    );
    Ok(())
}

#[test]
fn a_damaged_block_is_left_to_the_operator() -> Result<()> {
    let place = Place::bare()?;
    provision(&place.settings)?;
    let text = fs::read_to_string(place.hba())?;
    let half: String = text
        .lines()
        .filter(|line| !line.starts_with("# <<<"))
        .collect();
    server_file(&place.hba(), &half, 0o600)?;
    let error = provision(&place.settings)
        .err()
        .context("it was provisioned")?;
    let text = format!("{:#}", anyhow::Error::from(error));
    ensure!(
        text.contains("pg_hba.conf is left as it is") && text.contains("line 1"),
        "{text}"
    );
    ensure!(fs::read_to_string(place.hba())? == half, "it was written");
    Ok(())
}

#[test]
fn an_unfinished_cluster_is_named() -> Result<()> {
    let place = Place::bare()?;
    let data = &place.settings.postgres.data_dir;
    server_directory(data, 0o700)?;
    server_file(&data.join("PG_VERSION"), "15\n", 0o600)?;
    server_file(
        &place.settings.paths.state_dir.join("creating-cluster"),
        "",
        0o600,
    )?;
    let error = provision(&place.settings)
        .err()
        .context("it was provisioned")?;
    ensure!(error.to_string().contains("half made"), "{error}");
    fs::remove_file(data.join("PG_VERSION"))?;
    server_file(&data.join("mine"), "", 0o600)?;
    let error = provision(&place.settings)
        .err()
        .context("it was provisioned")?;
    ensure!(error.to_string().contains("is not empty"), "{error}");
    Ok(())
}
