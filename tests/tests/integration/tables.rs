//! Tables come into the replication set by themselves, and what can't be replicated safely is a
//! critical warning with the command that helps.

use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::status::{Finding, Health, TableWaiting};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;

#[test]
fn tables_enter_the_set_when_all_nodes_have_them_alike() -> Result<()> {
    play(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        lacking_then_there(cluster, [a, b, c])?;
        differing_then_alike(cluster, [a, b, c])?;
        no_primary_key(cluster, a)?;
        plain_sequence(cluster)
    })
}

fn lacking_then_there(cluster: &Cluster, [a, b, c]: [&Node; 3]) -> Result<()> {
    const TABLE: &str = "create table public.items (id uuid primary key, name text)";
    a.sql(TABLE)?;
    b.sql(TABLE)?;
    cluster.eventually(seconds(20), "a says that c lacks public.items", |_| {
        let waiting = waiting(a, "public.items")?;
        ensure!(
            waiting.lacking.contains("c"),
            "lacking: {:?}",
            waiting.lacking
        );
        Ok(())
    })?;
    a.sql("insert into public.items values (gen_random_uuid(), 'before it was replicated')")?;
    c.sql(TABLE)?;
    cluster.eventually(seconds(20), "all replicate public.items", |c| {
        c.replicates(&["public.items"])
    })?;
    c.sql("insert into public.items values (gen_random_uuid(), 'after')")?;
    cluster.eventually(seconds(20), "a and b have c's row", |_| {
        for node in [a, b] {
            let found = node.sql("select count(*) from public.items where name = 'after'")?;
            ensure!(found == "1", "{}: {found}", node.name());
        }
        Ok(())
    })?;
    Ok(())
}

fn differing_then_alike(cluster: &Cluster, [a, b, c]: [&Node; 3]) -> Result<()> {
    const TABLE: &str = "create table public.parts (id uuid primary key, weight int)";
    a.sql(TABLE)?;
    b.sql(TABLE)?;
    c.sql("create table public.parts (id uuid primary key, weight text)")?;
    cluster.eventually(seconds(20), "a says that public.parts differs on c", |_| {
        let waiting = waiting(a, "public.parts")?;
        ensure!(
            waiting.differing.contains("c"),
            "differing: {:?}",
            waiting.differing
        );
        Ok(())
    })?;
    c.sql("alter table public.parts alter weight type int using weight::int")?;
    cluster.eventually(seconds(20), "all replicate public.parts", |c| {
        c.replicates(&["public.parts"])
    })?;
    Ok(())
}

fn no_primary_key(cluster: &Cluster, node: &Node) -> Result<()> {
    cluster.everywhere("create table public.log (line text)")?;
    cluster.eventually(
        seconds(20),
        "a table without primary key is critical",
        |_| critical(node, "no_primary_key", "public.log").map(drop),
    )?;
    let code = node.ask(&["status"])?.status.code();
    ensure!(
        code == Some(2),
        "status ended with {code:?}, not with 2 for critical"
    );
    cluster
        .everywhere("alter table public.log add id uuid primary key default gen_random_uuid()")?;
    cluster.eventually(seconds(20), "with a primary key it is replicated", |c| {
        c.replicates(&["public.log"])
    })?;
    Ok(())
}

fn plain_sequence(cluster: &Cluster) -> Result<()> {
    cluster.everywhere("create table public.tickets (id bigserial primary key, by_node text)")?;
    for node in cluster.nodes() {
        cluster.eventually(seconds(20), "a plain sequence is critical", |_| {
            let finding = critical(node, "plain_sequence", "public.tickets")?;
            ensure!(
                finding.command.contains("sequences fix"),
                "help is {:?}",
                finding.command
            );
            Ok(())
        })?;
        node.order(&["sequences", "fix"])?;
    }
    cluster.eventually(
        seconds(20),
        "the warning is gone and the table replicated",
        |c| {
            for node in c.nodes() {
                ensure!(
                    critical(node, "plain_sequence", "public.tickets").is_err(),
                    "still warned"
                );
            }
            c.replicates(&["public.tickets"])
        },
    )?;
    serial_keys_do_not_collide(cluster)
}

/// Every node inserts before it has seen the others' rows: with plain sequences all would take
/// the same keys.
fn serial_keys_do_not_collide(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let insert = "insert into public.tickets (by_node) select $1 from generate_series(1, 20)";
        node.sql(&insert.replace("$1", &format!("'{}'", node.name())))?;
    }
    let expected = (20 * cluster.nodes().len()).to_string();
    cluster.eventually(seconds(20), "every ticket is on every node", |c| {
        for node in c.nodes() {
            let count = node.sql("select count(*) from public.tickets")?;
            ensure!(
                count == expected,
                "{} has {count} tickets of {expected}",
                node.name()
            );
        }
        Ok(())
    })?;
    Ok(())
}

fn waiting(node: &Node, table: &str) -> Result<TableWaiting> {
    let tables = node.status()?.tables;
    let found = tables
        .waiting
        .into_iter()
        .find(|waiting| waiting.table == table);
    found.with_context(|| format!("{table} is not listed as waiting: {:?}", tables.replicated))
}

fn critical(node: &Node, code: &str, about: &str) -> Result<Finding> {
    let report = node.status()?;
    let findings: Vec<String> = report
        .findings
        .iter()
        .map(|f| format!("{} {}", f.code, f.text))
        .collect();
    let wanted = |finding: &Finding| {
        finding.code == code
            && finding.severity == Health::Critical
            && finding.text.contains(about.trim_start_matches("public."))
    };
    let found = report.findings.into_iter().find(wanted);
    found.with_context(|| format!("{}: no {code} for {about} among {findings:?}", node.name()))
}
