//! The row check: nodes that change, delete and insert again each other's rows hold the same rows
//! in the end, whatever came between them, untouched by hand.

use crate::verify::verify;
use crate::{ASSEMBLY_MAX, RECOVERY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::verify::{Finding, OrphanRows, Report};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::load::{
    CROSSED, Difference, Load, Rate, Workload, await_equality, create_tables, difference,
};
use pgaa_tests::node::Node;
use pgaa_tests::scenario::{play, play_unstarted};
use std::thread::sleep;
use std::time::Duration;

/// How long rows may take to be equal after all is healed and nobody writes. A bound for "never".
const EQUAL_MAX: Duration = Duration::from_secs(120);

/// How many rows of the crossed tables two nodes differ by.
fn differences(nodes: &[&Node]) -> Result<Vec<(String, Difference)>> {
    let mut found = Vec::new();
    for other in nodes.iter().skip(1) {
        for table in CROSSED {
            let difference = difference(nodes[0], other, table)?;
            if difference != Difference::default() {
                found.push((format!("{} on {}", table.0, other.name()), difference));
            }
        }
    }
    Ok(found)
}

fn equal(nodes: &[&Node]) -> Result<()> {
    let found = differences(nodes)?;
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

/// The rows of every node are the same, and every node says so.
fn clean(nodes: &[&Node]) -> Result<()> {
    equal(nodes)?;
    for node in nodes {
        let rows = node.status()?.rows;
        ensure!(rows.is_clean(), "{}: {rows:?}", node.name());
    }
    Ok(())
}

fn await_clean(cluster: &Cluster, nodes: &[&Node]) -> Result<()> {
    eprintln!("          after the load: {:?}", differences(nodes)?);
    cluster.eventually(EQUAL_MAX, "all rows are equal, untouched by hand", |_| {
        clean(nodes)
    })?;
    let mended = nodes[0].sql("select count(*) from pgaa.repairs")?;
    eprintln!("          {mended} rows were mended on {}", nodes[0].name());
    Ok(())
}

/// All kinds of load on a node.
fn add_load(load: &mut Vec<Load>, nodes: &[&Node]) -> Result<()> {
    for workload in [Workload::Crossed, Workload::Reborn] {
        load.push(Load::start(nodes, workload, Rate::PerSecond(100))?);
    }
    // Two rows with one value stop a stream for a second or two: a few of them, among many.
    load.push(Load::start(nodes, Workload::Settled, Rate::PerSecond(5))?);
    Ok(())
}

fn stop(load: Vec<Load>) -> Result<()> {
    load.into_iter().try_for_each(Load::stop)
}

#[test]
fn rows_that_a_cut_has_set_apart_are_mended() -> Result<()> {
    play(3, |cluster| {
        let nodes: [&Node; 3] = cluster.each()?;
        let [a, b, _] = nodes;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &nodes)?;
        let mut load = Vec::new();
        add_load(&mut load, &nodes)?;
        sleep(seconds(3));
        cluster.net.cut(a.name(), b.name())?;
        sleep(seconds(10));
        cluster.net.heal()?;
        sleep(seconds(5));
        stop(load)?;
        await_clean(cluster, &nodes)
    })
}

/// One node alone for a minute, on both sides of which everybody goes on writing.
#[test]
fn rows_that_a_minute_apart_has_changed_twice_are_mended() -> Result<()> {
    play(3, |cluster| {
        let nodes: [&Node; 3] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &nodes)?;
        let mut load = Vec::new();
        add_load(&mut load, &nodes)?;
        load.push(Load::start(&nodes, Workload::Own, Rate::PerSecond(20))?);
        sleep(seconds(3));
        cluster.net.isolate("c")?;
        sleep(seconds(60));
        cluster.net.heal()?;
        sleep(seconds(5));
        stop(load)?;
        await_clean(cluster, &nodes)?;
        await_equality(cluster, &nodes).map(drop)
    })
}

