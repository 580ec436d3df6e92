//! The row check: nodes that change, delete and insert again each other's rows hold the same rows
//! in the end, whatever came between them, untouched by hand.

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
