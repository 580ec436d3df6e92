//! Who keeps a machine's clock: an image without an NTP client, and one with another than chrony.
//! No machine here can set a clock.

use super::trouble::has_said;
use crate::image::in_checkout;
use crate::machine::Machine;
use crate::seconds;
use crate::yard::{Yard, alone, play_with, user_data};
use anyhow::{Context, Result, ensure};
use pgaa_core::clock::{ClockCause, ClockReading, ClockSource, ClockVerdict};
use pgaa_tests::command::{clean, run};
use std::path::Path;

/// Before cloud-init's other stages: the image turns out to have no NTP client.
const WITHOUT: &str = "bootcmd:\n  - dpkg --remove chrony\n  - chmod 0755 /usr/local/bin/apt-get\n";

/// In the place of apt: these machines have no network. Writes down what it was asked for.
const APT: &str = "#!/bin/sh\necho \"$@\" >>/root/apt\n";

/// What Debian's unit wants and these machines have not: the right to set the clock.
const MAY_NOT_SET_CLOCKS: &str = "[Unit]\nConditionCapability=\nConditionVirtualization=\n\
    [Service]\nAmbientCapabilities=\nCapabilityBoundingSet=\nSystemCallFilter=~@clock\n";

#[test]
fn an_image_without_a_time_daemon_gets_one_and_timesyncd_is_one() -> Result<()> {
    let user_data = format!("{}{WITHOUT}", alone(&user_data()?));
    play_with(1, user_data, |yard| {
        let [machine] = yard.each()?;
        machine.write("usr/local/bin/apt-get", APT)?;
        let timesyncd = run(&mut clean(in_checkout(".ci/timesyncd")))?;
        machine.place(Path::new(timesyncd.trim()), "srv/timesyncd.deb")?;
        machine.place(
            Path::new(env!("CARGO_BIN_EXE_pgaa-timeserver")),
            "opt/timeserver",
        )?;
        machine.write(
            "etc/systemd/system/systemd-timesyncd.service.d/test.conf",
            MAY_NOT_SET_CLOCKS,
        )?;
        machine.write(
            "etc/systemd/timesyncd.conf.d/test.conf",
            "[Time]\nNTP=127.0.0.1\n",
        )?;
        yard.switch_on()?;
        yard.await_mesh(seconds(120), &[machine])?;
        nobody_keeps_the_clock(yard, machine)?;
        timesyncd_is_judged(yard, machine)
    })
}

/// The first boot says so, cloud-init asks for chrony, and status names the command.
fn nobody_keeps_the_clock(yard: &Yard, machine: &Machine) -> Result<()> {
    let says = ["no NTP client is installed", "apt-get install chrony"];
    has_said(machine, "pgaa-provision", &says)?;
    yard.eventually(seconds(60), "cloud-init asks for chrony", || {
        let asked = machine.shell("cat /root/apt")?;
        ensure!(asked == "update\ninstall --yes chrony", "{asked}");
        Ok(())
    })?;
    yard.eventually(seconds(30), "status names it", || {
        let findings = machine.status()?.findings;
        let found = findings.iter().find(|finding| finding.code == "clock");
        let found = found.with_context(|| format!("{findings:?}"))?;
        ensure!(
            found.command.contains("apt-get install chrony"),
            "{found:?}"
        );
        Ok(())
    })
    .map(drop)
}

/// The real timesyncd, asked by the agent's own unit with all that it is denied, follows a server
/// whose offset is known.
fn timesyncd_is_judged(yard: &Yard, machine: &Machine) -> Result<()> {
    machine.shell("dpkg --install /srv/timesyncd.deb")?;
    let said = machine.run("pgaa-agent", &["provision"])?;
    ensure!(!said.contains("NTP"), "{said}");
    for (ahead, verdict, cause) in [
        ("0.05", ClockVerdict::Synchronized, ClockCause::None),
        ("0.2", ClockVerdict::Drifting, ClockCause::Error),
        ("-5", ClockVerdict::Drifting, ClockCause::Error),
    ] {
        // It asks at once when it starts.
        machine.shell(&format!(
            "systemctl stop timeserver || true\n\
             systemd-run --quiet --collect --unit=timeserver /opt/timeserver {ahead}\n\
             systemctl restart systemd-timesyncd"
        ))?;
        let what = format!("a server {ahead} s ahead: {verdict:?}");
        let offset_us = -(ahead.parse::<f64>()? * 1e6) as i64;
        reading(yard, machine, &what, |clock| {
            let right = (clock.offset_us - offset_us).unsigned_abs() < 5_000;
            let bound = clock.error_us >= Some(clock.offset_us.unsigned_abs());
            let judged = (clock.source, clock.verdict, clock.cause);
            judged == (ClockSource::Timesyncd, verdict, cause) && right && bound
        })?;
    }
    // With nobody to answer it, and then without it.
    machine.shell("systemctl stop timeserver; systemctl restart systemd-timesyncd")?;
    reading(yard, machine, "nobody has answered", |clock| {
        (clock.source, clock.cause) == (ClockSource::Timesyncd, ClockCause::NoSource)
    })?;
    machine.shell("systemctl stop systemd-timesyncd")?;
    // The kernel, which is asked then, doesn't tell in a container.
    reading(yard, machine, "it is not asked any more", |clock| {
        clock.source != ClockSource::Timesyncd
    })?;
    // Asking must not have started it again.
    let state = machine.property("systemd-timesyncd", "ActiveState")?;
    ensure!(state == "inactive", "timesyncd is {state}");
    Ok(())
}

fn reading(
    yard: &Yard,
    machine: &Machine,
    what: &str,
    is: impl Fn(&ClockReading) -> bool,
) -> Result<()> {
    yard.eventually(seconds(60), what, || {
        let clock = machine.status()?.node.clock;
        ensure!(is(&clock), "{clock:?}");
        Ok(())
    })
    .map(drop)
}
