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
        others_go_on(cluster, a, b)?;
        its_operator_gives_it_up(cluster, c)?;
        write_orders(c, 10)?;
        all_hold_the_same(cluster, 70)
    })
}

fn all_hold_the_same(cluster: &Cluster, count: usize) -> Result<()> {
    const ROWS: &str =
        "select count(*), md5(string_agg(o::text, ',' order by id)) from public.orders as o";
    cluster.eventually(RECOVERY_MAX, "all rows are equal", |_| {
        let first = cluster.nodes()[0].sql(ROWS)?;
        ensure!(first.starts_with(&format!("{count}|")), "{first}");
        for node in cluster.nodes() {
            let rows = node.sql(ROWS)?;
            ensure!(rows == first, "{} has {rows}, not {first}", node.name());
        }
        Ok(())
    })?;
    Ok(())
}

/// A row that no other node ever had.
const ONLY_HERE: &str = "7e57ab1e-0000-4000-8000-000000000001";

/// The way out: nothing goes without its operator, and what goes is kept in a file.
fn its_operator_gives_it_up(cluster: &Cluster, c: &Node) -> Result<()> {
    c.sql(&format!(
        "insert into public.orders values ('{ONLY_HERE}', 'c', 1)"
    ))?;
    // One that every node has, and only c's word would take away.
    c.sql(&format!(
        "delete from public.orders where ctid = (select min(ctid) from public.orders
         where node = 'c' and id <> '{ONLY_HERE}')"
    ))?;
    let told = c.status()?.findings;
    let way = told.iter().find(|f| f.code == "not_ready");
    let way = way.context("no finding says so")?;
    ensure!(way.command.contains("pgaa-agent rejoin c"), "{way:?}");
    ensure!(c.order(&["rejoin", "a"]).is_err(), "another was named");
    let member = &cluster.nodes()[0];
    ensure!(
        member.order(&["rejoin", member.name()]).is_err(),
        "a member gave itself up"
    );
    is_apart(c)?;
    c.order(&["rejoin", "c"])?;
    cluster.eventually(RECOVERY_MAX, "c is a member again", Cluster::assembled)?;
    for node in cluster.nodes() {
        is_a_member_like_any(node)?;
    }
    let query = format!("select count(*) from public.orders where id = '{ONLY_HERE}'");
    ensure!(c.sql(&query)? == "0", "its own row is still there");
    its_row_is_in_the_export(c)?;
    its_deletes_are_nobodys(cluster, c)
}

/// What it deleted while it was set apart is no word about a row of the mesh.
fn its_deletes_are_nobodys(cluster: &Cluster, c: &Node) -> Result<()> {
    const OPEN: &str = "select (select count(*) from pgaa.suspects),
        (select count(*) from pgaa.deletes_known where since is not null)";
    cluster.eventually(RECOVERY_MAX, "c remembers its deletes from now on", |_| {
        let open = c.sql(OPEN)?;
        ensure!(open == "0|1", "{open} rows are open, and since when");
        Ok(())
    })?;
    let deleted = "select count(*) from pgaa.repairs where after is null";
    for node in cluster.nodes() {
        let mended = node.sql(deleted)?;
        ensure!(mended == "0", "{} has deleted {mended} rows", node.name());
    }
    Ok(())
}

/// Two edges each way, and nothing told of the past.
fn is_a_member_like_any(node: &Node) -> Result<()> {
    let slots =
        node.sql("select count(*) from pg_replication_slots where plugin = 'pglogical_output'")?;
    let subscriptions = node.sql("select count(*) from pglogical.subscription")?;
    ensure!(
        (slots.as_str(), subscriptions.as_str()) == ("2", "2"),
        "{} has {slots} slots and {subscriptions} subscriptions",
        node.name()
    );
    let findings = node.status()?.findings;
    let apart = findings.iter().find(|found| found.code == "rolled_back");
    ensure!(apart.is_none(), "{apart:?}");
    Ok(())
}

fn its_row_is_in_the_export(node: &Node) -> Result<()> {
    let findings = node.status()?.findings;
    let export = findings.iter().find(|found| found.code == "exported");
    let text = &export.context("no finding names the export")?.text;
    let file = text.rsplit(' ').next().unwrap_or_default();
    let restored = call(
        "/usr/lib/postgresql/15/bin/pg_restore",
        &["--data-only", "--table=orders", "--file=-", file],
    )?;
    ensure!(restored.contains(ONLY_HERE), "{file} lacks the row");
    Ok(())
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
