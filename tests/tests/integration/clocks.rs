//! Clocks that differ, with real chronyd and shifted servers.

use crate::{ASSEMBLY_MAX, RECOVERY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::clock::{ClockCause, ClockReading, ClockSource, ClockVerdict};
use pgaa_core::state::NodeState;
use pgaa_core::status::StatusReport;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::load::{Load, Rate, Workload, await_equality, create_tables};
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play_unstarted;
use pgaa_tests::time::{Chronyd, chrony_program};

/// How wrong a measurement over a bridge of this machine may be, microseconds: its answers wait
/// for a busy processor.
const ERROR_US_MAX: u64 = 100_000;

fn reading(
    cluster: &Cluster,
    node: &Node,
    what: &str,
    is: impl Fn(&ClockReading) -> bool,
) -> Result<()> {
    cluster.eventually(seconds(60), what, |_| {
        let clock = node.status()?.node.clock;
        ensure!(is(&clock), "{clock:?}");
        Ok(())
    })?;
    Ok(())
}

/// A node's own verdict, by a real chronyd that follows real servers whose offsets are known.
#[test]
fn chrony_is_judged_by_what_it_follows() -> Result<()> {
    play_unstarted(4, |cluster| {
        let [a, b, c, d] = cluster.each()?;
        let chronyc = chrony_program("bin/chronyc")?;
        a.amend_agent(&format!("[clock]\nchronyc = {chronyc:?}\n"))?;
        a.start_postgres()?;
        a.start_agent()?;
        reading(cluster, a, "without chronyd the kernel is asked", |clock| {
            clock.source == ClockSource::Kernel
        })?;
        let _servers = [b, c, d].map(|node| Chronyd::serve(&cluster.net, node));
        for (offset, verdict, cause) in [
            (0.05, ClockVerdict::Synchronized, ClockCause::None),
            (0.2, ClockVerdict::Drifting, ClockCause::Error),
            (5.0, ClockVerdict::Drifting, ClockCause::Error),
        ] {
            let _client = Chronyd::follow(&cluster.net, a, &[(b, offset)])?;
            let what = format!("{offset} s behind: {verdict:?}");
            let behind_us = (offset * 1e6) as i64;
            reading(cluster, a, &what, |clock| {
                let right = (clock.offset_us + behind_us).unsigned_abs() < 5_000;
                let bound = clock
                    .error_us
                    .is_some_and(|e| e >= clock.offset_us.unsigned_abs());
                (clock.verdict, clock.cause) == (verdict, cause) && right && bound
            })?;
        }
        let _client = Chronyd::follow(&cluster.net, a, &[(b, 0.0), (c, 0.0), (d, 5.0)])?;
        reading(
            cluster,
            a,
            "one of three servers lies, and is not believed",
            |clock| clock.verdict == ClockVerdict::Synchronized && clock.offset_us.abs() < 5_000,
        )?;
        cluster.net.isolate(a.name())?;
        reading(cluster, a, "no server answers any more", |clock| {
            (clock.verdict, clock.cause) == (ClockVerdict::Drifting, ClockCause::Unreachable)
        })?;
        cluster.net.heal()?;
        reading(cluster, a, "they answer again", |clock| {
            clock.verdict == ClockVerdict::Synchronized
        })
    })
}

/// The offset between every two nodes as `from` has measured it: does it hold the truth?
fn matrix_is_right(cluster: &Cluster, ahead_s: &[(&Node, f64)]) -> Result<()> {
    for (from, own_s) in ahead_s {
        let report = from.status()?;
        let id = |node: &Node| {
            let member = report.members.iter().find(|m| m.name == node.name());
            member.map(|m| m.node).context("not a member")
        };
        for (to, their_s) in ahead_s.iter().filter(|(to, _)| to.name() != from.name()) {
            let (from_id, to_id) = (id(from)?, id(to)?);
            let rows = report.clock.rows.iter();
            let mut row = rows.filter(|row| (row.from, row.to) == (from_id, to_id));
            let row = row
                .next()
                .with_context(|| format!("{} has no row", from.name()))?;
            let truth_us = ((their_s - own_s) * 1e6) as i64;
            let off = (row.offset_us - truth_us).unsigned_abs();
            ensure!(
                off <= row.error_us && row.error_us <= ERROR_US_MAX,
                "{} to {}: the truth is {truth_us} us: {row:?}",
                from.name(),
                to.name()
            );
        }
    }
    let _ = cluster;
    Ok(())
}

fn says(report: &StatusReport, code: &str, part: &str) -> Result<()> {
    let said = report.findings.iter().any(|finding| {
        finding.code == code && finding.text.contains(part) && !finding.command.is_empty()
    });
    ensure!(said, "no {code} with {part:?}: {:?}", report.findings);
    Ok(())
}

fn waits_for_its_clock(cluster: &Cluster, node: &Node, part: &str) -> Result<()> {
    let what = format!("{} waits for its clock", node.name());
    cluster.eventually(ASSEMBLY_MAX, &what, |_| {
        let report = node.status()?;
        ensure!(
            report.node.state == NodeState::WaitingForClock,
            "{}",
            report.node.state.word()
        );
        ensure!(!report.node.gate_open, "the gate is open");
        let told = report
            .waiting_on
            .iter()
            .any(|on| on.kind == "clock" && on.text.contains(part));
        ensure!(told, "{:?}", report.waiting_on);
        Ok(())
    })?;
    Ok(())
}

fn event(cluster: &Cluster, node: &Node, kind: &str) -> Result<()> {
    let what = format!("{} records {kind}", node.name());
    cluster.eventually(seconds(5), &what, |_| {
        let events = node.order(&["events", "-o", "json"])?;
        ensure!(events.contains(kind), "{events}");
        Ok(())
    })?;
    Ok(())
}

/// A founding member and a joiner with wrong clocks wait, say so, and go on by themselves.
#[test]
fn who_has_the_wrong_clock_waits_and_is_then_admitted() -> Result<()> {
    play_unstarted(4, |cluster| {
        let [a, b, c, d] = cluster.each()?;
        for node in cluster.nodes() {
            node.configure_agent(&cluster.config(3))?;
        }
        c.shift_clock(5.0)?;
        d.shift_clock(-5.0)?;
        cluster.boot(&[a, b, c])?;
        waits_for_its_clock(cluster, c, "5.0 s ahead of the clocks of 2 of 2")?;
        cluster.eventually(ASSEMBLY_MAX, "a and b have founded without it", |_| {
            for node in [a, b] {
                let state = node.status()?.node.state;
                ensure!(
                    state == NodeState::Ready,
                    "{} is {}",
                    node.name(),
                    state.word()
                );
            }
            Ok(())
        })?;
        c.shift_clock(0.0)?;
        let founders = [a, b, c];
        cluster.eventually(
            RECOVERY_MAX,
            "c is admitted once its clock is good",
            |cluster| cluster.assembled_among(&founders),
        )?;
        create_tables(cluster, &founders)?;
        let load = Load::start(&founders, Workload::Own, Rate::PerSecond(20))?;
        cluster.boot(&[d])?;
        waits_for_its_clock(cluster, d, "5.0 s behind the clocks of 3 of 3")?;
        d.shift_clock(0.0)?;
        let all: Vec<&Node> = cluster.nodes().iter().collect();
        cluster.eventually(RECOVERY_MAX, "d joins once its clock is good", |cluster| {
            cluster.assembled_among(&all)
        })?;
        load.stop()?;
        await_equality(cluster, &all)?;
        Ok(())
    })
}

/// A running node's clock is set wrong while everybody writes: it is told within seconds, by the
/// node and by the others, measured rightly, and never stopped.
#[test]
fn a_running_clock_that_goes_wrong_is_named() -> Result<()> {
    play_unstarted(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        for node in [a, b, c] {
            node.shift_clock(0.0)?;
        }
        c.amend_agent("[clock]\nmode = \"strict\"\n")?;
        cluster.boot(&[a, b, c])?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &[a, b, c])?;
        let load = Load::start(&[a, b, c], Workload::Own, Rate::PerSecond(20))?;
        let right = [(a, 0.0), (b, 0.0), (c, 0.0)];
        cluster.eventually(seconds(30), "the matrix is right", |cluster| {
            matrix_is_right(cluster, &right)
        })?;
        c.shift_clock(5.0)?;
        event(cluster, c, "clock_stepped")?;
        let shifted = [(a, 0.0), (b, 0.0), (c, 5.0)];
        cluster.eventually(seconds(30), "the matrix shows it", |cluster| {
            matrix_is_right(cluster, &shifted)
        })?;
        cluster.eventually(seconds(30), "everybody names it", |_| {
            says(
                &a.status()?,
                "clock_odd",
                "the clock of c is 5.0 s ahead of the 2 others",
            )?;
            says(
                &b.status()?,
                "clock_odd",
                "the clock of c is 5.0 s ahead of the 2 others",
            )?;
            says(
                &c.status()?,
                "clock_odd",
                "this node's clock is 5.0 s ahead of the 2 others",
            )
        })?;
        let shown = a.order(&["clock"])?;
        ensure!(shown.contains("c is the odd one out"), "{shown}");
        let report = c.status()?.node;
        ensure!(
            report.state == NodeState::Ready && report.gate_open,
            "it was stopped"
        );
        ensure!(report.withheld.is_some(), "its readiness is not withheld");
        event(cluster, a, "clocks_apart")?;
        c.shift_clock(0.0)?;
        cluster.eventually(seconds(30), "nobody is odd any more", |_| {
            for node in [a, b, c] {
                let findings = node.status()?.findings;
                let odd = findings.iter().find(|finding| finding.code == "clock_odd");
                ensure!(odd.is_none(), "{odd:?}");
            }
            Ok(())
        })?;
        event(cluster, a, "clocks_agree")?;
        load.stop()?;
        cluster.assembled()
    })
}

/// A machine that stands still for some seconds says so when it goes on.
#[test]
fn a_pause_is_recorded() -> Result<()> {
    play_unstarted(2, |cluster| {
        let [a, b] = cluster.each()?;
        cluster.boot(&[a, b])?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &[a, b])?;
        let load = Load::start(&[a], Workload::Own, Rate::PerSecond(20))?;
        b.freeze()?;
        std::thread::sleep(seconds(6));
        b.thaw()?;
        event(cluster, b, "stood_still")?;
        load.stop()?;
        await_equality(cluster, &[a, b])?;
        Ok(())
    })
}
