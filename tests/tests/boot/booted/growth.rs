//! The mesh grows and shrinks: a machine later with the same user-data, one that leaves, one that
//! is destroyed.

use super::{is_sound, make_table, visit};
use crate::machine::Machine;
use crate::seconds;
use crate::yard::play;
use anyhow::{Result, ensure};
use pgaa_core::observed::Reach;
use pgaa_core::state::NodeState;

#[test]
fn a_fourth_machine_joins_one_leaves_one_is_destroyed() -> Result<()> {
    play(3, |yard| {
        yard.switch_on()?;
        let founders: Vec<&Machine> = yard.machines().iter().collect();
        yard.await_mesh(seconds(120), &founders)?;
        make_table(yard, &founders)?;
        visit(yard, &founders, "founders")?;

        yard.add()?;
        let [a, b, c, d] = yard.each()?;
        d.switch_on()?;
        yard.await_mesh(seconds(120), &[a, b, c, d])?;
        yard.await_answer(&[d], "select count(*) from visit", "3")?;
        visit(yard, &[a, b, c, d], "with the fourth")?;

        // The machine stays on, with its database; it is no part of the mesh any more.
        b.run("pgaa-agent", &["leave"])?;
        b.run("pgaa-agent", &["wait", "--for=left", "--timeout=25s"])?;
        yard.await_mesh(seconds(60), &[a, c, d])?;
        visit(yard, &[a, c, d], "without the one that left")?;
        ensure!(b.sql("select count(*) from visit")? == "7");
        is_sound(b)?;

        c.cut_power()?;
        yard.eventually(seconds(60), "the destroyed machine is out of reach", || {
            let report = a.status()?;
            let lost = report.members.iter().find(|member| member.name == "c");
            ensure!(
                lost.is_some_and(|member| member.reach != Reach::Up),
                "{lost:?}"
            );
            Ok(())
        })?;
        visit(yard, &[a, d], "without the destroyed one")?;
        a.run("pgaa-agent", &["forget", "c"])?;
        yard.await_mesh(seconds(60), &[a, d])?;
        visit(yard, &[a, d], "after forgetting it")?;
        ensure!(a.status()?.node.state == NodeState::Ready);
        let slots = "select count(*) from pg_replication_slots where plugin = 'pglogical_output'";
        yard.await_answer(&[a, d], slots, "1").map(drop)
    })
}
