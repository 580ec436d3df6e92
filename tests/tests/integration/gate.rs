//! Applications can't write to a node before it is ready, and status says who is missing.

use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Result, ensure};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::node::{APPLICATION, Node};
use pgaa_tests::scenario::play_unstarted;

#[test]
fn the_gate_opens_when_the_last_founder_is_there() -> Result<()> {
    play_unstarted(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        cluster.boot(&[a, b])?;
        cluster.eventually(seconds(30), "a names c as missing", |_| names_missing(a, c))?;
        for node in [a, b] {
            cluster.eventually(seconds(20), "the application's role exists", |_| {
                create_role(node)
            })?;
            refused(node)?;
        }
        cluster.boot(&[c])?;
        cluster.eventually(seconds(30), "the role exists on c", |_| create_role(c))?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        for node in [a, b, c] {
            cluster.eventually(seconds(10), "the application is let in", |_| {
                node.application_sql("create temporary table t (i int)")
                    .map(drop)
            })?;
        }
        restart_keeps_it_open(cluster, a)
    })
}

fn names_missing(node: &Node, absent: &Node) -> Result<()> {
    let founding = node.status()?.founding;
    let missing = founding
        .map(|founding| founding.missing)
        .unwrap_or_default();
    let address = absent.address().to_string();
    ensure!(
        missing.iter().any(|entry| entry.contains(&address)),
        "missing are {missing:?}, and not {address}"
    );
    Ok(())
}

fn create_role(node: &Node) -> Result<()> {
    node.sql(&format!(
        "do $$ begin
           if not exists (select from pg_roles where rolname = '{APPLICATION}') then
             create role {APPLICATION} login password '{APPLICATION}';
           end if;
         end $$"
    ))
    .map(drop)
}

/// The right password doesn't help, and the refusal comes from pg_hba.
fn refused(node: &Node) -> Result<()> {
    let said = match node.application_sql("select 1") {
        Ok(_) => String::from("let in"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(
        said.contains("pg_hba.conf"),
        "{}: the application was not refused: {said}",
        node.name()
    );
    Ok(())
}

/// An agent that starts again on a ready node doesn't shut out applications.
fn restart_keeps_it_open(cluster: &Cluster, node: &Node) -> Result<()> {
    node.stop_agent()?;
    node.application_sql("select 1")?;
    node.start_agent()?;
    cluster.eventually(seconds(30), "the restarted agent is ready", |c| {
        node.application_sql("select 1")?;
        c.assembled()
    })?;
    Ok(())
}
