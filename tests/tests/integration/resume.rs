//! A comparison that was broken off goes on where it was: rows that came apart in its earlier part
//! since then are not found, because that part is not hashed again.

use crate::{ASSEMBLY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::verify::Report;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use std::process::Output;
use std::thread;

/// Where a comparison is held, behind a range of 50,000 rows.
const RANGE: &str = "range_compared";

const ROWS: &str = "120000";

/// Makes a row of the table differ on `node`.
fn spoil(node: &Node, id: u32) -> Result<()> {
    let statement = format!("update public.big set value = -1 where id = {id}");
    node.sql_unsent(&statement).map(drop)
}

/// Compares, and ends or breaks off what takes part by `meanwhile` when the first range is done.
fn held_behind_a_range(
    cluster: &Cluster,
    a: &Node,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Output> {
    a.hold(RANGE)?;
    let output = thread::scope(|scope| {
        let asked = scope.spawn(|| a.ask(&["verify", "-o", "json", "big"]));
        let held = cluster.eventually(seconds(30), "a range is compared", |_| {
            ensure!(a.is_held(RANGE));
            Ok(())
        });
        let done = held.and_then(|_| meanwhile());
        a.let_go(RANGE)?;
        done?;
        asked
            .join()
            .ok()
            .context("the comparison can't be awaited")?
    })?;
    Ok(output)
}

fn report(output: &Output) -> Result<Report> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout).context(said)
}

/// The keys that differ, after a comparison of all rows.
fn differing(output: &Output) -> Result<Vec<String>> {
    let report = report(output)?;
    let table = report.tables.first().context("no table")?;
    ensure!(table.problem.is_none(), "{table:?}");
    ensure!(table.rows.to_string() == ROWS, "{} rows", table.rows);
    ensure!(report.nodes.len() == 2 && !report.resumable, "{report:?}");
    let keys = table.different.iter().map(|row| row.key.join(", "));
    Ok(keys.collect())
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_comparison_that_was_broken_off_goes_on_where_it_was() -> Result<()> {
    play(2, |cluster| {
        let [a, b] = cluster.each()?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        cluster.everywhere("create table public.big (id int primary key, value int not null)")?;
        cluster.eventually(seconds(30), "the table is replicated", |cluster| {
            cluster.replicates(&["public.big"])
        })?;
        a.sql(&format!(
            "insert into public.big select i, 0 from generate_series(1, {ROWS}) as i"
        ))?;
        cluster.eventually(seconds(60), "all rows are there", |_| {
            ensure!(b.sql("select count(*) from public.big")? == ROWS);
            Ok(())
        })?;
        spoil(b, 7)?;
        spoil(b, 110_000)?;
        nothing_to_go_on_with(a)?;
        the_agent_was_killed(cluster, a, b)?;
        a_member_was_away(cluster, a, b)?;
        of_its_own_accord(cluster, a, b)
    })
}

fn nothing_to_go_on_with(a: &Node) -> Result<()> {
    let output = a.ask(&["verify", "--resume"])?;
    let text = said(&output);
    ensure!(output.status.code() == Some(1), "{text}");
    ensure!(text.contains("no comparison was broken off"), "{text}");
    Ok(())
}

fn the_agent_was_killed(cluster: &Cluster, a: &Node, b: &Node) -> Result<()> {
    let output = held_behind_a_range(cluster, a, || a.kill9_agent())?;
    let text = said(&output);
    ensure!(output.status.code() == Some(3), "{text}");
    ensure!(text.contains("pgaa-agent verify --resume"), "{text}");
    spoil(b, 8)?;
    let kept = a.file("state/verify.json");
    let whole = std::fs::read(&kept)?;
    std::fs::write(&kept, "{\"wish\": ")?;
    a.start_agent()?;
    cluster.await_assembly(ASSEMBLY_MAX)?;
    let damaged = a.ask(&["verify", "--resume"])?;
    let text = said(&damaged);
    ensure!(damaged.status.code() == Some(1), "{text}");
    ensure!(text.contains("verify.json is damaged"), "{text}");
    std::fs::write(&kept, whole)?;
    let output = a.ask(&["verify", "--resume", "-o", "json"])?;
    ensure!(differing(&output)? == ["110000", "7"], "{output:?}");
    ensure!(output.status.code() == Some(2), "{output:?}");
    nothing_to_go_on_with(a)?;
    let output = a.ask(&["verify", "big", "-o", "json"])?;
    ensure!(differing(&output)? == ["110000", "7", "8"], "{output:?}");
    Ok(())
}

fn a_member_was_away(cluster: &Cluster, a: &Node, b: &Node) -> Result<()> {
    let output = held_behind_a_range(cluster, a, || b.kill9_agent())?;
    let broken = report(&output)?;
    let problem = broken.tables.first().and_then(|t| t.problem.as_ref());
    ensure!(problem.is_some() && broken.resumable, "{broken:?}");
    spoil(b, 9)?;
    cluster.eventually(seconds(30), "it is told who is away", |_| {
        let output = a.ask(&["verify", "--resume", "-o", "json"])?;
        let report = report(&output)?;
        let problem = report.tables.first().and_then(|t| t.problem.as_ref());
        let problem = problem.context("compared with nobody")?;
        ensure!(problem.contains("go on when it can"), "{problem}");
        ensure!(report.resumable && problem.contains(b.name()), "{report:?}");
        Ok(())
    })?;
    b.start_agent()?;
    cluster.await_assembly(ASSEMBLY_MAX)?;
    cluster.eventually(seconds(30), "the comparison goes on", |_| {
        let output = a.ask(&["verify", "--resume", "-o", "json"])?;
        ensure!(differing(&output)? == ["110000", "7", "8"], "{output:?}");
        Ok(())
    })?;
    Ok(())
}

/// The comparison of a whole table that the agent begins by itself goes on after a restart, too;
/// it mends what it finds.
fn of_its_own_accord(cluster: &Cluster, a: &Node, b: &Node) -> Result<()> {
    a.stop_agent()?;
    a.sql(
        "insert into pgaa.suspects (relation, digest, key, cut, named_by, named_at)
         values ('public.big', md5('[]false')::uuid, '{}', false, 'verify', now())",
    )?;
    a.hold(RANGE)?;
    a.start_agent()?;
    cluster.eventually(seconds(60), "a range is compared", |_| {
        ensure!(a.is_held(RANGE));
        Ok(())
    })?;
    a.kill9_agent()?;
    spoil(b, 10)?;
    a.let_go(RANGE)?;
    a.start_agent()?;
    cluster.eventually(seconds(60), "the table is compared", |_| {
        let left = a.sql("select count(*) from pgaa.suspects")?;
        ensure!(left == "0", "{left} named");
        Ok(())
    })?;
    let differing = "select string_agg(id::text, ' ' order by id) from big where value <> 0";
    let (here, there) = (a.sql(differing)?, b.sql(differing)?);
    ensure!(here != there, "the earlier part was hashed again");
    let output = a.ask(&["verify", "big", "-o", "json"])?;
    let found = report(&output)?;
    let keys = found.tables.iter().flat_map(|table| &table.different);
    let keys: Vec<&String> = keys.flat_map(|row| &row.key).collect();
    ensure!(keys == ["10"], "{keys:?}");
    Ok(())
}
