//! Write load on every node while something happens to the mesh, and the comparison of all rows
//! on all nodes afterwards.
//!
//! Must not know what happens to the mesh meanwhile.

use crate::cluster::Cluster;
use crate::command::{as_server, server_file};
use crate::node::{DATABASE, Node};
use crate::process::Daemon;
use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Where Debian keeps the server's programs.
const PGBENCH: &str = "/usr/lib/postgresql/15/bin/pgbench";

/// The tables, and the procedures that write into them.
const SCHEMA: &str = include_str!("sql/load_schema.sql");

/// The replicated tables of [`SCHEMA`] in which all rows must be equal, with their keys.
const TABLES: [(&str, &str); 8] = [
    ("customers", "id"),
    ("accounts", "region || '/' || code"),
    ("orders", "id"),
    ("documents", "key"),
    ("readings_early", "id"),
    ("readings_late", "id"),
    ("tickets", "id"),
    ("shared", "id"),
];

/// The replicated tables in which nodes change each other's rows, with their keys: equal only once
/// the row check has seen to them.
pub const CROSSED: [(&str, &str); 4] = [
    ("crossed", "id"),
    ("reborn", "region || '/' || code"),
    ("houses", "id"),
    ("tenants", "id"),
];

/// How long rows may take to be equal everywhere after the load. A bound for "never".
const EQUAL_MAX: Duration = Duration::from_secs(90);

/// Who changes which rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Each node changes only rows that it inserted.
    Own,
    /// All nodes change the same rows.
    Same,
    /// Rows are changed and deleted by other nodes right after their insert.
    Crossed,
    /// Keys are inserted, changed, deleted and inserted again by all nodes.
    Reborn,
    /// Rows with a secondary unique key, and rows that others refer to.
    Settled,
}

impl Workload {
    fn procedure(self) -> &'static str {
        match self {
            Workload::Own => "own",
            Workload::Same => "same",
            Workload::Crossed => "crossed",
            Workload::Reborn => "reborn",
            Workload::Settled => "settled",
        }
    }
}

/// How hard each node is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// This many transactions a second.
    PerSecond(u32),
    /// As many as it can take.
    Saturating,
}

/// Load on some nodes. It ends when this is dropped.
#[derive(Debug)]
pub struct Load {
    running: Vec<Daemon>,
}

/// Makes the tables on the nodes of a mesh, gives each node its own values of the identity, and
/// waits until the tables are replicated.
pub fn create_tables(cluster: &Cluster, nodes: &[&Node]) -> Result<()> {
    for node in nodes {
        node.sql(SCHEMA)?;
    }
    for node in nodes {
        node.order(&["sequences", "fix"])?;
    }
    let all = TABLES.iter().chain(&CROSSED);
    let names: Vec<String> = all.map(|(t, _)| format!("public.{t}")).collect();
    cluster.eventually(Duration::from_secs(30), "the tables are replicated", |_| {
        for node in nodes {
            let tables = node.status()?.tables;
            for name in &names {
                let there = tables.replicated.contains(name);
                ensure!(there, "{}: not {name}: {:?}", node.name(), tables.waiting);
            }
        }
        Ok(())
    })?;
    nodes[0]
        .sql("insert into public.shared select i, 0, 0 from generate_series(1, 500) as i")
        .map(drop)
}

impl Load {
    /// Begins to write on each node.
    pub fn start(nodes: &[&Node], workload: Workload, rate: Rate) -> Result<Load> {
        let mut load = Load {
            running: Vec::new(),
        };
        for node in nodes {
            load.add(node, workload, rate)?;
        }
        Ok(load)
    }

    /// Writes on one more node.
    pub fn add(&mut self, node: &Node, workload: Workload, rate: Rate) -> Result<()> {
        let number = node.address().octets()[3];
        let script = node.file(&format!("{}.pgbench", workload.procedure()));
        let call = format!("call harness.{}({number});\n", workload.procedure());
        server_file(&script, &call, 0o644)?;
        let mut command = as_server(PGBENCH);
        command
            .args(["-n", "-c", "2", "-T", "3600", "-f"])
            .arg(&script);
        if let Rate::PerSecond(rate) = rate {
            command.arg("-R").arg(rate.to_string());
        }
        command.args(["-p", "5432", "-U", "postgres", "-h"]);
        command.arg(node.socket_directory()).arg(DATABASE);
        let log = node.file("pgbench.log");
        self.running
            .push(Daemon::spawn("pgbench", &mut command, &log)?);
        Ok(())
    }

    /// Ends it.
    pub fn stop(self) -> Result<()> {
        drop(self);
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for client in self.running.drain(..) {
            // One whose server was killed has ended by itself.
            let _ = client.stop(Signal::SIGTERM);
        }
    }
}

/// What one table differs by between two nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// Rows of the first node that the second lacks.
    pub lost: usize,
    /// Rows of the second that the first has not.
    pub extra: usize,
    /// Rows that both have, with different content.
    pub stale: usize,
}

fn rows(node: &Node, table: &str, key: &str) -> Result<BTreeMap<String, String>> {
    let query = format!("select {key}, md5(t::text) from public.{table} as t");
    let text = node.sql(&query)?;
    text.lines()
        .map(|line| {
            let (key, digest) = line.rsplit_once('|').context("a row without a digest")?;
            Ok((key.to_owned(), digest.to_owned()))
        })
        .collect()
}

/// Compares one table on two nodes, row by row.
pub fn difference(
    reference: &Node,
    other: &Node,
    (table, key): (&str, &str),
) -> Result<Difference> {
    let expected = rows(reference, table, key)?;
    let found = rows(other, table, key)?;
    let lost = expected.keys().filter(|key| !found.contains_key(*key));
    let extra = found.keys().filter(|key| !expected.contains_key(*key));
    let stale = expected
        .iter()
        .filter(|(key, digest)| found.get(*key).is_some_and(|other| other != *digest));
    Ok(Difference {
        lost: lost.count(),
        extra: extra.count(),
        stale: stale.count(),
    })
}

/// All rows that the nodes acknowledged are everywhere, and all tables are equal everywhere.
pub fn equal(nodes: &[&Node]) -> Result<()> {
    let (first, others) = nodes.split_first().context("no nodes to compare")?;
    for node in others {
        for table in TABLES {
            let found = difference(first, node, table)?;
            ensure!(
                found == Difference::default(),
                "{} against {}, {}: {found:?}",
                node.name(),
                first.name(),
                table.0
            );
        }
    }
    let customers: BTreeSet<String> = rows(first, "customers", "id")?.into_keys().collect();
    for node in nodes {
        let text = node.sql("select id from harness.acknowledged")?;
        let missing = text.lines().filter(|id| !customers.contains(*id)).count();
        ensure!(
            missing == 0,
            "{missing} rows acknowledged by {} are nowhere",
            node.name()
        );
    }
    Ok(())
}

/// Waits for [`equal`]; the load has ended. Returns how many rows the largest table has.
pub fn await_equality(cluster: &Cluster, nodes: &[&Node]) -> Result<usize> {
    let what = "all rows are equal on all nodes";
    cluster.eventually(EQUAL_MAX, what, |_| equal(nodes))?;
    let count = nodes[0].sql("select count(*) from public.customers")?;
    Ok(count.parse()?)
}
