//! `kill -9` of an agent, of a postmaster, and of both.

use crate::{ASSEMBLY_MAX, RECOVERY_MAX};
use anyhow::{Result, ensure};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::scenario::play;
use pgaa_tests::workload::{await_convergence, create_orders, write_orders};

#[test]
fn a_node_comes_back_from_kill_9() -> Result<()> {
    play(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_orders(cluster)?;
        let before = a.status()?.node.generation;

        a.kill9_agent()?;
        write_everywhere(cluster, 10)?;
        a.start_agent()?;
        cluster.eventually(
            RECOVERY_MAX,
            "a is back after kill -9 of its agent",
            Cluster::assembled,
        )?;
        await_convergence(cluster, 30)?;

        b.kill9_postmaster()?;
        write_orders(a, 10)?;
        write_orders(c, 10)?;
        b.start_postgres()?;
        cluster.eventually(
            RECOVERY_MAX,
            "b is back after kill -9 of PostgreSQL",
            Cluster::assembled,
        )?;
        await_convergence(cluster, 50)?;

        c.kill9_agent()?;
        c.kill9_postmaster()?;
        write_orders(a, 10)?;
        write_orders(b, 10)?;
        c.start_postgres()?;
        c.start_agent()?;
        cluster.eventually(
            RECOVERY_MAX,
            "c is back after kill -9 of both",
            Cluster::assembled,
        )?;
        write_everywhere(cluster, 10)?;
        await_convergence(cluster, 100)?;

        let after = a.status()?.node.generation;
        ensure!(
            after == before + 1,
            "generation went from {before} to {after} with one start"
        );
        Ok(())
    })
}

fn write_everywhere(cluster: &Cluster, rows: usize) -> Result<()> {
    cluster
        .nodes()
        .iter()
        .try_for_each(|node| write_orders(node, rows))
}