/// What was written with a wrong clock may win where it should not. But all nodes are equal, and
/// nothing that is later there is undone by a repair.
#[test]
fn rows_that_a_wrong_clock_has_ordered_are_the_same_everywhere() -> Result<()> {
    play_unstarted(3, |cluster| {
        let nodes: [&Node; 3] = cluster.each()?;
        let [a, b, c] = nodes;
        for node in nodes {
            node.shift_clock(0.0)?;
            node.configure_agent(&cluster.config(3))?;
        }
        cluster.boot(&nodes)?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &nodes)?;
        let mut load = Vec::new();
        add_load(&mut load, &nodes)?;
        sleep(seconds(2));
        b.shift_clock(60.0)?;
        sleep(seconds(4));
        cluster.net.cut(a.name(), b.name())?;
        sleep(seconds(5));
        cluster.net.heal()?;
        sleep(seconds(2));
        c.kill9_postmaster()?;
        sleep(seconds(1));
        c.start_postgres()?;
        cluster.eventually(RECOVERY_MAX, "the mesh is whole", Cluster::assembled)?;
        stop(load)?;
        await_clean(cluster, &nodes)?;
        cluster.eventually(seconds(60), "conflicts of that time are marked", |_| {
            let marked = "select count(*) from pgaa.conflict_history
                where not clock_trusted and remote_node_name = 'b'";
            let told = a.order(&["conflicts", "--pair", "a,b"])?;
            let marked = a.sql(marked)?;
            ensure!(marked != "0", "none is:\n{told}");
            ensure!(told.contains("untrusted clock"), "{told}");
            Ok(())
        })?;
        Ok(())
    })
}

/// A house is pulled down on one node while somebody moves in on another: both are right there.
#[test]
fn rows_that_refer_to_nothing_are_told() -> Result<()> {
    play(2, |cluster| {
        let nodes: [&Node; 2] = cluster.each()?;
        let [a, b] = nodes;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &nodes)?;
        a.sql("insert into public.houses values (1, 1), (2, 1)")?;
        a.sql("insert into public.tenants values (1, 'one', 1, 1)")?;
        cluster.eventually(seconds(30), "b has the rows", |_| equal(&nodes))?;
        cluster.net.cut("a", "b")?;
        a.sql("delete from public.houses where id = 2")?;
        b.sql("insert into public.tenants values (2, 'two', 2, 2)")?;
        cluster.net.heal()?;
        cluster.eventually(RECOVERY_MAX, "the node that deleted tells of it", |_| {
            let events = a.order(&["events"])?;
            let told = "1 rows of public.tenants refer to rows of public.houses that are gone";
            let words: Vec<&str> = events.split_whitespace().collect();
            ensure!(words.join(" ").contains(told), "{events}");
            Ok(())
        })?;
        await_clean(cluster, &nodes)?;
        let events = a.order(&["events"])? + &b.order(&["events"])?;
        ensure!(!events.contains("1 rows of public.orders"), "{events}");
        orphans_in_a_comparison(cluster, a, b)
    })
}

