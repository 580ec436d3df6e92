//! Machines with a wrong token or another cluster's name change nothing, and everybody's log
//! says what to do.

use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Result, ensure};
use pgaa_core::state::NodeState;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::node::{Node, NodeConfig};
use pgaa_tests::scenario::play_unstarted;
use pgaa_tests::workload::token;

#[test]
fn a_wrong_token_or_cluster_name_changes_nothing() -> Result<()> {
    play_unstarted(4, |cluster| {
        let [a, b, wrong_token, wrong_name] = cluster.each()?;
        let right = cluster.config(2);
        for node in [a, b] {
            node.configure_agent(&right)?;
        }
        wrong_token.configure_agent(&NodeConfig {
            token: token(2),
            ..right.clone()
        })?;
        wrong_name.configure_agent(&NodeConfig {
            cluster: "shoe".to_owned(),
            ..right
        })?;
        cluster.boot(&[a, b])?;
        cluster.eventually(ASSEMBLY_MAX, "a and b are a mesh", |c| {
            c.assembled_among(&[a, b])
        })?;
        let before = a.status()?.cluster;

        cluster.boot(&[wrong_token, wrong_name])?;
        for (node, reason, remedy) in [
            (wrong_token, "token", "pgaa-agent token create"),
            (wrong_name, "cluster", "correct cluster.name"),
        ] {
            cluster.eventually(seconds(30), &format!("a wrong {reason} is named"), |_| {
                names_reason(node, a, reason, remedy)
            })?;
        }
        unchanged(cluster, [a, b])?;
        ensure!(
            a.status()?.cluster == before,
            "the cluster is not what it was"
        );
        for node in [wrong_token, wrong_name] {
            stays_outside(node)?;
        }
        Ok(())
    })
}

/// The refused node says why, in its log and in its status, and what to do; a member's log does
/// as well.
fn names_reason(node: &Node, member: &Node, reason: &str, remedy: &str) -> Result<()> {
    for log in [node.agent_log(), member.agent_log()] {
        let named =
            |line: &str| line.contains(&format!("kind=wrong_{reason}")) && line.contains(remedy);
        ensure!(
            log.lines().any(named),
            "no line of the log names the {reason} and {remedy:?}"
        );
    }
    let waiting = node.status()?.waiting_on;
    ensure!(
        waiting.iter().any(|waiting| waiting.text.contains(remedy)),
        "status doesn't say {remedy:?}: {waiting:?}"
    );
    Ok(())
}

fn unchanged(cluster: &Cluster, members: [&Node; 2]) -> Result<()> {
    cluster.assembled_among(&members)?;
    for member in members {
        let lines = member.sql("select count(*) from pg_hba_file_rules where error is not null")?;
        ensure!(lines == "0", "{}: pg_hba.conf has errors", member.name());
    }
    Ok(())
}

fn stays_outside(node: &Node) -> Result<()> {
    let report = node.status()?;
    ensure!(
        report.cluster.is_none(),
        "{} has become a member",
        node.name()
    );
    ensure!(
        report.node.state != NodeState::Ready,
        "{} is ready",
        node.name()
    );
    ensure!(!report.node.gate_open, "{} takes writes", node.name());
    Ok(())
}
