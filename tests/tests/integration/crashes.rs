//! `kill -9` of an agent, of a postmaster, and of both.

use crate::{ASSEMBLY_MAX, RECOVERY_MAX, seconds};
use anyhow::{Result, ensure};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use pgaa_tests::workload::{await_convergence, create_orders, write_orders};

#[test]
fn a_node_comes_back_from_kill_9() -> Result<()> {
    play(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_orders(cluster)?;
        agent_killed(cluster, a)?;
        await_convergence(cluster, 30)?;
        postmaster_killed(cluster, b, [a, c])?;
        await_convergence(cluster, 60)?;
        both_killed(cluster, c, [a, b])?;
        await_convergence(cluster, 90)?;
        let what = "the mesh is whole again";
        cluster.eventually(RECOVERY_MAX, what, Cluster::assembled)?;
        Ok(())
    })
}

/// Replication needs no agent: rows flow while it is dead.
fn agent_killed(cluster: &Cluster, node: &Node) -> Result<()> {
    let before = node.status()?.node.generation;
    node.kill9_agent()?;
    for each in cluster.nodes() {
        write_orders(each, 10)?;
    }
    await_convergence(cluster, 30)?;
    node.start_agent()?;
    let what = format!("{} is back after kill -9 of its agent", node.name());
    cluster.eventually(RECOVERY_MAX, &what, Cluster::assembled)?;
    let after = node.status()?.node.generation;
    ensure!(
        after == before + 1,
        "generation went from {before} to {after} with one start"
    );
    Ok(())
}

/// The test starts PostgreSQL again, as systemd would.
fn postmaster_killed(cluster: &Cluster, node: &Node, others: [&Node; 2]) -> Result<()> {
    node.kill9_postmaster()?;
    cluster.eventually(
        seconds(30),
        "its agent says that PostgreSQL is gone",
        |_| {
            let said = node.status()?.node.postgres_error;
            ensure!(
                said.is_some(),
                "{} reports no error of PostgreSQL",
                node.name()
            );
            Ok(())
        },
    )?;
    others
        .iter()
        .try_for_each(|other| write_orders(other, 10))?;
    node.start_postgres()?;
    write_soon(cluster, node)?;
    let what = format!("{} is back after kill -9 of PostgreSQL", node.name());
    cluster.eventually(RECOVERY_MAX, &what, Cluster::assembled)?;
    Ok(())
}

fn both_killed(cluster: &Cluster, node: &Node, others: [&Node; 2]) -> Result<()> {
    node.kill9_agent()?;
    node.kill9_postmaster()?;
    others
        .iter()
        .try_for_each(|other| write_orders(other, 10))?;
    node.start_postgres()?;
    node.start_agent()?;
    write_soon(cluster, node)?;
    let what = format!("{} is back after kill -9 of both", node.name());
    cluster.eventually(RECOVERY_MAX, &what, Cluster::assembled)?;
    Ok(())
}

/// Writes as soon as the server's recovery lets it.
fn write_soon(cluster: &Cluster, node: &Node) -> Result<()> {
    let what = format!("the server of {} answers", node.name());
    cluster.eventually(seconds(30), &what, |_| node.sql("select 1").map(drop))?;
    write_orders(node, 10)
}
