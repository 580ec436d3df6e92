//! A peer that is gone holds back WAL until the disk is about to fill; then its slot is given up,
//! and the others go on. When it is back it is synchronised anew.

use crate::resync::was_made_anew;
use crate::{ASSEMBLY_MAX, RECOVERY_MAX, seconds};
use anyhow::{Context, Result, ensure};
use pgaa_core::status::{EdgeRow, StatusReport};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::command::call;
use pgaa_tests::disk::SmallDisk;
use pgaa_tests::node::Node;
use pgaa_tests::scenario::play_unstarted;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// The disk of the WAL, MB.
const DISK_MB: u64 = 320;

/// What is written at once takes about two megabytes of WAL, and this long at most ten a second:
/// an application doesn't fill a real disk within the time of one look either.
const PACE: Duration = Duration::from_millis(200);

/// Puts the WAL of a node that doesn't run on a disk of its own.
fn small_disk(node: &Node) -> Result<SmallDisk> {
    let data = node.data_directory();
    let wal = data.with_file_name("wal");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let disk = SmallDisk::mount(&wal, DISK_MB)?;
    let pg_wal = text(&data.join("pg_wal"));
    call("cp", &["-a", &format!("{pg_wal}/."), &text(&wal)])?;
    call("rm", &["-r", &pg_wal])?;
    call("ln", &["-s", &text(&wal), &pg_wal])?;
    // By default a server keeps a gigabyte of WAL that nobody holds back.
    node.amend(
        "postgresql.conf",
        "max_wal_size = 64MB\nmin_wal_size = 32MB\ncheckpoint_timeout = 30s\n",
    )?;
    Ok(disk)
}

#[test]
fn a_dead_peer_does_not_fill_the_disk() -> Result<()> {
    play_unstarted(3, |cluster| {
        let [a, b, c] = cluster.each()?;
        let _disk = small_disk(a)?;
        cluster.boot(&[a, b, c])?;
        cluster.await_assembly(ASSEMBLY_MAX)?;
        cluster.everywhere("create table public.bulk (id uuid primary key, load text not null)")?;
        cluster.eventually(seconds(30), "public.bulk is replicated by all", |cluster| {
            cluster.replicates(&["public.bulk"])
        })?;
        c.stop_agent()?;
        c.stop_postgres()?;
        let warned = write_until_given_up(a)?;
        ensure!(warned, "{} gave up a slot without a warning", a.name());
        told(a, c)?;
        others_go_on(cluster, a, b)?;
        cluster.eventually(seconds(30), "the WAL that was held back is gone", |_| {
            room(a)
        })?;
        c.start_postgres()?;
        c.start_agent()?;
        was_made_anew(cluster, c)?;
        cluster.eventually(RECOVERY_MAX, "c holds what a and b hold", |_| {
            let count = |node: &Node| node.sql("select count(*) from public.bulk");
            let (on_a, on_c) = (count(a)?, count(c)?);
            ensure!(on_a == on_c, "{on_a} rows on a, {on_c} on c");
            Ok(())
        })?;
        Ok(())
    })
}

/// Writes until the event is there. Returns whether status warned before.
fn write_until_given_up(node: &Node) -> Result<bool> {
    let mut warned = false;
    // Several times what the disk holds.
    for _ in 0..DISK_MB {
        node.sql(
            "insert into public.bulk select gen_random_uuid(), load from generate_series(1, 1000),
             lateral (select string_agg(md5(random()::text), '') as load
                        from generate_series(1, 50)) as l",
        )
        .context("the provider does not go on serving")?;
        let codes = |status: &StatusReport| -> Vec<String> {
            status.findings.iter().map(|f| f.code.clone()).collect()
        };
        let codes = codes(&node.status()?);
        warned |= codes
            .iter()
            .any(|code| code == "slot_retains" || code == "slot_alarm");
        if node
            .order(&["events", "-o", "json"])?
            .contains("slot_given_up")
        {
            return Ok(warned);
        }
        sleep(PACE);
    }
    anyhow::bail!("{} gave up no slot", node.name())
}

/// The event names the peer, the bytes, and how full the disk was.
fn told(provider: &Node, subscriber: &Node) -> Result<()> {
    let events = provider.order(&["events"])?;
    let line = events
        .lines()
        .find(|line| line.contains("was given up"))
        .with_context(|| format!("no event of what was given up in\n{events}"))?;
    let name = format!("the slot of {}", subscriber.name());
    ensure!(line.contains(&name), "whose slot? {line}");
    let row = edge(&provider.status()?, provider, subscriber)?;
    ensure!(
        row.retained_bytes.is_none(),
        "a slot that is gone holds back {row:?}"
    );
    Ok(())
}

fn edge(status: &StatusReport, provider: &Node, subscriber: &Node) -> Result<EdgeRow> {
    let node = |wanted: &Node| {
        let member = status.members.iter().find(|m| m.name == wanted.name());
        member.map(|member| member.node).context("no such member")
    };
    let (provider, subscriber) = (node(provider)?, node(subscriber)?);
    let row = status
        .edges
        .iter()
        .find(|edge| edge.provider == provider && edge.subscriber == subscriber);
    row.cloned().context("no such edge")
}

fn others_go_on(cluster: &Cluster, a: &Node, b: &Node) -> Result<()> {
    let count = |node: &Node| node.sql("select count(*) from public.bulk");
    a.sql("insert into public.bulk values (gen_random_uuid(), 'after')")?;
    b.sql("insert into public.bulk values (gen_random_uuid(), 'after')")?;
    cluster.eventually(RECOVERY_MAX, "a and b hold the same rows", |_| {
        let (on_a, on_b) = (count(a)?, count(b)?);
        ensure!(on_a == on_b, "{on_a} rows on a, {on_b} on b");
        Ok(())
    })?;
    Ok(())
}

fn room(node: &Node) -> Result<()> {
    let held = node.sql("select sum(size) / (1 << 20) from pg_ls_waldir()")?;
    let held: f64 = held.parse()?;
    ensure!(held < 200.0, "pg_wal still takes {held} MB");
    Ok(())
}
