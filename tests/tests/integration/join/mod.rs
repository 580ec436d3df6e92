//! A node joins a mesh that takes writes: nothing is lost, nothing is there twice, nothing is
//! stale.

pub(crate) mod crashes;
mod refusals;

use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Context, Result, ensure};
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
    ready(cluster, node)
}

/// Waits until a joiner is ready.
fn ready(cluster: &Cluster, joiner: &Node) -> Result<Duration> {
    let what = format!("{} has joined under load", joiner.name());
    cluster.eventually(JOIN_MAX, &what, |_| {
        let report = joiner.status()?;
        ensure!(
            report.node.state == NodeState::Ready,
            "{}: {:?} {:?}",
            report.node.state.word(),
            report.waiting_on,
            report.findings
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

/// At saturation a stream is behind for as long as it lasts, and a joiner never catches up; so
/// the copy and the beginning of the join see it, and the rest a load that can be followed.
#[test]
fn a_node_joins_a_saturated_mesh() -> Result<()> {
    play_unstarted(3, |cluster| {
        let nodes = mesh(cluster, 2)?;
        let [_, _, c] = cluster.each()?;
        let storm = Load::start(&nodes, Workload::Own, Rate::Saturating)?;
        sleep(LOAD_BEFORE);
        cluster.boot(&[c])?;
        cluster.eventually(JOIN_MAX, "c follows its source", |_| {
            let report = c.status()?;
            ensure!(
                report.node.because.contains("catching_up"),
                "{}",
                report.node.because
            );
            Ok(())
        })?;
        sleep(LOAD_AFTER);
        storm.stop()?;
        let load = Load::start(&nodes, Workload::Own, Rate::PerSecond(50))?;
        ready(cluster, c)?;
        load.stop()?;
        let nodes: Vec<&Node> = cluster.nodes().iter().collect();
        let rows = await_equality(cluster, &nodes)?;
        eprintln!("          {rows} customers on each of 3 nodes");
        Ok(())
    })
}

/// The source applies what others write seconds late: a table is locked there again and again.
#[test]
fn a_node_joins_through_a_source_that_lags() -> Result<()> {
    const LOCK: &str = "begin; lock table public.customers in share row exclusive mode; \
                        select pg_sleep(2.5); commit";
    play_unstarted(4, |cluster| {
        let nodes = mesh(cluster, 3)?;
        let [.., d] = cluster.each::<4>()?;
        let mut by_id: Vec<&Node> = nodes.clone();
        by_id.sort_by_key(|node| node.status().map(|report| report.answered_by.node).ok());
        let (source, others) = by_id.split_first().context("no nodes")?;
        let load = Load::start(others, Workload::Own, Rate::PerSecond(50))?;
        cluster.boot(&[d])?;
        let mut locks = 0;
        while d.status().is_err() || d.status()?.node.state != NodeState::Ready {
            source.sql(LOCK)?;
            locks += 1;
            ensure!(
                locks < 40,
                "d does not become ready: {:?}",
                d.status()?.waiting_on
            );
        }
        load.stop()?;
        let nodes: Vec<&Node> = cluster.nodes().iter().collect();
        await_equality(cluster, &nodes)?;
        Ok(())
    })
}

#[test]
fn a_mesh_grows_while_all_nodes_change_the_same_rows() -> Result<()> {
    grow(Workload::Same, Rate::PerSecond(100))
}
