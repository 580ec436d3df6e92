//! Nodes that boot at the same moment with one configuration become a mesh.

use crate::ASSEMBLY_MAX;
use anyhow::{Result, ensure};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::scenario::play;
use pgaa_tests::workload::{await_convergence, create_orders, write_orders};
use std::collections::BTreeSet;

#[test]
fn three_nodes_become_a_mesh() -> Result<()> {
    play(3, becomes_a_mesh)
}

#[test]
fn five_nodes_become_a_mesh() -> Result<()> {
    play(5, becomes_a_mesh)
}

fn becomes_a_mesh(cluster: &Cluster) -> Result<()> {
    cluster.await_assembly(ASSEMBLY_MAX)?;
    founded_once(cluster)?;
    create_orders(cluster)?;
    for node in cluster.nodes() {
        write_orders(node, 50)?;
    }
    await_convergence(cluster, 50 * cluster.nodes().len())?;
    no_leftovers(cluster)
}

/// One cluster id, and ordinals that differ.
fn founded_once(cluster: &Cluster) -> Result<()> {
    let mut ids = BTreeSet::new();
    let mut ordinals = BTreeSet::new();
    for node in cluster.nodes() {
        let report = node.status()?;
        ids.extend(report.cluster.map(|cluster| cluster.id));
        ordinals.extend(report.node.ordinal);
    }
    ensure!(ids.len() == 1, "cluster ids: {ids:?}");
    ensure!(
        ordinals.len() == cluster.nodes().len(),
        "ordinals: {ordinals:?}"
    );
    Ok(())
}

/// Exactly the subscriptions and slots of a full mesh, and no forwarding, which would loop.
fn no_leftovers(cluster: &Cluster) -> Result<()> {
    let expected = (cluster.nodes().len() - 1).to_string();
    for node in cluster.nodes() {
        let subscriptions = node.sql(
            "select count(*) from pglogical.subscription
              where coalesce(sub_forward_origins, '{}') = '{}'",
        )?;
        let all = node.sql("select count(*) from pglogical.subscription")?;
        let slots = node
            .sql("select count(*) from pg_replication_slots where plugin = 'pglogical_output'")?;
        for (what, count) in [
            ("subscriptions without forwarding", subscriptions),
            ("subscriptions", all),
            ("slots", slots),
        ] {
            ensure!(
                count == expected,
                "{}: {count} {what}, not {expected}",
                node.name()
            );
        }
    }
    Ok(())
}
