//! `pgaa-agent verify`: nothing that is only on its way is called a difference, and everything
//! that is one is found, with what each node holds.

use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::verify::{Finding, Report, TableReport};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::load::{Load, Rate, Workload, create_tables};
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use std::thread::sleep;

/// Compares tables on `node`, with options before them; the exit code must fit the report.
pub fn verify(node: &Node, tables: &[&str]) -> Result<Report> {
    let mut arguments = vec!["verify", "-o", "json"];
    arguments.extend(tables);
    let output = node.ask_within(120, &arguments)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Report = serde_json::from_slice(&output.stdout).context(said)?;
    let code = match report.finding() {
        Finding::Equal => 0,
        Finding::Open => 1,
        Finding::Different => 2,
    };
    ensure!(output.status.code() == Some(code), "{}", output.status);
    Ok(report)
}

fn table<'a>(report: &'a Report, name: &str) -> Result<&'a TableReport> {
    let found = report.tables.iter().find(|table| table.table == name);
    found.with_context(|| format!("{name} was not compared: {report:?}"))
}

#[test]
fn rows_that_differ_are_found_and_rows_on_their_way_are_not() -> Result<()> {
    play(3, |cluster| {
        let nodes: [&Node; 3] = cluster.each()?;
        let [a, b, c] = nodes;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &nodes)?;
        a.sql("insert into public.shared select i, 1, 0 from generate_series(501, 31000) as i")?;
        // Little enough that two busy cores keep up: else this would measure the machine.
        let load = Load::start(&nodes, Workload::Own, Rate::PerSecond(25))?;
        let same = Load::start(&nodes, Workload::Same, Rate::PerSecond(25))?;
        sleep(seconds(3));
        // Whatever is on its way, and whichever type a column has.
        for (node, how) in [(a, None), (b, Some("--eager")), (c, Some("--eager"))] {
            let report = verify(node, how.as_slice())?;
            ensure!(report.nodes.first().is_some_and(|name| name == node.name()));
            ensure!(report.nodes.len() == 3 && report.tables.len() >= 8);
            let differing = report.tables.iter().filter(|t| !t.different.is_empty());
            let differing: Vec<&TableReport> = differing.collect();
            ensure!(differing.is_empty(), "{differing:?}");
            let failed = report.tables.iter().find(|t| t.problem.is_some());
            ensure!(failed.is_none(), "{failed:?}");
            ensure!(table(&report, "public.shared")?.rows >= 30_500);
        }
        spoil(a, b, c)?;
        found_under_load(a)?;
        load.stop()?;
        same.stop()?;
        cluster.eventually(
            seconds(60),
            "a comparison finds no more than what was done",
            |_| {
                let report = verify(b, &[])?;
                let open = report.tables.iter().find(|t| !t.undecided.is_empty());
                ensure!(open.is_none(), "{open:?}");
                let total: usize = report.tables.iter().map(|t| t.different.len()).sum();
                ensure!(total == 6, "{total}: {report:?}");
                Ok(())
            },
        )?;
        told_to_people(a)?;
        by_name(cluster, a)
    })
}

/// Lost, extra and different rows; keys of several columns; a type of the user's; a value that
/// only looks different as text.
fn spoil(a: &Node, b: &Node, c: &Node) -> Result<()> {
    b.sql_unsent("delete from public.shared where id = 30000")?;
    c.sql_unsent("insert into public.shared values (40000, 3, 3)")?;
    a.sql_unsent("update public.shared set value = -7 where id = 20000")?;
    b.sql_unsent("insert into public.accounts (region, code, node, balance) values (77, 'odd, \"one\"', 7, 1)",
    )?;
    c.sql_unsent("insert into public.customers (id, node, name, mood) values (-5, 9, 'x', 'low')")?;
    a.sql_unsent(
        "insert into public.customers (id, node, name, mood) values (-5, 9, 'x', 'high')",
    )?;
    // 1.0 and 1.00 are equal, and not the same.
    for (node, balance) in [(a, "1.0"), (b, "1.0"), (c, "1.00")] {
        node.sql_unsent(&format!(
                "insert into public.accounts (region, code, node, balance) values (78, 'n', 7, {balance})"
            ),
        )?;
    }
    Ok(())
}

fn found_under_load(a: &Node) -> Result<()> {
    let report = verify(a, &["--eager", "shared", "public.accounts", "customers"])?;
    ensure!(report.tables.len() == 3, "{report:?}");
    let held = |name: &str, key: &[&str]| -> Result<Vec<Option<char>>> {
        let table = table(&report, name)?;
        let found = table.different.iter().find(|row| row.key == key);
        let found = found.with_context(|| format!("{name}: {key:?} is not in {table:?}"))?;
        // The order of the nodes is a, b, c: a was asked.
        Ok(found.held.clone())
    };
    let (one, two) = (Some('A'), Some('B'));
    let shared = |key| held("public.shared", &[key]);
    ensure!(shared("30000")? == [one, None, one]);
    ensure!(shared("40000")? == [None, None, one]);
    ensure!(shared("20000")? == [one, two, two]);
    ensure!(held("public.accounts", &["77", "odd, \"one\""])? == [None, one, None]);
    ensure!(held("public.accounts", &["78", "n"])? == [one, one, two]);
    ensure!(held("public.customers", &["-5"])? == [one, None, two]);
    let total: usize = report.tables.iter().map(|t| t.different.len()).sum();
    ensure!(total == 6, "{total} differ: {report:?}");
    Ok(())
}

fn told_to_people(a: &Node) -> Result<()> {
    let output = a.ask(&["verify", "shared"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(2), "{text}");
    for expected in [
        "3 rows differ",
        "30000",
        "Which version is right",
        "-> pgaa-agent verify --repair --dry-run",
    ] {
        ensure!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    let events = a.order(&["events"])?;
    ensure!(events.contains("rows_differ"), "{events}");
    // What the advice says works.
    let output = a.ask(&["verify", "--repair", "--dry-run", "shared"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(2), "{text}");
    for expected in ["live at its author", "no row: majority", "deleted earlier"] {
        ensure!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    let mended = a.order(&["verify", "--repair", "shared"])?;
    ensure!(
        mended.contains("3 rows differed and were mended"),
        "{mended}"
    );
    Ok(())
}

fn by_name(cluster: &Cluster, a: &Node) -> Result<()> {
    cluster.eventually(seconds(30), "the rows are mended", |_| {
        let report = verify(a, &["shared"])?;
        let left = &table(&report, "public.shared")?.different;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    let kept = a.sql("select count(*) from pgaa.repairs where relation = 'public.shared'")?;
    ensure!(kept != "0", "what was there before is not kept");
    let report = verify(a, &["nowhere"])?;
    let problem = &table(&report, "nowhere")?.problem;
    ensure!(
        problem
            .as_deref()
            .is_some_and(|text| text.contains("pgaa-agent status"))
    );
    Ok(())
}

#[test]
fn a_member_that_is_away_is_left_out_and_the_rest_compared() -> Result<()> {
    play(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &[a, b, c])?;
        c.kill9_agent()?;
        cluster.eventually(seconds(30), "c is left out", |_| {
            let report = verify(a, &["shared"])?;
            ensure!(report.nodes == [a.name(), b.name()], "{report:?}");
            ensure!(report.finding() == Finding::Open, "{report:?}");
            let told = report.left_out.first().context("nobody is left out")?;
            ensure!(told.starts_with(c.name()), "{told}");
            Ok(())
        })?;
        Ok(())
    })
}
