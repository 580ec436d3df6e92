//! What the agents take from an application: pgbench on one node, with and without agents, in
//! rounds that alternate, so that a slow minute of the machine hits both.
//!
//! Without means ended: PostgreSQL and the replication between the nodes go on. All rows are
//! written on one node, so that nothing conflicts, and the comparison that follows a restart is over
//! before a round begins: that one is measured by `verify`.

use crate::{NEVER, cpu, report};
use anyhow::{Context, Result, bail, ensure};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::{as_server, run};
use pgaa_tests::node::{DATABASE, Node, SERVER_BIN};
use std::collections::BTreeMap;
use std::fs;

/// Blocks of four rounds: with, without, without, with. A machine that gets slower or faster
/// during a block does so for both alike.
const BLOCKS: usize = 8;

/// How long each round runs.
const ROUND_SECONDS: u32 = 6;

/// 100,000 accounts each.
const SCALE: &str = "2";

/// Measures and reports.
pub fn measure(cluster: &Cluster) -> Result<()> {
    let [node, ..] = cluster.nodes() else {
        return Ok(());
    };
    fill(cluster, node)?;
    round(cluster, node)?;
    compared(cluster)?;
    let used = account(cluster, node)?;
    let blocks = (0..BLOCKS)
        .map(|_| block(cluster, node))
        .collect::<Result<Vec<Block>>>()?;
    let ratios: Vec<f64> = blocks.iter().map(Block::logarithm).collect();
    let (ratio, error) = mean(&ratios);
    report(
        &format!("pgbench on one of 3 nodes, with / without agents, {BLOCKS} blocks"),
        &format!("{:.3} ± {:.3}", ratio.exp(), ratio.exp() * error),
        &format!("0.990 ({:.0} tps; ± is a standard error)", speed(&blocks)),
    );
    report(
        "CPU of the 3 agents + their sessions, of all meanwhile",
        &format!(
            "{:.2} + {:.2} %",
            100.0 * used.agents / used.all,
            100.0 * used.sessions / used.all
        ),
        "1 %",
    );
    no_conflicts(cluster)
}

/// Empty tables and their keys everywhere; the rows are made on one node, and replicated. Rows
/// have room to be updated in their page, so that no round is slower because of an earlier one.
pub fn fill(cluster: &Cluster, node: &Node) -> Result<()> {
    for each in cluster.nodes() {
        pgbench(each, &["-i", "-I", "dtp", "-q", "-F", "50", "-s", SCALE])?;
    }
    cluster.eventually(NEVER, "pgbench's tables are replicated", |c| {
        c.replicates(&[
            "public.pgbench_accounts",
            "public.pgbench_branches",
            "public.pgbench_tellers",
        ])
    })?;
    pgbench(node, &["-i", "-I", "g", "-q", "-s", SCALE]).map(drop)
}

/// Transactions per second of two rounds each.
struct Block {
    with: [f64; 2],
    without: [f64; 2],
}

impl Block {
    fn logarithm(&self) -> f64 {
        (self.with.iter().sum::<f64>() / self.without.iter().sum::<f64>()).ln()
    }
}

fn block(cluster: &Cluster, node: &Node) -> Result<Block> {
    let first = round(cluster, node)?;
    cluster.nodes().iter().try_for_each(Node::stop_agent)?;
    let without = [round(cluster, node)?, round(cluster, node)?];
    cluster.nodes().iter().try_for_each(Node::start_agent)?;
    cluster.await_assembly(NEVER)?;
    compared(cluster)?;
    let with = [first, round(cluster, node)?];
    eprintln!("tps with {with:.0?}, without {without:.0?}");
    Ok(Block { with, without })
}

