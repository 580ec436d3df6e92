//! A node whose IP address changes is adopted by the others.

use crate::{ASSEMBLY_MAX, RECOVERY_MAX};
use anyhow::{Context, Result, ensure};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use pgaa_tests::workload::{await_convergence, create_orders, write_orders};
use std::net::{IpAddr, Ipv4Addr};

#[test]
fn a_node_with_a_new_address_stays_in_the_mesh() -> Result<()> {
    play(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_orders(cluster)?;
        let id = c.status()?.answered_by.node;
        let address = Ipv4Addr::new(10, 77, 0, 99);
        cluster.change_address(c, address)?;
        for node in cluster.nodes() {
            write_orders(node, 10)?;
        }
        cluster.eventually(RECOVERY_MAX, "a and b know c's new address", |_| {
            knows_address(a, c, address)?;
            knows_address(b, c, address)
        })?;
        await_convergence(cluster, 30)?;
        cluster.eventually(RECOVERY_MAX, "the mesh is whole again", Cluster::assembled)?;
        ensure!(
            c.status()?.answered_by.node == id,
            "c has become somebody else"
        );
        Ok(())
    })
}

fn knows_address(node: &Node, of: &Node, address: Ipv4Addr) -> Result<()> {
    let report = node.status()?;
    let member = report
        .members
        .iter()
        .find(|member| member.name == of.name());
    let endpoints = member
        .and_then(|member| member.endpoints)
        .context("no endpoints are known")?;
    for known in [endpoints.grpc, endpoints.gossip, endpoints.postgres] {
        ensure!(
            known.ip() == IpAddr::V4(address),
            "{} still knows {known}",
            node.name()
        );
    }
    Ok(())
}