/// The rows are the same on both nodes, and a comparison tells what they lack all the same.
fn orphans_in_a_comparison(cluster: &Cluster, a: &Node, b: &Node) -> Result<()> {
    // On one node alone, beyond the last key of the other.
    a.sql_unsent("insert into public.tenants values (9, 'nine', 9, 1)")?;
    let told = |report: &Report| -> Result<Vec<OrphanRows>> {
        let orphans = report.orphans.as_ref().context("not looked for")?;
        ensure!(orphans.left_out.is_empty(), "{orphans:?}");
        Ok(orphans.found.clone())
    };
    let report = verify(b, &["tenants"])?;
    ensure!(report.finding() == Finding::Different, "{report:?}");
    let found = told(&report)?;
    let (rows, keys) = found
        .first()
        .map(|one| (&one.rows, &one.keys))
        .context("none")?;
    ensure!(rows == &[1, 2], "b and a have {rows:?}");
    ensure!(keys == &[["2"], ["9"]], "{keys:?}");
    a.sql_unsent("delete from public.tenants where id = 9")?;
    let report = verify(b, &[])?;
    ensure!(report.finding() == Finding::Open, "{report:?}");
    let expected = OrphanRows {
        table: "public.tenants".to_owned(),
        constraint: "tenants_house_fkey".to_owned(),
        parent: "public.houses".to_owned(),
        rows: vec![1, 1],
        more: false,
        keys: vec![vec!["2".to_owned()]],
    };
    let found = told(&report)?;
    ensure!(found == [expected], "{found:?}");
    let output = b.ask(&["verify"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in [
        "ORPHANS",
        "tenants_house_fkey",
        "rows refer to nothing: replication",
    ] {
        ensure!(text.contains(part), "no {part:?} in\n{text}");
    }
    a.sql("delete from public.tenants where id = 2")?;
    cluster.eventually(seconds(30), "nothing refers to nothing", |_| {
        let report = verify(b, &[])?;
        ensure!(report.finding() == Finding::Equal, "{report:?}");
        ensure!(told(&report)?.is_empty(), "{report:?}");
        Ok(())
    })?;
    Ok(())
}

/// TRUNCATE tells of no row, and empties whatever is there when it arrives: what another node has
/// written meanwhile is its author's again.
#[test]
fn tables_that_are_emptied_are_the_same_everywhere() -> Result<()> {
    play(2, |cluster| {
        let nodes: [&Node; 2] = cluster.each()?;
        let [a, b] = nodes;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &nodes)?;
        a.sql(
            "insert into public.houses select i, 1 from generate_series(1, 5) as i;
             insert into public.tenants select i, 'mail ' || i, i, 1 from generate_series(1, 5) as i",
        )?;
        cluster.eventually(seconds(30), "b has the rows", |_| equal(&nodes))?;
        cluster.net.cut("a", "b")?;
        a.sql("truncate public.reborn")?;
        a.sql("truncate public.houses cascade")?;
        b.sql("insert into public.reborn values (1, 'late', 2, 0)")?;
        b.sql("insert into public.houses values (7, 2)")?;
        cluster.net.heal()?;
        await_clean(cluster, &nodes)?;
        cluster.eventually(RECOVERY_MAX, "the mesh is whole", Cluster::assembled)?;
        for (table, expected) in [("reborn", "1"), ("houses", "1"), ("tenants", "0")] {
            let found = b.sql(&format!("select count(*) from public.{table}"))?;
            ensure!(found == expected, "{found} rows in {table}");
        }
        Ok(())
    })
}

#[test]
fn rows_that_restarts_and_crashes_have_set_apart_are_mended() -> Result<()> {
    play(3, |cluster| {
        let nodes: [&Node; 3] = cluster.each()?;
        let [a, b, c] = nodes;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &nodes)?;
        let mut load = Vec::new();
        add_load(&mut load, &[a, b])?;
        sleep(seconds(2));
        let mut on_c = Vec::new();
        add_load(&mut on_c, &[c])?;
        sleep(seconds(2));
        c.stop_postgres()?;
        sleep(seconds(2));
        c.start_postgres()?;
        sleep(seconds(3));
        b.kill9_agent()?;
        sleep(seconds(2));
        b.start_agent()?;
        c.kill9_postmaster()?;
        sleep(seconds(1));
        c.start_postgres()?;
        cluster.eventually(RECOVERY_MAX, "the mesh is whole", Cluster::assembled)?;
        sleep(seconds(3));
        stop(load)?;
        stop(on_c)?;
        await_clean(cluster, &nodes)
    })
}

#[test]
fn rows_that_a_join_has_set_apart_are_mended() -> Result<()> {
    play_unstarted(4, |cluster| {
        let [a, b, c, d] = cluster.each()?;
        for node in cluster.nodes() {
            node.configure_agent(&cluster.config(3))?;
        }
        let founders = [a, b, c];
        cluster.boot(&founders)?;
        let what = "three nodes are ready";
        cluster.eventually(ASSEMBLY_MAX, what, |cl| cl.assembled_among(&founders))?;
        create_tables(cluster, &founders)?;
        let mut load = Vec::new();
        add_load(&mut load, &founders)?;
        load.push(Load::start(&founders, Workload::Own, Rate::PerSecond(30))?);
        sleep(seconds(4));
        cluster.boot(&[d])?;
        let all = [a, b, c, d];
        cluster.eventually(EQUAL_MAX, "d has joined", |cl| cl.assembled_among(&all))?;
        add_load(&mut load, &[d])?;
        sleep(seconds(4));
        stop(load)?;
        await_clean(cluster, &all)?;
        await_equality(cluster, &all).map(drop)
    })
}

#[test]
fn rows_that_nobody_has_named_are_mended_by_a_command() -> Result<()> {
    play(3, |cluster| {
        let nodes: [&Node; 3] = cluster.each()?;
        let [a, b, c] = nodes;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &nodes)?;
        a.sql("insert into public.shared select i, 1, 0 from generate_series(501, 2000) as i")?;
        sleep(seconds(1));
        b.sql_unsent("delete from public.shared where id between 600 and 1200")?;
        c.sql_unsent("update public.shared set value = 7 where id between 1000 and 1500")?;
        let output = c.ask(&["verify", "--repair", "-o", "json", "shared"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let report: Report = serde_json::from_slice(&output.stdout).context(said)?;
        ensure!(report.finding() == Finding::Equal, "{report:?}");
        let digest = "select count(*) || md5(string_agg(s::text, ' ' order by id)) from shared s";
        let expected = a.sql(digest)?;
        for node in [b, c] {
            ensure!(node.sql(digest)? == expected, "{} differs", node.name());
        }
        ensure!(expected.starts_with("2000"), "{expected}");
        Ok(())
    })
}
