//! Forgetting: dead nodes, living ones, and each half of a partition the other.

use crate::{ASSEMBLY_MAX, RECOVERY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use pgaa_tests::workload::{create_orders, hold_orders, write_orders};

fn refused(node: &Node, arguments: &[&str], with: &str) -> Result<()> {
    let output = node.ask(arguments)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success(),
        "{arguments:?} was done on {}",
        node.name()
    );
    ensure!(
        said.contains(with),
        "{arguments:?} on {}: {said}",
        node.name()
    );
    Ok(())
}

fn slots(node: &Node, expected: usize) -> Result<()> {
    let slots =
        node.sql("select count(*) from pg_replication_slots where plugin = 'pglogical_output'")?;
    let subscriptions = node.sql("select count(*) from pglogical.subscription")?;
    ensure!(
        slots == expected.to_string() && subscriptions == expected.to_string(),
        "{}: {slots} slots, {subscriptions} subscriptions, not {expected}",
        node.name()
    );
    Ok(())
}

fn parted(node: &Node) -> Result<()> {
    let findings = node.status()?.findings;
    let told = findings.iter().any(|finding| finding.code == "parted");
    ensure!(told, "{}: {findings:?}", node.name());
    Ok(())
}

/// Nothing is dropped until the operator says so; then each half is a mesh of its own, and the
/// healed network does not make one of them again.
#[test]
fn two_halves_forget_one_another() -> Result<()> {
    play(4, |cluster| {
        let [a, b, c, d] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_orders(cluster)?;
        refused(a, &["forget", "c"], "pgaa-agent leave")?;

        cluster.net.partition(&[&["a", "b"], &["c", "d"]])?;
        cluster.eventually(seconds(30), "without --force nobody is forgotten", |_| {
            refused(a, &["forget", "c"], "--force")?;
            refused(d, &["forget", "a"], "--force")
        })?;
        for node in cluster.nodes() {
            slots(node, 3)?;
        }
        for (node, others) in [(a, [c, d]), (c, [a, b])] {
            for other in others {
                node.order(&["forget", "--force", other.name()])?;
            }
        }
        cluster.eventually(RECOVERY_MAX, "each half is a mesh of two", |cluster| {
            cluster.assembled_among(&[a, b])?;
            cluster.assembled_among(&[c, d])?;
            cluster.nodes().iter().try_for_each(|node| slots(node, 1))
        })?;
        for node in [a, c] {
            write_orders(node, 10)?;
        }
        cluster.net.heal()?;
        cluster.eventually(seconds(60), "each half refuses the other", |_| {
            // Whoever is called first tells the other; one of each half knows for certain.
            parted(a).or_else(|_| parted(b))?;
            parted(c).or_else(|_| parted(d))
        })?;
        for (writer, reader) in [(b, a), (d, c)] {
            write_orders(writer, 10)?;
            cluster.eventually(seconds(30), "the half goes on", |_| hold_orders(reader, 20))?;
        }
        for node in cluster.nodes() {
            hold_orders(node, 20)?;
            slots(node, 1)?;
        }
        Ok(())
    })
}

#[test]
fn a_dead_node_is_forgotten_everywhere_and_stays_away() -> Result<()> {
    play(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        c.kill9_agent()?;
        c.kill9_postmaster()?;
        cluster.eventually(seconds(30), "c is forgotten", |_| {
            a.order(&["forget", "c"]).map(drop)
        })?;
        cluster.eventually(seconds(60), "nothing of it is left", |cluster| {
            cluster.assembled_among(&[a, b])?;
            slots(a, 1)?;
            slots(b, 1)
        })?;
        // It comes back, is told, and does not write into a mesh that has no place for it.
        c.start_postgres()?;
        c.start_agent()?;
        cluster.eventually(seconds(60), "c knows that it was forgotten", |_| {
            let log = c.agent_log();
            log.lines()
                .find(|line| line.contains("forgotten"))
                .map(drop)
                .context("nothing of it in its log")
        })?;
        slots(a, 1)?;
        cluster.assembled_among(&[a, b])
    })
}

/// What it wrote last had reached one of the three others only. Without a command it is on all of
/// them, after it was forgotten.
#[test]
fn what_a_dead_node_wrote_last_is_on_all_others() -> Result<()> {
    play(4, |cluster| {
        let [a, b, c, d] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_orders(cluster)?;
        cluster.net.cut("b", "c")?;
        cluster.net.cut("d", "c")?;
        write_orders(c, 10)?;
        cluster.eventually(seconds(30), "a has what c wrote", |_| hold_orders(a, 10))?;
        c.kill9_agent()?;
        c.kill9_postmaster()?;
        cluster.net.heal()?;
        hold_orders(b, 0)?;
        hold_orders(d, 0)?;
        cluster.eventually(seconds(30), "c is forgotten", |_| {
            a.order(&["forget", "c"]).map(drop)
        })?;
        cluster.eventually(seconds(120), "the others have what c wrote", |_| {
            hold_orders(b, 10)?;
            hold_orders(d, 10)
        })?;
        cluster.eventually(seconds(60), "nothing is compared any more", |_| {
            for node in [a, b, d] {
                let waiting = node.status()?.rows.waiting;
                ensure!(waiting == 0, "{} compares {waiting}", node.name());
            }
            Ok(())
        })?;
        hold_orders(a, 10)
    })
}
