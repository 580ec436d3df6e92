//! The agent at rest, and `status` as a whole process.

use crate::{median, report};
use anyhow::{Context, Result, ensure};
use pgaa_agent::clock::Clocks;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::{clean, output};
use pgaa_tests::node::Node;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// Long enough for several rounds of everything that happens periodically.
const REST: Duration = Duration::from_secs(30);

/// How often `status` is run.
const ROUNDS: usize = 50;

/// Measures and reports.
pub fn measure(cluster: &Cluster) -> Result<()> {
    status_as_process(cluster)?;
    // Reads of `status` are over; what is left is the agent's own work.
    let before = cluster
        .nodes()
        .iter()
        .map(cpu_seconds)
        .collect::<Result<Vec<_>>>()?;
    sleep(REST);
    let after = cluster
        .nodes()
        .iter()
        .map(cpu_seconds)
        .collect::<Result<Vec<_>>>()?;
    let busiest = before
        .iter()
        .zip(&after)
        .map(|(b, a)| a - b)
        .fold(0.0, f64::max);
    let percent = 100.0 * busiest / REST.as_secs_f64();
    report(
        "CPU of the busiest of 3 agents at rest",
        &format!("{percent:.2} % of a core"),
        "0.2 %",
    );
    let resident = cluster
        .nodes()
        .iter()
        .map(resident_mib)
        .collect::<Result<Vec<_>>>()?;
    let largest = resident.iter().fold(0.0_f64, |a, b| a.max(*b));
    report(
        "resident memory of the largest of 3 agents",
        &format!("{largest:.1} MiB"),
        "12 MiB",
    );
    Ok(())
}

fn status_as_process(cluster: &Cluster) -> Result<()> {
    let [node, ..] = cluster.nodes() else {
        return Ok(());
    };
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let mut command = clean(node.agent_program());
        command
            .arg("--socket")
            .arg(node.agent_socket())
            .arg("status");
        let clocks = Clocks::start();
        let start = clocks.wall_us();
        let output = output(&mut command)?;
        times.push((clocks.wall_us() - start) as f64 / 1000.0);
        ensure!(
            matches!(output.status.code(), Some(0..=2)),
            "status ended with {}",
            output.status
        );
    }
    let longest = times.iter().fold(0.0_f64, |a, b| a.max(*b));
    let middle = median(&mut times);
    report(
        &format!("status as a whole process, median and longest of {ROUNDS}"),
        &format!("{middle:.1} / {longest:.1} ms"),
        "10 ms",
    );
    Ok(())
}

/// User and system time of the agent so far: fields 14 and 15 of proc(5)'s `stat`, in ticks.
fn cpu_seconds(node: &Node) -> Result<f64> {
    /// Linux reports in hundredths of a second on every architecture (`USER_HZ`).
    const TICKS_PER_SECOND: f64 = 100.0;
    let text = fs::read_to_string(format!("/proc/{}/stat", node.agent_pid()?))?;
    let (_, fields) = text.rsplit_once(')').context("no command name in stat")?;
    let ticks: Vec<f64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

fn resident_mib(node: &Node) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/status", node.agent_pid()?))?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
