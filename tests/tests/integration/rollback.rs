//! A machine is put back to an earlier state, as by a snapshot of its disk, and starts again.

use crate::{ASSEMBLY_MAX, RECOVERY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::ids::Lsn;
use pgaa_core::record::EdgeState;
use pgaa_core::state::NodeState;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::call;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use pgaa_tests::workload::{await_convergence, create_orders, write_orders};

#[test]
fn a_machine_that_was_put_back_is_set_apart() -> Result<()> {
    play(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_orders(cluster)?;
        write_orders(c, 10)?;
        await_convergence(cluster, 10)?;
        c.stop_agent()?;
        c.stop_postgres()?;
        keep(c)?;
        c.start_postgres()?;
        c.start_agent()?;
        cluster.eventually(RECOVERY_MAX, "c is back", Cluster::assembled)?;
        write_orders(c, 20)?;
        write_orders(a, 10)?;
        await_convergence(cluster, 40)?;
        seen_by_others(cluster, c, [a, b])?;
        c.kill9_agent()?;
        c.kill9_postmaster()?;
        put_back(c)?;
        c.start_postgres()?;
        c.start_agent()?;
        cluster.eventually(RECOVERY_MAX, "c sets itself apart", |_| is_apart(c))?;
        for other in [a, b] {
            let what = format!("{} takes nothing from c", other.name());
            cluster.eventually(RECOVERY_MAX, &what, |_| distrusts(other, c))?;
        }
        others_go_on(cluster, a, b)
    })
}

fn parts(node: &Node) -> [(String, String); 2] {
    let data = node.data_directory();
    ["data", "state"].map(|part| {
        let here = data.with_file_name(part).to_string_lossy().into_owned();
        let kept = data.with_file_name(format!("{part}.kept"));
        (here, kept.to_string_lossy().into_owned())
    })
}

fn keep(node: &Node) -> Result<()> {
    for (here, kept) in parts(node) {
        call("cp", &["-a", &here, &kept])?;
    }
    Ok(())
}

fn put_back(node: &Node) -> Result<()> {
    for (here, kept) in parts(node) {
        call("rm", &["-r", &here])?;
        call("mv", &[&kept, &here])?;
    }
    Ok(())
}

/// Positions travel with records, every few seconds.
fn seen_by_others(cluster: &Cluster, node: &Node, others: [&Node; 2]) -> Result<()> {
    let written: u64 = node
        .sql("select (pg_current_wal_flush_lsn() - '0/0')::int8")?
        .parse()?;
    for other in others {
        let what = format!("{} has seen how far {} was", other.name(), node.name());
        cluster.eventually(seconds(60), &what, |_| {
            let members = other.status()?.members;
            let member = members.iter().find(|m| m.name == node.name());
            let seen = member.context("no such member")?.wal;
            ensure!(seen >= Lsn(written), "it has seen {seen}");
            Ok(())
        })?;
    }
    Ok(())
}

fn is_apart(node: &Node) -> Result<()> {
    let status = node.status()?;
    ensure!(
        status.node.state == NodeState::Quarantined && !status.node.gate_open,
        "it is {:?}: {}",
        status.node.state,
        status.node.because
    );
    let because = &status.node.because;
    ensure!(because.contains("rolled back"), "{because}");
    ensure!(
        status.findings.iter().all(|f| !f.command.is_empty()),
        "{:?}",
        status.findings
    );
    let enabled = node.sql("select count(*) from pglogical.subscription where sub_enabled")?;
    ensure!(enabled == "0", "{enabled} subscriptions are enabled");
    Ok(())
}

fn distrusts(node: &Node, of: &Node) -> Result<()> {
    let status = node.status()?;
    let told = status.findings.iter().find(|f| f.code == "rolled_back");
    let told = told.context("no finding says so")?;
    ensure!(
        told.text
            .contains(&format!("nothing is taken from {}", of.name())),
        "{}",
        told.text
    );
    let member = status.members.iter().find(|m| m.name == of.name());
    let provider = member.context("no such member")?.node;
    let me = status.answered_by.node;
    let edge = status
        .edges
        .iter()
        .find(|e| e.subscriber == me && e.provider == provider);
    let state = edge.context("no such edge")?.state;
    ensure!(state == EdgeState::Disabled, "the edge is {state:?}");
    Ok(())
}

/// What c wrote before it was put back is kept, and the two replicate on.
fn others_go_on(cluster: &Cluster, a: &Node, b: &Node) -> Result<()> {
    write_orders(a, 10)?;
    write_orders(b, 10)?;
    cluster.eventually(RECOVERY_MAX, "a and b hold all rows", |_| {
        for node in [a, b] {
            let rows = node.sql("select count(*) from public.orders")?;
            ensure!(rows == "60", "{} has {rows} rows", node.name());
        }
        Ok(())
    })?;
    Ok(())
}
