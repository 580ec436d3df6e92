//! What a machine runs out of, or has wrong: its disk, its clock. README's table of troubles
//! promises what is seen then.

use super::is_sound;
use super::trouble::{has_failed, has_said};
use crate::machine::Machine;
use crate::seconds;
use crate::yard::{Yard, alone, play, play_with, user_data};
use anyhow::{Context, Result, ensure};
use pgaa_core::state::NodeState;
use pgaa_core::status::{Finding, Health};
use std::path::Path;

/// A file system of its own for PostgreSQL, too small for a cluster.
const SMALL_DISK: &str =
    "tmpfs /var/lib/postgresql tmpfs size=20m,mode=0755,uid=postgres,gid=postgres 0 0\n";

/// Fills the file system that is named.
const FILL: &str = "dd if=/dev/zero of=$0/fill bs=64k status=none 2>/dev/null || true";

#[test]
fn a_full_disk_is_named() -> Result<()> {
    play_with(1, alone(&user_data()?), |yard| {
        let [machine] = yard.each()?;
        machine.write("etc/fstab", SMALL_DISK)?;
        yard.switch_on()?;
        no_room_for_a_cluster(yard, machine)?;
        no_room_for_writes(yard, machine)?;
        no_room_for_the_agent(yard, machine)
    })
}

/// The first boot can't make the cluster; with room it is made, without a reboot.
fn no_room_for_a_cluster(yard: &Yard, machine: &Machine) -> Result<()> {
    yard.eventually(
        seconds(120),
        "the full disk is named at the first boot",
        || {
            has_failed(
                machine,
                "pgaa-provision",
                "1",
                &["No space left on device", "df -h"],
            )?;
            let state = machine.property("pgaa-agent", "ActiveState")?;
            ensure!(state == "active", "the agent is {state}");
            Ok(())
        },
    )?;
    machine.shell(
        "mount -o remount,size=1g /var/lib/postgresql\n\
         systemctl restart pgaa-provision pgaa-agent",
    )?;
    yard.await_mesh(seconds(60), &[machine])?;
    yard.eventually(seconds(60), "nothing has failed any more", || {
        is_sound(machine)
    })
    .map(drop)
}

/// A member's disk is full, and has room again.
fn no_room_for_writes(yard: &Yard, machine: &Machine) -> Result<()> {
    machine.run("sh", &["-c", FILL, "/var/lib/postgresql"])?;
    yard.eventually(seconds(30), "status says that the disk is full", || {
        let found = finding(machine, "disk_full")?;
        ensure!(
            found.severity == Health::Critical && found.command.contains("df -h"),
            "{found:?}"
        );
        let code = machine.try_run("pgaa-agent", &["status"])?.status.code();
        ensure!(code == Some(2), "{code:?}");
        Ok(())
    })?;
    machine.shell("rm /var/lib/postgresql/fill")?;
    yard.await_mesh(seconds(60), &[machine])?;
    yard.eventually(seconds(30), "status says so no more", || {
        ensure!(finding(machine, "disk_full").is_err());
        Ok(())
    })
    .map(drop)
}

/// Where the agent can't store what it must not forget it does not run.
fn no_room_for_the_agent(yard: &Yard, machine: &Machine) -> Result<()> {
    machine.shell(
        "systemctl stop pgaa-agent\n\
         cp -a /var/lib/pgaa /root/state\n\
         mount -t tmpfs -o size=1m,mode=0700,uid=postgres,gid=postgres tmpfs /var/lib/pgaa\n\
         cp -a /root/state/. /var/lib/pgaa/",
    )?;
    machine.run("sh", &["-c", FILL, "/var/lib/pgaa"])?;
    machine.run("systemctl", &["start", "--no-block", "pgaa-agent"])?;
    yard.eventually(seconds(30), "the agent says that it can't store", || {
        has_said(
            machine,
            "pgaa-agent",
            &[
                "/var/lib/pgaa/node.json",
                "No space left on device",
                "df -h",
            ],
        )?;
        let state = machine.property("pgaa-agent", "ActiveState")?;
        ensure!(state == "activating", "it is {state}");
        let status = machine.property("pgaa-agent", "ExecMainStatus")?;
        ensure!(status == "1", "it ended with {status}");
        Ok(())
    })?;
    machine.shell("rm /var/lib/pgaa/fill; test -z \"$(ls /var/lib/pgaa | grep new)\"")?;
    yard.await_mesh(seconds(30), &[machine])?;
    is_sound(machine)
}

