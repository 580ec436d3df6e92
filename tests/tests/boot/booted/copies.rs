//! Machines made from what was a machine before: a clone of a member that runs, an image that
//! nobody sealed. Never are there two nodes of one identity.

use super::{make_table, visit};
use crate::machine::{Machine, words};
use crate::seconds;
use crate::yard::{Yard, play};
use anyhow::{Context, Result, ensure};
use pgaa_core::state::NodeState;
use pgaa_core::status::StatusReport;

/// What a copy tells its operator to do, as far as it can be typed here.
const BECOME_ANOTHER: &str = "systemctl stop pgaa-agent && pgaa-agent image seal || \
                              pg_dropcluster --stop 15 main && pgaa-agent image check";

#[test]
fn a_clone_of_a_running_member_is_refused() -> Result<()> {
    play(3, |yard| {
        yard.switch_on()?;
        let all: Vec<&Machine> = yard.machines().iter().collect();
        yard.await_mesh(seconds(120), &all)?;
        make_table(yard, &all)?;
        visit(yard, &all, "first")?;

        yard.clone_machine("b")?;
        let [a, b, c, clone] = yard.each()?;
        let before = senders(&[a, b, c])?;
        clone.switch_on()?;
        stays_apart(yard, clone)?;
        for member in [a, b, c] {
            knows_where_b_is(member)?;
        }
        refusal_is_in_the_journal(&[a, c])?;
        visit(yard, &[a, b, c], "beside the clone")?;
        can_not_speak(clone)?;

        clone.reboot()?;
        stays_apart(yard, clone)?;
        visit(yard, &[a, b, c], "after its second boot")?;
        yard.await_mesh(seconds(30), &[a, b, c])?;
        ensure!(
            senders(&[a, b, c])? == before,
            "a stream between the members broke off"
        );

        clone.shell(BECOME_ANOTHER)?;
        clone.reboot()?;
        yard.await_mesh(seconds(120), &[a, b, c, clone])?;
        visit(
            yard,
            &[a, b, c, clone],
            "with the clone as a node of its own",
        )
    })
}

/// Its status says whose copy it is and how it becomes another; nothing is taken or given.
fn stays_apart(yard: &Yard, clone: &Machine) -> Result<()> {
    yard.eventually(seconds(120), "the clone is set apart", || {
        let report = clone.status()?;
        let state = report.node.state;
        ensure!(state == NodeState::Quarantined, "it is {}", state.word());
        let names = "b answers at 10.77.0.12, and the machine at 10.77.0.14 has its identity";
        let finding = report
            .findings
            .iter()
            .find(|finding| finding.code == "not_ready");
        let finding = finding.context("nothing is found")?;
        ensure!(finding.text.contains(names), "{finding:?}");
        ensure!(
            finding.command.contains("pgaa-agent image seal"),
            "{finding:?}"
        );
        ensure!(!report.node.gate_open, "its gate is open");
        let enabled = "select count(*) from pglogical.subscription where sub_enabled";
        ensure!(clone.sql(enabled)? == "0", "it still subscribes");
        ensure!(clone.property("pgaa-agent", "ActiveState")? == "active");
        let line = clone.property("pgaa-agent", "StatusText")?;
        ensure!(
            line.contains("quarantined") && line.contains(names),
            "{line}"
        );
        Ok(())
    })?;
    let told = clone.try_run("pgaa-agent", &["status"])?;
    ensure!(told.status.code() == Some(2), "{told:?}");
    Ok(())
}

fn knows_where_b_is(member: &Machine) -> Result<()> {
    let members = member.status()?.members;
    let of_b: Vec<_> = members.iter().filter(|known| known.name == "b").collect();
    ensure!(members.len() == 3 && of_b.len() == 1, "{members:?}");
    let at = of_b[0].endpoints.context("b has no address")?;
    for address in [at.grpc, at.gossip, at.postgres] {
        ensure!(
            address.ip().to_string() == "10.77.0.12",
            "{}: {at:?}",
            member.name()
        );
    }
    Ok(())
}

/// Whichever member was asked first has refused.
fn refusal_is_in_the_journal(members: &[&Machine]) -> Result<()> {
    let mut refused = 0;
    for member in members {
        refused += member
            .journal(&["--unit=pgaa-agent", "EVENT=copy_refused"])?
            .len();
    }
    ensure!(refused > 0, "no member says that it refused the clone");
    Ok(())
}

/// Leaving on the clone would have the member leave.
fn can_not_speak(clone: &Machine) -> Result<()> {
    for act in [&["leave"][..], &["forget", "a"], &["token", "create"]] {
        let refused = clone.try_run("pgaa-agent", act)?;
        ensure!(refused.status.code() == Some(1), "{act:?}: {refused:?}");
        ensure!(
            words(&refused.stderr).contains("is a copy of a member"),
            "{refused:?}"
        );
    }
    Ok(())
}

/// The processes that send to other nodes.
fn senders(among: &[&Machine]) -> Result<Vec<String>> {
    let query = "select string_agg(pid::text, ' ' order by pid) from pg_stat_replication";
    among.iter().map(|machine| machine.sql(query)).collect()
}

/// A machine that was on for a moment has an identity and a cluster: an image of it holds both.
#[test]
fn an_image_that_nobody_sealed_founds_nothing() -> Result<()> {
    play(1, |yard| {
        yard.switch_on()?;
        let [first] = yard.each()?;
        yard.eventually(seconds(120), "it waits for the other founders", || {
            let report = first.status()?;
            let founding = report.founding.context("no founding is told of")?;
            ensure!(founding.missing.len() == 2, "{founding:?}");
            Ok(())
        })?;
        first.power_off()?;
        yard.clone_machine("a")?;
        yard.clone_machine("a")?;
        yard.switch_on()?;
        let [a, b, c] = yard.each()?;
        yard.eventually(seconds(120), "all three say that they are copies", || {
            [a, b, c]
                .iter()
                .try_for_each(|machine| names_the_copies(&machine.status()?))
        })?;

        for machine in [b, c] {
            machine.shell(BECOME_ANOTHER)?;
            machine.reboot()?;
        }
        yard.await_mesh(seconds(120), &[a, b, c])?;
        make_table(yard, &[a, b, c])?;
        visit(yard, &[a, b, c], "three nodes")
    })
}

fn names_the_copies(report: &StatusReport) -> Result<()> {
    ensure!(report.cluster.is_none(), "there is a cluster");
    ensure!(!report.node.gate_open, "a node without a mesh takes writes");
    let waiting = &report.waiting_on;
    let peers = waiting.iter().find(|waiting| waiting.kind == "peers");
    let text = &peers
        .with_context(|| format!("it waits for {waiting:?}"))?
        .text;
    for part in [
        "has the UUID of this node: one is a copy",
        "pgaa-agent image seal",
    ] {
        ensure!(text.contains(part), "{part:?} is not in {text}");
    }
    Ok(())
}
