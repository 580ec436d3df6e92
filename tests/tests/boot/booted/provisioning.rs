//! The other ways to a mesh: a machine that installs the package at its first boot, and one whose
//! platform brings the configuration.

use super::{is_sound, starts_of_postgres};
use crate::image::package;
use crate::machine::Machine;
use crate::seconds;
use crate::yard::{VERSION, Yard, alone, filled, play_with};
use anyhow::{Context, Result, ensure};
use pgaa_core::status::Health;

#[test]
fn a_machine_installs_the_package_at_its_first_boot() -> Result<()> {
    let template = filled("user-data-install")?;
    play_with(0, String::new(), |yard| {
        let package = package(yard.directory(), VERSION)?;
        let sum = pgaa_tests::command::call("sha256sum", &[&package.display().to_string()])?;
        let sum = sum.split_whitespace().next().unwrap_or_default();
        // apt's method for local files in the place of the network, which these machines have not.
        let user_data = alone(&template)
            .replace(
                "https://example.org/pgaa-agent.deb",
                "copy:///srv/pgaa-agent.deb",
            )
            .replace("REPLACE-SHA256", sum);
        let machine = yard.add_bare(&user_data)?;
        machine.place(&package, "srv/pgaa-agent.deb")?;
        machine.switch_on()?;
        let [machine] = yard.each()?;
        yard.await_mesh(seconds(180), &[machine])?;
        yard.eventually(seconds(60), "the boot is done", || is_sound(machine))?;
        ensure!(
            starts_of_postgres(machine)? == 1,
            "PostgreSQL was started more than once"
        );
        let token = machine.run("stat", &["--format=%U:%G %a", "/etc/pgaa/token"])?;
        ensure!(token == "root:postgres 640", "the token is {token}");
        machine
            .shell("cloud-init status --wait; grep -q '^pool' /etc/chrony/chrony.conf")
            .map(drop)
    })
}

/// Without seeds: a mesh of one knows its address by the default route.
#[test]
fn vendor_data_makes_a_mesh() -> Result<()> {
    let vendor_data: String = alone(&filled("vendor-data")?)
        .lines()
        .filter(|line| !line.trim_start().starts_with("seeds ="))
        .map(|line| format!("{line}\n"))
        .collect();
    play_with(
        1,
        "#cloud-config\nruncmd: [[touch, /srv/mine]]\n".to_owned(),
        |yard| {
            yard.add_default_route("a")?;
            let [machine] = yard.each()?;
            machine.write("var/lib/cloud/seed/nocloud/vendor-data", &vendor_data)?;
            yard.switch_on()?;
            yard.await_mesh(seconds(120), &[machine])?;
            yard.eventually(seconds(60), "the boot is done", || is_sound(machine))?;
            machine
                .shell("test -e /srv/mine; ! grep -q seeds /etc/pgaa/agent.d/10-platform.toml")?;
            // The image has chrony, enabled and with servers.
            let provisioned = ["--no-pager", "--output=cat", "--unit=pgaa-provision"];
            let said = machine.run("journalctl", &provisioned)?;
            ensure!(!said.contains("NTP") && said.contains("systemd"), "{said}");
            goes_on_without_its_token(machine)?;
            yard.await_mesh(seconds(30), &[machine])?;
            a_long_lived_token_is_remarked(yard, machine)?;
            yard.await_mesh(seconds(30), &[machine])?;
            is_sound(machine)
        },
    )
}

/// The token is for who is no member yet.
fn goes_on_without_its_token(machine: &Machine) -> Result<()> {
    machine.shell("rm /etc/pgaa/token; systemctl restart pgaa-agent")?;
    let arguments = ["--no-pager", "--output=cat", "--boot", "--unit=pgaa-agent"];
    let said = machine.run("journalctl", &arguments)?;
    let expected = "this node is a member already and goes on without";
    ensure!(said.contains(expected), "{said}");
    Ok(())
}

/// A token for later machines lies readable for weeks: status says so, as a remark.
fn a_long_lived_token_is_remarked(yard: &Yard, machine: &Machine) -> Result<()> {
    machine.shell(
        "umask 027; pgaa-agent token create --ttl 30d >/etc/pgaa/token\n\
         chgrp postgres /etc/pgaa/token; systemctl restart pgaa-agent",
    )?;
    yard.eventually(seconds(30), "the long-lived token is remarked", || {
        let findings = machine.status()?.findings;
        let remark = findings
            .iter()
            .find(|found| found.code == "token_long_lived");
        let remark = remark.with_context(|| format!("{findings:?}"))?;
        ensure!(remark.severity == Health::Ok, "{remark:?}");
        ensure!(
            remark.command.contains("pgaa-agent token revoke"),
            "{remark:?}"
        );
        Ok(())
    })
    .map(drop)
}
