//! Comparing a large table on three nodes against hashing it once on one of them.

use crate::{NEVER, median, overhead, report};
use anyhow::{Context, Result, bail, ensure};
use pgaa_agent::clock::Clocks;
use pgaa_core::verify::{Finding, Report};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::{as_server, output};
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// 545 MB.
const TABLE: &str =
    "create table public.bulk (id bigint primary key, a text, b int, c timestamptz)";
const FILL: &str = "insert into public.bulk
    select i, repeat(md5(i::text), 3), i % 1000, '2026-01-01'::timestamptz + i * interval '1 s'
      from generate_series(1, 3000000) as i";

/// The same hashes over the whole table, by one scan of one session.
const PLAIN: &str = "set max_parallel_workers_per_gather = 0;
    select count(*), bit_xor(hash_record_extended(t, 0)), bit_xor(hash_record_extended(t, 1))
      from public.bulk as t";

/// Rounds of each; the middle one counts.
const ROUNDS: usize = 3;

/// Between two looks at whether a comparison has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Blocks of four rounds of pgbench: with, without, without, with.
const BLOCKS: usize = 5;

/// Measures and reports.
pub fn compare() -> Result<()> {
    play(3, |cluster| {
        cluster.await_assembly(NEVER)?;
        cluster.everywhere(TABLE)?;
        cluster.eventually(NEVER, "the table is replicated", |c| {
            c.replicates(&["public.bulk"])
        })?;
        for node in cluster.nodes() {
            node.sql_unsent(FILL)?;
            node.sql_patiently("vacuum analyze public.bulk")?;
        }
        let node = cluster.nodes().first().context("no nodes")?;
        let (mut plain, mut eager, mut gentle) = (Vec::new(), Vec::new(), Vec::new());
        let mut at_once = Vec::new();
        for _ in 0..ROUNDS {
            plain.push(seconds(|| node.sql_patiently(PLAIN).map(drop))?);
            at_once.push(seconds(|| on_all(cluster))?);
            eager.push(seconds(|| verify(node, &["--eager"]))?);
            gentle.push(seconds(|| verify(node, &[]))?);
        }
        let plain = median(&mut plain);
        let line = |ours: f64| format!("{ours:.2} s / {plain:.2} s = {:.2}", ours / plain);
        report(
            "verify --eager of 3 million rows on 3 nodes / one scan",
            &line(median(&mut eager)),
            "1.5",
        );
        report("the same with rests", &line(median(&mut gentle)), "-");
        let floor = line(median(&mut at_once));
        report("one scan on each node at once / one scan", &floor, "-");
        effect(cluster, node)
    })
}

/// The same scan on every node at once: they share this machine's cores, so nothing that reads all
/// three copies takes less.
fn on_all(cluster: &Cluster) -> Result<()> {
    thread::scope(|scope| {
        let scans = cluster.nodes().iter();
        let scans: Vec<_> = scans
            .map(|node| scope.spawn(|| node.sql_patiently(PLAIN).map(drop)))
            .collect();
        scans.into_iter().try_for_each(|scan| match scan.join() {
            Ok(scanned) => scanned,
            Err(_) => bail!("a scan panicked"),
        })
    })
}

/// What a comparison with rests takes from an application on the node that was asked. The three
/// nodes share this machine's cores, so it counts three times here.
fn effect(cluster: &Cluster, node: &Node) -> Result<()> {
    overhead::fill(cluster, node)?;
    overhead::round(cluster, node)?;
    let mut ratios = Vec::new();
    for _ in 0..BLOCKS {
        let mut with = while_comparing(cluster, node)?;
        let without = overhead::round(cluster, node)? + overhead::round(cluster, node)?;
        with += while_comparing(cluster, node)?;
        ratios.push((with / without).ln());
    }
    let (ratio, error) = overhead::mean(&ratios);
    report(
        &format!("pgbench while verify runs / without, {BLOCKS} blocks"),
        &format!("{:.3} ± {:.3}", ratio.exp(), ratio.exp() * error),
        "0.950 (± is a standard error)",
    );
    Ok(())
}

/// Transactions per second of a round during which comparisons run one after the other.
fn while_comparing(cluster: &Cluster, node: &Node) -> Result<f64> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let comparing = scope.spawn(|| -> Result<()> {
            let mut running = comparing(node).spawn()?;
            while !over.load(Ordering::Relaxed) {
                if running.try_wait()?.is_some() {
                    running = comparing(node).spawn()?;
                }
                thread::sleep(LOOK);
            }
            // The agent ends a comparison that nobody waits for.
            running.kill()?;
            running.wait()?;
            Ok(())
        });
        let speed = overhead::round(cluster, node);
        over.store(true, Ordering::Relaxed);
        match comparing.join() {
            Ok(compared) => compared.and(speed),
            Err(_) => bail!("the comparison panicked"),
        }
    })
}

fn seconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let clocks = Clocks::start();
    work()?;
    Ok(clocks.mono().0 as f64 / 1000.0)
}

fn comparing(node: &Node) -> Command {
    let mut command = as_server(node.agent_program());
    command.arg("--socket").arg(node.agent_socket());
    command.args(["verify", "public.bulk", "-o", "json"]);
    command.stdout(Stdio::null());
    command
}

fn verify(node: &Node, options: &[&str]) -> Result<()> {
    let output = output(comparing(node).args(options).stdout(Stdio::piped()))?;
    let report: Report = serde_json::from_slice(&output.stdout)?;
    ensure!(report.finding() == Finding::Equal, "{report:?}");
    Ok(())
}
