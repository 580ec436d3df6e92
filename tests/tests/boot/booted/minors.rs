//! PostgreSQL goes to another minor version, down and up, across the one that brought
//! `output_plugin_libraries`: an older server does not start with the setting, a newer one does not
//! replicate without.

use super::{is_sound, make_table, visit};
use crate::image::postgres_minors;
use crate::machine::Machine;
use crate::seconds;
use crate::yard::{Yard, play_with, user_data};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;

/// The first server of version 15 that knows the setting, as `server_version_num` has it.
const KNOWS_THE_SETTING: u32 = 150_019;

/// Where our settings lie.
const CONF: &str = "/etc/postgresql/15/main/conf.d/90-pgaa.conf";

#[test]
fn another_minor_of_postgresql_replicates_on() -> Result<()> {
    let two = user_data()?
        .replace("expect = 3", "expect = 2")
        .replace(", \"10.77.0.13\"", "");
    play_with(2, two, |yard| {
        yard.switch_on()?;
        let [a, b] = yard.each()?;
        yard.await_mesh(seconds(120), &[a, b])?;
        make_table(yard, &[a, b])?;
        visit(yard, &[a, b], "first")?;
        let minors = postgres_minors()?;
        ensure!(!minors.is_empty(), "no minor version can be had");
        // Machines begin with the newest: down to the oldest, and back.
        let down = minors.iter().rev().skip(1.min(minors.len() - 1));
        for minor in down.chain(minors.iter().skip(1)) {
            goes_to(yard, a, minor)?;
            yard.await_mesh(seconds(60), &[a, b])?;
            let version = minor.file_name().unwrap_or_default().to_string_lossy();
            visit(yard, &[a, b], &format!("with {version}"))?;
        }
        Ok(())
    })
}

/// As apt does it: the packages are installed over the others, which restarts the server.
fn goes_to(yard: &Yard, machine: &Machine, minor: &Path) -> Result<()> {
    machine.run("mkdir", &["--parents", "/root/minor"])?;
    for entry in fs::read_dir(minor)? {
        let package = entry?.path();
        let name = package.file_name().context("a package without a name")?;
        machine.put(&package, &format!("root/minor/{}", name.to_string_lossy()))?;
    }
    let install = "dpkg --force-unsafe-io --install /root/minor/*.deb && rm -r /root/minor";
    machine.run(
        "systemd-run",
        &["--quiet", "--unit=minor", "sh", "-c", install],
    )?;
    yard.eventually(seconds(120), "the other server is installed", || {
        let state = machine.property("minor", "ActiveState")?;
        ensure!(state == "inactive", "its installation is {state}");
        is_sound(machine)
    })?;
    let number: u32 = machine.sql("show server_version_num")?.parse()?;
    let set = machine.run("grep", &["--count", "^output_plugin_libraries", CONF]);
    let wanted = number >= KNOWS_THE_SETTING;
    eprintln!("           {number}, the setting is there: {}", set.is_ok());
    ensure!(set.is_ok() == wanted, "server {number}, setting {set:?}");
    Ok(())
}
