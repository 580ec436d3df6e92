//! What a join waits for, what it refuses, and what it leaves when it is given up.

use super::{JOIN_MAX, mesh, ready};
use crate::seconds;
use anyhow::{Context, Result, ensure};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::load::await_equality;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play_unstarted;

/// Has a joiner come to a point of the protocol, and stand still there?
fn held(cluster: &Cluster, joiner: &Node, point: &str) -> Result<()> {
    cluster.eventually(JOIN_MAX, &format!("the join has come to {point}"), |_| {
        ensure!(joiner.is_held(point), "not yet");
        Ok(())
    })?;
    Ok(())
}

fn refused(node: &Node, statement: &str) -> Result<()> {
    let error = node
        .sql(statement)
        .err()
        .with_context(|| format!("{}: {statement} was done during a join", node.name()))?;
    let text = format!("{error:#}");
    ensure!(
        text.contains("node c is joining the mesh") && text.contains("pgaa-agent status"),
        "{text}"
    );
    Ok(())
}

#[test]
fn the_schema_stays_as_it_is_while_a_node_joins() -> Result<()> {
    play_unstarted(3, |cluster| {
        let [a, b] = mesh(cluster, 2)?[..] else {
            anyhow::bail!("two founders are expected");
        };
        let [_, _, c] = cluster.each()?;
        c.hold("rows_copied")?;
        cluster.boot(&[c])?;
        held(cluster, c, "rows_copied")?;
        refused(a, "create table public.news (id int primary key)")?;
        refused(b, "alter table public.shared add note text")?;
        refused(b, "drop index public.orders_by_customer")?;
        a.sql("create temporary table mine (id int); drop table mine")?;
        c.let_go("rows_copied")?;
        ready(cluster, c)?;
        for node in [a, b, c] {
            node.sql("create table public.news (id int primary key)")?;
        }
        cluster.eventually(seconds(20), "the new table is replicated", |cluster| {
            cluster.replicates(&["public.news"])
        })?;
        Ok(())
    })
}

#[test]
fn a_joiner_that_is_gone_leaves_nothing() -> Result<()> {
    play_unstarted(3, |cluster| {
        let founders = mesh(cluster, 2)?;
        let [_, _, c] = cluster.each()?;
        c.hold("prepared")?;
        cluster.boot(&[c])?;
        held(cluster, c, "prepared")?;
        for node in &founders {
            let slots = node.sql(
                "select count(*) from pg_replication_slots where plugin = 'pglogical_output'",
            )?;
            ensure!(slots == "2", "{}: {slots} slots", node.name());
        }
        c.kill9_agent()?;
        c.kill9_postmaster()?;
        cluster.eventually(seconds(40), "what was made for it is dropped", |_| {
            for node in &founders {
                let slots = node.sql(
                    "select count(*) from pg_replication_slots where plugin = 'pglogical_output'",
                )?;
                ensure!(slots == "1", "{}: {slots} slots", node.name());
            }
            Ok(())
        })?;
        cluster.eventually(seconds(10), "the schema may change again", |_| {
            founders[0].sql("create table if not exists public.news (id int primary key)")?;
            Ok(())
        })?;
        // It comes back with what it had copied, and starts over.
        founders[1].sql("create table public.news (id int primary key)")?;
        c.let_go("prepared")?;
        c.start_postgres()?;
        c.start_agent()?;
        ready(cluster, c)?;
        let nodes: Vec<&Node> = cluster.nodes().iter().collect();
        await_equality(cluster, &nodes)?;
        Ok(())
    })
}

/// A member that has promised to keep the joiner's slot does so when the lease runs out; one that
/// has not drops it, and the joiner starts over.
#[test]
fn a_member_keeps_what_it_has_promised() -> Result<()> {
    play_unstarted(3, |cluster| {
        let founders = mesh(cluster, 2)?;
        let [_, _, c] = cluster.each()?;
        c.hold("committed")?;
        cluster.boot(&[c])?;
        held(cluster, c, "committed")?;
        c.kill9_agent()?;
        cluster.eventually(seconds(40), "both leases have run out", |_| {
            for node in &founders {
                let log = node.agent_log();
                ensure!(log.contains("lease_expired"), "not on {}", node.name());
            }
            Ok(())
        })?;
        let mut kept = Vec::new();
        for node in &founders {
            kept.push(node.sql(
                "select count(*) from pg_replication_slots where plugin = 'pglogical_output'",
            )?);
        }
        kept.sort();
        ensure!(kept == ["1", "2"], "the members have {kept:?} slots");
        c.let_go("committed")?;
        c.start_agent()?;
        ready(cluster, c)?;
        let nodes: Vec<&Node> = cluster.nodes().iter().collect();
        cluster.eventually(seconds(30), "the mesh is whole", |cluster| {
            cluster.assembled_among(&nodes)
        })?;
        await_equality(cluster, &nodes)?;
        Ok(())
    })
}

#[test]
fn everything_in_the_way_of_a_join_is_named() -> Result<()> {
    play_unstarted(3, |cluster| {
        for node in cluster.nodes() {
            node.amend("postgresql.conf", "max_prepared_transactions = 4")?;
        }
        let founders = mesh(cluster, 2)?;
        for node in &founders {
            node.sql(&format!(
                "begin; insert into harness.acknowledged values (-1); \
                 prepare transaction 'of_{}'",
                node.name()
            ))?;
        }
        // As after another release of the operating system was installed below the database.
        let collation = |version: &str| {
            let update = format!(
                "update pg_database set datcollversion = {version} where datname = current_database()"
            );
            founders
                .iter()
                .try_for_each(|node| node.sql(&update).map(drop))
        };
        collation("'0.9'")?;
        let [_, _, c] = cluster.each()?;
        cluster.boot(&[c])?;
        cluster.eventually(seconds(40), "c names all that is in its way", |_| {
            let findings = c.status()?.findings;
            let sorted = findings.iter().any(|finding| {
                finding.text.contains("collation version \"0.9\"")
                    && finding.command.contains("REFRESH COLLATION VERSION")
            });
            ensure!(sorted, "the collation is not named: {findings:?}");
            for node in &founders {
                let name = format!("of_{}", node.name());
                let told = findings.iter().any(|finding| {
                    finding.text.contains(&name) && finding.command.contains("PREPARED")
                });
                ensure!(told, "{name} is not named: {findings:?}");
            }
            Ok(())
        })?;
        for node in &founders {
            node.sql(&format!("rollback prepared 'of_{}'", node.name()))?;
        }
        collation("pg_database_collation_actual_version(oid)")?;
        ready(cluster, c)?;
        Ok(())
    })
}

#[test]
fn a_replacement_takes_the_place_of_a_dead_node() -> Result<()> {
    play_unstarted(4, |cluster| {
        let mut nodes = mesh(cluster, 3)?;
        let [.., d] = cluster.each::<4>()?;
        // The founder, at once: by then the others must hold the CA that was born on it.
        let founded = |node: &&Node| node.agent_log().contains("this node founded cluster");
        let founder = nodes.iter().position(founded);
        let dead = nodes.swap_remove(founder.context("nobody says that it founded")?);
        dead.kill9_agent()?;
        dead.kill9_postmaster()?;
        let mut config = cluster.config(3);
        config.replaces = Some(dead.name().to_owned());
        d.configure_agent(&config)?;
        cluster.boot(&[d])?;
        ready(cluster, d)?;
        nodes.push(d);
        cluster.eventually(seconds(30), "the replacement is in the mesh", |cluster| {
            cluster.assembled_among(&nodes)
        })?;
        await_equality(cluster, &nodes)?;
        Ok(())
    })
}
