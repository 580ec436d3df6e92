//! Nodes that change, delete and insert again each other's rows hold the same rows in the end.

use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::verify::{Finding, Report};
use pgaa_tests::load::{CROSSED, Difference, Load, Rate, Workload, create_tables, difference};
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use std::thread::sleep;

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

/// Both kinds of load on every node.
fn load(nodes: &[&Node]) -> Result<(Load, Load)> {
    let rate = Rate::PerSecond(100);
    Ok((
        Load::start(nodes, Workload::Crossed, rate)?,
        Load::start(nodes, Workload::Reborn, rate)?,
    ))
}

#[test]
fn rows_that_a_cut_has_set_apart_are_mended_by_a_command() -> Result<()> {
    play(3, |cluster| {
        let nodes: [&Node; 3] = cluster.each()?;
        let [a, b, c] = nodes;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        create_tables(cluster, &nodes)?;
        let (crossed, reborn) = load(&nodes)?;
        sleep(seconds(3));
        cluster.net.cut(a.name(), b.name())?;
        sleep(seconds(10));
        cluster.net.heal()?;
        sleep(seconds(5));
        crossed.stop()?;
        reborn.stop()?;
        sleep(seconds(5));
        eprintln!("before: {:?}", differences(&nodes)?);
        let output = c.ask(&["verify", "--repair", "--dry-run", "crossed", "reborn"])?;
        eprintln!("{}", String::from_utf8_lossy(&output.stdout));
        let output = c.ask(&["verify", "--repair", "-o", "json", "crossed", "reborn"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let report: Report = serde_json::from_slice(&output.stdout).context(said)?;
        ensure!(report.finding() == Finding::Equal, "{report:?}");
        equal(&nodes)
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
