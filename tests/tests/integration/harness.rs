//! The harness does what the scenarios trust it to do: cuts cut, kills kill, nothing is left.

use crate::seconds;
use anyhow::{Result, ensure};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::call;
use pgaa_tests::node::{APPLICATION, DATABASE, Node};
use pgaa_tests::scenario::play_unstarted;
use std::net::Ipv4Addr;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn cuts_and_kills_are_what_they_say() -> Result<()> {
    play_unstarted(2, |cluster| {
        let [a, b] = cluster.each()?;
        for node in [a, b] {
            node.start_postgres()?;
            answers(cluster, node)?;
            node.sql_in(
                "postgres",
                &format!("create role {APPLICATION} login password '{APPLICATION}'"),
            )?;
            node.sql_in("postgres", &format!("create database {DATABASE}"))?;
            node.sql_in("postgres", "alter system set listen_addresses = '*'")?;
            node.stop_postgres()?;
            node.start_postgres()?;
            answers(cluster, node)?;
        }
        lines_are_cut(cluster, a, b)?;
        addresses_change(cluster, a, b)?;
        servers_die_and_freeze(cluster, a)
    })
}

fn answers(cluster: &Cluster, node: &Node) -> Result<()> {
    let what = format!("the server of {} answers", node.name());
    cluster.eventually(seconds(20), &what, |_| {
        node.sql_in("postgres", "select 1").map(drop)
    })?;
    Ok(())
}

fn lines_are_cut(cluster: &Cluster, a: &Node, b: &Node) -> Result<()> {
    a.reaches(b)?;
    cluster.net.cut("a", "b")?;
    ensure!(
        a.reaches(b).is_err() && b.reaches(a).is_err(),
        "a cut line carries"
    );
    cluster.net.heal()?;
    a.reaches(b)?;
    b.reaches(a)?;
    cluster.net.cut_one_way("a", "b")?;
    // TCP needs both directions; the other one is seen by a datagram.
    ensure!(
        b.reaches(a).is_err(),
        "the answer came through a line that is cut"
    );
    ensure!(
        !datagram_arrives(cluster, a, b)?,
        "a datagram came through a line that is cut"
    );
    ensure!(
        datagram_arrives(cluster, b, a)?,
        "a one-way cut stops the other direction"
    );
    cluster.net.heal()?;
    cluster.net.isolate("b")?;
    ensure!(a.reaches(b).is_err(), "an isolated node is reached");
    cluster.net.heal()?;
    a.reaches(b)
}

/// Sends a datagram to a port where nobody listens; the receiving kernel counts it (`NoPorts`).
fn datagram_arrives(cluster: &Cluster, from: &Node, to: &Node) -> Result<bool> {
    let counted = || {
        call(
            "ip",
            &[
                "netns",
                "exec",
                &cluster.net.namespace(to.name()),
                "cat",
                "/proc/net/snmp",
            ],
        )
    };
    let before = counted()?;
    let send = format!("echo x > /dev/udp/{}/9", to.address());
    call(
        "ip",
        &[
            "netns",
            "exec",
            &cluster.net.namespace(from.name()),
            "bash",
            "-c",
            &send,
        ],
    )?;
    sleep(Duration::from_millis(100));
    let udp = |text: &str| {
        text.lines()
            .filter(|l| l.starts_with("Udp:"))
            .collect::<String>()
    };
    Ok(udp(&before) != udp(&counted()?))
}

fn addresses_change(cluster: &Cluster, a: &Node, b: &Node) -> Result<()> {
    let old = b.address();
    cluster.change_address(b, Ipv4Addr::new(10, 77, 0, 99))?;
    a.reaches(b)?;
    cluster.change_address(b, old)?;
    a.reaches(b)
}

fn servers_die_and_freeze(cluster: &Cluster, node: &Node) -> Result<()> {
    node.kill9_postmaster()?;
    ensure!(
        node.sql_in("postgres", "select 1").is_err(),
        "a dead server answers"
    );
    node.start_postgres()?;
    answers(cluster, node)?;
    node.freeze()?;
    let frozen = node.sql_in("postgres", "select 1");
    node.thaw()?;
    ensure!(frozen.is_err(), "a frozen server answers");
    answers(cluster, node)
}
