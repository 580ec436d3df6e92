//! What the agents take from an application: pgbench on one node, with and without agents, in
//! rounds that alternate, so that a slow minute of the machine hits both.

use crate::{NEVER, median, report};
use anyhow::{Context, Result, ensure};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::{as_server, run};
use pgaa_tests::node::{DATABASE, Node, SERVER_BIN};

/// How many pairs of rounds, and how long each runs.
const PAIRS: usize = 6;
const ROUND_SECONDS: u32 = 8;

/// 100,000 accounts each.
const SCALE: &str = "2";

/// Measures and reports.
pub fn measure(cluster: &Cluster) -> Result<()> {
    let [node, ..] = cluster.nodes() else {
        return Ok(());
    };
    // Empty tables and their keys everywhere; the rows are made once, and replicated.
    for each in cluster.nodes() {
        pgbench(each, &["-i", "-I", "dtp", "-q", "-s", SCALE])?;
    }
    cluster.eventually(NEVER, "pgbench's tables are replicated", |c| {
        c.replicates(&["public.pgbench_accounts", "public.pgbench_tellers"])
    })?;
    pgbench(node, &["-i", "-I", "g", "-q", "-s", SCALE])?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    round(cluster, node)?;
    for _ in 0..PAIRS {
        with.push(round(cluster, node)?);
        cluster.nodes().iter().try_for_each(Node::stop_agent)?;
        without.push(round(cluster, node)?);
        cluster.nodes().iter().try_for_each(Node::start_agent)?;
        cluster.await_assembly(NEVER)?;
    }
    let spread = spread(&without);
    let (with, without) = (median(&mut with), median(&mut without));
    report(
        &format!("pgbench on one of 3 nodes, with / without agents ({PAIRS} pairs)"),
        &format!("{with:.0} / {without:.0} = {:.3}", with / without),
        &format!("0.990 (rounds without agents spread by {spread:.1} %)"),
    );
    Ok(())
}

/// One round, after everybody has caught up with the one before. Transactions per second.
fn round(cluster: &Cluster, node: &Node) -> Result<f64> {
    let here = node.sql("select pg_current_wal_insert_lsn()")?;
    let behind = format!(
        "select slot_name, active, confirmed_flush_lsn from pg_replication_slots
          where confirmed_flush_lsn < '{here}'::pg_lsn"
    );
    cluster.eventually(NEVER, "the others have caught up", |_| {
        let slots = node.sql(&behind)?;
        ensure!(slots.is_empty(), "behind {here} are:\n{slots}");
        Ok(())
    })?;
    // Without the updates of branches (-N), which would measure how clients wait for each other.
    let said = pgbench(
        node,
        &[
            "-n",
            "-N",
            "-c",
            "4",
            "-j",
            "2",
            "-T",
            &ROUND_SECONDS.to_string(),
        ],
    )?;
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))
        .context("no tps")?;
    Ok(line
        .split_whitespace()
        .next()
        .context("no number")?
        .parse()?)
}

fn pgbench(node: &Node, arguments: &[&str]) -> Result<String> {
    let mut command = as_server(format!("{SERVER_BIN}/pgbench"));
    command
        .arg("-h")
        .arg(node.socket_directory())
        .args(["-p", "5432", "-U", "postgres"]);
    run(command.args(arguments).arg(DATABASE))
}

/// From the lowest to the highest, in percent of the lowest.
fn spread(values: &[f64]) -> f64 {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(0.0, f64::max);
    100.0 * (high - low) / low
}