fn finding(machine: &Machine, code: &str) -> Result<Finding> {
    let findings = machine.status()?.findings;
    let found = findings.iter().find(|finding| finding.code == code);
    found.cloned().with_context(|| format!("{findings:?}"))
}

/// Where the library lies that shifts one program's clock (package libfaketime).
const SHIFTS_CLOCKS: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// The clock of one agent is wrong by as much.
fn shift_clock(machine: &Machine, by: &str) -> Result<()> {
    machine.place(Path::new(SHIFTS_CLOCKS), "opt/shift-clock.so")?;
    let drop_in = format!(
        "[Service]\nEnvironment=LD_PRELOAD=/opt/shift-clock.so FAKETIME={by} FAKETIME_DONT_FAKE_MONOTONIC=1\n"
    );
    machine.write(
        "etc/systemd/system/pgaa-agent.service.d/clock.conf",
        &drop_in,
    )
}

/// Who founds is whose id is the lowest: an id that is lower, or higher, than any that is drawn.
fn name_itself(machine: &Machine, id: &str) -> Result<()> {
    let identity = format!(r#"{{"node": "{id}", "generation": 0, "versions_reserved": 0}}"#);
    machine.write("var/lib/pgaa/node.json", &identity)
}

/// Another founds: the certificate that it is given is not valid yet for it. It says so, and the
/// other two say who is missing; with the right time it goes on, without a reboot.
#[test]
fn a_wrong_clock_is_named() -> Result<()> {
    with_a_clock_behind("ffffffff-ffff-4fff-bfff-ffffffffffff", |a, c| {
        let waiting = c.status()?.waiting_on;
        let says = "is not valid yet: compare the two clocks (timedatectl)";
        ensure!(
            waiting.iter().any(|on| on.text.contains(says)),
            "{waiting:?}"
        );
        let line = c.property("pgaa-agent", "StatusText")?;
        ensure!(line.contains("enrolling") && line.contains(says), "{line}");
        has_said(c, "pgaa-agent", &[says])?;
        let state = c.property("pgaa-agent", "ActiveState")?;
        ensure!(state == "active", "it is {state}");
        let others = a.status()?.waiting_on;
        ensure!(
            others
                .iter()
                .any(|on| on.text.contains("c of the founding")),
            "{others:?}"
        );
        Ok(())
    })
}

/// It founds itself: its certificates are valid for all, and the two whose clocks agree go on without it,
/// say whose clock is wrong, and take writes; it takes none.
#[test]
fn a_founder_with_a_wrong_clock_is_named() -> Result<()> {
    with_a_clock_behind("00000000-0000-4000-8000-000000000000", |a, c| {
        let report = a.status()?;
        let of_c = |finding: &Finding| finding.text.contains("the clock of c is 172800");
        let found = report.findings.iter().find(|finding| of_c(finding));
        let found = found.with_context(|| format!("{:?}", report.findings))?;
        ensure!(found.severity == Health::Critical, "{found:?}");
        ensure!(report.node.state == NodeState::Ready, "{:?}", report.node);
        let state = c.status()?.node.state;
        ensure!(state == NodeState::WaitingForClock, "{state:?}");
        Ok(())
    })
}

/// Three machines, of which `c`, who is `id`, is two days behind. Once `is_named` holds, given `a`
/// and `c`, it is given the right time, and all are in the mesh.
fn with_a_clock_behind(
    id: &str,
    is_named: impl Fn(&Machine, &Machine) -> Result<()>,
) -> Result<()> {
    play(3, |yard| {
        let [a, b, c] = yard.each()?;
        shift_clock(c, "-2d")?;
        name_itself(c, id)?;
        yard.switch_on()?;
        yard.eventually(seconds(120), "the wrong clock is named", || is_named(a, c))?;
        c.shell(
            "rm /etc/systemd/system/pgaa-agent.service.d/clock.conf\n\
             systemctl daemon-reload; systemctl restart pgaa-agent",
        )?;
        yard.await_mesh(seconds(60), &[a, b, c]).map(drop)
    })
}
