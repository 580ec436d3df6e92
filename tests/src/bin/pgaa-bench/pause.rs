//! Does a join hold up what its members apply of one another? Each of two members writes a row a
//! hundred times a second, and sees when the other's rows arrive.
//!
//! The joiner chooses its source among them, so both are watched, and the longer pause counts.

use crate::join::{BULK, fill, ready};
use crate::{NEVER, report};
use anyhow::{Context, Result, anyhow, ensure};
use pgaa_tests::cluster::Cluster;
use pgaa_tests::node::Node;
use std::thread::{ScopedJoinHandle, scope, sleep};
use std::time::Duration;

/// Rows that the joiner copies: the join lasts for some seconds.
const ROWS: u32 = 1_000_000;

/// How long is watched before the join.
const BEFORE: Duration = Duration::from_secs(8);

const PULSE: &str = "create table public.pulse (node text, n bigint, primary key (node, n))";

/// What watches is not replicated. Each look is a transaction: one that lasts would hold slots up.
const HARNESS: &str = "
create schema harness;
create table harness.stop (what text);
create procedure harness.pulse(self text) language plpgsql as $$
declare i bigint := 0;
begin
    while not exists (select from harness.stop where what = 'pulse') loop
        i := i + 1;
        insert into public.pulse values (self, i);
        commit;
        perform pg_sleep(0.01);
    end loop;
end $$;
create procedure harness.watch(self text, until text, inout pause_ms double precision)
language plpgsql as $$
declare
    newest bigint; seen bigint; at timestamptz := clock_timestamp();
begin
    pause_ms := 0;
    while not exists (select from harness.stop where what = until) loop
        select max(n) into newest from public.pulse where node <> self;
        if newest is distinct from seen then
            if seen is not null then
                pause_ms := greatest(pause_ms, extract(epoch from clock_timestamp() - at) * 1000);
            end if;
            seen := newest;
            at := clock_timestamp();
        end if;
        commit;
        perform pg_sleep(0.002);
    end loop;
end $$";

/// The longest pause before a join and during it, on the member where that was longer.
pub fn measure() -> Result<()> {
    let cluster = Cluster::prepare(3)?;
    let [a, b, late] = cluster.each()?;
    for node in [a, b, late] {
        node.configure_agent(&cluster.config(2))?;
    }
    cluster.boot(&[a, b])?;
    cluster.eventually(NEVER, "two nodes are a mesh", |c| {
        c.assembled_among(&[a, b])
    })?;
    for node in [a, b] {
        for statements in [BULK, PULSE, HARNESS] {
            node.sql(statements)?;
        }
    }
    let tables = ["public.bulk", "public.pulse"];
    cluster.eventually(NEVER, "the tables are replicated", |_| {
        for node in [a, b] {
            let replicated = node.status()?.tables.replicated;
            let there = tables
                .iter()
                .all(|table| replicated.iter().any(|t| t == table));
            ensure!(there, "{}: {replicated:?}", node.name());
        }
        Ok(())
    })?;
    a.sql_patiently(&fill(ROWS))?;
    let count = ROWS.to_string();
    cluster.eventually(NEVER, "the other has the rows", |_| {
        let rows = b.sql("select count(*) from public.bulk")?;
        ensure!(rows == count, "{rows}");
        Ok(())
    })?;
    let (before, during) = paused(&cluster, &[a, b], late)?;
    let value = format!("{during:.0} ms, {before:.0} ms before");
    report(
        "longest pause of apply on a member in a join",
        &value,
        "none",
    );
    Ok(())
}

/// Milliseconds before the join and during it.
fn paused(cluster: &Cluster, members: &[&Node], late: &Node) -> Result<(f64, f64)> {
    scope(|threads| {
        let call = |node: &'_ Node, call: &str| node.sql_patiently(&format!("call harness.{call}"));
        let each = |what: &'static str| -> Vec<ScopedJoinHandle<'_, Result<String>>> {
            let started = members.iter().map(|node| {
                let statement = what.replace("$1", node.name());
                threads.spawn(move || call(node, &statement))
            });
            started.collect()
        };
        let stop = |what: &str| -> Result<()> {
            let insert = format!("insert into harness.stop values ('{what}')");
            members
                .iter()
                .try_for_each(|node| node.sql(&insert).map(drop))
        };
        let pulses = each("pulse('$1')");
        let watch = || -> Result<f64> {
            let before = each("watch('$1', 'before', null)");
            sleep(BEFORE);
            stop("before")?;
            longest(before)
        };
        let before = watch();
        let during = each("watch('$1', 'during', null)");
        let joined = cluster.boot(&[late]).and_then(|()| ready(cluster, late));
        // Whatever came of it: the threads end only by this.
        stop("during")?;
        stop("pulse")?;
        let during = longest(during);
        over(pulses)?;
        joined?;
        Ok((before?, during?))
    })
}

fn ended(thread: ScopedJoinHandle<'_, Result<String>>) -> Result<String> {
    thread
        .join()
        .map_err(|_| anyhow!("a thread has panicked"))?
}

fn longest(threads: Vec<ScopedJoinHandle<'_, Result<String>>>) -> Result<f64> {
    let mut longest = 0.0_f64;
    for thread in threads {
        let said = ended(thread)?;
        let pause: f64 = said.parse().with_context(|| format!("watched: {said:?}"))?;
        ensure!(pause > 0.0, "nothing has arrived while it was watched");
        longest = longest.max(pause);
    }
    Ok(longest)
}

fn over(threads: Vec<ScopedJoinHandle<'_, Result<String>>>) -> Result<()> {
    threads
        .into_iter()
        .try_for_each(|thread| ended(thread).map(drop))
}