/// One round, after everybody has caught up with the one before. Transactions per second.
pub fn round(cluster: &Cluster, node: &Node) -> Result<f64> {
    catch_up(cluster, node)?;
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

/// Waits for a row that is written now on all other nodes. The positions that slots confirm
/// would be no measure: on a quiet server they move every half minute.
fn catch_up(cluster: &Cluster, node: &Node) -> Result<()> {
    let mark = node.sql(
        "update pgbench_branches set bbalance = bbalance + 1 where bid = 1 returning bbalance",
    )?;
    cluster.eventually(NEVER, "the others have caught up", |c| {
        for other in c.nodes() {
            let seen = other.sql("select bbalance from pgbench_branches where bid = 1")?;
            ensure!(seen == mark, "{} is at {seen} of {mark}", other.name());
        }
        Ok(())
    })?;
    Ok(())
}

/// Waits until no node compares anything, nor reads what was deleted while its agent was away.
fn compared(cluster: &Cluster) -> Result<()> {
    const WRITTEN: &str = "select pg_current_wal_lsn()";
    let nodes = cluster.nodes().iter();
    let written: Vec<String> = nodes.map(|n| n.sql(WRITTEN)).collect::<Result<_>>()?;
    cluster.eventually(NEVER, "nothing is being compared", |c| {
        for (node, written) in c.nodes().iter().zip(&written) {
            let waiting = node.status()?.rows.waiting;
            ensure!(waiting == 0, "{} compares {waiting}", node.name());
            let read = node.sql(&format!(
                "select confirmed_flush_lsn >= '{written}' from pg_replication_slots \
                  where slot_name = 'pgaa_deletes'"
            ))?;
            ensure!(read == "t", "{} has not read its deletes", node.name());
        }
        Ok(())
    })?;
    Ok(())
}

/// Seconds of processors during a round.
struct Used {
    agents: f64,
    sessions: f64,
    /// Everything on this machine, pgbench as well.
    all: f64,
}

/// What the agents, and the servers' processes that serve them, use during a round.
fn account(cluster: &Cluster, node: &Node) -> Result<Used> {
    let before = (agents(cluster)?, sessions(cluster)?, cpu::machine()?);
    round(cluster, node)?;
    let mut used = Used {
        agents: agents(cluster)? - before.0,
        sessions: 0.0,
        all: cpu::machine()? - before.2,
    };
    for (pid, now) in sessions(cluster)? {
        used.sessions += now - before.1.get(&pid).copied().unwrap_or(0.0);
    }
    Ok(used)
}

fn agents(cluster: &Cluster) -> Result<f64> {
    let agents = cluster.nodes().iter();
    agents
        .map(|node| cpu::seconds(node.agent_pid()?))
        .sum::<Result<f64>>()
}

/// What each session of an agent has used so far.
fn sessions(cluster: &Cluster) -> Result<BTreeMap<u32, f64>> {
    const SESSIONS: &str = "select pid from pg_stat_activity where application_name = 'pgaa-agent'";
    let mut used = BTreeMap::new();
    for node in cluster.nodes() {
        for pid in node.sql(SESSIONS)?.lines() {
            let pid: u32 = pid.parse()?;
            // It may have ended just now.
            if let Ok(seconds) = cpu::seconds(pid) {
                used.insert(pid, seconds);
            }
        }
    }
    Ok(used)
}

/// A load that conflicts would measure how conflicts are resolved and logged. (Each edge logs one
/// while it is made: the first heartbeat replaces one that was never sent.)
fn no_conflicts(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        for entry in fs::read_dir(node.data_directory().join("log"))? {
            // Cut values may leave half a character behind.
            let log = String::from_utf8_lossy(&fs::read(entry?.path())?).into_owned();
            let of_the_load = |line: &&str| {
                line.contains("\"CONFLICT: ") && line.contains("relation public.pgbench")
            };
            if let Some(line) = log.lines().find(of_the_load) {
                bail!("{} has logged a conflict: {line}", node.name());
            }
        }
    }
    Ok(())
}

fn pgbench(node: &Node, arguments: &[&str]) -> Result<String> {
    let mut command = as_server(format!("{SERVER_BIN}/pgbench"));
    command
        .arg("-h")
        .arg(node.socket_directory())
        .args(["-p", "5432", "-U", "postgres"]);
    run(command.args(arguments).arg(DATABASE))
}

/// The mean, and its standard error.
pub fn mean(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0) / count).sqrt())
}

/// Transactions per second of all rounds without agents.
fn speed(blocks: &[Block]) -> f64 {
    let all: f64 = blocks.iter().flat_map(|block| block.without).sum();
    all / (2 * blocks.len()) as f64
}
