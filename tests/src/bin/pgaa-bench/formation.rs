//! Formation of empty nodes: agents against the script, on servers that run already.

use crate::{NEVER, report, script};
use anyhow::{Result, bail};
use pgaa_agent::clock::Clocks;
use pgaa_core::record::EdgeState;
use pgaa_core::state::NodeState;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::node::Node;
use std::thread::sleep;
use std::time::Duration;

/// Measures both, one after the other, and reports the ratio.
pub fn compare(count: usize) -> Result<()> {
    let scripted = {
        let cluster = Cluster::prepare(count)?;
        script::start_servers(&cluster)?;
        script::run(&cluster)?
    };
    eprintln!("{scripted:>7.2} s  {count} nodes by the script");
    let agents = {
        let cluster = Cluster::prepare(count)?;
        by_agents(&cluster)?
    };
    report(
        &format!("formation of {count} empty nodes, agents / script"),
        &format!("{agents:.2} s / {scripted:.2} s = {:.2}", agents / scripted),
        if count == 5 { "0.10" } else { "-" },
    );
    Ok(())
}

/// From the start of the agents to the moment when every node is ready and reports that all its
/// edges replicate. Seconds.
fn by_agents(cluster: &Cluster) -> Result<f64> {
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    cluster.provision(&nodes)?;
    for node in &nodes {
        node.start_postgres()?;
    }
    cluster.eventually(NEVER, "the servers answer", |c| {
        c.nodes()
            .iter()
            .try_for_each(|node| node.sql_in("postgres", "select 1").map(drop))
    })?;
    let clocks = Clocks::start();
    for node in &nodes {
        node.start_agent()?;
    }
    let mut waiting = nodes;
    while !waiting.is_empty() {
        waiting.retain(|node| !is_done(node, cluster.nodes().len()));
        if clocks.mono().0 > u64::try_from(NEVER.as_millis())? {
            bail!("never formed{}", cluster.portrait());
        }
        sleep(Duration::from_millis(10));
    }
    Ok(clocks.mono().0 as f64 / 1000.0)
}

/// Is the node ready, and do its own edges replicate?
fn is_done(node: &Node, count: usize) -> bool {
    let Ok(report) = node.status() else {
        return false;
    };
    let own = report
        .edges
        .iter()
        .filter(|edge| edge.subscriber == report.answered_by.node);
    let replicating = own
        .filter(|edge| edge.state == EdgeState::Replicating)
        .count();
    report.node.state == NodeState::Ready && replicating == count - 1
}
