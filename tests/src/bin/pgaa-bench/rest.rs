//! The agent at rest, and `status` as a whole process.

use crate::{cpu, median, report};
use anyhow::{Context, Result, ensure};
use pgaa_agent::clock::Clocks;
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::{clean, output};
use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// Long enough for several rounds of everything that happens periodically.
const REST: Duration = Duration::from_secs(60);

/// How often `status` is run.
const ROUNDS: usize = 50;

/// Measures and reports.
pub fn measure(cluster: &Cluster) -> Result<()> {
    status_as_process(cluster)?;
    // Reads of `status` are over; what is left is the agent's own work.
    let before = cpu_of_all(cluster)?;
    let clocks = Clocks::start();
    sleep(REST);
    let passed = clocks.mono().0 as f64 / 1000.0;
    let after = cpu_of_all(cluster)?;
    let used = before.iter().zip(&after).map(|(b, a)| a - b);
    let busiest = used.fold(0.0, f64::max);
    report(
        "CPU of the busiest of 3 agents at rest",
        &format!("{:.2} % of a core", 100.0 * busiest / passed),
        "0.2 %",
    );
    memory(cluster)
}

fn cpu_of_all(cluster: &Cluster) -> Result<Vec<f64>> {
    let nodes = cluster.nodes().iter();
    nodes.map(|node| cpu::seconds(node.agent_pid()?)).collect()
}

/// The program's own pages are shared with whoever else runs it, and can be dropped and read
/// again; what the agent has written can't.
fn memory(cluster: &Cluster) -> Result<()> {
    let mut largest = (0.0, String::new());
    for node in cluster.nodes() {
        let text = fs::read_to_string(format!("/proc/{}/status", node.agent_pid()?))?;
        let resident = mib(&text, "VmRSS:")?;
        if resident > largest.0 {
            let (anonymous, file) = (mib(&text, "RssAnon:")?, mib(&text, "RssFile:")?);
            largest = (
                resident,
                format!("{resident:.1} = {anonymous:.1} + {file:.1} MiB"),
            );
        }
    }
    report(
        "resident memory of the largest, own + program's",
        &largest.1,
        "12 MiB",
    );
    Ok(())
}

/// A line of proc(5)'s `status`.
fn mib(status: &str, name: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let line = line.with_context(|| format!("no {name}"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
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
