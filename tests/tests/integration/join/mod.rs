//! A node joins a mesh that takes writes: nothing is lost, nothing is there twice, nothing is
//! stale.

use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Result, ensure};
use pgaa_core::state::NodeState;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::load::{Load, Rate, Workload, await_equality, create_tables};
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play_unstarted;
use std::thread::sleep;
use std::time::Duration;

/// How long a join under load may take. A bound for "never".
const JOIN_MAX: Duration = Duration::from_secs(120);

/// How long the mesh takes writes before, and after, a node joins.
const LOAD_BEFORE: Duration = Duration::from_secs(4);
const LOAD_AFTER: Duration = Duration::from_secs(2);

/// A mesh of the first `founders` nodes, with the tables of the load; the other nodes are made,
/// configured to join it, and not started.
fn mesh(cluster: &Cluster, founders: usize) -> Result<Vec<&Node>> {
    for node in cluster.nodes() {
        node.configure_agent(&cluster.config(founders))?;
    }
    let nodes: Vec<&Node> = cluster.nodes().iter().take(founders).collect();
    cluster.boot(&nodes)?;
    let what = format!("{founders} nodes are ready and fully meshed");
    cluster.eventually(ASSEMBLY_MAX, &what, |c| c.assembled_among(&nodes))?;
    create_tables(cluster, &nodes)?;
    Ok(nodes)
}

/// Boots a node and waits until it is ready.
fn join(cluster: &Cluster, node: &Node) -> Result<Duration> {
    cluster.boot(&[node])?;
    let what = format!("{} has joined under load", node.name());
    cluster.eventually(JOIN_MAX, &what, |_| {
        let report = node.status()?;
        ensure!(
            report.node.state == NodeState::Ready,
            "{}: {:?}",
            report.node.state.word(),
            report.waiting_on
        );
        Ok(())
    })
}

/// The third, fourth and fifth node join under load; then all rows are equal on all nodes.
fn grow(workload: Workload, rate: Rate) -> Result<()> {
    play_unstarted(5, |cluster| {
        let mut nodes = mesh(cluster, 2)?;
        let mut load = Load::start(&nodes, workload, rate)?;
        sleep(LOAD_BEFORE);
        for node in &cluster.nodes()[2..] {
            join(cluster, node)?;
            load.add(node, workload, rate)?;
            nodes.push(node);
            sleep(LOAD_AFTER);
        }
        load.stop()?;
        let rows = await_equality(cluster, &nodes)?;
        eprintln!(
            "          {rows} customers on each of {} nodes",
            nodes.len()
        );
        cluster.eventually(seconds(30), "the mesh is whole", |c| {
            c.assembled_among(&nodes)
        })?;
        Ok(())
    })
}

#[test]
fn a_mesh_grows_from_two_to_five_under_a_low_load() -> Result<()> {
    grow(Workload::Own, Rate::PerSecond(50))
}

#[test]
fn a_mesh_grows_from_two_to_five_at_saturation() -> Result<()> {
    grow(Workload::Own, Rate::Saturating)
}

#[test]
fn a_mesh_grows_while_all_nodes_change_the_same_rows() -> Result<()> {
    grow(Workload::Same, Rate::PerSecond(100))
}
