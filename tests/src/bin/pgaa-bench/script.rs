//! The yardstick for formation: the same SQL from a plain script, one statement after the other,
//! with every subscription awaited before the next, as it is written in how-tos.
//!
//! Must not be made slower than such a script is: it polls every 20 ms, without fixed sleeps.

use crate::NEVER;
use anyhow::{Result, bail};
use pgaa_agent::clock::Clocks;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::node::{DATABASE, Node};
use std::thread::sleep;
use std::time::Duration;

/// What the servers need, written before their first start.
const SETTINGS: &str = "
listen_addresses = '*'
wal_level = logical
track_commit_timestamp = on
shared_preload_libraries = 'pglogical'
pglogical.conflict_resolution = last_update_wins
max_worker_processes = 40
max_wal_senders = 40
max_replication_slots = 40
";

/// Known since the minor releases of August 2026, and fatal for older ones.
const PLUGINS: &str = "output_plugin_libraries = 'pgoutput, test_decoding, pglogical_output'\n";

/// Writes settings and starts the servers; their start is no part of the comparison.
pub fn start_servers(cluster: &Cluster) -> Result<()> {
    cluster.nodes().iter().try_for_each(start_server)?;
    cluster.eventually(NEVER, "the script's servers answer", |c| {
        c.nodes()
            .iter()
            .try_for_each(|node| node.sql_in("postgres", "select 1").map(drop))
    })?;
    Ok(())
}

/// The same for one.
pub fn start_server(node: &Node) -> Result<()> {
    node.amend("postgresql.conf", SETTINGS)?;
    if node.server_knows("output_plugin_libraries")? {
        node.amend("postgresql.conf", PLUGINS)?;
    }
    node.amend("pg_hba.conf", "host all postgres 10.77.0.0/24 trust\n")?;
    node.start_postgres()
}

/// Makes the database and its pglogical node.
pub fn create_node(node: &Node) -> Result<()> {
    node.sql_in("postgres", &format!("create database {DATABASE}"))?;
    node.sql("create extension pglogical")?;
    let create = "select pglogical.create_node(node_name := $1, dsn := $2)";
    node.sql(
        &create
            .replace("$1", &quoted(node.name()))
            .replace("$2", &dsn(node)),
    )
    .map(drop)
}

/// Runs the script. Seconds.
pub fn run(cluster: &Cluster) -> Result<f64> {
    let clocks = Clocks::start();
    for node in cluster.nodes() {
        create_node(node)?;
    }
    for subscriber in cluster.nodes() {
        for provider in cluster
            .nodes()
            .iter()
            .filter(|node| node.name() != subscriber.name())
        {
            subscribe(subscriber, provider, &clocks)?;
        }
    }
    Ok(clocks.mono().0 as f64 / 1000.0)
}

fn subscribe(subscriber: &Node, provider: &Node, clocks: &Clocks) -> Result<()> {
    let name = quoted(&format!("{}_from_{}", subscriber.name(), provider.name()));
    subscriber.sql(&format!(
        "select pglogical.create_subscription(subscription_name := {name},
             provider_dsn := {}, replication_sets := '{{default}}', synchronize_structure := false,
             synchronize_data := false, forward_origins := '{{}}')",
        dsn(provider)
    ))?;
    let status = format!("select status from pglogical.show_subscription_status({name})");
    let start = clocks.mono();
    while subscriber.sql(&status)? != "replicating" {
        if clocks.mono().since(start) > NEVER {
            bail!("the script's subscription {name} never replicated");
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// How another server reaches this one.
pub fn dsn(node: &Node) -> String {
    quoted(&format!(
        "host={} port=5432 user=postgres dbname={DATABASE}",
        node.address()
    ))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
