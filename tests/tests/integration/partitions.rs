//! Partitions: both sides go on taking writes, and hold the same rows once it is healed.

use crate::{ASSEMBLY_MAX, RECOVERY_MAX, seconds};
use anyhow::{Result, ensure};
use pgaa_core::observed::Reach;
use pgaa_core::record::EdgeState;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use pgaa_tests::workload::{await_convergence, create_orders, hold_orders, write_orders};

#[test]
fn halves_and_one_way_cuts_heal() -> Result<()> {
    play(4, |cluster| {
        let [a, b, c, d] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_orders(cluster)?;
        let slots = slots(cluster)?;

        cluster.net.partition(&[&["a", "b"], &["c", "d"]])?;
        cluster.eventually(seconds(30), "each half misses the other", |_| {
            misses(a, c)?;
            misses(d, b)
        })?;
        write_everywhere(cluster, 10)?;
        heal(cluster, 40)?;

        cluster.net.cut_one_way("a", "c")?;
        write_everywhere(cluster, 10)?;
        cluster.eventually(seconds(60), "c says that nothing comes from a", |_| {
            gets_nothing(c, a)
        })?;
        cluster.eventually(seconds(30), "b and d have all rows", |_| {
            hold_orders(b, 80)?;
            hold_orders(d, 80)
        })?;
        heal(cluster, 80)?;

        let after = self::slots(cluster)?;
        ensure!(slots == after, "slots changed from\n{slots}\nto\n{after}");
        Ok(())
    })
}

fn heal(cluster: &Cluster, rows: usize) -> Result<()> {
    cluster.net.heal()?;
    await_convergence(cluster, rows)?;
    cluster.eventually(RECOVERY_MAX, "the mesh is whole again", Cluster::assembled)?;
    Ok(())
}

/// Nothing is dropped and made anew because a peer was out of reach.
fn slots(cluster: &Cluster) -> Result<String> {
    const SLOTS: &str =
        "select slot_name, catalog_xmin is not null from pg_replication_slots order by 1";
    let each = cluster.nodes().iter().map(|node| node.sql(SLOTS));
    Ok(each.collect::<Result<Vec<_>>>()?.join("\n"))
}

fn misses(node: &Node, other: &Node) -> Result<()> {
    let report = node.status()?;
    let member = report
        .members
        .iter()
        .find(|member| member.name == other.name());
    let reach = member.map(|member| &member.reach);
    ensure!(
        !matches!(reach, Some(Reach::Up)),
        "{} says that {} is {reach:?}",
        node.name(),
        other.name()
    );
    ensure!(
        report.node.gate_open,
        "a partition must not keep {} from writes",
        node.name()
    );
    Ok(())
}

/// Heartbeats stop with the rows, so the edge can't count as replicating.
fn gets_nothing(node: &Node, from: &Node) -> Result<()> {
    let report = node.status()?;
    let provider = report
        .members
        .iter()
        .find(|member| member.name == from.name());
    let edge = report.edges.iter().find(|edge| {
        edge.subscriber == report.answered_by.node
            && provider.is_some_and(|provider| provider.node == edge.provider)
    });
    let state = edge.map(|edge| edge.state);
    ensure!(
        state.is_some_and(|state| state != EdgeState::Replicating),
        "{} says that the edge from {} is {state:?}",
        node.name(),
        from.name()
    );
    Ok(())
}

fn write_everywhere(cluster: &Cluster, rows: usize) -> Result<()> {
    cluster
        .nodes()
        .iter()
        .try_for_each(|node| write_orders(node, rows))
}
